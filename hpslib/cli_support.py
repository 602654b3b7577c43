"""What the commands share: errors as one sentence, where the work runs, progress with an honest time left, reading."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hpslib.progress import ProgressBar

if TYPE_CHECKING:
    from accelerate import PartialState

    from hpslib.shards import Shards

__all__ = [
    "DATA_FORMATS",
    "POOL_FORMATS",
    "PREFERENCE_FORMATS",
    "agreement_with",
    "fingerprint",
    "one_sentence",
    "place",
    "progress_bar",
    "read_data",
    "read_prompts",
    "tell",
    "together",
]

PREFERENCE_FORMATS = "hpd_v1, hpd_v2_train, hpd_v2_test, pickapic, imagereward or table"
POOL_FORMATS = "pool, diffusiondb or captioned"
DATA_FORMATS = f"{PREFERENCE_FORMATS.replace(' or', ',')}, {POOL_FORMATS}"
_DECISIVE = (".safetensors", ".json", ".txt", ".gz", ".model")  # of a model's folder: no checkpoint, card or cache


@contextmanager
def one_sentence() -> Iterator[None]:
    """Errors as one line on stderr. Exit code 2: what was handed over is wrong; 3: the computation failed."""
    try:
        yield
    except (ValueError, OSError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    except RuntimeError as error:  # a loss that is no number; no memory left on the GPU
        text = " ".join(str(error).split())
        short = (
            "the GPU's memory is full: choose a smaller batch or more accumulation."
            if "out of memory" in text
            else text
        )
        typer.echo(short, err=True)
        raise typer.Exit(3) from None


def place(device: str) -> PartialState:
    """This process among those of ``accelerate launch``: ``device``, ``process_index``, ``num_processes``.

    Raises ``ValueError`` for a device that is not there.
    """
    import torch
    from accelerate import PartialState

    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device {device}: use auto, cpu or cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no CUDA GPU is visible here, use --device cpu.")
    # Ten minutes, the default, are less than one process may have to wait for another's last part.
    return PartialState(cpu=device == "cpu", timeout=timedelta(days=1))


@contextmanager
def progress_bar(unit: str, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal that goes away at the end, be it an error."""
    bar = ProgressBar(unit, None if shown else False)
    try:
        yield bar
    finally:
        bar.close()


def together(done: Shards, here: PartialState) -> Shards:
    """What all processes made and found; waits until every one of them is done."""
    from accelerate.utils import gather_object

    made, found, mended = map(sum, zip(*gather_object([(done.made, done.found, done.mended)])))
    here.wait_for_everyone()
    return replace(done, made=made, found=found, mended=mended)


def read_data(path: Path, format: str, parts: str | None = None) -> tuple[Any, Path]:
    """A preference set or a pool, and the folder its pictures' paths start from.

    ``parts`` such as "1-1000" says which parts of DiffusionDB. Warnings of the readers, which count what they left
    out, become lines on stderr. Raises ``ValueError`` for an unknown format, and as its reader does.
    """
    from hpslib.captioned import read_captioned
    from hpslib.diffusiondb import read_diffusiondb
    from hpslib.pools import read_pool
    from hpslib.releases import FORMATS, read_preferences

    root = path if path.is_dir() else path.parent
    if parts is not None and format != "diffusiondb":
        raise ValueError(f"--parts {parts}: only DiffusionDB has parts, and --format is {format}.")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        if format == "pool":
            dataset = read_pool(path)
        elif format == "captioned":
            dataset = read_captioned(path)
        elif format == "diffusiondb":
            first, _, last = (parts or "1-1000").partition("-")
            if not (first.isdigit() and (last or first).isdigit()):
                raise ValueError(f"--parts {parts}: name a range of numbers such as 1-1000.")
            folder = path.parent / "images"
            dataset, counts = read_diffusiondb(path, folder, parts=range(int(first), int(last or first) + 1))
            typer.echo(str(counts), err=True)
            root = folder
        elif format in FORMATS:
            dataset = read_preferences(path, format)
        else:
            raise ValueError(f"--format {format} is unknown: use {DATA_FORMATS}.")
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            typer.echo(str(warning.message), err=True)
    return dataset, root


def agreement_with(scores: Sequence[float], dataset: Any) -> tuple[dict[str, Any], list[str]]:
    """Hold flat scores against a set's choices or rankings: numbers for JSON, sentences for people.

    Top-1 is over the groups with one best image, pairwise accuracy over the pairs that people did not call level,
    averaged per prompt (macro) and pooled (micro), since publications use both.
    """
    import numpy as np

    from hpslib.agreement import chance_top1, top1_accuracy
    from hpslib.preferences import TIED
    from hpslib.rankings import pairwise_agreement, ranks_of
    from hpslib.scores import split_groups

    ranks, prompts = ranks_of(dataset), list(dataset["prompt"])
    groups = split_groups(np.asarray(scores), [len(group) for group in ranks])
    choices = list(dataset["human_preference"])
    clear = [row for row, choice in enumerate(choices) if choice != TIED]
    found: dict[str, Any] = {"tied_groups": len(choices) - len(clear)}
    lines = [f"{found['tied_groups']:,} groups whose best images are tied count in pairs only."] * (
        len(clear) < len(choices)
    )
    if clear:
        top1 = top1_accuracy([groups[k] for k in clear], [choices[k] for k in clear], [prompts[k] for k in clear])
        chance = chance_top1([len(groups[k]) for k in clear])
        found |= {"top1": [top1.value, top1.low, top1.high], "chance": chance}
        lines.append(f"Top-1 {top1.percent()}, chance {100 * chance:.1f} %.")
    for average in ("macro", "micro"):
        pairs = pairwise_agreement(groups, ranks, prompts, average)
        found[f"pairwise_{average}"] = [pairs.value, pairs.low, pairs.high]
        lines.append(f"Pairwise accuracy, {average}: {pairs.percent()}.")
    return found, lines


def fingerprint(path: Path, contents: bool = True) -> str:
    """What tells this input from another: the hash of a file, or of the weights and settings in a model's folder.

    ``contents=False`` is for a folder of pictures, which would take long to read: names and sizes of all its files.
    """
    import hashlib

    from hpslib.assets import sha256

    if path.is_file():
        return sha256(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: name a file or a folder.")
    files = sorted(file for file in path.rglob("*") if file.is_file() and (not contents or file.suffix in _DECISIVE))
    told = [f"{file.relative_to(path)} {sha256(file) if contents else file.stat().st_size}" for file in files]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def read_prompts(path: Path) -> list[str]:
    """Prompts from a text file (one a line), a JSON list, or a CSV/TSV with a column ``prompt`` (PartiPrompts' file).

    Raises ``FileNotFoundError`` when the file is absent, ``ValueError`` when a prompt is empty or there is none.
    """
    import pandas as pd

    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: name a file of prompts (.txt, .json, .csv or .tsv).")
    try:
        if path.suffix in (".csv", ".tsv"):
            table = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", dtype=str, keep_default_na=False)
            column = next((name for name in table.columns if name.lower() == "prompt"), None)
            if column is None:
                raise ValueError("it has no column 'prompt'")
            prompts = table[column].tolist()
        elif path.suffix == ".json":
            prompts = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
                raise ValueError("it is no list of texts")
        else:
            prompts = path.read_text(encoding="utf-8").splitlines()
            while prompts and not prompts[-1].strip():
                prompts.pop()
    except ValueError as error:  # pandas' and json's own errors are ValueErrors too
        raise ValueError(f"{path} cannot be read as prompts ({error}): correct the file.") from error
    empty = [row for row, prompt in enumerate(prompts) if not prompt.strip()]
    if empty or not prompts:
        what = f"prompt {empty[0]} (from 0) is empty" if empty else "it holds no prompt"
        raise ValueError(f"{path}: {what}, correct the file.")
    return prompts


def tell(results: dict[str, Any], lines: list[str], as_json: bool, main: bool = True) -> None:
    """Print the results once: one JSON object, or lines for people."""
    if main:
        typer.echo(json.dumps(results, indent=2, default=str) if as_json else "\n".join(lines))
