"""The human preference classifier: CLIP's two towers, tuned until they predict which image people choose.

For one prompt with n images the chosen one is the class (paper, section 4; the n-way form of the successor's code):

    logits_i = exp(logit_scale) * cos(image_i, prompt)        loss = cross_entropy(logits, chosen)

Groups have 2 to 4 images, so logits are padded with -inf. Only the last blocks of each tower are tuned. What
stands before them is frozen, and a frozen trunk gives the same activations in every epoch: they are computed once.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from hpslib.clip import Clip, preprocess
from hpslib.resume import continue_from, save_checkpoint

__all__ = [
    "Trained",
    "Trunk",
    "cache_trunk",
    "evaluate_trunk",
    "group_logits",
    "preference_loss",
    "set_trainable",
    "top1",
    "train_classifier",
    "trunk_logits",
]


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
    owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.as_tensor(sizes))
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


def set_trainable(model: nn.Module, image_blocks: int, text_blocks: int) -> list[str]:
    """Freeze all but the last blocks of both towers, their final norms and projections, and ``logit_scale``.

    Returns the names of the trainable parameters. With ``image_blocks=0`` only the final norm and projection of
    the image tower are tuned. The paper tunes 10 of 24 and 6 of 12 (ViT-L/14).
    """
    visual, text = _check_blocks(model, image_blocks, text_blocks)
    prefixes = ["visual.ln_post.", "visual.proj", "ln_final.", "text_projection", "logit_scale"]
    prefixes += [f"visual.transformer.resblocks.{k}." for k in range(visual - image_blocks, visual)]
    prefixes += [f"transformer.resblocks.{k}." for k in range(text - text_blocks, text)]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(tuple(prefixes)))
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def _check_blocks(model: nn.Module, image_blocks: int, text_blocks: int) -> tuple[int, int]:
    """The number of blocks of both towers; ``ValueError`` when more are asked for."""
    there = len(model.visual.transformer.resblocks), len(model.transformer.resblocks)  # type: ignore[union-attr,arg-type]
    for name, asked, blocks in zip(("image_blocks", "text_blocks"), (image_blocks, text_blocks), there):
        if not 0 <= asked <= blocks:
            raise ValueError(f"{name} is {asked}: this tower has {blocks} blocks, so choose 0 to {blocks}.")
    return there


@dataclass(frozen=True)
class Trunk:
    """Activations in front of the tuned blocks, in the order of the data they were made from.

    ``image`` (images, tokens, width) and ``text`` (groups, context, width), float16; ``tokens`` (groups, context);
    ``starts`` (groups + 1,): group g owns images ``starts[g]:starts[g + 1]``; ``choices`` (groups,) int64.
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

    def with_choices(self, choices: Sequence[int]) -> Trunk:
        """The same images, chosen from by somebody else. Raises ``ValueError`` for a choice no group offers."""
        return replace(self, choices=_checked_choices(choices, (self.starts[1:] - self.starts[:-1]).tolist()))

    def subset(self, groups: Sequence[int] | Tensor) -> Trunk:
        """Some of the groups, in the order named: an activation is computed once, whatever is then done with it."""
        wanted = torch.as_tensor(groups, dtype=torch.int64)
        sizes = (self.starts[1:] - self.starts[:-1])[wanted]
        return replace(
            self,
            image=self.image[_rows(self, wanted)],
            text=self.text[wanted],
            tokens=self.tokens[wanted],
            starts=F.pad(sizes.cumsum(0), (1, 0)),
            choices=self.choices[wanted],
        )


def _checked_choices(choices: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """int64 (groups,); a choice that points at padding would make the loss infinite, so it is refused by its group."""
    chosen = np.asarray(choices)
    if chosen.shape != (len(sizes),) or chosen.dtype.kind not in "iu":
        raise ValueError(
            f"choices of shape {chosen.shape} and type {chosen.dtype} for {len(sizes)} groups: give one index each."
        )
    for group, (choice, size) in enumerate(zip(chosen.tolist(), sizes)):
        if not 0 <= choice < size:
            raise ValueError(
                f"the choice of group {group} is {choice}, but its images are 0 to {size - 1}: correct it."
            )
    return torch.as_tensor(chosen, dtype=torch.int64)


def _rows(trunk: Trunk, groups: Tensor) -> Tensor:
    """The image rows of these groups, group by group."""
    return torch.cat([torch.arange(int(trunk.starts[g]), int(trunk.starts[g + 1])) for g in groups.tolist()])


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
    if not len(prompts) == len(sizes) > 0 or sum(sizes) != len(images):
        raise ValueError(
            f"{len(images)} images and {len(prompts)} prompts do not make {len(sizes)} groups of {sum(sizes)} images: "
            "hand over one prompt per group and the groups' images in order."
        )
    choice = _checked_choices(choices, sizes)
    model = clip.model
    _check_blocks(model, image_blocks, text_blocks)
    visual_blocks = list(model.visual.transformer.resblocks)  # type: ignore[union-attr,arg-type]
    text_blocks_all = list(model.transformer.resblocks)  # type: ignore[union-attr,arg-type]
    image_parts, text_parts = [], []
    for start in range(0, len(images), batch_size):
        pixels = preprocess(images[start : start + batch_size], clip.image_size, clip.mean, clip.std)
        x = model.visual._embeds(pixels.to(clip.device))  # type: ignore[union-attr,operator]
        for block in visual_blocks[: len(visual_blocks) - image_blocks]:
            x = block(x)
        image_parts.append(x.half().cpu())
    tokens = clip.tokenize(list(prompts))
    for start in range(0, len(tokens), batch_size):
        x = model.token_embedding(tokens[start : start + batch_size].to(clip.device)) + model.positional_embedding  # type: ignore[operator]
        for block in text_blocks_all[: len(text_blocks_all) - text_blocks]:
            x = block(x, attn_mask=model.attn_mask)
        text_parts.append(x.half().cpu())
    starts = F.pad(torch.as_tensor(list(sizes)).cumsum(0), (1, 0))
    return Trunk(torch.cat(image_parts), torch.cat(text_parts), tokens, starts, choice, image_blocks, text_blocks)


def _image_head(model: nn.Module, x: Tensor, blocks: int) -> Tensor:
    resblocks = list(model.visual.transformer.resblocks)  # type: ignore[union-attr,arg-type]
    for block in resblocks[len(resblocks) - blocks :]:
        x = block(x)
    pooled, _ = model.visual._pool(x)  # type: ignore[union-attr,operator]
    return F.normalize(pooled @ model.visual.proj, dim=-1)  # type: ignore[union-attr,operator]


def _text_head(model: nn.Module, x: Tensor, tokens: Tensor, blocks: int) -> Tensor:
    resblocks = list(model.transformer.resblocks)  # type: ignore[union-attr,arg-type]
    for block in resblocks[len(resblocks) - blocks :]:
        x = block(x, attn_mask=model.attn_mask)
    pooled = model.ln_final(x)[torch.arange(len(x)), tokens.argmax(-1)]  # type: ignore[operator]
    return F.normalize(pooled @ model.text_projection, dim=-1)  # type: ignore[operator]


def trunk_logits(model: nn.Module, trunk: Trunk, groups: Tensor) -> Tensor:
    """Logits of the named groups from cached activations: the tuned part of both towers only."""
    device = next(model.parameters()).device
    sizes = (trunk.starts[groups + 1] - trunk.starts[groups]).tolist()
    image = _image_head(model, trunk.image[_rows(trunk, groups)].to(device).float(), trunk.image_blocks)
    tokens = trunk.tokens[groups].to(device)
    text = _text_head(model, trunk.text[groups].to(device).float(), tokens, trunk.text_blocks)
    return group_logits(image, text, sizes, model.logit_scale.exp())  # type: ignore[operator]


@torch.no_grad()
def evaluate_trunk(model: nn.Module, trunk: Trunk, batch_size: int = 64) -> Tensor:
    """Logits of all groups (groups, largest n) on the CPU."""
    width = int((trunk.starts[1:] - trunk.starts[:-1]).max())
    parts = [trunk_logits(model, trunk, part).cpu() for part in torch.arange(len(trunk)).split(batch_size)]
    return torch.cat([F.pad(part, (0, width - part.shape[1]), value=-math.inf) for part in parts])


@dataclass(frozen=True)
class Trained:
    """A trained classifier: the tuned model, the losses of every step, and (step, loss, top-1) on validation."""

    clip: Clip
    losses: list[float]
    validation: list[tuple[int, float, float]]
    best_step: int


def train_classifier(
    clip: Clip,
    train: Trunk,
    validation: Trunk,
    *,
    epochs: float,
    batch_size: int,
    lr: float,
    weight_decay: float,
    scale_lr: float | None = None,
    warmup: int = 0,
    seed: int = 0,
    loss: Callable[[Tensor, Tensor], Tensor] = preference_loss,
    tune_scale: bool = True,
    evaluate_every: int = 50,
    checkpoint: str | Path | None = None,
    save_every: int = 200,
    progress: Callable[[int, int], None] | None = None,
) -> Trained:
    """Tune a copy of ``clip`` on cached activations; keep the weights with the lowest validation loss.

    AdamW with a cosine schedule, ``logit_scale`` clamped to [0, ln 100] as in the paper's code. The data order is
    drawn from ``seed``; global random state is neither read nor written. ``loss`` may be any function of the padded
    logits and the choices; ``tune_scale=False`` leaves ``logit_scale`` as it is. ``scale_lr`` is its own learning rate
    (``lr`` when ``None``): it has to come down from what tells captions apart to what noisy choices warrant, AdamW
    moves a weight by about one rate a step, and until it is there the gradient is that of overconfidence. It never
    decays, as in open_clip's own training.

    With ``checkpoint``, the file is written after every ``save_every`` steps and at the end. A run that was killed and
    is started again goes on from it and ends with the same weights, on a CPU bit by bit; a finished one trains no more.

    Raises ``ValueError`` when the trunks were cut at different blocks or the checkpoint was made with other settings,
    and ``RuntimeError`` when the loss stops being a number (the last checkpoint stays as it was).
    """
    if (train.image_blocks, train.text_blocks) != (validation.image_blocks, validation.text_blocks):
        raise ValueError(
            "the training and validation trunks were cut at different blocks: cache both with the same settings."
        )
    model = copy.deepcopy(clip.model).train()
    set_trainable(model, train.image_blocks, train.text_blocks)
    model.logit_scale.requires_grad_(tune_scale)  # type: ignore[operator,union-attr]
    tuned = [p for name, p in model.named_parameters() if p.requires_grad and name != "logit_scale"]
    groups: list[dict[str, Any]] = [{"params": tuned}]
    if tune_scale:
        groups.append({"params": [model.logit_scale], "lr": lr if scale_lr is None else scale_lr, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay)
    steps = max(1, round(epochs * len(train) / batch_size))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: min(1.0, (k + 1) / (warmup + 1)) * 0.5 * (1 + math.cos(math.pi * min(1.0, k / steps)))
    )
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    losses: list[float] = []
    history: list[tuple[int, float, float]] = []
    best: tuple[float, int, dict[str, Tensor]] | None = None
    settings = {
        "groups": len(train), "choices": int((train.choices * torch.arange(len(train))).sum()), "steps": steps,
        "batch_size": batch_size, "lr": lr, "weight_decay": weight_decay, "scale_lr": scale_lr, "warmup": warmup,
        "seed": seed, "tune_scale": tune_scale, "evaluate_every": evaluate_every,
        "blocks": [train.image_blocks, train.text_blocks],
    }  # fmt: skip
    saved = continue_from(checkpoint, settings)
    if saved is not None:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        generator.set_state(saved["generator"])
        order, losses, best = saved["order"], saved["losses"], saved["best"]
        history = saved["history"]
    for step in range(len(losses), steps):
        while len(order) < batch_size:
            order = torch.cat([order, torch.randperm(len(train), generator=generator)])
        batch, order = order[:batch_size], order[batch_size:]
        logits = trunk_logits(model, train, batch)
        value = loss(logits, train.choices[batch].to(logits.device))
        if not torch.isfinite(value):
            raise RuntimeError(f"the loss is {value.item()} at step {step}: lower lr (it is {lr}) and start again.")
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))  # type: ignore[operator,union-attr]
        losses.append(value.item())
        if (step + 1) % evaluate_every == 0 or step + 1 == steps:
            model.eval()
            logits = evaluate_trunk(model, validation)
            model.train()
            held_out = loss(logits, validation.choices).item()
            history.append((step + 1, held_out, top1(logits, validation.choices)))
            if best is None or held_out < best[0]:
                kept = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
                best = (held_out, step + 1, kept)
        if checkpoint is not None and ((step + 1) % save_every == 0 or step + 1 == steps):
            save_checkpoint(
                checkpoint, settings=settings, model=model.state_dict(), optimizer=optimizer.state_dict(),
                schedule=schedule.state_dict(), generator=generator.get_state(), order=order, losses=losses, best=best,
                history=history,
            )  # fmt: skip
        if progress is not None:
            progress(step + 1, steps)
    assert best is not None
    model.load_state_dict(best[2])
    return Trained(replace(clip, model=model.eval()), losses, history, best[1])
