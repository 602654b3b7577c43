"""Load an open_clip model safely and turn images and prompts into unit vectors.

A CLIP checkpoint that fits the wrong architecture loads without an error and scores wrongly: weights trained
with QuickGELU in a model built with GELU are the classic case. So the folder states the architecture, every key
must match, and what a folder does not state is refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from hpslib.data.images.lazy import each_image
from hpslib.runs.files import check_finite, one_line, why_unreadable, written_whole
from hpslib.scores.folder import CONFIG_FILE, check_config, preprocessing_of, read_config, stated_config
from hpslib.scores.pixels import PADDED, Mode, Preprocessing, normalised, preprocess
from hpslib.scores.tokens import check_texts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "Clip",
    "ClipModel",
    "build_clip",
    "check_prompts",
    "encode_images",
    "encode_pixels",
    "encode_prompts",
    "load_clip",
    "save_clip",
    "truncated_prompts",
]

#: open_clip's ``CLIP``, of whose attributes torch's ``nn.Module`` tells a type checker nothing.
ClipModel: TypeAlias = Any

_WEIGHTS, _MERGES = "open_clip_model.safetensors", "bpe.txt.gz"


@dataclass(frozen=True)
class Clip:
    """An open_clip model with what belongs to it.

    ``tokenize`` maps a list of n texts to an int64 tensor (n, context_length), cut off where a text is longer;
    ``mean`` and ``std`` normalise pixels in [0, 1]; ``config`` is the content of ``open_clip_config.json``; ``merges``
    is the file of a vocabulary of its own; ``preprocessing`` is how an image becomes a square.
    """

    model: ClipModel
    tokenize: Callable[[list[str]], Tensor]
    image_size: int
    context_length: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    config: dict[str, Any]
    merges: Path | None = None
    preprocessing: Preprocessing = PADDED

    @property
    def mode(self) -> Mode:
        """How this model's images become squares: the mode of its :class:`hpslib.scores.pixels.Preprocessing`."""
        return self.preprocessing.mode

    def looking(self, how: Preprocessing) -> Clip:
        """The same model with images that are preprocessed otherwise; :func:`save_clip` writes that down."""
        return replace(self, preprocessing=how, config=stated_config(self.config, how))

    def pixels(self, images: Sequence[Image.Image], mode: Mode | Preprocessing | None = None) -> Tensor:
        """n images -> float32 (n, 3, image_size, image_size), as the model wants them or as ``mode`` says."""
        return preprocess(images, self.image_size, self.mean, self.std, self.how(mode))

    def how(self, mode: Mode | Preprocessing | None = None) -> Preprocessing:
        """This model's own preprocessing, or another one where ``mode`` names it."""
        if isinstance(mode, Preprocessing):
            return mode
        return self.preprocessing if mode is None or mode == self.mode else Preprocessing(mode)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> Clip:
        """The same, its model moved to ``device`` in place, its weights cast to ``dtype`` if it is given.

        Bfloat16 is two to four times as fast on CPUs that compute in it (AMX), and moves 100 x cosine by up to 0.1;
        autocast would be slower than float32 there.
        """
        self.model.to(device, dtype)
        return self


def load_clip(folder: str | Path, device: str | torch.device = "cpu") -> Clip:
    """Load a model from a folder in open_clip's own layout.

    The folder holds ``open_clip_config.json`` (``model_cfg`` with the architecture, ``quick_gelu`` stated, and
    ``preprocess_cfg``), ``open_clip_model.safetensors`` and, when the vocabulary is not CLIP's own, ``bpe.txt.gz``.
    Nothing is fetched. Images are preprocessed as the folder says (:func:`hpslib.scores.folder.preprocessing_of`).

    Raises ``FileNotFoundError`` for a missing file and ``ValueError`` when the activation is not stated, a setting is
    none of a plain CLIP, any key or shape does not match, or the vocabulary is not the model's. The global random state
    is left as it was.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    for name in (CONFIG_FILE, _WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name} is missing: name a folder with {CONFIG_FILE} and {_WEIGHTS} (save_clip writes it)."
            )
    config = read_config(folder / CONFIG_FILE)
    how = preprocessing_of(config, str(folder / CONFIG_FILE), folder)
    try:
        weights = load_file(folder / _WEIGHTS)
    except Exception as error:  # safetensors raises its own SafetensorError, which is no subclass of ValueError
        reason = why_unreadable(folder / _WEIGHTS, error)
        raise ValueError(f"{folder / _WEIGHTS} cannot be read ({reason}): fetch the file again.") from error
    merges = folder / _MERGES
    clip = build_clip(config, weights, where=str(folder / _WEIGHTS), merges=merges if merges.is_file() else None)
    return clip.looking(how).to(device)


def build_clip(
    config: dict[str, Any], weights: Mapping[str, Tensor], *, where: str, merges: Path | None = None
) -> Clip:
    """A model on the CPU in float32 from its configuration and weights, every key and shape of which must match.

    ``config`` has the two parts of ``open_clip_config.json``, ``where`` names the weights in errors, ``merges`` is a
    vocabulary of its own. Raises ``ValueError`` as :func:`load_clip` does.
    """
    from open_clip.model import CLIP
    from open_clip.tokenizer import SimpleTokenizer

    check_config(config, where)
    architecture = config["model_cfg"]
    with torch.random.fork_rng(devices=[]):  # the random start is overwritten; the caller's randomness must not notice
        try:
            model = CLIP(**architecture)
        except Exception as error:  # an assertion, a TypeError, ... about settings that do not go together
            raise ValueError(
                f"open_clip cannot build the model that {CONFIG_FILE} describes for {where} ({one_line(error)}): use "
                "the config that the weights were saved with."
            ) from error
    weights = {key: value.float() for key, value in weights.items()}
    expected = model.state_dict()
    missing, unexpected = sorted(set(expected) - set(weights)), sorted(set(weights) - set(expected))
    shapes = [k for k in expected if k in weights and expected[k].shape != weights[k].shape]
    if missing or unexpected or shapes:
        example = (missing or unexpected or shapes)[0]
        raise ValueError(
            f"{where} does not fit the architecture in {CONFIG_FILE}: {len(missing)} keys missing, "
            f"{len(unexpected)} unexpected, {len(shapes)} of another shape (first: {example}): use the config that the "
            "weights were saved with."
        )
    check_finite(weights, where)
    model.load_state_dict(weights)
    context = architecture["text_cfg"]["context_length"]
    try:
        tokenize = SimpleTokenizer(**({"bpe_path": str(merges)} if merges else {}), context_length=context)
    except Exception as error:  # no gzip, no UTF-8, no pairs
        raise ValueError(f"{merges} cannot be read as a vocabulary ({one_line(error)}): copy it anew.") from error
    words = architecture["text_cfg"]["vocab_size"]
    if tokenize.vocab_size != words:
        raise ValueError(
            f"the model in {where} knows {words} tokens but the tokenizer has {tokenize.vocab_size}: put the model's "
            f"own {_MERGES} beside its weights (only CLIP's own vocabulary needs none)."
        )
    numbers = config["preprocess_cfg"]
    how = preprocessing_of(config, where)
    return Clip(
        model=model.eval(),
        tokenize=tokenize,
        image_size=architecture["vision_cfg"]["image_size"],
        context_length=context,
        mean=tuple(numbers["mean"]),
        std=tuple(numbers["std"]),
        config=stated_config(config, how),
        merges=merges,
        preprocessing=how,
    )


def save_clip(clip: Clip, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """Write a model, with a vocabulary of its own if it has one, so that :func:`load_clip` reads it back.

    The weights are stored as ``dtype``, and beside them how images are preprocessed, in the words of open_clip, whose
    ``create_model_and_transforms`` then looks at the same pixels. Each file is replaced only when the new one is
    complete. Raises ``OSError`` when the folder cannot be written.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    weights = {key: value.detach().cpu().to(dtype).contiguous() for key, value in clip.model.state_dict().items()}
    with written_whole(folder / _WEIGHTS) as partial:
        save_file(weights, partial)
    config = stated_config(clip.config, clip.preprocessing)
    with written_whole(folder / CONFIG_FILE) as partial:
        partial.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if clip.merges is not None and clip.merges.resolve() != (folder / _MERGES).resolve():
        with written_whole(folder / _MERGES) as partial:
            partial.write_bytes(clip.merges.read_bytes())
    return folder


@torch.no_grad()  # not inference_mode: a probe may be trained on the features
def encode_images(
    clip: Clip,
    images: Sequence[Image.Image],
    batch_size: int = 64,
    mode: Mode | Preprocessing | None = None,
) -> Tensor:
    """n images -> unit vectors (n, embed_dim), float32 on the CPU.

    Images are preprocessed as the model was trained, or as ``mode`` says (:class:`hpslib.scores.pixels.Preprocessing`),
    and large ones are scaled one by one. On CUDA the model runs in float16 autocast: with random ViT-L/14 weights it
    moved 100 x cosine by 0.02, where bfloat16 moved it by 0.11. Raises ``ValueError`` when there is no image.
    """
    if len(images) == 0:
        raise ValueError("there are no images to encode: hand over at least one.")
    how = clip.how(mode)
    squares = each_image(lambda image: how.square(image, clip.image_size), images, range(len(images)), batch_size)
    parts = []
    while batch := list(islice(squares, batch_size)):
        parts.append(encode_pixels(clip, normalised(np.stack(batch), clip.mean, clip.std, clip.device)))
    return torch.cat(parts)


@torch.no_grad()  # not inference_mode: a probe may be trained on the features
def encode_prompts(clip: Clip, prompts: Sequence[str], batch_size: int = 256) -> Tensor:
    """n prompts -> unit vectors (n, embed_dim), float32 on the CPU, as :func:`encode_images`; equal ones once.

    Raises ``ValueError`` when there is no prompt, or one is no text.
    """
    if len(prompts) == 0:
        raise ValueError("there are no prompts to encode: hand over at least one.")
    check_texts(prompts)
    tokens = clip.tokenize(unique := list(dict.fromkeys(prompts)))
    lengths = tokens.argmax(-1)  # where a text ends: <end_of_text> has the largest number
    order = lengths.argsort(stable=True)  # short ones together
    parts = []
    for rows in order.split(batch_size):
        length = int(lengths[rows].max()) + 1 if _is_plain(clip.model) else tokens.shape[1]
        with _computing(clip):
            part = _text_features(clip.model, tokens[rows, :length].to(clip.device))
        parts.append(nn.functional.normalize(part.float(), dim=-1).cpu())
    features, place = torch.cat(parts)[order.argsort()], {prompt: row for row, prompt in enumerate(unique)}
    return features[[place[prompt] for prompt in prompts]]


def _text_features(model: ClipModel, tokens: Tensor) -> Tensor:
    """open_clip's ``encode_text`` of tokens (n, length) that may be cut off behind the longest text: what stands behind
    its end changes no text's features, since attention looks back only."""
    if not _is_plain(model):
        return model.encode_text(tokens)
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return x[torch.arange(len(x)), tokens.argmax(-1)] @ model.text_projection


def _is_plain(model: ClipModel) -> bool:
    """Whether a text is read as in OpenAI's CLIP: each token looks back, the end is what counts, one matrix follows."""
    return (
        model.attn_mask is not None
        and getattr(model, "text_pool_type", "argmax") == "argmax"
        and isinstance(model.text_projection, nn.Parameter)
    )


def _computing(clip: Clip) -> Any:
    """Float16 autocast on CUDA, unless the weights themselves are of a smaller type than float32."""
    dtype = clip.model.token_embedding.weight.dtype
    return torch.autocast(
        clip.device.type, torch.float16, enabled=clip.device.type == "cuda" and dtype == torch.float32
    )


@torch.no_grad()
def encode_pixels(clip: Clip, pixels: Tensor) -> Tensor:
    """Preprocessed images (n, 3, image_size, image_size) -> unit vectors (n, embed_dim), float32 on the CPU."""
    with _computing(clip):
        features = clip.model.encode_image(pixels.to(clip.device, clip.model.token_embedding.weight.dtype))
    return nn.functional.normalize(features.float(), dim=-1).cpu()


def truncated_prompts(clip: Clip, prompts: Sequence[str]) -> list[int]:
    """The rows of prompts of which CLIP reads only the beginning, so count and report them: those longer than the
    context, and those with ``<end_of_text>`` in them, at which CLIP stops to read."""
    tokenizer: Any = clip.tokenize  # open_clip's SimpleTokenizer
    check_texts(prompts)
    ids = [tokenizer.encode(prompt) for prompt in prompts]
    return [
        row for row, part in enumerate(ids) if len(part) + 2 > clip.context_length or tokenizer.eot_token_id in part
    ]


def check_prompts(prompts: Sequence[str], images: int) -> None:
    """Raise ``ValueError`` unless each of so many images has a prompt of its own that is text and not empty."""
    if images != len(prompts):
        raise ValueError(f"there are {images} images but {len(prompts)} prompts: hand over one prompt for each image.")
    check_texts(prompts)
    empty = [row for row, prompt in enumerate(prompts) if not prompt.strip()]
    if empty:
        raise ValueError(
            f"the prompt of image {empty[0]} (from 0) is empty ({len(empty)} in all): give a text that the image can "
            "be compared with."
        )
