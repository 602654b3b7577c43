"""From scored images to training captions: which generated images are preferred, which are not (paper, section 5).

Within one prompt's n images, the softmax of 100 x cosine says how clearly one stands out. The best image is
*preferred* if its probability exceeds 2/n; the worst is *non-preferred* if its probability under the negated scores
exceeds 2/n. Both are decided independently. Non-preferred images keep their caption behind an identifier.

The released code has faults that are not repeated here: it scores with GELU where the weights want QuickGELU; its blur
test measures the horizontal difference twice, with its sign, and never the vertical one; and it finds images by their
place in a list, which is right only while the list is complete and in order. Here results carry ids and names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import softmax

from hpslib.adaptation.pool import whole_pool
from hpslib.data.groups import flatten_groups
from hpslib.data.read import read_data
from hpslib.runs.files import one_line

if TYPE_CHECKING:
    import pandas as pd

    from hpslib.data.images.lazy import LazyImages

__all__ = [
    "IDENTIFIER",
    "Chosen",
    "Selection",
    "choose",
    "find_images",
    "identified_caption",
    "read_selection",
    "select",
    "training_images",
]

IDENTIFIER = "Weird image. "  # with the trailing space, as released


@dataclass(frozen=True)
class Selection:
    """Rows of the flat image list, and how many groups gave nothing.

    ``preferred`` and ``non_preferred`` are int64 arrays of image rows; ``too_small`` counts groups with fewer than
    ``min_group`` images, ``neither`` groups from which nothing was taken.
    """

    preferred: np.ndarray
    non_preferred: np.ndarray
    groups: int
    too_small: int
    neither: int

    def __str__(self) -> str:
        return (
            f"{self.groups} groups: {len(self.preferred)} preferred and {len(self.non_preferred)} non-preferred "
            f"images; {self.neither} groups gave neither, {self.too_small} were too small."
        )


def select(
    scores: Sequence[ArrayLike], *, threshold: float = 2.0, min_group: int = 4, temperature: float = 1.0
) -> Selection:
    """Apply the rule to one list of HPS values (100 x cosine) per group.

    ``threshold`` is the 2 of "2/n". ``temperature`` divides the scores; the paper uses them as they are (1.0).

    >>> select([[20.0, 21.0, 20.5, 25.0]], threshold=2.0)
    Selection(preferred=array([3]), non_preferred=array([0]), groups=1, too_small=0, neither=0)

    Raises ``ValueError`` for a score that is not a number, a threshold that every group would pass, a temperature not
    above 0, and for cosines (all scores in -1..1) that the temperature leaves too close together to choose from.
    """
    if not 1 < threshold < np.inf:
        raise ValueError(
            f"threshold is {threshold}: at 1 or below every group passes, so choose more than 1 (the paper: 2)."
        )
    if not 0 < temperature < np.inf:
        raise ValueError(
            f"temperature is {temperature}: it divides the scores, so choose a number above 0 (the paper: 1)."
        )
    if not min_group >= 1:
        raise ValueError(f"min_group is {min_group}: give the fewest images of a group, 1 or more (the paper: 4).")
    preferred, rejected, start, too_small, neither = [], [], 0, 0, 0
    given = [np.asarray(group, dtype=np.float64) for group in scores]
    _refuse_cosines([group for group in given if len(group) >= min_group], temperature)
    for number, group in enumerate(given):
        values = group / temperature
        if not np.isfinite(values).all():
            raise ValueError(f"group {number} holds a score that is not a number: score its images again.")
        n = len(values)
        if n < min_group:
            too_small += 1
        else:
            best, worst = int(values.argmax()), int(values.argmin())
            keep_best = softmax(values)[best] > threshold / n
            keep_worst = softmax(-values)[worst] > threshold / n
            if keep_best:
                preferred.append(start + best)
            if keep_worst:
                rejected.append(start + worst)
            neither += not (keep_best or keep_worst)
        start += n
    return Selection(
        np.array(preferred, dtype=np.int64), np.array(rejected, dtype=np.int64), len(scores), too_small, neither
    )


def _refuse_cosines(groups: Sequence[np.ndarray], temperature: float) -> None:
    """Refuse scores that can only be cosines: the best of a group would get hardly more than its share of the softmax.

    Two scores that differ by d give probabilities whose ratio is exp(d / temperature); below 2 no image can reach twice
    the average, the paper's threshold.
    """
    if not groups or not all((np.abs(group) <= 1).all() for group in groups):  # NaN is told apart later
        return
    spread = max(float(np.ptp(group)) for group in groups) / temperature
    if 0 < spread < np.log(2):
        raise ValueError(
            f"all scores lie in -1..1 and differ by at most {spread * temperature:.2g} within a prompt, as cosines do, "
            "where the rule wants 100 x cosine: multiply them by 100, or choose a temperature of 0.01."
        )


@dataclass(frozen=True)
class Chosen:
    """``rows``: one row per chosen image with ``id`` (of its group), ``name`` (its own), ``prompt``, ``caption`` (with
    the identifier where it is not preferred), ``preferred`` (bool) and ``score``; and the counts."""

    rows: pd.DataFrame
    counts: Selection
    blurred: int
    left_out: int

    def __str__(self) -> str:
        return (
            f"{self.counts} {self.blurred} images were blurred and left out before; {self.left_out} non-preferred "
            f"images were left out by lot, {int((~self.rows.preferred).sum())} kept."
        )


def choose(
    scores: pd.DataFrame,
    *,
    threshold: float = 2.0,
    min_group: int = 4,
    temperature: float = 1.0,
    keep_blurred: bool = False,
    negative_share: float = 0.5,
    seed: int = 0,
    identifier: str = IDENTIFIER,
) -> Chosen:
    """Apply :func:`select` to a table of :func:`hpslib.scores.sets.score_table`: the order of its rows plays no
    part.

    Images are known by the id of their group and their name, never by their place. Blurred images leave before groups
    are counted against ``min_group``, as in the paper; a group that is blurred altogether counts as too small. Of the
    non-preferred images a share is kept, drawn from ``seed``: the authors used half of theirs, since "using all
    negative samples will lead to worse results".

    >>> import pandas as pd
    >>> scores = pd.DataFrame({"id": "a", "name": ["1.png", "2.png", "3.png", "4.png"], "prompt": "a dog",
    ...                        "score": [20.0, 21.0, 20.5, 25.0], "blurred": False})
    >>> choose(scores, negative_share=1.0).rows.caption.tolist()
    ['a dog', 'Weird image. a dog']

    Raises ``ValueError`` when a column is missing, an image stands in it twice, a group has two prompts, an image lacks
    its id, name, prompt or ``blurred``, or its score is no number, for a share outside 0 to 1, and as :func:`select`
    does.
    """
    import pandas as pd

    if not 0 <= negative_share <= 1:
        raise ValueError(f"negative_share is {negative_share}: give a share from 0 to 1 (the paper: 0.5).")
    table = _checked_scores(scores, keep_blurred)
    sharp = table if keep_blurred else table[~table.blurred.astype(bool)]
    values: dict[str, ArrayLike] = {name: [] for name in table.id.unique()}  # a group may lack a sharp image
    values |= {name: group.to_numpy() for name, group in sharp.groupby("id", sort=True).score}
    counts = select(list(values.values()), threshold=threshold, min_group=min_group, temperature=temperature)
    lot = np.random.default_rng(seed).permutation(len(counts.non_preferred))
    kept = np.sort(lot[: round(negative_share * len(lot))])
    good, bad = (sharp.iloc[places] for places in (counts.preferred, counts.non_preferred[kept]))
    weird = [identified_caption(prompt, identifier) for prompt in bad.prompt]
    rows = pd.concat([good.assign(caption=good.prompt, preferred=True), bad.assign(caption=weird, preferred=False)])
    rows = rows[["id", "name", "prompt", "caption", "preferred", "score"]].reset_index(drop=True)
    return Chosen(rows, counts, len(table) - len(sharp), len(lot) - len(kept))


def _checked_scores(scores: pd.DataFrame, keep_blurred: bool) -> pd.DataFrame:
    """The table in the order of ids and names, if it is one."""
    needed = ["id", "name", "prompt", "score", *([] if keep_blurred else ["blurred"])]
    missing = [name for name in needed if name not in scores.columns]
    if missing == ["blurred"]:
        raise ValueError("the scores do not say which images are blurred: score with blur, or keep the blurred ones.")
    if missing:
        raise ValueError(f"the scores have no column {', '.join(missing)}: hand over a table of hpslib score.")
    for column in ("id", "name", "prompt"):
        _refuse(scores, ~scores[column].map(_is_text), f"has no {column} that is text")
    numbers = scores.score.map(lambda value: isinstance(value, Real) and math.isfinite(value))
    _refuse(scores, ~numbers, "has a score that is not a number")
    if not keep_blurred:
        truths = scores.blurred.map(lambda value: isinstance(value, bool | np.bool_))
        _refuse(scores, ~truths, "does not say whether it is blurred (true or false)")
    table = scores.sort_values(["id", "name"], kind="stable")
    _refuse(table, table.duplicated(["id", "name"]), "stands there twice")
    _refuse(table, table.groupby("id").prompt.transform("nunique") > 1, "is in a group with two prompts")
    return table


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _refuse(table: pd.DataFrame, fault: pd.Series, what: str) -> None:
    """``ValueError`` that names the first image with a fault and counts all of them."""
    if fault.any():
        first = table[fault.astype(bool)].iloc[0]
        raise ValueError(
            f"the image {first['name']!r} of the group {first['id']!r} {what} ({int(fault.sum())} such images): "
            "score the pool again."
        )


def read_selection(path: str | Path) -> pd.DataFrame:
    """The rows of :func:`choose` from the parquet file that ``hpslib select`` wrote.

    Raises ``FileNotFoundError`` when it is absent, ``ValueError`` when it is no parquet, cut off, or lacks a column, or
    when a row lacks its id, name, prompt or caption.
    """
    from hpslib.data.rows import parquet_file

    needed = ["id", "name", "prompt", "caption", "preferred", "score"]
    with parquet_file(Path(path), needed, "name the file that hpslib select wrote") as file:
        try:
            table = file.read(needed)
            for name in ("id", "name", "prompt", "caption"):
                table.column(name).to_pylist()  # decodes every text, which pandas leaves for later
            rows = table.to_pandas()
        except Exception as error:  # pyarrow's own types, and texts that are not UTF-8
            raise ValueError(f"{path} is damaged ({one_line(error)}): run hpslib select again.") from error
    for column in ("id", "name", "prompt", "caption"):
        bad = np.flatnonzero(~rows[column].map(_is_text).to_numpy(dtype=bool))
        if len(bad):
            raise ValueError(
                f"{path}, row {bad[0]} (from 0) has the {column} {rows[column].iloc[bad[0]]!r}, which is no text "
                f"({len(bad)} such rows): run hpslib select again."
            )
    return rows


def find_images(rows: pd.DataFrame, pool: Any, root: str | Path | None = None) -> LazyImages:
    """The images of a selection (columns ``id``, ``name``, ``prompt``) in a pool, still closed, in the order of rows.

    The pool may have been read with other parts or filters than when it was scored: images are looked up by name.
    Raises ``ValueError`` when the pool lacks an image, or its group has another prompt.
    """
    images, prompts, sizes = flatten_groups(pool, root)
    starts = dict(zip(pool["id"], np.cumsum([0, *sizes]).tolist()))
    length = dict(zip(pool["id"], sizes))
    matches, absent = [], []
    for group, name, prompt in zip(rows["id"], rows["name"], rows["prompt"], strict=True):
        span = range(starts.get(group, 0), starts.get(group, 0) + length.get(group, 0))
        match = next((row for row, other in zip(span, images.names(span)) if other == name), None)
        if match is None or prompts[match] != prompt:
            absent.append((group, name))
        else:
            matches.append(match)
    if absent:
        (group, name), count = absent[0], len(absent)
        raise ValueError(
            f"the pool has no image {name!r} in a group {group!r} with the prompt of the selection ({count} of "
            f"{len(rows)} are absent): name the pool that was scored."
        )
    return images.take(matches)


def training_images(
    regularisation: Path,
    selection: Path | None = None,
    pool: Path | None = None,
    format: str = "diffusiondb",
    parts: str | None = None,
) -> tuple[LazyImages, list[str]]:
    """The images of the adaptation and their captions (paper, section 5): regularisation images, then the chosen ones.

    ``regularisation`` is a folder of images with captions; ``selection`` a file of ``hpslib select``, whose images lie
    in ``pool``, read as ``format`` and ``parts`` say (:func:`hpslib.data.read.read_data`; of DiffusionDB, whatever was
    left out when it was scored, by default the parts that are there). Without a selection only the regularisation
    images come back: the control of the paper. What a reader left out is counted in a ``UserWarning``.

    Raises ``ValueError`` when one of selection and pool is given without the other, and as the readers do.
    """
    if (selection is None) != (pool is None):
        raise ValueError("a selection names images of a pool: give both, --selection and --pool.")
    images, captions, _ = flatten_groups(*read_data(regularisation, "captioned"))
    if selection is not None and pool is not None:
        rows = read_selection(selection)
        images = images + find_images(rows, *whole_pool(pool, format, parts))
        captions = captions + rows["caption"].tolist()
    return images, captions


def identified_caption(caption: str, identifier: str = IDENTIFIER) -> str:
    """The caption of a non-preferred image.

    >>> identified_caption("a red critter")
    'Weird image. a red critter'
    """
    return identifier + caption
