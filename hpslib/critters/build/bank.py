"""A bank of rendered critters on disk: what every network of the miniature world learns from.

Image ``i`` of a bank depends on ``(seed, i)`` alone, so a bank can be made by several processes, interrupted
and continued, and its captions and labels need not be stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from hpslib.critters.attributes import ATTRIBUTES, FLAWS, Critter, random_critter
from hpslib.critters.captions import caption
from hpslib.critters.draw import SIZE, draw
from hpslib.runs.files import written_whole

__all__ = ["FLAW_RATE", "attribute_labels", "bank_captions", "bank_critters", "flaw_labels", "render_bank"]

FLAW_RATE = 0.36
_CHUNK = 2_000


def _generator(seed: int, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, index])


def _render_chunk(folder: Path, seed: int, start: int, stop: int) -> None:
    target = folder / f"{start:07d}.npy"
    if target.exists():
        return
    pixels = np.empty((stop - start, SIZE, SIZE, 3), dtype=np.uint8)
    for row, index in enumerate(range(start, stop)):
        rng = _generator(seed, index)
        pixels[row] = np.asarray(draw(random_critter(rng, FLAW_RATE), rng))
    with written_whole(target) as partial, partial.open("wb") as file:
        np.save(file, pixels)


def render_bank(folder: Path, count: int, seed: int, workers: int = 2) -> np.ndarray:
    """Render ``count`` images (or find them on disk) as one uint8 array (count, 64, 64, 3)."""
    folder = folder / f"bank-{seed}-{count}"
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / "all.npy"
    if not whole.exists():
        starts = range(0, count, _CHUNK)
        with ProcessPoolExecutor(workers) as pool:
            jobs = [pool.submit(_render_chunk, folder, seed, s, min(s + _CHUNK, count)) for s in starts]
            for job in jobs:
                job.result()
        parts = [folder / f"{s:07d}.npy" for s in starts]
        with written_whole(whole) as partial, partial.open("wb") as file:
            np.save(file, np.concatenate([np.load(part) for part in parts]))
        for part in parts:
            part.unlink()
    return np.load(whole, mmap_mode="r")


def bank_critters(count: int, seed: int) -> list[Critter]:
    """The critters of a bank, in order, without drawing them."""
    return [random_critter(_generator(seed, index), FLAW_RATE) for index in range(count)]


def bank_captions(critters: list[Critter], seed: int, *, body_rate: float) -> list[str]:
    """One caption for each critter; another ``seed`` gives other phrasings."""
    return [caption(critter, _generator(seed, index), body_rate=body_rate) for index, critter in enumerate(critters)]


def attribute_labels(critters: Sequence[Critter]) -> np.ndarray:
    """Class indices (n, 5) int64 in the order of :data:`hpslib.critters.attributes.ATTRIBUTES`."""
    return np.array([[values.index(getattr(c, name)) for name, values in ATTRIBUTES.items()] for c in critters])


def flaw_labels(critters: list[Critter]) -> np.ndarray:
    """Presence (n, 6) float32 of each flaw in the order of :data:`hpslib.critters.attributes.FLAWS`."""
    return np.array([[name in c.flaws for name in FLAWS] for c in critters], dtype=np.float32)
