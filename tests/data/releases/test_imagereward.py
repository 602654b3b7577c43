"""hpslib.data.releases.imagereward: both layouts, in files that the tests write and in the project's real file."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from release_files import annotate, paths, put, refusal, reward, zipped

from hpslib.data.preferences import TIED, load_images
from hpslib.data.rankings import decided, ranks_of
from hpslib.data.releases.imagereward import read_imagereward

SAMPLE = Path(__file__).parents[4] / "shared" / "data" / "imagereward" / "test.json"


def test_the_json_layout_keeps_ranks_as_they_are(tmp_path: Path) -> None:
    file = annotate(tmp_path / "test.json", [reward(0, [1, 5, 3]), reward(1, [2, 2, 3]), reward(2, [3, 2, 2])])
    names = [f"part-1/images/{number:04d}/{k}.webp" for number in range(3) for k in range(3)]
    zipped(tmp_path / "test_images.zip", *names)
    data = read_imagereward(file)
    assert list(data["ranks"]) == [[1, 5, 3], [2, 2, 3], [3, 2, 2]]
    assert list(data["human_preference"]) == [0, TIED, TIED]
    assert list(data["id"]) == ["1-0000", "1-0001", "1-0002"] and set(data["source"]) == {"imagereward"}
    assert paths(data[0])[0] == "test_images.zip/part-1/images/0000/0.webp"
    assert [image.getpixel((0, 0))[0] for image in load_images(data[1], tmp_path)] == [3, 4, 5]
    put(tmp_path, *names)
    assert paths(read_imagereward(file)[0])[0] == names[0], "unpacked beside the file comes first"


@pytest.mark.parametrize(
    ("row", "part"),
    [
        (reward(1, [1, 2]), "ranks is [1, 2] where a list of 3 numbers"),
        (reward(1, [0, 1, 2]), "image 0 has the rank 0"),
        (reward(1, None), "ranks is [] where a list of 3"),
        (reward(1, [1, 2, "3"]), "image 2 has the rank '3'"),
        (reward(0, [1, 2, 3]), "its id '1-0000' is already used by row 0"),
        ({"id": "x", "prompt": "y"}, "it has no ranking, generations"),
    ],
)
def test_a_malformed_row_of_imagereward_is_named(tmp_path: Path, row: Any, part: str) -> None:
    file = annotate(tmp_path / "test.json", [reward(0, [1, 2, 3]), row])
    assert f"{file}, row 1 (from 0) is malformed, since {part}" in refusal(
        lambda: read_imagereward(file, images="optional")
    )


def test_the_real_file_of_imagereward() -> None:
    if not SAMPLE.exists():
        pytest.skip("ImageReward's test.json is not beside this checkout")
    entries = json.loads(SAMPLE.read_text())
    with pytest.warns(UserWarning, match="image files are absent") as caught:
        data = read_imagereward(SAMPLE, images="optional")
    assert len(caught) == 1 and len(data) == len(entries) == 466
    assert [ranks.tolist() for ranks in ranks_of(data)] == [entry["ranking"] for entry in entries]
    assert Counter(data["human_preference"])[TIED] == 198 and decided(data)[1] == 198
    assert data[0]["prompt"] == entries[0]["prompt"] and paths(data[0]) == entries[0]["generations"]
    pairs = sum(a != b for ranks in data["ranks"] for a, b in itertools.combinations(ranks, 2))
    assert pairs == 6399, "the number of pairs that ImageReward's table 3 counts"


def metadata(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    full = [
        {"classification": "Animals", "image_amount_in_total": 4, "overall_rating": 6, "fidelity_rating": 6, **row}
        for row in rows
    ]
    pq.write_table(pa.Table.from_pylist(full), path)
    return path


def one(prompt_id: str, name: str, rank: int, part: int = 1, prompt: str | None = None) -> dict[str, Any]:
    place = f"images/train/train_{part}/{name}.webp"
    return {"image_path": place, "prompt_id": prompt_id, "prompt": prompt or f"prompt {prompt_id}", "rank": rank}


def test_the_parquet_layout_is_gathered_by_prompt_from_zips_and_folders(tmp_path: Path) -> None:
    rows = [one("b", "0", 2), one("a", "1", 1, 2), one("b", "2", 1), one("a", "3", 1, 2), one("a", "4", 3, 2)]
    file = metadata(tmp_path / "metadata-train.parquet", rows)
    zipped(tmp_path / "images/train/train_1.zip", "0.webp", "2.webp")
    put(tmp_path / "images/train/train_2", "1.webp", "3.webp", "4.webp")
    data = read_imagereward(file)
    assert list(data["id"]) == ["b", "a"] and list(data["ranks"]) == [[2, 1], [1, 1, 3]]
    assert list(data["human_preference"]) == [1, TIED] and data[0]["prompt"] == "prompt b"
    assert paths(data[0]) == ["images/train/train_1.zip/0.webp", "images/train/train_1.zip/2.webp"]
    assert paths(data[1])[0] == "images/train/train_2/1.webp"
    assert [image.getpixel((0, 0))[0] for image in load_images(data[0], tmp_path)] == [0, 1]


def test_faults_of_the_parquet_layout(tmp_path: Path) -> None:
    file = metadata(tmp_path / "m.parquet", [one("a", "0", 1), one("a", "1", 2, prompt="another")])
    assert "row 1 (from 0) gives prompt_id 'a' another prompt than before" in refusal(lambda: read_imagereward(file))
    file = metadata(tmp_path / "m.parquet", [one("a", "0", 1), one("a", "1", 2), one("b", "2", 1)])
    assert "row 1 (from 0) is malformed, since the group holds 1 image" in refusal(lambda: read_imagereward(file))
    file = metadata(tmp_path / "m.parquet", [one("a", "0", 1), one("a", "1", 2)])
    assert "2 of 2 image files are absent" in refusal(lambda: read_imagereward(file), FileNotFoundError)
    file.write_bytes(file.read_bytes()[:-100])
    assert f"{file} is not readable as parquet" in refusal(lambda: read_imagereward(file))
    pq.write_table(pa.table({"prompt": ["a"]}), file)
    assert "lacks the column image_path, prompt_id, rank: name a metadata" in refusal(lambda: read_imagereward(file))
    assert "does not exist" in refusal(lambda: read_imagereward(tmp_path / "no.parquet"), FileNotFoundError)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"prompt_id": [[1], [1]]}, "the column 'prompt_id' of the type list"),
        ({"prompt_id": [b"\xff", b"\xff"]}, "the column 'prompt_id' of the type binary"),
        ({"rank": [1.5, 2.0]}, "the column 'rank' of the type double where a whole number"),
        ({"rank": pa.array([1, 2**64 - 1], pa.uint64())}, "image 1 has the rank 18446744073709551615"),
        ({"rank": [1, None]}, "row 1 (from 0) has no rank"),
        ({"image_path": pa.array([None, "b.png"])}, "row 0 (from 0) has no image_path"),
        ({"prompt": pa.array(["p", None])}, "row 1 (from 0) has no prompt"),
        (dict.fromkeys(("image_path", "prompt_id", "prompt", "rank"), pa.array([], pa.null())), "holds no row"),
    ],
)
def test_metadata_of_another_shape_is_named(tmp_path: Path, changes: dict[str, Any], part: str) -> None:
    columns = {"image_path": ["a.png", "b.png"], "prompt_id": ["1", "1"], "prompt": ["p", "p"], "rank": [1, 2]}
    file = tmp_path / "metadata.parquet"
    pq.write_table(pa.table({**columns, **changes}), file)
    text = refusal(lambda: read_imagereward(file, images="optional"))
    assert part in text and str(file) in text


@pytest.mark.parametrize("rank", [2**63, 10**30])
def test_a_rank_no_table_can_hold_is_named(tmp_path: Path, rank: int) -> None:
    file = annotate(tmp_path / "test.json", [reward(0, [1, 2, rank])])
    assert "image 2 has the rank" in refusal(lambda: read_imagereward(file, images="optional"))


def test_groups_whose_best_rank_is_not_1_keep_their_ranks(tmp_path: Path) -> None:
    file = annotate(tmp_path / "test.json", [reward(0, [3, 2, 5]), reward(1, [1, 2, 2])])
    with pytest.warns(UserWarning, match="image files are absent"):
        data = read_imagereward(file, images="optional")
    assert [order.tolist() for order in ranks_of(data)] == [[3, 2, 5], [1, 2, 2]], (
        "51 of the release's 466 groups do so"
    )
    assert list(data["human_preference"]) == [1, 0]
