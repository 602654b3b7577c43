"""hpslib.data.releases.packed: what is packed reads back exactly, whoever wrote it, or is refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from full_disk import no_room
from release_files import packed_rows, refusal

from hpslib.data.preferences import features, load_images
from hpslib.data.releases.hpd_v1 import read_hpd
from hpslib.data.releases.packed import read_packed, write_packed


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_packed_round_trip_is_exact_and_deterministic(tmp_path: Path, rng: np.random.Generator) -> None:
    data = packed_rows(rng)
    path = write_packed(data, tmp_path / "new" / "mini.parquet")
    back = read_hpd(path)
    assert back.features == data.features and back.to_list() == data.to_list()
    again = write_packed(back.select(range(len(back))), tmp_path / "again.parquet")
    assert path.read_bytes() == again.read_bytes()
    assert sorted(p.name for p in path.parent.iterdir()) == ["mini.parquet"]
    assert len(load_images(back[2])) == 4


def test_a_packed_file_by_another_writer_is_brought_to_the_schema(tmp_path: Path, rng: np.random.Generator) -> None:
    data = packed_rows(rng)
    columns = data.to_dict()
    order = ["source", *(name for name in columns if name != "source")]
    image_type = pa.list_(pa.struct([("path", pa.string()), ("bytes", pa.large_binary())]))
    types = {
        "images": image_type,
        "human_preference": pa.int32(),
        "contain_name": pa.bool_(),
        "second_preference": pa.int64(),
    }
    table = pa.table({name: pa.array(columns[name], types.get(name, pa.large_string())) for name in order})
    (tmp_path / "split=test").mkdir()  # must not become a column
    pq.write_table(table, tmp_path / "split=test" / "other.parquet")
    back = read_hpd(tmp_path / "split=test" / "other.parquet")
    assert back.features == data.features and back.to_list() == data.to_list()


def test_malformed_packed_files(tmp_path: Path, rng: np.random.Generator) -> None:
    data, path = packed_rows(rng), tmp_path / "p.parquet"
    path.write_bytes(b"PAR1 but not really")
    assert "is not readable as parquet" in refusal(lambda: read_hpd(path))
    data.remove_columns("prompt").to_parquet(path)
    assert "lacks the column prompt: write it with write_packed." in refusal(lambda: read_hpd(path))
    pq.write_table(pa.table({**data.to_dict(), "human_preference": ["a"] * 4}), path)
    assert "lacks the types of features()" in refusal(lambda: read_hpd(path))
    broken = data.to_list()
    broken[1]["human_preference"], broken[3]["prompt"] = 7, ""
    Dataset.from_list(broken, features=data.features).to_parquet(path)
    text = refusal(lambda: read_hpd(path))
    assert text.startswith(f"{path}, row 1 (from 0) is malformed, since human_preference is 7") and text.endswith(
        "and 1 more malformed row."
    )


def test_packed_refusals_leave_nothing_behind(tmp_path: Path, rng: np.random.Generator) -> None:
    data, path = packed_rows(rng), tmp_path / "p.parquet"
    write_packed(data, path)
    before = path.read_bytes()
    assert "exists already: pass overwrite=True" in refusal(lambda: write_packed(data, path), FileExistsError)
    rows = data.to_list()
    rows[2]["images"][1]["bytes"] = b"no image"
    bad = Dataset.from_list(rows, features=data.features)
    assert "row 2 (from 0), image 1 is no intact image of a format in JPEG" in refusal(
        lambda: write_packed(bad, path, overwrite=True)
    )
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["p.parquet"]
    write_packed(data.select([0, 1]), path, overwrite=True)
    assert len(read_hpd(path)) == 2
    assert "does not end in .parquet" in refusal(lambda: write_packed(data, tmp_path / "p.json"))


def test_a_full_disk_is_said_and_leaves_the_old_file(tmp_path: Path, rng: np.random.Generator) -> None:
    data = packed_rows(rng)
    path = write_packed(data.select([0]), tmp_path / "p.parquet")
    before = path.read_bytes()
    with no_room(20):
        text = refusal(lambda: write_packed(data, path, overwrite=True), OSError)
    assert text.startswith(f"{path} cannot be written (") and text.endswith("make room or choose another place.")
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_damage_in_the_middle_is_named(tmp_path: Path, rng: np.random.Generator) -> None:
    path = write_packed(packed_rows(rng), tmp_path / "p.parquet")
    content = bytearray(path.read_bytes())
    content[4:60] = bytes(56)  # the first page; the table of contents, which comes last, is whole
    path.write_bytes(content)
    assert f"{path} is damaged (" in refusal(lambda: read_packed(path))


def test_images_beyond_two_gigabytes_can_be_read(tmp_path: Path, rng: np.random.Generator, monkeypatch) -> None:
    """``ParquetFile.read`` gives up there, for lists of structs are not brought together from pieces that large."""

    def gives_up(self: pq.ParquetFile, *given: object, **options: object) -> None:
        raise pa.ArrowNotImplementedError("Nested data conversions not implemented for chunked array outputs")

    path = write_packed(packed_rows(rng), tmp_path / "set.parquet")
    monkeypatch.setattr(pq.ParquetFile, "read", gives_up)
    assert len(read_packed(path)) == len(packed_rows(rng))


def test_a_folder_called_seed_adds_no_column(tmp_path: Path, rng: np.random.Generator) -> None:
    (tmp_path / "seed=1").mkdir()
    file = write_packed(packed_rows(rng), tmp_path / "seed=1" / "a.parquet")
    data = read_packed(file)
    assert list(data.column_names) == [*features(), "second_preference"] and len(data) == 4


def test_a_text_that_is_not_utf_8_names_its_row(tmp_path: Path, rng: np.random.Generator) -> None:
    table = pq.read_table(write_packed(packed_rows(rng), tmp_path / "a.parquet"))
    raw = pa.array([b"a", b"b", b"\xff", b"d"])
    broken = pa.StringArray.from_buffers(4, raw.buffers()[1], raw.buffers()[2])
    pq.write_table(table.set_column(table.column_names.index("prompt"), "prompt", broken), tmp_path / "b.parquet")
    assert f"{tmp_path / 'b.parquet'}, row 2 (from 0) holds text that is not UTF-8" in refusal(
        lambda: read_packed(tmp_path / "b.parquet")
    )
