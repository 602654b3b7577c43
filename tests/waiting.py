"""Waiting for what another process does, but not for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wait(done: Callable[[], Any], seconds: float, told: str) -> Any:
    """What ``done`` gives once it is true; ``AssertionError`` with ``told`` where it never is within ``seconds``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = done()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(told)
