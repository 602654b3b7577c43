"""What ``fuzz.py`` spoils beside the readers of data: weights, LoRA files, model folders, checkpoints, votes, scores.

Each function writes a valid input into an empty folder, as those in ``fuzz.py`` do. Where a file carries a checksum of
its own (checkpoints, latents, parts of a run), being accepted with other content counts as a fault: the reader below
raises then, which no reader of the library does by itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hpslib.critters.assets import data_folder


class Target(NamedTuple):
    """What is spoilt, and what reads it; the same as in ``fuzz.py``."""

    files: list[Path]
    read: Callable[[], Any]


def _clip_folder(spoilt: str) -> Callable[[Path], Target]:
    def make(folder: Path) -> Target:
        from PIL import Image

        from hpslib.scores.clip import load_clip
        from hpslib.scores.cosine import clip_scores

        for file in (data_folder() / "clip").iterdir():
            shutil.copy(file, folder)

        def read() -> None:
            scores = clip_scores(load_clip(folder), [Image.new("RGB", (9, 7), "red")], ["a red critter"])
            if not np.isfinite(scores).all():
                raise AssertionError("a score is no number, and nothing was said")

        return Target([folder / spoilt], read)

    return make


@cache
def _pipeline() -> Any:
    from hpslib.adaptation.sampling import load_pipeline

    return load_pipeline(data_folder() / "sd")


def _lora(folder: Path) -> Target:
    import torch

    from hpslib.adaptation.lora import load_lora, remove_lora

    file = Path(shutil.copy(data_folder() / "control" / "pytorch_lora_weights.safetensors", folder))

    def read() -> None:
        pipe = _pipeline()
        try:
            load_lora(pipe, folder)
            weights = [value for key, value in pipe.unet.state_dict().items() if ".lora_" in key]
            if not all(torch.isfinite(value).all() for value in weights):
                raise AssertionError("a weight is no number, and nothing was said")
        finally:
            remove_lora(pipe)

    return Target([file], read)


def _kohya(folder: Path) -> Target:
    from hpslib.adaptation.lora_files import export_kohya

    shutil.copy(data_folder() / "control" / "pytorch_lora_weights.safetensors", folder)
    file = folder / "pytorch_lora_weights.safetensors"
    return Target([file], lambda: export_kohya(folder, folder / "out" / "kohya.safetensors"))


def _pipeline_file(spoilt: str) -> Callable[[Path], Target]:
    def make(folder: Path) -> Target:
        from hpslib.adaptation.sampling import generate, load_pipeline

        shutil.copytree(data_folder() / "sd", folder / "sd")

        def read() -> None:
            generate(load_pipeline(folder / "sd"), ["a red critter"], [0], steps=1, guidance_scale=1.0)

        return Target([folder / "sd" / spoilt], read)

    return make


def _checkpoint(folder: Path) -> Target:
    import torch

    from hpslib.runs.checkpoints import load_checkpoint, save_checkpoint

    file, weights = folder / "train.ckpt", torch.arange(200, dtype=torch.float32)
    save_checkpoint(file, settings={"lr": 0.1}, step=3, weights=weights)

    def read() -> None:
        found = load_checkpoint(file)
        if found is not None and not (torch.equal(found["weights"], weights) and found["step"] == 3):
            raise AssertionError("other content was accepted, and nothing was said")

    return Target([file], read)


def _part(folder: Path) -> Target:
    from hpslib.runs.shards import read_shards, work_in_shards

    def work(rows: range) -> Any:
        import pyarrow as pa

        return pa.table({"row": list(rows), "text": [f"text {row}" for row in rows]})

    work_in_shards(40, work, folder, settings={"a": 1}, shard_size=10)

    def read() -> None:
        if read_shards(folder).num_rows != 40:
            raise AssertionError("other content was accepted, and nothing was said")

    return Target(sorted(folder.glob("part-*.parquet")), read)


def _aesthetic(folder: Path) -> Target:
    from hpslib.scores.aesthetic import load_aesthetic_head

    file = Path(shutil.copy(data_folder() / "aesthetic_head.safetensors", folder))
    return Target([file], lambda: load_aesthetic_head(file))


def _personal(folder: Path) -> Target:
    from hpslib.votes.personal import Axes, Personal, load_personal, save_personal

    axes = Axes(np.ones((6, 2)), np.ones((5, 2)), 1.0)
    file = save_personal(Personal(axes, np.ones(5), 1.0, 20, {1.0: 0.9}), folder / "mine.safetensors")
    return Target([file], lambda: load_personal(file))


GROUPS = [{"id": f"g{k}", "prompt": f"prompt {k}", "images": [{"bytes": b"x", "path": None}] * 3} for k in range(4)]


def _four_votes(file: Path) -> Any:
    from hpslib.votes.votes import open_votes

    votes = open_votes(file, "study", GROUPS)
    for k in range(4):
        votes.record("ann", f"g{k}", k % 3, [2, 0, 1], 1.5)
    return votes


def _votes(folder: Path) -> Target:
    from hpslib.votes.votes import open_votes

    file = folder / "votes.sqlite"
    _four_votes(file)

    def read() -> None:
        votes = open_votes(file, "study", GROUPS)
        votes.rows()
        votes.choices("ann")

    return Target([file], read)


def _votes_table(ending: str) -> Callable[[Path], Target]:
    def make(folder: Path) -> Target:
        from hpslib.votes.files import export_table, import_table
        from hpslib.votes.votes import open_votes

        file = export_table(_four_votes(folder / "votes.sqlite"), folder / f"votes.{ending}")

        def read() -> None:
            other = open_votes(folder / "other.sqlite", "study", GROUPS)
            import_table(other, file)
            other.rows()

        return Target([file], read)

    return make


def _selection(folder: Path) -> Target:
    from hpslib.adaptation.selection import read_selection

    file = folder / "selection.parquet"
    row = {"id": "g", "name": "a", "prompt": "p", "caption": "Weird image. p", "preferred": False, "score": 20.0}
    pd.DataFrame([row] * 4).to_parquet(file)
    return Target([file], lambda: read_selection(file))


TARGETS: dict[str, Callable[[Path], Target]] = {
    "clip_config": _clip_folder("open_clip_config.json"),
    "clip_weights": _clip_folder("open_clip_model.safetensors"),
    "lora": _lora,
    "kohya": _kohya,
    "sd_index": _pipeline_file("model_index.json"),
    "sd_unet_config": _pipeline_file("unet/config.json"),
    "sd_scheduler": _pipeline_file("scheduler/scheduler_config.json"),
    "checkpoint": _checkpoint,
    "parts": _part,
    "aesthetic_head": _aesthetic,
    "personal": _personal,
    "votes": _votes,
    "votes_csv": _votes_table("csv"),
    "votes_parquet": _votes_table("parquet"),
    "selection": _selection,
}
