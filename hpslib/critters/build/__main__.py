"""Build the miniature world from nothing: ``python -m hpslib.critters.build --cache build/world --data data``.

What was stopped goes on where it was (:mod:`hpslib.critters.build.world`). Two CPU cores need about four hours.
``data/`` receives the models (float16 safetensors), HPD-mini and DiffusionDB-mini (packed parquet), the head, the
trained classifier, lesson 4's control LoRAs, and the manifest with SHA-256 sums, settings and the gates' figures.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from hpslib.critters.build.lesson_gates import Chooser
from hpslib.critters.build.shipping import save_control, save_hps, save_models, write_manifest
from hpslib.critters.build.world import World
from hpslib.critters.hpd import build_hpd
from hpslib.lessons.scale import mini

CONTROLS: tuple[Chooser, ...] = ("nobody", "random", "shuffled")


def main() -> None:
    """Build all stages, or stop after the one named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path("build/world"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--until", choices=["models", "hpd"], default="hpd")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    world = World(arguments.cache, arguments.data)
    save_models(world, arguments.data)
    write_manifest(arguments.data, {})
    if arguments.until == "hpd":
        build_hpd(arguments.data, arguments.cache, steps=mini.sampling_steps, guidance_scale=mini.guidance_scale)
        save_hps(arguments.data)
        for chooser in CONTROLS:
            save_control(arguments.data, chooser)
        write_manifest(arguments.data, {})
    print("Now measure the gates: python -m hpslib.critters.build.gates")


if __name__ == "__main__":
    main()
