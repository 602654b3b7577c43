"""Rankings: several pictures of one prompt put in order by people, some of them level.

HPD v2's test set, ImageReward and Pick-a-Pic say more than "this one": people put all pictures in order, or called two
level. Their groups carry the column ``ranks`` (see :mod:`hpslib.data.preferences`). Here such groups are brought to
what the rest of the course takes: one choice (:func:`decided`), pairs (:func:`as_pairs`), or scores held against the
whole order (:func:`pairwise_agreement`). What is left out on the way is always counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hpslib.data.preferences import TIED, features

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasets import Dataset, Features

__all__ = ["as_pairs", "choice_from_ranks", "decided", "ranked_features", "ranks_of"]


def ranked_features() -> Features:
    """The columns of :func:`hpslib.data.preferences.features`, then ``ranks``.

    >>> list(ranked_features())[-2:]
    ['source', 'ranks']
    """
    import datasets

    return datasets.Features({**features(), "ranks": datasets.List(datasets.Value("int64"))})


def choice_from_ranks(ranks: Sequence[int]) -> int:
    """The index of the best picture, or ``TIED`` where several share the best rank.

    >>> choice_from_ranks([2, 1, 3]), choice_from_ranks([1, 1, 2])
    (1, -1)
    """
    best = [k for k, rank in enumerate(ranks) if rank == min(ranks)]
    return best[0] if len(best) == 1 else TIED


def ranks_of(dataset: Dataset) -> list[np.ndarray]:
    """The ranks of each group, int64 of shape (images,): 1 is the best, equal numbers are ties.

    Without the column ``ranks`` (or where a row has none in it) the chosen picture has rank 1 and all others rank 2: a
    choice says nothing about the order of the others. The pictures themselves are not read.

    Raises:
        ValueError: if a group has neither ranks nor a choice.
    """
    import pyarrow.compute as pc

    ranked = "ranks" in dataset.column_names
    columns = ["images", "human_preference", *(["ranks"] if ranked else [])]
    found: list[np.ndarray] = []
    for table in dataset.select_columns(columns).with_format("arrow").iter(1000):
        sizes = pc.list_value_length(table["images"]).to_pylist()
        given = table["ranks"].to_pylist() if ranked else [None] * len(sizes)
        for size, choice, ranks in zip(sizes, table["human_preference"].to_pylist(), given):
            if ranks is None and not 0 <= choice < size:
                raise ValueError(
                    f"row {len(found)} (from 0) has neither ranks nor a choice ({choice}), remove this row"
                )
            found.append(np.array(ranks if ranks is not None else [1 if k == choice else 2 for k in range(size)]))
    return found


def decided(dataset: Dataset) -> tuple[Dataset, int]:
    """The groups with one best picture, in order, and the number of groups left out because the best are tied.

    Everything that needs one choice (:func:`hpslib.metrics.agreement.top1_accuracy`,
    :func:`hpslib.metrics.audit.audit`, the classifier) takes the result.
    """
    keep = np.flatnonzero(np.array(dataset["human_preference"]) != TIED)
    return dataset.select(keep), len(dataset) - len(keep)


def as_pairs(dataset: Dataset) -> tuple[Dataset, int]:
    """Every pair of pictures with different ranks as a group of two, and the number of pairs left out as tied.

    The pair of images i < j of group ``id`` has the id ``{id}_{i}_{j}``, keeps their order and everything else of its
    group; the columns are those of :func:`hpslib.data.preferences.features`. A group of n pictures without ties gives
    n (n - 1) / 2 pairs, so a large group weighs more. From a group without ranks come the pairs with its choice.
    """
    import datasets

    ranks = ranks_of(dataset)
    tied = sum(int(np.sum(group[:, None] == group)) - len(group) for group in ranks) // 2
    if all((group == group[0]).all() for group in ranks):
        return datasets.Dataset.from_dict({name: [] for name in features()}, features=features()), tied
    # map writes to disk as it goes where the dataset lies on disk: the pairs of a large release never stand in memory
    pairs = dataset.map(
        _pairs_of, batched=True, batch_size=100, remove_columns=dataset.column_names, features=features()
    )
    return pairs, tied


def _pairs_of(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    pairs: dict[str, list[Any]] = {name: [] for name in features()}
    given = rows.get("ranks") or [None] * len(rows["id"])
    for row, images in enumerate(rows["images"]):
        chosen = rows["human_preference"][row]
        ranks = given[row] if given[row] is not None else [1 if k == chosen else 2 for k in range(len(images))]
        for i in range(len(images)):
            for j in range(i + 1, len(images)):
                if ranks[i] == ranks[j]:
                    continue
                new = {
                    "id": f"{rows['id'][row]}_{i}_{j}",
                    "images": [images[i], images[j]],
                    "human_preference": int(ranks[j] < ranks[i]),
                }
                for name in pairs:
                    pairs[name].append(new[name] if name in new else rows[name][row])
    return pairs
