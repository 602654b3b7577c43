"""The miniature aesthetic head: what simulated people like when they see an image without any prompt.

LAION's aesthetic predictor is an affine map on CLIP's image embedding, fitted to ratings that people gave to images
alone. Its miniature is made the same way: :func:`simulated_ratings` invents ratings for fresh drawings, and
:func:`fit_ridge` maps mini-CLIP's unit image embedding to them. These raters like vivid images, some scenes and some
colours, and mind a flaw only a little: so the head tells little of what is chosen among images of one prompt, as the
paper's aesthetic classifier did (33.1 % where guessing gives 26 %).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpslib.critters.attributes import COLOURS, SCENES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpslib.critters.attributes import Critter
    from hpslib.scores.clip import Clip

__all__ = ["DRAWINGS", "build_aesthetic_head", "fit_ridge", "r_squared", "simulated_ratings", "vividness"]

DRAWINGS = 3_000
RATERS = 5  # people per image; their mean is the rating
VIVIDNESS = 0.8  # points per 0.1 of mean saturation
FLAW = 0.25  # points per flaw: far less than the noise of one person
TASTE = 0.6  # standard deviation of the liking for a scene or a colour, in points
NOISE = 1.2  # standard deviation of one person's rating of one image, in points
PENALTY = 1e-4


def vividness(images: np.ndarray) -> np.ndarray:
    """Mean saturation of uint8 images (n, height, width, 3): float64 (n,) in [0, 1].

    >>> vividness(np.array([[[[255, 0, 0]]], [[[90, 90, 90]]]], dtype=np.uint8)).tolist()
    [1.0, 0.0]
    """
    pixels = images.astype(np.float64)
    high, low = pixels.max(axis=-1), pixels.min(axis=-1)
    return ((high - low) / np.maximum(high, 1)).mean(axis=(1, 2))


def simulated_ratings(images: np.ndarray, critters: Sequence[Critter], seed: int = 0) -> np.ndarray:
    """Mean ratings by five simulated people who see no prompt: float64 (n,) in [1, 10].

    ``images`` is uint8 (n, 64, 64, 3), ``critters`` what each shows. The likings for scenes and colours are drawn from
    ``seed``, and so is the noise. Raises ``ValueError`` when the lengths differ.

    >>> from hpslib.critters.attributes import Critter
    >>> grey = np.full((1, 64, 64, 3), 128, dtype=np.uint8)
    >>> simulated_ratings(grey, [Critter("red", "round", "beach", "hat", "happy")]).shape
    (1,)
    """
    if len(images) != len(critters):
        raise ValueError(f"{len(images)} images but {len(critters)} critters: hand over one critter for each image.")
    taste = np.random.default_rng([seed, 1])
    scenes = dict(zip(SCENES, taste.normal(0, TASTE, len(SCENES))))
    colours = dict(zip(COLOURS, taste.normal(0, TASTE, len(COLOURS))))
    liked = np.array([scenes[c.scene] + colours[c.colour] - FLAW * len(c.flaws) for c in critters])
    noise = np.random.default_rng([seed, 2]).normal(0, NOISE, (len(images), RATERS))
    each = 5.5 + VIVIDNESS * (vividness(images) - 0.3) / 0.1 + liked
    return np.clip(each[:, None] + noise, 1, 10).mean(axis=1)


def fit_ridge(features: np.ndarray, ratings: np.ndarray, penalty: float = PENALTY) -> tuple[np.ndarray, float]:
    """Ridge regression in closed form: (weight (d,), bias) with ``features @ weight + bias`` close to ``ratings``.

    Minimises the mean squared error plus ``penalty`` times the squared length of the weight (Hoerl & Kennard, 1970);
    the bias is not penalised. Features are centred, (n, d); float64 throughout. Raises ``ValueError`` on unequal
    lengths or a penalty that is not above 0.

    >>> weight, bias = fit_ridge(np.array([[0.0], [1.0], [2.0]]), np.array([1.0, 3.0, 5.0]), penalty=1e-12)
    >>> round(float(weight[0]), 6), round(bias, 6)
    (2.0, 1.0)
    """
    x, y = np.asarray(features, dtype=np.float64), np.asarray(ratings, dtype=np.float64)
    if x.ndim != 2 or y.shape != (len(x),):
        raise ValueError(f"features have shape {x.shape} and ratings {y.shape}: give (n, d) and one rating per row.")
    if not penalty > 0:
        raise ValueError(f"penalty is {penalty}, but must be above 0: collinear features have no solution without one.")
    centre, level = x.mean(axis=0), y.mean()
    spread = (x - centre).T @ (x - centre) / len(x) + penalty * np.eye(x.shape[1])
    weight = np.linalg.solve(spread, (x - centre).T @ (y - level) / len(x))
    return weight, float(level - centre @ weight)


def r_squared(predicted: np.ndarray, observed: np.ndarray) -> float:
    """Share of the variance of ``observed`` that ``predicted`` explains; 0 for always predicting the mean.

    >>> r_squared(np.array([2.0, 2.0]), np.array([1.0, 3.0]))
    0.0
    """
    return float(1 - ((observed - predicted) ** 2).mean() / observed.var())


def build_aesthetic_head(clip: Clip, path: str | Path, seed: int = 0, drawings: int = DRAWINGS) -> float:
    """Fit the head on fresh drawings, write it to ``path`` and return its R² on a held-out fifth of them.

    Needs about half a minute of one core for 3,000 drawings. The held-out fifth is not used for the fit.
    """
    import torch

    from hpslib.critters.draw import fresh_drawings
    from hpslib.data.images.lazy import to_images
    from hpslib.scores.aesthetic import AestheticHead, save_aesthetic_head
    from hpslib.scores.clip import encode_images

    images, critters = fresh_drawings(drawings, seed=10_000 + seed)  # far from the seeds of the gates
    ratings = simulated_ratings(images, critters, seed)
    features = encode_images(clip, to_images(images)).double().numpy()
    fitted = len(images) * 4 // 5
    weight, bias = fit_ridge(features[:fitted], ratings[:fitted])
    save_aesthetic_head(AestheticHead(torch.from_numpy(weight).float(), bias), path)
    return r_squared(features[fitted:] @ weight + bias, ratings[fitted:])
