"""Rankings: several images of one prompt put in order by people, some of them level.

HPD v2's test set, ImageReward and Pick-a-Pic say more than "this one": people put all images in order, or called two
level. Their groups carry the column ``ranks`` (see :mod:`hpslib.data.preferences`). Here such groups are brought to
what the rest of the course takes: one choice (:func:`decided`), or the ranks that scores are held against
(:func:`ranks_of`, :func:`hpslib.metrics.agreement.pairwise_agreement`). What is left out on the way is counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hpslib.data.preferences import TIED, features

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasets import Dataset, Features

__all__ = ["choice_from_ranks", "decided", "models_feature", "ranked_features", "ranks_of"]


def ranked_features() -> Features:
    """The columns of :func:`hpslib.data.preferences.features`, then ``ranks``.

    >>> list(ranked_features())[-2:]
    ['source', 'ranks']
    """
    import datasets

    return datasets.Features({**features(), "ranks": datasets.List(datasets.Value("int64"))})


def models_feature() -> Features:
    """The column ``models``, where a release says what made each image: a text for each, empty where it is unknown.

    >>> list(models_feature())
    ['models']
    """
    import datasets

    return datasets.Features({"models": datasets.List(datasets.Value("string"))})


def choice_from_ranks(ranks: Sequence[int]) -> int:
    """The index of the best image, or ``TIED`` where several share the best rank.

    >>> choice_from_ranks([2, 1, 3]), choice_from_ranks([1, 1, 2])
    (1, -1)
    """
    best = [k for k, rank in enumerate(ranks) if rank == min(ranks)]
    return best[0] if len(best) == 1 else TIED


def ranks_of(dataset: Dataset) -> list[np.ndarray]:
    """The ranks of each group, int64 of shape (images,): 1 is the best, equal numbers are ties.

    Without the column ``ranks`` (or where a row has none in it) the chosen image has rank 1 and all others rank 2: a
    choice says nothing about the order of the others. The images themselves are not read. Raises ``ValueError`` when a
    group has neither ranks nor a choice.
    """
    import pyarrow.compute as pc

    ranked = "ranks" in dataset.column_names
    columns = ["images", "human_preference", *(["ranks"] if ranked else [])]
    groups: list[np.ndarray] = []
    for table in dataset.select_columns(columns).with_format("arrow").iter(1000):
        sizes = pc.list_value_length(table["images"]).to_pylist()
        given = table["ranks"].to_pylist() if ranked else [None] * len(sizes)
        for size, choice, ranks in zip(sizes, table["human_preference"].to_pylist(), given):
            if ranks is None and not 0 <= choice < size:
                raise ValueError(
                    f"row {len(groups)} (from 0) has neither ranks nor a choice ({choice}): remove this row."
                )
            groups.append(np.array(ranks if ranks is not None else [1 if k == choice else 2 for k in range(size)]))
    return groups


def decided(dataset: Dataset) -> tuple[Dataset, int]:
    """The groups with one best image, in order, and the number of groups left out because the best are tied.

    Everything that needs one choice (:func:`hpslib.metrics.agreement.top1_accuracy`,
    :func:`hpslib.metrics.audit.audit`, the classifier) takes the result.
    """
    keep = np.flatnonzero(np.array(dataset["human_preference"]) != TIED)
    return dataset.select(keep), len(dataset) - len(keep)
