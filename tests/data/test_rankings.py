"""hpslib.data.rankings: held against a brute-force statement, Kendall's tau and the released evaluations' own
counting."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from scipy.stats import kendalltau

from hpslib.data.preferences import TIED, features, validate
from hpslib.data.rankings import choice_from_ranks, decided, ranked_features, ranks_of
from hpslib.metrics.agreement import pairwise_accuracy, pairwise_agreement, top1_accuracy


def group(name: str, ranks: list[int] | None, *, n: int = 3, choice: int = 0) -> dict[str, Any]:
    images = [{"bytes": None, "path": f"{name}_{k}.png"} for k in range(n if ranks is None else len(ranks))]
    return {
        "id": name,
        "prompt": f"prompt of {name}",
        "images": images,
        "human_preference": choice if ranks is None else choice_from_ranks(ranks),
        "user_hash": f"user of {name}",
        "contain_name": name == "b",
        "source": "votes",
        "ranks": ranks,
    }


def dataset(*rows: dict[str, Any]) -> Dataset:
    data = Dataset.from_list(list(rows), features=ranked_features())
    validate(data)
    return data


def test_ranks_come_from_the_column_or_else_from_the_choice() -> None:
    data = dataset(group("a", [2, 1, 5, 3]), group("b", None, n=3, choice=2), group("c", [1, 1]))
    expected = [[2, 1, 5, 3], [2, 2, 1], [1, 1]]
    assert [ranks.tolist() for ranks in ranks_of(data)] == expected
    assert all(ranks.dtype == np.int64 for ranks in ranks_of(data))
    plain = data.select([1]).remove_columns("ranks")
    assert plain.features == features() and [ranks.tolist() for ranks in ranks_of(plain)] == [[2, 2, 1]]
    assert [ranks.tolist() for ranks in ranks_of(data.select([2, 0]))] == [expected[2], expected[0]], "order of a view"


def test_ranks_of_refuses_a_group_nobody_chose_from() -> None:
    rows = [group("a", None), {**group("b", None), "human_preference": TIED}]
    data = Dataset.from_list(rows, features=ranked_features())
    with pytest.raises(ValueError, match=r"row 1 \(from 0\) has neither ranks nor a choice \(-1\): remove this row\.$"):
        ranks_of(data)


def test_decided_leaves_out_and_counts_the_ties_at_the_top() -> None:
    data = dataset(group("a", [1, 1, 2]), group("b", [1, 2, 2]), group("c", [3, 2, 2]), group("d", None))
    kept, tied = decided(data)
    assert (list(kept["id"]), tied) == (["b", "d"], 2)
    scores = [[3.0, 1.0, 2.0]] * 2
    assert top1_accuracy(scores, kept["human_preference"], kept["prompt"]).value == 1.0
    assert decided(kept)[1] == 0 and len(decided(data.select([0]))[0]) == 0


# --- scores against ranks ---------------------------------------------------------------------------------------------


def by_hand(scores: list[float], ranks: list[int]) -> list[float]:
    credits = []
    for i, j in itertools.combinations(range(len(ranks)), 2):
        if ranks[i] != ranks[j]:
            better, worse = (i, j) if ranks[i] < ranks[j] else (j, i)
            credits.append(1.0 if scores[better] > scores[worse] else 0.5 if scores[better] == scores[worse] else 0.0)
    return credits


def some_groups(rng: np.random.Generator, n: int = 60, levels: int = 4) -> tuple[list[list[float]], list[list[int]]]:
    sizes = rng.integers(2, 9, n)
    drawn = [rng.integers(1, levels + 1, size) for size in sizes]
    ranks = [(group - group.min() + 1).tolist() for group in drawn]  # 1 is the best of every group
    return [rng.integers(0, 5, size).astype(float).tolist() for size in sizes], ranks


def test_the_value_is_that_of_a_count_by_hand(rng: np.random.Generator) -> None:
    scores, ranks = some_groups(rng)
    credits = [credit for credit in map(by_hand, scores, ranks) if credit]
    macro = pairwise_agreement(scores, ranks, seed=1)
    micro = pairwise_agreement(scores, ranks, average="micro", seed=1)
    assert macro.value == pytest.approx(np.mean([np.mean(credit) for credit in credits]), abs=1e-12)
    assert micro.value == pytest.approx(np.mean(np.concatenate(credits)), abs=1e-12)
    assert macro.n == micro.n == len(credits) < 60, "groups of nothing but ties are not counted"
    assert macro.low <= macro.value <= macro.high


def test_without_ties_it_is_kendalls_tau(rng: np.random.Generator) -> None:
    scores = [rng.normal(size=7) for _ in range(30)]
    ranks = [rng.permutation(7) + 1 for _ in range(30)]
    taus = [kendalltau(one, -order).statistic for one, order in zip(scores, ranks)]
    assert pairwise_agreement(scores, ranks).value == pytest.approx((1 + np.mean(taus)) / 2)


def test_with_one_choice_it_is_pairwise_accuracy(rng: np.random.Generator) -> None:
    scores = [rng.integers(0, 4, 5).astype(float) for _ in range(40)]
    choices = rng.integers(0, 5, 40)
    ranks = [np.where(np.arange(5) == choice, 1, 2) for choice in choices]
    prompts = [f"p{k % 13}" for k in range(40)]
    for average in ("macro", "micro"):
        old = pairwise_accuracy(scores, choices, prompts, seed=3, average=average)
        assert pairwise_agreement(scores, ranks, prompts, average, seed=3) == old


def inversion_score(p1: list[float], p2: list[int]) -> float:
    """HPSv2's counting, stated anew: the share of pairs that are not strictly in the opposite order."""
    pairs = list(itertools.combinations(range(len(p1)), 2))
    return 1 - sum((p1[i] - p1[j]) * (p2[i] - p2[j]) < 0 for i, j in pairs) / len(pairs)


def imagereward_score(scores: list[float], ranks: list[int]) -> float:
    """HPSv2's calc_ImageReward, stated anew: pairs told apart by people, right only if strictly in order."""
    pairs = [(i, j) for i, j in itertools.permutations(range(len(ranks)), 2) if ranks[i] < ranks[j]]
    return sum(scores[i] > scores[j] for i, j in pairs) / len(pairs)


def test_the_released_evaluations_differ_only_in_ties(rng: np.random.Generator) -> None:
    scores, ranks = (
        [rng.normal(size=6).tolist() for _ in range(25)],
        [(rng.permutation(6) + 1).tolist() for _ in range(25)],
    )
    value = pairwise_agreement(scores, ranks).value
    assert value == pytest.approx(np.mean([inversion_score([-x for x in s], r) for s, r in zip(scores, ranks)]))
    assert value == pytest.approx(np.mean([imagereward_score(s, r) for s, r in zip(scores, ranks)]))
    constant = [[0.0] * 6] * 25
    assert pairwise_agreement(constant, ranks).value == 0.5
    assert {inversion_score(s, r) for s, r in zip(constant, ranks)} == {1.0}
    assert {imagereward_score(s, r) for s, r in zip(constant, ranks)} == {0.0}


def test_nan_abstains_and_infinities_are_ordinary() -> None:
    nan, inf = math.nan, math.inf
    agreement = pairwise_agreement([[nan, 1.0, 2.0], [inf, -inf], [inf, inf]], [[1, 2, 2], [1, 2], [1, 2]])
    assert (agreement.value, agreement.abstained, agreement.n) == (pytest.approx((0.5 + 1 + 0.5) / 3), 1, 3)


def test_reversed_scores_give_the_complement_and_shifted_ranks_the_same(rng: np.random.Generator) -> None:
    scores, ranks = some_groups(rng)
    value = pairwise_agreement(scores, ranks).value
    assert pairwise_agreement([[-x for x in s] for s in scores], ranks).value == pytest.approx(1 - value)
    assert pairwise_agreement(scores, [[3 * r - 2 for r in one] for one in ranks]).value == value


def test_faults_are_named() -> None:
    good, order = [[1.0, 2.0], [2.0, 1.0]], [[1, 2], [1, 2]]
    cases: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        ((good, order[:1]), {}, "scores has 2 groups but ranks has 1: give one list of ranks each."),
        ((good, [[1, 2], [1, 2, 3]]), {}, r"scores\[1\] has 2 images but ranks\[1\] has 3: give one rank each."),
        ((good, [[1, 2], [1, math.nan]]), {}, r"ranks\[1\] has a NaN: give every image a rank."),
        ((good, [[1, 1], [1, 1]]), {}, "people ranked all images of every group alike"),
        ((good, order, ["a"]), {}, "prompts has 1 labels for 2 groups: give"),
        ((good, order), {"average": "mean"}, "average is 'mean': choose"),
        ((good, [["x", 1], [1, 2]]), {}, r"ranks\[0\] cannot be read as numbers"),
    ]
    for arguments, options, part in cases:
        with pytest.raises(ValueError, match=part):
            pairwise_agreement(*arguments, **options)
