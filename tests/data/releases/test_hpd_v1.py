"""hpslib.data.releases.hpd_v1: one reader for every layout, each malformed file in one sentence, what is written reads
back."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from full_disk import no_room
from release_files import packed_rows, random_image, refusal

from hpslib.data.preferences import features, load_images
from hpslib.data.releases.hpd_v1 import read_hpd, write_hpd
from hpslib.data.releases.packed import write_packed

SAMPLE = Path(__file__).parents[4] / "shared" / "data" / "hpd_v1_sample"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def entry(number: int, n: int = 2, **changes: Any) -> dict[str, Any]:
    row = {
        "human_preference": n - 1,
        "prompt": f"critter {number}, “ünï”",
        "id": number,
        "file_path": [f"preference_images/{number}_{k}.jpg" for k in range(n)],
        "user_hash": f"u{number}",
        "contain_name": number % 2 == 0,
    }
    return {**row, **changes}


def release(folder: Path, entries: list[Any], rng: np.random.Generator | None = None, split: str = "test") -> Path:
    """Write an HPD v1 release by hand; with a generator also its images."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"preference_{split}.json"
    file.write_text(json.dumps(entries))
    if rng is not None:
        for path in (path for row in entries for path in row["file_path"]):
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(random_image(rng, "JPEG"))
    return file


# --- reading ----------------------------------------------------------------------------------------------------------


def test_file_and_folder_give_the_documented_schema(tmp_path: Path, rng: np.random.Generator) -> None:
    file = release(tmp_path, [entry(2), entry(4, n=4)], rng)
    data = read_hpd(file)
    assert data.features == features()
    assert data.to_list() == read_hpd(tmp_path, split="test").to_list()
    first = data[0]
    assert first["id"] == "2" and first["source"] == "hpd_v1" and first["prompt"] == "critter 2, “ünï”"
    assert first["images"] == [{"bytes": None, "path": f"preference_images/2_{k}.jpg"} for k in range(2)]
    assert (data[1]["human_preference"], first["contain_name"]) == (3, True)
    assert [image.size for image in load_images(data[1], root=tmp_path)] == [(5, 6)] * 4


def test_the_real_sample_reads_without_its_images() -> None:
    if not SAMPLE.exists():
        pytest.skip("the HPD v1 sample is not beside this checkout")
    entries = json.loads((SAMPLE / "preference_test.json").read_text())
    with pytest.warns(UserWarning, match="1559 of 1559 image files are absent") as caught:
        data = read_hpd(SAMPLE, images="optional", split="test")
    assert len(caught) == 1 and len(data) == len(entries) == 400
    for row, original in zip(data, entries):
        assert row["id"] == str(original["id"])
        assert [item["path"] for item in row["images"]] == original["file_path"]
        assert {
            name: row[name] for name in ("prompt", "user_hash", "contain_name", "human_preference")
        }.items() <= original.items()


def test_require_names_the_first_absent_image_and_counts_all(tmp_path: Path, rng: np.random.Generator) -> None:
    file = release(tmp_path, [entry(0), entry(1, n=3), entry(2)], rng)
    (tmp_path / "preference_images/1_2.jpg").unlink()
    (tmp_path / "preference_images/2_0.jpg").unlink()
    text = refusal(lambda: read_hpd(file), FileNotFoundError)
    assert "row 1 (from 0): the image file 'preference_images/1_2.jpg' is absent (2 of 7 image files are absent" in text
    assert str(file) in text and "images='optional'" in text
    with pytest.warns(UserWarning, match="2 of 7 image files are absent") as caught:
        assert len(read_hpd(file, images="optional")) == 3
    assert len(caught) == 1


def test_complete_data_gives_no_warning(tmp_path: Path, rng: np.random.Generator) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_hpd(release(tmp_path, [entry(0)], rng), images="optional")


def test_further_fields_are_kept_and_may_be_absent_in_some_rows(tmp_path: Path) -> None:
    rows = [entry(0, nsfw=0.25), entry(1, tags=["a", "b"]), entry(2, source="votes")]
    with pytest.warns(UserWarning):
        data = read_hpd(release(tmp_path, rows), images="optional")
    assert list(data.features) == [*features(), "nsfw", "tags"]
    assert list(data["nsfw"]) == [0.25, None, None] and list(data["tags"]) == [None, ["a", "b"], None]
    assert list(data["source"]) == ["hpd_v1", "hpd_v1", "votes"]
    text = refusal(lambda: read_hpd(release(tmp_path, [entry(0, x=1), entry(1, x="a")]), images="optional"))
    assert "has a further field 'x' whose values do not fit together (" in text


FILE_FAULTS = [
    (b"", "is an empty file"),
    (b"[{", "is not readable as JSON"),
    (b"\xff\xfe\xfa", "is not readable as JSON"),
    (b"[" * 100_000, "is not readable as JSON"),
    (b'{"a": 1}', "holds a dict where HPD v1 has a list"),
    (b"[]", "holds no row"),
]


@pytest.mark.parametrize(
    ("content", "part"), FILE_FAULTS, ids=[part + str(k) for k, (_, part) in enumerate(FILE_FAULTS)]
)
def test_malformed_files(tmp_path: Path, content: bytes, part: str) -> None:
    file = tmp_path / "preference_test.json"
    file.write_bytes(content)
    assert f"{file} {part}" in refusal(lambda: read_hpd(file, images="optional"))


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in entry(1).items() if key != name}


ROW_FAULTS = [
    ("a text", "it is a str where an object"),
    (without("prompt"), "it has no prompt"),
    (without("file_path"), "it has no images (file_path in HPD v1)"),
    (entry(1, id=None), "id is a NoneType"),
    (entry(1, id=True), "id is a bool"),
    (entry(1, prompt=["a"]), "prompt is a list"),
    (entry(1, prompt=""), "prompt is empty"),
    (entry(1, prompt="\ud800"), "prompt holds characters that are not valid Unicode"),
    (entry(1, human_preference="1"), "human_preference is a str"),
    (entry(1, human_preference=[0, 1]), "human_preference is a list"),
    (entry(1, human_preference=float("nan")), "human_preference is a float"),
    (entry(1, human_preference=10**30), "human_preference is 1000000"),
    (entry(1, contain_name="no"), "contain_name is a str"),
    (entry(1, file_path="a.jpg"), "images (file_path in HPD v1) is a str"),
    (entry(1, file_path=["a.jpg", None]), "image 1 has neither bytes nor a path"),
    (entry(1, file_path=["a.jpg", 3]), "in image 1 the path 3"),
    (entry(1, n=1), "the group holds 1 image"),
    (entry(1, file_path=["a.jpg", "/etc/passwd"]), "in image 1 the path '/etc/passwd' is absolute"),
    (entry(1, file_path=["a.jpg", "../b.jpg"]), "in image 1 the path '../b.jpg' has a '..'"),
    (entry(1, file_path=["a.jpg", "a.jpg"]), "images 0 and 1 are the same file"),
    (entry(1, id=0), "its id '0' is already used by row 0"),
    (entry(1, id="0"), "its id '0' is already used by row 0"),
]


@pytest.mark.parametrize(("row", "part"), ROW_FAULTS, ids=[f"{k} {part}" for k, (_, part) in enumerate(ROW_FAULTS)])
def test_malformed_rows_name_file_and_row_and_count_the_others(tmp_path: Path, row: Any, part: str) -> None:
    file = release(tmp_path, [entry(0), row, entry(2), 5, 6, 7])
    text = refusal(lambda: read_hpd(file, images="optional"))
    assert text.startswith(f"{file}, row 1 (from 0) is malformed, since {part}")
    assert text.endswith(": correct or remove this row and 3 more malformed rows.")


def test_a_link_out_of_the_folder_is_refused_even_when_images_are_optional(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    file = release(tmp_path / "release", [entry(0)], rng)
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(random_image(rng))
    (tmp_path / "release/preference_images/0_1.jpg").unlink()
    (tmp_path / "release/preference_images/0_1.jpg").symlink_to(secret)
    text = refusal(lambda: read_hpd(file, images="optional"))
    assert "row 0 (from 0)" in text and "through a link" in text


def test_wrong_places_and_arguments(tmp_path: Path, rng: np.random.Generator) -> None:
    assert "does not exist" in refusal(lambda: read_hpd(tmp_path / "no.json"), FileNotFoundError)
    assert "holds no preference_*.json" in refusal(lambda: read_hpd(tmp_path), FileNotFoundError)
    file = release(tmp_path, [entry(0)], rng)
    release(tmp_path, [entry(1)], rng, split="train")
    assert "with the splits test, train: pass one" in refusal(lambda: read_hpd(tmp_path))
    assert "with the splits test, train: pass one" in refusal(lambda: read_hpd(tmp_path, split="valid"))
    assert "is one file and has no split 'test': leave out split=" in refusal(lambda: read_hpd(file, split="test"))
    assert "neither 'require' nor 'optional'" in refusal(lambda: read_hpd(file, images="maybe"))  # type: ignore[arg-type]
    renamed = release(tmp_path / "renamed", [entry(0, images=["a.jpg", "b.jpg"])])
    assert "has a field 'images', which HPD v1 lacks: rename it" in refusal(lambda: read_hpd(renamed))


# --- HPD v1's layout --------------------------------------------------------------------------------------------------


def test_a_release_written_again_is_the_same_release(tmp_path: Path, rng: np.random.Generator) -> None:
    entries = [
        entry(2),
        entry(4, n=4),
        entry(5, id="x-5", file_path=[f"preference_images/x-5_{k}.JPEG" for k in range(2)]),
    ]
    data = read_hpd(release(tmp_path / "a", entries, rng))
    file = write_hpd(data, tmp_path / "b", "test", root=tmp_path / "a")
    assert json.loads(file.read_text()) == entries, "HPD v1's own fields and types, ids as numbers"
    back = read_hpd(tmp_path / "b", split="test")
    assert back.features == data.features and back.to_list() == data.to_list()
    for path in (path for row in entries for path in row["file_path"]):
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["preference_images", "preference_test.json"]


def test_packed_to_folder_keeps_bytes_and_further_columns(tmp_path: Path, rng: np.random.Generator) -> None:
    data = packed_rows(rng)
    back = read_hpd(write_hpd(data, tmp_path, "train"))
    assert back.features == data.features
    assert back.remove_columns("images").to_list() == data.remove_columns("images").to_list()
    for row, original in zip(back, data):
        assert [item["path"] for item in row["images"]] == [
            f"preference_images/{row['id']}_{k}.webp" for k in range(len(original["images"]))
        ]
        assert [(tmp_path / item["path"]).read_bytes() for item in row["images"]] == [
            i["bytes"] for i in original["images"]
        ]


def test_overwriting_is_asked_for_and_spares_the_other_split(tmp_path: Path, rng: np.random.Generator) -> None:
    data = packed_rows(rng, 6)
    write_hpd(data.select([0, 1]), tmp_path, "train")
    write_hpd(data.select([2, 3]), tmp_path, "test")
    assert "preference_test.json exists already: pass overwrite=True" in refusal(
        lambda: write_hpd(data.select([4]), tmp_path, "test"), FileExistsError
    )
    write_hpd(data.select([3, 4]), tmp_path, "test", overwrite=True)
    assert list(read_hpd(tmp_path, split="test")["id"]) == ["mini-3", "mini-4"]
    text = refusal(lambda: write_hpd(data.select([1, 5]), tmp_path, "test", overwrite=True))
    assert "'preference_images/mini-1_0.webp' belongs to" in text and "preference_train.json" in text
    assert list(read_hpd(tmp_path, split="test")["id"]) == ["mini-3", "mini-4"], "refused, so nothing changed"
    (tmp_path / "preference_images" / "mini-5_0.webp").write_bytes(b"somebody's")
    assert "mini-5_0.webp exists already: pass overwrite=True" in refusal(
        lambda: write_hpd(data.select([5]), tmp_path, "new"), FileExistsError
    )
    (tmp_path / "preference_odd.json").write_text("{}x")
    assert "preference_odd.json is no HPD v1 file" in refusal(lambda: write_hpd(data.select([4]), tmp_path, "new"))


def test_a_failed_write_leaves_the_old_release(tmp_path: Path, rng: np.random.Generator) -> None:
    entries = [entry(0), entry(1)]
    data = read_hpd(release(tmp_path / "a", entries, rng))
    write_hpd(data, tmp_path / "b", "test", root=tmp_path / "a")
    before = {p: p.read_bytes() for p in (tmp_path / "b").rglob("*") if p.is_file()}
    (tmp_path / "a/preference_images/1_1.jpg").unlink()
    text = refusal(
        lambda: write_hpd(data, tmp_path / "b", "test", root=tmp_path / "a", overwrite=True), FileNotFoundError
    )
    assert "row 1 (from 0), image 1 is absent (" in text
    assert {p: p.read_bytes() for p in (tmp_path / "b").rglob("*") if p.is_file()} == before
    assert not list((tmp_path / "b").glob(".write_hpd_*"))


def test_a_full_disk_is_said_and_leaves_the_old_release(tmp_path: Path, rng: np.random.Generator) -> None:
    data = packed_rows(rng)
    file = write_hpd(data.select([0, 1]), tmp_path, "test")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with no_room(20):
        text = refusal(lambda: write_hpd(data, tmp_path, "test", overwrite=True), OSError)
    assert text.startswith(f"{file} cannot be written (") and text.endswith("make room or choose another place.")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_release_can_be_written_over_itself(tmp_path: Path, rng: np.random.Generator) -> None:
    file = release(tmp_path, [entry(0), entry(1)], rng)
    data = read_hpd(file)
    write_hpd(data.select([1]), tmp_path, "test", root=tmp_path, overwrite=True)
    assert read_hpd(file).to_list() == data.select([1]).to_list()


def test_write_refusals(tmp_path: Path, rng: np.random.Generator) -> None:
    data = packed_rows(rng)
    for split in ("../x", "", "a b", "a/b"):
        assert "cannot be part of a file name" in refusal(lambda: write_hpd(data, tmp_path, split))  # noqa: B023
    rows = data.to_list()
    rows[1]["id"] = "../../etc/x"
    bad = Dataset.from_list(rows, features=data.features)
    assert "row 1 (from 0) has the id '../../etc/x', which cannot be part" in refusal(
        lambda: write_hpd(bad, tmp_path, "test")
    )
    odd = data.add_column("score", [float("nan")] * 4)
    assert "a further column does not fit into JSON" in refusal(lambda: write_hpd(odd, tmp_path, "test"))
    assert "holds no row: give at least one preference group" in refusal(
        lambda: write_hpd(data.select([]), tmp_path, "test")
    )
    assert list(tmp_path.iterdir()) == []


def test_packing_a_loose_release_embeds_its_files(tmp_path: Path, rng: np.random.Generator) -> None:
    file = release(tmp_path / "loose", [entry(0), entry(1, n=3)], rng)
    packed = read_hpd(write_packed(read_hpd(file), tmp_path / "p.parquet", root=file.parent))
    for row in packed:
        for item in row["images"]:
            assert item["bytes"] == (file.parent / item["path"]).read_bytes()
    assert packed.remove_columns("images").to_list() == read_hpd(file).remove_columns("images").to_list()
    assert "pass their folder as root=" in refusal(lambda: write_packed(read_hpd(file), tmp_path / "q.parquet"))
