"""Build the networks of the second edition: ``python -m hpslib.critters.build.second --device cuda``.

What was stopped goes on where it was. The stages run in order: the bank of drawings, the autoencoder, mini-CLIP, the
eyes, mini-SD. ``--until`` ends after one of them. Nothing is shipped yet: the world in ``data/`` is the first edition.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch

from hpslib.critters.build.second.world import World

__all__ = ["STAGES", "main"]

STAGES: dict[str, Callable[[World], object]] = {
    "bank": lambda world: world.bank(),
    "autoencoder": lambda world: world.autoencoder(),
    "clip": lambda world: world.clip(final=True),
    "eyes": lambda world: [world.eye(which) for which in "ab"],
    "pipeline": lambda world: world.pipeline(),
}


def main(arguments: list[str] | None = None) -> None:
    """Build all stages, or stop after the one named; print how long each took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path("build/second"))
    parser.add_argument("--until", choices=list(STAGES), default="pipeline")
    parser.add_argument("--device", default="cpu", help="where the networks learn: cpu, cuda, mps")
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    world = World(chosen.cache, chosen.cache / "data", device=chosen.device)
    for name, make in STAGES.items():
        start = time.perf_counter()
        make(world)
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
        if name == chosen.until:
            break


if __name__ == "__main__":
    main()
