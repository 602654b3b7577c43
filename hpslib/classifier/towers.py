"""The two towers cut in two: a frozen trunk, and the last blocks that are tuned, as one module to train.

The paper tunes the last 10 of 24 image and 6 of 12 text blocks of ViT-L/14 (section 4); final norms, projections and
``logit_scale`` are tuned too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hpslib.classifier.loss import group_logits
from hpslib.scores.clip import ClipModel

__all__ = ["Batch", "TunedTowers", "check_blocks", "image_trunk", "pools_first_token", "set_trainable", "text_trunk"]


def set_trainable(model: ClipModel, image_blocks: int, text_blocks: int) -> list[str]:
    """Freeze all but the last blocks of both towers, their final norms and projections, and ``logit_scale``.

    Returns the names of the trainable parameters. With ``image_blocks=0`` only the final norm and projection of
    the image tower are tuned. The paper tunes 10 of 24 and 6 of 12 (ViT-L/14).
    """
    visual, text = check_blocks(model, image_blocks, text_blocks)
    prefixes = ["visual.ln_post.", "visual.proj", "ln_final.", "text_projection", "logit_scale"]
    prefixes += [f"visual.transformer.resblocks.{k}." for k in range(visual - image_blocks, visual)]
    prefixes += [f"transformer.resblocks.{k}." for k in range(text - text_blocks, text)]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(tuple(prefixes)))
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def check_blocks(model: ClipModel, image_blocks: int, text_blocks: int) -> tuple[int, int]:
    """The number of blocks of both towers, image and text. Raises ``ValueError`` when more are asked for."""
    counts = len(model.visual.transformer.resblocks), len(model.transformer.resblocks)
    for name, asked, blocks in zip(("image_blocks", "text_blocks"), (image_blocks, text_blocks), counts):
        if not 0 <= asked <= blocks:
            raise ValueError(f"{name} is {asked}: this tower has {blocks} blocks, so choose 0 to {blocks}.")
    return counts


class Batch(NamedTuple):
    """Some groups on their way into the tuned part.

    ``image`` holds activations (images, tokens, width), or pixels (images, 3, size, size) that still have to go through
    the frozen trunk; ``text`` activations (groups, context, width) or ``None``; ``tokens`` (groups, context) int64;
    ``sizes`` the number of images of each group.
    """

    image: Tensor
    text: Tensor | None
    tokens: Tensor
    sizes: list[int]


def image_trunk(model: ClipModel, pixels: Tensor, blocks: int) -> Tensor:
    """Pixels (n, 3, size, size) -> activations (n, tokens, width) in front of the last ``blocks`` image blocks."""
    resblocks = list(model.visual.transformer.resblocks)
    x = model.visual._embeds(pixels)
    for block in resblocks[: len(resblocks) - blocks]:
        x = block(x)
    return x


def pools_first_token(model: ClipModel) -> bool:
    """Whether behind its last block the image tower looks at the class token alone, the first, as OpenAI's does."""
    return model.visual.attn_pool is None and model.visual.pool_type == "tok"


def text_trunk(model: ClipModel, tokens: Tensor, blocks: int) -> Tensor:
    """Tokens (n, context) -> activations (n, context, width) in front of the last ``blocks`` text blocks."""
    resblocks = list(model.transformer.resblocks)
    x = model.token_embedding(tokens) + model.positional_embedding
    for block in resblocks[: len(resblocks) - blocks]:
        x = block(x, attn_mask=model.attn_mask)
    return x


class TunedTowers(nn.Module):
    """The forward pass of training as one module, which Accelerate can wrap: a :class:`Batch` -> padded logits.

    ``gradient_checkpointing`` computes the tuned blocks again in the backward pass instead of keeping what is inside
    them: about a third more time, a fraction of the memory.
    """

    def __init__(
        self, model: ClipModel, image_blocks: int, text_blocks: int, gradient_checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.model, self.blocks = model, (image_blocks, text_blocks)
        self.gradient_checkpointing = gradient_checkpointing

    def forward(self, batch: Batch) -> Tensor:
        """Logits (groups, largest n), padded with -inf."""
        model, device = self.model, next(self.model.parameters()).device
        image_blocks, text_blocks = self.blocks
        tokens, image = batch.tokens.to(device), batch.image.to(device)
        text = None if batch.text is None else batch.text.to(device)
        with torch.no_grad():
            if image.ndim == 4:
                image = image_trunk(model, image, image_blocks)
            if text is None:
                text = text_trunk(model, tokens, text_blocks)
        x = self._tuned(model.visual.transformer.resblocks, image.float(), image_blocks)
        pooled, _ = model.visual._pool(x)
        image_features = F.normalize((pooled @ model.visual.proj).float(), dim=-1)
        x = self._tuned(model.transformer.resblocks, text.float(), text_blocks, attn_mask=model.attn_mask)
        pooled = model.ln_final(x)[torch.arange(len(x)), tokens.argmax(-1)]
        text_features = F.normalize((pooled @ model.text_projection).float(), dim=-1)
        return group_logits(image_features, text_features, batch.sizes, model.logit_scale.exp())

    def _tuned(self, resblocks: Any, x: Tensor, blocks: int, **options: Any) -> Tensor:
        for block in list(resblocks)[len(resblocks) - blocks :]:
            if self.gradient_checkpointing and self.training:
                x = checkpoint(block, x, use_reentrant=False, **options)
            else:
                x = block(x, **options)
        return x
