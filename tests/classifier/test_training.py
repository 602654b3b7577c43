from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from PIL import Image
from small_trunk import trunk_of

from hpslib.classifier import training as classifier
from hpslib.classifier.loss import preference_loss, top1
from hpslib.classifier.towers import TunedTowers, set_trainable
from hpslib.classifier.training import train_classifier, warmed_cosine
from hpslib.classifier.trunk import Trunk, cache_trunk, evaluate_trunk, stream_trunk
from hpslib.runs.distributed import local_accelerator
from hpslib.scores.clip import Clip

SETTINGS = {"epochs": 4, "batch_size": 4, "lr": 1e-3, "weight_decay": 1e-2}


@pytest.fixture
def trunk(tiny_clip: Clip, noise_images) -> Trunk:
    return trunk_of(tiny_clip, noise_images)


def weights(clip: Clip) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in clip.model.state_dict().items()}


def test_only_the_tuned_weights_move_and_the_given_model_stays(tiny_clip: Clip, trunk: Trunk) -> None:
    before = weights(tiny_clip)
    trained = train_classifier(tiny_clip, trunk, trunk, **SETTINGS, evaluate_every=2)
    after, tuned = weights(trained.clip), set(set_trainable(copy.deepcopy(tiny_clip.model), 1, 1))
    assert all(torch.equal(before[key], value) for key, value in weights(tiny_clip).items())
    assert {key for key in before if not torch.equal(before[key], after[key])} <= tuned
    assert len({key for key in before if not torch.equal(before[key], after[key])}) > len(tuned) / 2
    assert not trained.clip.model.training


def test_a_frozen_scale_stays(tiny_clip: Clip, trunk: Trunk) -> None:
    start = tiny_clip.model.logit_scale.item()
    frozen = train_classifier(tiny_clip, trunk, trunk, **SETTINGS, tune_scale=False)
    assert frozen.clip.model.logit_scale.item() == start
    assert train_classifier(tiny_clip, trunk, trunk, **SETTINGS).clip.model.logit_scale.item() != start


def test_the_scale_has_a_rate_of_its_own(tiny_clip: Clip, trunk: Trunk) -> None:
    """AdamW's first step moves a weight by its rate, whatever the gradient; nothing else is touched by ``scale_lr``."""
    one_step = SETTINGS | {"epochs": 0.5}
    same, own = (train_classifier(tiny_clip, trunk, trunk, **one_step, scale_lr=rate) for rate in (None, 0.2))
    start = tiny_clip.model.logit_scale.item()
    assert abs(same.clip.model.logit_scale.item() - start) == pytest.approx(1e-3, rel=0.01)
    assert abs(own.clip.model.logit_scale.item() - start) == pytest.approx(0.2, rel=0.01)
    assert all(torch.equal(v, weights(own.clip)[k]) for k, v in weights(same.clip).items() if k != "logit_scale")


def test_the_seed_decides(tiny_clip: Clip, trunk: Trunk) -> None:
    runs = [train_classifier(tiny_clip, trunk, trunk, **SETTINGS, seed=seed) for seed in (3, 3, 4)]
    same, again, other = (weights(run.clip) for run in runs)
    assert runs[0].losses == runs[1].losses != runs[2].losses
    assert all(torch.equal(same[key], again[key]) for key in same)
    assert not torch.equal(same["visual.proj"], other["visual.proj"])


def test_global_random_state_is_neither_read_nor_written(tiny_clip: Clip, trunk: Trunk) -> None:
    torch.manual_seed(1)
    first = train_classifier(tiny_clip, trunk, trunk, **SETTINGS).losses
    torch.manual_seed(2)
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    assert train_classifier(tiny_clip, trunk, trunk, **SETTINGS).losses == first
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


def test_training_learns_what_can_be_learned(tiny_clip: Clip, rng: np.random.Generator) -> None:
    """The brighter image is always chosen; held-out groups are then predicted far above chance (1/2)."""

    def groups(count: int) -> tuple[list[Image.Image], list[int]]:
        levels = rng.integers(0, 256, (count, 2))
        images = [Image.new("RGB", (32, 32), (int(v), int(v), int(v))) for v in levels.ravel()]
        return images, levels.argmax(1).tolist()

    made = [groups(60), groups(40)]
    train, held_out = (
        cache_trunk(tiny_clip, images, ["a picture"] * len(choices), [2] * len(choices), choices,
                    image_blocks=1, text_blocks=1)
        for images, choices in made
    )  # fmt: skip
    trained = train_classifier(tiny_clip, train, held_out, epochs=20, batch_size=10, lr=3e-3, weight_decay=0.0)
    assert top1(evaluate_trunk(trained.clip.model, held_out), held_out.choices) > 0.85


def test_the_kept_weights_are_those_of_the_lowest_validation_loss(tiny_clip: Clip, trunk: Trunk, noise_images) -> None:
    validation = trunk.with_choices([0, 1, 0, 1, 0, 0, 0, 0])  # contradicts training: the loss rises
    trained = train_classifier(tiny_clip, trunk, validation, **SETTINGS | {"epochs": 10, "lr": 3e-3}, evaluate_every=4)
    steps, losses, _ = zip(*trained.validation)
    assert steps == (4, 8, 12, 16, 20) and trained.best_step == steps[int(np.argmin(losses))] < 20
    kept = preference_loss(evaluate_trunk(trained.clip.model, validation), validation.choices).item()
    assert kept == pytest.approx(min(losses), rel=1e-5)


def test_the_number_of_steps_and_the_progress(tiny_clip: Clip, trunk: Trunk) -> None:
    calls: list[tuple[int, int]] = []
    trained = train_classifier(
        tiny_clip, trunk, trunk, **SETTINGS | {"epochs": 1.5}, warmup=2, progress=lambda *at: calls.append(at)
    )
    assert len(trained.losses) == 3 and calls == [(1, 3), (2, 3), (3, 3)]
    assert [step for step, *_ in trained.validation] == [3]


def test_a_batch_larger_than_the_data_draws_groups_again(tiny_clip: Clip, trunk: Trunk) -> None:
    assert len(train_classifier(tiny_clip, trunk, trunk, **SETTINGS | {"batch_size": 20, "epochs": 5}).losses) == 2


def test_the_scale_is_clamped(tiny_clip: Clip, trunk: Trunk) -> None:
    with torch.no_grad():
        tiny_clip.model.logit_scale.fill_(math.log(100))
    favour = trunk.with_choices(evaluate_trunk(tiny_clip.model, trunk).argmax(1).tolist())  # a larger scale would pay
    trained = train_classifier(tiny_clip, favour, favour, **SETTINGS | {"lr": 1e-6, "weight_decay": 0.0}, scale_lr=0.5)
    assert trained.clip.model.logit_scale.item() == pytest.approx(math.log(100), abs=1e-6)


def test_another_loss_can_be_handed_in(tiny_clip: Clip, trunk: Trunk) -> None:
    seen = []

    def doubled(logits: torch.Tensor, choices: torch.Tensor) -> torch.Tensor:
        seen.append(logits.shape[0])
        return 2 * preference_loss(logits, choices)

    trained = train_classifier(tiny_clip, trunk, trunk, **SETTINGS | {"epochs": 1}, loss=doubled)
    plain = train_classifier(tiny_clip, trunk, trunk, **SETTINGS | {"epochs": 1})
    assert seen == [4, 4, 8] and trained.losses[0] == pytest.approx(2 * plain.losses[0])


def test_a_trial_takes_the_largest_groups(tiny_clip: Clip, noise_images) -> None:
    """What fits in the trial must fit in every batch."""
    sizes = [2, 4, 2, 3]
    trunk = stream_trunk(tiny_clip, noise_images[:11], list("abcd"), sizes, [0] * 4, image_blocks=1, text_blocks=1)
    seen = []
    towers = TunedTowers(copy.deepcopy(tiny_clip.model), 1, 1)
    towers.register_forward_pre_hook(lambda module, given: seen.append(given[0].sizes))
    for rows in (1, 2, 6):
        classifier._trial(towers, trunk, preference_loss, local_accelerator("cpu"), rows)
    assert seen == [[4], [4, 3], [4, 3, 2, 2, 4, 3]]
    assert all(weight.grad is None for weight in towers.parameters())


def test_trunks_cut_elsewhere_are_refused(tiny_clip: Clip, trunk: Trunk, noise_images) -> None:
    with pytest.raises(ValueError, match="cut at different blocks: cache both with the same settings"):
        train_classifier(tiny_clip, trunk, trunk_of(tiny_clip, noise_images, 2, 1), **SETTINGS)


def test_a_loss_that_is_no_number_stops_the_training(tiny_clip: Clip, trunk: Trunk) -> None:
    with pytest.raises(RuntimeError, match=r"the loss is nan at step 0: lower lr \(it is 0\.001\)"):
        train_classifier(tiny_clip, trunk, trunk, **SETTINGS, loss=lambda logits, _: logits[0, 0] * math.nan)


def test_the_rate_warms_up_and_falls_along_half_a_cosine(tiny_clip: Clip, trunk: Trunk) -> None:
    rates: dict[int, float] = {}

    def log(values: dict[str, float], step: int) -> None:
        if "lr" in values:
            rates[step] = values["lr"]

    options = {**SETTINGS, "epochs": 5.0, "batch_size": 4, "lr": 0.01}
    train_classifier(tiny_clip, trunk, trunk, warmup=3, log=log, **options)
    steps = round(5.0 * len(trunk) / 4)
    expected = [
        0.01 * min(1.0, (k + 1) / 4) * (1 + math.cos(math.pi * k / steps)) / 2 for k in range(steps)
    ]  # 1/4, 2/4, 3/4 and then all of the cosine
    assert sorted(rates) == list(range(1, steps + 1))
    assert list(rates.values()) == pytest.approx(expected, rel=1e-12)
    assert rates[1] == 0.0025 and rates[steps] < 0.01 * 0.05


def test_the_cosine_ends_at_zero_and_never_below() -> None:
    assert warmed_cosine(0, 10, 0) == 1.0 and warmed_cosine(10, 10, 0) == pytest.approx(0.0, abs=1e-15)
    assert warmed_cosine(15, 10, 0) == pytest.approx(0.0, abs=1e-15), "a step past the end stays at the end"
    assert warmed_cosine(5, 10, 0) == pytest.approx(0.5)
