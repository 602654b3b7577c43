"""What the lessons do at the full scale, as stages of a plan: from the files that are there and the scale's settings.

:func:`hpslib.lessons.preflight.check_full` says what is missing, this how long what is there will take. What a missing
file or GPU keeps from being counted or timed stays unknown, with the reason. A lesson's stages are counted from its
beginning; what takes less than a minute is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpslib.lessons.preflight import AMPLE_GIB, GPU_GIB
from hpslib.runs.plan import Stage, plan_table, timed_pieces, timed_steps

if TYPE_CHECKING:
    from hpslib.data.images.lazy import LazyImages
    from hpslib.lessons.preflight import Preflight
    from hpslib.lessons.scale import Scale

__all__ = ["course_plan", "course_stages"]

_FEWER = (30, 150, 600)  # choices that lesson 3 also learns from, twice each
_LOOKS = 12  # times that lesson 3 looks at each test image: three scores, and every classifier it has trained
_CONDITIONS = {
    "control": 2,
    "control/random": 1,
    "control/shuffled": 1,
}  # images of lesson 4 by LoRAs that may be there


@dataclass(frozen=True)
class _Full:
    """The files of the full scale below ``root``, each read once, when something is counted."""

    root: Path
    scale: Scale
    device: str
    missing: Collection[str] = ()

    def groups(self, split: str) -> Any:
        """HPD v1's choices of a split, its images not looked at."""
        from hpslib.data.releases.hpd_v1 import read_hpd

        whole = read_hpd(self.root / "hpd_v1" / f"preference_{split}.json", images="optional")
        return whole.select(range(min(len(whole), self.scale.groups or len(whole))))

    def images(self, split: str) -> tuple[LazyImages, list[str], list[int]]:
        from hpslib.data.groups import flatten_groups

        return flatten_groups(self.groups(split), self.root / "hpd_v1")

    @cached_property
    def clip(self) -> Any:
        from hpslib.scores.clip import load_clip

        return load_clip(self.root / "clip", self.device)

    def tuned(self, image_blocks: int, text_blocks: int) -> int:
        """How many weights of the CLIP are tuned, from its configuration."""
        import json

        import torch
        from open_clip.model import CLIP

        from hpslib.classifier.towers import set_trainable

        config = json.loads((self.root / "clip" / "open_clip_config.json").read_text(encoding="utf-8"))
        with torch.device("meta"):
            model = CLIP(**config["model_cfg"])
        names = set(set_trainable(model, image_blocks, text_blocks))
        return sum(weight.numel() for name, weight in model.named_parameters() if name in names)

    @cached_property
    def pipe(self) -> Any:
        from hpslib.adaptation.sampling import load_pipeline

        return load_pipeline(self.root / "sd", self.device)

    @cached_property
    def pool(self) -> Any:
        from hpslib.adaptation.pool import read_selection_pool

        few: dict[str, Any] = {"min_group": self.scale.images_per_prompt, "max_groups": self.scale.pool_prompts}
        return read_selection_pool(self.root / "diffusiondb" / "metadata-large.parquet", **few)

    @cached_property
    def regularisation(self) -> tuple[LazyImages, list[str]]:
        from hpslib.data.groups import flatten_groups
        from hpslib.data.pools.captioned import read_captioned

        rows = read_captioned(self.root / "regularisation")
        rows = rows.select(range(min(len(rows), self.scale.regularisation_images)))
        return flatten_groups(rows, self.root / "regularisation")[:2]

    @cached_property
    def adapting(self) -> list[Stage]:
        """Encoding and training, as :func:`hpslib.lessons.plan_training.lora_stages` times them."""
        from hpslib.adaptation.lora import remove_lora
        from hpslib.lessons.plan_training import lora_stages

        scale = self.scale
        learning: dict[str, Any] = {
            "steps": scale.lora_steps,
            "batch_size": scale.lora_batch,
            "lr": scale.lora_lr,
            "seed": scale.seed,
        }
        learning |= {"weight_decay": scale.lora_weight_decay, "schedule": scale.lora_schedule}
        nowhere = self.root / "work" / "no such folder"
        latents = {"keep_states": False, "batch_size": 8, "cache": nowhere}
        given: dict[str, Any] = {"latents": latents, "rank": scale.lora_rank, "learning": learning, "work": {}}
        try:
            return lora_stages(self.pipe, *self.regularisation, checkpoint=nowhere, **given)
        finally:
            remove_lora(self.pipe)


def course_plan(report: Preflight, lessons: Sequence[int], scale: Scale) -> str:
    """The plan of these lessons as text, after what :func:`hpslib.lessons.preflight.check_full` has seen.

    A full scale is timed on a GPU only; a rehearsal on what there is. Raises what :func:`course_stages` raises.
    """
    import torch

    from hpslib.lessons.plan import notes

    device = "cuda" if torch.cuda.is_available() else "cpu" if scale.name == "rehearsal" else None
    stages = course_stages(report.root, lessons, scale, report.absent, device)
    said = [] if device is None else notes(device)
    memory = [
        f"{GPU_GIB[lesson]} GiB for lesson {lesson}"
        + (f" ({AMPLE_GIB[lesson]} GiB and nothing is computed twice)" if AMPLE_GIB[lesson] > GPU_GIB[lesson] else "")
        for lesson in lessons
        if GPU_GIB[lesson] and scale.name == "full"
    ]
    said += [f"GPU memory, computed and not measured: {', '.join(memory)}."] if memory else []
    if device is not None:
        said.append("A step of training is measured without the other models that a lesson keeps loaded.")
    said.append("Counted from each lesson's beginning; what an earlier run left is not done again.")
    return plan_table(stages, said)


def course_stages(
    root: Path, lessons: Sequence[int], scale: Scale, missing: Collection[str], device: str | None
) -> list[Stage]:
    """The stages of these lessons at ``scale``, below ``root``, of which the places ``missing`` are not there.

    Rates are measured on ``device``, none with ``None``. Raises what the readers raise for a file that is there and
    cannot be used.
    """
    full = _Full(root, scale, device or "cpu", missing)
    jobs = {2: _lesson_2, 3: _lesson_3, 4: _lesson_4}
    return [_stage(job, full, device) for lesson in lessons for job in (jobs[lesson](full) if lesson in jobs else ())]


@dataclass(frozen=True)
class _Job:
    """A stage before it is counted and timed: what of ``files`` each of the two needs, and how it is done."""

    name: str
    unit: str
    count: Callable[[], int]
    counted_from: tuple[str, ...]
    timed: Callable[[], Stage]
    timed_on: tuple[str, ...]
    written: Callable[[Stage], int | None] = lambda stage: 0  # of the stage as it was counted and timed


def _stage(job: _Job, full: _Full, device: str | None) -> Stage:
    absent = [place for place in dict.fromkeys(job.counted_from) if place in full.missing]
    count = None if absent else job.count()
    reasons = [f"not counted, {', '.join(absent)} is missing"] if absent else []
    lacking = [place for place in dict.fromkeys(job.timed_on) if place in full.missing]
    if device is None:
        reasons.append("rate and memory not measured, no CUDA GPU is here")
    elif lacking:
        reasons.append(f"rate and memory not measured, {', '.join(lacking)} is missing")
    stage = Stage(job.name, count, job.unit, bytes_written=None)
    if device is not None and not lacking:
        timed = job.timed()
        stage = replace(timed, name=job.name, count=count, done=0)
    return replace(stage, bytes_written=job.written(stage), remark="; ".join(reasons))


_HPD = ("hpd_v1/preference_train.json", "hpd_v1/preference_test.json")
_PICTURES = "hpd_v1/preference_images"


def _encoding(full: _Full) -> Stage:
    from hpslib.scores.clip import encode_images

    images = full.images("test")[0]
    timed = timed_pieces(lambda count: encode_images(full.clip, images.take(range(count))), len(images), full.device)
    return Stage("encode", 0, "image", timed.seconds_each, timed.peak_bytes)


def _lesson_2(full: _Full) -> list[_Job]:
    def count() -> int:
        return sum(len(group) for group in full.groups("test")["images"]) + len(full.groups("test"))  # and FID's

    return [_Job("2 encode images", "image", count, _HPD[1:], lambda: _encoding(full), ("clip", *_HPD[1:], _PICTURES))]


def _lesson_3(full: _Full) -> list[_Job]:
    scale = full.scale
    ours = (scale.image_blocks, scale.text_blocks)
    sweep = ((0, 0), (2 * ours[0], ours[1] + 1))

    def steps(choices: int) -> int:
        return max(20, round(scale.classifier_epochs * choices / scale.classifier_batch))

    def sizes() -> tuple[int, int]:
        whole = len(full.groups("train"))
        return round(0.9 * whole), round(0.1 * whole)

    def more_data() -> int:
        learned = sizes()[0]
        return steps(learned) + sum(2 * steps(few) for few in _FEWER if few < learned)

    def judged() -> int:
        return _LOOKS * sum(len(group) for group in full.groups("test")["images"])

    def fit(blocks: tuple[int, int]) -> Callable[[], Stage]:
        return lambda: _classifier_step(full, *blocks)

    def kept(blocks: tuple[int, int], fits: int) -> Callable[[Stage], int | None]:  # a checkpoint of each fit
        return lambda _: None if "clip" in full.missing else fits * 16 * full.tuned(*blocks)

    there = ("clip", _HPD[0], _PICTURES)
    jobs = [
        _Job(f"3 train {ours[0]} + {ours[1]} blocks", "step", more_data, _HPD[:1], fit(ours), there,
             kept(ours, 1 + 2 * len(_FEWER)))
    ]  # fmt: skip
    jobs += [
        _Job(f"3 train {one[0]} + {one[1]} blocks", "step", lambda: steps(sizes()[0]), _HPD[:1], fit(one), there,
             kept(one, 1))
        for one in sweep
    ]  # fmt: skip
    looks = ("clip", *_HPD[1:], _PICTURES)
    return [*jobs, _Job("3 score test images", "image", judged, _HPD[1:], lambda: _encoding(full), looks)]


def _classifier_step(full: _Full, image_blocks: int, text_blocks: int) -> Stage:
    from hpslib.classifier.training import train_classifier
    from hpslib.classifier.trunk import dataset_trunk
    from hpslib.data.rankings import decided

    scale, blocks = full.scale, dict[str, Any](image_blocks=image_blocks, text_blocks=text_blocks)
    few = decided(full.groups("train").select(range(min(200, len(full.groups("train"))))))[0]
    trunk = dataset_trunk(full.clip, few, full.root / "hpd_v1", **blocks)
    learning: dict[str, Any] = {
        "lr": scale.classifier_lr,
        "weight_decay": scale.classifier_weight_decay,
        "epochs": 100.0,
    }
    learning |= {"batch_size": scale.classifier_batch, "evaluate_every": 10**9}
    timed = timed_steps(
        lambda **told: train_classifier(full.clip, trunk, trunk.subset(range(1)), **learning, **told), full.device
    )
    return Stage("train", 0, "step", timed.seconds_each, timed.peak_bytes)


def _lesson_4(full: _Full) -> list[_Job]:
    scale = full.scale
    pool = ("diffusiondb/metadata-large.parquet", "diffusiondb/images")
    conditions = 4 + sum(count for name, count in _CONDITIONS.items() if (full.root / name).is_dir())

    def chosen() -> int:  # at most: one preferred and one non-preferred image of each prompt
        return len(full.regularisation[0]) + round((1 + scale.negative_share) * len(full.pool.dataset))

    def generated() -> int:
        from hpslib.data.rows import read_prompts

        return conditions * min(scale.evaluation_prompts, len(read_prompts(full.root / "prompts.txt")))

    def latents(stage: Stage) -> int | None:
        side = 64 if "sd" in full.missing else _latent_side(full.root / "sd")
        return None if stage.count is None else 2 * 4 * side**2 * stage.count

    return [
        _Job("4 score the pool", "image", lambda: full.pool.counts.images, pool, lambda: _scoring(full),
             ("clip", *pool), lambda stage: None if stage.count is None else 200 * stage.count),
        _Job("4 encode images, at most", "image", chosen, ("regularisation", *pool), lambda: full.adapting[0],
             ("sd", "regularisation"), latents),
        _Job("4 train the LoRA", "step", lambda: scale.lora_steps, (), lambda: full.adapting[1],
             ("sd", "regularisation"), lambda stage: stage.bytes_written),
        _Job("4 generate", "image", generated, ("prompts.txt",), lambda: _generating(full), ("sd", "prompts.txt")),
    ]  # fmt: skip


def _latent_side(folder: Path) -> int:
    import json

    return int(json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))["sample_size"])


def _scoring(full: _Full) -> Stage:
    from hpslib.lessons.plan import scoring_stages
    from hpslib.scores.scorers import load_scorer

    scorer = load_scorer("hpslib", full.root / "clip", full.device)  # the classifier, which may be to come, is no other
    pool = full.pool
    return scoring_stages(scorer, pool.dataset, pool.root, [range(len(pool.dataset))], batch_size=64, blur=True)[0]


def _generating(full: _Full) -> Stage:
    from hpslib.data.rows import read_prompts
    from hpslib.lessons.plan import generation_stages

    scale = full.scale
    sampling = {"steps": scale.sampling_steps, "guidance_scale": scale.guidance_scale, "seed": 0}
    texts = read_prompts(full.root / "prompts.txt")
    return generation_stages(full.pipe, texts, [range(len(texts))], sampling | {"batch_size": scale.sampling_batch})[0]
