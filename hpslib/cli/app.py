"""``hpslib`` on the command line: the functions of the notebooks, for people who left the notebook.

A command reads, calls a few functions of the library and prints. Imports of the library stand inside the commands, so
that ``hpslib --help`` answers at once. A command that cannot do its work says why in one sentence on stderr and ends
with exit code 2 (what was handed over is wrong) or 3 (the computation failed); 1 is for what ``check`` finds.
``score`` and ``generate``, and those of :mod:`hpslib.cli.training`, also run under ``accelerate launch -m hpslib ...``,
each process doing its share.
"""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from hpslib.cli import demo, generation, training
from hpslib.cli.support import (
    AsJson,
    Device,
    Plan,
    Version,
    one_sentence,
    place,
    progress_bar,
    tell,
    tell_plan,
    together,
    warnings_as_lines,
)
from hpslib.data.formats import DATA_FORMATS
from hpslib.lessons.scale import DIFFERENCES, active_scale, full

__all__ = ["app", "audit", "check", "convert", "evaluate", "preflight", "score"]

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_show_locals=False
)

KIND = "clip, hps_v1, hps_v2 (also v2.1), pickscore, imagereward or hpslib (a folder of your own)."


@app.callback()
def _hpslib(version: Version = False) -> None:
    """Human Preference Score: read, audit and use preferences for text-to-image models."""


@app.command()
def audit(
    file: Annotated[Path, typer.Argument(help="An HPD v1 JSON file or a packed parquet file.")],
    other: Annotated[Path | None, typer.Option(help="Another split: count the prompts both have.")] = None,
    as_json: AsJson = False,
) -> None:
    """Look for position bias, repeated and shared prompts, cut prompts and absent images. The images are not needed.

    Example: hpslib audit hpd_v1/preference_test.json --other hpd_v1/preference_train.json
    """
    from hpslib.data.releases.hpd_v1 import read_hpd
    from hpslib.metrics.audit import audit as audit_dataset
    from hpslib.scores.tokens import encode_text

    with one_sentence(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # absent images: the audit says it itself
        dataset = read_hpd(file, images="optional")
        report = audit_dataset(
            dataset,
            other and read_hpd(other, images="optional"),
            tokenizer=lambda text: [0, *encode_text(text), 1],  # with start and end
            root=file.parent,
        )
    typer.echo(json.dumps(report.to_dict(), indent=2) if as_json else str(report))


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="A folder of images, its subfolders and the zip files in them.")],
    workers: Annotated[int, typer.Option(min=1, help="Images decoded at once.")] = 8,
    as_json: AsJson = False,
) -> None:
    """Open every image of a folder, so that a long run does not end at a bad one. Exit code 1 if any cannot be used.

    Example: hpslib check hpd_v1/preference_images/
    """
    from hpslib.data.images.check import check_images

    with one_sentence(), progress_bar("image") as progress:
        found = check_images(folder, workers=workers, progress=progress)
    bad = [{"name": name, "reason": reason} for name, reason in found.bad]
    results = {"checked": found.checked, "sound": found.checked - len(bad), "bad": bad}
    results |= {"hidden": found.hidden, "other": found.other}
    tell(results, [f"{found}.", *(f"- {one['name']}: {one['reason']}" for one in bad)], as_json)
    raise typer.Exit(1 if bad else 0)


@app.command()
def convert(
    kind: Annotated[
        str,
        typer.Argument(
            help="clip, hps_v1, hps_v2, pickscore; aesthetic (LAION's head); lora_v1, kohya (LoRA); transformers."
        ),
    ],
    file: Annotated[
        Path, typer.Argument(help="The file as downloaded (.pth, .pt, .bin or .safetensors); transformers: a folder.")
    ],
    target: Annotated[Path, typer.Argument(help="The folder to write; for aesthetic and kohya, the file.")],
) -> None:
    """Turn a released file into a safe one: safetensors, with its provenance; refuse what does not fit its kind.

    lora_v1 reads the LoRA released with the paper, kohya writes a LoRA for A1111 and ComfyUI, transformers turns a
    folder of hpslib into one that CLIPModel loads.

    Example: hpslib convert hps_v1 hpc.pth hps_v1/
    """
    from hpslib.adaptation.lora_files import export_kohya, import_legacy
    from hpslib.scores.aesthetic import load_laion_head, save_aesthetic_head
    from hpslib.scores.released import convert_checkpoint
    from hpslib.scores.scorers import hub_file
    from hpslib.scores.transformers_folder import export_transformers

    with one_sentence():
        source = file if kind == "transformers" else hub_file(file)
        others = {
            "transformers": lambda: export_transformers(source, target),
            "aesthetic": lambda: save_aesthetic_head(load_laion_head(source), target),
            "lora_v1": lambda: import_legacy(source, target),
            "kohya": lambda: export_kohya(source, target),
        }
        written = others[kind]() if kind in others else convert_checkpoint(kind, source, target)
    typer.echo(f"wrote {written}")


@app.command()
def score(
    kind: Annotated[str, typer.Argument(help=KIND)],
    checkpoint: Annotated[Path, typer.Argument(help="The model's file or folder; hf://owner/name/file is on the hub.")],
    data: Annotated[Path, typer.Argument(help="A preference set or a pool of images.")],
    output: Annotated[Path, typer.Argument(help="Folder for parquet parts: id, name, prompt, score, blurred.")],
    format: Annotated[str, typer.Option(help=f"What DATA is: {', '.join(DATA_FORMATS)}.")] = "hpd_v1",
    parts: Annotated[str | None, typer.Option(help="Parts of DiffusionDB, such as 1-1000; by default all.")] = None,
    max_prompts: Annotated[int, typer.Option(min=1, help="DiffusionDB: at most this many.")] = full.pool_prompts,
    tokenizer: Annotated[Path | None, typer.Option(help="imagereward: the folder of bert-base-uncased.")] = None,
    blur: Annotated[bool, typer.Option("--blur", help="Also say which images are blurred, for select.")] = False,
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one forward pass.")] = 64,
    shard_size: Annotated[int, typer.Option(min=1, help="Groups in one part.")] = 1_000,
    plan: Plan = False,
    as_json: AsJson = False,
) -> None:
    """Score every image of a set; compare the scores with its choices if it has any. Goes on where it was stopped.

    Example: hpslib score hps_v1 hpc.pth hpd_v1/preference_test.json scores/
    """
    from hpslib.lessons.plan import scoring_stages
    from hpslib.metrics.comparison import agreement_with
    from hpslib.runs.files import fingerprint
    from hpslib.runs.shards import read_shards, shards_left, work_in_shards
    from hpslib.scores.pretrained import local_folder
    from hpslib.scores.scorers import hub_file, load_scorer, truncated_prompts
    from hpslib.scores.sets import score_table

    with one_sentence():
        here = place(device, plan)
        dataset, root, parts = _scored_data(data, format, parts, max_prompts)
        scorer = load_scorer(kind, checkpoint, here.device, tokenizer=tokenizer)

        def work(rows: range) -> Any:
            return score_table(scorer, dataset.select(rows), root, batch_size, blur)

        settings = {
            "kind": kind,
            "checkpoint": fingerprint(local_folder(checkpoint) if kind == "hpslib" else hub_file(checkpoint)),
            "tokenizer": fingerprint(tokenizer) if tokenizer else None,
            "data": fingerprint(data, contents=False),
            "format": format,
            "parts": parts,
            "blur": blur,
        }
        if plan:
            left = shards_left(len(dataset), output, settings=settings, shard_size=shard_size)
            stages = scoring_stages(scorer, dataset, root, left, batch_size, blur)
            return tell_plan(stages, here.device, as_json)
        share = {"process_index": here.process_index, "processes": here.num_processes, "wait": here.wait_for_everyone}
        with progress_bar("group", here.is_main_process) as progress:
            done = work_in_shards(
                len(dataset), work, output, settings=settings, shard_size=shard_size, progress=progress, **share
            )
        done = together(done, here)
        table = read_shards(output)
        cut = len(truncated_prompts(scorer, dataset["prompt"]))
        results = {"images": table.num_rows, "groups": len(dataset), "prompts_cut_off": cut, "output": str(output)}
        lines = [str(done), f"{table.num_rows:,} images in {len(dataset):,} groups; {cut:,} prompts were cut off."]
        if "human_preference" in dataset.column_names:
            numbers, more = agreement_with(table.column("score").to_numpy(), dataset)
            results, lines = results | numbers, [*lines, *more]
    tell(results, lines, as_json, here.is_main_process)


def _scored_data(data: Path, format: str, parts: str | None, max_prompts: int) -> tuple[Any, Path, str | None]:
    """What ``score`` reads: of DiffusionDB the groups that lesson 4 selects from, from the parts that are returned."""
    from hpslib.adaptation.pool import read_selection_pool
    from hpslib.data.read import read_data

    with warnings_as_lines():
        if format != "diffusiondb":
            return *read_data(data, format, parts), parts
        pool = read_selection_pool(data, parts=parts, min_group=full.images_per_prompt, max_groups=max_prompts)
    typer.echo(f"DiffusionDB, parts {pool.parts}: {pool.counts}.", err=True)
    return pool.dataset, pool.root, pool.parts


@app.command()
def evaluate(
    generated: Annotated[Path, typer.Argument(help="A folder made by hpslib generate, or a packed pool.")],
    clip: Annotated[Path | None, typer.Option(help="Folder of a CLIP (hpslib convert clip ...): CLIP score.")] = None,
    aesthetic: Annotated[Path | None, typer.Option(help="The aesthetic head (hpslib convert aesthetic ...).")] = None,
    hps: Annotated[Path | None, typer.Option(help="Folder of a preference classifier: HPS.")] = None,
    before: Annotated[Path | None, typer.Option(help="The same prompts and seeds by another model.")] = None,
    reference: Annotated[Path | None, typer.Option(help="Folder of real images, for FID.")] = None,
    inception: Annotated[Path | None, typer.Option(help="torch-fidelity's Inception weights, for FID.")] = None,
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one forward pass.")] = 64,
    plan: Plan = False,
    as_json: AsJson = False,
) -> None:
    """Measure generated images, each number with its interval; with --before, the paired difference too.

    Example: hpslib evaluate adapted/ --before base/ --clip clip/ --hps hps_v1/
    """
    from functools import partial

    from hpslib.adaptation.evaluation import compare_pools, fid_between, load_inception, measure_images
    from hpslib.data.groups import flatten_groups
    from hpslib.data.images.lazy import as_images
    from hpslib.data.pools.pool import read_pool
    from hpslib.lessons.plan import measuring_stages
    from hpslib.scores.aesthetic import load_aesthetic_head
    from hpslib.scores.clip import load_clip, truncated_prompts
    from hpslib.scores.scorers import Scorer, load_scorer

    with one_sentence():
        where = place(device, plan).device
        if (reference is None) != (inception is None):
            raise ValueError("FID has only one half: give --reference, a folder of real images, and --inception.")
        if not (clip or hps or reference):
            raise ValueError("nothing to measure with: give --clip, --hps, or --reference with --inception.")
        real = (as_images(reference), load_inception(inception, where)) if reference and inception else None
        pool, other = read_pool(generated), read_pool(before) if before else None
        results: dict[str, Any] = {}
        towers = load_clip(clip, where) if clip else None
        loaded = load_scorer("hpslib", hps, where) if hps else None  # with its own preprocessing and scale
        classifier = loaded if isinstance(loaded, Scorer) else None
        head = load_aesthetic_head(aesthetic) if aesthetic else None
        measure = partial(measure_images, batch_size=batch_size, clip=towers, classifier=classifier, head=head)
        measured = clip or hps or aesthetic
        if plan:
            pools = [flatten_groups(one)[:2] for one in (pool, other) if one is not None]
            stages = measuring_stages(pools, measure if measured else None, real, where)
            return tell_plan(stages, where, as_json)
        if measured:
            results = compare_pools(pool, other, measure).to_dict("index")
        lines = [_measured(name, row) for name, row in results.items()]
        reader = classifier.clip if classifier else towers
        if reader is not None:
            results["prompts_cut_off"] = len(truncated_prompts(reader, pool["prompt"]))
            lines.append(f"{results['prompts_cut_off']:,} prompts were cut off.")
        for name, generated_pool in (("fid", pool), ("fid before", other)):
            if real is not None and generated_pool is not None:
                results[name] = fid_between(flatten_groups(generated_pool)[0], *real, batch_size)
                lines.append(f"{name}: {results[name]:.2f}")
    tell(results, lines, as_json)


def _measured(name: str, row: dict[str, float]) -> str:
    """A row of :func:`hpslib.adaptation.evaluation.compare_pools` as text."""
    if math.isnan(row["low"]):
        change = f"; change {row['difference']:+.3g}" if "difference" in row else ""
        return f"{name}: {row['mean']:.4g}{change} (no interval: one prompt)"
    text = f"{name}: {row['mean']:.4g} [{row['low']:.4g}, {row['high']:.4g}]"
    if "difference" in row:
        text += f"; change {row['difference']:+.3g} [{row['difference_low']:+.3g}, {row['difference_high']:+.3g}]"
    return text


@app.command()
def preflight(
    root: Annotated[Path | None, typer.Argument(help="The folder of the full scale ($HPSLIB_FULL).")] = None,
    lesson: Annotated[int | None, typer.Option(min=1, max=4, help="Only what this lesson needs.")] = None,
) -> None:
    """Name what the full scale still lacks (files, GPU memory, disk), how to get it and its size; plan the hours.

    What is there is counted, and a little of it timed where there is a GPU. For lesson 4 it also lists where training
    differs from the script that the authors released, and why.

    Example: hpslib preflight full/ --lesson 3
    """
    from hpslib.lessons.plan_course import course_plan
    from hpslib.lessons.preflight import check_full

    with one_sentence():
        scale = full if active_scale().simulated else active_scale()  # a rehearsal needs less
        report = check_full(root, lesson, scale)
        typer.echo(str(report))
        typer.echo(f"\n{course_plan(report, (1, 2, 3, 4) if lesson is None else (lesson,), scale)}")
    if lesson in (None, 4):
        typer.echo("\nLesson 4 and hpslib adapt differ from the released training script:")
        typer.echo("\n".join(f"- {difference}" for difference in DIFFERENCES))
    raise typer.Exit(0 if report.ready else 2)


for command in (training.train, generation.select, training.adapt, generation.generate, demo.demo):
    app.command()(command)
