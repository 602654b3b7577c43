"""hpslib.data.releases.hpd_v2: pairs, rankings and the benchmark, in files of the release's format."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from release_files import annotate, pair, paths, put, ranking, refusal

from hpslib.data.preferences import TIED, load_images, validate
from hpslib.data.rankings import decided, ranked_features
from hpslib.data.releases.hpd_v2 import read_hpd_v2_benchmark, read_hpd_v2_test, read_hpd_v2_train

# --- training pairs --------------------------------------------------------------------------------------------------


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
        (pair(1, file_path=["../a.jpg", "b.jpg"]), "in image 0 the path '../a.jpg' has a '..'"),
        (pair(1, user_hash=3), "user_hash is a int"),
        (pair(1, (1,), file_path=["a.jpg"]), "the group holds 1 image"),
    ],
)
def test_a_malformed_pair_is_named(tmp_path: Path, row: Any, part: str) -> None:
    file = annotate(tmp_path / "train.json", [pair(0), row, row])
    text = refusal(lambda: read_hpd_v2_train(file, images="optional"))
    assert f"{file}, row 1 (from 0) is malformed, since {part}" in text and text.endswith(
        ": correct or remove this row and 1 more malformed row."
    )


# --- ranked test set -------------------------------------------------------------------------------------------------


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
    assert f"{file}, row 1 (from 0) is malformed, since {part}" in refusal(
        lambda: read_hpd_v2_test(file, images="optional")
    )


# --- benchmark -------------------------------------------------------------------------------------------------------


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
    assert "styles=['comic'] names no style, or an unknown one: use some of anime" in refusal(
        lambda: read_hpd_v2_benchmark(images, prompts, styles=["comic"])
    )
    assert "is no folder" in refusal(lambda: read_hpd_v2_benchmark(tmp_path / "no", prompts), FileNotFoundError)
    (tmp_path / "empty").mkdir()
    assert "no folder of a model" in refusal(
        lambda: read_hpd_v2_benchmark(tmp_path / "empty", prompts), FileNotFoundError
    )
    annotate(tmp_path / "photo.json", ["fine", " "])
    assert "photo.json, row 1 (from 0) is no prompt but ' ': download" in refusal(
        lambda: read_hpd_v2_benchmark(images, prompts, styles=["photo"])
    )


@pytest.mark.parametrize("rank", [10**30, 2**53, float("nan"), float("inf"), True, "1", None])
def test_a_rank_that_is_no_ordinary_number_is_named(tmp_path: Path, rank: Any) -> None:
    file = annotate(tmp_path / "test.json", [ranking(0, [rank, 1, 2])])
    assert "row 0 (from 0) is malformed, since rank is [" in refusal(lambda: read_hpd_v2_test(file, images="optional"))


@pytest.mark.parametrize("user", [None, ["a"], 1.5, "\ud83d"])
def test_a_rater_without_a_name_is_refused(tmp_path: Path, user: Any) -> None:
    raw = [{"rank": [1, 2, 3], "user_hash": user}]
    file = annotate(tmp_path / "test.json", [ranking(0, [1, 2, 3], raw_annotations=raw)])
    assert "a user_hash that is no text" in refusal(lambda: read_hpd_v2_test(file, images="optional"))
