"""hpslib.data.images.blur: an edge in either direction, in images of any shape."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hpslib.data.images.blur import is_blurry


@pytest.mark.parametrize(("width", "height"), [(1, 50), (50, 1), (1, 2), (3, 700)])
def test_thin_images_are_judged_along_their_length(width: int, height: int) -> None:
    pixels = np.full((height, width), 100, dtype=np.uint8)
    assert is_blurry(Image.fromarray(pixels))
    pixels.flat[-1] = 111
    assert not is_blurry(Image.fromarray(pixels)), "a step of 11 grey levels at the very end"
    pixels.flat[-1] = 110
    assert is_blurry(Image.fromarray(pixels)) and not is_blurry(Image.fromarray(pixels), threshold=9.5)


def test_a_single_pixel_has_no_edge() -> None:
    assert is_blurry(Image.new("RGB", (1, 1)))


@pytest.mark.parametrize("row", [0, 255, 256, 510])
def test_an_edge_between_strips_is_seen(row: int) -> None:
    pixels = np.zeros((512, 8), dtype=np.uint8)
    pixels[row + 1 :] = 200
    assert not is_blurry(Image.fromarray(pixels))
