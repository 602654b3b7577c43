"""The lessons as functions of a seed: what notebooks 02 to 04 show once, measured again and again for the gates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hpslib.critters.captions import read_caption
from hpslib.critters.eyes import load_eye, look
from hpslib.critters.hpd import known_crowd, make_prompts
from hpslib.critters.raters import population, utilities
from hpslib.data.groups import read_groups
from hpslib.lessons.scale import Scale, mini
from hpslib.metrics.agreement import top1_accuracy, top1_credit
from hpslib.metrics.comparison import noise_ceiling, paired_difference
from hpslib.scores.clip import Clip, load_clip

if TYPE_CHECKING:
    from hpslib.adaptation.selection import Selection

__all__ = [
    "JURY",
    "Chooser",
    "adapt",
    "choose_images",
    "figures",
    "gate_adaptation",
    "gate_classifier",
    "gate_metrics",
    "train_hps",
]


Chooser = Literal["score", "random", "shuffled", "nobody"]  # who chooses the training images of a LoRA
JURY = 20  # simulated people who vote on each pair of images, as many as in the paper's user study


def train_hps(clip: Clip, train: Any, seed: int, scale: Scale = mini) -> Any:
    """Train the preference classifier on a dataset, a tenth of whose prompts are kept for validation."""
    from hpslib.classifier.training import train_classifier
    from hpslib.classifier.trunk import dataset_trunk
    from hpslib.data.preferences import split_by_prompt

    parts = split_by_prompt(train, {"train": 0.9, "validation": 0.1}, seed=seed)
    blocks: dict[str, Any] = {"image_blocks": scale.image_blocks, "text_blocks": scale.text_blocks}
    learned, judged = (dataset_trunk(clip, part, cache=True, **blocks) for part in parts.values())
    options: dict[str, Any] = {"epochs": scale.classifier_epochs, "batch_size": scale.classifier_batch}
    options |= {"lr": scale.classifier_lr, "scale_lr": scale.classifier_scale_lr}
    options |= {"weight_decay": scale.classifier_weight_decay, "seed": seed, "evaluate_every": 10}
    return train_classifier(clip, learned, judged, **options)


def figures(estimate: Any) -> list[float]:
    """[value, low, high], rounded for the manifest."""
    return [round(float(number), 4) for number in (estimate.value, estimate.low, estimate.high)]


def gate_classifier(data: Path, seed: int) -> dict[str, Any]:
    """Gate 3: top-1 of HPS, CLIP score, aesthetic head and second rater on the test groups; paired difference."""
    from hpslib.data.groups import split_groups
    from hpslib.data.releases.hpd_v1 import read_hpd
    from hpslib.scores.aesthetic import aesthetic_scores, load_aesthetic_head
    from hpslib.scores.clip import encode_images
    from hpslib.scores.cosine import clip_scores, hps

    clip = load_clip(data / "clip")
    trained = train_hps(clip, read_hpd(data / "hpd_mini" / "train.parquet"), seed)
    groups = read_groups(read_hpd(data / "hpd_mini" / "test.parquet"))
    per_image = {
        "clip": clip_scores(clip, groups.images, groups.image_prompts),
        "aesthetic": aesthetic_scores(
            load_aesthetic_head(data / "aesthetic_head.safetensors"), encode_images(clip, groups.images)
        ),
        "hps": hps(trained.clip, groups.images, groups.image_prompts),
    }
    scores = {name: split_groups(values, groups.sizes) for name, values in per_image.items()}
    second = [np.eye(n)[vote] for n, vote in zip(groups.sizes, groups.second, strict=True)]
    seen, crowd = known_crowd(groups, data)
    credit = {name: top1_credit(values, groups.choices) for name, values in {**scores, "second": second}.items()}
    washed = split_groups(seen.flaws[:, 5] > 0.5, groups.sizes)
    vivid = np.array([not part.any() for part in washed])
    report: dict[str, Any] = {"seed": seed, "groups": len(groups.sizes), "best_step": trained.best_step}
    for name, values in {**scores, "second_rater": second}.items():
        report[name] = figures(top1_accuracy(values, groups.choices, prompts=groups.prompts))
    report["hps_minus_clip"] = figures(paired_difference(credit["hps"], credit["clip"], prompts=groups.prompts))
    report["hps_minus_clip_without_washed_out"] = figures(
        paired_difference(credit["hps"][vivid], credit["clip"][vivid])
    )
    report["hps_minus_second_rater"] = figures(
        paired_difference(credit["hps"], credit["second"], prompts=groups.prompts)
    )
    report["groups_without_washed_out"] = int(vivid.sum())
    report["chance"] = round(float(np.mean([1 / n for n in groups.sizes])), 3)
    # Free of the luck of single choices: how often somebody drawn from the crowd takes each judge's favourite.
    known = noise_ceiling(crowd)
    report["expected"] = {"second_rater": round(known.second_draw, 4), "noise_ceiling": round(known.best_guess, 4)}
    for name, values in scores.items():
        report["expected"][name] = round(
            float(np.mean([p[np.argmax(v)] for p, v in zip(crowd, values, strict=True)])), 4
        )
    return report


def gate_metrics(data: Path, seed: int = 0) -> dict[str, Any]:
    """Gate 4: FID, KID and IS of chosen and rejected images, with intervals; CLIP score's top-1 stands in gate 3."""
    import torch

    from hpslib.critters.attributes import COLOURS, SHAPES
    from hpslib.critters.hpd import drawn_images
    from hpslib.data.images.lazy import to_images
    from hpslib.data.releases.hpd_v1 import read_hpd
    from hpslib.metrics.distribution_intervals import distribution_table, draw_rejected
    from hpslib.scores.clip import encode_images, encode_prompts

    clip = load_clip(data / "clip")
    groups = read_groups(read_hpd(data / "hpd_mini" / "test.parquet"))
    features = encode_images(clip, groups.images)
    starts = np.concatenate([[0], np.cumsum(groups.sizes)[:-1]])
    chosen = starts + np.asarray(groups.choices)
    rejected = starts + draw_rejected(groups.sizes, groups.choices, seed=seed)
    reference = encode_images(clip, to_images(drawn_images(make_prompts(len(chosen), seed=99), seed=98)))
    classes = encode_prompts(clip, [f"a {colour} {shape} critter" for colour in COLOURS for shape in SHAPES])
    probabilities = torch.softmax(clip.model.logit_scale.exp().detach() * features @ classes.T, dim=1)
    table = distribution_table(
        features[chosen], features[rejected], reference, probabilities[chosen], probabilities[rejected], seed=seed
    )
    return {
        str(row): {k: round(float(v), 4) for k, v in values.items()} for row, values in table.to_dict("index").items()
    }


def choose_images(pool: Any, classifier: Clip, chooser: Chooser, seed: int, scale: Scale = mini) -> Selection | None:
    """The preferred and non-preferred images of a pool.

    By the ``"score"``: the paper's rule. ``"shuffled"`` deals the scores of each prompt out anew among its images, so
    the same prompts give as many images, but any of theirs. ``"random"`` draws as many images of each kind from the
    whole pool. ``"nobody"`` chooses none: ``None``.
    """
    from hpslib.adaptation.selection import select
    from hpslib.data.groups import flatten_groups, split_groups
    from hpslib.scores.cosine import hps

    if chooser == "nobody":
        return None
    images, prompts, sizes = flatten_groups(pool)
    rng = np.random.default_rng([seed, 4])
    groups = split_groups(hps(classifier, images, prompts), sizes)
    if chooser == "shuffled":
        groups = [rng.permutation(group) for group in groups]
    temperature = 100 / float(classifier.model.logit_scale.detach().exp())
    selection = select(groups, threshold=scale.threshold, temperature=temperature)
    if chooser == "random":
        n = len(selection.preferred)
        drawn = rng.choice(len(images), n + len(selection.non_preferred), replace=False)
        selection = replace(selection, preferred=np.sort(drawn[:n]), non_preferred=np.sort(drawn[n:]))
    return selection


def adapt(
    pipe: Any, data: Path, classifier: Clip, seed: int, scale: Scale = mini, *, chooser: Chooser = "score"
) -> dict[str, Any]:
    """Choose images from the pool, and train a LoRA on ``pipe`` in place; return what was chosen, and the losses.

    The pool is DiffusionDB-mini: images made before, which the classifier has never seen. Choosers other than
    ``"score"`` are the controls of lesson 4; with ``"nobody"``, the control of the paper's table, the LoRA sees the
    regularisation drawings alone.
    """
    from hpslib.adaptation.examples import encode_examples, mixture_weights
    from hpslib.adaptation.lora import add_lora
    from hpslib.adaptation.selection import identified_caption
    from hpslib.adaptation.training import train_lora
    from hpslib.critters.hpd import UNCURATED, drawn_images
    from hpslib.data.groups import flatten_groups
    from hpslib.data.pools.pool import read_pool

    captions = make_prompts(scale.regularisation_images, seed=5_000 + seed)
    parts = [drawn_images(captions, seed=6_000 + seed, flaw_rate=UNCURATED)]
    pool = read_pool(data / "diffusiondb_mini.parquet")
    pool = pool.select(range(min(scale.pool_prompts, len(pool))))
    selection = choose_images(pool, classifier, chooser, seed, scale)
    if selection is not None:
        images, prompts, _ = flatten_groups(pool)
        for rows in (selection.preferred, selection.non_preferred):
            parts.append(np.stack([np.asarray(images[row]) for row in rows]))
        captions += [prompts[row] for row in selection.preferred]
        captions += [identified_caption(prompts[row]) for row in selection.non_preferred]
    examples = encode_examples(pipe, np.concatenate(parts), captions)
    shares = None if selection is None else scale.lora_shares
    weights = mixture_weights([len(part) for part in parts], shares) if shares else None
    parameters = add_lora(pipe, rank=scale.lora_rank, seed=seed)
    options: dict[str, Any] = {"steps": scale.lora_steps, "batch_size": scale.lora_batch, "lr": scale.lora_lr}
    options |= {"weight_decay": scale.lora_weight_decay, "schedule": scale.lora_schedule, "seed": seed}
    options |= {"caption_dropout": scale.caption_dropout, "identifier_alone": scale.identifier_alone}
    losses = train_lora(pipe, parameters, examples, weights=weights, **options)
    return {"selection": selection, "losses": losses, "images": len(captions)}


def gate_adaptation(data: Path, seed: int, scale: Scale = mini) -> dict[str, Any]:
    """Gate 5: the adapted model and every control against the base, same noise, judged by the second eye.

    Pairs are decided as in the paper's user study: the majority of twenty simulated people, each with weights and noise
    of their own, who look through the second eye; an even vote is a draw and counts half.
    """
    from hpslib.adaptation.lora import remove_lora
    from hpslib.adaptation.sampling import generate, load_pipeline
    from hpslib.adaptation.selection import IDENTIFIER
    from hpslib.data.images.lazy import to_images
    from hpslib.metrics.before_after import majority_votes, mean_difference, relative_change, simulated_votes, win_rate
    from hpslib.scores.cosine import clip_scores, hps

    pipe, clip, classifier = load_pipeline(data / "sd"), load_clip(data / "clip"), load_clip(data / "hps")
    eye = load_eye(data / "eyes" / "eye_b.safetensors")
    prompts = make_prompts(scale.evaluation_prompts, seed=8_000 + seed)

    seeds = range(30_000_000, 30_000_000 + len(prompts))
    sampling: dict[str, Any] = {"steps": scale.sampling_steps, "guidance_scale": scale.guidance_scale}

    def evaluate(negative: str) -> np.ndarray:
        return generate(pipe, prompts, seeds, negative_prompt=negative, **sampling)

    generated = {"base": evaluate(""), "base + negative": evaluate(IDENTIFIER)}
    trained = adapt(pipe, data, classifier, seed, scale)
    generated |= {"adapted": evaluate(""), "adapted + negative": evaluate(IDENTIFIER)}
    remove_lora(pipe)
    adapt(pipe, data, classifier, seed, scale, chooser="nobody")
    generated |= {"regularised": evaluate(""), "regularised + negative": evaluate(IDENTIFIER)}
    people, asked = population(JURY, seed=99), [read_caption(prompt) for prompt in prompts]
    felt: dict[str, np.ndarray] = {}
    measures: dict[str, dict[str, np.ndarray]] = {}
    for name, images in generated.items():
        seen = look(eye, images)
        felt[name] = np.stack([utilities(person, seen, prompts) for person in people], axis=1)
        measures[name] = {
            "utility": felt[name].mean(axis=1),
            "flawed": seen.flawed,
            "match": seen.match(asked),
            "vividness": seen.vividness,
            "hps": hps(classifier, to_images(images), prompts),
            "clip": clip_scores(clip, to_images(images), prompts),
        }
    base = measures["base"]
    report: dict[str, Any] = {"seed": seed, "selection": str(trained["selection"]), "conditions": {}}
    for name, measure in measures.items():
        row: dict[str, Any] = {key: round(float(values.mean()), 4) for key, values in measure.items()}
        if name != "base":
            votes = simulated_votes(felt["base"], felt[name], noise=people[0].noise, seed=seed)
            row["majority"] = str(majority_votes(votes))
            row["win_rate"] = figures(win_rate(np.zeros(len(votes)), votes.sum(axis=1), prompts))
            row["flawed_change"] = figures(relative_change(base["flawed"], measure["flawed"], prompts=prompts))
            for key in ("match", "hps", "clip"):
                row[f"{key}_change"] = figures(mean_difference(base[key], measure[key], prompts=prompts))
        report["conditions"][name] = row
    return report
