from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from hpslib.selection import IDENTIFIER, choose, identified_caption, is_blurry, select


def by_the_book(scores, threshold: float, min_group: int, temperature: float):
    """The rule as the paper says it, image by image."""
    preferred, rejected, start, small, neither = [], [], 0, 0, 0
    for group in scores:
        n, before = len(group), len(preferred) + len(rejected)
        if n < min_group:
            small += 1
        else:
            up = [math.exp(s / temperature) for s in group]
            down = [math.exp(-s / temperature) for s in group]
            preferred += [start + k for k in range(n) if group[k] == max(group) and up[k] / sum(up) > threshold / n]
            rejected += [start + k for k in range(n) if group[k] == min(group) and down[k] / sum(down) > threshold / n]
            neither += len(preferred) + len(rejected) == before
        start += n
    return preferred, rejected, small, neither


@pytest.mark.parametrize(("threshold", "min_group", "temperature"), [(2, 4, 1), (2, 3, 0.5), (1.5, 2, 2), (3, 4, 1)])
def test_select_is_the_rule_of_the_paper(rng, threshold: float, min_group: int, temperature: float) -> None:
    scores = [rng.normal(20, 1, size=rng.integers(1, 8)).tolist() for _ in range(300)]
    chosen = select(scores, threshold=threshold, min_group=min_group, temperature=temperature)
    expected = by_the_book(scores, threshold, min_group, temperature)
    assert expected[0] and expected[1]  # otherwise nothing was compared
    assert (chosen.preferred.tolist(), chosen.non_preferred.tolist(), chosen.too_small, chosen.neither) == expected
    assert chosen.groups == 300


def test_a_shift_of_a_group_changes_nothing(rng) -> None:
    scores = rng.normal(20, 2, size=(50, 4))
    moved = select(scores + rng.normal(0, 100, size=(50, 1)))
    assert moved.preferred.tolist() == select(scores).preferred.tolist() != []


def test_negated_scores_swap_the_roles(rng) -> None:
    scores = rng.normal(0, 2, size=(50, 4))
    assert select(-scores).preferred.tolist() == select(scores).non_preferred.tolist() != []


def test_a_group_of_two_never_passes_two_over_n() -> None:
    chosen = select([[0.0, 1000.0]], min_group=2)
    assert (len(chosen.preferred), len(chosen.non_preferred), chosen.neither) == (0, 0, 1)


def test_equal_images_give_nothing_and_huge_scores_do_not_overflow() -> None:
    assert select([[5.0] * 4]).neither == 1
    assert select([[1e6, 0.0, 0.0, -1e6]]).preferred.tolist() == [0]


def test_the_counts_are_said() -> None:
    text = str(select([[0, 0, 0, 9], [1, 1, 1, 1], [1, 2]]))
    assert text == ("3 groups: 1 preferred and 0 non-preferred images; 1 groups gave neither, 1 were too small.")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_named(bad: float) -> None:
    with pytest.raises(ValueError, match="group 1 holds a score that is not a number"):
        select([[1, 2, 3, 4], [1, bad, 3, 4]])


def test_a_threshold_everybody_passes_is_refused() -> None:
    with pytest.raises(ValueError, match="threshold is 1: at 1 or below every group passes"):
        select([[1, 2, 3, 4]], threshold=1)


@pytest.mark.parametrize("temperature", [0, -1])
def test_a_temperature_that_turns_the_order_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature is {temperature}: it divides the scores"):
        select([[1, 2, 3, 4]], temperature=temperature)


def test_the_identifier_keeps_its_trailing_space() -> None:
    assert IDENTIFIER == "Weird image. " and identified_caption("a dog") == "Weird image. a dog"


def test_sharp_edges_in_either_direction_are_not_blurry() -> None:
    stripes = np.zeros((16, 16), dtype=np.uint8)
    stripes[:, 8:] = 200
    assert not is_blurry(Image.fromarray(stripes)) and not is_blurry(Image.fromarray(stripes.T))
    assert not is_blurry(Image.fromarray(stripes[:, ::-1]))  # a falling edge counts like a rising one
    ramp = np.tile(np.arange(0, 160, 10, dtype=np.uint8), (16, 1))
    assert is_blurry(Image.fromarray(ramp)) and not is_blurry(Image.fromarray(ramp), threshold=9)


def test_a_picture_without_neighbours_is_refused() -> None:
    with pytest.raises(ValueError, match="1 x 8 pixels has no neighbours"):
        is_blurry(Image.new("RGB", (1, 8)))


# --- keyed by id ------------------------------------------------------------------------------------------------------


@pytest.fixture
def pool(rng) -> tuple[dict[str, str], dict[tuple[str, int], float]]:
    prompts = {f"g{k:03d}": f"prompt {k}" for k in range(200)}
    sizes = rng.integers(2, 8, size=200)
    return prompts, {(name, k): float(rng.normal(20, 1)) for name, n in zip(prompts, sizes) for k in range(n)}


def test_choosing_is_the_rule_whatever_the_order(pool, rng) -> None:
    prompts, scores = pool
    blurred = {key for key in scores if rng.random() < 0.1}
    expected = set()
    for name in prompts:  # the rule as the paper says it, group by group
        left = {key: value for key, value in scores.items() if key[0] == name and key not in blurred}
        if len(left) < 4:
            continue
        for good, sign in ((True, 1), (False, -1)):
            weights = {key: math.exp(sign * value) for key, value in left.items()}
            best = max(weights, key=weights.__getitem__)
            if weights[best] / sum(weights.values()) > 2 / len(left):
                expected.add((*best, good))
    shuffled = dict(sorted(scores.items(), key=lambda item: hash(item[0])))
    for given in (scores, shuffled):
        chosen = choose(prompts, given, blurred=blurred, negative_share=1.0)
        assert {(row.id, row.image, row.preferred) for row in chosen.rows.itertuples()} == expected
    assert {good for *_, good in expected} == {True, False} and chosen.blurred == len(blurred) > 0
    assert all(
        row.prompt == prompts[row.id] and row.score == scores[row.id, row.image] for row in chosen.rows.itertuples()
    )
    assert all(
        row.caption == ("" if row.preferred else "Weird image. ") + row.prompt for row in chosen.rows.itertuples()
    )


def test_half_of_the_negatives_are_kept_by_lot(pool) -> None:
    prompts, scores = pool
    every = choose(prompts, scores, negative_share=1.0).rows
    half, again, other = (choose(prompts, scores, seed=seed) for seed in (0, 0, 1))
    assert half.rows.equals(again.rows) and not half.rows.equals(other.rows)
    negatives = len(every) - every.preferred.sum()
    kept = len(half.rows) - half.rows.preferred.sum()
    assert kept == round(negatives / 2) and half.left_out == negatives - kept > 5
    assert half.rows.preferred.sum() == every.preferred.sum(), "preferred images are all kept"
    assert set(half.rows.id[~half.rows.preferred]) <= set(every.id[~every.preferred])
    assert str(half).endswith(f"{negatives - kept} non-preferred images were left out by lot, {kept} kept.")


def test_what_cannot_be_chosen_from_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^there are scores for the id 'b', which has no prompt: score this very pool"
    ):
        choose({"a": "x"}, {("b", 0): 1.0})
    with pytest.raises(ValueError, match=r"^negative_share is 1\.5: give a share from 0 to 1"):
        choose({"a": "x"}, {("a", 0): 1.0}, negative_share=1.5)
    nothing = choose({"a": "x"}, {("a", 0): 1.0})
    assert len(nothing.rows) == 0 and list(nothing.rows.columns)[:2] == ["id", "image"]
