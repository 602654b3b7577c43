"""hpslib.adaptation.pool: the parts that are there, read alike by lesson 4 and by the command line."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest
from full_world import write_diffusiondb

import hpslib.adaptation.pool as module
from hpslib.adaptation.pool import diffusiondb_parts, parts_text, read_selection_pool, wanted_parts, whole_pool


def test_parts_are_folders_and_zips_with_content_by_their_number(tmp_path: Path) -> None:
    for name in (
        "part-000003.zip",
        "part-000003 (1).zip",
        "part-00004.zip",
        "part-000011.zip.part",
        "._part-000012.zip",
    ):
        (tmp_path / name).write_bytes(b"zip")
    (tmp_path / "part-000005.zip").touch()
    (tmp_path / "part-000001").mkdir()
    (tmp_path / "part-000001" / "a.webp").touch()
    (tmp_path / "part-000002").mkdir()
    assert diffusiondb_parts(tmp_path) == [1, 3] and diffusiondb_parts(tmp_path / "none") == []


def test_parts_are_written_and_read_alike() -> None:
    for numbers in ([1], [1, 2, 3], [1, 3, 4, 9], list(range(1, 1001)), [99_998, 99_999]):
        assert wanted_parts(parts_text(numbers)) == numbers
    for bad in ("a-b", "", "5-1", "1-", "-3", "1,,2", "1-999999999999", "100000"):
        with pytest.raises(ValueError, match="name a range of numbers such as 1-1000"):
            wanted_parts(bad)


def test_the_pool_is_made_of_the_parts_that_are_there(tmp_path: Path) -> None:
    write_diffusiondb(tmp_path / "ddb", pictures=24, parts=3)
    metadata = tmp_path / "ddb" / "metadata-large.parquet"
    whole = read_selection_pool(metadata)
    assert (whole.parts, whole.counts.images, whole.root) == ("1-3", 24, tmp_path / "ddb" / "images")
    (tmp_path / "ddb" / "images" / "part-000002.zip").unlink()
    rest = read_selection_pool(metadata)
    assert rest.parts == "1,3" and rest.counts.images == 16
    assert read_selection_pool(metadata, parts="3").counts.images == 8
    with pytest.raises(FileNotFoundError, match="part-000002"):
        read_selection_pool(metadata, parts="1-3")
    dataset, root = whole_pool(metadata, "diffusiondb")
    assert root == rest.root and sum(map(len, dataset["images"])) == 16


def test_the_release_s_own_folder_of_large_is_taken_before_images(tmp_path: Path) -> None:
    write_diffusiondb(tmp_path / "ddb", pictures=24)
    images = tmp_path / "ddb" / "images"
    images.rename(images.with_name("diffusiondb-large-part-1"))
    images.mkdir()
    (images / "part-000001.zip").write_bytes(b"of the 2M subset")
    assert read_selection_pool(tmp_path / "ddb" / "metadata-large.parquet").counts.images == 24


def test_a_pool_without_parts_says_where_they_lie(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"images holds no part of DiffusionDB: put part-000001.zip .* there, from"
    ):
        read_selection_pool(tmp_path / "metadata-large.parquet")


def test_the_defaults_are_those_of_the_full_scale() -> None:
    import inspect

    from hpslib.lessons.scale import full

    given = inspect.signature(read_selection_pool).parameters
    assert given["min_group"].default == full.images_per_prompt and given["max_groups"].default == full.pool_prompts


def test_doctests() -> None:
    assert doctest.testmod(module).failed == 0
