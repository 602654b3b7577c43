"""A bank of drawings on disk, whole and at half the size: what every network of the second edition learns from.

Image ``i`` of a bank depends on ``(seed, i)`` alone, so a bank can be made by several processes, interrupted and
continued, and its captions and labels need not be stored. The autoencoder learns from whole pictures; mini-CLIP and the
eyes look at half the size.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from hpslib.critters.attributes import FLAWS
from hpslib.critters.second.attributes import Critter, random_critter
from hpslib.critters.second.captions import caption
from hpslib.critters.second.draw import draw
from hpslib.critters.second.eyes import halved
from hpslib.critters.second.pen import SIZE
from hpslib.runs.files import written_whole

__all__ = ["bank_captions", "bank_critters", "render_bank", "truth_labels"]

_CHUNK = 1_000


def _generator(seed: int, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, index])


def _render_chunk(folder: Path, seed: int, start: int, stop: int, whole: int) -> None:
    """Rows ``start`` to ``stop`` at half the size, and those below ``whole`` at their own."""
    target = folder / f"{start:07d}.npz"
    if target.exists():
        return
    pixels = np.empty((stop - start, SIZE, SIZE, 3), dtype=np.uint8)
    for row, index in enumerate(range(start, stop)):
        rng = _generator(seed, index)
        pixels[row] = np.asarray(draw(random_critter(rng), rng))
    with written_whole(target) as partial, partial.open("wb") as file:
        np.savez(file, half=halved(pixels), whole=pixels[: max(0, min(stop, whole) - start)])


def render_bank(folder: Path, count: int, seed: int, *, whole: int, workers: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Render ``count`` drawings, or find them on disk.

    Returns memory-mapped uint8 arrays: the first ``whole`` of them as (whole, 128, 128, 3), and all at half the size,
    (count, 64, 64, 3).
    """
    folder = folder / f"bank-{seed}-{count}-{whole}"
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"whole": folder / "whole.npy", "half": folder / "half.npy"}
    if not paths["half"].exists():  # written last
        starts = range(0, count, _CHUNK)
        with ProcessPoolExecutor(workers) as pool:
            jobs = [pool.submit(_render_chunk, folder, seed, s, min(s + _CHUNK, count), whole) for s in starts]
            for job in jobs:
                job.result()
        parts = [folder / f"{start:07d}.npz" for start in starts]
        for name, rows in (("whole", whole), ("half", count)):
            side = SIZE if name == "whole" else SIZE // 2
            with written_whole(paths[name]) as partial:
                array = open_memmap(partial, mode="w+", dtype=np.uint8, shape=(rows, side, side, 3))
                for start, part in zip(starts, parts, strict=True):
                    pixels = np.load(part)[name]
                    array[start : start + len(pixels)] = pixels
                array.flush()
                del array
    for part in folder.glob("*.npz"):  # also what a run left that was killed right here
        part.unlink()
    return np.load(paths["whole"], mmap_mode="r"), np.load(paths["half"], mmap_mode="r")


def bank_critters(count: int, seed: int) -> list[Critter]:
    """The critters of a bank, in order, without drawing them."""
    return [random_critter(_generator(seed, index)) for index in range(count)]


def bank_captions(critters: list[Critter], seed: int, *, body_rate: float) -> list[str]:
    """One caption for each critter; another ``seed`` gives other phrasings."""
    return [caption(critter, _generator(seed, index), body_rate=body_rate) for index, critter in enumerate(critters)]


def truth_labels(critters: list[Critter]) -> np.ndarray:
    """(n, 6 + 6) float32: 1 for each flaw that is there, then the qualities."""
    return np.array([[*(name in c.flaws for name in FLAWS), *c.qualities] for c in critters], dtype=np.float32)
