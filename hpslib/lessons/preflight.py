"""What the full scale needs before a lesson starts: files in one folder, GPU memory, disk; and what of it is missing.

The folder is ``$HPSLIB_FULL`` (``full/`` in the working folder if that is not set), laid out as :data:`NEEDS` says.
:func:`check_full` looks at all of it before anything long starts; ``hpslib preflight`` prints what it says.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from hpslib.lessons.scale import Scale

__all__ = [
    "DISK_GIB",
    "GPU_GIB",
    "NEEDS",
    "Need",
    "Preflight",
    "check_full",
    "diffusiondb_parts",
    "full_root",
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
    Need(
        "clip", (1, 2, 3, 4), "1.7 GB", "hpslib convert clip hf://openai/clip-vit-large-patch14/model.safetensors clip"
    ),
    Need(
        "aesthetic_head.safetensors",
        (2, 3, 4),
        "4 KB",
        "hpslib convert aesthetic sac+logos+ava1-l14-linearMSE.pth aesthetic_head.safetensors",
    ),
    Need("hps", (4,), "1.7 GB", "lesson 3 or hpslib train writes it; or hpslib convert hps_v1 hpc.pth hps"),
    Need("sd", (4,), "5 GB", "Stable Diffusion v1.4 in diffusers' layout, safetensors (CompVis/stable-diffusion-v1-4)"),
    Need("diffusiondb/metadata-large.parquet", (4,), "2 GB", "poloclub/diffusiondb"),
    Need("diffusiondb/images", (4,), "about 0.5 GB a part", "DiffusionDB Large: part-000001.zip to part-001000.zip"),
    Need(
        "regularisation",
        (2, 4),
        "about 20 GB",
        "200,000 images with captions (LAION aesthetics 6.5+); "
        "hpslib.data.pools.downloads.download_images fetches a URL list and can be stopped and started",
    ),
    Need("prompts.txt", (4,), "10 KB", "prompts to evaluate on, one a line, such as PartiPrompts'"),
)

# Memory by lesson: lesson 3 trains ViT-L/14 (5.5 GiB) beside another (1.7), lesson 4 decodes eight images (3.2 GiB; a
# step of the LoRA is 1.9) beside Stable Diffusion (2.0) and two ViT-L/14. Computed by tests/benchmarks/memory_full.py;
# 15 % and 1 GiB on top for CUDA's context and the kernels' work space.
GPU_GIB = {1: 0, 2: 4, 3: 10, 4: 12}
DISK_GIB = {1: 0, 2: 0, 3: 6, 4: 12}  # what the lesson writes: checkpoints; latents of 260,000 images


@dataclass(frozen=True)
class Preflight:
    """What :func:`check_full` saw; ``ready`` when nothing is missing, ``str()`` says what is and how to get it.

    ``remarks`` are about the machine; ``notes`` are worth knowing and stop nobody.
    """

    root: Path
    missing: list[Need]
    remarks: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ready(self) -> bool:
        """Whether everything is there that the lessons need."""
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
    needs = [need for need in NEEDS if set(need.lessons) & set(lessons)]
    missing = [need for need in needs if not _filled(base / need.place)]
    remarks = []
    parts = len(diffusiondb_parts(base / "diffusiondb" / "images")) if 4 in lessons else 0
    notes = [f"{parts:,} of the 1,000 parts of DiffusionDB that the paper used are there"] if 0 < parts < 1_000 else []
    if scale is None or scale.name == "full":
        gpu, disk = (max(table[number] for number in lessons) for table in (GPU_GIB, DISK_GIB))
        import torch

        memory = torch.cuda.get_device_properties(0).total_memory / 2**30 if torch.cuda.is_available() else 0
        if memory < 0.95 * gpu:
            remarks.append(f"a GPU with {gpu} GiB is needed, {memory:.0f} GiB are there: use another machine")
        existing = next((place for place in (base, *base.absolute().parents) if place.exists()), Path.cwd())
        free = shutil.disk_usage(existing).free / 2**30
        if free < disk:
            remarks.append(f"{disk} GiB will be written, {free:.0f} GiB are free at {existing}: make room")
    return Preflight(base, missing, remarks, notes)


def _filled(place: Path) -> bool:
    """Whether a file has content, or a folder an entry."""
    return any(place.iterdir()) if place.is_dir() else place.is_file() and place.stat().st_size > 0


def diffusiondb_parts(images: Path) -> list[int]:
    """The numbers of DiffusionDB's parts in a folder; a browser's "part-000001 (1).zip" is none."""
    names = (re.fullmatch(r"part-(\d{6})(\.zip)?", file.name) for file in images.glob("part-*"))
    return sorted({int(name[1]) for name in names if name})
