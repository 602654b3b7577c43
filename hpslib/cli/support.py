"""What the commands share: errors as one sentence, where the work runs, progress with an honest time left, reading."""

from __future__ import annotations

import json
import math
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
    "checked_numbers",
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
        typer.echo(" ".join(str(error).split("\n")), err=True)
        raise typer.Exit(2) from None
    except RecursionError:
        typer.echo("a file that was handed over is nested too deeply to be read: name another file.", err=True)
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


def checked_numbers(above_zero: dict[str, float], from_zero: dict[str, float] | None = None) -> None:
    """Refuse options that are no finite numbers above 0, or from 0: a NaN would pass every comparison further on.

    Raises ``ValueError`` that names the option.
    """
    for numbers, allowed, words in (
        (above_zero, lambda value: 0 < value < math.inf, "above 0"),
        (from_zero or {}, lambda value: 0 <= value < math.inf, "from 0"),
    ):
        for name, value in numbers.items():
            if not allowed(value):
                raise ValueError(f"--{name.replace('_', '-')} is {value}: give a finite number {words}.")


def _for_json(value: Any) -> Any:
    """Numbers that JSON does not have, such as the ends of an interval that is none, as null."""
    if isinstance(value, dict):
        return {key: _for_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_for_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def tell(results: dict[str, Any], lines: list[str], as_json: bool, main: bool = True) -> None:
    """Print the results once: one JSON object, or lines for people."""
    if main:
        typer.echo(json.dumps(_for_json(results), indent=2, default=str) if as_json else "\n".join(lines))
