"""The commands around an adaptation: ``select`` (what to learn from) and ``generate`` (images, before and after).

``generate`` also runs under ``accelerate launch -m hpslib ...``; the result is that of one process. Defaults are the
paper's (:data:`hpslib.lessons.scale.full`). What was stopped goes on where its last part stands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hpslib.cli.support import (
    AsJson,
    Device,
    Plan,
    Precision,
    checked_numbers,
    dtype_of,
    one_sentence,
    place,
    progress_bar,
    tell,
    tell_plan,
    together,
)
from hpslib.lessons.scale import full

__all__ = ["generate", "select"]


def select(
    scores: Annotated[Path, typer.Argument(help="The folder that hpslib score --blur wrote for a pool.")],
    output: Annotated[Path, typer.Argument(help="Parquet file: id, name, prompt, caption, preferred, score.")],
    threshold: Annotated[float, typer.Option(help='The 2 of "2/n".')] = full.threshold,
    min_group: Annotated[int, typer.Option(min=2, help="Sharp images a prompt must have.")] = full.images_per_prompt,
    temperature: Annotated[float, typer.Option(help="Divides the scores: 1 for 100 x cosine, 0.01 for cosines.")] = (
        full.temperature or 1.0
    ),
    negative_share: Annotated[float, typer.Option(help="Share of the non-preferred that is kept.")] = (
        full.negative_share
    ),
    keep_blurred: Annotated[bool, typer.Option("--keep-blurred", help="Do not filter out blurred images.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw that drops non-preferred images.")] = full.seed,
    as_json: AsJson = False,
) -> None:
    """Apply the paper's rule to a scored pool: which images are preferred, which are not. Keyed by id and name.

    Example: hpslib select scores/ selection.parquet
    """
    from hpslib.adaptation.selection import choose
    from hpslib.runs.files import written_whole
    from hpslib.runs.shards import read_shards

    rule: dict[str, Any] = {"threshold": threshold, "min_group": min_group, "temperature": temperature}
    rule |= {"keep_blurred": keep_blurred, "negative_share": negative_share, "seed": seed}
    with one_sentence():
        checked_numbers({"threshold": threshold, "temperature": temperature}, {"negative_share": negative_share})
        table = read_shards(scores).to_pandas()
        if not keep_blurred and "blurred" not in table.columns:
            raise ValueError(f"{scores} does not say which images are blurred: score with --blur, or --keep-blurred.")
        chosen = choose(table, **rule)
        if chosen.rows.empty:
            nothing = f"{chosen} Nothing is left to learn from: try a smaller --temperature or --threshold."
            typer.echo(nothing, err=True)
        with written_whole(output) as partial:
            chosen.rows.to_parquet(partial, index=False)
    preferred = int(chosen.rows.preferred.sum())
    results = {"preferred": preferred, "non_preferred": len(chosen.rows) - preferred, "blurred": chosen.blurred}
    results |= {"groups": chosen.counts.groups, "too_small": chosen.counts.too_small, "left_out": chosen.left_out}
    tell(results, [str(chosen), f"wrote {output}"], as_json)


def generate(
    model: Annotated[Path, typer.Argument(help="Folder of Stable Diffusion in diffusers' layout.")],
    prompts: Annotated[Path, typer.Argument(help="Prompts: .txt (one a line), .json, .csv or .tsv.")],
    output: Annotated[Path, typer.Argument(help="Folder for parquet parts with the images.")],
    lora: Annotated[Path | None, typer.Option(help="Folder or file of a LoRA.")] = None,
    negative_prompt: Annotated[str, typer.Option(help='For an adapted model: "Weird image. ".')] = "",
    images_per_prompt: Annotated[int, typer.Option(min=1, help="Images of each prompt.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Image k is made from the noise of seed + k.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Sampling steps.")] = full.sampling_steps,
    guidance_scale: Annotated[float, typer.Option(help="Strength of classifier-free guidance.")] = full.guidance_scale,
    batch_size: Annotated[int, typer.Option(min=1, help="Images made together.")] = 8,
    shard_size: Annotated[int, typer.Option(min=1, help="Images in one part.")] = 256,
    device: Device = "auto",
    precision: Precision = None,
    plan: Plan = False,
    as_json: AsJson = False,
) -> None:
    """Generate images, each from its own seed, so that two models' images of a prompt share their noise.

    Example: accelerate launch -m hpslib generate sd-v1-4/ prompts.txt adapted/ --lora lora/ --negative-prompt
    "Weird image. "
    """
    from functools import partial

    from hpslib.adaptation.lora import load_lora
    from hpslib.adaptation.lora_layouts import lora_file
    from hpslib.adaptation.sampling import generate_rows, load_pipeline, truncated_prompts
    from hpslib.data.rows import read_prompts
    from hpslib.lessons.plan import generation_stages
    from hpslib.runs.files import fingerprint
    from hpslib.runs.shards import shards_left, work_in_shards

    sampling: dict[str, Any] = {"steps": steps, "guidance_scale": guidance_scale, "seed": seed}
    sampling |= {"negative_prompt": negative_prompt, "batch_size": batch_size}
    with one_sentence():
        checked_numbers({}, {"guidance_scale": guidance_scale})
        here = place(device, plan)
        texts = [text for text in read_prompts(prompts) for _ in range(images_per_prompt)]
        dtype = dtype_of(precision, here.device)
        pipe = load_pipeline(model, here.device, dtype)
        cut = len(truncated_prompts(pipe, texts))
        if lora is not None:
            load_lora(pipe, lora)
        work = partial(generate_rows, pipe, texts, **sampling)
        settings = {"model": fingerprint(model), "lora": fingerprint(lora_file(lora)) if lora else None, **sampling}
        settings |= {"prompts": fingerprint(prompts), "images_per_prompt": images_per_prompt}
        settings |= {} if precision is None else {"precision": precision}  # the card's own is no setting, as before
        if plan:
            left = shards_left(len(texts), output, settings=settings, shard_size=shard_size)
            return tell_plan(generation_stages(pipe, texts, left, sampling), here.device, as_json)
        share = {"process_index": here.process_index, "processes": here.num_processes, "wait": here.wait_for_everyone}
        with progress_bar("image", here.is_main_process) as progress:
            done = work_in_shards(
                len(texts), work, output, settings=settings, shard_size=shard_size, progress=progress, **share
            )
        done = together(done, here)
    results = {"images": len(texts), "prompts_cut_off": cut, "made": done.made, "found": done.found}
    tell(results, [f"{len(texts):,} images; {cut:,} prompts were cut off.", str(done)], as_json, here.is_main_process)
