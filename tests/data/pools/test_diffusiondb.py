"""hpslib.data.pools.diffusiondb: a small release that the tests write, gathered by prompt and counted to the last
image."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from release_files import image_file, put, refusal

from hpslib.data.groups import flatten_groups
from hpslib.data.pools.diffusiondb import PoolCounts, read_diffusiondb
from hpslib.data.pools.pool import read_pool, write_pool
from hpslib.data.preferences import load_images


def release(folder: Path, rows: list[tuple[str, int, float]], absent: tuple[int, ...] = ()) -> tuple[Path, Path]:
    """Rows of (prompt, part, image_nsfw); image number k is k.png, unless it is absent."""
    n = len(rows)
    table = pa.table(
        {
            "image_name": [f"{k}.png" for k in range(n)],
            "prompt": [prompt for prompt, _, _ in rows],
            "part_id": pa.array([part for _, part, _ in rows], pa.uint16()),
            "seed": pa.array([2**32 - 1 - k for k in range(n)], pa.uint32()),
            "step": pa.array([50] * n, pa.uint16()),
            "cfg": pa.array([7.5] * n, pa.float32()),
            "sampler": pa.array([8] * n, pa.uint8()),
            "image_nsfw": pa.array([nsfw for _, _, nsfw in rows], pa.float32()),
        }
    )
    folder.mkdir(exist_ok=True)
    pq.write_table(table, folder / "metadata.parquet", row_group_size=3)
    for number in {part for _, part, _ in rows}:
        with zipfile.ZipFile(folder / f"part-{number:06d}.zip", "w") as file:
            for k, (_, part, _) in enumerate(rows):
                if part == number and k not in absent:
                    file.writestr(f"{k}.png", image_file(k))
            file.writestr(f"part-{number:06d}.json", "{}")
    return folder / "metadata.parquet", folder


def test_images_of_a_prompt_are_gathered_across_parts(tmp_path: Path, rng: np.random.Generator) -> None:
    rows = [("dog", 1, 0.1), ("cat", 1, 0.1), ("dog", 2, 0.1), ("cat", 2, 0.1), ("one", 2, 0.1), ("dog", 2, 0.1)]
    metadata, folder = release(tmp_path, rows)
    data, counts = read_diffusiondb(metadata, folder, parts=[1, 2], min_group=2)
    pool = read_pool(write_pool(tmp_path / "p.parquet", ["a"], [1], [image_file(1)], step=8, cfg=3.0))
    assert data.features == pool.features
    assert list(data["prompt"]) == ["dog", "cat"]
    assert [item["path"] for item in data[0]["images"]] == [
        f"part-00000{p}.zip/{k}.png" for p, k in ((1, 0), (2, 2), (2, 5))
    ]
    assert (
        data[0]["seed"] == [2**32 - 1, 2**32 - 3, 2**32 - 6]
        and data[1]["step"] == [50, 50]
        and data[1]["cfg"] == [7.5] * 2
    )
    assert [image.getpixel((0, 0))[0] for image in load_images(data[0], folder)] == [0, 2, 5]
    assert flatten_groups(data, folder)[2] == [3, 2]
    assert counts == PoolCounts(rows=6, images=5, groups=2, too_small=1)
    assert str(counts) == "5 of 6 images in 2 groups; left out: 1 in groups that are too small"


def test_every_image_left_out_is_counted_once(tmp_path: Path) -> None:
    rows = [(prompt, 1, 0.0) for prompt in ["a"] * 3 + ["b"] * 3 + ["c"] * 2 + ["  "] * 2 + ["d"] * 3]
    rows[0], rows[8] = ("a", 1, 2.0), ("  ", 1, 2.0)
    metadata, folder = release(tmp_path, rows, absent=(7,))
    data, counts = read_diffusiondb(metadata, folder, parts=[1], min_group=2, max_nsfw=2.0, max_groups=2)
    assert list(data["prompt"]) == ["a", "b"]
    assert counts == PoolCounts(13, images=5, groups=2, nsfw=2, blank=1, absent=1, too_small=1, beyond=3)
    assert counts.rows == 5 + 2 + 1 + 1 + 1 + 3
    assert str(counts) == (
        "5 of 13 images in 2 groups; left out: 2 by their NSFW score, 1 without a prompt, 1 absent from the parts, "
        "1 in groups that are too small, 3 in groups beyond max_groups"
    )


def test_an_image_that_is_named_twice_counts_once(tmp_path: Path) -> None:
    metadata, folder = release(tmp_path, [("a", 1, 0.0)] * 4)
    table = pq.read_table(metadata)
    pq.write_table(pa.concat_tables([table, table.slice(1, 2)]), metadata)
    data, counts = read_diffusiondb(metadata, folder, parts=[1])
    assert (counts.rows, counts.images, counts.twice) == (6, 4, 2) and len(data[0]["images"]) == 4
    assert str(counts).endswith("left out: 2 named twice")


def test_the_nsfw_limit_is_exclusive_and_an_unknown_score_is_left_out(tmp_path: Path) -> None:
    rows: list[Any] = [("a", 1, score) for score in (0.1, 0.3, 0.5, 2.0, None)]
    metadata, folder = release(tmp_path, rows)
    for limit, left in ((None, 5), (2.0, 3), (0.5, 2), (0.2, 1)):
        data, counts = read_diffusiondb(metadata, folder, parts=[1], min_group=1, max_nsfw=limit)
        assert (counts.images, counts.nsfw, len(data[0]["images"])) == (left, 5 - left, left)


def test_ids_come_from_the_prompt(tmp_path: Path) -> None:
    rows = [("b", 1, 0.0), ("a", 1, 2.0), ("a", 2, 0.0), ("b", 2, 0.0)]
    metadata, folder = release(tmp_path, rows)
    ids = [
        dict(zip(data["prompt"], data["id"]))
        for data, _ in (
            read_diffusiondb(metadata, folder, parts=[1, 2], min_group=1),
            read_diffusiondb(metadata, folder, parts=[2], min_group=1),
            read_diffusiondb(metadata, folder, parts=[2, 1, 1], min_group=1, max_nsfw=1.0),
        )
    ]
    assert ids[0] == ids[1] == ids[2] and len(set(ids[0].values())) == 2
    assert ids[0]["a"] == "ddb-ca978112ca1bbdca"  # sha256("a")


def test_unpacked_parts_are_folders(tmp_path: Path) -> None:
    metadata, folder = release(tmp_path, [("a", 1, 0.0), ("a", 2, 0.0)])
    with zipfile.ZipFile(folder / "part-000002.zip") as file:
        file.extractall(folder / "part-000002")
    (folder / "part-000002.zip").unlink()
    data, _ = read_diffusiondb(metadata, folder, parts=[1, 2], min_group=2)
    assert [item["path"] for item in data[0]["images"]] == ["part-000001.zip/0.png", "part-000002/1.png"]
    assert len(load_images(data[0], folder)) == 2


def test_absent_and_damaged_parts_are_refused(tmp_path: Path) -> None:
    metadata, folder = release(tmp_path, [("a", 1, 0.0), ("a", 2, 0.0)])
    text = refusal(lambda: read_diffusiondb(metadata, folder), FileNotFoundError)
    assert f"{folder} lacks part-000003.zip (998 of 1000 parts are absent): download them or pass" in text
    (folder / "part-000002.zip").write_bytes((folder / "part-000002.zip").read_bytes()[:-20])
    assert f"part-000002.zip of {folder} is damaged or cut off (" in refusal(
        lambda: read_diffusiondb(metadata, folder, parts=[2])
    )


def test_faults_of_the_table_and_the_arguments(tmp_path: Path) -> None:
    metadata, folder = release(tmp_path, [("a", 1, 0.0), ("b", 1, 0.0)])
    read = lambda **options: read_diffusiondb(metadata, folder, **{"parts": [1], **options})  # noqa: E731
    assert "has no prompt with 4 images among the 2 rows of 1 parts" in refusal(lambda: read())
    for options in ({"parts": []}, {"parts": [0]}, {"min_group": 0}, {"max_groups": 0}):
        assert "make no pool: use numbers from 1." in refusal(lambda options=options: read(**options))
    with zipfile.ZipFile(folder / "part-000009.zip", "w"):
        pass
    assert "has no row of the parts 9 to 9: name other parts." in refusal(lambda: read(parts=[9]))
    table = pq.read_table(metadata)
    pq.write_table(table.drop_columns(["image_nsfw", "cfg"]), metadata)
    assert "lacks the column cfg: name DiffusionDB's metadata.parquet." in refusal(lambda: read())
    assert "lacks the column cfg, image_nsfw: name" in refusal(lambda: read(max_nsfw=1.0))
    pq.write_table(table.set_column(1, "prompt", pa.array(["a", None])), metadata)
    assert "lacks a value of the column prompt in some row: download" in refusal(lambda: read())
    metadata.write_bytes(metadata.read_bytes()[:-9])
    assert "is not readable as parquet" in refusal(lambda: read())
    metadata.unlink()
    assert "does not exist" in refusal(lambda: read(), FileNotFoundError)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"seed": [0.5, 1.5, 2.5, 3.5]}, "the column 'seed' of the type double where a whole number was expected"),
        ({"seed": pa.array([0, 1, 2**63, 3], pa.uint64())}, "gives the image '2.png' the seed 9223372036854775808"),
        ({"cfg": [7.0, float("nan"), 7.0, 7.0]}, "gives the image '1.png' the cfg nan"),
        ({"cfg": [7.0, 7.0, 7.0, 1e300]}, "gives the image '3.png' the cfg 1e+300"),
        ({"prompt": [1, 2, 3, 4]}, "the column 'prompt' of the type int64 where text was expected"),
        ({"prompt": [1.5, float("nan"), 1.0, 1.0]}, "the column 'prompt' of the type double"),
        ({"step": ["x"] * 4}, "the column 'step' of the type string"),
        ({"image_nsfw": ["x"] * 4}, "the column 'image_nsfw' of the type string"),
        ({"image_name": [{"a": 1}] * 4}, "the column 'image_name' of the type struct"),
        ({"part_id": ["1"] * 4}, "the column 'part_id' of the type string"),
        ({"prompt": "utf-8"}, "row 2 (from 0) holds text that is not UTF-8"),
    ],
)
def test_a_table_of_another_shape_is_named(tmp_path: Path, changes: dict[str, Any], part: str) -> None:
    put(tmp_path / "part-000001", *(f"{k}.png" for k in range(4)))
    columns: dict[str, Any] = {"image_name": [f"{k}.png" for k in range(4)], "prompt": ["p"] * 4, "part_id": [1] * 4}
    columns |= {
        "seed": pa.array([0, 1, 2, 3], pa.uint64()),
        "step": [50] * 4,
        "cfg": [7.0] * 4,
        "image_nsfw": [0.1] * 4,
    }
    if changes == {"prompt": "utf-8"}:
        raw = pa.array([b"a", b"b", b"\xff", b"d"])
        changes = {"prompt": pa.StringArray.from_buffers(4, raw.buffers()[1], raw.buffers()[2])}
    file = tmp_path / "m.parquet"
    pq.write_table(pa.table(columns), file)
    dataset, _ = read_diffusiondb(file, tmp_path, parts=[1], max_nsfw=1.0)
    assert list(dataset["seed"]) == [[0, 1, 2, 3]], "uint64 seeds that an int64 can hold"
    pq.write_table(pa.table({**columns, **changes}), file)
    text = refusal(lambda: read_diffusiondb(file, tmp_path, parts=[1], max_nsfw=1.0))
    assert part in text and str(file) in text


def test_a_limit_that_leaves_nothing_is_named(tmp_path: Path) -> None:
    metadata, folder = release(tmp_path, [("a cat", 1, 0.9)] * 4)
    assert "4 were filtered by max_nsfw" in refusal(lambda: read_diffusiondb(metadata, folder, parts=[1], max_nsfw=0.1))
