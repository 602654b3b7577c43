"""Your own score: what sixty votes of one person add to the Human Preference Score of everybody.

Sixty choices are too few to tune a network well. They can say how much a few properties of an image count for this
person:

    u = HPS logit + w . x          P(image i is chosen) = exp(u_i) / sum over its group of exp(u_j)

a conditional logit (McFadden, 1974) with HPS's logit as its offset, so that with w = 0 it *is* HPS. The weights have
the largest

    sum over votes of log P(chosen) - ridge / 2 * |w|^2

where the ridge, how far the votes may move the score, is chosen by cross-validation inside the votes. The properties x
have no names. They are the main directions (principal components) in which images of *one* prompt differ: of CLIP's
image embedding, which says what is shown, of its mean patch, which says how it looks (colour, light, sharpness), and
the population's logit itself, so that a person may also care less for it, or for the opposite. Finding the directions
takes images, but no votes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image
from torch import nn

from hpslib.classifier.towers import image_trunk
from hpslib.data.groups import split_groups
from hpslib.runs.files import one_line, written_whole
from hpslib.scores.clip import Clip
from hpslib.scores.cosine import clip_scores

__all__ = [
    "RIDGES",
    "Axes",
    "Personal",
    "Shown",
    "fit_taste",
    "load_personal",
    "padded",
    "personal_scores",
    "properties",
    "save_personal",
    "show",
    "taste_axes",
    "train_personal",
    "vote_losses",
]

#: The ridges tried: from 0.1, votes alone, to 100, hardly anything but the population.
RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


@dataclass(frozen=True)
class Shown:
    """Groups of images as the score sees them, all float64, image after image.

    ``base`` (n,) the population's logits; ``what`` (n, embed_dim) unit image embeddings; ``how`` (n, width) mean
    patches; ``sizes`` (groups,) int64, the number of images of each group.
    """

    base: np.ndarray
    what: np.ndarray
    how: np.ndarray
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.sizes)

    def subset(self, groups: ArrayLike) -> Shown:
        """Some of the groups, in the order named."""
        chosen = np.asarray(groups, dtype=np.int64)
        ends = np.cumsum(self.sizes)
        rows = np.concatenate([np.arange(ends[g] - self.sizes[g], ends[g]) for g in chosen] or [chosen])
        return Shown(self.base[rows], self.what[rows], self.how[rows], self.sizes[chosen])


class Axes(NamedTuple):
    """The properties x: ``what`` (embed_dim, k) and ``how`` (width, k) project to them, ``base`` divides the logits.

    Less the group's mean, each property has mean square 1 over the images that the axes were made from.
    """

    what: np.ndarray
    how: np.ndarray
    base: float


@dataclass(frozen=True)
class Personal:
    """A personal score: ``weights`` (2 k + 1,) for what, how and the population's logit, in log odds per unit of x.

    ``ridge`` is the one chosen, ``votes`` their number, ``losses`` the mean loss of votes left out, for each ridge.
    """

    axes: Axes
    weights: np.ndarray
    ridge: float
    votes: int
    losses: dict[float, float]


# --- images -> properties ---------------------------------------------------------------------------------------------


@torch.no_grad()
def _looks(clip: Clip, images: Sequence[Image.Image], batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit embeddings and the mean patch in front of the last block, in one pass through the image tower."""
    what, how = [], []
    for start in range(0, len(images), batch_size):
        pixels = clip.pixels(images[start : start + batch_size])
        tokens = image_trunk(clip.model, pixels.to(clip.device), blocks=1)
        how.append(tokens[:, 1:].mean(1).double().cpu())
        visual = clip.model.visual
        pooled, _ = visual._pool(visual.transformer.resblocks[-1](tokens))
        what.append(nn.functional.normalize((pooled @ visual.proj).float(), dim=-1).double().cpu())
    return torch.cat(what).numpy(), torch.cat(how).numpy()


def show(
    clip: Clip,
    population: Clip,
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    sizes: Sequence[int],
    batch_size: int = 64,
) -> Shown:
    """Look at the groups once, with ``clip`` for the properties and ``population``, a trained HPS, for the logits.

    ``prompts`` holds one text per group. With ``population=clip`` the personal score starts from the CLIP score.
    Raises ``ValueError`` when images, prompts and sizes do not make the same groups.
    """
    if len(prompts) != len(sizes) or sum(sizes) != len(images):
        raise ValueError(
            f"{len(images)} images, {len(prompts)} prompts and {len(sizes)} sizes (sum {sum(sizes)}) do not make the "
            "same groups: hand over one prompt and one size for each group."
        )
    of_image = [prompt for prompt, n in zip(prompts, sizes) for _ in range(n)]
    what, how = _looks(clip, images, batch_size)
    cosine = clip_scores(population, images, of_image, batch_size)
    factor = float(population.model.logit_scale.detach().exp())
    return Shown(factor * cosine, what, how, np.asarray(sizes, dtype=np.int64))


def taste_axes(shown: Shown, count: int = 8) -> Axes:
    """The ``count`` main directions in which images of one prompt differ, of the embedding and of the mean patch.

    No votes are needed, so take all the groups there are. Raises ``ValueError`` for more than there can be.
    """
    largest = min(shown.what.shape[1], shown.how.shape[1], len(shown.base) - len(shown))
    if not 1 <= count <= largest:
        raise ValueError(f"count is {count}: {len(shown.base)} images in {len(shown)} groups allow 1 to {largest}.")

    def directions(values: np.ndarray) -> np.ndarray:
        apart = _differences(values, shown.sizes)
        _, spread, axes = np.linalg.svd(apart, full_matrices=False)
        return axes[:count].T / (spread[:count] / np.sqrt(len(apart)))

    base = np.sqrt((_differences(shown.base[:, None], shown.sizes) ** 2).mean())
    return Axes(directions(shown.what), directions(shown.how), float(base))


def _differences(values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Each row minus the mean of its group: what a choice within one prompt can be about."""
    means = np.add.reduceat(values, np.cumsum(sizes) - sizes) / sizes[:, None]
    return values - np.repeat(means, sizes, axis=0)


def properties(axes: Axes, shown: Shown) -> np.ndarray:
    """x, float64 (n, 2 k + 1), less its group's mean, on which no choice depends and which keeps numbers small."""
    values = np.column_stack([shown.what @ axes.what, shown.how @ axes.how, shown.base / axes.base])
    return _differences(values, shown.sizes)


def padded(values: np.ndarray, sizes: Sequence[int] | np.ndarray, fill: float = -np.inf) -> np.ndarray:
    """One row for each image -> one for each group: (groups, largest n, ...), ``fill`` where there is no image.

    >>> padded(np.array([1.0, 2.0, 3.0]), [1, 2])
    array([[  1., -inf],
           [  2.,   3.]])
    """
    sizes = np.asarray(sizes)
    table = np.full((len(sizes), sizes.max(), *values.shape[1:]), fill)
    table[np.arange(sizes.max()) < sizes[:, None]] = values
    return table


# --- votes -> weights -------------------------------------------------------------------------------------------------


def vote_losses(
    weights: np.ndarray, offset: np.ndarray, x: np.ndarray, choices: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """-log P(chosen) of each vote, (groups,), and the chances P of its images, (groups, largest n)."""
    logits = offset + x @ weights
    # In one pass what scipy's log_softmax and softmax do in two: a fit calls this hundreds of times.
    below = logits - logits.max(1, keepdims=True)
    powers = np.exp(below)
    total = powers.sum(1, keepdims=True)
    return np.log(total[:, 0]) - below[np.arange(len(choices)), choices], powers / total


def fit_taste(offset: np.ndarray, x: np.ndarray, choices: ArrayLike, ridge: float) -> np.ndarray:
    """The weights (d,) of a conditional logit, the maximum of the formula in this module's head.

    ``offset`` (groups, largest n) is padded with -inf, ``x`` (groups, largest n, d) with anything finite (see
    :func:`padded`), ``choices`` (groups,). The objective is concave: there is one maximum.
    Raises ``ValueError`` for a ridge not above 0 or a choice that no group offers.
    """
    from scipy.optimize import minimize

    chosen = np.asarray(choices)
    if not ridge > 0:
        raise ValueError(f"ridge is {ridge}, and without one few votes can give infinite weights: choose more than 0.")
    for group, choice in enumerate(chosen.tolist()):
        n = int(np.isfinite(offset[group]).sum())
        if not 0 <= choice < n:
            raise ValueError(f"the choice of group {group} is {choice}, but its images are 0 to {n - 1}: correct it.")

    properties_chosen = x[np.arange(len(chosen)), chosen].sum(0)

    def objective(weights: np.ndarray) -> tuple[float, np.ndarray]:
        losses, chances = vote_losses(weights, offset, x, chosen)
        surprise = np.einsum("gn,gnd->d", chances, x) - properties_chosen
        return losses.sum() + ridge / 2 * weights @ weights, surprise + ridge * weights

    fit = minimize(objective, np.zeros(x.shape[2]), jac=True, method="L-BFGS-B", options={"maxiter": 1000})
    if not fit.success:
        raise ValueError(f"no maximum was found ({fit.message}): check the logits and properties for outliers.")
    return fit.x


def train_personal(
    shown: Shown, choices: ArrayLike, axes: Axes, *, ridges: Sequence[float] = RIDGES, folds: int = 5, seed: int = 0
) -> Personal:
    """Train one person's score from the groups they voted on: ``choices[g]`` is the image chosen in group ``g``.

    For each ridge the votes are predicted fold by fold from the others; the ridge with the smallest mean loss is used
    for all of them. Without any vote the population's own score comes back. A hundred votes take a tenth of a second.

    Raises ``ValueError`` for fewer votes than folds (but some), unequal lengths, and as :func:`fit_taste` does.
    """
    chosen = np.asarray(choices)
    if chosen.shape != (len(shown),) or (len(chosen) and chosen.dtype.kind not in "iu"):
        raise ValueError(
            f"choices of shape {chosen.shape} and type {chosen.dtype} for {len(shown)} groups: give one index each."
        )
    size = axes.what.shape[1] + axes.how.shape[1] + 1
    if len(chosen) == 0:
        return Personal(axes, np.zeros(size), float(max(ridges)), 0, {})
    if not 2 <= folds <= len(chosen):
        raise ValueError(f"{len(chosen)} votes make no {folds} folds: give at least as many votes, or 2 to that many.")
    offset, x = padded(shown.base, shown.sizes), padded(properties(axes, shown), shown.sizes, 0.0)
    fold = np.random.default_rng(seed).permutation(len(chosen)) % folds
    losses = {}
    for ridge in ridges:
        left_out = []
        for k in range(folds):
            kept, out = fold != k, fold == k
            weights = fit_taste(offset[kept], x[kept], chosen[kept], ridge)
            left_out.append(vote_losses(weights, offset[out], x[out], chosen[out])[0])
        losses[float(ridge)] = float(np.concatenate(left_out).mean())
    best = min(losses, key=losses.__getitem__)
    return Personal(axes, fit_taste(offset, x, chosen, best), best, len(chosen), losses)


def personal_scores(personal: Personal, shown: Shown) -> list[np.ndarray]:
    """The personal score of every image, one array per group, in log odds: comparable within a group only.

    They go as they are into :func:`hpslib.metrics.agreement.top1_accuracy` and
    :func:`hpslib.adaptation.selection.select`.
    """
    utility = shown.base + properties(personal.axes, shown) @ personal.weights
    return split_groups(utility, shown.sizes.tolist())


def save_personal(personal: Personal, path: str | Path) -> Path:
    """Write what :func:`load_personal` reads; a file is replaced only when the new one is complete."""
    from safetensors.numpy import save_file

    path = Path(path)
    tensors = {"what": personal.axes.what, "how": personal.axes.how, "weights": personal.weights}
    rest = {name: getattr(personal, name) for name in ("ridge", "votes")} | {"base": personal.axes.base}
    rest["losses"] = list(personal.losses.items())
    with written_whole(path) as partial:
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, partial, {"personal": json.dumps(rest)})
    return path


def load_personal(path: str | Path) -> Personal:
    """Read a personal score. Raises ``ValueError`` naming the file when it is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            what, how, weights = (file.get_tensor(name) for name in ("what", "how", "weights"))
            rest = json.loads(file.metadata()["personal"])
        losses = {float(ridge): float(loss) for ridge, loss in rest["losses"]}
        return Personal(Axes(what, how, rest["base"]), weights, rest["ridge"], rest["votes"], losses)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no personal score ({one_line(error)}): write it with save_personal.") from error
