"""The defaults of the statistics are part of every figure that was published with them: they do not move unnoticed."""

from __future__ import annotations

import inspect

import pytest

from hpslib.metrics import audit, distribution_intervals, distributions

DEFAULTS = [
    (distributions.kid, {"subset_size": 100, "n_subsets": 100, "seed": 0}),
    (
        distribution_intervals.distribution_table,
        {"subset_size": 100, "n_resamples": 200, "confidence": 0.95, "seed": 0},
    ),
    (distribution_intervals.draw_rejected, {"seed": 0}),
    (audit.audit, {"context_length": 77}),
]


@pytest.mark.parametrize(("function", "defaults"), DEFAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_the_documented_defaults_hold(function, defaults):
    parameters = inspect.signature(function).parameters
    assert {name: parameters[name].default for name in defaults} == defaults
