"""Measure what sixty votes are worth: the personal score of ten simulated raters against everybody's.

``python -m hpslib.critters.build.personal_gates`` prints three things: the gain for each rater on groups nobody asked
about (:func:`personal_gates`), whether it matters which groups are asked about (:func:`asking_gates`) and, with
``--recipes``, how the recipe of :mod:`hpslib.votes.personal` was found (:func:`compare_recipes`): on other raters,
other votes and the training split alone. The ten raters were written down before their figures were seen, and stayed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np

from hpslib.critters.build.lesson_gates import figures
from hpslib.critters.eyes import Seen, load_eye, look
from hpslib.critters.tastes import ORDINARY, TASTES, Taste, ask, random_tastes, taste_probabilities
from hpslib.data.groups import Groups, read_groups, split_groups
from hpslib.metrics.agreement import chance_top1, top1_credit
from hpslib.metrics.comparison import noise_ceiling, paired_difference
from hpslib.scores.cosine import clip_scores
from hpslib.votes.active import Order, learning_curve
from hpslib.votes.personal import Personal, Shown, personal_scores, show, taste_axes, train_personal

__all__ = ["World", "asking_gates", "compare_recipes", "main", "personal_gates", "raters_above", "read_world"]

VOTES = 60
COUNTS = (0, 10, 20, 40, 60, 80)
ORDERS: tuple[Order, ...] = get_args(Order)  # random first
RECIPE_COUNTS = (2, 4, 8, 16, 32)
TUNED_ON = 1500  # groups of the training split that are voted on when recipes are compared; the others judge


@dataclass(frozen=True)
class World:
    """A split of HPD-mini, as HPS and as the CLIP score see it, and as the raters' eye does."""

    groups: Groups
    from_hps: Shown
    from_clip: Shown
    seen: Seen

    def chances(self, taste: Taste) -> list[np.ndarray]:
        """For each group, the chance that the rater takes each image."""
        return taste_probabilities(taste, self.seen, self.groups.image_prompts, self.groups.sizes)


def read_world(data: Path, split: str) -> World:
    """Look at every image of ``train`` or ``test`` once: about a minute for both on two cores."""
    from hpslib.data.releases.hpd_v1 import read_hpd
    from hpslib.scores.clip import load_clip

    clip, population = load_clip(data / "clip"), load_clip(data / "hps")
    groups = read_groups(read_hpd(data / "hpd_mini" / f"{split}.parquet"))
    from_hps = show(clip, population, groups.images, groups.prompts, groups.sizes)
    factor = float(clip.model.logit_scale.detach().exp())
    from_clip = replace(from_hps, base=factor * clip_scores(clip, groups.images, groups.image_prompts))
    return World(groups, from_hps, from_clip, look(load_eye(data / "eyes" / "eye_a.safetensors"), groups.images))


def _likely(chances: Sequence[np.ndarray], scores: Sequence[np.ndarray]) -> np.ndarray:
    """(groups,) how likely the rater takes the score's favourite: agreement without the luck of single choices."""
    return np.array([p[np.argmax(s)] for p, s in zip(chances, scores)])


def _means(values: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: round(float(value.mean()), 4) for name, value in values.items()}


def personal_gates(train: World, test: World, seeds: Sequence[int] = (0, 1, 2)) -> list[dict[str, Any]]:
    """For each seed and rater, agreement with the rater's choices in all test groups; the ordinary rater comes last.

    Sixty votes are cast on groups of four of the training split, drawn by the seed. ``top1`` counts the choices of
    another draw, ``expected`` the known chances; ``self`` is how often the rater repeats a choice, ``ceiling`` the best
    any score can expect. ``gain``, ``expected_gain`` (personal minus population) and ``gain_from_clip`` are
    [value, low, high] with 95 % by bootstrap over prompts.
    """
    names, sizes = test.groups.prompts, test.groups.sizes
    starts = {"personal": (train.from_hps, test.from_hps), "personal_from_clip": (train.from_clip, test.from_clip)}
    axes = {name: taste_axes(asked) for name, (asked, _) in starts.items()}
    fours = np.flatnonzero(train.from_hps.sizes == 4)
    report = []
    for seed in seeds:
        for number, taste in enumerate((*TASTES, ORDINARY)):
            expected = test.chances(taste)
            rows = np.random.default_rng([seed, number]).choice(fours, VOTES, replace=False)
            votes = ask(train.chances(taste), seed=[seed, number, 0])[rows]
            choices, again = (ask(expected, seed=[seed, number, day]) for day in (1, 2))
            scores = {"clip": split_groups(test.from_clip.base, sizes)}
            scores["population"] = split_groups(test.from_hps.base, sizes)
            ridges, began = {}, time.perf_counter()
            for name, (asked, held_out) in starts.items():
                trained = train_personal(asked.subset(rows), votes, axes[name], seed=seed)
                scores[name], ridges[name] = personal_scores(trained, held_out), trained.ridge
            seconds = (time.perf_counter() - began) / len(starts)
            credit = {name: top1_credit(values, choices) for name, values in scores.items()}
            likely = {name: _likely(expected, values) for name, values in scores.items()}
            known = noise_ceiling(expected)
            gain = partial(paired_difference, prompts=names)
            row: dict[str, Any] = {"seed": seed, "rater": taste.name, "told": taste.told, "ridge": ridges["personal"]}
            row |= {"seconds": round(seconds, 3), "chance": round(chance_top1(sizes), 4)}
            row |= {"self": round(float((choices == again).mean()), 4), "ceiling": round(known.best_guess, 4)}
            row |= {"top1": _means(credit), "expected": _means(likely)}
            row["gain"] = figures(gain(credit["personal"], credit["population"]))
            row["expected_gain"] = figures(gain(likely["personal"], likely["population"]))
            row["gain_from_clip"] = figures(gain(credit["personal_from_clip"], credit["population"]))
            report.append(row)
    return report


def raters_above(report: Sequence[dict[str, Any]], figure: str = "gain") -> dict[int, list[str]]:
    """For each seed, the raters of :data:`TASTES` for whom the interval of ``figure`` lies above zero."""
    own = {taste.name for taste in TASTES}
    raters: dict[int, list[str]] = {row["seed"]: [] for row in report}
    for row in report:
        if row["rater"] in own and row[figure][1] > 0:
            raters[row["seed"]].append(row["rater"])
    return raters


def asking_gates(
    train: World, test: World, seeds: Sequence[int] = (0, 1, 2), tastes: Sequence[Taste] = TASTES
) -> dict[str, Any]:
    """The learning curve of each order of asking, in expected agreement on the test groups, mean over raters and seeds.

    ``minus_random`` holds, for each number of votes, the paired difference to the random order: [value, low, high] with
    95 % by bootstrap over raters, each rater's seeds averaged before.
    """
    axes, fours = taste_axes(train.from_hps), np.flatnonzero(train.from_hps.sizes == 4)
    pool = train.from_hps.subset(fours)
    curves = np.empty((len(ORDERS), len(tastes), len(seeds), len(COUNTS)))
    for t, taste in enumerate(tastes):
        expected, drawn = test.chances(taste), train.chances(taste)

        def measure(personal: Personal, expected: list[np.ndarray] = expected) -> float:
            return float(_likely(expected, personal_scores(personal, test.from_hps)).mean())

        for s, seed in enumerate(seeds):
            votes = ask(drawn, seed=[seed, t, 0])[fours]
            for k, order in enumerate(ORDERS):
                curves[k, t, s] = learning_curve(pool, votes, axes, COUNTS, measure, order=order, seed=seed)
    by_rater = curves.mean(axis=2)
    return {
        "votes": list(COUNTS),
        "expected": {order: by_rater[k].mean(axis=0).round(4).tolist() for k, order in enumerate(ORDERS)},
        "minus_random": {
            order: [figures(paired_difference(by_rater[k, :, c], by_rater[0, :, c])) for c in range(len(COUNTS))]
            for k, order in enumerate(ORDERS)
            if k > 0
        },
    }


def compare_recipes(train: World, count: int = 32, seed: int = 11) -> dict[str, float]:
    """Mean expected agreement of recipes on raters of :func:`random_tastes`: how the defaults were found.

    Votes are cast on the first half of the training split and the other half judges; the test groups play no part.
    """
    first = train.from_hps.subset(np.arange(TUNED_ON))
    rest = train.from_hps.subset(np.arange(TUNED_ON, len(train.from_hps)))
    fours = np.flatnonzero(first.sizes == 4)
    recipes: dict[str, tuple[Any, dict[str, Any]]] = {}
    for k in RECIPE_COUNTS:
        axes = taste_axes(first, k)
        recipes[f"{k} + {k}"] = axes, {}
        recipes[f"{k} of the embedding alone"] = axes._replace(how=axes.how[:, :0]), {}
    for ridge in (1.0, 10.0, 30.0):
        recipes[f"8 + 8, ridge {ridge:.0f}"] = taste_axes(first, 8), {"ridges": [ridge]}
    figures: dict[str, list[float]] = {name: [] for name in ("population", "ceiling", *recipes)}
    for number, taste in enumerate(random_tastes(count, seed)):
        chances = train.chances(taste)
        expected = chances[TUNED_ON:]
        rows = np.random.default_rng([seed, number]).choice(fours, VOTES, replace=False)
        votes = ask(chances, seed=[seed, number])[rows]
        figures["population"].append(float(_likely(expected, split_groups(rest.base, rest.sizes.tolist())).mean()))
        figures["ceiling"].append(noise_ceiling(expected).best_guess)
        for name, (axes, options) in recipes.items():
            trained = train_personal(first.subset(rows), votes, axes, **options)
            figures[name].append(float(_likely(expected, personal_scores(trained, rest)).mean()))
    return {name: round(float(np.mean(values)), 4) for name, values in figures.items()}


def main() -> None:
    """Print the figures of all raters and orders as JSON, and how many raters gain."""
    from hpslib.critters.assets import data_folder

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--recipes", action="store_true", help="compare recipes on other raters, and nothing else")
    arguments = parser.parse_args()
    data = arguments.data or data_folder()
    train = read_world(data, "train")
    if arguments.recipes:
        print(json.dumps(compare_recipes(train), indent=1))
        return
    test = read_world(data, "test")
    report = personal_gates(train, test, arguments.seeds)
    for row in report:
        print(json.dumps(row))
    for figure in ("gain", "expected_gain"):
        for seed, raters in raters_above(report, figure).items():
            print(f"{figure}, seed {seed}: above zero for {len(raters)} of {len(TASTES)} simulated raters.")
    print(json.dumps(asking_gates(train, test, arguments.seeds), indent=1))


if __name__ == "__main__":
    main()
