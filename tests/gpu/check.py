"""Does the full scale hold on a GPU, how fast, in how much memory? At most ten minutes on one card, no network.

    python tests/gpu/check.py [--only scores,classifier,...] [--budget 540] [--out FOLDER]
    python tests/gpu/check.py --dry       # the same sections on the CPU, with the miniature world's models

Weights are random at the true shapes (ViT-L/14, Stable Diffusion v1.4), images are made here. Each section prints JSON
lines, ``{"section", "at", ...}``, also written to ``FOLDER/gpu_check.jsonl``, and is guarded, so that one failure hides
no other; what would begin after the budget is skipped and says so. The exit code is the number of failed checks.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
import models

ROOT = Path(__file__).parents[2]


@dataclass
class Check:
    """One run: where it works, what it says, and what failed."""

    device: str
    dry: bool
    out: Path
    work: Path
    began: float = field(default_factory=time.time)
    failed: list[str] = field(default_factory=list)

    def few(self, dry: int, full: int) -> int:
        """How many: ``dry`` on the CPU, ``full`` on the card."""
        return dry if self.dry else full

    def say(self, section: str, **values: Any) -> None:
        """One JSON line."""
        line = json.dumps({"section": section, "at": round(time.time() - self.began), **values}, default=str)
        print(line, flush=True)
        with (self.out / "gpu_check.jsonl").open("a") as file:
            file.write(line + "\n")

    def hold(self, section: str, name: str, ok: Any, **values: Any) -> None:
        """A check: counted where it does not hold."""
        if not ok:
            self.failed.append(f"{section}: {name}")
        self.say(section, check=name, ok=bool(ok), **values)


class Peak:
    """Seconds and peak GiB of a block."""

    def __enter__(self) -> Peak:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        self.begin = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.gib = 0.0
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            self.gib = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        self.seconds = time.perf_counter() - self.begin


class Stopped(Exception):
    """Raised by a progress bar to end a run where a kill would."""


def stamped(stamps: list[float]) -> Callable[[int, int], None]:
    """A ``progress`` that notes the time of each step."""
    return lambda done, count: stamps.append(time.perf_counter())


def stop_at(step: int) -> Callable[[int, int], None]:
    """A ``progress`` that ends the run at ``step``."""

    def progress(done: int, count: int) -> None:
        if done == step:
            raise Stopped

    return progress


def precision(name: str, device: str) -> Any:
    """An accelerator of this precision, whatever there was before."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=device == "cpu", mixed_precision=name)


# ------------------------------------------------------------------------------------------------------- sections


def machine(check: Check) -> None:
    """The card, and what hpslib computes in on it."""
    from hpslib.runs.distributed import fast_dtype

    card = torch.cuda.get_device_properties(0) if check.device == "cuda" else None
    name, gib = (card.name, round(card.total_memory / 2**30, 1)) if card else ("CPU", None)
    check.say("machine", card=name, gib=gib, cores=os.cpu_count(), torch=torch.__version__, cuda=torch.version.cuda)
    wanted = torch.bfloat16 if card and card.major >= 8 else torch.float16 if card else torch.float32
    check.hold("machine", "computes in the card's type", fast_dtype(check.device) == wanted, dtype=wanted)


def scores(check: Check) -> None:
    """ViT-L/14: three precisions against float32, images a second against the tower alone, zip files, the reward."""
    from hpslib.scores.clip import encode_pixels
    from hpslib.scores.pixels import preprocess
    from hpslib.scores.scorers import Scorer, preference_scores
    from hpslib.scores.sets import score_table

    clip, count = models.clip_model(check.device, check.dry), check.few(16, 256)
    pictures = list(models.images(count, check.few(64, 512)))
    texts = [f"a picture of thing {k % 61} in the style of {k % 7}" for k in range(count)]
    scorer = Scorer(clip, "crop", 100.0)
    ours = preference_scores(scorer, pictures, texts)
    pixels = preprocess(pictures, clip.image_size, clip.mean, clip.std, "crop").to(check.device)
    tokens = clip.tokenize(texts).to(check.device)

    def cosines(dtype: torch.dtype) -> np.ndarray:
        enabled = dtype != torch.float32
        with torch.inference_mode(), torch.autocast(check.device, dtype, enabled=enabled):
            seen = torch.cat([clip.model.encode_image(part) for part in pixels.split(64)]).float()
            read = clip.model.encode_text(tokens).float()
        return (100 * torch.nn.functional.cosine_similarity(seen, read)).double().cpu().numpy()

    exact = cosines(torch.float32)
    off = {str(dtype): np.abs(cosines(dtype) - exact).max() for dtype in (torch.float16, torch.bfloat16)}
    check.hold(
        "scores", "within .05 of float32", np.abs(ours - exact).max() < 0.05, ours=np.abs(ours - exact).max(), **off
    )
    _reward(check, scorer, pictures, texts)
    for batch in (64, check.few(64, 256)):
        x = torch.randn(batch, 3, clip.image_size, clip.image_size, device=check.device)
        for _ in range(3):
            encode_pixels(clip, x)
        with Peak() as peak:
            for _ in range(check.few(2, 20)):
                encode_pixels(clip, x)
        rate = check.few(2, 20) * batch / peak.seconds
        check.say("scores", tower_alone=True, batch=batch, images_a_second=round(rate), gib=peak.gib)
    _zips(check, scorer, pictures, score_table)


def _reward(check: Check, scorer: Any, pictures: list[Any], texts: list[str]) -> None:
    from hpslib.scores.reward import Reward
    from hpslib.scores.scorers import preference_scores

    some = check.few(8, 32)
    tensor = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures[:some]])).permute(0, 3, 1, 2)
    tensor = (tensor.float() / 255).to(check.device).requires_grad_()
    with Peak() as peak:
        values = Reward(scorer)(tensor, texts[:some])
        values.sum().backward()
    files = preference_scores(scorer, pictures[:some], texts[:some])
    off = np.abs(values.detach().double().cpu().numpy() - files).max()
    slope = float(tensor.grad.abs().sum()) if tensor.grad is not None else 0.0
    check.hold("scores", "the reward is the score, with a gradient", off < 0.1 and slope > 0, off=off, gib=peak.gib)
    check.say("scores", reward_images_a_second=round(some / peak.seconds))


def _zips(check: Check, scorer: Any, pictures: list[Any], score_table: Callable[..., Any]) -> None:
    from hpslib.data.pools.diffusiondb import read_diffusiondb

    count = check.few(40, 4_000)
    for spread in (False, True):
        folder = models.clear(check.work / f"diffusiondb{spread}")
        parts = check.few(4, 40)
        models.diffusiondb(folder, pictures, count, parts, spread)
        pool, _ = read_diffusiondb(folder / "metadata-large.parquet", folder / "images", parts=range(1, parts + 1))
        for blur in (False, True):
            with Peak() as peak:
                rows = score_table(scorer, pool, folder / "images", 64, blur).num_rows
            rate = rows / peak.seconds
            check.say("scores", zips=parts, spread=spread, blur=blur, images_a_second=round(rate), gib=peak.gib)


def classifier(check: Check) -> None:
    """Training at the paper's shapes: three precisions, steps a second, peaks, a run that was killed."""
    from hpslib.classifier.training import train_classifier
    from hpslib.classifier.trunk import stream_trunk
    from hpslib.data.images.lazy import LazyImages

    clip, folder, files = (
        models.clip_model(check.device, check.dry),
        models.clear(check.work / "jpg"),
        check.few(40, 160),
    )
    for k, image in enumerate(models.images(files, check.few(64, 512))):
        image.save(folder / f"{k}.jpg", quality=90)
    entries = [{"bytes": None, "path": f"{k % files}.jpg"} for k in range(4 * files)]
    lazy = LazyImages(entries, [str(k) for k in range(len(entries))], folder)

    def groups(count: int, image_blocks: int, text_blocks: int) -> Any:
        blocks = {"image_blocks": image_blocks, "text_blocks": text_blocks}
        prompts, choices = [f"prompt {k}" for k in range(count)], [k % 4 for k in range(count)]
        return stream_trunk(clip, lazy.take(range(4 * count)), prompts, [4] * count, choices, **blocks)

    paper = (check.few(1, 10), check.few(1, 6))
    how: dict[str, Any] = {"epochs": 1, "batch_size": 5, "lr": 1.7e-5, "weight_decay": 3.1e-3, "seed": 0}
    how["evaluate_every"] = 10**9
    losses = {}
    for name in ("no", "bf16") if check.dry else ("no", "bf16", "fp16"):
        with Peak() as peak:
            trained = train_classifier(
                clip, groups(30, *paper), groups(8, *paper), accelerator=precision(name, check.device), **how
            )
        losses[name] = trained.losses
        check.say("classifier", precision=name, losses=[round(x, 4) for x in trained.losses], gib=peak.gib)
    far = max(abs(b - a) / a for name in losses for a, b in zip(losses["no"], losses[name]))
    check.hold("classifier", "losses within 2 % of float32", far < 0.02, furthest=far)
    for blocks in (paper, (check.few(1, 20), check.few(1, 7))):
        stamps: list[float] = []
        learned, judged = groups(check.few(30, 100), *blocks), groups(8, *blocks)
        with Peak() as peak:
            train_classifier(
                clip, learned, judged, accelerator=precision("no" if check.dry else "bf16", check.device), **how,
                progress=stamped(stamps),
            )  # fmt: skip
        rate = (len(stamps) - 4) / (stamps[-2] - stamps[2])
        minutes = round(4041 / rate / 60, 1)
        check.say(
            "classifier", blocks=blocks, steps_a_second=round(rate, 2), minutes_of_the_paper=minutes, gib=peak.gib
        )
    _killed_classifier(check, clip, groups(check.few(30, 50), *paper), groups(8, *paper), how)


def _killed_classifier(check: Check, clip: Any, learned: Any, judged: Any, how: dict[str, Any]) -> None:
    from hpslib.classifier.training import train_classifier

    def run(**more: Any) -> list[float]:
        accelerator = precision("no" if check.dry else "bf16", check.device)
        return train_classifier(clip, learned, judged, accelerator=accelerator, **how, **more).losses

    kept = {"checkpoint": check.work / "classifier.ckpt", "save_every": 2}
    whole = run()
    with suppress(Stopped):
        run(**kept, progress=stop_at(5))
    again = run(**kept)
    off = float(np.abs(np.array(whole) - again).max())
    check.hold("classifier", "killed and resumed: losses within .02", off < 0.02, furthest=off, equal=whole == again)


def diffusion(check: Check) -> None:
    """SD v1.4's shapes at 512 pixels: latents, LoRA steps by micro-batch, the size it chooses, a kill, generation."""
    from hpslib.adaptation.examples import encode_examples
    from hpslib.adaptation.sampling import load_pipeline

    folder = models.pipeline_folder(check.work / "sd", check.device, check.dry)
    pipe = load_pipeline(folder, check.device)
    pictures = list(models.images(check.few(12, 96), check.few(64, 512)))
    captions = [("Weird image. " if k % 3 == 0 else "") + f"thing {k}" for k in range(len(pictures))]
    with Peak() as peak:
        examples = encode_examples(
            pipe, pictures, captions, keep_states=False, batch_size=8, cache=check.work / "latents"
        )
    check.say("diffusion", latents_a_second=round(len(pictures) / peak.seconds, 1), gib=peak.gib)
    _steps(check, pipe, examples)
    _killed_lora(check, pipe, examples)
    _pictures(check, folder, pipe, captions)


def _steps(check: Check, pipe: Any, examples: Any) -> None:
    from hpslib.adaptation.lora import add_lora, remove_lora
    from hpslib.adaptation.training import train_lora

    batch, rows = check.few(4, 40), []
    how: dict[str, Any] = {"batch_size": batch, "lr": 1e-5, "weight_decay": 1e-2, "seed": 42}
    ways = [(None, None), (1, True), (8, True), (batch, True), (8, False), (batch, False)]
    for micro_batch, checkpointing in ways:
        lora, stamps = add_lora(pipe, rank=check.few(4, 32), seed=0), [time.perf_counter()]
        try:
            with Peak() as peak:
                losses = train_lora(
                    pipe, lora, examples, steps=2 if micro_batch == 1 else 3, micro_batch=micro_batch, **how,
                    gradient_checkpointing=checkpointing, progress=stamped(stamps),
                )  # fmt: skip
            seconds = (stamps[-1] - stamps[1]) / (len(stamps) - 2)
            rows.append((micro_batch, seconds, losses[0]))
            hours = round(seconds * 1e4 / 3600, 1)
            check.say("diffusion", at_once=micro_batch or "auto", checkpointing=checkpointing, hours_for_10000=hours,
                      seconds_a_step=round(seconds, 3), gib=peak.gib, first_loss=losses[0])  # fmt: skip
        except torch.cuda.OutOfMemoryError:
            check.say("diffusion", at_once=micro_batch, checkpointing=checkpointing, out_of_memory=True)
        remove_lora(pipe)
    first = [loss for *_, loss in rows]
    check.hold("diffusion", "the first loss is the same (1 %)", max(first) / min(first) < 1.01)
    slower = rows[0][1] / min(seconds for _, seconds, _ in rows)
    check.hold("diffusion", "auto is within 1.3 of the best", check.dry or slower < 1.3, slower=round(slower, 2))


def _killed_lora(check: Check, pipe: Any, examples: Any) -> None:
    from hpslib.adaptation.lora import add_lora, remove_lora, save_lora
    from hpslib.adaptation.training import train_lora

    how: dict[str, Any] = {"batch_size": 4, "lr": 1e-3, "weight_decay": 1e-2, "seed": 42, "steps": 6}

    def run(**more: Any) -> list[float]:
        lora = add_lora(pipe, rank=check.few(4, 32), seed=0)
        try:
            losses = train_lora(pipe, lora, examples, **how, **more)
            save_lora(pipe, check.work / "lora")
            return losses
        finally:
            remove_lora(pipe)

    kept = {"checkpoint": check.work / "lora.ckpt", "save_every": 2}
    whole = run()
    with suppress(Stopped):
        run(**kept, progress=stop_at(5))
    again = run(**kept)
    check.hold(
        "diffusion", "LoRA killed and resumed (1 %)", np.allclose(whole, again, rtol=1e-2), whole=whole, again=again
    )


def _pictures(check: Check, folder: Path, pipe: Any, captions: list[str]) -> None:
    from hpslib.adaptation.lora import load_lora, remove_lora
    from hpslib.adaptation.sampling import generate, load_pipeline

    how: dict[str, Any] = {"steps": check.few(2, 20), "guidance_scale": 7.5, "batch_size": 8}
    texts, bad = captions[:8], "Weird image. "
    generate(pipe, texts, range(8), **how | {"steps": 1})
    with Peak() as peak:
        base = generate(pipe, texts, range(8), **how)
    check.say("diffusion", images_a_second=round(8 / peak.seconds, 2), steps=how["steps"], gib=peak.gib)
    check.hold("diffusion", "same call, same pixels", (generate(pipe, texts, range(8), **how) == base).all())
    alone = generate(pipe, texts[3:4], [3], **how)[0].astype(int)
    off = float(np.abs(alone - base[3]).mean())
    check.hold("diffusion", "an image does not depend on its batch (2 grey levels)", off < 2, mean=off)
    load_lora(pipe, check.work / "lora")
    ours = generate(pipe, texts, range(8), negative_prompt=bad, **how)
    remove_lora(pipe)
    pipe.load_lora_weights(str(check.work / "lora"))
    theirs = generate(pipe, texts, range(8), negative_prompt=bad, **how)
    pipe.unload_lora_weights()
    off = float(np.abs(ours.astype(int) - theirs).mean())
    check.hold(
        "diffusion", "the LoRA's images are those of plain diffusers", off < 0.5 and (ours != base).any(), mean=off
    )
    exact = generate(load_pipeline(folder, check.device, torch.float32), texts, range(8), **how).astype(int)
    check.say("diffusion", grey_levels_from_float32=float(np.abs(base - exact).mean()))


def rehearsal(check: Check) -> None:
    """HPS_SCALE=rehearsal: lessons 1 to 4 on files of the released formats, lesson 4 twice: the second goes on."""
    sys.path.insert(0, str(ROOT / "tests"))
    from full_world import build

    from hpslib.lessons.execution import execute

    root = build(models.clear(check.work / "full"), 200)
    place = {"HPS_SCALE": "rehearsal", "HPSLIB_FULL": str(root)}
    for number in (1, 2, 3, 4, 4):
        notebook = next((ROOT / "notebooks").glob(f"0{number}_*.ipynb"))
        done = execute(notebook, environment=place)
        check.hold("rehearsal", f"lesson {number}", done.fault is None, seconds=round(done.seconds), fault=done.fault)


SECTIONS: dict[str, Callable[[Check], None]] = {
    section.__name__: section for section in (machine, scores, diffusion, classifier, rehearsal)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, in this order")
    parser.add_argument("--budget", type=float, default=540, help="seconds after which no section begins")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "build/gpu_check")))
    parser.add_argument("--dry", action="store_true", help="on the CPU, with the miniature world's models")
    given = parser.parse_args()
    if not given.dry and not torch.cuda.is_available():
        parser.error("no GPU is here: add --dry to run the plan on the CPU.")
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        check = Check("cpu" if given.dry else "cuda", given.dry, given.out, Path(work))
        for name in given.only.split(","):
            if time.time() - check.began > given.budget:
                check.say(name, skipped="past the budget")
                continue
            begin = time.time()
            try:
                SECTIONS[name](check)
                check.say(name, done=True, seconds=round(time.time() - begin))
            except Exception as error:
                check.failed.append(f"{name}: {type(error).__name__}")
                check.say(
                    name, crashed=type(error).__name__, why=str(error)[:600], at_line=traceback.format_exc()[-900:]
                )
        check.say("end", failed=check.failed, seconds=round(time.time() - check.began))
    sys.exit(len(check.failed))


if __name__ == "__main__":
    main()
