"""ImageReward (Xu et al., NeurIPS 2023): a reward for an image and its prompt, on transformers' own BLIP classes.

Its authors' package no longer installs beside current libraries. The model itself is plain: a ViT-L/16 looks at the
image, a BERT reads the prompt with cross-attention to every patch, and the state of the first token is mapped to one
number. That token is BERT's [CLS]: unlike BLIP's matching head, the authors do not put [ENC] in its place. The map is
five linear layers with dropout but no activation, so it is one vector and one number here. What transformers' defaults
get wrong is set here: 12 heads in the text model (not 8) and an epsilon of 1e-6 in the vision model (not 1e-5).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from hpslib.data.images.lazy import take
from hpslib.runs.files import read_state_dict
from hpslib.scores.aesthetic import collapse_layers
from hpslib.scores.clip import check_prompts
from hpslib.scores.pixels import Preprocessing, preprocess
from hpslib.scores.released import OPENAI
from hpslib.scores.tokens import check_texts

__all__ = [
    "MAX_TOKENS",
    "MEAN",
    "PREPROCESSING",
    "SIZES",
    "STD",
    "ImageReward",
    "imagereward_scores",
    "load_imagereward",
    "truncated_prompts",
]

MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the raw reward, with which its authors standardise it
PREPROCESSING = Preprocessing("crop")
MAX_TOKENS = 35  # of a prompt, [CLS] and [SEP] among them
SIZES = {
    "image size": 224,
    "patch size": 16,
    "vision width": 1024,
    "vision hidden": 4096,
    "vision layers": 24,
    "text width": 768,
    "text hidden": 3072,
    "text layers": 12,
    "positions": 512,
    "vocabulary": 30524,
}
_HEAD_WIDTH = 64  # of attention, in both towers; shapes do not tell it
_VISION, _TEXT = "blip.visual_encoder.", "blip.text_encoder."
_UNUSED = re.compile(r"blip\.(vision|text)_proj\.(weight|bias)|blip\.text_encoder\.embeddings\.position_ids")
_MLP = tuple(f"mlp.layers.{place}" for place in (0, 2, 4, 6, 7))
_VISION_NAMES = (  # transformers' names -> those of the file
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.position_embedding$", "pos_embed"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^encoder\.layers\.", "blocks."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.self_attn\.qkv\.", ".attn.qkv."),
    (r"\.self_attn\.projection\.", ".attn.proj."),
    (r"^post_layernorm\.", "norm."),
)


@dataclass(frozen=True)
class ImageReward:
    """transformers' ``BlipVisionModel`` and ``BlipTextModel`` in float32, ``head_weight`` (text width,) float64 and
    ``head_bias``, and BERT's tokenizer."""

    vision: Any
    text: Any
    head_weight: Tensor
    head_bias: float
    tokenizer: Any

    @property
    def device(self) -> torch.device:
        """Where the towers are."""
        return next(self.vision.parameters()).device

    @property
    def image_size(self) -> int:
        """Side of the square that an image becomes, in pixels."""
        return self.vision.config.image_size


def load_imagereward(
    path: str | Path, tokenizer_folder: str | Path, device: str | torch.device = "cpu", *, any_size: bool = False
) -> ImageReward:
    """Load ``ImageReward.pt`` (THUDM/ImageReward) with the tokenizer of a local ``bert-base-uncased`` folder.

    The pickle is read with ``weights_only``; nothing is fetched. Every key must find its place and every shape must
    agree; BLIP's two projections for contrastive training are the only weights left aside, as the authors' scoring
    does. ``any_size`` takes towers of other sizes than ViT-L/16 and BERT-base, with heads of 64 as in these two.

    Raises ``FileNotFoundError`` when the file or the tokenizer is absent, ``ValueError`` when the file is no
    ImageReward model or of another size, or when the vocabulary is not the model's.
    """
    path = Path(path)
    weights = {key: value.float() for key, value in read_state_dict(path).items() if not _UNUSED.fullmatch(key)}
    sizes = _sizes(weights, path)
    different = [f"{name} {sizes[name]} instead of {SIZES[name]}" for name in SIZES if sizes[name] != SIZES[name]]
    if different and not any_size:
        raise ValueError(
            f"{path} is not ViT-L/16 and BERT-base, it has {', '.join(different)}: name the released file."
        )
    tokenizer = _load_tokenizer(Path(tokenizer_folder), sizes["vocabulary"])
    vision, text = _towers(sizes)
    places = {_VISION + _file_name(key): (vision, key) for key in vision.state_dict()}
    places |= {_TEXT + key: (text, key) for key in text.state_dict()}
    _check_keys(weights, places, sizes["text width"], path)
    for tower in (vision, text):
        state = {name: weights[key] for key, (owner, name) in places.items() if owner is tower}
        tower.load_state_dict(state, assign=True)
        tower.requires_grad_(False).eval().to(device)
    return ImageReward(vision, text, *collapse_layers(weights, _MLP), tokenizer)


@torch.inference_mode()
def imagereward_scores(
    model: ImageReward, images: Sequence[Image.Image], prompts: Sequence[str], batch_size: int = 32
) -> np.ndarray:
    """The reward of each image for its own prompt, float64 (n,): (raw - MEAN) / STD, as its authors report it.

    About -2 to 2; only differences between images of *one* prompt mean anything. Pixels are those of
    :func:`hpslib.scores.pixels.preprocess` with ``mode="crop"`` and OpenAI's mean and std, which is what the authors do
    with RGB and grey images (they convert palettes and transparency after scaling, not before). Prompts are padded to
    35 tokens and cut off there, as in the original: see :func:`truncated_prompts`. Each distinct prompt is tokenised
    once. float32, with float16 autocast on CUDA only.

    Raises ``ValueError`` when there are no images, the lengths differ or a prompt is empty.
    """
    check_prompts(prompts, len(images))
    if len(images) == 0:
        raise ValueError("there are no images to score: hand over at least one.")
    place = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
    tokens = model.tokenizer(
        list(place), padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
    )
    rows = torch.tensor([place[prompt] for prompt in prompts])
    first = []
    for start in range(0, len(images), batch_size):
        part, device = slice(start, start + batch_size), model.device
        opened = take(images, range(*part.indices(len(images))))
        pixels = preprocess(opened, model.image_size, OPENAI["mean"], OPENAI["std"], PREPROCESSING).to(device)
        with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
            states = model.text(
                input_ids=tokens["input_ids"][rows[part]].to(device),
                attention_mask=tokens["attention_mask"][rows[part]].to(device),
                encoder_hidden_states=model.vision(pixel_values=pixels).last_hidden_state,
            ).last_hidden_state
        first.append(states[:, 0].double().cpu())
    return ((torch.cat(first) @ model.head_weight + model.head_bias - MEAN) / STD).numpy()


def truncated_prompts(model: ImageReward, prompts: Sequence[str]) -> list[int]:
    """The rows of prompts of more than 35 tokens: only their beginning is read, so count and report them."""
    if not prompts:
        return []
    check_texts(prompts)
    ids = model.tokenizer(list(prompts), verbose=False)["input_ids"]
    return [row for row, tokens in enumerate(ids) if len(tokens) > MAX_TOKENS]


def _sizes(weights: Mapping[str, Tensor], where: Path) -> dict[str, int]:
    """What the shapes say about the two towers."""
    patches, positions = f"{_VISION}patch_embed.proj.weight", f"{_VISION}pos_embed"
    words, context = f"{_TEXT}embeddings.word_embeddings.weight", f"{_TEXT}embeddings.position_embeddings.weight"
    seen, read = f"{_VISION}blocks.0.mlp.fc1.weight", f"{_TEXT}encoder.layer.0.intermediate.dense.weight"
    dimensions = {patches: 4, positions: 3, words: 2, context: 2, seen: 2, read: 2}
    missing = [key for key, ndim in dimensions.items() if key not in weights or weights[key].ndim != ndim]
    if missing:
        raise ValueError(
            f"{where} is no ImageReward model, since it has no {missing[0]}: name the file ImageReward.pt."
        )
    shapes = {key: weights[key].shape for key in dimensions}
    patch = shapes[patches][-1]
    sizes = {
        "image size": patch * round((shapes[positions][1] - 1) ** 0.5),
        "patch size": patch,
        "vision width": shapes[patches][0],
        "vision hidden": shapes[seen][0],
        "vision layers": _count(weights, f"{_VISION}blocks."),
        "text width": shapes[words][1],
        "text hidden": shapes[read][0],
        "text layers": _count(weights, f"{_TEXT}encoder.layer."),
        "positions": shapes[context][0],
        "vocabulary": shapes[words][0],
    }
    for name in ("vision width", "text width"):
        if sizes[name] % _HEAD_WIDTH:
            raise ValueError(
                f"the {name} of {sizes[name]} in {where} cannot be split into heads of {_HEAD_WIDTH}: name the file "
                "ImageReward.pt."
            )
    return sizes


def _count(weights: Mapping[str, Tensor], prefix: str) -> int:
    return len({key.removeprefix(prefix).partition(".")[0] for key in weights if key.startswith(prefix)})


def _towers(sizes: Mapping[str, int]) -> tuple[nn.Module, nn.Module]:
    """Both towers without weights: those of the file are put in their place, so that none is drawn at random first."""
    from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

    seeing = BlipVisionConfig(
        hidden_size=sizes["vision width"],
        intermediate_size=sizes["vision hidden"],
        num_hidden_layers=sizes["vision layers"],
        num_attention_heads=sizes["vision width"] // _HEAD_WIDTH,
        image_size=sizes["image size"],
        patch_size=sizes["patch size"],
        layer_norm_eps=1e-6,
        attention_dropout=0.0,
        hidden_act="gelu",
    )
    reading = BlipTextConfig(
        hidden_size=sizes["text width"],
        intermediate_size=sizes["text hidden"],
        num_hidden_layers=sizes["text layers"],
        num_attention_heads=sizes["text width"] // _HEAD_WIDTH,
        vocab_size=sizes["vocabulary"],
        encoder_hidden_size=sizes["vision width"],
        max_position_embeddings=sizes["positions"],
        layer_norm_eps=1e-12,
        hidden_act="gelu",
        is_decoder=True,  # so transformers asks for cross-attention; the mask is not causal
    )
    with torch.device("meta"):
        vision, text = BlipVisionModel(seeing), BlipTextModel(reading, add_pooling_layer=False)
    places = torch.arange(sizes["positions"])[None]  # no weight, so it is in no file
    text.embeddings.register_buffer("position_ids", places, persistent=False)
    return vision, text


def _file_name(name: str) -> str:
    for pattern, replacement in _VISION_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _check_keys(
    weights: Mapping[str, Tensor], places: Mapping[str, tuple[nn.Module, str]], width: int, where: Path
) -> None:
    """Every weight has its place, every place its weight, and their shapes agree."""
    expected = {key: tower.get_parameter(name).shape for key, (tower, name) in places.items()}
    for place in _MLP:  # a chain that ends in one number; the widths between are free
        matrix = weights.get(f"{place}.weight", torch.empty(1, width))
        rows = 1 if place == _MLP[-1] else len(matrix)
        expected |= {f"{place}.weight": torch.Size((rows, width)), f"{place}.bias": torch.Size((rows,))}
        width = rows
    missing = [key for key in expected if key not in weights]
    unexpected = [key for key in weights if key not in expected]
    shapes = [key for key in expected if key in weights and weights[key].shape != expected[key]]
    if missing or unexpected or shapes:
        example = (missing or unexpected or shapes)[0]
        raise ValueError(
            f"{where} is no ImageReward model, {len(missing)} keys missing, {len(unexpected)} unexpected, "
            f"{len(shapes)} of another shape (first: {example}): name the file ImageReward.pt."
        )


def _load_tokenizer(folder: Path, words: int) -> Any:
    """BERT's tokenizer from a local folder, with the two special tokens that BLIP adds behind its vocabulary."""
    from transformers import BertTokenizer

    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        raise FileNotFoundError(
            f"{folder} holds no tokenizer.json and no vocab.txt: give a local folder of bert-base-uncased."
        )
    try:
        tokenizer = BertTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises plain Exceptions
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{folder} cannot be read as a tokenizer ({reason}): fetch bert-base-uncased again."
        ) from error
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    if len(tokenizer) != words:
        raise ValueError(
            f"the model knows {words} tokens but the tokenizer in {folder} has {len(tokenizer)} ([DEC] and [ENC] among "
            "them): give the folder of bert-base-uncased."
        )
    return tokenizer
