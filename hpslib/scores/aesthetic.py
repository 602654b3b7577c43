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

from hpslib.runs.files import check_finite, read_state_dict, why_unreadable, written_whole

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
        reason = why_unreadable(Path(path), error)
        raise ValueError(f"{path} cannot be read as safetensors ({reason}): write it again.") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if set(shapes) != {"weight", "bias"} or len(shapes["weight"]) != 1 or shapes["bias"] != (1,):
        content = ", ".join(f"{name} {shape}" for name, shape in sorted(shapes.items())[:3])
        raise ValueError(
            f"{path} holds {content} where weight (embed_dim,) and bias (1,) were expected: name a file that hpslib "
            "convert aesthetic wrote."
        )
    check_finite(tensors, str(path))
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
    """LAION's aesthetic predictor as what it is: one affine map.

    The first release (aesthetic-predictor, ``sa_0_4_vit_l_14_linear.pth``) is one linear layer, ``weight``
    (1, embed_dim) and ``bias`` (1,). The five of the second (improved-aesthetic-predictor, ``layers.{0,2,4,6,7}``) have
    dropout between them but no activation, so their product is one vector and one number (computed in float64). The
    features are unit embeddings of OpenAI's ViT-L/14.

    Raises ``FileNotFoundError`` when the file is absent, ``ValueError`` for other layers, such as those of the variant
    with ReLU, which is no affine map, and for layers that do not end in one number.
    """
    weights = read_state_dict(path)
    if set(weights) == {"weight", "bias"}:
        weights = {f"layer.{name}": value for name, value in weights.items()}
        _check_chain(weights, ["layer"], path)
        vector, bias = collapse_layers(weights, ["layer"])
        return AestheticHead(vector.float(), bias)
    places = ("0", "2", "4", "6", "7")
    if set(weights) != {f"layers.{place}.{kind}" for place in places for kind in ("weight", "bias")}:
        raise ValueError(
            f"{path} has other layers than LAION's linear aesthetic predictor (layers 0, 2, 4, 6 and 7): the variant "
            "with ReLU is no affine map, so fetch sac+logos+ava1-l14-linearMSE.pth."
        )
    names = [f"layers.{place}" for place in places]
    _check_chain(weights, names, path)
    vector, bias = collapse_layers(weights, names)
    return AestheticHead(vector.float(), bias)


def _check_chain(weights: Mapping[str, Tensor], names: Sequence[str], where: str | Path) -> None:
    """Raise ``ValueError`` unless the layers fit onto each other and the last gives one number."""
    width: int | None = None
    for name in names:
        matrix, offset = weights[f"{name}.weight"], weights[f"{name}.bias"]
        rows = 1 if name == names[-1] else len(matrix) if matrix.ndim else 0
        if (
            matrix.ndim != 2
            or len(matrix) != rows
            or tuple(offset.shape) != (rows,)
            or width not in (None, matrix.shape[1])
        ):
            raise ValueError(
                f"{where}: {name} has weights of {list(matrix.shape)} and {list(offset.shape)}, which make no chain of "
                "linear layers that ends in one number: fetch LAION's file again."
            )
        width = rows


def collapse_layers(weights: Mapping[str, Tensor], names: Sequence[str]) -> tuple[Tensor, float]:
    """Linear layers without activations between them as the one affine map they are: a vector and a number, float64."""
    width = weights[f"{names[0]}.weight"].shape[1]
    product, bias = torch.eye(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
    for name in names:
        matrix = weights[f"{name}.weight"].double()
        product, bias = matrix @ product, matrix @ bias + weights[f"{name}.bias"].double()
    return product[0], float(bias[0])
