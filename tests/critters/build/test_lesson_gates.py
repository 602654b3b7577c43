"""hpslib.critters.build.lesson_gates on the shipped world, much shortened: do its figures mean what their names say?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hpslib.critters.assets import data_folder
from hpslib.critters.build import lesson_gates as lessons
from hpslib.critters.build.gates import CONTROLS
from hpslib.data.pools.pool import read_pool
from hpslib.lessons.scale import mini
from hpslib.scores.clip import load_clip

SMALL = replace(
    mini, pool_prompts=60, regularisation_images=8, lora_steps=12, lora_batch=4, lora_rank=2, evaluation_prompts=40,
    sampling_steps=4,
)  # fmt: skip


@pytest.fixture
def few_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    from hpslib.data.releases import hpd_v1 as sources

    real = sources.read_hpd
    monkeypatch.setattr(sources, "read_hpd", lambda path, **options: real(path, **options).select(range(240)))


def test_groups_are_flattened_in_order() -> None:
    from hpslib.data.releases.hpd_v1 import read_hpd

    rows = read_hpd(data_folder() / "hpd_mini" / "test.parquet").select(range(5))
    groups = lessons.read_groups(rows)
    assert groups.sizes == [len(row["images"]) for row in rows] and len(groups.images) == sum(groups.sizes)
    assert groups.image_prompts == [row["prompt"] for row in rows for _ in row["images"]]
    assert groups.raters == list(rows["user_hash"]) and groups.second == list(rows["second_preference"])


def test_the_third_gate_measures_every_judge_on_the_same_groups(few_groups: None) -> None:
    report = lessons.gate_classifier(data_folder(), seed=0)
    assert report["groups"] == 240 >= report["groups_without_washed_out"] > 200
    for name in ("clip", "aesthetic", "hps", "second_rater"):
        value, low, high = report[name]
        assert 0 <= low <= value <= high <= 1
    assert report["hps_minus_clip"][0] == pytest.approx(report["hps"][0] - report["clip"][0], abs=2e-4)
    expected = report["expected"]
    assert expected["noise_ceiling"] >= max(expected[name] for name in ("clip", "aesthetic", "hps", "second_rater"))
    assert 0.25 < report["chance"] < 0.5


def test_the_fourth_gate_compares_as_many_chosen_as_rejected(few_groups: None) -> None:
    report = lessons.gate_metrics(data_folder())
    assert set(report) == {"IS", "FID", "KID"}
    for row in report.values():
        assert row["images"] == 240
        assert row["difference_low"] <= row["difference_high"] and row["chosen_low"] <= row["chosen_high"]


def test_controls_choose_as_many_images_but_not_those_that_the_score_prefers() -> None:
    pool = read_pool(data_folder() / "diffusiondb_mini.parquet").select(range(40))
    classifier = load_clip(data_folder() / "hps")
    by = {name: lessons.choose_images(pool, classifier, name, seed=0) for name in ("score", "random", "shuffled")}
    assert lessons.choose_images(pool, classifier, "nobody", seed=0) is None
    prompt = {name: sorted(row // 4 for row in chosen.non_preferred) for name, chosen in by.items()}
    assert prompt["score"] == prompt["shuffled"] != prompt["random"]
    for name in ("random", "shuffled"):
        assert len(by[name].preferred) == len(by["score"].preferred) > 0
        assert len(by[name].non_preferred) == len(by["score"].non_preferred) > 0
        kept = np.intersect1d(by[name].non_preferred, by["score"].non_preferred)
        assert len(kept) < 0.6 * len(by["score"].non_preferred)
    assert not set(by["random"].preferred) & set(by["random"].non_preferred)


def test_the_fifth_gate_shows_every_control_and_leaves_the_base_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[np.ndarray] = []
    real = lessons.look

    def looked(eye: Any, images: np.ndarray) -> Any:
        made.append(images)
        return real(eye, images)

    monkeypatch.setattr(lessons, "look", looked)
    report = lessons.gate_adaptation(data_folder(), seed=0, scale=SMALL)
    assert set(report["conditions"]) == set(CONTROLS)
    assert "60 groups" in report["selection"]
    for name, row in report["conditions"].items():
        assert ("win_rate" in row) == (name != "base")
        assert 0 <= row["flawed"] <= 1 and 0 <= row["match"] <= 1
    images = dict(zip(CONTROLS, (made[k] for k in (0, 1, 4, 5, 2, 3)), strict=True))
    changed = {name: float(np.abs(images[name].astype(int) - images["base"]).mean()) for name in CONTROLS}
    assert changed["base"] == 0 < min(value for name, value in changed.items() if name != "base")
