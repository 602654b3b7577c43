"""hpslib.scores.sets: each image of a set is opened once, each prompt encoded once, in whatever order they are read."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from open_clip.tokenizer import SimpleTokenizer

from hpslib.data.images import lazy
from hpslib.scores.cosine import clip_scores
from hpslib.scores.scorers import Scorer
from hpslib.scores.sets import score_groups, score_table


@pytest.fixture
def scorer(tiny_clip) -> Scorer:
    return Scorer(tiny_clip, "crop", 100.0)


@pytest.fixture
def groups(noise_images, tmp_path: Path) -> list[dict[str, Any]]:
    """Five groups with 12 images, two of which have the same prompt; a batch of 5 cuts the second and the fourth."""
    rows, taken = [], 0
    for number, (prompt, size) in enumerate([("a cat", 3), ("a dog", 3), ("rain", 2), ("a cat", 3), ("sun", 1)]):
        files = []
        for image in noise_images[taken : taken + size]:
            files.append({"bytes": None, "path": f"{taken}.png"})
            image.save(tmp_path / f"{taken}.png")
            taken += 1
        rows.append({"id": str(number), "prompt": prompt, "images": files})
    return rows


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """The names of the images opened and the prompts tokenised, in their order."""
    seen: dict[str, list[Any]] = {"images": [], "prompts": []}
    open_image, tokenize = lazy.open_image, SimpleTokenizer.__call__

    def opening(item, *, where: str):
        seen["images"].append(where)
        return open_image(item, where=where)

    def tokenizing(self, texts, *more):
        seen["prompts"] += texts
        return tokenize(self, texts, *more)

    monkeypatch.setattr(lazy, "open_image", opening)
    monkeypatch.setattr(SimpleTokenizer, "__call__", tokenizing)
    return seen


def test_a_set_is_scored_with_each_prompt_encoded_and_each_image_opened_once(
    scorer, groups, calls, noise_images, tmp_path: Path
) -> None:
    done: list[tuple[int, int]] = []
    scores = score_groups(scorer, groups, tmp_path, batch_size=5, progress=lambda *now: done.append(now))
    assert calls["prompts"] == ["a cat", "a dog", "rain", "sun"]
    names = [f"group {row['id']!r}, image {k}" for row in groups for k in range(len(row["images"]))]
    assert sorted(calls["images"]) == sorted(names), "several threads open them, in any order"
    assert done == [(5, 12), (10, 12), (12, 12)] and [len(values) for values in scores] == [3, 3, 2, 3, 1]
    prompts = [row["prompt"] for row in groups for _ in row["images"]]
    expected = 100 * clip_scores(scorer.clip, noise_images[:12], prompts, mode="crop")
    np.testing.assert_allclose(np.concatenate(scores), expected, atol=1e-4)


def test_blur_is_measured_on_the_images_that_are_open_anyway(scorer, groups, calls, tmp_path: Path) -> None:
    expected = np.concatenate(score_groups(scorer, groups, tmp_path, batch_size=5))
    calls["images"].clear()
    calls["prompts"].clear()
    table = score_table(scorer, Dataset.from_list(groups), tmp_path, batch_size=5, blur=True)
    assert len(calls["images"]) == len(set(calls["images"])) == 12 and len(calls["prompts"]) == 4
    assert table.column("score").to_pylist() == expected.tolist() and not any(table.column("blurred").to_pylist())


def test_an_empty_prompt_stops_a_set_before_anything_is_scored(scorer, groups, calls, tmp_path: Path) -> None:
    groups[-1]["prompt"] = " "
    with pytest.raises(ValueError, match=r"^the prompt of image 11 \(from 0\) is empty \(1 in all\): give a text"):
        score_groups(scorer, groups, tmp_path, batch_size=5)
    assert calls == {"images": [], "prompts": []}


def test_an_image_that_occurs_again_is_opened_once(scorer, groups, calls, tmp_path: Path) -> None:
    twice = [*groups, {"id": "again", "prompt": "sun", "images": groups[0]["images"][:2]}]
    calls["images"].clear()
    scores = score_groups(scorer, twice, tmp_path, batch_size=5)
    assert len(calls["images"]) == 12
    alone = score_groups(scorer, twice[-1:], tmp_path)
    np.testing.assert_allclose(scores[-1], alone[0], atol=1e-4)
    np.testing.assert_allclose(
        np.concatenate(scores[:-1]), np.concatenate(score_groups(scorer, groups, tmp_path)), atol=1e-4
    )


def test_a_zip_file_is_read_from_its_first_image_to_its_last(scorer, calls, noise_images, tmp_path: Path) -> None:
    names = [f"part-{k % 3}.zip/{k}.png" for k in range(12)]
    for name, image in zip(names, noise_images, strict=False):
        image.save(tmp_path / "image.png")
        with zipfile.ZipFile(tmp_path / name.partition("/")[0], "a") as archive:
            archive.write(tmp_path / "image.png", name.partition("/")[2])
    rows = [
        {"id": str(k), "prompt": f"text {k}", "images": [{"bytes": None, "path": names[j]} for j in (2 * k, 2 * k + 1)]}
        for k in range(6)
    ]
    sequence: list[str] = []
    read = lazy.image_source

    def reading(item, root, *, where: str):
        sequence.append(item["path"].partition("/")[0])
        return read(item, root, where=where)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lazy, "image_source", reading)
        patch.setattr(lazy, "_threads", lambda: 1)
        scores = np.concatenate(score_groups(scorer, rows, tmp_path, batch_size=5))
    assert sequence == [f"part-{part}.zip" for part in (0, 1, 2) for _ in range(4)]
    prompts = [f"text {k // 2}" for k in range(12)]
    np.testing.assert_allclose(
        scores, 100 * clip_scores(scorer.clip, noise_images[:12], prompts, mode="crop"), atol=1e-4
    )


def test_images_of_two_groups_may_have_one_name(scorer, noise_images, tmp_path: Path) -> None:
    """As packed files and pools of several parts name them: a name tells an image from the others of its group only."""
    rows = []
    for k in range(2):
        files = []
        for j, image in enumerate(noise_images[2 * k : 2 * k + 2]):
            image.save(tmp_path / "image.png")
            files.append({"bytes": (tmp_path / "image.png").read_bytes(), "path": f"image_{j}.png"})
        rows.append({"id": str(k), "prompt": "a cat", "images": files})
    scores = np.concatenate(score_groups(scorer, rows, tmp_path))
    expected = 100 * clip_scores(scorer.clip, noise_images[:4], ["a cat"] * 4, mode="crop")
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    table = score_table(scorer, Dataset.from_list(rows), tmp_path)
    assert table["name"].to_pylist() == ["image_0.png", "image_1.png"] * 2
