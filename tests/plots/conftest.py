"""Figures are drawn without a screen, in the course's look, and closed after every test."""

from __future__ import annotations

import warnings

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from hpslib import plots


@pytest.fixture(autouse=True)
def closed_figures():
    """Warnings (a missing letter, a clash of layout) are errors: a notebook would print them."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with plt.rc_context():
            plots.theme()
            yield
    plt.close("all")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)
