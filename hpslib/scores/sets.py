"""Scores of whole sets: choices, rankings and pools, image by image, each opened once, in parts that can be stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from hpslib.data.groups import flatten_groups, split_groups
from hpslib.data.images.lazy import LazyImages, each_image
from hpslib.runs.files import digest
from hpslib.runs.shards import read_shards, work_in_shards
from hpslib.scores.clip import Clip, check_prompts, encode_pixels, encode_prompts
from hpslib.scores.cosine import cosines
from hpslib.scores.imagereward import PREPROCESSING as IMAGEREWARD
from hpslib.scores.imagereward import ImageReward, imagereward_scores
from hpslib.scores.pixels import normalised
from hpslib.scores.scorers import Scorer

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["score_groups", "score_pool", "score_table"]


def score_groups(
    scorer: Scorer | ImageReward,
    dataset: Any,
    root: str | Path | None = None,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> list[np.ndarray]:
    """The scores of a preference dataset, one float64 array per group, on the scale its authors use.

    Each distinct image is opened once and dropped when it has been scaled, those of one zip file together; each
    distinct prompt is encoded once (by ImageReward, which reads a prompt together with each of its images, once per
    image). ``root`` is the folder of the annotation file where images are files of their own; ``progress`` receives
    (images done, images in all). Raises ``ValueError`` when a prompt is empty, and what
    :func:`hpslib.data.images.safe.open_image` raises.
    """
    images, prompts, sizes = flatten_groups(dataset, root)
    scores, done = np.empty(len(images)), 0
    for rows, values in _scored(scorer, images, prompts, batch_size):
        scores[list(rows)] = values
        done += len(rows)
        if progress is not None:
            progress(done, len(images))
    return split_groups(scores, sizes)


def score_table(
    scorer: Scorer | ImageReward, dataset: Any, root: str | Path | None, batch_size: int = 64, blur: bool = False
) -> pa.Table:
    """One row per image of a preference set or pool, in its order, scored as by :func:`score_groups`.

    The columns are ``id`` of its group, ``name`` (:func:`hpslib.data.images.lazy.image_name_of`: what finds it again in
    another reading of the data), ``prompt``, ``score`` (float64) and, if asked for, ``blurred``
    (:func:`hpslib.data.images.blur.is_blurry`), for which no image is opened a second time.
    """
    import pyarrow as pa

    from hpslib.data.images.blur import is_blurry

    images, prompts, sizes = flatten_groups(dataset, root)
    scores, blurred = np.empty(len(images)), np.zeros(len(images), dtype=bool)
    for rows, values in _scored(scorer, images, prompts, batch_size, is_blurry if blur else None):
        scores[list(rows)] = values
        blurred[list(rows)] = list(rows.values()) if blur else False
    columns: dict[str, Any] = {
        "id": [name for name, size in zip(dataset["id"], sizes, strict=True) for _ in range(size)],
        "name": images.names(range(len(images))),
        "prompt": prompts,
        "score": scores,
    } | ({"blurred": blurred} if blur else {})
    return pa.table(columns)


def _scored(
    scorer: Scorer | ImageReward,
    images: LazyImages,
    prompts: Sequence[str],
    batch_size: int,
    look: Callable[[Image.Image], Any] | None = None,
) -> Iterator[tuple[dict[int, Any], np.ndarray]]:
    """Some rows, each with what ``look`` says of its image, and their scores, until all rows have had their turn.

    Rows of one image are together, and so are the images of one zip file. An image is opened, looked at, scaled and
    dropped, those of the next batches meanwhile.
    """
    check_prompts(prompts, len(images))
    how, size = (IMAGEREWARD, scorer.image_size) if isinstance(scorer, ImageReward) else scorer.looks
    rows_of: dict[tuple[str, str], list[int]] = {}
    for row, key in enumerate(images.files()):
        rows_of.setdefault(key, []).append(row)
    order = [rows_of[key] for key in sorted(rows_of, key=lambda key: key[0])]  # a zip file's together, else as they are
    if isinstance(scorer, ImageReward):
        score = _imagereward_of(scorer, prompts, batch_size)
    else:
        score = _cosines_of(scorer, prompts)
    seen = each_image(
        lambda image: (look and look(image), how.square(image, size)),
        images,
        [rows[0] for rows in order],
        ahead=2 * batch_size,
    )
    for start in range(0, len(order), batch_size):
        parts = order[start : start + batch_size]
        said, squares = zip(*islice(seen, len(parts)))
        place = [number for number, rows in enumerate(parts) for _ in rows]
        rows = [row for part in parts for row in part]
        yield {row: said[number] for row, number in zip(rows, place)}, score(rows, place, np.stack(squares))


def _cosines_of(scorer: Scorer, prompts: Sequence[str]) -> Callable[..., np.ndarray]:
    """(rows, the square of each, squares) -> scores; each distinct prompt is encoded here, once."""
    clip, unique = scorer.clip, list(dict.fromkeys(prompts))
    features, number = encode_prompts(clip, unique), {prompt: k for k, prompt in enumerate(unique)}

    def score(rows: list[int], place: list[int], squares: np.ndarray) -> np.ndarray:
        seen = encode_pixels(clip, normalised(squares, clip.mean, clip.std, clip.device))
        return scorer.factor * cosines(seen[place], features[[number[prompts[row]] for row in rows]])

    return score


def _imagereward_of(scorer: ImageReward, prompts: Sequence[str], batch_size: int) -> Callable[..., np.ndarray]:
    """The same for a model that reads a prompt together with its image."""

    def score(rows: list[int], place: list[int], squares: np.ndarray) -> np.ndarray:
        images = [Image.fromarray(squares[number]) for number in place]
        return imagereward_scores(scorer, images, [prompts[row] for row in rows], batch_size)

    return score


def score_pool(
    classifier: Clip,
    pool: Any,
    root: str | Path | None = None,
    folder: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """HPS of every image of a pool, float64 (n,), and which are blurred, bool (n,).

    With ``folder`` the work is done in parts (:mod:`hpslib.runs.shards`) and goes on where it was stopped; ``progress``
    then receives (prompts done, prompts to do).
    """
    scorer = Scorer(classifier, classifier.mode, 100.0)
    if folder is None:
        table = score_table(scorer, pool, root, blur=True)
    else:
        images = flatten_groups(pool, root)[0]
        names = [*pool["id"], *images.names(range(len(images)))]
        ids = hashlib.sha256("\n".join(names).encode()).hexdigest()
        settings = {"classifier": digest(*classifier.model.state_dict().values()), "pool": ids}

        def score(rows: Sequence[int]) -> pa.Table:
            return score_table(scorer, pool.select(rows), root, blur=True)

        work_in_shards(len(pool), score, folder, settings=settings, progress=progress)
        table = read_shards(folder)
    return table.column("score").to_numpy(), table.column("blurred").to_numpy()
