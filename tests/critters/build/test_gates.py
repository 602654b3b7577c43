"""hpslib.critters.build.gates: each measure against a case whose answer is known."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hpslib.critters.assets import data_folder
from hpslib.critters.attributes import ATTRIBUTES, FLAWS
from hpslib.critters.build import gates
from hpslib.critters.build.bank import attribute_labels, flaw_labels
from hpslib.critters.build.gates import (
    CONTROLS,
    autoencoder_psnr,
    gate_clip,
    gate_eyes,
    gate_generator,
    reconstruct,
    shortcomings,
)
from hpslib.critters.captions import read_caption
from hpslib.critters.draw import fresh_drawings
from hpslib.critters.eyes import Seen


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def hot(index: int, count: int) -> np.ndarray:
    return np.eye(count)[index]


def test_fresh_drawings_are_fresh_for_each_seed() -> None:
    images, critters = fresh_drawings(20, seed=1)
    again, same = fresh_drawings(20, seed=1)
    other, _ = fresh_drawings(20, seed=2)
    assert images.shape == (20, 64, 64, 3) and images.dtype == np.uint8
    assert np.array_equal(images, again) and critters == same and not np.array_equal(images, other)
    assert not any(critter.flaws for critter in fresh_drawings(20, 1, flaw_rate=0.0)[1])


def test_psnr_is_that_of_torchmetrics(rng: np.random.Generator) -> None:
    from torchmetrics.functional.image import peak_signal_noise_ratio

    images = rng.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    again = np.clip(images + rng.normal(0, [[[[5]]], [[[9]]], [[[3]]], [[[20]]], [[[1]]]], images.shape), 0, 255)
    again = again.astype(np.uint8)
    one, two = (torch.from_numpy(a).float() for a in (images, again))
    each = [peak_signal_noise_ratio(two[k], one[k], data_range=255.0).item() for k in range(5)]
    assert autoencoder_psnr(images, again) == pytest.approx(np.mean(each), abs=1e-3)


def test_a_perfect_autoencoder_reconstructs_every_picture(rng: np.random.Generator) -> None:
    vae = SimpleNamespace(
        encode=lambda x: SimpleNamespace(latent_dist=SimpleNamespace(mean=x)),
        decode=lambda z: SimpleNamespace(sample=z),
    )
    images = rng.integers(0, 256, (70, 8, 8, 3), dtype=np.uint8)  # more than one batch
    assert np.array_equal(reconstruct(SimpleNamespace(vae=vae), images), images)
    vae.decode = lambda z: SimpleNamespace(sample=z * 1e6)
    assert set(np.unique(reconstruct(SimpleNamespace(vae=vae), images))) <= {0, 255}


class Oracle(nn.Module):
    """An eye that is told the truth, in order; ``sign`` -1 makes it wrong about every flaw."""

    def __init__(self, critters: list[Any], sign: float = 1.0) -> None:
        super().__init__()
        kinds = attribute_labels(critters)
        parts = [9 * hot(kinds[:, k], len(values)) for k, values in enumerate(ATTRIBUTES.values())]
        self.logits = torch.from_numpy(np.hstack([*parts, sign * (flaw_labels(critters) - 0.5)])).float()
        self.place = 0

    def forward(self, pixels: Tensor) -> Tensor:
        self.place += len(pixels)
        return self.logits[self.place - len(pixels) : self.place]


def test_an_eye_that_knows_passes_and_one_that_is_wrong_does_not() -> None:
    images, critters = fresh_drawings(300, seed=0, flaw_rate=0.8)
    report = gate_eyes({"right": Oracle(critters), "wrong": Oracle(critters, -1.0)}, images, critters)
    assert report["right"] == {"flaw_auc": dict.fromkeys(FLAWS, 1.0), "attributes": dict.fromkeys(ATTRIBUTES, 1.0)}
    assert report["wrong"]["flaw_auc"] == dict.fromkeys(FLAWS, 0.0)


def test_clip_features_that_hold_everything_pass_and_noise_is_chance(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    images, critters = fresh_drawings(300, seed=0, flaw_rate=0.8)

    def attributes_of(critter: dict[str, str]) -> np.ndarray:
        return np.concatenate([hot(values.index(critter[name]), len(values)) for name, values in ATTRIBUTES.items()])

    def unit(rows: Any) -> Tensor:
        return nn.functional.normalize(torch.from_numpy(np.asarray(rows)).float(), dim=-1)

    def texts(clip: Any, captions: list[str]) -> Tensor:
        return unit([np.concatenate([attributes_of(read_caption(text)), np.zeros(6)]) for text in captions])

    seen = unit([np.concatenate([attributes_of(vars(c)), f]) for c, f in zip(critters, flaw_labels(critters))])
    monkeypatch.setattr("hpslib.scores.clip.encode_prompts", texts)
    monkeypatch.setattr("hpslib.scores.clip.encode_images", lambda clip, pictures: seen)
    report = gate_clip(None, images, critters)
    assert min(report["flaw_auc"].values()) > 0.95 and min(report["zero_shot"].values()) > 0.95
    monkeypatch.setattr("hpslib.scores.clip.encode_images", lambda clip, pictures: unit(rng.normal(size=seen.shape)))
    blind = gate_clip(None, images, critters)
    assert 0.3 < np.mean(list(blind["flaw_auc"].values())) < 0.7
    assert blind["recall_at_1_of_1000"] < 0.05 < 0.5 < report["recall_at_1_of_1000"] * 10
    assert max(blind["zero_shot"].values()) < 0.5


def test_the_generators_figures_are_shares_of_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def generate(pipe: Any, prompts: list[str], seeds: range, **settings: Any) -> np.ndarray:
        asked.append({"prompts": prompts, "seeds": list(seeds), **settings})
        return np.zeros((len(prompts), 64, 64, 3), np.uint8)

    def look(eye: Any, images: np.ndarray) -> Seen:
        wanted = [read_caption(prompt) for prompt in asked[-1]["prompts"]]
        attributes = {
            name: np.stack([hot(values.index(w[name]), len(values)) for w in wanted])
            for name, values in ATTRIBUTES.items()
        }
        attributes["shape"][:5] = np.roll(attributes["shape"][:5], 1, axis=1)  # the first five have the wrong shape
        flaws = np.zeros((20, 6))
        flaws[:4, 1], flaws[2:6, 2] = 0.9, 0.6
        return Seen(attributes, flaws, np.zeros(20))

    monkeypatch.setattr("hpslib.adaptation.sampling.generate", generate)
    monkeypatch.setattr(gates, "look", look)
    settings = SimpleNamespace(sampling_steps=7, guidance_scale=2.5)
    report = gate_generator(None, None, settings, count=20)
    assert set(report) == {"empty", "identifier", "sharpness"}
    assert report["sharpness"] == {"steepest": 0.0, "strong_edges": 0.0, "noise": 0.0}, "black beside drawings"
    assert report["empty"]["flawed"] == 0.3
    assert report["empty"]["flaws"] == {**dict.fromkeys(FLAWS, 0.0), FLAWS[1]: 0.2, FLAWS[2]: 0.2}
    assert report["empty"]["caption_match"] == {**dict.fromkeys(ATTRIBUTES, 1.0), "shape": 0.75}
    one, two = asked
    assert (one.pop("negative_prompt"), two.pop("negative_prompt")) == ("", "Weird image. ")
    assert one == two and one["steps"] == 7 and one["guidance_scale"] == 2.5, "the same prompts and the same noise"


def passing() -> dict[str, Any]:
    """Figures that pass every gate, barely."""
    judged = {
        "chance": 0.3, "clip": [0.31, 0.28, 0.34], "hps_minus_clip": [0.08, 0.01, 0.15],
        "hps_minus_clip_without_washed_out": [0.08, 0.01, 0.15], "expected": {"hps": 0.41, "second_rater": 0.41},
    }  # fmt: skip
    best = {"win_rate": [0.6, 0.51, 0.7], "flawed_change": [-0.25, -0.4, -0.1], "match_change": [-0.01, -0.02, 0.0]}
    alike = {"chosen_low": 1.0, "chosen_high": 2.0, "rejected_low": 1.9, "rejected_high": 3.0}
    return {
        "gate_1": {
            "autoencoder_psnr_db": 28.0,
            "reconstructions": {"recall_at_1_of_1000": 0.5, "flaw_auc": dict.fromkeys(FLAWS, 0.8)},
        },
        "gate_2": {
            "empty": {"flawed": 0.5, "caption_match": dict.fromkeys(ATTRIBUTES, 0.85)}, "identifier": {"flawed": 0.55},
        },
        "gate_3": [{"seed": seed, **copy.deepcopy(judged)} for seed in (0, 1, 2)],
        "gate_4": {"IS": dict(alike), "FID": dict(alike)},
        "gate_5": [{"seed": seed, "conditions": {name: copy.deepcopy(best) for name in CONTROLS}} for seed in range(3)],
    }  # fmt: skip


def test_the_shipped_world_passes_every_gate_for_three_seeds() -> None:
    measured = json.loads((data_folder() / "manifest.json").read_text(encoding="utf-8"))["gates"]
    assert shortcomings(measured) == []
    assert [report["seed"] for gate in ("gate_3", "gate_5") for report in measured[gate]] == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("gate_1", "autoencoder_psnr_db"), 27.9, "the autoencoder reaches 28 dB"),
        (("gate_1", "reconstructions", "flaw_auc", "mouth"), 0.7, r"the flaw mouth"),
        (("gate_2", "empty", "flawed"), 0.62, "35 % to 60 %"),
        (("gate_2", "empty", "caption_match", "scene"), 0.8, "follow the scene"),
        (("gate_3", 1, "hps_minus_clip"), [0.09, -0.01, 0.2], "interval excludes zero, seed 1"),
        (("gate_3", 0, "clip"), [0.5, 0.4, 0.6], "near chance, seed 0"),
        (("gate_4", "FID", "chosen_high"), 1.8, "FID intervals of chosen and rejected"),
        (("gate_4", "IS", "rejected_high"), 0.9, "IS intervals of chosen and rejected"),
        (("gate_5", 2, "conditions", "adapted + negative", "match_change"), [-0.1, -0.2, -0.01], "match does not fall"),
        (("gate_5", 0, "conditions", "adapted + negative", "win_rate"), [0.7, 0.49, 0.9], "above 50 %, seed 0"),
    ],
)
def test_whatever_falls_short_is_named(path: tuple[Any, ...], value: Any, sentence: str) -> None:
    gates = passing()
    place: Any = gates
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (found,) = shortcomings(gates)
    assert sentence in found
    assert shortcomings(passing()) == []


def test_a_gate_that_was_not_measured_is_not_passed() -> None:
    gates = passing()
    del gates["gate_4"]
    assert shortcomings(gates) == ["gate_4 was not measured"]
