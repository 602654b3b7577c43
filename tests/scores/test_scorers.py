"""hpslib.scores.scorers: one function for all kinds of images and scores; files of the hub are taken from its cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hpslib.data.images.lazy import as_images
from hpslib.scores.cosine import clip_scores
from hpslib.scores.scorers import (
    Scorer,
    hub_file,
    load_scorer,
    preference_scores,
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
