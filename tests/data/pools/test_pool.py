"""hpslib.data.pools.pool: what is written reads back gathered by prompt; every malformed pool is refused by file and
row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from full_disk import no_room
from release_files import random_image, refusal

from hpslib.data.groups import flatten_groups
from hpslib.data.pools.pool import POOL_COLUMNS, read_pool, write_pool


@pytest.fixture
def pool(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, list[str], list[bytes]]:
    prompts = ["a cat", "a dog", "a cat", 'a "fox"', "a dog", "a cat"]
    images = [random_image(rng) for _ in prompts]
    return write_pool(tmp_path / "pool.parquet", prompts, range(6), images, step=8, cfg=3.0), prompts, images


def test_images_are_gathered_by_prompt_in_order_of_first_appearance(pool) -> None:
    path, prompts, images = pool
    groups = read_pool(path)
    assert groups["prompt"] == ["a cat", "a dog", 'a "fox"']
    for group in groups:
        assert [i["bytes"] for i in group["images"]] == [b for p, b in zip(prompts, images) if p == group["prompt"]]
    assert groups["seed"] == [[0, 2, 5], [1, 4], [3]]
    assert groups["step"][0] == [8, 8, 8] and groups["cfg"][2] == [3.0]
    images, texts, sizes = flatten_groups(groups)
    assert sizes == [3, 2, 1] and len(images) == len(texts) == 6


def test_the_columns_are_diffusiondbs_and_the_same_pool_gives_the_same_bytes(pool, tmp_path: Path) -> None:
    path, prompts, images = pool
    table = pq.read_table(path)
    assert tuple(table.column_names) == POOL_COLUMNS
    assert table["seed"].to_pylist() == list(range(6)) and set(table["cfg"].to_pylist()) == {3.0}
    again = write_pool(tmp_path / "again.parquet", prompts, range(6), images, step=8, cfg=3.0)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("column", "values", "part"),
    [
        ("prompt", ["a", "  "], "row 1 (from 0) has an empty prompt"),
        ("image", [None, b"x"], "row 0 (from 0) has an image without bytes"),
        ("image_name", ["a.png", None], "row 1 (from 0) has an image without a name"),
        ("seed", [1, None], "row 1 (from 0) has the seed None"),
        ("cfg", ["high", "low"], "row 0 (from 0) has the cfg 'high'"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, rng: np.random.Generator, column: str, values: list, part: str) -> None:
    columns = {name: [0, 0] for name in POOL_COLUMNS}
    columns |= {"image_name": ["0.png", "1.png"], "prompt": ["a", "b"], "image": [random_image(rng), random_image(rng)]}
    path = tmp_path / "bad.parquet"
    pq.write_table(pa.table(columns | {column: values}), path)
    assert f"{path}, {part}: correct or remove this row." in refusal(lambda: read_pool(path))


def test_what_is_no_pool_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    with pytest.raises(FileNotFoundError, match="name a packed pool"):
        read_pool(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(ValueError, match="not readable as parquet"):
        read_pool(tmp_path / "text.parquet")
    pq.write_table(pa.table({"prompt": ["a"]}), tmp_path / "few.parquet")
    with pytest.raises(
        ValueError, match="lacks the column image_name, seed, step, cfg, image: write it with write_pool"
    ):
        read_pool(tmp_path / "few.parquet")
    pq.write_table(pa.table({name: [] for name in POOL_COLUMNS}), tmp_path / "empty.parquet")
    with pytest.raises(ValueError, match=r"empty\.parquet holds no row: name a pool"):
        read_pool(tmp_path / "empty.parquet")


def test_writing_refuses_unequal_lengths_and_broken_images_and_keeps_the_old_file(pool, tmp_path: Path) -> None:
    path, prompts, images = pool
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"^6 prompts, 5 seeds and 6 images make no pool: give"):
        write_pool(path, prompts, range(5), images, step=8, cfg=3.0)
    with pytest.raises(ValueError, match=r"row 2 .* no intact image"):
        write_pool(path, prompts, range(6), [*images[:2], b"broken", *images[3:]], step=8, cfg=3.0)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_said_and_leaves_the_old_pool(pool) -> None:
    path, prompts, images = pool
    before = path.read_bytes()
    with no_room(100):
        text = refusal(lambda: write_pool(path, prompts, range(6), images, step=9, cfg=3.0), OSError)
    assert text.startswith(f"{path} cannot be written (") and text.endswith("make room or choose another place.")
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_the_parts_of_a_folder_are_checked_as_one_file_is(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a"]}), tmp_path / "part-00000-of-00001.parquet")
    assert f"{tmp_path} lacks the column image_name, seed" in refusal(lambda: read_pool(tmp_path))


@pytest.mark.parametrize(
    ("column", "values", "part"),
    [
        ("seed", [1.0, 0.5], "row 0 (from 0) has the seed 1.0"),
        ("seed", pa.array([1, 2**63], pa.uint64()), f"row 1 (from 0) has the seed {2**63}"),
        ("step", [True, False], "row 0 (from 0) has the step True"),
        ("cfg", [7.5, float("nan")], "row 1 (from 0) has the cfg nan"),
        ("cfg", [7.5, 1e300], "row 1 (from 0) has the cfg 1e+300"),
        ("prompt", [1, 2], "row 0 (from 0) has an empty prompt"),
        ("image", ["a", "b"], "row 0 (from 0) has an image without bytes"),
    ],
)
def test_numbers_that_no_pool_can_hold_are_named(
    tmp_path: Path, rng: np.random.Generator, column: str, values: Any, part: str
) -> None:
    columns: dict[str, Any] = {name: [0, 0] for name in POOL_COLUMNS}
    columns |= {"image_name": ["0.png", "1.png"], "prompt": ["a", "b"], "image": [random_image(rng), random_image(rng)]}
    path = tmp_path / "bad.parquet"
    pq.write_table(pa.table(columns | {column: values}), path)
    assert f"{path}, {part}: correct or remove this row." in refusal(lambda: read_pool(path))


@pytest.mark.parametrize(("seed", "step", "cfg"), [(2**63, 1, 7.0), (0.5, 1, 7.0), (0, 2**20, 7.0), (0, 1, "x")])
def test_a_pool_is_not_written_with_numbers_it_cannot_hold(
    tmp_path: Path, rng: np.random.Generator, seed: Any, step: Any, cfg: Any
) -> None:
    with pytest.raises(ValueError, match=r"do not fit into a pool|whole numbers"):
        write_pool(tmp_path / "a.parquet", ["a"], [seed], [random_image(rng)], step=step, cfg=cfg)
    assert not (tmp_path / "a.parquet").exists()
