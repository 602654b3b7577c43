"""hpslib.data.groups: a preference set as flat lists, and back."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from hpslib.data.groups import flatten_groups, split_groups


def test_flatten_and_split_undo_each_other(rng: np.random.Generator, noise_images) -> None:
    def packed(image) -> dict:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": "x.png"}

    groups = [
        {"id": "0", "prompt": "a", "images": [packed(i) for i in noise_images[:2]]},
        {"id": "1", "prompt": "b", "images": [packed(i) for i in noise_images[2:6]]},
    ]
    images, prompts, sizes = flatten_groups(groups)
    assert prompts == ["a"] * 2 + ["b"] * 4 and sizes == [2, 4]
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(images, noise_images))
    assert [part.tolist() for part in split_groups(np.arange(6), sizes)] == [[0, 1], [2, 3, 4, 5]]


def test_loose_files_are_found_below_the_root(noise_images, tmp_path: Path) -> None:
    noise_images[0].save(tmp_path / "one.png")
    group = {"id": "0", "prompt": "a", "images": [{"bytes": None, "path": "one.png"}]}
    images, _, _ = flatten_groups([group], root=tmp_path)
    assert np.array_equal(np.asarray(images[0]), np.asarray(noise_images[0]))


def test_values_that_do_not_fill_the_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="3 values for groups of 5 images in all"):
        split_groups(np.zeros(3), [2, 3])
