"""What the full scale needs before a lesson starts: files in one folder, GPU memory, disk; and what of it is missing.

The folder is :func:`full_root`, laid out as :data:`NEEDS` says. :func:`check_full` looks at all of it before anything
long starts; ``hpslib preflight`` prints what it says. What an earlier lesson makes is not missing before it has run.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hpslib.adaptation.pool import LARGE_FOLDER, diffusiondb_parts, images_folder
from hpslib.lessons.scale import Scale

__all__ = [
    "AMPLE_GIB",
    "DISK_GIB",
    "GPU_GIB",
    "NEEDS",
    "Need",
    "Preflight",
    "check_full",
    "classifier_folder",
    "full_root",
]


@dataclass(frozen=True)
class Need:
    """One thing the full scale needs: its place below the root, the lessons that use it, its size, how to get it.

    ``how`` may name the place as ``{place}`` and the lesson that makes it is ``made_by``. ``holds`` are the files
    without which a folder is incomplete, as patterns.
    """

    place: str
    lessons: tuple[int, ...]
    size: str
    how: str
    holds: tuple[str, ...] = ()
    made_by: int | None = None

    def remedy(self, root: Path) -> str:
        """How to get it, with the place it has below ``root``, ready for a shell."""
        return self.how.format(place=shlex.quote(str(root / self.place)))


_CLIP_FILES = ("open_clip_config.json", "open_clip_model.safetensors")
_SD_FILES = ("model_index.json", "unet/*.safetensors", "vae/*.safetensors", "text_encoder/*.safetensors")

NEEDS = (
    Need("hpd_v1/preference_train.json", (1, 3), "15 MB", "HPD v1, linked in the README of align_sd"),
    Need("hpd_v1/preference_test.json", (1, 2, 3), "4 MB", "HPD v1, linked in the README of align_sd"),
    Need("hpd_v1/preference_images", (1, 2, 3), "some 10 GB", "HPD v1's images, unpacked beside its JSON files"),
    Need(
        "clip",
        (1, 2, 3, 4),
        "1.7 GB",
        "hpslib convert clip hf://openai/clip-vit-large-patch14/model.safetensors {place}",
        _CLIP_FILES,
    ),
    Need(
        "aesthetic_head.safetensors",
        (2, 3, 4),
        "4 KB",
        "hpslib convert aesthetic sac+logos+ava1-l14-linearMSE.pth {place}",
    ),
    Need(
        "hps",
        (4,),
        "1.7 GB",
        "lesson 3 or hpslib train writes it; or hpslib convert hps_v1 hpc.pth {place}",
        _CLIP_FILES,
        made_by=3,
    ),
    Need(
        "sd",
        (4,),
        "5 GB",
        "Stable Diffusion v1.4 in diffusers' layout, safetensors (CompVis/stable-diffusion-v1-4)",
        _SD_FILES,
    ),
    Need("diffusiondb/metadata-large.parquet", (4,), "2 GB", "poloclub/diffusiondb"),
    Need(
        "diffusiondb/images",
        (4,),
        "about 0.6 GB a part",
        f"DiffusionDB Large: part-000001.zip to part-001000.zip of the release's folder {LARGE_FOLDER}/, which may "
        "keep its name (diffusiondb-large-part-2/ begins with part 10,001; the release's images/ is the 2M subset: the "
        "same names, other images)",
    ),
    Need(
        "regularisation",
        (2, 4),
        "about 20 GB",
        "200,000 images with captions (LAION aesthetics 6.5+); "
        "hpslib.data.pools.downloads.download_images fetches a URL list and can be stopped and started",
    ),
    Need("prompts.txt", (4,), "10 KB", "prompts to evaluate on, one a line, such as PartiPrompts'"),
)

# Memory by lesson, computed by tests/benchmarks/memory_full.py; 15 % and 1 GiB on top for CUDA's context and the
# kernels' work space. Lesson 3 tunes 20 + 7 blocks of a ViT-L/14 beside two others (3.2 GiB): a step of five prompts
# takes 8.9 GiB, and where that is too much 5.0, one prompt at a time with activations computed again. Lesson 4 decodes
# eight images (3.2 GiB; a step of the LoRA is 1.9) beside Stable Diffusion (2.0) and two ViT-L/14.
GPU_GIB = {1: 0, 2: 4, 3: 11, 4: 12}
AMPLE_GIB = {**GPU_GIB, 3: 15, 4: 52}  # with as much nothing is computed twice; lesson 4 measured on an H200
# What a lesson writes: lesson 3 a checkpoint of each of its nine classifiers (2.5 GiB with 10 + 6 tuned blocks, 4.5
# with 20 + 7) and the classifier itself (1.6), lesson 4 the latents of 260,000 images.
DISK_GIB = {1: 0, 2: 0, 3: 24, 4: 12}


@dataclass(frozen=True)
class Preflight:
    """What :func:`check_full` saw; ``ready`` when nothing is missing, ``str()`` says what is and how to get it.

    ``remarks`` are about the machine; ``notes`` are worth knowing and stop nobody, what a lesson will make among them.
    ``lacking`` says of a missing folder that is there which of its files is not; ``absent`` are all places that are not
    there, also those that a lesson will make.
    """

    root: Path
    missing: list[Need]
    remarks: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lacking: dict[str, str] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()

    @property
    def ready(self) -> bool:
        """Whether everything is there that the lessons need."""
        return not self.missing and not self.remarks

    def __str__(self) -> str:
        if self.ready:
            return "\n".join([f"{self.root}: everything is there.", *(f"- {line}" for line in self.notes)])
        things = [
            f"{need.place} ({need.size}){self.lacking.get(need.place, '')}: {need.remedy(self.root)}"
            for need in self.missing
        ]
        return "\n".join(
            [f"{self.root} is not ready:", *(f"- {line}" for line in [*things, *self.remarks, *self.notes])]
        )


def full_root(root: str | Path | None = None) -> Path:
    """The folder of the full scale, absolute: the argument, else ``$HPSLIB_FULL``, else ``full``.

    ``~`` is the home folder. A relative argument starts from the working folder, as everywhere; a relative
    ``$HPSLIB_FULL`` from the project's folder where we work inside of it, so that a notebook, whose working folder is
    ``notebooks/``, and a command mean one place.
    """
    if root:
        return Path(root).expanduser().absolute()
    here = Path.cwd()
    project = next(
        (
            place
            for place in (here, *here.parents)
            if (place / "pyproject.toml").is_file() and (place / "notebooks").is_dir()
        ),
        here,
    )
    return project / Path(os.environ.get("HPSLIB_FULL") or "full").expanduser()


def classifier_folder(root: Path, scale: Scale | None = None) -> Path:
    """Where lesson 3 writes its classifier and lesson 4 looks for it: ``hps/``, below ``work/`` in a rehearsal.

    So a rehearsal leaves the real one alone.
    """
    return root / "work" / scale.name / "hps" if scale is not None and scale.name == "rehearsal" else root / "hps"


def check_full(root: str | Path | None = None, lesson: int | None = None, scale: Scale | None = None) -> Preflight:
    """Look for files, GPU memory and disk that the full scale (one lesson of it) needs. Nothing is opened or fetched.

    Without a ``lesson`` the whole course is meant: what one of its lessons makes for a later one is noted, not missing.
    A rehearsal needs the files, but neither the GPU nor the disk.
    """
    base = full_root(root)
    lessons = (1, 2, 3, 4) if lesson is None else (lesson,)
    missing, notes, lacking, away = [], [], {}, set()
    for need in (need for need in NEEDS if set(need.lessons) & set(lessons)):
        absent = _absent(need, base)
        if need.place == "hps" and absent is not None:
            absent = _absent(need, classifier_folder(base, scale).parent)  # a rehearsal's own
        if absent is None:
            continue
        away.add(need.place)
        if need.made_by in lessons:
            notes.append(f"{need.place} ({need.size}) will be made by lesson {need.made_by}, before lesson 4 needs it")
            continue
        missing.append(need)
        lacking[need.place] = absent
    remarks = []
    parts = len(diffusiondb_parts(images_folder(base / "diffusiondb"))) if 4 in lessons else 0
    if 0 < parts < 1_000:
        notes.append(f"{parts:,} of the 1,000 parts of DiffusionDB that the paper used are there")
    if scale is None or scale.name == "full":
        gpu, disk = max(GPU_GIB[number] for number in lessons), sum(DISK_GIB[number] for number in lessons)
        import torch

        memory = torch.cuda.get_device_properties(0).total_memory / 2**30 if torch.cuda.is_available() else 0
        if memory < 0.95 * gpu:
            remarks.append(f"a GPU with {gpu} GiB is needed, {memory:.0f} GiB are there: use another machine")
        existing = next((place for place in (base, *base.parents) if place.exists()), Path.cwd())
        free = shutil.disk_usage(existing).free / 2**30
        if free < disk:
            remarks.append(f"{disk} GiB will be written, {free:.0f} GiB are free at {existing}: make room")
    return Preflight(base, missing, remarks, notes, lacking, frozenset(away))


def _absent(need: Need, root: Path) -> str | None:
    """What to say of a thing that is not there, in part or at all (nothing, then); ``None`` where it is there."""
    place = root / need.place
    if need.place == "diffusiondb/images":
        return None if diffusiondb_parts(images_folder(place.parent)) else ""
    if not place.is_dir():
        return None if place.is_file() and place.stat().st_size > 0 and not need.holds else ""
    gone = [pattern for pattern in need.holds or ("**/*",) if next(_content(place, pattern), None) is None]
    if not gone:
        return None
    return "" if next(_content(place, "**/*"), None) is None else f" lacks {', '.join(gone)}"


_LITTER = {"thumbs.db", "desktop.ini", "__macosx"}
_HALF = (".partial", ".part", ".crdownload", ".download", ".incomplete", ".tmp", ".aria2")


def _content(folder: Path, pattern: str) -> Iterator[Path]:
    """Whole files: not hidden (``.DS_Store``, ``._x``, what a killed process began), not empty, not half fetched."""
    for file in folder.glob(pattern):
        names = [part.lower() for part in file.relative_to(folder).parts]
        hidden = any(name.startswith(".") or name in _LITTER for name in names)
        if not hidden and not names[-1].endswith(_HALF) and file.is_file() and file.stat().st_size > 0:
            yield file
