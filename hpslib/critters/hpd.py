"""Make HPD-mini: prompts, images by mini-SD, one simulated choice per group, in HPD v1's own fields."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hpslib.adaptation.sampling import generate, load_pipeline
from hpslib.critters.attributes import Critter, random_critter
from hpslib.critters.captions import caption, distinct_texts, read_caption
from hpslib.critters.draw import draw
from hpslib.critters.eyes import Eye, load_eye, look
from hpslib.critters.raters import Rater, choose, crowd_probabilities, population, utilities
from hpslib.data.groups import Groups
from hpslib.data.pools.pool import write_pool
from hpslib.runs.files import sha256, written_whole

__all__ = [
    "HPD_SEED",
    "UNCURATED",
    "build_hpd",
    "drawn_images",
    "generate_images",
    "known_crowd",
    "make_prompts",
    "simulate_choices",
]

HPD_SEED = 2303
GROUPS = {"train": 3000, "test": 800}
PAIRS = 300
POOL = 1500  # prompts, four images each, of which nobody is asked
RATERS = 200
UNCURATED = 0.9  # share of flawed regularisation drawings: about that of the UNet's last training stages
LAST_BONUS = 0.2  # utility of standing last: people scroll down; "always the last" then gains what it does in HPD v1


def make_prompts(count: int, seed: int, avoid: Sequence[str] = ()) -> list[str]:
    """``count`` distinct prompts of the grammar, none of them in ``avoid``; no prompt mentions the body.

    >>> make_prompts(1, seed=0)
    ['happy little monster purple and triangular with a top hat in a snowy landscape']
    """
    rng = np.random.default_rng(seed)
    return distinct_texts(count, lambda: caption(random_critter(rng, flaw_rate=0.0), rng), avoid)


def drawn_images(prompts: Sequence[str], seed: int, flaw_rate: float = 0.36) -> np.ndarray:
    """Drawings (not generated images) that fit the prompts: uint8 (n, 64, 64, 3).

    They serve as the reference set, as regularisation images and as the other generator.
    """
    rng = np.random.default_rng(seed)
    images = []
    for prompt in prompts:
        other = random_critter(rng, flaw_rate)
        critter = Critter(**read_caption(prompt), flaws=other.flaws, detail=other.detail)
        images.append(np.asarray(draw(critter, rng)))
    return np.stack(images)


def simulate_choices(
    eye: Eye,
    images: np.ndarray,
    prompts: Sequence[str],
    raters: Sequence[Rater],
    seed: int,
    last_bonus: float = LAST_BONUS,
) -> list[tuple[int, int, str, str]]:
    """Let two different simulated raters choose in each group.

    ``images`` (sum of n, 64, 64, 3) holds the groups one after another and ``prompts`` one text per image; a change of
    prompt starts a new group. Returns, per group, (choice, second choice, rater, second rater).
    """
    starts = [0, *(row for row in range(1, len(prompts)) if prompts[row] != prompts[row - 1]), len(prompts)]
    seen = look(eye, images)
    rng = np.random.default_rng(seed)
    table = np.stack([utilities(rater, seen, prompts) for rater in raters])
    choices = []
    for first, last in pairwise(starts):
        pair = rng.choice(len(raters), size=2, replace=False)
        bonus = np.zeros(last - first)
        bonus[-1] = last_bonus
        votes = [choose(table[k, first:last] + bonus, raters[k].noise, rng) for k in pair]
        choices.append((votes[0], votes[1], raters[pair[0]].name, raters[pair[1]].name))
    return choices


def _encode(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="WEBP", quality=90, method=6)
    return buffer.getvalue()


def _rows(split: str, images: list[bytes], prompts: list[str], choices: list[Any], source: str) -> list[dict[str, Any]]:
    """One row per group in the schema of :mod:`hpslib.data.preferences`."""
    from hpslib.critters.captions import ARTISTS

    rows, start = [], 0
    texts = list(dict.fromkeys(prompts))
    sizes = [prompts.count(text) for text in texts]
    for number, (text, size, (chosen, second, rater, other)) in enumerate(zip(texts, sizes, choices, strict=True)):
        name = f"{split}{number:05d}"
        rows.append(
            {
                "id": name,
                "prompt": text,
                "images": [
                    {"bytes": images[start + k], "path": f"preference_images/{name}_{k}.webp"} for k in range(size)
                ],
                "human_preference": chosen,
                "user_hash": rater,
                "contain_name": any(artist in text for artist in ARTISTS),
                "source": source,
                "second_preference": second,
                "second_user_hash": other,
            }
        )
        start += size
    return rows


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    from datasets import Dataset, Features, Value

    from hpslib.data.preferences import features
    from hpslib.data.releases.packed import write_packed

    schema = Features({**features(), "second_preference": Value("int64"), "second_user_hash": Value("string")})
    write_packed(Dataset.from_list(rows, features=schema), path, overwrite=True)


def _decoded(files: list[bytes]) -> np.ndarray:
    """The images as everybody will see them: after compression."""
    return np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in files])


def _plan() -> dict[str, tuple[list[str], list[str], list[int]]]:
    """For each split: its distinct prompts, and the prompt and the seed of every image mini-SD makes for it."""
    plan = {}
    taken: list[str] = []
    for number, (split, count) in enumerate({**GROUPS, "other": PAIRS, "pool": POOL}.items()):
        texts = make_prompts(count, HPD_SEED + number, avoid=taken)
        taken += texts
        rng = np.random.default_rng(HPD_SEED + 10 + number)
        drawn = rng.choice([4, 3, 2], size=count, p=[0.6, 0.25, 0.15])
        sizes = {"other": [1] * count, "pool": [4] * count}.get(split, drawn)
        prompts = [text for text, size in zip(texts, sizes, strict=True) for _ in range(size)]
        plan[split] = (texts, prompts, [1_000_000 * (number + 1) + row for row in range(len(prompts))])
    return plan


def generate_images(
    data: Path, cache: Path, *, steps: int, guidance_scale: float, backwards: bool = False
) -> dict[str, np.ndarray]:
    """All images of HPD-mini, uint8, by split; every 200 are kept in ``cache``, so an interrupted run goes on.

    A second process may work through the same list ``backwards``: the two meet in the middle.
    """
    pipe, chunk = load_pipeline(data / "sd"), 200
    model = sha256(data / "sd" / "unet" / "diffusion_pytorch_model.safetensors")[:8]  # another model, other images
    jobs = [
        (cache / f"hpd-{model}-{split}-{start:05d}.npy", prompts[start : start + chunk], seeds[start : start + chunk])
        for split, (_, prompts, seeds) in _plan().items()
        for start in range(0, len(prompts), chunk)
    ]
    for path, prompts, seeds in reversed(jobs) if backwards else jobs:
        if not path.exists():
            images = generate(pipe, prompts, seeds, steps=steps, guidance_scale=guidance_scale)
            with written_whole(path) as partial, partial.open("wb") as file:
                np.save(file, images)
    return {
        split: np.concatenate([np.load(path) for path, *_ in jobs if path.name.startswith(f"hpd-{model}-{split}-")])
        for split in _plan()
    }


def build_hpd(data: Path, cache: Path, *, steps: int, guidance_scale: float) -> None:
    """Generate the images, let the raters choose, write ``data/hpd_mini/{train,test,other}.parquet`` and the pool."""
    generated = generate_images(data, cache, steps=steps, guidance_scale=guidance_scale)
    eye = load_eye(data / "eyes" / "eye_a.safetensors")
    raters = population(RATERS, seed=HPD_SEED)
    folder = data / "hpd_mini"
    folder.mkdir(parents=True, exist_ok=True)
    for number, (split, (texts, prompts, seeds)) in enumerate(_plan().items()):
        if split == "pool":
            files = [_encode(image) for image in generated[split]]
            write_pool(data / "diffusiondb_mini.parquet", prompts, seeds, files, step=steps, cfg=guidance_scale)
            continue
        images, source, bonus = generated[split], "hpd_mini", LAST_BONUS
        if split == "other":  # pairs with a drawing for the same prompt; which generator stands first is drawn
            first = np.random.default_rng(HPD_SEED + 7).random(len(texts)) < 0.5
            theirs = drawn_images(texts, HPD_SEED + 6)
            pairs = [(o, t) if left else (t, o) for o, t, left in zip(images, theirs, first, strict=True)]
            images, source, bonus = np.stack([p for pair in pairs for p in pair]), "other_generator", 0.0
            prompts = [text for text in texts for _ in range(2)]
        files = [_encode(image) for image in images]
        choices = simulate_choices(eye, _decoded(files), prompts, raters, HPD_SEED + 20 + number, last_bonus=bonus)
        _write(_rows(split, files, prompts, choices, source), folder / f"{split}.parquet")


def known_crowd(groups: Groups, data: Path) -> tuple[Any, list[np.ndarray]]:
    """What the first eye sees in the images, and the chance of every choice if anybody of the crowd were asked."""
    seen = look(load_eye(data / "eyes" / "eye_a.safetensors"), groups.images)
    crowd = population(RATERS, HPD_SEED)
    return seen, crowd_probabilities(crowd, seen, groups.image_prompts, groups.sizes, LAST_BONUS)
