"""What the commands would do, as the stages of a plan (:mod:`hpslib.runs.plan`): counted, and timed on real inputs.

Each function takes what its command has read, and times it by the function that the command calls, on the first pieces
that are left to do. Nothing is written; a checkpoint and parts of an earlier run are read and compared as by the
command, and what they hold is not counted again. Memory and seconds are those of this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpslib.runs.plan import Measured, Stage, timed_pieces

if TYPE_CHECKING:
    from hpslib.data.images.lazy import LazyImages
    from hpslib.scores.imagereward import ImageReward
    from hpslib.scores.scorers import Scorer

__all__ = [
    "generation_stages",
    "measuring_stages",
    "notes",
    "scoring_stages",
]

_SHORT, _LONG = 2, 6  # sampling steps that are timed, from which those of a whole image follow


def notes(device: Any) -> list[str]:
    """Under which assumptions a plan holds, for people."""
    import torch

    gpu = str(device).startswith("cuda")
    where = torch.cuda.get_device_name(device) if gpu else f"this CPU, {torch.get_num_threads()} threads"
    memory = (
        "what torch allocates on the GPU; CUDA's context takes some 0.5 GiB more"
        if gpu
        else "the most that this process has had in memory so far, with Python and its libraries"
    )
    return [
        f"Measured for seconds on the first inputs that are left to do: {where}, one process, this disk, and whatever "
        "else runs on this machine now.",
        f"Peak memory is {memory}. Times hold if the rest is like the first.",
    ]


def scoring_stages(
    scorer: Scorer | ImageReward, dataset: Any, root: Path | None, left: Sequence[range], batch_size: int, blur: bool
) -> list[Stage]:
    """Of ``hpslib score``: the images of the groups that are ``left`` (:func:`hpslib.runs.shards.shards_left`)."""
    from hpslib.data.groups import flatten_groups
    from hpslib.scores.sets import score_table

    sizes, rows = flatten_groups(dataset, root)[2], [row for span in left for row in span]
    images = sum(sizes[row] for row in rows)
    sample: list[Any] = []

    def work(count: int) -> None:
        sample[:] = [score_table(scorer, dataset.select(rows[:count]), root, batch_size, blur)]

    measured = timed_pieces(work, len(rows), scorer.device)
    each = None
    if measured.seconds_each is not None:
        each = measured.seconds_each * measured.pieces / sample[0].num_rows
    written = round(images * sample[0].nbytes / sample[0].num_rows) if sample else 0
    found = sum(sizes) - images
    return [Stage("score", images, "image", each, measured.peak_bytes, written, found)]


def generation_stages(pipe: Any, texts: Sequence[str], left: Sequence[range], sampling: dict[str, Any]) -> list[Stage]:
    """Of ``hpslib generate``: images that are ``left``; ``sampling`` goes to
    :func:`hpslib.adaptation.sampling.generate_rows`. Where a step is long, a whole image follows from some of them."""
    import time

    from hpslib.adaptation.sampling import generate_rows

    images, sizes = sum(map(len, left)), [0, 0]
    if not left:
        return [Stage("generate", 0, "image", done=len(texts))]

    def made(count: int, steps: int) -> float:
        rows = range(left[0].start, left[0].start + count)
        start = time.perf_counter()
        table = generate_rows(pipe, texts, rows, **(sampling | {"steps": steps}))
        sizes[:] = [table.nbytes, table.num_rows]
        return time.perf_counter() - start

    steps, count = sampling["steps"], min(sampling["batch_size"], len(left[0]))
    first = made(1, min(_SHORT, steps))
    if str(pipe.device) == "cpu" and first * count > 5:
        count = 1  # on a CPU eight take eight times as long
    peak: list[Measured] = []

    def timed(some: int) -> float:
        peak[:] = [timed_pieces(lambda _: made(count, some), 1, pipe.device)]
        return (peak[0].seconds_each or 0.0) / count

    if steps <= _LONG:
        each = timed(steps)
    else:
        short, long = timed(_SHORT), timed(_LONG)
        each = short + (steps - _SHORT) * (long - short) / (_LONG - _SHORT)
    written = round(images * sizes[0] / sizes[1])
    return [Stage("generate", images, "image", each, peak[0].peak_bytes, written, len(texts) - images)]


def measuring_stages(
    pools: Sequence[tuple[LazyImages, Sequence[str]]],
    measure: Callable[..., Any] | None,
    real: tuple[Sequence[Any], Callable[[list[Any]], Any]] | None,
    device: Any,
) -> list[Stage]:
    """Of ``hpslib evaluate``: the images of its pools, each with its prompt, by ``measure(images, prompts)``; and those
    that FID looks at, the ``real`` ones and their encoder."""
    from hpslib.metrics.distributions import extract_features

    stages, images, (few, texts) = [], sum(len(some) for some, _ in pools), pools[0]
    if measure is not None:
        timed = timed_pieces(lambda count: measure(few.take(range(count)), texts[:count]), len(few), device)
        stages.append(Stage("measure", images, "image", timed.seconds_each, timed.peak_bytes))
    if real is not None:
        encoder, count = real[1], images + len(pools) * len(real[0])  # the real ones are looked at for each pool
        timed = timed_pieces(lambda some: extract_features(few.take(range(some)), encoder), len(few), device)
        stages.append(Stage("features for FID", count, "image", timed.seconds_each, timed.peak_bytes))
    return stages
