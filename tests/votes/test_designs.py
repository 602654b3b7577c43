"""Study designs: balance, distances and seeds by counting; numbers of votes by brute force; the text of errors."""

from __future__ import annotations

import doctest
from collections import Counter
from dataclasses import FrozenInstanceError
from itertools import combinations, pairwise

import numpy as np
import pytest
from scipy import stats

import hpslib.votes.designs as module
from hpslib.votes.designs import Trial, paired_design, power, round_robin_design, votes_needed, width_of
from hpslib.votes.reliability import attention_check

PROMPTS = [f"a cat with {k} legs" for k in range(20)]
SEEDS = list(range(100, 120))
CHECKS = [("a dog", k, "good", "noise") for k in range(6)]


def test_doctests() -> None:
    result = doctest.testmod(module)
    assert result.failed == 0 and result.attempted >= 5


def kinds(rows: list[Trial], kind: str) -> list[Trial]:
    return [row for row in rows if row.kind == kind]


# --- what every design keeps ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("gap", [1, 5, 12])
def test_repeats_mirror_an_earlier_trial_that_lies_far_enough_back(seed: int, gap: int) -> None:
    rows = paired_design(PROMPTS, SEEDS, repeats=0.3, checks=CHECKS, seed=seed, gap=gap)
    place = {row.id: k for k, row in enumerate(rows)}
    repeats = kinds(rows, "repeat")
    assert len(repeats) == 6 and len({row.repeat_of for row in repeats}) == 6
    for row in repeats:
        original = rows[place[row.repeat_of]]
        assert original.kind == "trial" and row.models == original.models[::-1]
        assert (row.prompt, row.seed) == (original.prompt, original.seed)
        between = rows[place[original.id] + 1 : place[row.id]]
        assert sum(other.kind == "trial" for other in between) >= gap


def test_a_repeat_can_stand_at_the_least_distance_and_at_the_very_end() -> None:
    """The rule is kept by construction, not by keeping far away from it."""
    distances, last = set(), 0
    for seed in range(60):
        rows = paired_design(PROMPTS[:6], SEEDS[:6], repeats=1 / 6, seed=seed, gap=2)
        place = {row.id: k for k, row in enumerate(rows)}
        (repeat,) = kinds(rows, "repeat")
        distances.add(place[repeat.id] - place[repeat.repeat_of] - 1)
        last += rows[-1] is repeat
    assert min(distances) == 2 and max(distances) == 5 and last > 0


def test_ids_number_the_rows_as_shown_and_betray_no_kind() -> None:
    rows = paired_design(PROMPTS, SEEDS, repeats=0.2, checks=CHECKS, seed=3)
    assert [row.id for row in rows] == [f"{k:02d}" for k in range(30)]
    assert {row.kind for row in rows} == {"trial", "repeat", "check"}
    assert all((row.repeat_of is None) == (row.kind != "repeat") for row in rows)
    assert all((row.expected is None) == (row.kind != "check") for row in rows)
    with pytest.raises(FrozenInstanceError):
        rows[0].kind = "check"


@pytest.mark.parametrize("seed", range(6))
def test_checks_are_spread_out_and_their_right_answer_changes_sides(seed: int) -> None:
    rows = paired_design(PROMPTS, SEEDS, repeats=0, checks=CHECKS, seed=seed)
    checks = kinds(rows, "check")
    assert sorted(row.seed for row in checks) == [check[1] for check in CHECKS]
    assert [row.models[row.expected] for row in checks] == ["good"] * 6
    assert sum(row.expected == 0 for row in checks) == 3
    halves = Counter(k < len(rows) / 2 for k, row in enumerate(rows) if row.kind == "check")
    assert halves == {True: 3, False: 3} and rows[0].kind == "trial"
    assert attention_check([row.expected for row in checks], [row.expected for row in checks]).failed == 0


def test_the_seed_decides_everything() -> None:
    arguments = (PROMPTS, SEEDS, 0.2, CHECKS)
    assert paired_design(*arguments, seed=4) == paired_design(*arguments, seed=4)
    assert paired_design(*arguments, seed=4) != paired_design(*arguments, seed=5)


# --- balance ----------------------------------------------------------------------------------------------------------


def test_every_prompt_comes_once_with_its_own_seed_and_sides_in_balance() -> None:
    rows = kinds(paired_design(PROMPTS, SEEDS, seed=0), "trial")
    assert sorted((row.prompt, row.seed) for row in rows) == sorted(zip(PROMPTS, SEEDS))
    assert Counter(row.models for row in rows) == {("before", "after"): 10, ("after", "before"): 10}
    assert [row.prompt for row in rows] != PROMPTS


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("prompts", [1, 2, 5, 20])
def test_all_pairs_and_sides_come_equally_often(n: int, prompts: int) -> None:
    names = [f"model{k}" for k in range(n)]
    rows = round_robin_design(names, PROMPTS[:prompts], SEEDS[:prompts], repeats=0, seed=n)
    pairs = Counter(frozenset(row.models) for row in rows)
    assert pairs == {frozenset(pair): prompts for pair in combinations(names, 2)}
    assert len({(row.prompt, frozenset(row.models)) for row in rows}) == len(rows)
    sides = Counter(row.models for row in rows)
    left, right = Counter(row.models[0] for row in rows), Counter(row.models[1] for row in rows)
    for a, b in combinations(names, 2):
        assert abs(sides[a, b] - sides[b, a]) == prompts % 2
    for name in names:
        assert abs(left[name] - right[name]) == (prompts % 2) * ((n - 1) % 2)


def test_the_trials_of_a_prompt_are_scattered() -> None:
    rows = round_robin_design(["a", "b", "c"], PROMPTS, SEEDS, repeats=0, seed=0)
    assert sum(one.prompt == other.prompt for one, other in pairwise(rows)) < 10  # 40 if they stood together


@pytest.mark.parametrize(("n", "each", "prompts"), [(4, 1, 12), (4, 3, 4), (4, 4, 3), (5, 2, 20), (3, 2, 3)])
def test_a_sparse_round_robin_is_balanced_too(n: int, each: int, prompts: int) -> None:
    names = [f"model{k}" for k in range(n)]
    rows = round_robin_design(names, PROMPTS[:prompts], SEEDS[:prompts], 0, seed=0, pairs_per_prompt=each)
    assert set(Counter(row.prompt for row in rows).values()) == {each}
    assert len({(row.prompt, frozenset(row.models)) for row in rows}) == len(rows)
    counts = Counter(frozenset(row.models) for row in rows)
    assert len(counts) == n * (n - 1) // 2 and len(set(counts.values())) == 1
    sides = Counter(row.models for row in rows)
    assert all(abs(sides[a, b] - sides[b, a]) <= 1 for a, b in combinations(names, 2))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"models": ["a"]}, "models is 'a': give two or more different names"),
        ({"models": ["a", "b", "a"]}, "two or more different names"),
        ({"prompts": []}, "0 prompts and 4 seeds: give one seed for each of 1 or more prompts"),
        ({"seeds": [1]}, "4 prompts and 1 seeds"),
        ({"prompts": ["x", " ", "y", "z"]}, r"prompt 1 \(from 0\) is empty: remove it"),
        (
            {"prompts": ["x"] * 4, "seeds": [1, 2, 3, 1]},
            r"prompt 3 \(from 0\) repeats row 0 with the same seed: use another",
        ),
        ({"repeats": 1.5}, "repeats is 1.5: give a share from 0 to 1"),
        ({"repeats": float("nan")}, "repeats is nan: give a share"),
        ({"gap": 0}, "gap is 0, and a repeat right after its original tests memory: give 1"),
        ({"repeats": 0.9, "gap": 5}, "11 repeats need .* 5 more behind them, but only 7 of 12 have that: lower"),
        ({"pairs_per_prompt": 4}, r"pairs_per_prompt is 4: give 1 to 3 for 3 models"),
        ({"pairs_per_prompt": 2}, "4 prompts with 2 of 3 pairs each .*: give a multiple of 3 prompts"),
        ({"checks": [("x", 1, "good", "good")]}, r"check 0 \(from 0\) names 'good' as right and as wrong"),
    ],
)
def test_designs_refuse(changed: dict, message: str) -> None:
    arguments = {"models": ["a", "b", "c"], "prompts": PROMPTS[:4], "seeds": SEEDS[:4]} | changed
    with pytest.raises(ValueError, match=message):
        round_robin_design(**arguments)


# --- how many votes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.74, 1.0])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_votes_needed_is_the_first_of_all_numbers_that_suffices(share: float, confidence: float) -> None:
    widths = np.array([width_of(n, share, confidence) for n in range(1, 700)])
    assert (np.diff(widths) < 0).all()
    for width in (0.9, 0.5, 0.2, 0.1, float(widths[41])):
        assert votes_needed(width, share, confidence) == int(np.flatnonzero(widths <= width)[0]) + 1


def test_width_is_that_of_scipys_interval() -> None:
    theirs = stats.binomtest(74, 100).proportion_ci(0.9, method="wilson")
    assert width_of(100, 0.74, 0.9) == pytest.approx(theirs.high - theirs.low)


def test_half_is_the_worst_share() -> None:
    assert votes_needed(0.1) == max(votes_needed(0.1, share) for share in np.linspace(0, 1, 21))


@pytest.mark.parametrize("n", [1, 5, 6, 20, 101])
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_power_is_the_sum_over_the_rejecting_counts(n: int, alpha: float) -> None:
    rejecting = [k for k in range(n + 1) if stats.binomtest(k, n).pvalue <= alpha]
    for share in (0.0, 0.3, 0.5, 0.62, 1.0):
        assert power(share, n, alpha) == pytest.approx(sum(stats.binom.pmf(k, n, share) for k in rejecting))


def test_power_is_symmetric_keeps_its_level_and_agrees_with_simulated_studies() -> None:
    assert power(0.3, 40) == pytest.approx(power(0.7, 40))
    assert all(power(0.5, n) <= 0.05 for n in range(1, 120))
    wins = np.random.default_rng(5).binomial(50, 0.7, size=4000)
    p_values = {k: stats.binomtest(int(k), 50).pvalue for k in np.unique(wins)}
    assert power(0.7, 50) == pytest.approx(np.mean([p_values[k] <= 0.05 for k in wins]), abs=0.03)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: votes_needed(0), "width is 0: give a number strictly between 0 and 1"),
        (lambda: votes_needed(1), "width is 1: give a number strictly between 0 and 1"),
        (lambda: votes_needed(0.1, share=1.2), r"share is 1.2: give a number from 0 to 1"),
        (lambda: votes_needed(0.1, confidence=1), "confidence is 1: give a number strictly between 0 and 1"),
        (lambda: width_of(0), r"0.0 successes of 0: give"),
        (lambda: power(1.2, 10), r"share 1.2, n 10, alpha 0.05: give 0 to 1"),
        (lambda: power(0.6, 0), "share 0.6, n 0, alpha 0.05: give"),
        (lambda: power(0.6, 10, 0), "share 0.6, n 10, alpha 0: give"),
    ],
)
def test_planning_refuses(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
