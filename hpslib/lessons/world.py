"""Where a lesson's data and models come from: the miniature world in ``data/``, or your own folder of the real thing.

The lessons name what they want ("test", "clip", "sd"); the active scale decides where it lies. The full scale's folder
is ``$HPSLIB_FULL`` (``full/`` in the working folder if that is not set), laid out as :data:`NEEDS` says; nothing is
fetched by itself, and :func:`check_full` names what is missing before anything long starts.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpslib.critters.assets import asset
from hpslib.lessons.scale import Scale, active_scale
from hpslib.runs.progress import ProgressBar

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL import Image

    from hpslib.scores.clip import Clip

__all__ = [
    "NEEDS",
    "Need",
    "Preflight",
    "check_full",
    "class_texts",
    "evaluation_prompts",
    "folder",
    "full_root",
    "keep_classifier",
    "keeping",
    "optional",
    "pool",
    "preferences",
    "progress",
    "reference_images",
    "regularisation",
    "require",
    "work_file",
]


@dataclass(frozen=True)
class Need:
    """One thing the full scale needs: its place below the root, the lessons that use it, its size, how to get it."""

    place: str
    lessons: tuple[int, ...]
    size: str
    how: str


NEEDS = (
    Need("hpd_v1/preference_train.json", (1, 3), "15 MB", "HPD v1, linked in the README of align_sd"),
    Need("hpd_v1/preference_test.json", (1, 2, 3), "4 MB", "HPD v1, linked in the README of align_sd"),
    Need("hpd_v1/preference_images", (1, 2, 3), "some 10 GB", "HPD v1's images, unpacked beside its JSON files"),
    Need("clip", (1, 2, 3, 4), "1.7 GB",
         "hpslib convert clip hf://openai/clip-vit-large-patch14/model.safetensors clip"),
    Need("aesthetic_head.safetensors", (2, 3, 4), "4 KB",
         "hpslib convert aesthetic sac+logos+ava1-l14-linearMSE.pth aesthetic_head.safetensors"),
    Need("hps", (4,), "1.7 GB", "lesson 3 or hpslib train writes it; or hpslib convert hps_v1 hpc.pth hps"),
    Need("sd", (4,), "5 GB", "Stable Diffusion v1.4 in diffusers' layout, safetensors (CompVis/stable-diffusion-v1-4)"),
    Need("diffusiondb/metadata-large.parquet", (4,), "2 GB", "poloclub/diffusiondb"),
    Need("diffusiondb/images", (4,), "about 0.5 GB a part", "DiffusionDB Large: part-000001.zip to part-001000.zip"),
    Need("regularisation", (2, 4), "about 20 GB", "200,000 pictures with captions (LAION aesthetics 6.5+); "
         "hpslib.data.pools.downloads.download_images fetches a URL list and can be stopped and started"),
    Need("prompts.txt", (4,), "10 KB", "prompts to evaluate on, one a line, such as PartiPrompts'"),
)  # fmt: skip

# Memory by lesson: lesson 3 trains ViT-L/14 (5.5 GiB) beside another (1.7), lesson 4 decodes eight pictures (3.2 GiB; a
# step of the LoRA is 1.9) beside Stable Diffusion (2.0) and two ViT-L/14. Computed by tests/benchmarks/memory_full.py;
# 15 % and 1 GiB on top for CUDA's context and the kernels' work space.
GPU_GIB = {1: 0, 2: 4, 3: 10, 4: 12}
DISK_GIB = {1: 0, 2: 0, 3: 6, 4: 12}  # what the lesson writes: checkpoints; latents of 260,000 pictures


@dataclass(frozen=True)
class Preflight:
    """What :func:`check_full` found; ``ready`` when nothing is missing, ``str()`` says what and how to get it.
    ``notes`` are worth knowing and stop nobody."""

    root: Path
    missing: list[Need]
    remarks: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ready(self) -> bool:
        return not self.missing and not self.remarks

    def __str__(self) -> str:
        if self.ready:
            return "\n".join([f"{self.root}: everything is there.", *(f"- {line}" for line in self.notes)])
        things = [f"{need.place} ({need.size}): {need.how}" for need in self.missing]
        return "\n".join(
            [f"{self.root} is not ready:", *(f"- {line}" for line in [*things, *self.remarks, *self.notes])]
        )


def full_root(root: str | Path | None = None) -> Path:
    """The folder of the full scale: the argument, else ``$HPSLIB_FULL``, else ``full`` in the working folder."""
    return Path(root or os.environ.get("HPSLIB_FULL") or "full")


def check_full(root: str | Path | None = None, lesson: int | None = None, scale: Scale | None = None) -> Preflight:
    """Look for files, GPU memory and disk that the full scale (one lesson of it) needs. Nothing is opened or fetched.

    A rehearsal needs the files, but neither the GPU nor the disk.
    """
    base = full_root(root)
    lessons = (1, 2, 3, 4) if lesson is None else (lesson,)
    wanted = [need for need in NEEDS if set(need.lessons) & set(lessons)]
    missing = [need for need in wanted if not _filled(base / need.place)]
    remarks = []
    parts = len(_parts(base / "diffusiondb" / "images")) if 4 in lessons else 0
    notes = [f"{parts:,} of the 1,000 parts of DiffusionDB that the paper used are there"] if 0 < parts < 1_000 else []
    if scale is None or scale.name == "full":
        gpu, disk = (max(table[number] for number in lessons) for table in (GPU_GIB, DISK_GIB))
        import torch

        there = torch.cuda.get_device_properties(0).total_memory / 2**30 if torch.cuda.is_available() else 0
        if there < 0.95 * gpu:
            remarks.append(f"a GPU with {gpu} GiB is needed, {there:.0f} GiB are there: use another machine")
        existing = next((place for place in (base, *base.absolute().parents) if place.exists()), Path.cwd())
        free = shutil.disk_usage(existing).free / 2**30
        if free < disk:
            remarks.append(f"{disk} GiB will be written, {free:.0f} GiB are free at {existing}: make room")
    return Preflight(base, missing, remarks, notes)


def _filled(place: Path) -> bool:
    """Whether a file has content, or a folder an entry."""
    return any(place.iterdir()) if place.is_dir() else place.is_file() and place.stat().st_size > 0


def _parts(images: Path) -> list[int]:
    """The numbers of DiffusionDB's parts in a folder; a browser's "part-000001 (1).zip" is none."""
    names = (re.fullmatch(r"part-(\d{6})(\.zip)?", file.name) for file in images.glob("part-*"))
    return sorted({int(name[1]) for name in names if name})


def require(lesson: int, scale: Scale | None = None) -> None:
    """Do nothing at the miniature scale; at the full one raise ``FileNotFoundError`` that says all that is missing."""
    chosen = scale or active_scale()
    if not chosen.simulated:
        report = check_full(lesson=lesson, scale=chosen)
        if not report.ready:
            raise FileNotFoundError(str(report))


def folder(name: str, scale: Scale | None = None) -> Path:
    """The place of a model: "clip", "hps", "sd", "control" (folders) or "aesthetic" (a file).

    Raises ``FileNotFoundError`` when it is not there.
    """
    file = "aesthetic_head.safetensors" if name == "aesthetic" else name
    if (scale or active_scale()).simulated:
        return asset(file)
    place = full_root() / file
    if not place.exists():
        raise FileNotFoundError(f"{place} does not exist: hpslib preflight {full_root()} says how to get it.")
    return place


def optional(name: str, scale: Scale | None = None) -> Path | None:
    """:func:`folder`, or ``None`` where it is not there; the control of lesson 4 may be left out at the full scale."""
    try:
        return folder(name, scale)
    except FileNotFoundError:
        return None


def work_file(name: str, scale: Scale | None = None) -> Path | None:
    """Where long work keeps a checkpoint or a cache: below ``work/`` of the full scale, so that a stopped notebook goes
    on; ``None`` at the miniature one, where everything is done in a minute."""
    chosen = scale or active_scale()
    if chosen.simulated:
        return None
    place = full_root() / "work" / chosen.name
    place.mkdir(parents=True, exist_ok=True)
    return place / name


def progress(unit: str, scale: Scale | None = None) -> ProgressBar | None:
    """A bar for long work; ``None`` at the miniature scale, where a lesson's stored output shall not depend on it."""
    return None if (scale or active_scale()).simulated else ProgressBar(unit)


def keeping(*name: object, scale: Scale | None = None) -> dict[str, Any]:
    """``checkpoint`` and ``progress`` for a training of this name: what a long run wants and a short one does not."""
    chosen = scale or active_scale()
    file = "-".join(map(str, name)) + ".ckpt"
    return {"checkpoint": work_file(file, chosen), "progress": progress("step", chosen)}


def keep_classifier(classifier: Clip, scale: Scale | None = None) -> Path | None:
    """Write what lesson 3 trained where lesson 4 looks for it, ``hps/`` of the full scale.

    A rehearsal writes below ``work/`` and leaves the real one alone; the miniature world ships its own.
    """
    from hpslib.scores.pretrained import save_pretrained

    chosen = scale or active_scale()
    if chosen.simulated:
        return None
    place = full_root() / "hps" if chosen.name == "full" else work_file("hps", chosen)
    assert place is not None
    return save_pretrained(classifier, place, title="Preference classifier", summary="Trained by lesson 3 on HPD v1.")


def preferences(split: str, scale: Scale | None = None) -> tuple[Dataset, Path | None]:
    """The preference set "train", "test" or, in the miniature world, "other"; and the ``root`` of its pictures.

    A rehearsal takes the first groups only. Errors as :func:`hpslib.data.releases.hpd_v1.read_hpd`.
    """
    from hpslib.data.releases.hpd_v1 import read_hpd

    chosen = scale or active_scale()
    if chosen.simulated:
        return read_hpd(asset(f"hpd_mini/{split}.parquet")), None
    place = full_root() / "hpd_v1"
    dataset = read_hpd(place, split=split)
    return dataset.select(range(min(len(dataset), chosen.groups or len(dataset)))), place


def pool(scale: Scale | None = None) -> tuple[Dataset, Path | None]:
    """The pool of generated pictures that the adaptation selects from, and the ``root`` of its pictures."""
    from hpslib.data.pools.diffusiondb import read_diffusiondb
    from hpslib.data.pools.pool import read_pool

    chosen = scale or active_scale()
    if chosen.simulated:
        whole = read_pool(asset("diffusiondb_mini.parquet"))
        return whole.select(range(min(chosen.pool_prompts, len(whole)))), None
    place = full_root() / "diffusiondb"
    dataset, counts = read_diffusiondb(
        place / "metadata-large.parquet", place / "images", parts=_parts(place / "images"), max_nsfw=2.0,
        min_group=chosen.images_per_prompt, max_groups=chosen.pool_prompts,
    )  # fmt: skip
    print(f"DiffusionDB: {counts}.")
    return dataset, place / "images"


def regularisation(scale: Scale | None = None, seed: int = 0) -> tuple[Sequence[Image.Image], list[str]]:
    """Pictures with captions of their own that keep the model what it was: drawings, or LAION's pictures."""
    chosen = scale or active_scale()
    if chosen.simulated:
        from hpslib.critters.hpd import UNCURATED, drawn_images, make_prompts
        from hpslib.data.images.lazy import to_images

        captions = make_prompts(chosen.regularisation_images, seed=5_000 + seed)
        return to_images(drawn_images(captions, seed=6_000 + seed, flaw_rate=UNCURATED)), captions
    from hpslib.data.images.lazy import LazyImages
    from hpslib.data.pools.captioned import read_captioned

    place = full_root() / "regularisation"
    rows = read_captioned(place)
    rows = rows.select(range(min(len(rows), chosen.regularisation_images)))
    items: list[Any] = [group["images"][0] for group in rows]
    return LazyImages(items, [f"regularisation image {name}" for name in rows["id"]], place), list(rows["prompt"])


def reference_images(count: int, scale: Scale | None = None) -> Sequence[Image.Image]:
    """Pictures that no generator made, for FID: flawless drawings, or the first of LAION's pictures."""
    chosen = scale or active_scale()
    if chosen.simulated:
        from hpslib.critters.hpd import drawn_images, make_prompts
        from hpslib.data.images.lazy import to_images

        return to_images(drawn_images(make_prompts(count, seed=99), seed=98))
    return regularisation(replace(chosen, regularisation_images=count))[0]


def class_texts(scale: Scale | None = None) -> list[str]:
    """A text for each class of the Inception Score's classifier: kinds of critters, or ImageNet's 1,000 classes."""
    if (scale or active_scale()).simulated:
        from hpslib.critters.draw import COLOURS, SHAPES

        return [f"a {colour} {shape} critter" for colour in COLOURS for shape in SHAPES]
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    return [f"a photo of a {name}." for name in IMAGENET_CLASSNAMES]


def evaluation_prompts(scale: Scale | None = None, seed: int = 0) -> list[str]:
    """Prompts that took no part in training, ``scale.evaluation_prompts`` of them."""
    chosen = scale or active_scale()
    if chosen.simulated:
        from hpslib.critters.hpd import make_prompts

        return make_prompts(chosen.evaluation_prompts, seed=8_000 + seed)
    lines = (full_root() / "prompts.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip()][: chosen.evaluation_prompts]


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext hpslib.lessons.world``: a cell that begins with ``%%miniature`` needs the miniature world's known
    truth.

    It runs like any other there and is left out, with a line that says so, at the other scales.
    """

    def miniature(line: str, cell: str) -> None:
        if active_scale().simulated:
            exec(compile(cell, "<this cell>", "exec"), shell.user_ns)  # what the learner wrote into the cell
        else:
            print("Left out: only the miniature world knows the truth this cell looks at.")

    shell.register_magic_function(miniature, "cell")
