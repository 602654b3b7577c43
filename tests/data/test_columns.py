"""hpslib.data.columns: many rows at a time give what row by row gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets
from small_groups import dataset, group, png

from hpslib.data import columns
from hpslib.data.columns import absent_images, each_row, group_sizes, loose_images


def mixed(count: int = 50) -> Dataset:
    """Loose and embedded images, in groups of 0 to 4."""
    rows = [group(k, n=k % 5) for k in range(count)]
    for row in rows[::3]:
        for item in row["images"][::2]:
            item |= {"bytes": png(), "path": None}
    return dataset(rows)


def shapes(data: Dataset) -> list[Dataset]:
    """The set as it is, rows picked from it, of it twice over, and parts of it joined."""
    picked = data.select([7, 3, 3, 41, 0])
    return [data, picked, data.select(range(10, 20)), concatenate_datasets([picked, data]), data.select([])]


@pytest.mark.parametrize("rows_at_once", [1, 7, 1000])
def test_rows_sizes_and_loose_images_are_those_of_a_walk_row_by_row(
    monkeypatch: pytest.MonkeyPatch, rows_at_once: int
) -> None:
    monkeypatch.setattr(columns, "_ROWS", rows_at_once)
    for data in shapes(mixed()):
        rows = list(data)
        assert list(each_row(data)) == rows
        assert group_sizes(data).tolist() == [len(row["images"]) for row in rows]
        loose = [(k, i["path"]) for k, row in enumerate(rows) for i in row["images"] if i["bytes"] is None]
        assert list(loose_images(data)) == loose
    assert group_sizes(mixed()).dtype == np.int64


def test_embedded_images_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    embedded = dataset([group(k, images=[{"bytes": bytes(10_000), "path": None}] * 2) for k in range(40)])
    monkeypatch.setattr(columns, "_BYTES", 100_000)
    sizes: list[int] = []
    whole = Dataset.iter
    monkeypatch.setattr(Dataset, "iter", lambda self, size, *rest: sizes.append(size) or whole(self, size, *rest))
    assert len(list(each_row(embedded))) == 40 and sizes == [4]
    monkeypatch.setattr(columns, "_BYTES", 1)
    assert len(list(each_row(embedded))) == 40 and sizes == [4, 1], "one row at least"


def test_absent_images_lists_rows_and_paths(tmp_path: Path) -> None:
    data = dataset([group(0), group(1, images=[{"bytes": png(), "path": None}] * 2), group(2, n=2)])
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0_1.png").write_bytes(png())
    expected = [(0, "images/0_0.png"), (0, "images/0_2.png"), (2, "images/2_0.png"), (2, "images/2_1.png")]
    assert absent_images(data, tmp_path) == expected
    (tmp_path / "images" / "2_0.png").symlink_to("/etc/hostname")
    with pytest.raises(ValueError, match=r"^in f.json, row 2 .*through a link: copy"):
        absent_images(data, tmp_path, "f.json")
    with pytest.raises(ValueError, match=r"^the dataset, row 0 \(from 0\) is the file 'images/0_0.png' .* as root=\.$"):
        absent_images(data, None)
    with pytest.raises(ValueError, match=r"^in f.json, row 1 \(from 0\), the path '../b.png' has a '..' in it: write"):
        images = [{"bytes": None, "path": path} for path in ("a.png", "../b.png")]
        absent_images(dataset([group(0, n=2), group(1, images=images)]), tmp_path, "f.json")
