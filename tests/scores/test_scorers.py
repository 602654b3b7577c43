"""hpslib.scores.scorers: one function for all kinds of images and scores; files of the hub are taken from its cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from open_clip.tokenizer import SimpleTokenizer

from hpslib.data.groups import flatten_groups
from hpslib.data.images import lazy
from hpslib.data.images.lazy import as_images
from hpslib.scores.cosine import clip_scores
from hpslib.scores.scorers import (
    Scorer,
    _scored,
    hub_file,
    load_scorer,
    preference_scores,
    score_groups,
    score_table,
    truncated_prompts,
)


@pytest.fixture
def scorer(tiny_clip) -> Scorer:
    return Scorer(tiny_clip, "crop", 100.0)


def test_every_form_of_images_gives_the_same_scores(scorer, noise_images, tmp_path: Path) -> None:
    images = noise_images[:4]
    arrays = [np.asarray(image) for image in images]
    for k, image in enumerate(images):
        image.save(tmp_path / f"{k}.png")
    (tmp_path / "notes.txt").write_text("no image")
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
    prompts = ["a cat", "a dog", "a cat", "rain"]
    expected = 100 * clip_scores(scorer.clip, images, prompts, mode="crop")
    forms = {
        "files": [tmp_path / f"{k}.png" for k in range(4)],
        "names": [str(tmp_path / f"{k}.png") for k in range(4)],
        "bytes": [(tmp_path / f"{k}.png").read_bytes() for k in range(4)],
        "arrays": arrays,
        "one array": np.stack(arrays),
        "uint8 tensor": pixels,
        "float tensor": pixels.float() / 255,
        "folder": tmp_path,
        "lazy": as_images(tmp_path),
    }
    for name, form in forms.items():
        np.testing.assert_array_equal(preference_scores(scorer, form, prompts), expected, err_msg=name)
    one = preference_scores(scorer, tmp_path, "rain", batch_size=3)
    np.testing.assert_allclose(one, 100 * clip_scores(scorer.clip, images, ["rain"] * 4, mode="crop"), atol=1e-4)


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (
            torch.zeros(2, 4, 8, 8),
            r"^a tensor of shape \(2, 4, 8, 8\) holds no images: give \(n, 3, height, width\)\.$",
        ),
        (
            torch.full((1, 3, 8, 8), -1.0),
            "^a float tensor of images leaves the range from 0 to 1: undo the normalisation",
        ),
        (torch.full((1, 3, 8, 8), torch.nan), "^a float tensor of images leaves the range from 0 to 1"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int64), r"^a tensor of type torch\.int64"),
        ([np.zeros((8, 8), dtype=np.uint8)], r"^image 0 is an array of shape \(8, 8\), uint8: give \(height"),
        (np.zeros((1, 8, 8, 3)), r"^image 0 is an array of shape \(8, 8, 3\), float64"),
        ([b"no picture"], r"^image 0 is no intact image of a format in JPEG"),
    ],
)
def test_other_forms_are_refused(images, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        as_images(images)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no folder with images in it"):
        as_images(tmp_path)


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


def test_only_a_batch_of_images_is_open_at_a_time(scorer, groups, calls, tmp_path: Path) -> None:
    opened = []
    for images, _ in _scored(scorer, *flatten_groups(groups, tmp_path)[:2], batch_size=5):
        opened.append((len(images), len(calls["images"])))
    assert opened == [(5, 5), (5, 10), (2, 12)]


def test_an_empty_prompt_stops_a_set_before_anything_is_scored(scorer, groups, calls, tmp_path: Path) -> None:
    groups[-1]["prompt"] = " "
    with pytest.raises(ValueError, match=r"^the prompt of image 11 \(from 0\) is empty \(1 in all\): give a text"):
        score_groups(scorer, groups, tmp_path, batch_size=5)
    assert calls == {"images": [], "prompts": []}


def test_prompts_over_the_context_are_counted(scorer) -> None:
    assert truncated_prompts(scorer, ["short", "word " * 40, "rain"]) == [1]


def test_unknown_kinds_and_a_missing_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'hps_v9' is unknown: use one of clip, hps_v1, .*imagereward, hpslib"):
        load_scorer("hps_v9", tmp_path / "x")
    with pytest.raises(ValueError, match="give the folder of bert-base-uncased as tokenizer"):
        load_scorer("imagereward", tmp_path / "ImageReward.pt")


def test_our_own_folder_is_a_kind(tiny_clip_folder: Path, noise_images) -> None:
    scorer = load_scorer("hpslib", tiny_clip_folder)
    expected = 100 * clip_scores(scorer.clip, noise_images[:3], ["a cat"] * 3, mode="pad")
    np.testing.assert_array_equal(preference_scores(scorer, noise_images[:3], "a cat"), expected)


def test_a_file_in_the_hub_cache_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    commit = "0" * 40
    snapshot = tmp_path / "models--xswu--HPSv2" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "HPS_v2.1_compressed.pt").write_bytes(b"weights")
    (tmp_path / "models--xswu--HPSv2" / "refs").mkdir()
    (tmp_path / "models--xswu--HPSv2" / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name in ("hf://xswu/HPSv2/HPS_v2.1_compressed.pt", Path("hf://xswu/HPSv2/HPS_v2.1_compressed.pt")):
        assert hub_file(name).read_bytes() == b"weights"
    assert hub_file("a/b.pt") == Path("a/b.pt")
    with pytest.raises(FileNotFoundError, match=r"^hf://xswu/HPSv2/absent\.pt is not in the local hub cache and could"):
        hub_file("hf://xswu/HPSv2/absent.pt")
    with pytest.raises(ValueError, match=r"names no file on the hub: write hf://owner/name/file"):
        hub_file("hf://xswu/HPSv2")
