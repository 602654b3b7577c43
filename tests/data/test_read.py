"""hpslib.data.read: every format by its name, and what no reader takes."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from release_files import annotate, image_file, pair, put, ranking, refusal, reward

from hpslib.data.formats import DATA_FORMATS, FORMATS
from hpslib.data.preferences import validate
from hpslib.data.read import read_data, read_preferences
from hpslib.data.releases.hpd_v2 import read_hpd_v2_test, read_hpd_v2_train
from hpslib.data.releases.imagereward import read_imagereward


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"[{", "is not readable as JSON"),
        (b"{}", "holds a dict where a list"),
        (b"[]", "holds no row"),
        (b"\xff[", "JSON"),
    ],
)
def test_what_is_no_list_of_rows_is_refused_by_every_reader_of_json(tmp_path: Path, content: bytes, part: str) -> None:
    file = tmp_path / "test.json"
    file.write_bytes(content)
    for reader in (read_hpd_v2_train, read_hpd_v2_test, read_imagereward):
        text = refusal(lambda reader=reader: reader(file))
        assert part in text and str(file) in text
    assert "does not exist" in refusal(lambda: read_hpd_v2_test(tmp_path / "no.json"), FileNotFoundError)


def test_every_format_is_read_by_its_name(tmp_path: Path) -> None:
    put(tmp_path, *(f"{k}{letter}.jpg" for k in range(2) for letter in "ab"))
    v1 = {"id": 1, "user_hash": "u", "contain_name": False, **pair(0), "human_preference": 1}
    table = tmp_path / "votes.csv"
    table.write_text("id,prompt,image,chosen\n1,a cat,0a.jpg,0\n1,a cat,0b.jpg,1\n")
    parquet = tmp_path / "pick.parquet"
    columns = {
        "caption": ["a cat"],
        "jpg_0": [image_file()],
        "jpg_1": [image_file(1)],
        "label_0": [0.0],
        "label_1": [1.0],
    }
    pq.write_table(pa.table(columns), parquet)
    files = {
        "hpd_v1": annotate(tmp_path / "v1.json", [v1]),
        "hpd_v2_train": annotate(tmp_path / "train.json", [pair(0, (0, 1))]),
        "hpd_v2_test": annotate(tmp_path / "test.json", [ranking(0, [1, 0], image_path=["0a.jpg", "0b.jpg"])]),
        "imagereward": annotate(tmp_path / "ir.json", [reward(0, [2, 1], generations=["0a.jpg", "0b.jpg"])]),
        "table": table,
        "pickapic": parquet,
    }
    assert set(files) == set(FORMATS)
    for name, file in files.items():
        options = {"cache_dir": tmp_path / "cache"} if name == "pickapic" else {"images": "require"}
        data = read_preferences(file, name, **options)
        validate(data)
        assert list(data["human_preference"]) == [1] and set(data["source"]) == {name}, name
    text = refusal(lambda: read_preferences(table, "csv"))
    assert text == f"the format 'csv' is unknown: use one of {', '.join(FORMATS)}."


@pytest.mark.parametrize("format", [*DATA_FORMATS])
def test_a_name_too_long_for_any_file_is_answered_by_every_reader(format: str) -> None:
    assert refusal(lambda: read_data(Path("a" * 5000), format), FileNotFoundError)


@pytest.mark.parametrize("parts", ["²", "1-99999999999", "1-999999", "9-1", "x", "0-3", "-"])
def test_parts_that_are_no_range_of_parts_are_refused(tmp_path: Path, parts: str) -> None:
    text = refusal(lambda: read_data(tmp_path / "metadata.parquet", "diffusiondb", parts))
    assert "use numbers from 1" in text or "parts are named" in text or "name a range of numbers such as 1-1000" in text
