"""hpslib.critters.build.learning_gates: which trainings are compared, and what a curve of best-of-n says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hpslib.critters.assets import data_folder
from hpslib.critters.build import learning_gates as gates
from hpslib.critters.build.learning_gates import FEW, SIZES, gate_learning, gate_target, within_and_across
from hpslib.data.groups import read_groups
from hpslib.data.releases.hpd_v1 import read_hpd
from hpslib.lessons.scale import mini


def test_within_and_across_by_hand() -> None:
    scores = [np.array([1.0, 2.0]), np.array([9.0, 7.0, 9.0])]
    # within: 2 > 1; 9 > 7 and a tie with 9. across: 2 above 1 alone of (1, 7, 9); 9 above 1 and 7, tied with 9.
    assert within_and_across(scores, np.array([1, 0])) == {"within": (1 + 0.75) / 2, "across": round((1 + 2.5) / 6, 4)}


def test_prompts_that_are_liked_or_not_hide_across_what_shows_within(rng: np.random.Generator) -> None:
    scores = [level + np.array([0.0, 1.0]) for level in rng.normal(0, 20, 300)]
    found = within_and_across(scores, np.ones(300, dtype=int))
    assert found["within"] == 1 and 0.5 < found["across"] < 0.56


def test_three_trainings_are_compared_on_the_same_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, Any]] = []
    groups = read_groups(read_hpd(data_folder() / "hpd_mini" / "test.parquet"))
    right = np.concatenate([np.eye(n)[choice] for n, choice in zip(groups.sizes, groups.choices)])

    def train(clip: Any, choices: Any, seed: int, scale: Any) -> Any:
        asked.append((len(choices), scale))
        return SimpleNamespace(clip=len(asked))

    def hps(run: int, images: Any, prompts: Any) -> np.ndarray:
        return right if run == 1 else -right  # the first is always right, the others never

    monkeypatch.setattr(gates, "train_hps", train)
    monkeypatch.setattr(gates, "hps", hps)
    report = gate_learning(data_folder(), seed=3)
    (everything, usual), (few, longer), (same, shallow) = asked
    assert everything == same == 3_000 and round(few * 0.9) == FEW and usual == mini
    assert longer.classifier_epochs * FEW >= 20 * mini.classifier_batch
    assert (shallow.image_blocks, shallow.text_blocks) == (0, 0) != (usual.image_blocks, usual.text_blocks)
    assert report["more_choices"] == report["more_layers"] == [1.0, 1.0, 1.0]
    assert report["within"] == 1 and report["seed"] == 3


def test_pushing_a_score_bends_the_curve_where_it_is_a_bad_target(monkeypatch: pytest.MonkeyPatch) -> None:
    most, seen = max(SIZES), []
    score = np.tile(np.arange(float(most)), 3)

    def generate(pipe: Any, prompts: list[str], seeds: range, **settings: Any) -> np.ndarray:
        seen.append((prompts, list(seeds), settings))
        return np.zeros((len(prompts), 64, 64, 3), np.uint8)

    monkeypatch.setattr("hpslib.adaptation.sampling.generate", generate)
    monkeypatch.setattr("hpslib.adaptation.sampling.load_pipeline", lambda folder: None)
    monkeypatch.setattr(gates, "look", lambda eye, images: None)
    monkeypatch.setattr(gates, "hps", lambda clip, images, prompts: score)
    monkeypatch.setattr(gates, "utilities", lambda *_: np.where(score > 60, -50.0, score))
    report = gate_target(data_folder(), seed=1, prompts=3)
    prompts, seeds, settings = seen[0]
    assert len(set(prompts)) == 3 and prompts == [text for text in dict.fromkeys(prompts) for _ in range(most)]
    assert len(set(seeds)) == 3 * most and settings == {"steps": mini.sampling_steps, "guidance_scale": 3.0}
    means = [report["hps"][str(n)][0] for n in SIZES]
    assert means == sorted(means) and means[-1] == most - 1
    assert 1 < report["best_n"] < most and report["bend"][2] < 0 and report["utility"][str(most)][0] == -50
    monkeypatch.setattr(gates, "utilities", lambda *_: score)
    assert gate_target(data_folder(), seed=1, prompts=3)["bend"] == [0.0, 0.0, 0.0], "a good target does not bend"
