"""The personal score: oracles (scipy, scikit-learn, a brute-force statement), laws, faults and the text of errors."""

from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import optimize, special
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

import hpslib.votes.personal as module
from hpslib.adaptation.selection import select
from hpslib.scores.clip import Clip, encode_images
from hpslib.scores.cosine import hps
from hpslib.votes.personal import (
    Personal,
    Shown,
    fit_taste,
    load_personal,
    padded,
    personal_scores,
    properties,
    save_personal,
    show,
    taste_axes,
    train_personal,
    vote_losses,
)


def test_doctests() -> None:
    result = doctest.testmod(module, extraglobs={"np": np})
    assert result.failed == 0 and result.attempted >= 1


@pytest.fixture
def shown(rng: np.random.Generator) -> Shown:
    """120 groups of 2 to 4 pictures; the embeddings differ most in their first dimension."""
    sizes = rng.integers(2, 5, 120)
    spread = np.array([3.0, 1.0, 0.5, 0.3, 0.2, 0.1])
    what, how = (
        rng.normal(size=(sizes.sum(), 6)) * spread + np.repeat(rng.normal(0, 9, (120, 6)), sizes, 0) for _ in "ab"
    )
    return Shown(rng.normal(size=sizes.sum()), what, how, sizes)  # fmt: skip


def votes_of(weights: np.ndarray, axes: module.Axes, shown: Shown, seed: int) -> np.ndarray:
    """Choices of somebody whose score this is."""
    scores = personal_scores(Personal(axes, weights, 1.0, 0, {}), shown)
    rng = np.random.default_rng(seed)
    return np.array([int((group + rng.gumbel(size=len(group))).argmax()) for group in scores])


# --- pictures -> properties -------------------------------------------------------------------------------------------


def test_pictures_are_seen_as_clip_and_hps_see_them(tiny_clip: Clip, noise_images: list[Image.Image]) -> None:
    prompts, sizes = ["a cat", "two dogs"], [2, 3]
    shown = show(tiny_clip, tiny_clip, noise_images[:5], prompts, sizes, batch_size=2)
    np.testing.assert_allclose(shown.what, encode_images(tiny_clip, noise_images[:5]).numpy(), atol=1e-6)
    factor = tiny_clip.model.logit_scale.exp().item()
    of_image = ["a cat"] * 2 + ["two dogs"] * 3
    np.testing.assert_allclose(shown.base, factor / 100 * hps(tiny_clip, noise_images[:5], of_image), atol=1e-6)
    assert shown.how.shape == (5, 32) and len(shown) == 2 and shown.what.dtype == shown.how.dtype == np.float64
    whole = show(tiny_clip, tiny_clip, noise_images[:5], prompts, sizes)
    np.testing.assert_allclose(shown.how, whole.how, atol=1e-6)


def test_the_mean_patch_leaves_the_class_token_out(tiny_clip: Clip, noise_images: list[Image.Image]) -> None:
    import torch

    kept = []
    tiny_clip.model.visual.transformer.resblocks[-1].register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    shown = show(tiny_clip, tiny_clip, noise_images[:2], ["a cat"], [2])
    expected = kept[0][:, -16:].mean(1)  # 4 x 4 patches; the class token stands first
    assert kept[0].shape[1] == 17 and torch.allclose(torch.from_numpy(shown.how).float(), expected, atol=1e-6)


def test_groups_that_do_not_fit_are_refused(tiny_clip: Clip, noise_images: list[Image.Image]) -> None:
    with pytest.raises(
        ValueError, match=r"5 images, 2 prompts and 2 sizes \(sum 4\) do not make the same groups: hand"
    ):
        show(tiny_clip, tiny_clip, noise_images[:5], ["a", "b"], [2, 2])


def test_a_subset_is_these_groups_in_this_order(shown: Shown) -> None:
    part = shown.subset([7, 0])
    start = shown.sizes[:7].sum()
    expected = np.concatenate([shown.base[start : start + shown.sizes[7]], shown.base[: shown.sizes[0]]])
    np.testing.assert_array_equal(part.base, expected)
    assert part.sizes.tolist() == [shown.sizes[7], shown.sizes[0]] and len(shown.subset([])) == 0
    assert len(part.what) == len(part.how) == part.sizes.sum()


def test_axes_are_the_principal_components_within_groups(shown: Shown) -> None:
    axes = taste_axes(shown, 3)
    apart = np.concatenate([g - g.mean(0) for g in np.split(shown.what, np.cumsum(shown.sizes)[:-1])])
    oracle = PCA(3).fit(apart)  # groups lie far from each other: components of the raw embeddings are others
    cosine = np.abs(np.sum(axes.what.T / np.linalg.norm(axes.what, axis=0)[:, None] * oracle.components_, axis=1))
    np.testing.assert_allclose(cosine, 1, atol=1e-9)
    np.testing.assert_allclose((properties(axes, shown) ** 2).mean(0), 1)


def test_neither_a_shift_of_a_group_nor_the_order_of_groups_changes_properties(
    shown: Shown, rng: np.random.Generator
) -> None:
    axes, order = taste_axes(shown, 6), rng.permutation(120)
    moved = Shown(*(a + np.repeat(rng.normal(size=(120, *a.shape[1:])), shown.sizes, 0)
                    for a in (shown.base, shown.what, shown.how)), shown.sizes)  # fmt: skip
    np.testing.assert_allclose(properties(axes, moved), properties(axes, shown), atol=1e-9)
    np.testing.assert_allclose(properties(axes, shown.subset(order))[: shown.sizes[order[0]]],
                               properties(axes, shown.subset(order[:1])))  # fmt: skip


def test_more_axes_than_there_are_dimensions_are_refused(shown: Shown) -> None:
    with pytest.raises(ValueError, match=r"count is 7: \d+ images in 120 groups allow 1 to 6\."):
        taste_axes(shown, 7)
    with pytest.raises(ValueError, match="allow 1 to 2"):
        taste_axes(shown.subset([k for k in range(120) if shown.sizes[k] == 3][:1]), 3)


def test_one_axis_is_enough_and_none_is_refused(shown: Shown) -> None:
    assert taste_axes(shown, 1).what.shape[1] == 1
    with pytest.raises(ValueError, match=r"^count is 0: "):
        taste_axes(shown, 0)


# --- votes -> weights -------------------------------------------------------------------------------------------------


def brute_force(offset: list[np.ndarray], x: list[np.ndarray], choices: list[int], ridge: float) -> np.ndarray:
    """The formula of the module's head, group by group, maximised without its gradient."""

    def loss(weights: np.ndarray) -> float:
        told = sum(special.log_softmax(o + v @ weights)[k] for o, v, k in zip(offset, x, choices))
        return ridge / 2 * weights @ weights - told

    return optimize.minimize(loss, np.zeros(x[0].shape[1]), method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10, "maxiter": 9999}).x  # fmt: skip # noqa: E501


def test_weights_are_those_of_a_brute_force_maximum(rng: np.random.Generator) -> None:
    sizes = [2, 4, 3, 2, 4, 4, 3]
    offset, x = [rng.normal(size=n) for n in sizes], [rng.normal(size=(n, 2)) for n in sizes]
    choices = [int(rng.integers(n)) for n in sizes]
    found = fit_taste(padded(np.concatenate(offset), sizes), padded(np.concatenate(x), sizes, 0.0), choices, 0.7)
    np.testing.assert_allclose(found, brute_force(offset, x, choices, 0.7), atol=1e-4)


def test_pairs_are_logistic_regression_on_differences(rng: np.random.Generator) -> None:
    x, choices = rng.normal(size=(50, 2, 3)), rng.integers(0, 2, 50)
    found = fit_taste(np.zeros((50, 2)), x, choices, ridge=2.0)
    oracle = LogisticRegression(C=1 / 2.0, fit_intercept=False, tol=1e-10).fit(x[:, 1] - x[:, 0], choices)
    np.testing.assert_allclose(found, oracle.coef_[0], atol=1e-4)


def test_padding_takes_no_part(rng: np.random.Generator) -> None:
    offset, x, choices = rng.normal(size=(30, 3)), rng.normal(size=(30, 3, 4)), rng.integers(0, 3, 30)
    wider = (
        np.pad(offset, ((0, 0), (0, 2)), constant_values=-np.inf),
        np.pad(x, ((0, 0), (0, 2), (0, 0)), constant_values=5),
    )
    np.testing.assert_allclose(fit_taste(*wider, choices, 1.0), fit_taste(offset, x, choices, 1.0), atol=1e-5)
    losses, chances = vote_losses(np.ones(4), *wider, choices)
    assert (chances[:, 3:] == 0).all() and (chances.sum(1).round(12) == 1).all()
    np.testing.assert_allclose(losses, -np.log(chances[np.arange(30), choices]))


def test_a_ridge_without_end_leaves_the_population(shown: Shown) -> None:
    axes = taste_axes(shown, 6)
    votes = votes_of(np.full(13, 0.8), axes, shown, seed=1)
    sizes = []
    for ridge in (0.1, 10.0, 1e7):
        sizes.append(np.linalg.norm(train_personal(shown, votes, axes, ridges=[ridge]).weights))
    assert sizes[0] > sizes[1] > sizes[2] and sizes[2] < 1e-3


@pytest.mark.parametrize(
    ("choices", "ridge", "message"),
    [
        ([0, 2], 1.0, "the choice of group 1 is 2, but its images are 0 to 1: correct it."),
        ([-1, 0], 1.0, "the choice of group 0 is -1, but its images are 0 to 2: correct it."),
        ([0, 0], 0.0, "ridge is 0.0, and without one few votes can give infinite weights: choose more than 0."),
        ([0, 0], np.nan, "ridge is nan, and without one few votes can give infinite weights: choose more than 0."),
    ],
)
def test_impossible_choices_and_ridges_are_refused(choices: list[int], ridge: float, message: str) -> None:
    with pytest.raises(ValueError) as told:
        fit_taste(padded(np.zeros(5), [3, 2]), np.zeros((2, 3, 1)), choices, ridge)
    assert str(told.value) == message


# --- the score --------------------------------------------------------------------------------------------------------


def test_without_votes_it_is_the_population(shown: Shown) -> None:
    personal = train_personal(shown.subset([]), [], taste_axes(shown, 6))
    np.testing.assert_array_equal(np.concatenate(personal_scores(personal, shown)), shown.base)
    assert personal.votes == 0 and personal.losses == {}


def test_a_taste_is_recovered_and_predicts_groups_nobody_voted_on(shown: Shown) -> None:
    axes = taste_axes(shown, 6)
    true = np.zeros(13)
    true[[0, 8, 12]] = 2.0, -2.0, -1.5
    choices = votes_of(true, axes, shown, seed=2)
    personal = train_personal(shown.subset(range(80)), choices[:80], axes)
    assert np.corrcoef(personal.weights, true)[0, 1] > 0.9 and personal.votes == 80
    held_out, rest = personal_scores(personal, shown.subset(range(80, 120))), choices[80:]
    right = np.mean([group.argmax() == choice for group, choice in zip(held_out, rest)])
    everybody = np.mean([g.argmax() == c for g, c in zip(np.split(shown.base, np.cumsum(shown.sizes)[:-1])[80:], rest)])
    assert right > everybody + 0.25


def test_the_ridge_is_chosen_on_votes_that_were_left_out(shown: Shown) -> None:
    axes = taste_axes(shown, 6)
    crowd = votes_of(np.zeros(13), axes, shown, seed=3)
    alike = train_personal(shown, crowd, axes)
    assert alike.ridge == max(module.RIDGES)  # nothing to learn, so nothing is moved
    other = train_personal(shown, votes_of(np.full(13, 1.5), axes, shown, seed=3), axes)
    assert other.ridge < 10 and other.ridge == min(other.losses, key=other.losses.get)
    assert set(other.losses) == set(module.RIDGES)
    # By hand: leave-one-out with as many folds as votes, whatever the seed.
    few, votes = shown.subset(range(12)), crowd[:12]
    offset, x = padded(few.base, few.sizes), padded(properties(axes, few), few.sizes, 0.0)
    by_hand = []
    for k in range(12):
        kept = np.arange(12) != k
        weights = fit_taste(offset[kept], x[kept], votes[kept], 3.0)
        by_hand.append(vote_losses(weights, offset[[k]], x[[k]], votes[[k]])[0][0])
    for seed in (0, 1):
        got = train_personal(few, votes, axes, ridges=[3.0], folds=12, seed=seed).losses[3.0]
        assert got == pytest.approx(np.mean(by_hand), abs=1e-6)


def test_training_reads_and_writes_no_global_randomness(shown: Shown) -> None:
    axes = taste_axes(shown, 6)
    choices = votes_of(np.ones(13), axes, shown, seed=4)
    first = train_personal(shown, choices, axes, seed=5)
    np.random.seed(1)  # noqa: NPY002
    np.testing.assert_array_equal(first.weights, train_personal(shown, choices, axes, seed=5).weights)


def test_scores_drive_selection(shown: Shown) -> None:
    axes = taste_axes(shown, 6)
    scores = personal_scores(Personal(axes, np.full(13, 2.0), 1.0, 60, {}), shown)
    chosen = select(scores)
    tops = set(np.cumsum(shown.sizes) - shown.sizes + [group.argmax() for group in scores])
    assert len(chosen.preferred) > 0 and set(chosen.preferred.tolist()) <= tops


def test_too_few_votes_and_unequal_lengths_are_refused(shown: Shown) -> None:
    axes = taste_axes(shown, 6)
    with pytest.raises(ValueError, match=r"4 votes make no 5 folds: give at least as many votes, or 2 to that many\."):
        train_personal(shown.subset(range(4)), [0] * 4, axes)
    for wrong, kind in (([0, 1, 0], r"\(3,\) and type int64"), ([0.0] * 120, r"\(120,\) and type float64")):
        with pytest.raises(ValueError, match=f"choices of shape {kind} for 120 groups: give one index each"):
            train_personal(shown, wrong, axes)


def test_two_folds_are_enough_and_one_leaves_nothing_to_learn_from(shown: Shown) -> None:
    axes, votes = taste_axes(shown, 2), np.zeros(20, dtype=int)
    assert train_personal(shown.subset(range(20)), votes, axes, folds=2).votes == 20
    with pytest.raises(ValueError, match=r"^20 votes make no 1 folds: "):
        train_personal(shown.subset(range(20)), votes, axes, folds=1)


# --- on disk ----------------------------------------------------------------------------------------------------------


def test_a_saved_score_scores_the_same(shown: Shown, tmp_path: Path) -> None:
    axes = taste_axes(shown, 6)
    personal = train_personal(shown, votes_of(np.ones(13), axes, shown, seed=6), axes)
    path = save_personal(personal, tmp_path / "new" / "mine.safetensors")
    again = load_personal(path)
    for ours, theirs in zip(personal_scores(personal, shown), personal_scores(again, shown)):
        np.testing.assert_array_equal(ours, theirs)
    assert (again.ridge, again.votes, again.losses) == (personal.ridge, personal.votes, personal.losses)
    assert [p.name for p in path.parent.iterdir()] == ["mine.safetensors"]


def test_a_file_that_holds_no_personal_score_is_named(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    broken, other = tmp_path / "broken.safetensors", tmp_path / "other.safetensors"
    broken.write_bytes(b"not a file of tensors")
    save_file({"weights": np.zeros(3)}, other)
    half = tmp_path / "half.safetensors"
    tensors = {name: np.zeros(3) for name in ("what", "how", "weights")}
    save_file(tensors, half, {"personal": '{"ridge": 1, "votes": 3, "base": 0.5}'})
    for path in (broken, other, half):
        with pytest.raises(
            ValueError, match=rf"{path.name} holds no personal score \(.*\): write it with save_personal\."
        ):
            load_personal(path)
    with pytest.raises(FileNotFoundError):
        load_personal(tmp_path / "none.safetensors")
