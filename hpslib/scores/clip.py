"""Load an open_clip model safely and turn images and prompts into unit vectors.

A CLIP checkpoint that fits the wrong architecture loads without an error and scores wrongly: weights trained
with QuickGELU in a model built with GELU are the classic case. So the folder states the architecture, every key
must match, and what a folder does not state is refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from hpslib.runs.distributed import ahead
from hpslib.runs.files import check_finite, written_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "Clip",
    "ClipModel",
    "Mode",
    "build_clip",
    "check_prompts",
    "encode_images",
    "encode_prompts",
    "load_clip",
    "preprocess",
    "save_clip",
    "truncated_prompts",
]

#: How an image becomes a square: see :func:`preprocess`.
Mode = Literal["pad", "crop", "crop_floor"]

#: open_clip's ``CLIP``, of whose attributes torch's ``nn.Module`` tells a type checker nothing.
ClipModel: TypeAlias = Any

_CONFIG, _WEIGHTS, _MERGES = "open_clip_config.json", "open_clip_model.safetensors", "bpe.txt.gz"
_SETTINGS = (
    "model_cfg.embed_dim",
    "model_cfg.vision_cfg.image_size",
    "model_cfg.text_cfg.context_length",
    "model_cfg.text_cfg.vocab_size",
    "preprocess_cfg.mean",
    "preprocess_cfg.std",
)


@dataclass(frozen=True)
class Clip:
    """An open_clip model with what belongs to it.

    ``tokenize`` maps a list of n texts to an int64 tensor (n, context_length), cut off where a text is longer;
    ``mean`` and ``std`` normalise pixels in [0, 1]; ``config`` is the content of ``open_clip_config.json``; ``merges``
    is the file of a vocabulary of its own.
    """

    model: ClipModel
    tokenize: Callable[[list[str]], Tensor]
    image_size: int
    context_length: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    config: dict[str, Any]
    merges: Path | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def to(self, device: str | torch.device) -> Clip:
        """The same, its model moved to ``device`` in place."""
        self.model.to(device)
        return self


def load_clip(folder: str | Path, device: str | torch.device = "cpu") -> Clip:
    """Load a model from a folder in open_clip's own layout.

    The folder holds ``open_clip_config.json`` (``model_cfg`` with the architecture, ``quick_gelu`` stated, and
    ``preprocess_cfg``), ``open_clip_model.safetensors`` and, when the vocabulary is not CLIP's own, ``bpe.txt.gz``.

    Raises ``FileNotFoundError`` for a missing file and ``ValueError`` when the activation is not stated, any key or
    shape does not match, or the vocabulary is not the model's. The global random state is left as it was.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name} is missing: name a folder with {_CONFIG} and {_WEIGHTS} (save_clip writes it)."
            )
    config = _read_config(folder / _CONFIG)
    if "quick_gelu" not in config["model_cfg"]:
        raise ValueError(
            f"{folder / _CONFIG} does not state quick_gelu: add it (true for OpenAI's weights and HPS v1, false for "
            "most of open_clip's), since weights load either way and score wrongly in the other one."
        )
    try:
        weights = load_file(folder / _WEIGHTS)
    except Exception as error:  # safetensors raises its own SafetensorError, which is no subclass of ValueError
        raise ValueError(f"{folder / _WEIGHTS} cannot be read ({error}): fetch the file again.") from error
    merges = folder / _MERGES
    return build_clip(config, weights, where=str(folder / _WEIGHTS), merges=merges if merges.is_file() else None).to(
        device
    )


def _read_config(file: Path) -> dict[str, Any]:
    """open_clip's configuration with all that is used of it; ``ValueError`` where it is damaged or lacks a part."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        for path in _SETTINGS:
            reduce(getitem, path.split("."), config)
    except (ValueError, KeyError, TypeError) as error:  # not JSON or not UTF-8; a name is missing; not an object
        raise ValueError(
            f"{file} is no configuration of open_clip ({type(error).__name__}: {error}): copy it anew from the model, "
            "or write the folder with hpslib convert clip."
        ) from error
    return config


def build_clip(
    config: dict[str, Any], weights: Mapping[str, Tensor], *, where: str, merges: Path | None = None
) -> Clip:
    """A model on the CPU in float32 from its configuration and weights, every key and shape of which must match.

    ``config`` has the two parts of ``open_clip_config.json``, ``where`` names the weights in errors, ``merges`` is a
    vocabulary of its own. Raises ``ValueError`` as :func:`load_clip` does.
    """
    from open_clip.model import CLIP
    from open_clip.tokenizer import SimpleTokenizer

    architecture = config["model_cfg"]
    with torch.random.fork_rng(devices=[]):  # the random start is overwritten; the caller's randomness must not notice
        model = CLIP(**architecture)
    weights = {key: value.float() for key, value in weights.items()}
    expected = model.state_dict()
    missing, unexpected = sorted(set(expected) - set(weights)), sorted(set(weights) - set(expected))
    shapes = [k for k in expected if k in weights and expected[k].shape != weights[k].shape]
    if missing or unexpected or shapes:
        example = (missing or unexpected or shapes)[0]
        raise ValueError(
            f"{where} does not fit the architecture in {_CONFIG}: {len(missing)} keys missing, "
            f"{len(unexpected)} unexpected, {len(shapes)} of another shape (first: {example}): use the config that the "
            "weights were saved with."
        )
    check_finite(weights, where)
    model.load_state_dict(weights)
    context = architecture["text_cfg"]["context_length"]
    tokenize = SimpleTokenizer(**({"bpe_path": str(merges)} if merges else {}), context_length=context)
    words = architecture["text_cfg"]["vocab_size"]
    if tokenize.vocab_size != words:
        raise ValueError(
            f"the model in {where} knows {words} tokens but the tokenizer has {tokenize.vocab_size}: put the model's "
            f"own {_MERGES} beside its weights (only CLIP's own vocabulary needs none)."
        )
    how = config["preprocess_cfg"]
    return Clip(
        model=model.eval(),
        tokenize=tokenize,
        image_size=architecture["vision_cfg"]["image_size"],
        context_length=context,
        mean=tuple(how["mean"]),
        std=tuple(how["std"]),
        config=config,
        merges=merges,
    )


def save_clip(clip: Clip, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """Write a model, with a vocabulary of its own if it has one, so that :func:`load_clip` reads it back.

    The weights are stored as ``dtype``. Each file is replaced only when the new one is complete. Raises ``OSError``
    when the folder cannot be written.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    weights = {key: value.detach().cpu().to(dtype).contiguous() for key, value in clip.model.state_dict().items()}
    with written_whole(folder / _WEIGHTS) as partial:
        save_file(weights, partial)
    with written_whole(folder / _CONFIG) as partial:
        partial.write_text(json.dumps(clip.config, indent=2) + "\n", encoding="utf-8")
    if clip.merges is not None and clip.merges.resolve() != (folder / _MERGES).resolve():
        with written_whole(folder / _MERGES) as partial:
            partial.write_bytes(clip.merges.read_bytes())
    return folder


def preprocess(
    images: Sequence[Image.Image],
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    mode: Mode = "pad",
) -> Tensor:
    """PIL images -> float32 (n, 3, size, size): values in [0, 1], less ``mean``, divided by ``std``.

    ``"pad"`` scales the longer side to ``size`` and fills with black, as HPS v1 was trained (rounding as HPSv2's
    ``ResizeMaxSize``); ``"crop"`` scales the shorter side and cuts the centre out, as its released scoring does
    (rounding as torchvision's ``Resize`` and ``CenterCrop``, since a shift of half a pixel changes a score);
    ``"crop_floor"`` is the same with the rounding of transformers' ``CLIPImageProcessor``, which PickScore uses.
    Scaling is bicubic with antialiasing (PIL). Raises ``ValueError`` for another mode.
    """
    if mode not in get_args(Mode):
        raise ValueError(
            f"mode is {mode!r}: use 'pad' (training of HPS v1), 'crop' (its released scoring) or 'crop_floor' "
            "(PickScore's)."
        )
    pixels = np.zeros((len(images), size, size, 3), dtype=np.uint8)
    for row, image in enumerate(images):
        image = image.convert("RGB")
        if image.size != (size, size):
            if mode == "pad":
                width, height = (max(1, round(side * size / max(image.size))) for side in image.size)
                left, top = -((size - width) // 2), -((size - height) // 2)
            else:
                width, height = (int(size * side / min(image.size)) for side in image.size)
                left, top = round((width - size) / 2), round((height - size) / 2)
                if mode == "crop_floor":
                    left, top = (width - size) // 2, (height - size) // 2
            image = image.resize((width, height), Image.Resampling.BICUBIC)
            image = image.crop((left, top, left + size, top + size))  # beyond the border PIL fills with black
        pixels[row] = np.asarray(image)
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(255)
    return (tensor - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


@torch.no_grad()  # not inference_mode: a probe may be trained on the features
def encode_images(clip: Clip, images: Sequence[Image.Image], batch_size: int = 64, mode: Mode = "pad") -> Tensor:
    """n images -> unit vectors (n, embed_dim), float32 on the CPU.

    ``mode`` is that of :func:`preprocess`. On CUDA the model runs in float16 autocast: with random ViT-L/14 weights it
    moves 100 x cosine by 0.007, where bfloat16 moves it by 0.04. Raises ``ValueError`` when there is no image.
    """
    if len(images) == 0:
        raise ValueError("there are no images to encode: hand over at least one.")
    parts = []

    def pixels_from(start: int) -> Tensor:
        return preprocess(images[start : start + batch_size], clip.image_size, clip.mean, clip.std, mode)

    # Beside a GPU the next images are decoded while this batch is encoded.
    for pixels in ahead(pixels_from, range(0, len(images), batch_size), depth=int(clip.device.type == "cuda")):
        with torch.autocast(clip.device.type, torch.float16, enabled=clip.device.type == "cuda"):
            features = clip.model.encode_image(pixels.to(clip.device))
        parts.append(nn.functional.normalize(features.float(), dim=-1).cpu())
    return torch.cat(parts)


@torch.no_grad()  # not inference_mode: a probe may be trained on the features
def encode_prompts(clip: Clip, prompts: Sequence[str], batch_size: int = 256) -> Tensor:
    """n prompts -> unit vectors (n, embed_dim), float32 on the CPU, as :func:`encode_images`; equal ones once.

    Raises ``ValueError`` when there is no prompt.
    """
    if len(prompts) == 0:
        raise ValueError("there are no prompts to encode: hand over at least one.")
    unique = list(dict.fromkeys(prompts))
    parts = []
    for start in range(0, len(unique), batch_size):
        tokens = clip.tokenize(unique[start : start + batch_size]).to(clip.device)
        with torch.autocast(clip.device.type, torch.float16, enabled=clip.device.type == "cuda"):
            features = clip.model.encode_text(tokens)
        parts.append(nn.functional.normalize(features.float(), dim=-1).cpu())
    place = {prompt: row for row, prompt in enumerate(unique)}
    return torch.cat(parts)[[place[prompt] for prompt in prompts]]


def truncated_prompts(clip: Clip, prompts: Sequence[str]) -> list[int]:
    """The rows of prompts longer than the context: CLIP reads only their beginning, so count and report them."""
    tokenizer: Any = clip.tokenize  # open_clip's SimpleTokenizer
    return [row for row, prompt in enumerate(prompts) if len(tokenizer.encode(prompt)) + 2 > clip.context_length]


def check_prompts(prompts: Sequence[str], images: int) -> None:
    """Raise ``ValueError`` unless each of so many images has a prompt of its own that is not empty."""
    if images != len(prompts):
        raise ValueError(f"there are {images} images but {len(prompts)} prompts: hand over one prompt for each image.")
    empty = [row for row, prompt in enumerate(prompts) if not prompt.strip()]
    if empty:
        raise ValueError(
            f"the prompt of image {empty[0]} (from 0) is empty ({len(empty)} in all): give a text that the image can "
            "be compared with."
        )
