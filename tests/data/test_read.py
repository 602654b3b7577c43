"""hpslib.data.read: each release in files of its own format that the tests write, ImageReward's real file too."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hpslib.data.preferences import TIED, load_images, validate
from hpslib.data.rankings import as_pairs, decided, ranked_features, ranks_of
from hpslib.data.read import FORMATS, read_preferences
from hpslib.data.releases.hpd_v2 import read_hpd_v2_benchmark, read_hpd_v2_test, read_hpd_v2_train
from hpslib.data.releases.imagereward import read_imagereward

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "imagereward" / "test.json"


def picture(colour: int = 7) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (5, 4), (colour, 2, 3)).save(file, "PNG")
    return file.getvalue()


def put(folder: Path, *names: str) -> None:
    for k, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(k))


def zipped(path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for k, name in enumerate(names):
            file.writestr(name, picture(k))


def annotate(path: Path, rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))
    return path


def refusal(action: Callable[[], Any], kind: type[Exception] = ValueError) -> str:
    with pytest.raises(kind) as error:
        action()
    text = str(error.value)
    assert "\n" not in text and not text.endswith(".")
    return text


def paths(row: dict[str, Any]) -> list[str]:
    return [item["path"] for item in row["images"]]


# --- HPD v2, training pairs -------------------------------------------------------------------------------------------


def pair(number: int, marks: Any = (1, 0), **changes: Any) -> dict[str, Any]:
    row = {
        "human_preference": list(marks),
        "prompt": f"critter {number}",
        "file_path": [f"{number}a.jpg", f"{number}b.jpg"],
    }
    return {**row, **changes}


def test_training_pairs_have_a_choice_or_are_level(tmp_path: Path) -> None:
    rows = [pair(0), pair(1, (0, 1), user_hash="u"), pair(2, (1, 1)), pair(3, (0, 0))]
    rows[1]["image_path"] = rows[1].pop("file_path")
    file = annotate(tmp_path / "train.json", rows)
    put(tmp_path, *(f"{k}{letter}.jpg" for k in range(4) for letter in "ab"))
    data = read_hpd_v2_train(file)
    assert data.features == ranked_features()
    assert list(data["human_preference"]) == [0, 1, TIED, TIED]
    assert list(data["ranks"]) == [[1, 2], [2, 1], [1, 1], [1, 1]]
    assert list(data["id"]) == [f"train-{k:06d}" for k in range(4)]
    assert list(data["user_hash"]) == ["", "u", "", ""] and set(data["source"]) == {"hpd_v2_train"}
    validate(data)
    assert len(load_images(data[1], tmp_path)) == 2 and len(decided(data)[0]) == 2


def test_pictures_are_found_beside_the_file_or_in_its_folder(tmp_path: Path) -> None:
    file = annotate(tmp_path / "train.json", [pair(0), pair(1)])
    put(tmp_path / "train", "0b.jpg", "1a.jpg", "1b.jpg")
    with pytest.warns(UserWarning, match=r"1 of 4 image files are absent .* 'train/0a.jpg' in row 0"):
        data = read_hpd_v2_train(file, images="optional")
    assert paths(data[1]) == ["train/1a.jpg", "train/1b.jpg"]
    put(tmp_path / "train", "0a.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_images(read_hpd_v2_train(file)[0], tmp_path)[0].size == (5, 4)


def test_absent_pictures_are_refused_or_reported_once(tmp_path: Path) -> None:
    file = annotate(tmp_path / "train.json", [pair(0), pair(1)])
    text = refusal(lambda: read_hpd_v2_train(file), FileNotFoundError)
    assert f"{file}, row 0 (from 0): the image file '0a.jpg' is absent (4 of 4 image files are absent" in text
    assert "images='optional'" in text
    with pytest.warns(UserWarning, match="4 of 4 image files are absent") as caught:
        assert len(read_hpd_v2_train(file, images="optional")) == 2
    assert len(caught) == 1 and caught[0].filename == __file__
    assert "images='some' is neither" in refusal(lambda: read_hpd_v2_train(file, images="some"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "part"),
    [
        (pair(1, (1, 0, 0)), "human_preference is [1, 0, 0] where a 0 or 1 for each of 2 images was expected"),
        (pair(1, (2, 0)), "human_preference is [2, 0]"),
        (pair(1, human_preference=1), "human_preference is 1 where a 0 or 1"),
        (pair(1, file_path="a.jpg"), "file_path is a str where a list"),
        ({"prompt": "x", "human_preference": [1, 0]}, "it has no file_path or image_path"),
        ({"file_path": ["a", "b"]}, "it has no human_preference, prompt"),
        ([1, 2], "it is a list where an object"),
        (pair(1, prompt=" "), "prompt is empty"),
        (pair(1, file_path=["a.jpg", "a.jpg"]), "images 0 and 1 are the same file"),
        (pair(1, file_path=["../a.jpg", "b.jpg"]), "image 0: the path '../a.jpg' has a '..'"),
        (pair(1, user_hash=3), "user_hash is a int"),
        (pair(1, (1,), file_path=["a.jpg"]), "the group holds 1 image"),
    ],
)
def test_a_malformed_pair_is_named(tmp_path: Path, row: Any, part: str) -> None:
    file = annotate(tmp_path / "train.json", [pair(0), row, row])
    text = refusal(lambda: read_hpd_v2_train(file, images="optional"))
    assert f"{file}, row 1 (from 0): {part}" in text and "1 more row is malformed" in text


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"[{", "is not readable as JSON"),
        (b"{}", "holds a dict where a list"),
        (b"[]", "holds no row"),
        (b"\xff[", "JSON"),
    ],
)
def test_what_is_no_list_of_rows_is_refused(tmp_path: Path, content: bytes, part: str) -> None:
    file = tmp_path / "test.json"
    file.write_bytes(content)
    for reader in (read_hpd_v2_train, read_hpd_v2_test, read_imagereward):
        text = refusal(lambda reader=reader: reader(file))
        assert part in text and str(file) in text
    assert "does not exist" in refusal(lambda: read_hpd_v2_test(tmp_path / "no.json"), FileNotFoundError)


# --- HPD v2, ranked test set ------------------------------------------------------------------------------------------


def ranking(number: int, rank: Any, raters: list[Any] | None = None, **changes: Any) -> dict[str, Any]:
    row = {"prompt": f"critter {number}", "image_path": [f"{number}_{k}.jpg" for k in range(3)], "rank": rank}
    if raters is not None:
        row["raw_annotations"] = [{"rank": one, "user_hash": f"u{k}"} for k, one in enumerate(raters)]
    return {**row, **changes}


def test_ranks_are_brought_to_one_for_the_best_from_wherever_they_count(tmp_path: Path) -> None:
    rows = [
        ranking(0, [1, 0, 2], [[2, 0, 1], [0, 1, 2]]),
        ranking(1, [2, 1, 3], [[3, 1, 2]]),
        ranking(2, [2.4, 1.1, 2.4], []),
        ranking(3, [0, 0, 1]),
    ]
    rows[1]["raw_annotation"] = rows[1].pop("raw_annotations")  # the name in the project's description
    file = annotate(tmp_path / "test.json", rows)
    put(tmp_path / "test", *(f"{k}_{n}.jpg" for k in range(4) for n in range(3)))
    data = read_hpd_v2_test(file)
    assert list(data["ranks"]) == [[2, 1, 3], [2, 1, 3], [2, 1, 2], [1, 1, 3]]
    assert list(data["human_preference"]) == [1, 1, 1, TIED]
    assert list(data["rater_ranks"]) == [[[3, 1, 2], [1, 2, 3]], [[3, 1, 2]], [], []]
    assert list(data["raters"]) == [["u0", "u1"], ["u0"], [], []]
    assert list(data.features) == [*ranked_features(), "rater_ranks", "raters"]
    assert paths(data[3]) == ["test/3_0.jpg", "test/3_1.jpg", "test/3_2.jpg"]
    validate(data)
    pairs, tied = as_pairs(data)
    assert (len(pairs), tied) == (3 + 3 + 2 + 2, 2)


@pytest.mark.parametrize(
    ("row", "part"),
    [
        (ranking(1, [1, 2]), "rank is [1, 2] where a list of 3 numbers"),
        (ranking(1, "123"), "rank is '123'"),
        (ranking(1, [1, None, 2]), "rank is [1, None, 2]"),
        (ranking(1, [1, float("nan"), 2]), "rank is [1, nan, 2]"),
        (ranking(1, [1, 2, 3], [[1, 2, 3], [1, 2]]), "the rank of rater 1 is [1, 2] where a list of 3"),
        (ranking(1, [1, 2, 3], raw_annotations=[{"rank": [1, 2, 3]}]), "raw_annotations is no list of objects"),
    ],
)
def test_a_malformed_ranking_is_named(tmp_path: Path, row: Any, part: str) -> None:
    file = annotate(tmp_path / "test.json", [ranking(0, [1, 2, 3]), row])
    assert f"{file}, row 1 (from 0): {part}" in refusal(lambda: read_hpd_v2_test(file, images="optional"))


# --- HPD v2, benchmark ------------------------------------------------------------------------------------------------


def benchmark(folder: Path) -> tuple[Path, Path]:
    for style in ("anime", "photo"):
        annotate(folder / f"{style}.json", [f"a {style} of a cat", f"a {style} of a dog"])
        for model in ("sdv2", "DALLE"):
            put(folder / "benchmark_imgs", *(f"{model}/{style}/{k:05d}.jpg" for k in range(2)))
    (folder / "benchmark_imgs" / "notes.txt").write_text("no model")
    return folder / "benchmark_imgs", folder


def test_the_benchmark_has_one_picture_of_every_model_for_each_prompt(tmp_path: Path) -> None:
    images, prompts = benchmark(tmp_path)
    data = read_hpd_v2_benchmark(images, prompts, styles=["anime", "photo"])
    assert list(data["id"]) == ["anime-00000", "anime-00001", "photo-00000", "photo-00001"]
    assert data[3]["prompt"] == "a photo of a dog" and data[3]["style"] == "photo"
    assert paths(data[3]) == ["DALLE/photo/00001.jpg", "sdv2/photo/00001.jpg"] and data[3]["models"] == [
        "DALLE",
        "sdv2",
    ]
    assert len(load_images(data[0], images)) == 2


def test_an_incomplete_benchmark_is_refused_or_reported(tmp_path: Path) -> None:
    images, prompts = benchmark(tmp_path)
    assert "concept-art.json does not exist" in refusal(
        lambda: read_hpd_v2_benchmark(images, prompts), FileNotFoundError
    )
    (images / "sdv2/photo/00000.jpg").unlink()
    text = refusal(lambda: read_hpd_v2_benchmark(images, prompts, styles=["photo"]), FileNotFoundError)
    assert "row 0 (from 0): the image file 'sdv2/photo/00000.jpg' is absent (1 of 4" in text
    with pytest.warns(UserWarning, match="1 of 4 image files"):
        assert len(read_hpd_v2_benchmark(images, prompts, "optional", ["photo"])) == 2
    assert "must be some of anime" in refusal(lambda: read_hpd_v2_benchmark(images, prompts, styles=["comic"]))
    assert "is no folder" in refusal(lambda: read_hpd_v2_benchmark(tmp_path / "no", prompts), FileNotFoundError)
    (tmp_path / "empty").mkdir()
    assert "no folder of a model" in refusal(
        lambda: read_hpd_v2_benchmark(tmp_path / "empty", prompts), FileNotFoundError
    )
    annotate(tmp_path / "photo.json", ["fine", " "])
    assert "photo.json, row 1 (from 0): this is no prompt but ' '" in refusal(
        lambda: read_hpd_v2_benchmark(images, prompts, styles=["photo"])
    )


# --- ImageReward ------------------------------------------------------------------------------------------------------


def reward(number: int, order: Any, **changes: Any) -> dict[str, Any]:
    names = [f"part-1/images/{number:04d}/{k}.webp" for k in range(3)]
    return {"id": f"1-{number:04d}", "prompt": f"critter {number}", "generations": names, "ranking": order, **changes}


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
    assert f"{file}, row 1 (from 0): {part}" in refusal(lambda: read_imagereward(file, images="optional"))


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
    pairs, tied = as_pairs(data)
    assert len(pairs) == 6399, "the number of pairs that ImageReward's table 3 counts"
    assert len(pairs) + tied == sum(n * (n - 1) // 2 for n in map(len, data["ranks"]))


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
    assert "row 1 (from 0): prompt_id 'a' has had another prompt before" in refusal(lambda: read_imagereward(file))
    file = metadata(tmp_path / "m.parquet", [one("a", "0", 1), one("a", "1", 2), one("b", "2", 1)])
    assert "row 1 (from 0): the group holds 1 image" in refusal(lambda: read_imagereward(file))
    file = metadata(tmp_path / "m.parquet", [one("a", "0", 1), one("a", "1", 2)])
    assert "2 of 2 image files are absent" in refusal(lambda: read_imagereward(file), FileNotFoundError)
    file.write_bytes(file.read_bytes()[:-100])
    assert f"{file} is not readable as parquet" in refusal(lambda: read_imagereward(file))
    pq.write_table(pa.table({"prompt": ["a"]}), file)
    assert "the column image_path, prompt_id, rank is missing" in refusal(lambda: read_imagereward(file))
    assert "does not exist" in refusal(lambda: read_imagereward(tmp_path / "no.parquet"), FileNotFoundError)


# --- the front door ---------------------------------------------------------------------------------------------------


def test_every_format_is_read_by_its_name(tmp_path: Path) -> None:
    put(tmp_path, *(f"{k}{letter}.jpg" for k in range(2) for letter in "ab"))
    v1 = {"id": 1, "user_hash": "u", "contain_name": False, **pair(0), "human_preference": 1}
    table = tmp_path / "votes.csv"
    table.write_text("id,prompt,image,chosen\n1,a cat,0a.jpg,0\n1,a cat,0b.jpg,1\n")
    parquet = tmp_path / "pick.parquet"
    columns = {"caption": ["a cat"], "jpg_0": [picture()], "jpg_1": [picture(1)], "label_0": [0.0], "label_1": [1.0]}
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
    assert text == f"format='csv' is unknown, use one of {', '.join(FORMATS)}"
