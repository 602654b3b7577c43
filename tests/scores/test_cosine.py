from __future__ import annotations

import numpy as np
import pytest

from hpslib.scores.clip import Clip, encode_images, encode_prompts
from hpslib.scores.cosine import clip_scores, hps

PROMPTS = ["a red dog", "a cat", "a red dog", "nine hats"] * 6


def test_clip_scores_are_the_diagonal_of_the_whole_matrix(tiny_clip: Clip, noise_images) -> None:
    whole = encode_images(tiny_clip, noise_images).double() @ encode_prompts(tiny_clip, PROMPTS).double().T
    scores = clip_scores(tiny_clip, noise_images, PROMPTS, batch_size=5)
    assert scores.dtype == np.float64 and np.abs(scores).max() <= 1
    np.testing.assert_allclose(scores, whole.diagonal(), atol=1e-6)


def test_permuting_the_pairs_permutes_the_scores(tiny_clip: Clip, noise_images, rng) -> None:
    order = rng.permutation(24)
    moved = clip_scores(tiny_clip, [noise_images[k] for k in order], [PROMPTS[k] for k in order])
    np.testing.assert_allclose(moved, clip_scores(tiny_clip, noise_images, PROMPTS)[order], atol=1e-6)


def test_hps_is_a_hundred_times_the_cosine(tiny_clip: Clip, noise_images) -> None:
    np.testing.assert_allclose(
        hps(tiny_clip, noise_images, PROMPTS), 100 * clip_scores(tiny_clip, noise_images, PROMPTS)
    )


def test_unequal_lengths_are_refused(tiny_clip: Clip, noise_images) -> None:
    with pytest.raises(ValueError, match=r"^there are 24 images but 1 prompts: hand over one prompt for each image\.$"):
        clip_scores(tiny_clip, noise_images, ["a dog"])


def test_an_empty_prompt_is_named(tiny_clip: Clip, noise_images) -> None:
    with pytest.raises(ValueError, match=r"^the prompt of image 1 \(from 0\) is empty \(2 in all\): give a text"):
        clip_scores(tiny_clip, noise_images[:3], ["a dog", " ", ""])
