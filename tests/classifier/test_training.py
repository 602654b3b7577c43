from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from PIL import Image

from hpslib.classifier.loss import group_logits, preference_loss, top1
from hpslib.classifier.towers import set_trainable
from hpslib.classifier.training import train_classifier
from hpslib.classifier.trunk import Trunk, cache_trunk, evaluate_trunk, trunk_logits
from hpslib.scores.clip import Clip, encode_images, encode_prompts

SIZES = [2, 4, 3, 2, 4, 3, 2, 4]
PROMPTS = ["a red dog", "a cat on grass", "nine hats", "rain", "an old boat", "a dog", "two cats", "a hat in the rain"]
CHOICES = [1, 0, 2, 0, 3, 1, 1, 2]


def trunk_of(clip: Clip, pictures, image_blocks: int = 1, text_blocks: int = 1, **changes) -> Trunk:
    given = {"images": pictures, "prompts": PROMPTS, "sizes": SIZES, "choices": CHOICES} | changes
    return cache_trunk(clip, **given, image_blocks=image_blocks, text_blocks=text_blocks, batch_size=5)


def unit(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=shape)), dim=-1)


# --- the loss --------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_log_softmax_of_each_group(rng: np.random.Generator) -> None:
    image, text, scale = unit(rng, 24, 6), unit(rng, 8, 6), 37.0
    loss = preference_loss(group_logits(image, text, SIZES, scale), torch.tensor(CHOICES))
    expected, start = [], 0
    for group, (size, choice) in enumerate(zip(SIZES, CHOICES)):
        logits = scale * image[start : start + size].numpy() @ text[group].numpy()
        expected.append(math.log(sum(math.exp(x - logits[choice]) for x in logits)))
        start += size
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-12)


def test_padding_takes_no_probability_and_gets_no_gradient(rng: np.random.Generator) -> None:
    image, text = unit(rng, 24, 6).requires_grad_(), unit(rng, 8, 6)
    logits = group_logits(image, text, SIZES, 10.0)
    logits.retain_grad()
    padded = torch.isinf(logits)
    assert padded.sum() == 8 * 4 - 24 and (logits[padded] == -math.inf).all()
    assert (logits.softmax(1)[padded] == 0).all()
    preference_loss(logits, torch.tensor(CHOICES)).backward()
    assert (logits.grad[padded] == 0).all() and (logits.grad[~padded] != 0).all()
    assert torch.isfinite(image.grad).all()


def test_a_group_of_two_does_not_depend_on_the_size_of_its_neighbours(rng: np.random.Generator) -> None:
    image, text = unit(rng, 6, 6), unit(rng, 2, 6)
    alone = preference_loss(group_logits(image[:2], text[:1], [2], 10.0), torch.tensor([1]))
    beside = group_logits(image, text, [2, 4], 10.0)
    assert torch.allclose(preference_loss(beside[:1], torch.tensor([1])), alone)


def test_permuting_the_images_of_a_group_permutes_its_logits(rng: np.random.Generator) -> None:
    image, text = unit(rng, 7, 6), unit(rng, 2, 6)
    logits = group_logits(image, text, [4, 3], 10.0)
    moved = group_logits(image[[2, 0, 3, 1, 4, 5, 6]], text, [4, 3], 10.0)
    assert torch.equal(moved[0], logits[0][[2, 0, 3, 1]]) and torch.equal(moved[1], logits[1])


def test_top1_counts_the_largest_logits() -> None:
    logits = torch.tensor([[1.0, 2.0, -math.inf], [3.0, 1.0, 2.0], [0.0, 1.0, 2.0], [5.0, 4.0, 3.0]])
    assert top1(logits, torch.tensor([1, 0, 0, 0])) == 0.75


def test_groups_that_do_not_fit_are_refused(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="5 images and 2 prompts do not make 2 groups of 6 images"):
        group_logits(unit(rng, 5, 6), unit(rng, 2, 6), [4, 2], 1.0)


# --- what is trained -------------------------------------------------------------------------------------------------

HEADS = {"logit_scale", "visual.proj", "text_projection"}
HEADS |= {f"{norm}.{part}" for norm in ("visual.ln_post", "ln_final") for part in ("weight", "bias")}


@pytest.mark.parametrize(("image_blocks", "text_blocks"), [(0, 0), (1, 0), (0, 1), (2, 2)])
def test_exactly_the_last_blocks_are_trainable(tiny_clip: Clip, image_blocks: int, text_blocks: int) -> None:
    names = set_trainable(tiny_clip.model, image_blocks, text_blocks)
    image = tuple(f"visual.transformer.resblocks.{k}." for k in range(2 - image_blocks, 2))
    text = tuple(f"transformer.resblocks.{k}." for k in range(2 - text_blocks, 2))
    everything = [name for name, _ in tiny_clip.model.named_parameters()]
    assert names == [
        n for n in everything if n in HEADS or (image and n.startswith(image)) or (text and n.startswith(text))
    ]
    assert names == [n for n, p in tiny_clip.model.named_parameters() if p.requires_grad]


def test_fewer_blocks_freeze_again_what_more_had_freed(tiny_clip: Clip) -> None:
    assert len(set_trainable(tiny_clip.model, 2, 2)) > len(set_trainable(tiny_clip.model, 0, 0)) == len(HEADS)


@pytest.mark.parametrize(("blocks", "text"), [((3, 0), "image_blocks is 3"), ((0, -1), "text_blocks is -1")])
def test_blocks_that_are_not_there_are_refused(tiny_clip: Clip, noise_images, blocks, text: str) -> None:
    for call in (lambda: set_trainable(tiny_clip.model, *blocks), lambda: trunk_of(tiny_clip, noise_images, *blocks)):
        with pytest.raises(ValueError, match=f"{text}: this tower has 2 blocks, so choose 0 to 2"):
            call()


# --- the trunk -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("image_blocks", "text_blocks"), [(0, 0), (1, 0), (1, 2), (2, 1)])
def test_cached_logits_are_uncached_ones(tiny_clip: Clip, noise_images, image_blocks: int, text_blocks: int) -> None:
    cached = evaluate_trunk(tiny_clip.model, trunk_of(tiny_clip, noise_images, image_blocks, text_blocks), batch_size=3)
    scale = tiny_clip.model.logit_scale.exp().item()
    direct = group_logits(encode_images(tiny_clip, noise_images), encode_prompts(tiny_clip, PROMPTS), SIZES, scale)
    torch.testing.assert_close(cached, direct, atol=scale * 2e-3, rtol=0)
    assert (direct[~torch.isinf(direct)].std() > scale * 1e-2).item()  # the tolerance is small against the differences


def test_the_trunk_holds_every_group_where_it_belongs(tiny_clip: Clip, noise_images) -> None:
    trunk = trunk_of(tiny_clip, noise_images)
    assert len(trunk) == 8 and trunk.image.shape == (24, 17, 32) and trunk.text.shape == (8, 16, 32)
    assert trunk.image.dtype == torch.float16 and trunk.starts.tolist() == [0, *np.cumsum(SIZES)]
    every = evaluate_trunk(tiny_clip.model, trunk)
    some = trunk_logits(tiny_clip.model, trunk, torch.tensor([6, 1]))
    torch.testing.assert_close(some, every[[6, 1]], atol=1e-4, rtol=1e-4)


def test_a_subset_is_the_same_groups(tiny_clip: Clip, noise_images) -> None:
    trunk = trunk_of(tiny_clip, noise_images)
    part = trunk.subset([6, 1, 2])
    assert part.choices.tolist() == [CHOICES[6], CHOICES[1], CHOICES[2]] and part.starts.tolist() == [0, 2, 6, 9]
    every = evaluate_trunk(tiny_clip.model, trunk)
    torch.testing.assert_close(evaluate_trunk(tiny_clip.model, part), every[[6, 1, 2]], atol=1e-4, rtol=1e-4)


def test_the_choices_of_a_trunk_can_be_trained_on(tiny_clip: Clip, noise_images) -> None:
    trunk = trunk_of(tiny_clip, noise_images)
    set_trainable(tiny_clip.model, 1, 1)
    preference_loss(trunk_logits(tiny_clip.model, trunk, torch.arange(8)), trunk.choices).backward()
    assert tiny_clip.model.visual.proj.grad.abs().sum() > 0
    assert tiny_clip.model.visual.conv1.weight.grad is None


def test_somebody_elses_choices(tiny_clip: Clip, noise_images) -> None:
    trunk = trunk_of(tiny_clip, noise_images)
    other = trunk.with_choices([0] * 8)
    assert other.choices.tolist() == [0] * 8 and trunk.choices.tolist() == CHOICES and other.image is trunk.image
    with pytest.raises(ValueError, match="the choice of group 0 is 2, but its images are 0 to 1"):
        trunk.with_choices([2] * 8)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"choices": [1, 0, 3, 0, 3, 1, 1, 2]}, "the choice of group 2 is 3, but its images are 0 to 2"),
        ({"choices": [-1, 0, 2, 0, 3, 1, 1, 2]}, "the choice of group 0 is -1"),
        ({"choices": CHOICES[:7]}, r"choices of shape \(7,\) and type int64 for 8 groups"),
        ({"choices": [float(c) for c in CHOICES]}, "type float64 for 8 groups: give one index each"),
        ({"prompts": PROMPTS[:7]}, "24 images and 7 prompts do not make 8 groups of 24 images"),
        ({"sizes": [*SIZES[:7], 5]}, "24 images and 8 prompts do not make 8 groups of 25 images"),
        ({"images": [], "prompts": [], "sizes": [], "choices": []}, "0 images and 0 prompts"),
    ],
)
def test_groups_that_do_not_fit_are_refused_before_any_work(tiny_clip: Clip, noise_images, changes, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        trunk_of(tiny_clip, noise_images, **changes)


# --- training --------------------------------------------------------------------------------------------------------

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
    trained = train_classifier(tiny_clip, favour, favour, **SETTINGS | {"lr": 0.01, "weight_decay": 0.0})
    assert trained.clip.model.logit_scale.item() <= math.log(100) + 1e-6


def test_another_loss_can_be_handed_in(tiny_clip: Clip, trunk: Trunk) -> None:
    seen = []

    def doubled(logits: torch.Tensor, choices: torch.Tensor) -> torch.Tensor:
        seen.append(logits.shape[0])
        return 2 * preference_loss(logits, choices)

    trained = train_classifier(tiny_clip, trunk, trunk, **SETTINGS | {"epochs": 1}, loss=doubled)
    plain = train_classifier(tiny_clip, trunk, trunk, **SETTINGS | {"epochs": 1})
    assert seen == [4, 4, 8] and trained.losses[0] == pytest.approx(2 * plain.losses[0])


def test_trunks_cut_elsewhere_are_refused(tiny_clip: Clip, trunk: Trunk, noise_images) -> None:
    with pytest.raises(ValueError, match="cut at different blocks: cache both with the same settings"):
        train_classifier(tiny_clip, trunk, trunk_of(tiny_clip, noise_images, 2, 1), **SETTINGS)


def test_a_loss_that_is_no_number_stops_the_training(tiny_clip: Clip, trunk: Trunk) -> None:
    with pytest.raises(RuntimeError, match=r"the loss is nan at step 0: lower lr \(it is 0\.001\)"):
        train_classifier(tiny_clip, trunk, trunk, **SETTINGS, loss=lambda logits, _: logits[0, 0] * math.nan)
