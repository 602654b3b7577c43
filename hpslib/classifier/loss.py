"""The loss of the preference classifier: an n-way softmax over the images of one prompt (paper, section 4).

    logits_i = exp(logit_scale) * cos(image_i, prompt)        loss = cross_entropy(logits, chosen)

Groups have 2 to 4 images, so logits are padded with -inf (the n-way form of the successor's code).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["group_logits", "preference_loss", "top1"]


def group_logits(
    image_features: Tensor, text_features: Tensor, sizes: Sequence[int], logit_scale: Tensor | float
) -> Tensor:
    """Logits (groups, largest n), padded with -inf.

    ``image_features`` (sum of sizes, d) and ``text_features`` (groups, d) are unit vectors; ``logit_scale`` is the
    factor itself, not its logarithm.
    """
    if sum(sizes) != len(image_features) or len(sizes) != len(text_features):
        raise ValueError(
            f"{len(image_features)} images and {len(text_features)} prompts do not make {len(sizes)} groups of "
            f"{sum(sizes)} images: hand over one prompt per group and the groups' images in order."
        )
    owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.as_tensor(sizes), output_size=sum(sizes))
    cosine = (image_features * text_features[owner]).sum(-1)
    place = torch.cat([torch.arange(n) for n in sizes])
    logits = cosine.new_full((len(sizes), max(sizes)), -math.inf)
    return logits.index_put((owner, place), logit_scale * cosine)


def preference_loss(logits: Tensor, choices: Tensor) -> Tensor:
    """Mean cross-entropy over groups; padding at -inf takes no probability and receives no gradient."""
    return F.cross_entropy(logits, choices)


def top1(logits: Tensor, choices: Tensor) -> float:
    """Share of groups whose largest logit is the chosen image's."""
    return float((logits.argmax(1) == choices).float().mean())
