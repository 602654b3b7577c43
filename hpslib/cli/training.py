"""The commands that train and generate: ``train`` (the classifier), ``select``, ``adapt`` (LoRA) and ``generate``.

All but ``select`` run alone or under ``accelerate launch -m hpslib ...``; the result is that of one process. Defaults
are the paper's (:data:`hpslib.lessons.scale.full`). What was stopped goes on where its last checkpoint or part stands.
"""

from __future__ import annotations

import importlib.util
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpslib.cli.support import one_sentence, place, progress_bar, tell, together, warnings_as_lines
from hpslib.data.read import FORMATS, POOL_FORMATS, read_data
from hpslib.data.rows import read_prompts
from hpslib.lessons.scale import full
from hpslib.metrics.comparison import agreement_with
from hpslib.runs.files import fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["adapt", "generate", "register", "select", "train"]

Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Precision = Annotated[str | None, typer.Option(help="no, bf16 or fp16; by default the best of a GPU.")]
Tracker = Annotated[str | None, typer.Option(help="tensorboard or wandb: also log there.")]
Accumulation = Annotated[int, typer.Option(min=1, help="Micro-batches in a step: less memory, the same result.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


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
        raise ValueError(f"--tracker {tracker}: the package is not installed, pip install {tracker}.")
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
    seed: Annotated[int, typer.Option(help="Of the split and the order.")] = 0,
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
    from hpslib.classifier.trunk import cache_trunk, stream_trunk
    from hpslib.data.groups import flatten_groups
    from hpslib.data.preferences import split_by_prompt
    from hpslib.data.rankings import decided
    from hpslib.data.read import FORMATS
    from hpslib.scores.clip import load_clip, truncated_prompts
    from hpslib.scores.pretrained import save_pretrained
    from hpslib.scores.scorers import Scorer, score_groups

    settings = {
        "data": data.name, "image_blocks": image_blocks, "text_blocks": text_blocks, "lr": lr, "batch_size": batch_size,
        "weight_decay": weight_decay, "epochs": epochs, "warmup": warmup, "seed": seed, "held_out": held_out,
    }  # fmt: skip
    with one_sentence(), _accelerated(device, precision, tracker, output) as (accelerator, log):
        if format not in FORMATS:
            raise ValueError(f"--format {format}: choices are in {', '.join(FORMATS)}.")
        with warnings_as_lines():
            asked = None if test is None else read_data(test, format)  # refused now, not after hours of training
            dataset, root = read_data(data, format)
        dataset, tied = decided(dataset)
        parts = split_by_prompt(dataset, {"train": 1 - held_out, "validation": held_out}, seed)
        model, trunks = load_clip(clip, accelerator.device), []
        for part in parts.values():
            images, _, sizes = flatten_groups(part, root)
            given = (model, images, part["prompt"], sizes, part["human_preference"])
            make = cache_trunk if cache else stream_trunk
            trunks.append(make(*given, image_blocks=image_blocks, text_blocks=text_blocks))
        output.mkdir(parents=True, exist_ok=True)
        with progress_bar("step", accelerator.is_main_process) as progress:
            trained = train_classifier(
                model, *trunks, epochs=epochs, batch_size=batch_size, lr=lr, weight_decay=weight_decay, warmup=warmup,
                seed=seed, accelerator=accelerator, accumulation=accumulation, evaluate_every=evaluate_every,
                gradient_checkpointing=gradient_checkpointing, checkpoint=output / "training.ckpt",
                save_every=save_every, log=log, progress=progress,
            )  # fmt: skip
        step, loss, top1 = min(trained.validation, key=lambda row: row[1])
        results: dict[str, Any] = {
            "steps": len(trained.losses),
            "kept_step": step,
            "validation_loss": loss,
            "validation_top1": top1,
        }
        cut = len(truncated_prompts(model, dataset["prompt"]))
        results |= {"groups": {name: len(part) for name, part in parts.items()}, "prompts_cut_off": cut}
        lines = [f"{len(trained.losses):,} steps; kept step {step:,}: validation loss {loss:.3f}, top-1 {top1:.1%}."]
        if cut:
            lines.append(f"{cut:,} prompts are longer than the text tower reads and were cut off.")
        if tied:
            lines.append(f"{tied:,} groups whose best images are tied were left out.")
        metrics = {f"validation top-1, {len(parts['validation'])} groups": f"{100 * top1:.1f} %"}
        if accelerator.is_main_process:
            if asked is not None:
                values = score_groups(Scorer(trained.clip, "pad", 100.0), *asked)
                told, more = agreement_with([value for group in values for value in group], asked[0])
                results, lines, metrics = results | told, lines + more, metrics | told
            save_pretrained(
                trained.clip, output, title="Preference classifier", settings=settings, metrics=metrics,
                summary=f"Trained on {len(parts['train']):,} choices of {data.name}.",
            )  # fmt: skip
        accelerator.wait_for_everyone()
        tell(results, [*lines, f"wrote {output}"], as_json, accelerator.is_main_process)


def select(
    scores: Annotated[Path, typer.Argument(help="Folder of hpslib score --blur for a pool.")],
    output: Annotated[Path, typer.Argument(help="Parquet file: id, name, prompt, caption, preferred, score.")],
    threshold: Annotated[float, typer.Option(help='The 2 of "2/n".')] = full.threshold,
    min_group: Annotated[int, typer.Option(min=2, help="Fewest sharp pictures of a prompt.")] = full.images_per_prompt,
    temperature: Annotated[float, typer.Option(help="Divides the scores, which are 100 x cosine.")] = 1.0,
    negative_share: Annotated[float, typer.Option(help="Share of the non-preferred that is kept.")] = 0.5,
    keep_blurred: Annotated[bool, typer.Option("--keep-blurred", help="Leave out the blur filter.")] = False,
    seed: Annotated[int, typer.Option(help="Of the lot that drops non-preferred pictures.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Apply the paper's rule to a scored pool: which pictures are preferred, which are not. Keyed by id and name.

    Example: hpslib select scores/ selection.parquet
    """
    from hpslib.adaptation.selection import choose
    from hpslib.runs.shards import read_shards

    with one_sentence():
        table = read_shards(scores).to_pandas()
        if not keep_blurred and "blurred" not in table.columns:
            raise ValueError(f"{scores} does not say which pictures are blurred: score with --blur, or --keep-blurred.")
        chosen = choose(
            table, threshold=threshold, min_group=min_group, temperature=temperature, keep_blurred=keep_blurred,
            negative_share=negative_share, seed=seed,
        )  # fmt: skip
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = output.with_name(f".{output.name}")
        chosen.rows.to_parquet(partial, index=False)
        partial.replace(output)
    preferred = int(chosen.rows.preferred.sum())
    results = {"preferred": preferred, "non_preferred": len(chosen.rows) - preferred, "blurred": chosen.blurred}
    results |= {"groups": chosen.counts.groups, "too_small": chosen.counts.too_small, "left_out": chosen.left_out}
    tell(results, [str(chosen), f"wrote {output}"], as_json)


def adapt(
    model: Annotated[Path, typer.Argument(help="Folder of Stable Diffusion in diffusers' layout.")],
    output: Annotated[Path, typer.Argument(help="Folder for the LoRA, the cached latents and the checkpoint.")],
    regularisation: Annotated[Path, typer.Option(help="Folder of pictures with captions (LAION aesthetics).")],
    selection: Annotated[Path | None, typer.Option(help="The file of hpslib select.")] = None,
    pool: Annotated[Path | None, typer.Option(help="The pool it was chosen from.")] = None,
    format: Annotated[str, typer.Option(help=f"What --pool is: {', '.join(POOL_FORMATS)}.")] = "diffusiondb",
    parts: Annotated[str | None, typer.Option(help="Which parts of DiffusionDB, such as 1-1000.")] = None,
    regularisation_only: Annotated[
        bool, typer.Option("--regularisation-only", help="The control of the paper: no chosen picture.")
    ] = False,
    resolution: Annotated[int | None, typer.Option(min=8, help="Of the training; the model's own by default.")] = None,
    rank: Annotated[int, typer.Option(min=1, help="Of the LoRA.")] = full.lora_rank,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = full.lora_lr,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = full.lora_weight_decay,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures in a step, over all processes.")] = full.lora_batch,
    steps: Annotated[int, typer.Option(min=1, help="Steps.")] = full.lora_steps,
    schedule: Annotated[str, typer.Option(help="Of the learning rate, by diffusers' names.")] = full.lora_schedule,
    seed: Annotated[int, typer.Option(help="Of the LoRA, the noise and the order.")] = 42,
    accumulation: Annotated[int | None, typer.Option(min=1, help="Micro-batches; by default one picture each.")] = None,
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
    from hpslib.adaptation.selection import find_images, read_selection
    from hpslib.adaptation.training import check_schedule, train_lora
    from hpslib.data.groups import flatten_groups
    from hpslib.runs.distributed import computing_dtype, micro_batches

    with one_sentence(), _accelerated(device, precision, tracker, output) as (accelerator, log):
        accumulation = accumulation or max(1, batch_size // accelerator.num_processes)  # one or two pictures at a time
        micro_batches(torch.arange(batch_size), accelerator, accumulation)  # refused now, not after hours of encoding
        check_schedule(schedule)
        if regularisation_only == (selection is not None or pool is not None):
            raise ValueError("what to learn from is not clear: give --selection and --pool, or --regularisation-only.")
        if (selection is None) != (pool is None):
            raise ValueError("a selection names pictures of a pool: give both, --selection and --pool.")
        with warnings_as_lines():
            images, captions, _ = flatten_groups(*read_data(regularisation, "captioned"))
        if selection is not None and pool is not None:
            rows = read_selection(selection)
            with warnings_as_lines():
                images = images + find_images(rows, *read_data(pool, format, parts))
            captions = captions + rows["caption"].tolist()
        half = computing_dtype(accelerator) == torch.bfloat16  # under fp16 the scaled gradients want float32 weights
        pipe = load_pipeline(model, accelerator.device, torch.bfloat16 if half else torch.float32)
        cut = len(truncated_prompts(pipe, captions))
        with progress_bar("picture", accelerator.is_main_process) as progress:
            examples = encode_examples(
                pipe, images, captions, resolution=resolution, keep_states=False, cache=output / "latents",
                batch_size=8, accelerator=accelerator, progress=progress,
            )  # fmt: skip
        lora = add_lora(pipe, rank=rank, seed=seed)
        with progress_bar("step", accelerator.is_main_process) as progress:
            losses = train_lora(
                pipe, lora, examples, steps=steps, batch_size=batch_size, lr=lr, weight_decay=weight_decay,
                schedule=schedule, seed=seed, accelerator=accelerator, accumulation=accumulation, log=log,
                gradient_checkpointing=gradient_checkpointing, checkpoint=output / "training.ckpt",
                save_every=save_every, progress=progress,
            )  # fmt: skip
        if accelerator.is_main_process:
            save_lora(pipe, output)
        accelerator.wait_for_everyone()
        results = {"steps": len(losses), "images": len(captions), "captions_cut_off": cut, "rank": rank}
        last = sum(losses[-100:]) / len(losses[-100:])
        lines = [
            f"{len(captions):,} pictures, {cut:,} captions were cut off; {len(losses):,} steps, last loss {last:.3f}."
        ]
        tell(results | {"loss": last}, [*lines, f"wrote {output}"], as_json, accelerator.is_main_process)


def generate(
    model: Annotated[Path, typer.Argument(help="Folder of Stable Diffusion in diffusers' layout.")],
    prompts: Annotated[Path, typer.Argument(help="Prompts: .txt (one a line), .json, .csv or .tsv.")],
    output: Annotated[Path, typer.Argument(help="Folder for parquet parts with the pictures.")],
    lora: Annotated[Path | None, typer.Option(help="Folder of a LoRA.")] = None,
    negative_prompt: Annotated[str, typer.Option(help='For the adapted model "Weird image. ".')] = "",
    images_per_prompt: Annotated[int, typer.Option(min=1, help="Pictures of each prompt.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Picture k is made from the noise of seed + k.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Sampling steps.")] = full.sampling_steps,
    guidance_scale: Annotated[float, typer.Option(help="Of classifier-free guidance.")] = full.guidance_scale,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures made together.")] = 8,
    shard_size: Annotated[int, typer.Option(min=1, help="Pictures in one part.")] = 256,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Generate pictures, each from its own seed, so that two models' pictures of a prompt share their noise.

    Example: accelerate launch -m hpslib generate sd-v1-4/ prompts.txt adapted/ --lora lora/ --negative-prompt
    "Weird image. "
    """
    import io

    from hpslib.adaptation.lora import LORA_FILE, load_lora
    from hpslib.adaptation.sampling import generate as sample
    from hpslib.adaptation.sampling import load_pipeline, truncated_prompts
    from hpslib.data.images.lazy import to_images
    from hpslib.data.pools.pool import pool_table
    from hpslib.runs.shards import work_in_shards

    with one_sentence():
        here = place(device)
        texts = [text for text in read_prompts(prompts) for _ in range(images_per_prompt)]
        pipe = load_pipeline(model, here.device)
        cut = len(truncated_prompts(pipe, texts))
        if lora is not None:
            load_lora(pipe, lora)

        def work(rows: range) -> Any:
            made = sample(
                pipe, [texts[row] for row in rows], [seed + row for row in rows], steps=steps, batch_size=batch_size,
                guidance_scale=guidance_scale, negative_prompt=negative_prompt,
            )  # fmt: skip
            files = [io.BytesIO() for _ in rows]
            for image, file in zip(to_images(made), files):
                image.save(file, "PNG")
            named = ([texts[row] for row in rows], [seed + row for row in rows], [file.getvalue() for file in files])
            return pool_table(*named, step=steps, cfg=guidance_scale, first=rows.start)

        settings: dict[str, Any] = {
            "model": fingerprint(model),
            "lora": fingerprint(lora / LORA_FILE) if lora else None,
            "seed": seed,
        }
        settings |= {"prompts": fingerprint(prompts), "images_per_prompt": images_per_prompt, "steps": steps}
        settings |= {"guidance_scale": guidance_scale, "negative_prompt": negative_prompt, "batch_size": batch_size}
        with progress_bar("image", here.is_main_process) as progress:
            done = work_in_shards(
                len(texts), work, output, settings=settings, shard_size=shard_size, progress=progress,
                process_index=here.process_index, processes=here.num_processes, wait=here.wait_for_everyone,
            )  # fmt: skip
        done = together(done, here)
    results = {"images": len(texts), "prompts_cut_off": cut, "made": done.made, "found": done.found}
    tell(results, [f"{len(texts):,} pictures; {cut:,} prompts were cut off.", str(done)], as_json, here.is_main_process)


def register(app: typer.Typer) -> None:
    """Put these commands on the application."""
    for command in (train, select, adapt, generate):
        app.command()(command)
