"""The browser that tests drive: the machine's Chromium, or playwright's own that ``make browser-test`` fetches."""

from __future__ import annotations

import os
import shutil

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None and os.environ.get("HPSLIB_BROWSER_TEST") != "1",
    reason="no Chromium on this machine: make browser-test installs one",
)
