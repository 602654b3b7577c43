"""What the classifier is trained from: activations of the frozen trunk, kept, or images read again and again.

Only the last blocks of each tower are tuned. What stands before them is frozen, and a frozen trunk gives the same
activations in every epoch: for a small set they are computed once and kept (:func:`cache_trunk`). A set whose
activations fill no memory any more, such as HPD v1 at ViT-L/14's size (42 GB in float16), is read image by image
(:func:`stream_trunk`). Both give the same batches to the same forward pass,
:class:`hpslib.classifier.towers.TunedTowers`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from hpslib.classifier.towers import (
    Batch,
    TunedTowers,
    check_blocks,
    image_trunk,
    pools_first_token,
    text_trunk,
)
from hpslib.data.groups import flatten_groups
from hpslib.data.images.lazy import names_of, take
from hpslib.runs.distributed import ahead, fast_dtype
from hpslib.runs.files import digest
from hpslib.scores.clip import Clip, ClipModel
from hpslib.scores.pixels import preprocess
from hpslib.scores.tokens import check_texts

__all__ = [
    "Stream",
    "Trunk",
    "cache_trunk",
    "dataset_trunk",
    "evaluate_trunk",
    "stream_trunk",
    "trunk_logits",
]


@dataclass(frozen=True)
class Trunk:
    """Activations in front of the tuned blocks, in the order of the data they were made from.

    ``image`` (images, tokens, width) and ``text`` (groups, context, width), float16; ``tokens`` (groups, context);
    ``starts`` (groups + 1,): group g owns images ``starts[g]:starts[g + 1]``; ``choices`` (groups,) int64. Where no
    image block is tuned and the class token alone is looked at, it is the only one in ``image``.
    """

    image: Tensor
    text: Tensor
    tokens: Tensor
    starts: Tensor
    choices: Tensor
    image_blocks: int
    text_blocks: int

    def __len__(self) -> int:
        return len(self.choices)

    def batch(self, groups: Tensor) -> Batch:
        """The activations of the named groups."""
        rows = _rows(self.starts, groups)
        return Batch(self.image[rows], self.text[groups], self.tokens[groups], _sizes(self.starts, groups))

    def image_digest(self) -> str:
        """What tells these images from others, for a checkpoint."""
        return digest(self.image)

    def with_choices(self, choices: Sequence[int]) -> Trunk:
        """The same images, chosen from by somebody else. Raises ``ValueError`` for a choice no group offers."""
        return replace(self, choices=_checked_choices(choices, (self.starts[1:] - self.starts[:-1]).tolist()))

    def subset(self, groups: Sequence[int] | Tensor) -> Trunk:
        """Some of the groups, in the order named: an activation is computed once, whatever is then done with it."""
        rows, images, shared = _subset(self, groups)
        return replace(self, image=self.image[images], text=self.text[rows], **shared)


@dataclass(frozen=True)
class Stream:
    """The same groups with nothing kept: images are opened and preprocessed for each batch.

    ``images`` opens an image when it is asked for (:class:`hpslib.data.images.lazy.LazyImages`); ``place`` (images,)
    says where in ``images`` each image of the groups lies.
    """

    images: Sequence[Image.Image]
    place: Tensor
    tokens: Tensor
    starts: Tensor
    choices: Tensor
    image_blocks: int
    text_blocks: int
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __len__(self) -> int:
        return len(self.choices)

    def batch(self, groups: Tensor) -> Batch:
        """The pixels of the named groups, padded to a square as in the training of HPS v1."""
        images = take(self.images, self.place[_rows(self.starts, groups)].tolist())
        pixels = preprocess(images, self.size, self.mean, self.std)
        return Batch(pixels, None, self.tokens[groups], _sizes(self.starts, groups))

    def image_digest(self) -> str:
        """What tells these images from others, for a checkpoint: their names, or pixels where they have none."""
        return digest(*names_of(self.images, self.place.tolist()))

    def subset(self, groups: Sequence[int] | Tensor) -> Stream:
        """Some of the groups, in the order named."""
        _, images, shared = _subset(self, groups)
        return replace(self, place=self.place[images], **shared)


def _subset(trunk: Trunk | Stream, groups: Sequence[int] | Tensor) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Rows of the groups and of their images, and what both kinds of trunk hold of these groups."""
    rows = torch.as_tensor(groups, dtype=torch.int64)
    starts = F.pad((trunk.starts[rows + 1] - trunk.starts[rows]).cumsum(0), (1, 0))
    shared = {"tokens": trunk.tokens[rows], "starts": starts, "choices": trunk.choices[rows]}
    return rows, _rows(trunk.starts, rows), shared


def _checked_choices(choices: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """int64 (groups,); a choice that points at padding would make the loss infinite, so it is refused by its group."""
    chosen = np.asarray(choices)
    if chosen.shape != (len(sizes),) or chosen.dtype.kind not in "iu":
        raise ValueError(
            f"choices of shape {chosen.shape} and type {chosen.dtype} for {len(sizes)} groups: give one index each."
        )
    for group, (choice, size) in enumerate(zip(chosen.tolist(), sizes)):
        if choice == -1:
            raise ValueError(
                f"the choice of group {group} is -1, a tie: leave such groups out (hpslib.data.rankings.decided)."
            )
        if not 0 <= choice < size:
            raise ValueError(
                f"the choice of group {group} is {choice}, but its images are 0 to {size - 1}: correct it."
            )
    return torch.as_tensor(chosen, dtype=torch.int64)


def _rows(starts: Tensor, groups: Tensor) -> Tensor:
    """The image rows of these groups, group by group."""
    return torch.cat([torch.arange(int(starts[g]), int(starts[g + 1])) for g in groups.tolist()])


def _sizes(starts: Tensor, groups: Tensor) -> list[int]:
    return (starts[groups + 1] - starts[groups]).tolist()


def _checked_groups(
    clip: Clip,
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    sizes: Sequence[int],
    choices: Sequence[int],
    blocks: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, starts and choices of the groups, refused where they do not fit together."""
    if not len(prompts) == len(sizes) > 0 or sum(sizes) != len(images):
        raise ValueError(
            f"{len(images)} images and {len(prompts)} prompts do not make {len(sizes)} groups of {sum(sizes)} images: "
            "hand over one prompt per group and the groups' images in order."
        )
    check_blocks(clip.model, *blocks)
    check_texts(prompts)
    starts = F.pad(torch.as_tensor(list(sizes)).cumsum(0), (1, 0))
    return clip.tokenize(list(prompts)), starts, _checked_choices(choices, sizes)


def stream_trunk(
    clip: Clip,
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    sizes: Sequence[int],
    choices: Sequence[int],
    *,
    image_blocks: int,
    text_blocks: int,
) -> Stream:
    """The groups for training without a cache. ``prompts`` holds one text per group; errors as :func:`cache_trunk`."""
    tokens, starts, choice = _checked_groups(clip, images, prompts, sizes, choices, (image_blocks, text_blocks))
    place, size, mean, std = torch.arange(len(images)), clip.image_size, clip.mean, clip.std
    return Stream(images, place, tokens, starts, choice, image_blocks, text_blocks, size, mean, std)


@torch.no_grad()  # not inference_mode: its tensors could not take part in training
def cache_trunk(
    clip: Clip,
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    sizes: Sequence[int],
    choices: Sequence[int],
    *,
    image_blocks: int,
    text_blocks: int,
    batch_size: int = 64,
) -> Trunk:
    """Run the frozen part of both towers once. ``prompts`` holds one text per group.

    float16 storage rounds the activations by about 0.05 %; training from them is otherwise the same computation.

    Raises ``ValueError`` when images, prompts, sizes and choices do not make the same groups or a tower has fewer
    blocks.
    """
    tokens, starts, choice = _checked_groups(clip, images, prompts, sizes, choices, (image_blocks, text_blocks))
    seen = slice(1) if image_blocks == 0 and pools_first_token(clip.model) else slice(None)

    def of_images(rows: range) -> Tensor:
        pixels = preprocess(take(images, rows), clip.image_size, clip.mean, clip.std)
        return image_trunk(clip.model, pixels.to(clip.device), image_blocks)[:, seen].half().cpu()

    def of_texts(rows: range) -> Tensor:
        return text_trunk(clip.model, tokens[rows.start : rows.stop].to(clip.device), text_blocks).half().cpu()

    with torch.autocast(clip.device.type, torch.float16, enabled=clip.device.type == "cuda"):
        image = _filled(map(of_images, _batches(len(images), batch_size)), len(images))
        text = _filled(map(of_texts, _batches(len(tokens), batch_size)), len(tokens))
    return Trunk(image, text, tokens, starts, choice, image_blocks, text_blocks)


def _batches(count: int, size: int) -> list[range]:
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _filled(parts: Iterable[Tensor], count: int) -> Tensor:
    """The parts one behind the other, ``count`` rows in all, without holding them twice as ``torch.cat`` would."""
    whole, end = torch.empty(0), 0
    for part in parts:
        if end == 0:
            whole = part.new_empty(count, *part.shape[1:])
        whole[end : end + len(part)] = part
        end += len(part)
    return whole


def dataset_trunk(
    clip: Clip,
    dataset: Any,
    root: str | Path | None = None,
    *,
    image_blocks: int,
    text_blocks: int,
    cache: bool = False,
) -> Trunk | Stream:
    """The groups of a dataset as :func:`hpslib.classifier.training.train_classifier` takes them.

    With ``cache`` the frozen part of both towers runs once, here (:func:`cache_trunk`): for small sets. Otherwise
    images are opened as the loop asks for them (:func:`stream_trunk`). Raises ``ValueError`` as these two do.
    """
    images, _, sizes = flatten_groups(dataset, root)
    make = cache_trunk if cache else stream_trunk
    prompts, choices = dataset["prompt"], dataset["human_preference"]
    return make(clip, images, prompts, sizes, choices, image_blocks=image_blocks, text_blocks=text_blocks)


def trunk_logits(model: ClipModel, trunk: Trunk | Stream, groups: Tensor) -> Tensor:
    """Logits of the named groups (groups, largest n): with cached activations, the tuned part of both towers only."""
    return TunedTowers(model, trunk.image_blocks, trunk.text_blocks)(trunk.batch(groups))


@torch.no_grad()
def evaluate_trunk(
    model: ClipModel,
    trunk: Trunk | Stream,
    batch_size: int = 64,
    groups: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Logits of all groups, or of the named ones (groups, largest n of all), on the CPU.

    ``dtype`` is that of the computation, by default :func:`hpslib.runs.distributed.fast_dtype`.
    """
    rows = torch.arange(len(trunk)) if groups is None else groups
    width = int((trunk.starts[1:] - trunk.starts[:-1]).max())
    device = next(model.parameters()).device
    dtype = dtype or fast_dtype(device)
    towers = TunedTowers(model, trunk.image_blocks, trunk.text_blocks)
    batches = ahead(trunk.batch, rows.split(batch_size), depth=int(device.type == "cuda"))
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        parts = [towers(batch).cpu() for batch in batches]
    return torch.cat([F.pad(part, (0, width - part.shape[1]), value=-math.inf) for part in parts])
