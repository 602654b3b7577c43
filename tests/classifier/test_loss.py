from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from small_trunk import CHOICES, SIZES, unit

from hpslib.classifier.loss import group_logits, preference_loss, top1


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
