"""Write what the stages left in the cache to ``data/``: the models, the trained classifier, the manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from hpslib.adaptation.lora import save_lora
from hpslib.adaptation.sampling import load_pipeline
from hpslib.critters.build.aesthetic import build_aesthetic_head
from hpslib.critters.build.lesson_gates import Chooser, adapt, train_hps
from hpslib.critters.build.networks import CLIP, MEAN, STD
from hpslib.critters.build.world import SETTINGS, World
from hpslib.critters.eyes import save_eye
from hpslib.data.releases.hpd_v1 import read_hpd
from hpslib.runs.files import PARTIAL, sha256, written_whole
from hpslib.scores.clip import load_clip, save_clip

__all__ = ["save_clip_files", "save_control", "save_hps", "save_models", "write_manifest"]


def save_clip_files(world: World, data: Path) -> None:
    """Write mini-CLIP with its vocabulary, and the aesthetic head fitted on top of it."""
    from safetensors.torch import save_file

    folder = data / "clip"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bpe.txt.gz").write_bytes((world.tokenizer() / "bpe.txt.gz").read_bytes())
    weights = {key: value.half().contiguous() for key, value in world.clip(final=True).state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    config = {"model_cfg": CLIP, "preprocess_cfg": {"mean": list(MEAN), "std": list(STD)}}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    build_aesthetic_head(load_clip(folder), data / "aesthetic_head.safetensors")


def save_models(world: World, data: Path) -> None:
    """Write mini-CLIP, mini-SD and the eyes to ``data/`` in float16."""
    save_clip_files(world, data)
    world.pipeline().to(torch.float16).save_pretrained(data / "sd", safe_serialization=True)
    (data / "eyes").mkdir(exist_ok=True)
    for which in "ab":
        save_eye(world.eye(which), data / "eyes" / f"eye_{which}.safetensors")


def save_hps(data: Path, seed: int = 0) -> None:
    """Train the preference classifier as lesson 3 does and write it to ``data/hps``, for lesson 4."""
    clip = load_clip(data / "clip")
    trained = train_hps(clip, read_hpd(data / "hpd_mini" / "train.parquet"), seed)
    save_clip(trained.clip, data / "hps", dtype=torch.float16)


def save_control(data: Path, chooser: Chooser = "nobody", seed: int = 0) -> None:
    """Train a control of lesson 4, a LoRA on images that nobody, chance or shuffled scores chose.

    Written to ``data/control`` (``"nobody"``: the regularisation drawings alone) or a folder of its own below it.
    """
    pipe = load_pipeline(data / "sd")
    adapt(pipe, data, load_clip(data / "hps"), seed, chooser=chooser)
    folder = data / "control" if chooser == "nobody" else data / "control" / chooser
    folder.mkdir(parents=True, exist_ok=True)
    save_lora(pipe, folder)


def write_manifest(data: Path, gates: dict[str, Any]) -> None:
    """List every file below ``data/`` with its size and SHA-256, the settings, and what the gates measured."""
    skip = {"manifest.json", "DATASET_CARD.md"}
    of_the_course = data / "figures"
    there = [path for path in data.rglob("*") if path.is_file() and path.suffix != PARTIAL]
    paths = sorted(path for path in there if path.name not in skip and of_the_course not in path.parents)
    files = {p.relative_to(data).as_posix(): {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in paths}
    content = {"world": "critters 1", "settings": SETTINGS, "gates": gates, "files": files}
    with written_whole(data / "manifest.json") as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
