"""Where a lesson's data and models come from: the miniature world in ``data/``, or your own folder of the real thing.

The lessons name what they want ("test", "clip", "sd"); the active scale decides where it lies. The full scale's folder
is :func:`hpslib.lessons.preflight.full_root`, laid out as :data:`hpslib.lessons.preflight.NEEDS` says; nothing is
fetched by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpslib.critters.assets import asset
from hpslib.lessons.preflight import check_full, classifier_folder, full_root
from hpslib.lessons.scale import Scale, active_scale
from hpslib.runs.progress import ProgressBar

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL import Image

    from hpslib.scores.clip import Clip

__all__ = [
    "class_texts",
    "evaluation_prompts",
    "folder",
    "keep_classifier",
    "keeping",
    "load_ipython_extension",
    "optional",
    "pool",
    "preferences",
    "progress",
    "reference_images",
    "regularisation",
    "require",
    "work_file",
]


def require(lesson: int, scale: Scale | None = None) -> None:
    """Do nothing at the miniature scale; at the full one raise ``FileNotFoundError`` that says all that is missing.

    What it says is :class:`hpslib.lessons.preflight.Preflight` as text: a list, each line with its remedy.
    """
    chosen = scale or active_scale()
    if not chosen.simulated:
        preflight = check_full(lesson=lesson, scale=chosen)
        if not preflight.ready:
            raise FileNotFoundError(str(preflight))


def folder(name: str, scale: Scale | None = None) -> Path:
    """The place of a model: "clip", "hps", "sd", "control" (folders) or "aesthetic" (a file).

    In a rehearsal "hps" is the one that lesson 3 trained there, or else the real one. Raises ``FileNotFoundError`` when
    it is not there.
    """
    file = "aesthetic_head.safetensors" if name == "aesthetic" else name
    chosen = scale or active_scale()
    if chosen.simulated:
        return asset(file)
    own = classifier_folder(full_root(), chosen)
    place = own if name == "hps" and (own / "open_clip_model.safetensors").is_file() else full_root() / file
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
    place = classifier_folder(full_root(), chosen)
    return save_pretrained(classifier, place, title="Preference classifier", summary="Trained by lesson 3 on HPD v1.")


def preferences(split: str, scale: Scale | None = None) -> tuple[Dataset, Path | None]:
    """The preference set "train", "test" or, in the miniature world, "other"; and the ``root`` of its images.

    A rehearsal takes the first groups only. Raises what :func:`hpslib.data.releases.hpd_v1.read_hpd` raises.
    """
    from hpslib.data.releases.hpd_v1 import read_hpd

    chosen = scale or active_scale()
    if chosen.simulated:
        return read_hpd(asset(f"hpd_mini/{split}.parquet")), None
    place = full_root() / "hpd_v1"
    dataset = read_hpd(place, split=split)
    return dataset.select(range(min(len(dataset), chosen.groups or len(dataset)))), place


def pool(scale: Scale | None = None) -> tuple[Dataset, Path | None]:
    """The pool of generated images that the adaptation selects from, and the ``root`` of its images."""
    from hpslib.adaptation.pool import read_selection_pool
    from hpslib.data.pools.pool import read_pool

    chosen = scale or active_scale()
    if chosen.simulated:
        whole = read_pool(asset("diffusiondb_mini.parquet"))
        return whole.select(range(min(chosen.pool_prompts, len(whole)))), None
    found = read_selection_pool(
        full_root() / "diffusiondb" / "metadata-large.parquet",
        min_group=chosen.images_per_prompt,
        max_groups=chosen.pool_prompts,
    )
    print(f"DiffusionDB: {found.counts}.")
    return found.dataset, found.root


def regularisation(scale: Scale | None = None, seed: int = 0) -> tuple[Sequence[Image.Image], list[str]]:
    """Images with captions of their own that keep the model what it was: drawings, or LAION's images."""
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
    """Images that no generator made, for FID: flawless drawings, or the first of LAION's images."""
    chosen = scale or active_scale()
    if chosen.simulated:
        from hpslib.critters.hpd import drawn_images, make_prompts
        from hpslib.data.images.lazy import to_images

        return to_images(drawn_images(make_prompts(count, seed=99), seed=98))
    return regularisation(replace(chosen, regularisation_images=count))[0]


def class_texts(scale: Scale | None = None) -> list[str]:
    """A text for each class of the Inception Score's classifier: kinds of critters, or ImageNet's 1,000 classes."""
    if (scale or active_scale()).simulated:
        from hpslib.critters.attributes import COLOURS, SHAPES

        return [f"a {colour} {shape} critter" for colour in COLOURS for shape in SHAPES]
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    return [f"a photo of a {name}." for name in IMAGENET_CLASSNAMES]


def evaluation_prompts(scale: Scale | None = None, seed: int = 0) -> list[str]:
    """Prompts that took no part in training, ``scale.evaluation_prompts`` of them."""
    chosen = scale or active_scale()
    if chosen.simulated:
        from hpslib.critters.hpd import make_prompts

        return make_prompts(chosen.evaluation_prompts, seed=8_000 + seed)
    from hpslib.data.rows import read_prompts

    return read_prompts(full_root() / "prompts.txt")[: chosen.evaluation_prompts]


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext hpslib.lessons.world`` defines ``%%miniature``, for cells that need the miniature world's truth.

    Such a cell runs like any other there and is left out, with a line that says so, at the other scales.
    """

    def miniature(line: str, cell: str) -> None:
        if active_scale().simulated:
            exec(compile(cell, "<this cell>", "exec"), shell.user_ns)  # what the learner wrote into the cell
        else:
            print("Left out: only the miniature world knows the truth this cell looks at.")

    shell.register_magic_function(miniature, "cell")
