"""A plan before long work: what there is to do, how long a piece takes here, and the memory and disk it needs.

A piece is timed by the function that the work itself calls, on some of its own data: :func:`timed_pieces` calls it with
more and more pieces until that takes long enough to be measured, :func:`timed_steps` lets a training loop take a few
steps and stops it. What was not measured stays unknown: no number is made up.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from hpslib.runs.progress import duration

if TYPE_CHECKING:
    import torch

__all__ = ["Measured", "Stage", "hours", "peak_memory", "plan_dict", "plan_table", "timed_pieces", "timed_steps"]

_SECONDS = 1.0  # what a measurement lasts at least, where there is enough to do
_WARM, _STEPS = 2, 20  # training steps that are not timed, and the most that are


class Measured(NamedTuple):
    """Seconds that one piece takes, the peak memory meanwhile (:func:`peak_memory`), and how many pieces were timed.

    ``done`` is what a training run found done already, ``total`` all of its steps; 0 for other work.
    """

    seconds_each: float | None = None
    peak_bytes: int | None = None
    pieces: int = 0
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class Stage:
    """One kind of work: ``count`` pieces of a ``unit`` are left to do, ``done`` were found done.

    ``seconds_each``, ``peak_bytes`` and ``bytes_written`` (disk, for all pieces) are ``None`` where they are not known;
    ``remark`` then says why.
    """

    name: str
    count: int | None
    unit: str
    seconds_each: float | None = None
    peak_bytes: int | None = None
    bytes_written: int | None = 0
    done: int = 0
    remark: str = ""


def hours(stage: Stage) -> float | None:
    """What is left of a stage, in hours; ``None`` where its count or its rate is not known.

    >>> hours(Stage("encode", 7_200, "image", seconds_each=0.5))
    1.0
    """
    if stage.count == 0:
        return 0.0
    if stage.count is None or stage.seconds_each is None:
        return None
    return stage.count * stage.seconds_each / 3600


def timed_pieces(
    work: Callable[[int], Any], most: int, device: str | torch.device = "cpu", seconds: float = _SECONDS
) -> Measured:
    """Time ``work(n)``, which does the first n pieces: once with one, then with twice as many until it takes long.

    ``most`` is how many pieces there are, ``seconds`` what the last call takes at least where there are enough. It is
    the last call that counts; of the very first, with one piece, nothing does.
    """
    if most < 1:
        return Measured()
    gc.collect()  # what an earlier measurement left would count as memory of this one
    count, _ = 1, work(1)  # kernels are loaded and files opened for the first time
    _reset_peak(device)
    while True:
        start = _now(device)
        work(count)
        took = _now(device) - start
        if took >= seconds or count == most:
            return Measured(took / count, peak_memory(device), count)
        count = min(most, 2 * count if took <= 0 else max(2 * count, min(int(seconds / took * count), 8 * count)))


class _Enough(Exception):
    """Raised inside a training loop to end it after the steps that were measured."""


def timed_steps(run: Callable[..., Any], device: str | torch.device = "cpu", seconds: float = 3 * _SECONDS) -> Measured:
    """Let ``run(progress=..., log=...)``, a training with these callbacks, take a few steps, and stop it.

    The first steps are not timed, nor those that also validated, unless all do. The loop is left before it could
    finish, so that a checkpoint handed to it with a large ``save_every`` is read and compared, but not written. A run
    that has no step left gives ``pieces`` 0.
    """
    moments: list[float] = []
    steps: list[float] = []
    validated: list[bool] = []
    told = [0, 0]

    def log(values: Mapping[str, float], step: int) -> None:
        if "validation_loss" in values:
            validated.append(True)

    def progress(done: int, total: int) -> None:
        moments.append(_now(device))
        told[:] = (told[0] or done, total)
        if len(moments) > _WARM and not validated:
            steps.append(moments[-1] - moments[-2])
        validated.clear()
        if len(moments) == _WARM:
            _reset_peak(device)
        if done >= total or len(steps) >= _STEPS or sum(steps) >= seconds or len(moments) >= _WARM + 4 * _STEPS:
            raise _Enough

    gc.collect()
    start = _now(device)
    try:
        run(progress=progress, log=log)
    except _Enough:
        first, total = told
        if not steps:  # a run of so few: what the first ones took, with all that comes before them
            steps = [(moments[-1] - start) / len(moments)]
        return Measured(sum(steps) / len(steps), peak_memory(device), len(steps), first - 1, total)
    return Measured()


def peak_memory(device: str | torch.device = "cpu") -> int | None:
    """The most bytes: on a GPU what torch has allocated there since the measurement began, else what this process has
    ever had in memory, Python and its libraries included; ``None`` where the system does not tell."""
    if str(device).startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _reset_peak(device: str | torch.device) -> None:
    if str(device).startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)


def _now(device: str | torch.device) -> float:
    if str(device).startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)
    return time.perf_counter()


def _size(count: int | None) -> str:
    """Bytes for people.

    >>> _size(None), _size(0), _size(2_500), _size(16 * 2**30)
    ('?', '0', '2.4 KiB', '16.0 GiB')
    """
    if not count:
        return "?" if count is None else "0"
    power, unit = next(
        (power, unit) for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB"), (0, "B")) if count >> power
    )
    return f"{count / 2**power:.1f} {unit}"


def plan_table(stages: Sequence[Stage], notes: Sequence[str] = ()) -> str:
    """The stages as a table for people, the sum of their hours, what was not measured and why, and the assumptions."""
    head = ("stage", "to do", "measured", "time", "peak memory", "disk written")
    rows = [head, *(_row(stage) for stage in stages)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
    lines = ["  ".join(f"{part:<{width}}" for part, width in zip(row, widths)).rstrip() for row in rows]
    known = [time for stage in stages if (time := hours(stage)) is not None]
    if known:
        more = "" if len(known) == len(stages) else ", without what is not known"
        lines.append(f"In all {duration(3600 * sum(known))}{more}.")
    for remark in dict.fromkeys(stage.remark for stage in stages if stage.remark):
        lines.append(f"{', '.join(stage.name for stage in stages if stage.remark == remark)}: {remark}.")
    return "\n".join([*lines, *notes])


def _row(stage: Stage) -> tuple[str, ...]:
    each, time = stage.seconds_each, hours(stage)
    count = "?" if stage.count is None else f"{stage.count:,}"
    unit = stage.unit if stage.count == 1 else f"{stage.unit}s"
    found = f" ({stage.done:,} are done)" if stage.done else ""
    rate = (
        "?" if each is None else f"{each:.2g} s per {stage.unit}" if each > 0.5 else f"{1 / each:.3g} {stage.unit}s/s"
    )
    return (
        stage.name,
        f"{count} {unit}{found}",
        "nothing to do" if stage.count == 0 else rate,
        "?" if time is None else duration(3600 * time),
        _size(stage.peak_bytes),
        _size(stage.bytes_written),
    )


def plan_dict(stages: Sequence[Stage], notes: Sequence[str] = ()) -> dict[str, Any]:
    """The same for JSON: ``stages``, each with its ``hours``; their sum, ``null`` where one is not known; ``notes``."""
    times = [hours(stage) for stage in stages]
    known = [time for time in times if time is not None]
    rows = [asdict(stage) | {"hours": time} for stage, time in zip(stages, times)]
    return {"stages": rows, "hours": sum(known) if len(known) == len(times) else None, "notes": list(notes)}
