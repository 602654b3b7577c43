"""Blur: whether an image has an edge anywhere (paper, section 5: blurred images are left out)."""

from __future__ import annotations

import numpy as np
from PIL import Image

__all__ = ["is_blurry"]


def is_blurry(image: Image.Image, threshold: float = 10.0) -> bool:
    """Whether neither neighbouring columns nor neighbouring rows ever differ by more than ``threshold`` grey levels.

    The released code measures the horizontal difference twice and with its sign; here both directions count,
    absolutely. Raises ``ValueError`` for an image of one column or one row.

    >>> is_blurry(Image.new("RGB", (8, 8), "grey"))
    True
    """
    grey = np.asarray(image.convert("L"), dtype=np.float32)
    if min(grey.shape) < 2:
        raise ValueError(
            f"an image of {grey.shape[1]} x {grey.shape[0]} pixels has no neighbours: give one of at least 2 x 2."
        )
    return bool(max(np.abs(np.diff(grey, axis=0)).max(), np.abs(np.diff(grey, axis=1)).max()) <= threshold)
