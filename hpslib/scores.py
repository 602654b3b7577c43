"""Scores: (prompt, images) -> numbers. CLIP score, HPS and an aesthetic head, all on the same two towers.

Each distinct prompt is encoded once, images in batches across prompts, and an image is compared with its own
prompt only: never the B x B matrix of which the released code keeps the diagonal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from hpslib.clip import Clip, Mode, encode_images, encode_prompts

if TYPE_CHECKING:
    from torch import Tensor

    from hpslib.lazy import LazyImages

__all__ = [
    "AestheticHead",
    "aesthetic_scores",
    "clip_scores",
    "flatten_groups",
    "hps",
    "load_aesthetic_head",
    "save_aesthetic_head",
    "split_groups",
]


def clip_scores(
    clip: Clip,
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    batch_size: int = 64,
    mode: Mode = "pad",
) -> np.ndarray:
    """Cosine of each image with its own prompt: float64 (n,) in [-1, 1] (Hessel et al., 2021, without the factor 2.5).

    ``mode`` is that of :func:`hpslib.clip.preprocess`.

    Raises ``ValueError`` when the lengths differ or a prompt is empty.
    """
    if len(images) != len(prompts):
        raise ValueError(f"{len(images)} images but {len(prompts)} prompts: hand over one prompt for each image.")
    empty = [row for row, prompt in enumerate(prompts) if not prompt.strip()]
    if empty:
        raise ValueError(
            f"the prompt of image {empty[0]} is empty ({len(empty)} in all): a score needs a text to compare with."
        )
    return cosines(encode_images(clip, images, batch_size, mode), encode_prompts(clip, prompts))


def cosines(image_features: Tensor, text_features: Tensor) -> np.ndarray:
    """Row by row dot products of two (n, d) arrays of unit vectors, float64 (n,)."""
    return (image_features.double() * text_features.double()).sum(-1).numpy()


def hps(classifier: Clip, images: Sequence[Image.Image], prompts: Sequence[str], batch_size: int = 64) -> np.ndarray:
    """Human Preference Score: 100 x the cosine in the tuned towers (paper, section 4).

    Only differences between images of *one* prompt mean anything; scores of different prompts are not comparable.
    """
    return 100 * clip_scores(classifier, images, prompts, batch_size)


@dataclass(frozen=True)
class AestheticHead:
    """An affine map from a unit image embedding to a rating of about 1 to 10: ``features @ weight + bias``.

    LAION's aesthetic predictor has five linear layers without activations, which is one affine map too.
    """

    weight: Tensor
    bias: float


def load_aesthetic_head(path: str | Path) -> AestheticHead:
    """Read ``weight`` (embed_dim,) and ``bias`` (1,) from a safetensors file.

    Raises ``FileNotFoundError`` when it is absent, ``ValueError`` when it is damaged or holds something else.
    """
    from safetensors.torch import load_file

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist: hpslib convert aesthetic writes it from LAION's file.")
    try:
        tensors = load_file(str(path))
    except Exception as error:  # safetensors raises a type of its own
        raise ValueError(f"{path} cannot be read as safetensors ({error}): write it again.") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if set(shapes) != {"weight", "bias"} or len(shapes["weight"]) != 1 or shapes["bias"] != (1,):
        told = ", ".join(f"{name} {shape}" for name, shape in sorted(shapes.items())[:3])
        raise ValueError(
            f"{path} holds {told} where weight (embed_dim,) and bias (1,) were expected: name a file that hpslib "
            "convert aesthetic wrote."
        )
    return AestheticHead(tensors["weight"].float(), float(tensors["bias"]))


def save_aesthetic_head(head: AestheticHead, path: str | Path) -> Path:
    """Write what :func:`load_aesthetic_head` reads; the file is replaced only when the new one is complete."""
    import torch
    from safetensors.torch import save_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    save_file({"weight": head.weight.contiguous(), "bias": torch.tensor([head.bias])}, partial)
    partial.replace(path)
    return path


def aesthetic_scores(head: AestheticHead, image_features: Tensor) -> np.ndarray:
    """Ratings (n,) float64 for unit image embeddings (n, embed_dim); the prompt plays no part.

    Raises ``ValueError`` when the head was made for embeddings of another length.
    """
    if image_features.shape[1] != len(head.weight):
        raise ValueError(
            f"the aesthetic head rates embeddings of {len(head.weight)} numbers, these have {image_features.shape[1]}: "
            "use it with the CLIP it was trained on (LAION's: ViT-L/14)."
        )
    return (image_features.double() @ head.weight.double() + head.bias).numpy()


def flatten_groups(groups: Any, root: str | Path | None = None) -> tuple[LazyImages, list[str], list[int]]:
    """All images of a preference dataset in order, the prompt of each, and the number of images of each group.

    ``groups`` is a ``datasets.Dataset`` or a list of its rows; ``root`` is the folder of the annotation file, needed
    where images are files of their own. Images are opened when they are asked for, and anew each time
    (:class:`hpslib.lazy.LazyImages`), since a whole release fits into no memory; ``images[:]`` opens all at once.
    """
    from hpslib.lazy import LazyImages, StoredPictures

    if len(groups) == 0:
        raise ValueError("no groups to flatten: hand over at least one.")
    if hasattr(groups, "data"):  # a datasets.Dataset: its pictures may be more than the memory holds
        items: Any = StoredPictures(groups)
        names, texts, sizes = groups["id"], groups["prompt"], items.sizes
    else:
        items = [item for group in groups for item in group["images"]]
        names, texts, sizes = zip(*((group["id"], group["prompt"], len(group["images"])) for group in groups))
    wheres = [f"group {name!r}, image {k}" for name, n in zip(names, sizes) for k in range(n)]
    prompts = [text for text, n in zip(texts, sizes) for _ in range(n)]
    return LazyImages(items, wheres, root), prompts, list(sizes)


def split_groups(values: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """Cut one value per image into one array per group.

    >>> [part.tolist() for part in split_groups(np.array([1, 2, 3, 4, 5]), [2, 3])]
    [[1, 2], [3, 4, 5]]
    """
    if len(values) != sum(sizes):
        raise ValueError(f"{len(values)} values for groups of {sum(sizes)} images in all: score every image once.")
    return np.split(np.asarray(values), np.cumsum(sizes)[:-1])
