"""How the tests and, with ``pytest --nbval``, the notebooks run. Works without nbval, too.

The notebooks' settings are forced, whatever the machine says, because their outputs are compared text by text: see
``hpslib.lessons.execution.KERNEL_ENVIRONMENT``. The tests take them only where nothing else is set, and may see a GPU.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hpslib.lessons.execution import KERNEL_ENVIRONMENT

SANITIZE = Path(__file__).parent / "tests" / "sanitize.cfg"
FOR_TESTS = ("OMP_NUM_THREADS", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TOKENIZERS_PARALLELISM")


def other_threads(count: str | None) -> dict[str, str]:
    """The variables for another number of threads, which ``$HPSLIB_THREADS`` asks for."""
    if count is None:
        return {}
    if not count.isdecimal() or int(count) < 1:
        raise pytest.UsageError(f"HPSLIB_THREADS is {count!r}: give a whole number of at least 1.")
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), count)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("numprocesses", None):  # several processes share the cores, and hand this on to their own
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        if config.getoption("nbval", False):
            os.environ.setdefault("HPSLIB_THREADS", "1")
    for name in FOR_TESTS:
        os.environ.setdefault(name, KERNEL_ENVIRONMENT[name])
    os.environ.setdefault("MPLBACKEND", "Agg")
    if config.getoption("nbval", False) or config.getoption("nbval_lax", False):
        os.environ.update(KERNEL_ENVIRONMENT | other_threads(os.environ.get("HPSLIB_THREADS")))  # kernels inherit it
        config.option.nbval_current_env = True
        config.option.nbval_cell_timeout = 86_400  # no limit that a slow machine could hit; 2,000 s are nbval's own
        config.option.nbval_sanitize_with = config.option.nbval_sanitize_with or str(SANITIZE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if hasattr(item, "output_timeout"):  # nbval's seconds to wait for a cell's output: 5 are few on a busy machine
            item.output_timeout = 60
