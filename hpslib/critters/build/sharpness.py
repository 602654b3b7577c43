"""How sharp generated pictures are beside drawings: edges, not grain.

The mean gradient says little, since grain makes up for soft edges; the steepest hundredth and the share of strong edges
tell them apart, and the noise of what should be flat is measured on its own.
"""

from __future__ import annotations

import numpy as np

__all__ = ["STRONG", "flat_noise", "gradients", "sharpness"]

STRONG = 30.0  # grey levels per pixel: an edge that anybody sees
_BLOCK = 8  # pixels


def gradients(images: np.ndarray) -> np.ndarray:
    """Length of the grey gradient, in levels per pixel: uint8 (n, h, w, 3) -> float32 (n, h - 1, w - 1).

    >>> step = np.zeros((1, 2, 2, 3), np.uint8)
    >>> step[:, :, 1] = 40
    >>> gradients(step).tolist()
    [[[40.0]]]
    """
    grey = images.mean(axis=3, dtype=np.float32)
    across, down = np.diff(grey, axis=2)[:, :-1], np.diff(grey, axis=1)[:, :, :-1]
    return np.hypot(across, down)


def flat_noise(images: np.ndarray) -> float:
    """Noise of the sky, in grey levels: the standard deviation within blocks of 8 x 8 pixels of the top quarter.

    Of each picture the flattest quarter of the blocks counts (there may be stars, or a sun); the mean over pictures.
    """
    grey = images[:, : images.shape[1] // 4].mean(axis=3, dtype=np.float32)
    rows, columns = grey.shape[1] // _BLOCK, grey.shape[2] // _BLOCK
    blocks = grey[:, : rows * _BLOCK, : columns * _BLOCK].reshape(len(grey), rows, _BLOCK, columns, _BLOCK)
    spread = np.sort(blocks.std(axis=(2, 4)).reshape(len(grey), -1), axis=1)
    return float(spread[:, : max(1, spread.shape[1] // 4)].mean())


def sharpness(images: np.ndarray, drawings: np.ndarray) -> dict[str, float]:
    """Images beside drawings of the same kind, both uint8 (n, h, w, 3): two ratios, 1 for as sharp, and the noise.

    ``steepest`` compares the 99th percentile of the gradient, ``strong_edges`` the share of pixels with a gradient over
    30 levels; ``noise`` is :func:`flat_noise` of the images. Raises ``ValueError`` when the sizes differ or nothing has
    an edge.
    """
    if images.shape[1:] != drawings.shape[1:]:
        raise ValueError(f"images are {images.shape[1:]} and drawings {drawings.shape[1:]}: compare equal sizes.")
    ours, theirs = gradients(images), gradients(drawings)
    if not (theirs > STRONG).any():
        raise ValueError("the drawings have no strong edge: compare with drawings of critters.")
    return {
        "steepest": round(float(np.percentile(ours, 99) / np.percentile(theirs, 99)), 3),
        "strong_edges": round(float((ours > STRONG).mean() / (theirs > STRONG).mean()), 3),
        "noise": round(flat_noise(images), 2),
    }
