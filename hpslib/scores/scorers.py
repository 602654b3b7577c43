"""One function for every preference score: images and prompts in, one number each out, on the scale its authors use.

===============  ================================================  ==============================================
kind             file                                              score
===============  ================================================  ==============================================
``hpslib``       a folder of ``save_pretrained``                   100 x cosine, padded
                 (:mod:`hpslib.scores.pretrained`),
                 or ``hf://owner/name``
``hpslib``       a folder of ``hpslib convert``                    that of the kind it was converted from
``hps_v1``       the released ``.pth``                             100 x cosine, centre-cropped (paper)
``hps_v2``       ``HPS_v2_compressed.pt``,                         cosine, padded
                 ``HPS_v2.1_compressed.pt``
``pickscore``    ``model.safetensors`` of PickScore_v1             exp(logit_scale) x cosine, centre-cropped
``imagereward``  ``ImageReward.pt``, and a folder with             standardised reward
                 BERT's tokenizer
``clip``         OpenAI's ViT-L/14, B/16 or B/32                   cosine, centre-cropped
===============  ================================================  ==============================================

Only differences between images of *one* prompt mean anything. ``hf://owner/name/file`` names a file on the hub; what
the local cache holds needs no network.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpslib.data.images.lazy import as_images
from hpslib.data.images.safe import IMAGE_ENDINGS
from hpslib.scores.clip import Clip, load_clip
from hpslib.scores.clip import truncated_prompts as truncated_by_clip
from hpslib.scores.cosine import clip_scores
from hpslib.scores.imagereward import ImageReward, imagereward_scores, load_imagereward
from hpslib.scores.imagereward import truncated_prompts as truncated_by_imagereward
from hpslib.scores.pixels import Mode, Preprocessing
from hpslib.scores.pretrained import local_folder
from hpslib.scores.released import KINDS, load_released

__all__ = [
    "Scorer",
    "hub_file",
    "load_scorer",
    "preference_scores",
    "truncated_prompts",
]


@dataclass(frozen=True)
class Scorer:
    """Two towers with their authors' preprocessing and the factor on the cosine.

    ``mode`` is that of the model (:attr:`hpslib.scores.clip.Clip.mode`) unless another is wanted.
    """

    clip: Clip
    mode: Mode
    factor: float

    @property
    def device(self) -> torch.device:
        """Where the towers are."""
        return self.clip.device

    @property
    def looks(self) -> tuple[Preprocessing, int]:
        """How an image becomes a square, and the square's side in pixels."""
        return self.clip.how(self.mode), self.clip.image_size


def hub_file(path: str | Path) -> Path:
    """``hf://owner/name/file`` -> the file in the local hub cache, fetched first if need be; other paths as they are.

    Raises ``FileNotFoundError`` when the file is neither in the cache nor to be had, ``ValueError`` for another form.
    """
    text = str(path)
    if not text.startswith("hf:/"):
        return Path(path)
    owner, _, rest = text.removeprefix("hf:").lstrip("/").partition("/")  # Path("hf://a") is "hf:/a"
    name, _, file = rest.partition("/")
    if not (owner and name and file):
        raise ValueError(f"{text!r} names no file on the hub: write hf://owner/name/file.")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(f"{owner}/{name}", file))
    except Exception as error:  # offline, no such file, no access: a dozen types
        reason = " ".join(str(error).split())[:200]
        raise FileNotFoundError(
            f"{text} is not in the local hub cache and could not be fetched ({reason}): download it elsewhere and give "
            "its path."
        ) from error


def load_scorer(
    kind: str, path: str | Path, device: str | torch.device = "cpu", *, tokenizer: str | Path | None = None
) -> Scorer | ImageReward:
    """Load a checkpoint by the kinds of the table above; ``tokenizer`` is the BERT folder that ``imagereward`` needs.

    Raises ``FileNotFoundError`` when a file is absent and ``ValueError`` for an unknown kind, a file that cannot be
    read, another architecture than the kind's, or keys that find no place.
    """
    if kind == "hpslib":
        return _own_scorer(path, device)
    file = hub_file(path)
    if kind == "imagereward":
        if tokenizer is None:
            raise ValueError("imagereward reads prompts with BERT: give the folder of bert-base-uncased as tokenizer.")
        return load_imagereward(file, tokenizer, device)
    if kind not in KINDS:
        raise ValueError(f"the kind {kind!r} is unknown: use one of {', '.join([*KINDS, 'imagereward', 'hpslib'])}.")
    return _scorer_of(kind, load_released(kind, file).to(device))


def _scorer_of(kind: str, clip: Clip) -> Scorer:
    release = KINDS[kind]
    factor = clip.model.logit_scale.detach().exp() if release.factor == "logit_scale" else release.factor
    return Scorer(clip, clip.mode, float(factor))


def _own_scorer(path: str | Path, device: str | torch.device) -> Scorer:
    """A folder or a repository of the hub, scored as its authors do if ``hpslib convert`` wrote it."""
    folder = local_folder(path)
    clip, provenance = load_clip(folder, device), folder / "provenance.json"
    if not provenance.is_file():
        return Scorer(clip, clip.mode, 100.0)
    try:
        kind = json.loads(provenance.read_text(encoding="utf-8"))["kind"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{provenance} names no kind ({error}): convert the checkpoint again.") from error
    if kind not in KINDS:
        raise ValueError(f"{provenance} names the unknown kind {kind!r}: convert the checkpoint again.")
    return _scorer_of(kind, clip)


def preference_scores(
    scorer: Scorer | ImageReward, images: Any, prompts: str | Sequence[str], batch_size: int = 64
) -> np.ndarray:
    """One score per image with its own prompt, float64 (n,), on the scale its authors use.

    ``images`` is one image or one file, a list of Pillow images, paths or arrays, a tensor, or a folder, as
    :func:`hpslib.data.images.lazy.as_images` takes them; one text for all of them may stand for ``prompts``. Images are
    encoded in batches across prompts, each distinct prompt once; files are opened and scaled one by one. Raises
    ``ValueError`` when the lengths differ or a prompt is empty or no text.
    """
    opened = as_images([images] if _is_one(images) else images)
    texts = [prompts] * len(opened) if isinstance(prompts, str) else list(prompts)
    if isinstance(scorer, ImageReward):
        return imagereward_scores(scorer, opened, texts, batch_size)
    return scorer.factor * clip_scores(scorer.clip, opened, texts, batch_size, scorer.mode)


def _is_one(images: Any) -> bool:
    """Whether this is a single image: a Pillow image, its bytes, an array (height, width, 3), a file."""
    if isinstance(images, str | Path):
        path = Path(images)
        return path.is_file() or (not path.is_dir() and path.suffix.lower() in IMAGE_ENDINGS)
    if isinstance(images, np.ndarray):
        return images.ndim == 3
    return isinstance(images, bytes | bytearray | memoryview) or hasattr(images, "getbands")


def truncated_prompts(scorer: Scorer | ImageReward, prompts: Sequence[str]) -> list[int]:
    """The rows of prompts longer than the scorer reads: count and report them."""
    if isinstance(scorer, ImageReward):
        return truncated_by_imagereward(scorer, prompts)
    return truncated_by_clip(scorer.clip, prompts)
