"""Which group to ask next: oracles (scipy, brute force), laws (permutation, ties), and the text of errors."""

from __future__ import annotations

import doctest
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import special, stats

import hpslib.votes.active as module
from hpslib.classifier.loss import group_logits
from hpslib.votes.active import next_groups, uncertainty

INF, NAN = np.inf, np.nan


def test_doctests() -> None:
    result = doctest.testmod(module, extraglobs={"np": np})
    assert result.failed == 0 and result.attempted >= 3


def make_logits(rng: np.random.Generator, groups: int = 60) -> np.ndarray:
    """Logits of 2 to 4 images, -inf in the places that a group does not have."""
    logits = rng.normal(0, 2, size=(groups, 4))
    logits[np.arange(4) >= rng.integers(2, 5, size=(groups, 1))] = -INF
    return logits


# --- doubt ------------------------------------------------------------------------------------------------------------


def test_entropy_and_margin_equal_scipys(rng: np.random.Generator) -> None:
    logits = make_logits(rng)
    told = uncertainty(logits)
    for row, entropy, margin in zip(logits, told.entropy, told.margin):
        p = special.softmax(row[np.isfinite(row)])
        assert entropy == pytest.approx(stats.entropy(p, base=len(p)))
        assert margin == pytest.approx(np.sort(p)[-1] - np.sort(p)[-2])


def test_a_uniform_guess_is_least_sure_in_groups_of_any_size(rng: np.random.Generator) -> None:
    uniform = np.array([[3.0, 3.0, -INF, -INF], [0.5, 0.5, 0.5, -INF], [-7.0] * 4])
    told = uncertainty(uniform)
    np.testing.assert_allclose(told.entropy, 1)
    np.testing.assert_allclose(told.margin, 0)
    others = uncertainty(make_logits(rng))
    assert others.entropy.max() < 1 and others.margin.min() > 0


def test_a_certain_group_has_no_entropy_and_the_full_margin() -> None:
    told = uncertainty([[1000.0, 0.0, -1000.0], [-INF, 0.0, 2000.0]])
    assert told.entropy.tolist() == [0, 0] and told.margin.tolist() == [1, 1]


def test_neither_the_order_of_images_nor_a_constant_nor_padding_matters(rng: np.random.Generator) -> None:
    logits = make_logits(rng)
    padded = np.column_stack([rng.permuted(logits + rng.normal(size=(60, 1)), axis=1), np.full(60, -INF)])
    for ours, theirs in zip(uncertainty(logits), uncertainty(padded)):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_tensors_of_the_classifier_are_taken_as_they_are(kind: torch.dtype) -> None:
    images = torch.nn.functional.normalize(torch.randn(7, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    logits = group_logits(images.to(kind), images[:3].to(kind), [2, 2, 3], torch.tensor(5.0, requires_grad=True))
    told = uncertainty(logits)
    assert told.entropy.shape == (3,) and told.entropy.dtype == np.float64
    np.testing.assert_array_equal(told.entropy, uncertainty(logits.detach().double().numpy()).entropy)


# --- next groups ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["entropy", "margin"])
def test_the_most_uncertain_come_first(rng: np.random.Generator, by: str) -> None:
    logits = make_logits(rng)
    told = uncertainty(logits)
    doubt = told.entropy if by == "entropy" else -told.margin
    assert next_groups(logits, [], 60, 0, by=by).tolist() == np.argsort(-doubt).tolist()


@pytest.mark.parametrize("spread", [False, True])
def test_nothing_is_asked_twice_until_everything_was_asked(rng: np.random.Generator, spread: bool) -> None:
    logits, features = make_logits(rng), rng.normal(size=(60, 3)) if spread else None
    asked: list[int] = []
    for turn in range(6):
        asked += next_groups(logits, asked, 10, turn, features).tolist()
    assert sorted(asked) == list(range(60))
    with pytest.raises(ValueError, match="count is 1, but 0 of 60 groups are left"):
        next_groups(logits, asked, 1, 0, features)


@pytest.mark.parametrize("spread", [False, True])
def test_reordering_the_groups_reorders_the_answer(rng: np.random.Generator, spread: bool) -> None:
    logits, features = make_logits(rng), rng.normal(size=(60, 3))
    order = rng.permutation(60)
    there = next_groups(logits, [3, 9], 12, 0, features if spread else None)
    asked = [int(np.flatnonzero(order == k)[0]) for k in (3, 9)]
    back = next_groups(logits[order], asked, 12, 1, features[order] if spread else None)
    np.testing.assert_array_equal(order[back], there)


def test_ties_are_broken_at_random_by_the_seed_even_across_sizes() -> None:
    """Uniform groups of 2, 3 and 4 are equally uncertain although their entropies differ in the last digit."""
    logits = np.zeros((12, 4))
    logits[:4, 2:], logits[4:8, 3:] = -INF, -INF
    firsts = np.array([next_groups(logits, [], 1, seed)[0] for seed in range(1200)])
    assert stats.chisquare(np.bincount(firsts, minlength=12)).pvalue > 1e-3
    np.testing.assert_array_equal(next_groups(logits, [], 5, 7), next_groups(logits, [], 5, 7))


def test_large_groups_are_not_favoured_for_their_size() -> None:
    """Raw entropy of [0.6, 0.2, 0.2] exceeds that of [0.52, 0.48]; relative to the size it is the surer one."""
    logits = np.log([[0.52, 0.48, 1e-300], [0.6, 0.2, 0.2]])
    logits[0, 2] = -INF
    assert stats.entropy([0.6, 0.2, 0.2]) > stats.entropy([0.52, 0.48])
    assert next_groups(logits, [], 2, 0).tolist() == [0, 1]


# --- a batch without near copies --------------------------------------------------------------------------------------


def test_copies_of_the_most_uncertain_group_are_left_out(rng: np.random.Generator) -> None:
    logits = np.column_stack([np.linspace(0, 1, 40), np.zeros(40)])  # row 0 is least sure, row 39 surest
    features = np.eye(4)[np.arange(40) // 5 % 4] + rng.normal(0, 1e-3, (40, 4))  # blocks of five near copies
    assert next_groups(logits, [], 4, 0).tolist() == [0, 1, 2, 3]
    chosen = next_groups(logits, [], 4, 0, features, candidates=20)
    assert chosen[0] == 0 and sorted(chosen // 5) == [0, 1, 2, 3]


def test_the_pick_is_within_twice_the_best_possible_radius(rng: np.random.Generator) -> None:
    """Gonzalez' bound, against all batches of three."""
    for _ in range(20):
        points = rng.normal(size=(11, 2))
        distance = np.linalg.norm(points[:, None] - points, axis=2)
        chosen = next_groups(rng.normal(size=(11, 2)), [], 3, 0, points, candidates=11)
        best = min(distance[list(batch)].min(axis=0).max() for batch in combinations(range(11), 3))
        assert distance[chosen].min(axis=0).max() <= 2 * best


def test_only_the_candidates_are_spread_out(rng: np.random.Generator) -> None:
    logits, features = make_logits(rng), rng.normal(size=(60, 3))
    ranked = next_groups(logits, [], 60, 0)
    assert set(next_groups(logits, [], 5, 0, features)) <= set(ranked[:20])
    assert next_groups(logits, [], 5, 0, features, candidates=5)[0] == ranked[0]
    assert set(next_groups(logits, [], 5, 0, features, candidates=5)) == set(ranked[:5])


def test_identical_features_leave_the_order_of_doubt(rng: np.random.Generator) -> None:
    logits = make_logits(rng)
    assert next_groups(logits, [], 8, 0, np.ones((60, 2))).tolist() == next_groups(logits, [], 8, 0).tolist()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"logits": [1.0, 2.0]}, r"logits has shape \(2,\): give one row per group"),
        ({"logits": [[0.0, 1.0], [0.0, NAN]]}, "group 1 has a logit that is NaN or"),
        ({"logits": [[0.0, INF], [0.0, 1.0]]}, "group 0 has a logit that is NaN or"),
        ({"logits": [[0.0, 1.0], [0.0, -INF]]}, r"group 1 has 1 images above -inf \(padding\): give at least 2"),
        ({"asked": [2]}, r"asked names group 2: give numbers from 0 to 1"),
        ({"asked": [-1]}, r"asked names group -1: give numbers from 0 to 1"),
        ({"asked": [True, False]}, "asked must hold row numbers of groups, got dtype bool: use np.flatnonzero"),
        ({"count": 0}, "count is 0, but 2 of 2 groups are left: ask for 1"),
        ({"count": 2, "asked": [0]}, "count is 2, but 1 of 2 groups are left"),
        ({"by": "size"}, 'by is .size.: choose "entropy" or "margin"'),
        ({"features": [[0.0]]}, r"features has shape \(1, 1\) or NaN: give 2 rows"),
        ({"features": [[0.0], [NAN]]}, "or NaN: give 2 rows of finite numbers"),
        (
            {"features": [[0.0], [1.0]], "count": 2, "candidates": 1},
            "candidates is 1, fewer than the 2 groups to ask about",
        ),
        ({"candidates": 2}, "candidates says among how many to spread a batch out: hand over features"),
    ],
)
def test_refusals(changed: dict, message: str) -> None:
    arguments = {"logits": [[0.0, 1.0], [0.0, 2.0]], "asked": [], "count": 1, "seed": 0} | changed
    with pytest.raises(ValueError, match=message):
        next_groups(**arguments)


def test_a_single_group_asked_before_is_not_asked_again():
    logits = np.array([[5.0, 0.0], [0.1, 0.0], [3.0, 0.0]])  # the second is the least sure
    assert next_groups(logits, [], 1, 0).tolist() == [1]
    assert next_groups(logits, [1], 1, 0).tolist() == [2]
