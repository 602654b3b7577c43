"""The aesthetic score: an affine map from an image's CLIP embedding to a rating; the prompt plays no part.

LAION's predictor (improved-aesthetic-predictor) is such a map, written as five linear layers.
:func:`load_laion_head` makes one vector and one number of them, :func:`save_aesthetic_head` and
:func:`load_aesthetic_head` keep those, :func:`aesthetic_scores` rates embeddings with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hpslib.runs.files import read_state_dict, written_whole

__all__ = [
    "AestheticHead",
    "aesthetic_scores",
    "collapse_layers",
    "load_aesthetic_head",
    "load_laion_head",
    "save_aesthetic_head",
]


@dataclass(frozen=True)
class AestheticHead:
    """An affine map from a unit image embedding to a rating of about 1 to 10: ``features @ weight + bias``.

    ``weight`` is float32 (embed_dim,).
    """

    weight: Tensor
    bias: float


def load_aesthetic_head(path: str | Path) -> AestheticHead:
    """Read ``weight`` (embed_dim,) and ``bias`` (1,) from a safetensors file.

    Raises ``FileNotFoundError`` when it is absent, ``ValueError`` when it is damaged or holds something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist: hpslib convert aesthetic writes it from LAION's file.")
    try:
        tensors = load_file(str(path))
    except Exception as error:  # safetensors raises a type of its own
        raise ValueError(f"{path} cannot be read as safetensors ({error}): write it again.") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if set(shapes) != {"weight", "bias"} or len(shapes["weight"]) != 1 or shapes["bias"] != (1,):
        content = ", ".join(f"{name} {shape}" for name, shape in sorted(shapes.items())[:3])
        raise ValueError(
            f"{path} holds {content} where weight (embed_dim,) and bias (1,) were expected: name a file that hpslib "
            "convert aesthetic wrote."
        )
    return AestheticHead(tensors["weight"].float(), float(tensors["bias"]))


def save_aesthetic_head(head: AestheticHead, path: str | Path) -> Path:
    """Write what :func:`load_aesthetic_head` reads; the file is replaced only when the new one is complete.

    Raises ``OSError`` when it cannot be written.
    """
    with written_whole(path) as partial:
        save_file({"weight": head.weight.contiguous(), "bias": torch.tensor([head.bias])}, partial)
    return Path(path)


def aesthetic_scores(head: AestheticHead, image_features: Tensor) -> np.ndarray:
    """Ratings (n,) float64, about 1 to 10, for unit image embeddings (n, embed_dim).

    Raises ``ValueError`` when the head was made for embeddings of another length.
    """
    if image_features.shape[1] != len(head.weight):
        raise ValueError(
            f"the aesthetic head rates embeddings of {len(head.weight)} numbers, these have {image_features.shape[1]}: "
            "use it with the CLIP it was trained on (LAION's: ViT-L/14)."
        )
    return (image_features.double() @ head.weight.double() + head.bias).numpy()


def load_laion_head(path: str | Path) -> AestheticHead:
    """LAION's aesthetic predictor (improved-aesthetic-predictor) as what it is: one affine map.

    Its five linear layers (``layers.{0,2,4,6,7}``) have dropout between them but no activation, so their product is
    one vector and one number (computed in float64). The features are unit embeddings of OpenAI's ViT-L/14.

    Raises ``FileNotFoundError`` when the file is absent, ``ValueError`` for other layers, such as those of the variant
    with ReLU, which is no affine map.
    """
    weights = read_state_dict(path)
    places = ("0", "2", "4", "6", "7")
    if set(weights) != {f"layers.{place}.{kind}" for place in places for kind in ("weight", "bias")}:
        raise ValueError(
            f"{path} has other layers than LAION's linear aesthetic predictor (layers 0, 2, 4, 6 and 7): the variant "
            "with ReLU is no affine map, so fetch sac+logos+ava1-l14-linearMSE.pth."
        )
    vector, bias = collapse_layers(weights, [f"layers.{place}" for place in places])
    return AestheticHead(vector.float(), bias)


def collapse_layers(weights: Mapping[str, Tensor], names: Sequence[str]) -> tuple[Tensor, float]:
    """Linear layers without activations between them as the one affine map they are: a vector and a number, float64."""
    width = weights[f"{names[0]}.weight"].shape[1]
    product, bias = torch.eye(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
    for name in names:
        matrix = weights[f"{name}.weight"].double()
        product, bias = matrix @ product, matrix @ bias + weights[f"{name}.bias"].double()
    return product[0], float(bias[0])
