"""What the commands share: errors as one sentence, where the work runs, progress with an honest time left, reading."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpslib.runs.progress import ProgressBar

if TYPE_CHECKING:
    from accelerate import PartialState

    from hpslib.runs.shards import Shards

__all__ = [
    "AsJson",
    "Device",
    "one_sentence",
    "place",
    "progress_bar",
    "tell",
    "together",
    "warnings_as_lines",
]


#: Options that several commands have.
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


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
        raise ValueError("--device cuda finds no CUDA GPU here: use --device cpu.")
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
    """The counts of all processes, added up; waits until every one of them is done."""
    from accelerate.utils import gather_object

    counts = gather_object([(done.made, done.found, done.mended)])
    here.wait_for_everyone()
    made, found, mended = map(sum, zip(*counts))
    return replace(done, made=made, found=found, mended=mended)


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Warnings of the library, which count what was left out, become lines on stderr."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            typer.echo(str(warning.message), err=True)


def tell(results: dict[str, Any], lines: list[str], as_json: bool, main: bool = True) -> None:
    """Print the results once: one JSON object, or lines for people."""
    if main:
        typer.echo(json.dumps(results, indent=2, default=str) if as_json else "\n".join(lines))
