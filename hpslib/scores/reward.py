"""A preference score as a reward: differentiable from the number back to the pixels.

What DDPO, AlignProp, DRaFT and GRPO call takes a batch of images and their prompts and gives one number per image::

    reward = Reward(load_scorer("hpslib", "hps/", "cuda"))
    loss = -reward(pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample / 2 + 0.5, prompts).mean()
    reward_fn = lambda images, prompts, metadata: (reward(images, prompts), {})  # TRL and ddpo-pytorch

The first two lines are a step of DRaFT or AlignProp (``loss.backward()``), the last fits trainers that only want the
numbers. GRPO compares images of one prompt, and only such differences of a preference score mean anything.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hpslib.scores.aesthetic import AestheticHead
from hpslib.scores.clip import Clip, ClipModel, check_prompts, encode_prompts
from hpslib.scores.pixels import Preprocessing
from hpslib.scores.scorers import Scorer

__all__ = ["AestheticScorer", "Reward"]

_KEPT_PROMPTS = 4096  # of each text tower: 16 MB for ViT-H/14
_STRAY = 0.01  # share of values that may lie far outside [0, 1]


@dataclass(frozen=True)
class AestheticScorer:
    """A rating of the image alone: an aesthetic head on the embeddings of the CLIP that it was trained with."""

    clip: Clip
    head: AestheticHead

    @property
    def looks(self) -> tuple[Preprocessing, int]:
        """How an image becomes a square, and the square's side in pixels."""
        return self.clip.preprocessing, self.clip.image_size


class Reward:
    """The weighted sum of several scores as a function of (images, prompts).

    ``scorers`` are those of :func:`hpslib.scores.scorers.load_scorer` that are made of a CLIP (HPS v1, v2, v2.1,
    PickScore, CLIP score, a folder of one's own) and :class:`AestheticScorer`; each counts on the scale its authors
    use, times its weight (1 by default). The work is done where the scorers are. Their weights are looked at, not
    copied, and get no gradient; make a new ``Reward`` after they were trained further, since the features of prompts
    are kept. ``gradient_checkpointing`` saves memory in the image towers for a third more time.

    Towers of one model that look at images alike are run once. Raises ``ValueError`` for other scorers, weights that
    are no finite numbers or not one for each, and an aesthetic head of another CLIP.
    """

    def __init__(
        self,
        *scorers: Scorer | AestheticScorer,
        weights: Sequence[float] | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        self.weights = _checked_weights(scorers, weights)
        models = {id(scorer.clip.model): scorer.clip.model for scorer in scorers}
        views = {key: _view(model) for key, model in models.items()}
        if gradient_checkpointing:
            for view in views.values():
                view.visual.set_grad_checkpointing(True)
        self._scorers = [
            replace(scorer, clip=replace(scorer.clip, model=views[id(scorer.clip.model)])) for scorer in scorers
        ]
        self._texts: dict[int, dict[str, Tensor]] = {id(view): {} for view in views.values()}

    def __call__(self, images: Tensor, prompts: str | Sequence[str]) -> Tensor:
        """One number per image: float32 (n,) on the images' device, with a gradient if they have one.

        ``images`` is floating point (n, 3, height, width) in [0, 1], values slightly outside too; ``prompts`` one text
        for each, or one for all. Raises ``ValueError`` for other images (bytes, values from -1 to 1) and as
        :func:`hpslib.scores.clip.check_prompts` does.
        """
        each = self.each(images, prompts)
        return (each * each.new_tensor(self.weights)).sum(-1)  # no matrix product, which autocast would round

    def each(self, images: Tensor, prompts: str | Sequence[str]) -> Tensor:
        """The numbers of every scorer before they are weighted, float32 (n, scorers).

        An image of the tower's own size scores as its file does (1e-4 of the cosine, or better). A larger one is scaled
        as Pillow does, but not rounded to whole numbers twice: its pixels differ by at most 1.2 of 255. That moved the
        cosine by 0.0001 in a ViT-B/32 with random weights, and by up to 0.005 in the miniature world's small towers,
        whose cosines span more than 0.05 over a few images. Images are computed in float32, or as the caller's
        ``torch.autocast`` says; prompts as everywhere (:func:`hpslib.scores.clip.encode_prompts`).
        """
        _check_images(images)
        texts = [prompts] * len(images) if isinstance(prompts, str) else list(prompts)
        check_prompts(texts, len(images))
        seen: dict[Any, Tensor] = {}
        columns = []
        for scorer in self._scorers:
            key = id(scorer.clip.model), scorer.clip.mean, scorer.clip.std, *scorer.looks
            if key not in seen:
                seen[key] = _encoded(scorer, images)
            features = seen[key]
            if isinstance(scorer, AestheticScorer):
                column = (features * scorer.head.weight.to(features)).sum(-1) + scorer.head.bias
            else:
                column = scorer.factor * (features * self._encoded_texts(scorer.clip, texts).to(features)).sum(-1)
            columns.append(column.to(images.device))
        for known in self._texts.values():
            for text in list(known)[: max(0, len(known) - _KEPT_PROMPTS)]:
                del known[text]
        return torch.stack(columns, dim=1)

    def _encoded_texts(self, clip: Clip, texts: Sequence[str]) -> Tensor:
        """Unit vectors (n, embed_dim) without a gradient; those of new texts are remembered."""
        known = self._texts[id(clip.model)]
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            with torch.inference_mode(False):  # what is made in that mode could not be used in a backward pass later
                known |= zip(new, encode_prompts(clip, new).to(clip.device))
        return torch.stack([known[text] for text in texts])


def _checked_weights(scorers: Sequence[Any], weights: Sequence[float] | None) -> list[float]:
    if not scorers:
        raise ValueError("there is no scorer to make a reward of: hand over at least one, from load_scorer.")
    for scorer in scorers:
        if not isinstance(scorer, Scorer | AestheticScorer):
            raise ValueError(
                f"a {type(scorer).__name__} is no differentiable reward: use scorers that are made of a CLIP "
                "(load_scorer of HPS, PickScore or clip) and AestheticScorer."
            )
        width = scorer.clip.config["model_cfg"]["embed_dim"]
        if isinstance(scorer, AestheticScorer) and len(scorer.head.weight) != width:
            raise ValueError(
                f"the aesthetic head rates embeddings of {len(scorer.head.weight)} numbers, its CLIP has {width}: use "
                "it with the CLIP it was trained on."
            )
    numbers = [1.0] * len(scorers) if weights is None else [float(weight) for weight in weights]
    if len(numbers) != len(scorers) or not all(map(math.isfinite, numbers)):
        raise ValueError(f"weights is {weights!r} for {len(scorers)} scorers: give one finite number for each.")
    return numbers


def _view(model: ClipModel) -> ClipModel:
    """The same model once more, on the same numbers in memory, frozen and in eval mode whatever its owner does."""
    shared: dict[int, Tensor] = {id(one): nn.Parameter(one.detach(), False) for one in model.parameters()}
    shared |= {id(one): one.detach() for one in model.buffers()}
    return copy.deepcopy(model, shared).eval()


def _check_images(images: Any) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point() or images.ndim != 4 or images.shape[1] != 3:
        form = f"{images.dtype} {list(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"the images are {form}: hand over a floating-point tensor (n, 3, height, width) in [0, 1].")
    if 0 in images.shape:
        raise ValueError(f"the images are {list(images.shape)}, so there are none: hand over at least one.")
    values = images.detach()
    stray = ((values < -0.5) | (values > 1.5)).float().mean().item()
    if stray > _STRAY:
        low, high = values.min().item(), values.max().item()
        raise ValueError(
            f"the images have values from {low:.3g} to {high:.3g}, far outside [0, 1]: divide bytes by 255, and what a "
            "VAE decodes by 2, plus 0.5."
        )


def _encoded(scorer: Scorer | AestheticScorer, images: Tensor) -> Tensor:
    """Images (n, 3, height, width) -> unit vectors (n, embed_dim) with their gradient, where the scorer is."""
    clip, (how, size) = scorer.clip, scorer.looks
    weight = clip.model.visual.conv1.weight
    pixels = images.to(weight.device, torch.promote_types(images.dtype, torch.float32))
    mean, std = (pixels.new_tensor(numbers)[:, None, None] for numbers in (clip.mean, clip.std))
    pixels = (how.squares(pixels, size) - mean) / std
    features = clip.model.encode_image(pixels.to(weight.dtype))
    return nn.functional.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)
