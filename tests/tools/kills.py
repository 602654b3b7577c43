"""Is nothing lost when a run is killed? SIGKILL at random moments, thirty times for each kind of long work.

    OMP_NUM_THREADS=1 python tests/tools/kills.py [--kills 30] [--seed 0] [--only classifier lora scores ...]

Each kind runs once undisturbed, in a process of its own. Then it is started, killed after a random part of that time
and started again, until it ends; from there anew, until there were so many kills. What it ends with must be what the
undisturbed run ended with, file by file, and no start may fail. Prints one line a kind; exit code 1 if any differs.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from datasets import Dataset
from release_files import image_file
from safetensors.torch import save_file

from hpslib.adaptation.examples import encode_examples
from hpslib.adaptation.lora import add_lora, save_lora
from hpslib.adaptation.sampling import generate_rows, load_pipeline
from hpslib.adaptation.training import train_lora
from hpslib.classifier.training import train_classifier
from hpslib.classifier.trunk import dataset_trunk
from hpslib.critters.assets import asset
from hpslib.critters.hpd import drawn_images, make_prompts
from hpslib.data.images.lazy import to_images
from hpslib.data.pools.downloads import download_images
from hpslib.data.releases.hpd_v1 import read_hpd
from hpslib.runs.files import sha256
from hpslib.runs.shards import work_in_shards
from hpslib.scores.clip import load_clip
from hpslib.scores.sets import score_pool

Work = Callable[[Path], None]


def classifier() -> Work:
    """Twelve steps, a checkpoint after each, then the best weights."""
    clip, dataset = load_clip(asset("clip")), read_hpd(asset("hpd_mini/train.parquet")).select(range(60))
    blocks: dict[str, Any] = {"image_blocks": 1, "text_blocks": 1}
    learned, judged = (dataset_trunk(clip, dataset.select(rows), **blocks) for rows in (range(48), range(48, 60)))
    how: dict[str, Any] = {"epochs": 2, "batch_size": 8, "lr": 1e-3, "weight_decay": 0.1, "evaluate_every": 4}

    def work(folder: Path) -> None:
        trained = train_classifier(clip, learned, judged, **how, checkpoint=folder / "kept.ckpt", save_every=1)
        save_file({k: v.contiguous() for k, v in trained.clip.model.state_dict().items()}, folder / "made.safetensors")

    return work


def lora() -> Work:
    """Latents into a cache, ten steps, a checkpoint after each, then the file."""
    pipe, captions = load_pipeline(asset("sd")), make_prompts(24, seed=1)
    pictures = to_images(drawn_images(captions, seed=2))

    def work(folder: Path) -> None:
        examples = encode_examples(pipe, pictures, captions, cache=folder / "latents", batch_size=4, keep_states=False)
        how: dict[str, Any] = {"steps": 10, "batch_size": 4, "lr": 1e-3, "weight_decay": 0.1}
        parameters = add_lora(pipe, rank=4, seed=0)
        train_lora(pipe, parameters, examples, **how, checkpoint=folder / "kept.ckpt", save_every=1)
        save_lora(pipe, folder)

    return work


def scores() -> Work:
    """A pool scored in parts of a few groups."""
    clip, dataset = load_clip(asset("hps")), read_hpd(asset("hpd_mini/train.parquet")).select(range(120))

    def work(folder: Path) -> None:
        from hpslib.scores import sets

        def small(*given: Any, **more: Any) -> Any:
            return work_in_shards(*given, **more, shard_size=6)

        sets.work_in_shards = small
        score_pool(clip, dataset, None, folder)

    return work


def images() -> Work:
    """Pictures generated in parts of two."""
    pipe, prompts = load_pipeline(asset("sd")), make_prompts(16, seed=3)

    def work(folder: Path) -> None:
        def make(rows: range) -> Any:
            return generate_rows(pipe, prompts, rows, seed=1, steps=2, guidance_scale=2.0, batch_size=2)

        work_in_shards(len(prompts), make, folder, settings={"seed": 1}, shard_size=2)

    return work


class Slow(BaseHTTPRequestHandler):
    """Every address is a picture, which comes in two halves."""

    def do_GET(self) -> None:
        data = image_file(int(self.path.rpartition("/")[2]))
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])
        time.sleep(0.02)
        self.wfile.write(data[len(data) // 2 :])

    def log_message(self, *given: Any) -> None:
        pass


def downloads() -> Work:
    """A list of sixty addresses."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    addresses = [f"http://127.0.0.1:{server.server_port}/{k}" for k in range(60)]
    table = Path(tempfile.mkdtemp()) / "list.parquet"
    Dataset.from_dict({"URL": addresses, "TEXT": [f"text {k}" for k in range(60)]}).to_parquet(table)

    def work(folder: Path) -> None:
        download_images(table, folder, workers=4)

    return work


KINDS = {kind.__name__: kind for kind in (classifier, lora, scores, images, downloads)}


def attempt(work: Work, folder: Path, seconds: float | None) -> str | None:
    """Run ``work`` in a child: "done", "killed" after so many seconds, or how it failed."""
    folder.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child == 0:
        try:
            work(folder)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return "done" if status == 0 else f"failed with {status}"
        if deadline is not None and time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "killed"
        time.sleep(0.002)


def content(folder: Path) -> dict[str, str]:
    """The files that a run leaves, by their content; a checkpoint's own bytes and half-written files aside."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    names = [file for file in files if not file.name.startswith(".") and file.suffix != ".ckpt"]
    return {file.relative_to(folder).as_posix(): sha256(file) for file in names}


def disturbed(make: Callable[[], Work], kills: int, rng: random.Random, root: Path) -> str:
    """One kind: kill it so many times; what was found, in a sentence."""
    work, begin = make(), time.monotonic()
    if (ended := attempt(work, root / "whole", None)) != "done":
        return f"FAILED undisturbed: {ended}"
    took, expected = time.monotonic() - begin, content(root / "whole")
    killed = rounds = 0
    while killed < kills:
        rounds += 1
        while True:
            ended = attempt(work, root / "killed", rng.uniform(0.02, 1.0) * took if killed < kills else None)
            if ended == "done":
                break
            if ended != "killed":
                return f"FAILED after {killed} kills: {ended}"
            killed += 1
        if content(root / "killed") != expected:
            return f"DIFFERS after {killed} kills in round {rounds}"
        shutil.rmtree(root / "killed")
    return f"{killed} kills in {rounds} rounds, {len(expected)} files each time the same; undisturbed {took:.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=list(KINDS), default=list(KINDS))
    given = parser.parse_args()
    torch.set_num_threads(1)  # threads do not live through a fork
    found = {}
    for name in given.only:
        with tempfile.TemporaryDirectory() as root:
            found[name] = disturbed(KINDS[name], given.kills, random.Random(f"{given.seed} {name}"), Path(root))
        print(f"{name}: {found[name]}", flush=True)
    sys.exit(any(text.startswith(("FAILED", "DIFFERS")) for text in found.values()))


if __name__ == "__main__":
    main()
