"""What the commands share: errors as one sentence, where the work runs, progress with an honest time left, reading."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpslib import __version__
from hpslib.runs.progress import ProgressBar

if TYPE_CHECKING:
    from accelerate import PartialState

    from hpslib.runs.plan import Stage
    from hpslib.runs.shards import Shards

__all__ = [
    "AsJson",
    "Device",
    "Plan",
    "Precision",
    "Version",
    "checked_numbers",
    "dtype_of",
    "given_settings",
    "one_sentence",
    "place",
    "progress_bar",
    "tell",
    "tell_plan",
    "together",
    "told_to",
    "warnings_as_lines",
]


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"hpslib {__version__}")
        raise typer.Exit


#: Options that several commands have.
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Precision = Annotated[str | None, typer.Option(help="no (float32), bf16 or fp16; by default the best of the device.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Plan = Annotated[
    bool, typer.Option("--plan", help="Only count the work and time a little of it; print hours, memory, disk.")
]
Version = Annotated[bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say which, and end.")]


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
            "the GPU's memory is full: choose a smaller --micro-batch or --batch-size."
            if "out of memory" in text
            else text
        )
        typer.echo(short, err=True)
        raise typer.Exit(3) from None


def dtype_of(precision: str | None, device: Any) -> Any:
    """What ``--precision`` computes in, a ``torch.dtype``; the best of the device where it is not given.

    Raises ``ValueError`` for another word, and for float16 on a CPU, which does not compute in it.
    """
    from hpslib.runs.distributed import PRECISIONS, fast_dtype

    if precision is None:
        return fast_dtype(device)
    dtypes = {name: dtype for dtype, name in PRECISIONS.items()}
    if precision not in dtypes:
        raise ValueError(f"--precision {precision}: use one of {', '.join(dtypes)}, or leave it out.")
    if precision == "fp16" and str(device).startswith("cpu"):
        raise ValueError("--precision fp16: a CPU does not compute in float16, use bf16 or no.")
    return dtypes[precision]


def place(device: str, plan: bool = False) -> PartialState:
    """This process among those of ``accelerate launch``: ``device``, ``process_index``, ``num_processes``.

    Raises ``ValueError`` for a device that is not there, and for a ``plan`` in several processes.
    """
    import torch
    from accelerate import PartialState

    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device {device}: use auto, cpu or cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda finds no CUDA GPU here: use --device cpu.")
    # Ten minutes, the default, are less than one process may have to wait for another's last part.
    here = PartialState(cpu=device == "cpu", timeout=timedelta(days=1))
    if plan and here.num_processes > 1:
        raise ValueError("--plan times one process: leave accelerate launch out.")
    return here


@contextmanager
def progress_bar(unit: str, shown: bool = True) -> Iterator[ProgressBar]:
    """A bar on a terminal that goes away at the end, be it an error; elsewhere a line now and then."""
    bar = ProgressBar(unit, None if shown else False)
    try:
        yield bar
    finally:
        bar.close()


def told_to(
    progress: ProgressBar, log: Callable[[dict[str, float], int], None] | None
) -> Callable[[dict[str, float], int], None]:
    """A training loop's ``log`` that shows loss and accuracy beside the progress, and hands all on to the tracker."""

    def both(values: dict[str, float], step: int) -> None:
        progress.note(values, step)
        if log is not None:
            log(values, step)

    return both


def given_settings(context: typer.Context) -> dict[str, int | float | str | bool]:
    """A command's arguments and options as a tracker takes them: plain values; what was not given is left out."""
    plain = (bool, int, float, str)
    settings = {
        name: value if isinstance(value, plain) else str(value)
        for name, value in context.params.items()
        if value is not None and name not in ("as_json", "plan")
    }
    return {"command": str(context.info_name), **settings}


def tell_plan(stages: Sequence[Stage], device: Any, as_json: bool) -> None:
    """Print a plan and what it assumes."""
    from hpslib.lessons.plan import notes
    from hpslib.runs.plan import plan_dict, plan_table

    said = notes(device)
    tell(plan_dict(stages, said), [plan_table(stages, said)], as_json)


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
