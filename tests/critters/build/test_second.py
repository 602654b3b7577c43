"""hpslib.critters.build.second: the bank, the eyes and the whole build of the second edition, very small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpslib.critters.attributes import ATTRIBUTES, FLAWS
from hpslib.critters.build.bank import attribute_labels
from hpslib.critters.build.second import __main__ as command
from hpslib.critters.build.second import bank, networks, world
from hpslib.critters.build.second.bank import bank_captions, bank_critters, render_bank, truth_labels
from hpslib.critters.build.train import train_eye
from hpslib.critters.captions import read_caption
from hpslib.critters.eyes import load_eye, save_eye
from hpslib.critters.second.attributes import QUALITIES, random_critter
from hpslib.critters.second.draw import draw
from hpslib.critters.second.eyes import Eye, halved, look

SMALL = {
    "bank": 24,
    "whole": 20,
    "autoencoder_squares": 2,
    "autoencoder_steps": 2,
    "clip_steps": 1,
    "clip_image_steps": 1,
    "teacher_steps": 1,
    "reconstructions": 8,
    "eye_steps": {"a": 1, "b": 1},
    "eye_widths": {"a": 4, "b": 3},
    "latents": 16,
    "unet_steps": 2,
    "unet_uncurated": [{"steps": 1, "odds": [2, 2, 2, 2, 2, 1], "rates": [0.001, 0.001], "decay": 0.5}],
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank, "_CHUNK", 8)
    monkeypatch.setattr(world.World, "settings", {**world.SETTINGS, **SMALL})
    monkeypatch.setattr(networks, "AUTOENCODER", {**networks.AUTOENCODER, "block_out_channels": [8] * 5})
    vision = {**networks.CLIP["vision_cfg"], "layers": 1, "width": 32}
    text = {**networks.CLIP["text_cfg"], "layers": 1, "width": 32, "heads": 1}
    monkeypatch.setattr(networks, "CLIP", {**networks.CLIP, "embed_dim": 16, "vision_cfg": vision, "text_cfg": text})
    unet = {"block_out_channels": [16, 16], "cross_attention_dim": 32}
    monkeypatch.setattr(networks, "UNET", {**networks.UNET, **unet})


def test_each_picture_is_drawn_from_seed_and_index_whole_and_halved(tmp_path: Path) -> None:
    whole, half = render_bank(tmp_path, 20, seed=5, whole=11, workers=1)
    assert whole.shape == (11, 128, 128, 3) and half.shape == (20, 64, 64, 3)
    for index in (0, 7, 8, 10, 19):
        rng = np.random.default_rng([5, index])
        drawn = np.asarray(draw(random_critter(rng), rng))
        mean = drawn.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
        np.testing.assert_array_equal(half[index], np.floor(mean + 0.5))
        if index < 11:
            np.testing.assert_array_equal(whole[index], drawn)


def test_a_bank_that_lost_a_chunk_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    never = [np.array(part) for part in render_bank(tmp_path / "never", 20, seed=3, whole=12, workers=1)]
    folder = tmp_path / "killed" / "bank-3-20-12"
    folder.mkdir(parents=True)
    bank._render_chunk(folder, 3, 0, 8, 12)
    bank._render_chunk(folder, 3, 16, 20, 12)
    again = render_bank(tmp_path / "killed", 20, seed=3, whole=12, workers=1)
    for one, two in zip(never, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert sorted(path.name for path in folder.iterdir()) == ["half.npy", "whole.npy"]
    monkeypatch.setattr(bank, "_render_chunk", lambda *_: pytest.fail("drawn once more"))
    render_bank(tmp_path / "killed", 20, seed=3, whole=12, workers=1)


def test_labels_and_captions_tell_the_truth_about_the_bank() -> None:
    critters = bank_critters(40, seed=2)
    truth, attributes = truth_labels(critters), attribute_labels(critters)
    for row, critter in enumerate(critters):
        assert {flaw for flaw, there in zip(FLAWS, truth[row]) if there} == set(critter.flaws)
        np.testing.assert_allclose(truth[row, len(FLAWS) :], critter.qualities, rtol=1e-6)
        assert [values[k] for values, k in zip(ATTRIBUTES.values(), attributes[row])] == [
            getattr(critter, name) for name in ATTRIBUTES
        ]
    for critter, text in zip(critters, bank_captions(critters, 7, body_rate=0.0), strict=True):
        assert read_caption(text)["colour"] == critter.colour
    assert bank_captions(critters, 7, body_rate=0.0) != bank_captions(critters, 8, body_rate=0.0)


def test_an_eye_learns_qualities_and_survives_saving(tmp_path: Path) -> None:
    critters = bank_critters(64, seed=4)
    pictures = np.stack([np.asarray(draw(c, np.random.default_rng(k))) for k, c in enumerate(critters)])
    labels = attribute_labels(critters), truth_labels(critters)
    bank64 = halved(pictures)
    eye: Any = train_eye(tmp_path, [bank64], labels, name="eye", width=8, steps=60, batch=32, build=Eye)
    save_eye(eye, tmp_path / "eye.safetensors")
    found, kept = look(eye, pictures), look(load_eye(tmp_path / "eye.safetensors", Eye), pictures)
    assert found.flaws.shape == (64, 6) and found.qualities.shape == (64, 6) and found.vividness.shape == (64,)
    np.testing.assert_allclose(found.qualities, kept.qualities, atol=0.02)  # float16 on disk
    light = labels[1][:, len(FLAWS) + QUALITIES.index("light")]
    assert np.corrcoef(found.quality("light"), light)[0, 1] > 0.5
    from PIL import Image

    same = look(eye, [Image.fromarray(picture) for picture in pictures[:5]])
    np.testing.assert_allclose(same.qualities, found.qualities[:5], atol=1e-5)
    with pytest.raises(ValueError, match=r"shape \(2, 64, 64, 3\): give \(n, 128, 128, 3\)"):
        look(eye, bank64[:2])
    with pytest.raises(ValueError, match="no images to look at: hand over at least one"):
        look(eye, pictures[:0])


def test_the_whole_build_ends_with_a_pipeline_that_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hpslib.adaptation.sampling import generate
    from hpslib.critters.build.tokenizer import load_tokenizer

    learned = world.World(tmp_path / "cache", tmp_path / "cache" / "data").tokenizer()  # as the command does
    assert len(load_tokenizer(learned).encoder) == networks.CLIP["text_cfg"]["vocab_size"]
    for _ in range(2):  # the second time everything is there
        command.main(["--cache", str(tmp_path / "cache"), "--threads", "1", "--until", "pipeline"])
        for name in ("train_autoencoder", "train_clip", "train_eye", "train_unet"):
            for module in (world, world.first):
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("trained once more"))
    build = world.World(tmp_path / "cache")
    assert build.latents().shape == (16, 16, 8, 8) and build.reconstructions().shape == (8, 64, 64, 3)
    images = generate(build.pipeline(), ["a happy red round critter on a beach"], [1], steps=2, guidance_scale=2.0)
    assert images.shape == (1, 128, 128, 3) and images.dtype == np.uint8 and images.std() > 0
    assert torch.isfinite(build.latents()).all()
