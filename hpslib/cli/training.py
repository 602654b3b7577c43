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
    checked_numbers,
    one_sentence,
    place,
    progress_bar,
    tell,
    warnings_as_lines,
)
from hpslib.data.formats import FORMATS, POOL_FORMATS
from hpslib.lessons.scale import full

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpslib.scores.clip import Clip

__all__ = ["adapt", "train"]

Precision = Annotated[str | None, typer.Option(help="no, bf16 or fp16; by default the best of a GPU.")]
Tracker = Annotated[str | None, typer.Option(help="tensorboard or wandb: also log there.")]
Accumulation = Annotated[int, typer.Option(min=1, help="Micro-batches in a step: less memory, the same result.")]


@contextmanager
def _accelerated(device: str, precision: str | None, tracker: str | None, folder: Path) -> Iterator[tuple[Any, Any]]:
    """An Accelerator for this process, and a ``log(values, step)`` that writes to the tracker."""
    from accelerate import Accelerator

    from hpslib.runs.distributed import PRECISIONS, fast_dtype

    here = place(device)
    if precision is None:
        precision = PRECISIONS[fast_dtype(here.device)]
    if tracker not in (None, "tensorboard", "wandb"):
        raise ValueError(f"--tracker {tracker}: use tensorboard or wandb, or leave it out.")
    if tracker and importlib.util.find_spec(tracker) is None:
        raise ValueError(f"the package of --tracker {tracker} is not installed: run pip install {tracker}.")
    accelerator = Accelerator(
        cpu=device == "cpu", mixed_precision=precision, log_with=tracker, project_dir=str(folder) if tracker else None
    )
    if tracker:
        accelerator.init_trackers("hpslib")
    try:
        yield accelerator, (lambda values, step: accelerator.log(values, step=step)) if tracker else None
    finally:
        if tracker:
            accelerator.end_training()


def train(
    data: Annotated[Path, typer.Argument(help="The preference set to learn from.")],
    clip: Annotated[Path, typer.Argument(help="Folder of the CLIP to start from (hpslib convert clip ...).")],
    output: Annotated[Path, typer.Argument(help="Folder for the classifier, its card and the checkpoint.")],
    format: Annotated[str, typer.Option(help=f"What DATA is: {', '.join(FORMATS)}.")] = "hpd_v1",
    test: Annotated[Path | None, typer.Option(help="A set of the same format that is only tested on.")] = None,
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
    seed: Annotated[int, typer.Option(min=0, help="Of the split and the order.")] = 0,
    accumulation: Accumulation = 1,
    gradient_checkpointing: Annotated[bool, typer.Option(help="Less memory, a third more time.")] = False,
    cache: Annotated[
        bool, typer.Option("--cache", help="Keep the frozen trunk's activations: for small sets.")
    ] = False,
    evaluate_every: Annotated[int, typer.Option(min=1, help="Steps between validations.")] = 500,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 500,
    device: Device = "auto",
    precision: Precision = None,
    tracker: Tracker = None,
    as_json: AsJson = False,
) -> None:
    """Train the preference classifier on a set of choices; groups whose best images are tied are left out, counted.

    Example: accelerate launch -m hpslib train hpd_v1/preference_train.json clip/ hps/
    """
    from hpslib.classifier.training import train_classifier
    from hpslib.classifier.trunk import dataset_trunk
    from hpslib.data.preferences import split_by_prompt
    from hpslib.data.rankings import decided
    from hpslib.data.read import read_data
    from hpslib.scores.clip import load_clip, truncated_prompts
    from hpslib.scores.pretrained import save_pretrained

    blocks: dict[str, Any] = {"image_blocks": image_blocks, "text_blocks": text_blocks}
    learning: dict[str, Any] = {"lr": lr, "batch_size": batch_size, "weight_decay": weight_decay, "epochs": epochs}
    learning |= {"warmup": warmup, "seed": seed}
    work: dict[str, Any] = {"accumulation": accumulation, "gradient_checkpointing": gradient_checkpointing}
    work |= {"save_every": save_every, "evaluate_every": evaluate_every}
    with one_sentence(), _accelerated(device, precision, tracker, output) as (accelerator, log):
        checked_numbers({"lr": lr, "epochs": epochs, "held_out": held_out}, {"weight_decay": weight_decay})
        if format not in FORMATS:
            raise ValueError(f"--format {format} holds no choices: use one of {', '.join(FORMATS)}.")
        with warnings_as_lines():
            asked = None if test is None else read_data(test, format)  # refused now, not after hours of training
            dataset, root = read_data(data, format)
        dataset, tied = decided(dataset)
        parts = split_by_prompt(dataset, {"train": 1 - held_out, "validation": held_out}, seed)
        model = load_clip(clip, accelerator.device)
        learned, judged = (dataset_trunk(model, part, root, cache=cache, **blocks) for part in parts.values())
        output.mkdir(parents=True, exist_ok=True)
        work |= {"accelerator": accelerator, "checkpoint": output / "training.ckpt", "log": log}
        with progress_bar("step", accelerator.is_main_process) as progress:
            trained = train_classifier(model, learned, judged, progress=progress, **learning, **work)
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


def _test(clip: Clip, dataset: Any, root: Path) -> tuple[dict[str, Any], list[str]]:
    """The classifier's agreement with a set it was not trained on, as numbers and as sentences."""
    from hpslib.data.groups import flatten_groups
    from hpslib.metrics.comparison import agreement_with
    from hpslib.scores.cosine import hps

    images, prompts, _ = flatten_groups(dataset, root)
    return agreement_with(hps(clip, images, prompts).tolist(), dataset)


def adapt(
    model: Annotated[Path, typer.Argument(help="Folder of Stable Diffusion in diffusers' layout.")],
    output: Annotated[Path, typer.Argument(help="Folder for the LoRA, the cached latents and the checkpoint.")],
    regularisation: Annotated[Path, typer.Option(help="Folder of images with captions (LAION aesthetics).")],
    selection: Annotated[Path | None, typer.Option(help="The file of hpslib select.")] = None,
    pool: Annotated[Path | None, typer.Option(help="The pool it was chosen from.")] = None,
    format: Annotated[str, typer.Option(help=f"What --pool is: {', '.join(POOL_FORMATS)}.")] = "diffusiondb",
    parts: Annotated[str | None, typer.Option(help="Parts of DiffusionDB, such as 1-1000; else all there are.")] = None,
    regularisation_only: Annotated[
        bool, typer.Option("--regularisation-only", help="The control of the paper: no chosen image.")
    ] = False,
    resolution: Annotated[int | None, typer.Option(min=8, help="Of the training; the model's own by default.")] = None,
    rank: Annotated[int, typer.Option(min=1, help="Of the LoRA.")] = full.lora_rank,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = full.lora_lr,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = full.lora_weight_decay,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a step, over all processes.")] = full.lora_batch,
    steps: Annotated[int, typer.Option(min=1, help="Steps.")] = full.lora_steps,
    schedule: Annotated[str, typer.Option(help="Of the learning rate, by diffusers' names.")] = full.lora_schedule,
    seed: Annotated[int, typer.Option(min=0, help="Of the LoRA, the noise and the order.")] = full.seed,
    accumulation: Annotated[int | None, typer.Option(min=1, help="Micro-batches; by default one image each.")] = None,
    gradient_checkpointing: Annotated[bool, typer.Option(help="Less memory, a third more time.")] = True,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 500,
    device: Device = "auto",
    precision: Precision = None,
    tracker: Tracker = None,
    as_json: AsJson = False,
) -> None:
    """Teach Stable Diffusion by LoRA what is preferred and what is not ("Weird image. ").

    Example: accelerate launch -m hpslib adapt sd-v1-4/ lora/ --regularisation laion/ --selection selection.parquet
    --pool diffusiondb/metadata-large.parquet
    """
    import torch

    from hpslib.adaptation.examples import encode_examples
    from hpslib.adaptation.lora import add_lora, save_lora
    from hpslib.adaptation.sampling import load_pipeline, truncated_prompts
    from hpslib.adaptation.selection import training_images
    from hpslib.adaptation.training import check_schedule, train_lora
    from hpslib.runs.distributed import frozen_dtype, micro_batches

    learning: dict[str, Any] = {"steps": steps, "batch_size": batch_size, "lr": lr, "weight_decay": weight_decay}
    learning |= {"schedule": schedule, "seed": seed}
    with one_sentence(), _accelerated(device, precision, tracker, output) as (accelerator, log):
        checked_numbers({"lr": lr}, {"weight_decay": weight_decay})
        accumulation = accumulation or max(1, batch_size // accelerator.num_processes)  # one or two images at a time
        micro_batches(torch.arange(batch_size), accelerator, accumulation)  # refused now, not after hours of encoding
        check_schedule(schedule)
        if regularisation_only == (selection is not None or pool is not None):
            raise ValueError("what to learn from is not clear: give --selection and --pool, or --regularisation-only.")
        with warnings_as_lines():
            images, captions = training_images(regularisation, selection, pool, format, parts)
        pipe = load_pipeline(model, accelerator.device, frozen_dtype(accelerator))
        cut = len(truncated_prompts(pipe, captions))
        latents: dict[str, Any] = {"keep_states": False, "cache": output / "latents", "batch_size": 8}
        latents |= {"resolution": resolution, "accelerator": accelerator}
        with progress_bar("image", accelerator.is_main_process) as progress:
            examples = encode_examples(pipe, images, captions, progress=progress, **latents)
        lora = add_lora(pipe, rank=rank, seed=seed)
        work: dict[str, Any] = {"accumulation": accumulation, "gradient_checkpointing": gradient_checkpointing}
        work |= {"checkpoint": output / "training.ckpt", "save_every": save_every, "log": log}
        with progress_bar("step", accelerator.is_main_process) as progress:
            losses = train_lora(pipe, lora, examples, accelerator=accelerator, progress=progress, **learning, **work)
        if accelerator.is_main_process:
            save_lora(pipe, output)
        accelerator.wait_for_everyone()
        last = sum(losses[-100:]) / len(losses[-100:])
        results = {"steps": len(losses), "images": len(captions), "captions_cut_off": cut, "rank": rank, "loss": last}
        line = f"{len(captions):,} images, {cut:,} captions were cut off; {len(losses):,} steps, last loss {last:.3f}."
        tell(results, [line, f"wrote {output}"], as_json, accelerator.is_main_process)
