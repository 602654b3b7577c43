"""The cosine of an image and its prompt in the two towers of a CLIP: CLIP score and Human Preference Score.

Each distinct prompt is encoded once, images in batches across prompts, and an image is compared with its own
prompt only: never the B x B matrix of which the released code keeps the diagonal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from hpslib.scores.clip import Clip, check_prompts, encode_images, encode_prompts
from hpslib.scores.pixels import Mode, Preprocessing

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["clip_scores", "cosines", "hps"]


def clip_scores(
    clip: Clip,
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    batch_size: int = 64,
    mode: Mode | Preprocessing | None = None,
) -> np.ndarray:
    """Cosine of each image with its own prompt: float64 (n,) in [-1, 1] (Hessel et al., 2021, without the factor 2.5).

    Images are preprocessed as the model was trained, or as ``mode`` says (:class:`hpslib.scores.pixels.Preprocessing`);
    ``batch_size`` is how many are encoded together. Raises ``ValueError`` when the lengths differ or a prompt is empty
    or no text.
    """
    check_prompts(prompts, len(images))
    return cosines(encode_images(clip, images, batch_size, mode), encode_prompts(clip, prompts))


def cosines(image_features: Tensor, text_features: Tensor) -> np.ndarray:
    """Row by row dot products of two (n, d) arrays of unit vectors, float64 (n,)."""
    return (image_features.double() * text_features.double()).sum(-1).numpy()


def hps(classifier: Clip, images: Sequence[Image.Image], prompts: Sequence[str], batch_size: int = 64) -> np.ndarray:
    """Human Preference Score: 100 x the cosine in the tuned towers (paper, section 4), float64 (n,).

    Only differences between images of *one* prompt mean anything; scores of different prompts are not comparable.
    Images are preprocessed as the classifier was trained: ours are padded to a square. Raises ``ValueError`` as
    :func:`clip_scores` does.
    """
    return 100 * clip_scores(classifier, images, prompts, batch_size)
