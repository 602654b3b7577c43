"""The eyes of the simulated raters: small networks that see attributes, flaws and qualities in any image.

Generated images come without labels. An *eye* is a convolutional network trained on drawings, whose truth is known, and
on their reconstructions by the autoencoder, whose look generated images share. Eye A is what the simulated raters
choose with. Eye B is smaller, trained apart on other drawings, labels nothing, and judges the final evaluation only.
Both look at a picture at half its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from hpslib.critters import eyes as first
from hpslib.critters.attributes import ATTRIBUTES, FLAWS
from hpslib.critters.second.attributes import QUALITIES
from hpslib.critters.second.pen import SIZE

__all__ = ["Eye", "Seen", "halved", "look", "to_pixels"]


class Eye(first.Eye):
    """Convolutional network, (n, 3, 64, 64) in [0, 1] -> logits (n, 24 + 6 + 6): attributes, flaws, qualities."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        outputs = sum(len(values) for values in ATTRIBUTES.values()) + len(FLAWS) + len(QUALITIES)
        self.head = nn.Sequential(nn.Linear(24 * 64, 128), nn.ReLU(), nn.Linear(128, outputs))


@dataclass(frozen=True)
class Seen(first.Seen):
    """What an eye sees in n images; ``vividness`` is measured, the mean saturation of the pixels in [0, 1].

    ``attributes[name]`` is (n, classes) of probabilities; ``flaws`` (n, 6) of probabilities in the order of
    :data:`hpslib.critters.attributes.FLAWS`; ``qualities`` (n, 6) of estimates in [0, 1] in that of
    :data:`hpslib.critters.second.attributes.QUALITIES`.
    """

    qualities: np.ndarray

    def quality(self, name: str) -> np.ndarray:
        """(n,) estimates of one quality."""
        return self.qualities[:, QUALITIES.index(name)]


def halved(images: np.ndarray) -> np.ndarray:
    """uint8 (n, h, w, 3) at half the size: the mean of each square of four pixels, rounded."""
    n, high, wide, _ = images.shape
    return ((images.reshape(n, high // 2, 2, wide // 2, 2, 3).sum(axis=(2, 4), dtype=np.uint16) + 2) // 4).astype(
        np.uint8
    )


def to_pixels(images: Sequence[Any] | np.ndarray) -> Tensor:
    """PIL images or a uint8 array (n, 128, 128, 3) -> float32 (n, 3, 64, 64) in [0, 1].

    PIL images of other sizes are resized; ``ValueError`` for an array of another.
    """
    if not isinstance(images, np.ndarray):
        whole = [
            image if image.size == (SIZE, SIZE) else image.resize((SIZE, SIZE), Image.Resampling.BOX)
            for image in images
        ]
        images = np.stack([np.asarray(image.convert("RGB")) for image in whole])
    if images.shape[1:] != (SIZE, SIZE, 3):
        raise ValueError(f"the images have shape {images.shape}: give (n, {SIZE}, {SIZE}, 3).")
    return torch.from_numpy(halved(images)).permute(0, 3, 1, 2).float().div(255)


def look(eye: Eye, images: Sequence[Any] | np.ndarray, batch_size: int = 256) -> Seen:
    """Let an eye see ``images`` (PIL or a uint8 array of shape (n, 128, 128, 3)).

    Raises ``ValueError`` when there is none.
    """
    attributes, chances, vividness = first.eye_outputs(eye, images, to_pixels, batch_size)
    flaws, qualities = np.split(chances, [len(FLAWS)], axis=1)
    return Seen(attributes, flaws, vividness, qualities)
