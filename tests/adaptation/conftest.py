"""Six images with captions, as pixels and encoded for the tiny pipeline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_lora import CAPTIONS

from hpslib.adaptation.examples import Examples, encode_examples


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)


@pytest.fixture
def examples(tiny_pipe: Any, images: np.ndarray) -> Examples:
    return encode_examples(tiny_pipe, images, CAPTIONS)
