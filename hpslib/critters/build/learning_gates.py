"""Two more properties of the world, as functions of a seed: that there is something to learn, and a limit to it.

``gate_learning`` asks whether more choices and more tuned layers teach more, and whether scores compare within a prompt
better than across. ``gate_target`` asks what becomes of pictures when the score is pushed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hpslib.critters.build.lesson_gates import JURY, figures, train_hps
from hpslib.critters.eyes import load_eye, look
from hpslib.critters.hpd import make_prompts
from hpslib.critters.raters import population, utilities
from hpslib.data.groups import read_groups, split_groups
from hpslib.lessons.scale import Scale, mini
from hpslib.metrics.agreement import top1_credit
from hpslib.metrics.before_after import mean_difference
from hpslib.metrics.best_of import best_of_n
from hpslib.metrics.comparison import paired_difference
from hpslib.metrics.intervals import bootstrap_by_prompt
from hpslib.scores.clip import load_clip
from hpslib.scores.cosine import hps

__all__ = ["FEW", "SIZES", "gate_learning", "gate_target", "within_and_across"]

FEW = 150  # choices
SIZES = (1, 2, 4, 8, 16, 32, 64)  # images of a prompt to take the best of


def within_and_across(scores: list[np.ndarray], choices: np.ndarray) -> dict[str, float]:
    """How often the score of a chosen image lies above that of a rejected one: of the same prompt, and of any.

    ``scores`` holds one array a group, ``choices`` the index of the chosen image; both results are shares. Equal scores
    count half.
    """
    chosen = np.array([group[choice] for group, choice in zip(scores, choices, strict=True)])
    rejected = [np.delete(group, choice) for group, choice in zip(scores, choices, strict=True)]
    within = [_above(own, others).mean() for own, others in zip(chosen, rejected)]
    across = _above(chosen[:, None], np.concatenate(rejected)[None, :])
    return {"within": round(float(np.mean(within)), 4), "across": round(float(across.mean()), 4)}


def _above(chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    return (chosen > rejected) + 0.5 * (chosen == rejected)


def gate_learning(data: Path, seed: int, scale: Scale = mini) -> dict[str, Any]:
    """Top-1 on the test groups: all choices minus :data:`FEW`, tuned blocks minus projections only; within and across.

    A training on few choices takes twenty steps or more, as in lesson 3.
    """
    from hpslib.data.releases.hpd_v1 import read_hpd

    clip, train = load_clip(data / "clip"), read_hpd(data / "hpd_mini" / "train.parquet").shuffle(seed=seed)
    groups = read_groups(read_hpd(data / "hpd_mini" / "test.parquet"))
    few = train.select(range(round(FEW / 0.9)))  # a tenth is kept for validation
    epochs = max(scale.classifier_epochs, 20 * scale.classifier_batch / FEW)
    runs = {
        "all": (train, scale),
        "few": (few, replace(scale, classifier_epochs=epochs)),
        "projections": (train, replace(scale, image_blocks=0, text_blocks=0)),
    }
    scores, credit = {}, {}
    for name, (choices, settings) in runs.items():
        trained = train_hps(clip, choices, seed, settings)
        scores[name] = split_groups(hps(trained.clip, groups.images, groups.image_prompts), groups.sizes)
        credit[name] = top1_credit(scores[name], groups.choices)
    return {
        "seed": seed,
        "more_choices": figures(paired_difference(credit["all"], credit["few"], prompts=groups.prompts)),
        "more_layers": figures(paired_difference(credit["all"], credit["projections"], prompts=groups.prompts)),
        **within_and_across(list(scores["all"]), np.asarray(groups.choices)),
    }


def gate_target(data: Path, seed: int, prompts: int = 40, scale: Scale = mini) -> dict[str, Any]:
    """Best-of-n by HPS for n up to 64: its score and its known utility, the mean of a jury who look through eye B.

    ``bend`` is the utility at n = 64 minus that at the n where it is highest, with its interval over prompts: below 0,
    pushing the score further makes pictures worse.
    """
    from hpslib.adaptation.sampling import generate, load_pipeline
    from hpslib.data.images.lazy import to_images

    pipe, classifier = load_pipeline(data / "sd"), load_clip(data / "hps")
    eye, most = load_eye(data / "eyes" / "eye_b.safetensors"), max(SIZES)
    texts = [text for text in make_prompts(prompts, seed=9_000 + seed) for _ in range(most)]
    seeds = range(40_000_000 + seed * len(texts), 40_000_000 + (seed + 1) * len(texts))
    images = generate(pipe, texts, seeds, steps=scale.sampling_steps, guidance_scale=scale.guidance_scale)
    seen, jury = look(eye, images), population(JURY, seed=99)
    utility = np.mean([utilities(rater, seen, texts) for rater in jury], axis=0).reshape(prompts, most)
    score = np.asarray(hps(classifier, to_images(images), texts)).reshape(prompts, most)
    worth = {n: best_of_n(score, utility, n) for n in SIZES}
    best = max(SIZES, key=lambda n: worth[n].mean())
    bend = mean_difference(worth[best], worth[most]) if best != most else None
    return {
        "seed": seed,
        "hps": {str(n): figures(bootstrap_by_prompt(best_of_n(score, score, n))) for n in SIZES},
        "utility": {str(n): figures(bootstrap_by_prompt(worth[n])) for n in SIZES},
        "best_n": best,
        "bend": figures(bend) if bend else [0.0, 0.0, 0.0],
    }
