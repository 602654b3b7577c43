"""What ``hpslib train`` and ``hpslib adapt`` would do, as stages of a plan: counted, and timed on real inputs.

As in :mod:`hpslib.lessons.plan`, whose other half this is, the commands' own functions are called and nothing is
written: a training loop is stopped after a few steps, before it could save them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpslib.runs.plan import Measured, Stage, timed_pieces, timed_steps

if TYPE_CHECKING:
    from hpslib.classifier.trunk import Stream, Trunk
    from hpslib.data.images.lazy import LazyImages
    from hpslib.scores.clip import Clip

__all__ = ["classifier_stages", "latent_stage", "lora_stages"]

_NEVER = 10**9  # steps between checkpoints: none is written while steps are timed
_FEW = 8  # groups on which a loop that is timed validates, where it has to


def classifier_stages(
    clip: Clip,
    parts: dict[str, Any],
    root: Path | None,
    *,
    cache: bool,
    blocks: dict[str, int],
    learning: dict[str, Any],
    work: dict[str, Any],
    checkpoint: Path,
    test: tuple[Any, Path] | None = None,
) -> list[Stage]:
    """Of ``hpslib train``: activations where they are kept, steps, validations, and the test.

    ``parts`` are the sets "train" and "validation"; ``learning`` and ``work`` go to
    :func:`hpslib.classifier.training.train_classifier`, ``checkpoint`` is where the run would go on.
    """
    from hpslib.classifier.trunk import dataset_trunk

    stages: list[Stage] = []
    timed = dict(parts)
    if cache:
        stages, timed = _activations(clip, parts, root, blocks, learning["batch_size"])
    learned, judged = (dataset_trunk(clip, part, root, cache=cache, **blocks) for part in timed.values())
    steps = max(1, round(learning["epochs"] * len(parts["train"]) / learning["batch_size"]))
    measured = _classifier_steps(clip, learned, judged, steps, learning, work, None if cache else checkpoint)
    done = _steps_done(checkpoint) if cache or measured.total != steps else measured.done
    tuned = _tuned_bytes(clip, blocks)
    weights = 4 * sum(weight.numel() for weight in clip.model.parameters())
    written = 4 * tuned + weights  # weights, two moments and the best weights; then the whole model
    stages.append(Stage("train", steps - done, "step", measured.seconds_each, measured.peak_bytes, written, done=done))
    every = work["evaluate_every"]
    times = len(range(done // every, steps // every)) + (steps % every > 0 and done < steps)
    stages.append(_validations(clip, judged, len(parts["validation"]), times, work))
    if test is not None:
        stages.append(_test_stage(clip, *test))
    return stages


def _activations(
    clip: Clip, parts: dict[str, Any], root: Path | None, blocks: dict[str, int], batch_size: int
) -> tuple[list[Stage], dict[str, Any]]:
    """The frozen trunk over all images, kept in memory; and parts of the sets, on which the rest is timed."""
    from hpslib.classifier.trunk import dataset_trunk
    from hpslib.data.groups import flatten_groups

    images = sum(len(flatten_groups(part, root)[0]) for part in parts.values())
    train, seen = parts["train"], [0]

    def work(count: int) -> None:
        seen[0] = int(dataset_trunk(clip, train.select(range(count)), root, cache=True, **blocks).starts[-1])

    measured = timed_pieces(work, min(len(train), 256), clip.device)
    each = None if measured.seconds_each is None else measured.seconds_each * measured.pieces / max(1, seen[0])
    stage = Stage("keep activations", images, "image", each, measured.peak_bytes)
    few = {name: part.select(range(min(len(part), max(_FEW, batch_size)))) for name, part in parts.items()}
    return [stage], few


def _classifier_steps(
    clip: Clip,
    learned: Trunk | Stream,
    judged: Trunk | Stream,
    steps: int,
    learning: dict[str, Any],
    work: dict[str, Any],
    checkpoint: Path | None,
) -> Measured:
    """A few steps of the command's own loop, from its checkpoint where there is one, which nothing is written to."""
    from hpslib.classifier.training import train_classifier

    going_on = checkpoint is not None and checkpoint.exists()
    if not going_on:
        judged = judged.subset(range(min(len(judged), _FEW)))
        learning = learning | {"epochs": (steps + 0.1) * learning["batch_size"] / len(learned)}
    given = learning | work | {"checkpoint": checkpoint if going_on else None, "save_every": _NEVER}
    return timed_steps(lambda **told: train_classifier(clip, learned, judged, **(given | told)), clip.device)


def _steps_done(checkpoint: Path) -> int:
    from hpslib.runs.checkpoints import load_checkpoint

    return len((load_checkpoint(checkpoint) or {}).get("losses", []))


def _tuned_bytes(clip: Clip, blocks: dict[str, int]) -> int:
    from hpslib.classifier.towers import set_trainable

    names = set(set_trainable(clip.model, **blocks))
    return 4 * sum(weight.numel() for name, weight in clip.model.named_parameters() if name in names)


def _validations(clip: Clip, judged: Trunk | Stream, groups: int, times: int, work: dict[str, Any]) -> Stage:
    """So many validations of so many groups each; timed on those of ``judged``."""
    import torch

    from hpslib.classifier.trunk import evaluate_trunk
    from hpslib.runs.distributed import computing_dtype

    dtype = computing_dtype(work["accelerator"])

    def evaluate(count: int) -> None:
        evaluate_trunk(clip.model, judged, groups=torch.arange(count), dtype=dtype)

    measured = timed_pieces(evaluate, len(judged) if times else 0, clip.device)
    return Stage("validate", times * groups, "group", measured.seconds_each, measured.peak_bytes)


def _test_stage(clip: Clip, dataset: Any, root: Path) -> Stage:
    from hpslib.data.groups import flatten_groups
    from hpslib.scores.cosine import hps

    images, prompts, _ = flatten_groups(dataset, root)
    measured = timed_pieces(
        lambda count: hps(clip, images.take(range(count)), prompts[:count]), len(images), clip.device
    )
    return Stage("test", len(images), "image", measured.seconds_each, measured.peak_bytes)


class _Looked(Exception):
    """Raised in place of encoding, when all files of a cache have been read and compared."""


class _Alone:
    """One process that ends the work where the processes first wait for each other: all has been read by then."""

    process_index, num_processes = 0, 1

    def wait_for_everyone(self) -> None:
        raise _Looked


def latent_stage(pipe: Any, images: LazyImages, captions: Sequence[str], latents: dict[str, Any]) -> tuple[Stage, Any]:
    """Of ``hpslib adapt``: images that its cache does not hold yet; and examples on which its steps can be timed.

    ``latents`` go to :func:`hpslib.adaptation.examples.encode_examples`, ``cache`` among them. The examples are all of
    them where the cache holds just these, else some. Nothing is written, also where files would be put in order.
    """
    from hpslib.adaptation.examples import encode_examples
    from hpslib.adaptation.latents import CachedLatents

    cache, known, names = Path(latents["cache"]), list[str](), images.names(range(len(images)))
    bad = set[str]()
    if next(cache.glob("latents-*.safetensors"), None) is not None:
        try:
            encode_examples(pipe, images, captions, **(latents | {"accelerator": _Alone()}))
        except _Looked:
            cached = CachedLatents(sorted(cache.glob("latents-*.safetensors")))
            known = cached.names
            bad = {name for name, _ in cached.bad} if latents.get("skip_bad") else set()
    if known == [name for name in names if name not in bad]:
        done = Stage("encode images", 0, "image", done=len(images))
        return done, encode_examples(pipe, images, captions, **latents)  # all is in its place: nothing is written
    held = bad.union(known)
    left = [row for row, name in enumerate(names) if name not in held]
    examples: list[Any] = []

    def work(count: int) -> None:
        rows, alone = (left or range(len(images)))[:count], {"cache": None, "accelerator": None}
        examples[:] = [encode_examples(pipe, images.take(rows), [captions[row] for row in rows], **(latents | alone))]

    measured = timed_pieces(work, len(left) or 1, pipe.device)
    written = 2 * len(left) * examples[0].latents[0].numel()
    found = len(images) - len(left)
    stage = Stage("encode images", len(left), "image", measured.seconds_each, measured.peak_bytes, written, found)
    return stage, examples[0]


def lora_stages(
    pipe: Any,
    images: LazyImages,
    captions: Sequence[str],
    *,
    latents: dict[str, Any],
    rank: int,
    learning: dict[str, Any],
    work: dict[str, Any],
    checkpoint: Path,
) -> list[Stage]:
    """Of ``hpslib adapt``: images to encode and steps to take, ``learning`` and ``work`` going to
    :func:`hpslib.adaptation.training.train_lora`. A LoRA stays on the pipeline."""
    from hpslib.adaptation.lora import add_lora
    from hpslib.adaptation.training import train_lora

    encoding, examples = latent_stage(pipe, images, captions, latents)
    lora = add_lora(pipe, rank=rank, seed=learning["seed"])
    going_on = checkpoint.exists() and encoding.count == 0
    given = learning | work | {"checkpoint": checkpoint if going_on else None, "save_every": _NEVER}
    measured = timed_steps(lambda **told: train_lora(pipe, lora, examples, **(given | told)), pipe.device)
    done = _steps_done(checkpoint) if not going_on or measured.pieces == 0 else measured.done
    written = 16 * sum(weight.numel() for weight in lora)  # the file; weights and two moments in the checkpoint
    left = learning["steps"] - done
    return [encoding, Stage("train", left, "step", measured.seconds_each, measured.peak_bytes, written, done)]
