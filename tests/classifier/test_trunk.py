from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_trunk import CHOICES, PROMPTS, SIZES, trunk_of

from hpslib.classifier.loss import group_logits, preference_loss
from hpslib.classifier.towers import image_trunk, set_trainable
from hpslib.classifier.trunk import evaluate_trunk, trunk_logits
from hpslib.scores.clip import Clip, encode_images, encode_prompts


@pytest.mark.parametrize(("image_blocks", "text_blocks"), [(0, 0), (1, 0), (1, 2), (2, 1)])
def test_cached_logits_are_uncached_ones(tiny_clip: Clip, noise_images, image_blocks: int, text_blocks: int) -> None:
    trunk = trunk_of(tiny_clip, noise_images, image_blocks, text_blocks)
    cached = evaluate_trunk(tiny_clip.model, trunk, batch_size=3)
    scale = tiny_clip.model.logit_scale.exp().item()
    direct = group_logits(encode_images(tiny_clip, noise_images), encode_prompts(tiny_clip, PROMPTS), SIZES, scale)
    torch.testing.assert_close(cached, direct, atol=scale * 2e-3, rtol=0)
    torch.testing.assert_close(evaluate_trunk(tiny_clip.model, trunk, batch_size=1), cached, atol=1e-4, rtol=1e-4)
    assert (direct[~torch.isinf(direct)].std() > scale * 1e-2).item()  # the tolerance is small against the differences


def test_the_trunk_holds_every_group_where_it_belongs(tiny_clip: Clip, noise_images) -> None:
    trunk = trunk_of(tiny_clip, noise_images)
    assert len(trunk) == 8 and trunk.image.shape == (24, 17, 32) and trunk.text.shape == (8, 16, 32)
    assert trunk.image.dtype == torch.float16 and trunk.starts.tolist() == [0, *np.cumsum(SIZES)]
    every = evaluate_trunk(tiny_clip.model, trunk)
    some = trunk_logits(tiny_clip.model, trunk, torch.tensor([6, 1]))
    torch.testing.assert_close(some, every[[6, 1]], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("pool", "kept"), [("tok", 1), ("avg", 17)])
def test_without_tuned_image_blocks_only_what_is_looked_at_is_kept(
    tiny_clip: Clip, noise_images, pool: str, kept: int
) -> None:
    """And the loss and its gradients are those of all tokens."""
    tiny_clip.model.visual.pool_type = pool
    trunk = trunk_of(tiny_clip, noise_images, 0, 1)
    assert trunk.image.shape == (24, kept, 32) and trunk.text.shape == (8, 16, 32)
    with torch.no_grad():
        every = image_trunk(tiny_clip.model, tiny_clip.pixels(noise_images), 0).half()
    names = set_trainable(tiny_clip.model, 0, 1)
    gradients = []
    for tokens in (trunk, replace(trunk, image=every)):
        tiny_clip.model.zero_grad()
        preference_loss(trunk_logits(tiny_clip.model, tokens, torch.arange(8)), trunk.choices).backward()
        weights = dict(tiny_clip.model.named_parameters())
        gradients.append([weights[name].grad.clone() for name in names])
    torch.testing.assert_close(*gradients)


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
    with pytest.raises(ValueError, match="the choice of group 2 is 3, but its images are 0 to 2"):
        trunk.with_choices([0, 0, 3, 0, 0, 0, 0, 0])


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
