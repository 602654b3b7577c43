"""hpslib.data.releases.pickapic: labels become choices and ties, what is left out is counted, and memory stays
small."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from release_files import image_file, refusal

from hpslib.data.preferences import TIED, load_images, validate
from hpslib.data.rankings import ranked_features
from hpslib.data.releases.pickapic import read_pickapic


def row(number: int, labels: tuple[float | None, float | None] = (1.0, 0.0), **changes: Any) -> dict[str, Any]:
    return {
        "are_different": True,
        "best_image_uid": f"uid{number}-0",
        "caption": f"critter {number}",
        "created_at": "2023-01-01",
        "has_label": labels != (None, None),
        "image_0_uid": f"uid{number}-0",
        "image_1_uid": f"uid{number}-1",
        "jpg_0": image_file(number, "JPEG"),
        "jpg_1": image_file(number + 100, "JPEG"),
        "label_0": labels[0],
        "label_1": labels[1],
        "model_0": "a",
        "ranking_id": 1000 + number,
        "user_id": number % 3,
        **changes,
    }


def write(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    types = {"jpg_0": pa.binary(), "jpg_1": pa.binary(), "label_0": pa.float64(), "label_1": pa.float64()}
    fields = [pa.field(name, types.get(name, pa.array([rows[0][name]]).type)) for name in rows[0]]
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(fields)), path, **options)
    return path


@pytest.fixture
def both(tmp_path: Path) -> Callable[..., list[list[dict[str, Any]]]]:
    """Read a file both ways."""

    def read(files: Any) -> list[list[dict[str, Any]]]:
        data = read_pickapic(files, cache_dir=tmp_path / "cache")
        stream = read_pickapic(files, streaming=True)
        assert data.features == stream.features == ranked_features()
        validate(data)
        return [data.to_list(), list(stream)]

    return read


def test_labels_become_choices_and_ties(tmp_path: Path, both: Callable[..., Any]) -> None:
    rows = [row(0), row(1, (0.0, 1.0)), row(2, (0.5, 0.5))]
    for data in both(write(tmp_path / "a.parquet", rows)):
        assert [one["human_preference"] for one in data] == [0, 1, TIED]
        assert [one["ranks"] for one in data] == [[1, 2], [2, 1], [1, 1]]
        assert [one["id"] for one in data] == ["1000", "1001", "1002"]
        assert [one["user_hash"] for one in data] == ["0", "1", "2"] and data[0]["source"] == "pickapic"
        assert data[1]["images"] == [
            {"bytes": rows[1]["jpg_0"], "path": "uid1-0.jpg"},
            {"bytes": rows[1]["jpg_1"], "path": "uid1-1.jpg"},
        ]
        assert load_images(data[0])[0].size == (5, 4)


def test_rows_without_label_or_bytes_are_counted_in_one_warning(tmp_path: Path) -> None:
    rows = [row(0), row(1, (None, None)), row(2, jpg_1=None), row(3, jpg_0=b""), row(4, has_label=False), row(5)]
    rows += [row(6, (None, None), jpg_0=None, caption="")]  # unlabelled comes first
    file = write(tmp_path / "a.parquet", rows)
    text = r"^5 of 7 rows of .*a\.parquet are left out, 3 without a label and 2 without the bytes of an image"
    for _ in range(2):  # the second time from the dataset on disk
        with pytest.warns(UserWarning, match=text) as caught:
            data = read_pickapic(file, cache_dir=tmp_path / "cache")
        assert len(caught) == 1 and list(data["id"]) == ["1000", "1005"] and caught[0].filename == __file__
    with pytest.warns(UserWarning, match=text) as caught:
        assert [one["id"] for one in read_pickapic(file, streaming=True)] == ["1000", "1005"]
    assert len(caught) == 1


def test_complete_data_gives_no_warning(tmp_path: Path, both: Callable[..., Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        both(write(tmp_path / "a.parquet", [row(0)]))


def test_files_are_read_in_order_and_repeated_ids_told_apart(tmp_path: Path, both: Callable[..., Any]) -> None:
    first = write(tmp_path / "b.parquet", [row(0), row(1)])
    second = write(tmp_path / "a.parquet", [row(2), row(1), row(3)])
    for data in both([first, second]):
        assert [one["id"] for one in data] == ["1000", "1001-1", "1002", "1001-3", "1003"]
    stream = read_pickapic([first, second], streaming=True)
    assert stream.num_shards == 2
    shards = [[one["id"] for one in stream.shard(2, k)] for k in range(2)]
    assert shards == [["1000", "1001-1"], ["1002", "1001-3", "1003"]], "the same ids whoever reads"


def test_helpful_columns_may_be_absent(tmp_path: Path, both: Callable[..., Any]) -> None:
    needed = ("caption", "jpg_0", "jpg_1", "label_0", "label_1")
    rows = [{name: one[name] for name in needed} for one in (row(0), row(1, (0.0, 1.0)))]
    for data in both(write(tmp_path / "a.parquet", rows)):
        assert [one["id"] for one in data] == ["row-0", "row-1"] and data[1]["user_hash"] == ""
        assert data[0]["images"][0]["path"] is None


def test_an_unchanged_file_is_taken_from_disk_and_a_changed_one_read_again(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", [row(0)])
    first = read_pickapic(file, cache_dir=tmp_path / "cache")
    again = read_pickapic(file, cache_dir=tmp_path / "cache")
    assert first.cache_files == again.cache_files and str(tmp_path / "cache") in first.cache_files[0]["filename"]
    before = file.stat()
    write(file, [row(0, (0.0, 1.0))])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert read_pickapic(file, cache_dir=tmp_path / "cache")[0]["human_preference"] == 1


@pytest.mark.parametrize(
    ("bad", "part"),
    [
        (row(1, (1.0, 1.0)), "has the labels (1.0, 1.0) where 1 and 0, 0 and 1 or two times 0.5"),
        (row(1, (0.0, 0.0)), "has the labels (0.0, 0.0)"),
        (row(1, (0.7, 0.3)), "has the labels (0.7, 0.3)"),
        (row(1, caption="  "), "has an empty caption: correct or remove this row."),
        (row(1, caption=None), "has an empty caption: correct or remove this row."),
        (row(1, image_0_uid="../x"), "is malformed, since in image 0 the path '../x.jpg' has a '..' in it: correct"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, bad: dict[str, Any], part: str) -> None:
    file = write(tmp_path / "a.parquet", [row(0), bad])
    text = f"{file}, row 1 (from 0) {part}"
    assert text in refusal(lambda: read_pickapic(file, cache_dir=tmp_path / "cache"))
    assert text in refusal(lambda: list(read_pickapic(file, streaming=True)))


def test_what_is_no_release_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    good = write(tmp_path / "good.parquet", [row(0)])
    (tmp_path / "cut.parquet").write_bytes(good.read_bytes()[:-50])
    write(tmp_path / "no_images.parquet", [{"caption": "a", "label_0": 1.0, "label_1": 0.0}])
    write(tmp_path / "unlabelled.parquet", [row(0, has_label=False)])
    for streaming in (False, True):
        options: dict[str, Any] = {"streaming": streaming, "cache_dir": tmp_path / "cache"}
        for names, part, kind in (
            (["good", "cut"], "cut.parquet is not readable as parquet", ValueError),
            (["no_images"], "lacks the column jpg_0, jpg_1: name a parquet file of Pick-a-Pic", ValueError),
            (["unlabelled"], "has no label in any of the 1 rows: name files", ValueError),
            (["good", "absent"], "absent.parquet does not exist", FileNotFoundError),
            ([], "files is empty", ValueError),
        ):
            paths = [tmp_path / f"{name}.parquet" for name in names]
            assert part in refusal(lambda paths=paths, options=options: read_pickapic(paths, **options), kind)


def test_damage_in_the_middle_is_named_with_its_file(tmp_path: Path, rng: np.random.Generator) -> None:
    file = write(tmp_path / "a.parquet", [row(k, jpg_0=rng.bytes(5000)) for k in range(20)], compression="snappy")
    chunk = pq.read_metadata(file).row_group(0)
    place = next(chunk.column(k) for k in range(chunk.num_columns) if chunk.column(k).path_in_schema == "jpg_0")
    data = bytearray(file.read_bytes())
    data[place.data_page_offset : place.data_page_offset + 40] = bytes(40)
    file.write_bytes(data)
    text = f"{file} is damaged"
    assert text in refusal(lambda: read_pickapic(file, cache_dir=tmp_path / "cache"))
    assert text in refusal(lambda: list(read_pickapic(file, streaming=True)))


def test_no_labelled_row_with_bytes_gives_a_sentence(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", [row(0, jpg_0=None)])
    text = refusal(lambda: read_pickapic(file, cache_dir=tmp_path / "cache"))
    assert "has the bytes of both images in none of the 1 labelled rows: name files" in text


def test_memory_does_not_grow_with_the_file(tmp_path: Path, rng: np.random.Generator) -> None:
    file = tmp_path / "many.parquet"
    for row_group_size in (512, 64):  # pyarrow's defaults would hold all of the one, and every one of the other
        rows = [row(k, jpg_0=rng.bytes(200_000)) for k in range(512)]
        write(file, rows, compression="none", row_group_size=row_group_size, write_batch_size=16)
        del rows
        assert file.stat().st_size > 100e6
        before = pa.total_allocated_bytes()
        held = [pa.total_allocated_bytes() - before for _ in read_pickapic(file, streaming=True)]
        assert len(held) == 512 and max(held) < 50e6, f"{max(held) / 1e6:.0f} MB for a file of 100 MB"


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"caption": 1.5}, "the column 'caption' of the type double where text was expected"),
        ({"ranking_id": [1]}, "the column 'ranking_id' of the type list"),
        ({"user_id": b"\xff\xfe"}, "the column 'user_id' of the type binary where text or a whole number"),
        ({"image_0_uid": b"\xff"}, "the column 'image_0_uid' of the type binary"),
        ({"has_label": "yes"}, "the column 'has_label' of the type string where true or false"),
        ({"model_0": 1, "model_1": 2}, "the column 'model_0' of the type int64 where text"),
    ],
)
def test_columns_of_another_type_are_named(tmp_path: Path, changes: dict[str, Any], part: str) -> None:
    file = write(tmp_path / "a.parquet", [row(0, **changes), row(1, **changes)])
    for streaming in (False, True):
        text = refusal(lambda s=streaming: read_pickapic(file, streaming=s, cache_dir=tmp_path / "c"))
        assert part in text and str(file) in text


@pytest.mark.parametrize("without", [{"has_label": 0}, {"has_label": 0.0}, {"label_0": float("nan")}])
def test_a_row_nobody_labelled_is_left_out_however_it_says_so(tmp_path: Path, without: dict[str, Any]) -> None:
    yes = {name: type(value)(1) for name, value in without.items() if name == "has_label"}
    file = write(tmp_path / "a.parquet", [row(0, **yes), row(1, **without)])
    with pytest.warns(UserWarning, match="1 of 2 rows .* 1 without a label"):
        data = read_pickapic(file, cache_dir=tmp_path / "c")
    assert list(data["id"]) == ["1000"]


def test_the_models_of_a_pair_are_kept_where_all_files_say_them(tmp_path: Path) -> None:
    known = write(tmp_path / "a.parquet", [row(0, model_0="SD 1.5", model_1="dreamlike"), row(1, model_1="x")])
    data = read_pickapic(known, cache_dir=tmp_path / "c")
    assert list(data["models"]) == [["SD 1.5", "dreamlike"], ["a", "x"]]
    assert [one["models"] for one in read_pickapic(known, streaming=True)] == list(data["models"])
    validate(data)
    unknown = write(tmp_path / "b.parquet", [row(2)])
    assert "models" not in read_pickapic([known, unknown], cache_dir=tmp_path / "c").column_names


def test_what_macos_leaves_beside_the_files_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data/a.parquet", [row(0)])
    (tmp_path / "data/._a.parquet").write_bytes(b"\0\5\x16\7")
    assert len(read_pickapic(tmp_path / "data", cache_dir=tmp_path / "c")) == 1
