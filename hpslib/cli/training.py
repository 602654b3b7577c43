"""The commands that train: ``train`` (the classifier) and ``adapt`` (LoRA).

They run alone or under ``accelerate launch -m hpslib ...``; the result is that of one process. Defaults are the paper's
(:data:`hpslib.lessons.scale.full`). What was stopped goes on where its last checkpoint stands.
"""

from __future__ import annotations

import importlib.util
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpslib.cli.report import training_report
from hpslib.cli.support import (
    AsJson,
    Device,
    Plan,
    Precision,
    checked_numbers,
    dtype_of,
    given_settings,
    one_sentence,
    place,
    progress_bar,
    tell,
    tell_plan,
    told_to,
    warnings_as_lines,
)
from hpslib.data.formats import FORMATS, POOL_FORMATS
from hpslib.lessons.scale import full

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hpslib.adaptation.examples import Examples
    from hpslib.scores.clip import Clip

__all__ = ["adapt", "train"]

Tracker = Annotated[str | None, typer.Option(help="Also log to tensorboard or wandb.")]
MicroBatch = Annotated[
    str,
    typer.Option(
        help="Rows at once: a number, or auto (what a GPU's memory allows; on a CPU 32). The result is the same."
    ),
]
Checkpointing = Annotated[
    bool | None,
    typer.Option(help="Compute activations again: less memory, more time. By default only where memory is short."),
]


def _rows(micro_batch: str) -> int | None:
    """``--micro-batch`` as a number, ``None`` for auto."""
    if micro_batch != "auto" and not (micro_batch.isdecimal() and int(micro_batch) > 0):
        raise ValueError(f"--micro-batch {micro_batch}: give a number from 1, or auto.")
    return None if micro_batch == "auto" else int(micro_batch)


@contextmanager
def _accelerated(
    context: typer.Context, device: str, precision: str | None, tracker: str | None, folder: Path, plan: bool
) -> Iterator[tuple[Any, Any]]:
    """An Accelerator for this process, and a ``log(values, step)`` that writes to the tracker, if there is one.

    The tracker gets the command's settings, from its ``context``, before the first step. A ``plan`` has none: it leaves
    no file behind.
    """
    from accelerate import Accelerator

    from hpslib.runs.distributed import PRECISIONS

    here = place(device, plan)
    precision = PRECISIONS[dtype_of(precision, here.device)]
    if tracker not in (None, "tensorboard", "wandb"):
        raise ValueError(f"--tracker {tracker}: use tensorboard or wandb, or leave it out.")
    if tracker and importlib.util.find_spec(tracker) is None:
        raise ValueError(f"the package of --tracker {tracker} is not installed: run pip install {tracker}.")
    tracker = None if plan else tracker
    accelerator = Accelerator(
        cpu=device == "cpu", mixed_precision=precision, log_with=tracker, project_dir=str(folder) if tracker else None
    )
    if tracker:
        accelerator.init_trackers("hpslib", config=given_settings(context))
    try:
        yield accelerator, (lambda values, step: accelerator.log(values, step=step)) if tracker else None
    finally:
        if tracker:
            accelerator.end_training()


def train(
    context: typer.Context,
    data: Annotated[Path, typer.Argument(help="The preference set to learn from.")],
    clip: Annotated[Path, typer.Argument(help="Folder of the CLIP to start from (hpslib convert clip ...).")],
    output: Annotated[Path, typer.Argument(help="Folder for the classifier, its card and the checkpoint.")],
    format: Annotated[str, typer.Option(help=f"What DATA is: {', '.join(FORMATS)}.")] = "hpd_v1",
    test: Annotated[Path | None, typer.Option(help="A set in the same format, only for testing.")] = None,
    held_out: Annotated[float, typer.Option(help="Share of the prompts kept for validation.")] = 0.05,
    image_blocks: Annotated[int, typer.Option(min=0, help="Tuned blocks of the image tower.")] = full.image_blocks,
    text_blocks: Annotated[int, typer.Option(min=0, help="Tuned blocks of the text tower.")] = full.text_blocks,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = full.classifier_lr,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = full.classifier_weight_decay,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Prompts in a step, over all processes.")
    ] = full.classifier_batch,
    epochs: Annotated[float, typer.Option(help="Passes over the data.")] = full.classifier_epochs,
    warmup: Annotated[int, typer.Option(min=0, help="Steps of linear warm-up.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split and the order.")] = 0,
    micro_batch: MicroBatch = "auto",
    gradient_checkpointing: Checkpointing = None,
    cache: Annotated[
        bool, typer.Option("--cache", help="Keep the frozen trunk's activations: for small sets.")
    ] = False,
    evaluate_every: Annotated[int, typer.Option(min=1, help="Steps between validations.")] = 500,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 500,
    device: Device = "auto",
    precision: Precision = None,
    tracker: Tracker = None,
    plan: Plan = False,
    as_json: AsJson = False,
) -> None:
    """Train the preference classifier on a set of choices; groups whose best images are tied are left out and counted.

    Example: accelerate launch -m hpslib train hpd_v1/preference_train.json clip/ hps/
    """
    from hpslib.classifier.training import train_classifier
    from hpslib.classifier.trunk import dataset_trunk
    from hpslib.data.preferences import split_by_prompt
    from hpslib.lessons.plan_training import classifier_stages
    from hpslib.scores.clip import load_clip, truncated_prompts
    from hpslib.scores.pretrained import save_pretrained

    blocks: dict[str, Any] = {"image_blocks": image_blocks, "text_blocks": text_blocks}
    learning: dict[str, Any] = {"lr": lr, "batch_size": batch_size, "weight_decay": weight_decay, "epochs": epochs}
    learning |= {"warmup": warmup, "seed": seed}
    work: dict[str, Any] = {"save_every": save_every, "evaluate_every": evaluate_every}
    with one_sentence(), _accelerated(context, device, precision, tracker, output, plan) as (accelerator, log):
        work |= {"micro_batch": _rows(micro_batch), "gradient_checkpointing": gradient_checkpointing}
        checked_numbers({"lr": lr, "epochs": epochs, "held_out": held_out}, {"weight_decay": weight_decay})
        dataset, root, asked, tied = _choices(data, test, format)
        parts = split_by_prompt(dataset, {"train": 1 - held_out, "validation": held_out}, seed)
        model = load_clip(clip, accelerator.device)
        work |= {"accelerator": accelerator}
        if plan:
            more: dict[str, Any] = {"cache": cache, "checkpoint": output / "training.ckpt", "test": asked}
            stages = classifier_stages(model, parts, root, blocks=blocks, learning=learning, work=work, **more)
            return tell_plan(stages, accelerator.device, as_json)
        learned, judged = (dataset_trunk(model, part, root, cache=cache, **blocks) for part in parts.values())
        output.mkdir(parents=True, exist_ok=True)
        work |= {"checkpoint": output / "training.ckpt"}
        with progress_bar("step", accelerator.is_main_process) as progress:
            told: dict[str, Any] = {"progress": progress, "log": told_to(progress, log)}
            trained = train_classifier(model, learned, judged, **told, **learning, **work)
        cut = len(truncated_prompts(model, dataset["prompt"]))
        report = training_report(trained, parts, asked and asked[0], cut, tied)
        if accelerator.is_main_process:
            if asked is not None:
                report = report.with_test(_test(trained.clip, *asked), len(asked[0]))
            settings = {"data": data.name, "test": test and test.name, **blocks, **learning, "held_out": held_out}
            save_pretrained(trained.clip, output, **report.card(data.name, len(parts["train"]), settings))
        accelerator.wait_for_everyone()
        lines = [*report.lines, *report.warnings, f"wrote {output}"]
        tell(report.numbers, lines, as_json, accelerator.is_main_process)


def _choices(data: Path, test: Path | None, format: str) -> tuple[Any, Path, tuple[Any, Path] | None, int]:
    """The groups to learn from with the folder of their images, those of the test, and how many ties were left out."""
    from hpslib.data.rankings import decided
    from hpslib.data.read import read_data

    if format not in FORMATS:
        raise ValueError(f"--format {format} holds no choices: use one of {', '.join(FORMATS)}.")
    with warnings_as_lines():
        asked = None if test is None else read_data(test, format)  # refused now, not after hours of training
        dataset, root = read_data(data, format)
    dataset, tied = decided(dataset)
    return dataset, root, asked, tied


def _test(clip: Clip, dataset: Any, root: Path) -> tuple[dict[str, Any], list[str]]:
    """The classifier's agreement with a set it was not trained on, as numbers and as sentences."""
    from hpslib.data.groups import flatten_groups
    from hpslib.metrics.comparison import agreement_with
    from hpslib.scores.cosine import hps

    images, prompts, _ = flatten_groups(dataset, root)
    return agreement_with(hps(clip, images, prompts).tolist(), dataset)


def _truncated(pipe: Any, captions: Sequence[str], examples: Examples) -> int:
    """How many captions of the images that are trained on lose their end."""
    from hpslib.adaptation.sampling import truncated_prompts

    rows = range(len(captions)) if examples.kept is None else examples.kept.tolist()
    return len(truncated_prompts(pipe, [captions[row] for row in rows]))


def adapt(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="Folder of Stable Diffusion in diffusers' layout.")],
    output: Annotated[Path, typer.Argument(help="Folder for the LoRA, the cached latents and the checkpoint.")],
    regularisation: Annotated[Path, typer.Option(help="Folder of images with captions (LAION aesthetics).")],
    selection: Annotated[Path | None, typer.Option(help="The file that hpslib select wrote.")] = None,
    pool: Annotated[Path | None, typer.Option(help="The pool it was chosen from.")] = None,
    format: Annotated[str, typer.Option(help=f"What --pool is: {', '.join(POOL_FORMATS)}.")] = "diffusiondb",
    parts: Annotated[str | None, typer.Option(help="Parts of DiffusionDB, such as 1-1000; by default all.")] = None,
    regularisation_only: Annotated[bool, typer.Option("--regularisation-only", help="The paper's control.")] = False,
    resolution: Annotated[int | None, typer.Option(min=8, help="In pixels; by default the model's own.")] = None,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the LoRA.")] = full.lora_rank,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = full.lora_lr,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = full.lora_weight_decay,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a step, over all processes.")] = full.lora_batch,
    steps: Annotated[int, typer.Option(min=1, help="Steps.")] = full.lora_steps,
    schedule: Annotated[str, typer.Option(help="Learning-rate schedule, named as in diffusers.")] = full.lora_schedule,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the LoRA, the noise and the order.")] = full.seed,
    micro_batch: MicroBatch = "auto",
    gradient_checkpointing: Checkpointing = None,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 500,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out and count unreadable images.")] = False,
    device: Device = "auto",
    precision: Precision = None,
    tracker: Tracker = None,
    plan: Plan = False,
    as_json: AsJson = False,
) -> None:
    """Teach Stable Diffusion by LoRA what is preferred and what is not ("Weird image. ").

    Example: accelerate launch -m hpslib adapt sd-v1-4/ lora/ --regularisation laion/ --selection selection.parquet
    --pool diffusiondb/metadata-large.parquet
    """
    import torch

    from hpslib.adaptation.examples import encode_examples
    from hpslib.adaptation.lora import add_lora, save_lora
    from hpslib.adaptation.sampling import load_pipeline
    from hpslib.adaptation.schedules import check_schedule
    from hpslib.adaptation.selection import training_images
    from hpslib.adaptation.training import train_lora
    from hpslib.lessons.plan_training import lora_stages
    from hpslib.runs.distributed import frozen_dtype, micro_batches

    learning: dict[str, Any] = {"steps": steps, "batch_size": batch_size, "lr": lr, "weight_decay": weight_decay}
    learning |= {"schedule": schedule, "seed": seed}
    with one_sentence(), _accelerated(context, device, precision, tracker, output, plan) as (accelerator, log):
        checked_numbers({"lr": lr}, {"weight_decay": weight_decay})
        rows = _rows(micro_batch)
        micro_batches(torch.arange(batch_size), accelerator, rows)  # refused now, not after hours of encoding
        check_schedule(schedule)
        if regularisation_only == (selection is not None or pool is not None):
            raise ValueError("what to learn from is not clear: give --selection and --pool, or --regularisation-only.")
        with warnings_as_lines():
            images, captions = training_images(regularisation, selection, pool, format, parts)
        pipe = load_pipeline(model, accelerator.device, frozen_dtype(accelerator))
        latents: dict[str, Any] = {"keep_states": False, "cache": output / "latents", "batch_size": 8}
        latents |= {"resolution": resolution, "accelerator": accelerator, "skip_bad": skip_bad}
        work: dict[str, Any] = {"micro_batch": rows, "gradient_checkpointing": gradient_checkpointing}
        work |= {"accelerator": accelerator, "save_every": save_every}
        if plan:
            given: dict[str, Any] = {"latents": latents, "rank": rank, "learning": learning, "work": work}
            with warnings_as_lines():
                stages = lora_stages(pipe, images, captions, checkpoint=output / "training.ckpt", **given)
            return tell_plan(stages, accelerator.device, as_json)
        with warnings_as_lines(), progress_bar("image", accelerator.is_main_process) as progress:
            examples = encode_examples(pipe, images, captions, progress=progress, **latents)
        cut = _truncated(pipe, captions, examples)
        lora = add_lora(pipe, rank=rank, seed=seed)
        with progress_bar("step", accelerator.is_main_process) as progress:
            told: dict[str, Any] = {"progress": progress, "log": told_to(progress, log)}
            losses = train_lora(pipe, lora, examples, checkpoint=output / "training.ckpt", **told, **learning, **work)
        if accelerator.is_main_process:
            save_lora(pipe, output)
        accelerator.wait_for_everyone()
        last = sum(losses[-100:]) / len(losses[-100:])
        results: dict[str, Any] = {"steps": len(losses), "images": len(examples), "captions_cut_off": cut}
        results |= {"left_out": len(captions) - len(examples), "rank": rank, "loss": last}
        line = f"{len(examples):,} images, {cut:,} captions were cut off; {len(losses):,} steps, last loss {last:.3f}."
        tell(results, [line, f"wrote {output}"], as_json, accelerator.is_main_process)
