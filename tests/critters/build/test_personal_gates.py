"""The measurements of the personal score, on a small world made of numbers in which the taste is plain to see."""

from __future__ import annotations

import numpy as np
import pytest

import hpslib.critters.build.personal_gates as module
from hpslib.critters.attributes import ATTRIBUTES, FLAWS
from hpslib.critters.build.personal_gates import World, asking_gates, compare_recipes, personal_gates, raters_above
from hpslib.critters.eyes import Seen
from hpslib.critters.hpd import make_prompts
from hpslib.critters.tastes import ORDINARY, TASTES
from hpslib.data.groups import Groups
from hpslib.votes.personal import Shown


def world(groups: int, seed: int) -> World:
    """Groups of four whose embedding is what the eye sees; HPS is the ordinary rater's utility, CLIP knows nothing."""
    rng, n = np.random.default_rng(seed), 4 * groups
    attributes = {name: rng.dirichlet(np.full(len(values), 0.1), n) for name, values in ATTRIBUTES.items()}
    seen = Seen(attributes, rng.beta(0.15, 0.8, (n, len(FLAWS))), rng.normal(0.3, 0.013, n))
    prompts = make_prompts(groups, seed)
    of_image = [prompt for prompt in prompts for _ in range(4)]
    what = np.column_stack([seen.flaws, attributes["expression"] / 2, seen.vividness * 10])
    everybody = module.taste_probabilities(ORDINARY, seen, of_image, [4] * groups)
    base = np.log(np.concatenate(everybody))
    shown = Shown(base, what, rng.normal(size=(n, 8)), np.full(groups, 4))
    other = Shown(rng.normal(size=n) / 2, shown.what, shown.how, shown.sizes)
    none = [0] * groups
    return World(Groups([], of_image, prompts, [4] * groups, none, none, [""] * groups), shown, other, seen)


@pytest.fixture(scope="module")
def train() -> World:
    return world(240, seed=1)


@pytest.fixture(scope="module")
def test() -> World:
    return world(200, seed=2)


def test_tastes_come_out_and_the_ordinary_rater_keeps_everybodys_score(train: World, test: World) -> None:
    report = personal_gates(train, test, seeds=[0])
    assert [row["rater"] for row in report] == [taste.name for taste in (*TASTES, ORDINARY)]
    above = raters_above(report)
    assert len(above[0]) >= 7 and "simulated-monsters" in above[0]
    assert set(above[0]) <= set(raters_above(report, "expected_gain")[0]) | {"simulated-faces", "simulated-smiles"}
    ordinary = report[-1]
    assert ordinary["gain"][1] < 0.05 and ordinary["expected"]["population"] == pytest.approx(
        ordinary["ceiling"], abs=1e-4
    )
    for row in report:
        assert row["gain"][0] == pytest.approx(row["top1"]["personal"] - row["top1"]["population"], abs=2e-4)
        assert row["gain"][1] <= row["gain"][0] <= row["gain"][2] and row["chance"] == 0.25
        assert max(row["expected"].values()) <= row["ceiling"] + 1e-9
        assert abs(row["expected"]["clip"] - 0.25) < 0.1  # it knows nothing here


def test_raters_above_counts_the_ten_alone_and_asks_for_the_whole_interval() -> None:
    rows = [
        {"seed": 3, "rater": TASTES[0].name, "gain": [0.1, 0.01, 0.2]},
        {"seed": 3, "rater": TASTES[1].name, "gain": [0.1, 0.0, 0.2]},
        {"seed": 3, "rater": ORDINARY.name, "gain": [0.1, 0.01, 0.2]},
        {"seed": 4, "rater": TASTES[2].name, "gain": [-0.1, -0.2, -0.01]},
    ]
    assert raters_above(rows) == {3: [TASTES[0].name], 4: []}


def test_every_order_of_asking_starts_from_the_population(train: World, test: World) -> None:
    report = asking_gates(train, test, seeds=[0], tastes=TASTES[4:6])
    assert report["votes"][0] == 0 and set(report["minus_random"]) == {"entropy", "margin", "information"}
    assert len({curve[0] for curve in report["expected"].values()}) == 1
    for order, rows in report["minus_random"].items():
        assert rows[0] == [0, 0, 0] and len(rows) == len(report["votes"])
        for value, ours, theirs in zip(rows, report["expected"][order], report["expected"]["random"]):
            assert value[0] == pytest.approx(ours - theirs, abs=2e-4)
    assert report["expected"]["random"][-1] > report["expected"]["random"][0] + 0.1


def test_recipes_are_compared_within_the_training_split(train: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TUNED_ON", 140)
    monkeypatch.setattr(module, "RECIPE_COUNTS", (2, 8))
    figures = compare_recipes(train, count=4)
    assert figures["population"] < figures["8 + 8"] < figures["ceiling"]
    assert {"2 of the embedding alone", "8 + 8, ridge 10"} <= set(figures)
