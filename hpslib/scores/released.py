"""Preference scores of others, loaded safely: HPS v1, v2 and v2.1, PickScore and plain CLIP.

A checkpoint says little about itself: HPS v1 loads without complaint into a model with the wrong activation and scores
wrongly, and the released code does just that. Here each kind states its architecture, its activation, its preprocessing
and its scale; the shapes in the file must agree, every key must find its place, and pickles are read with
``weights_only``. :func:`convert_checkpoint` turns a file into the safetensors folder of :mod:`hpslib.scores.clip`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from hpslib.runs.files import read_state_dict, sha256, written_whole
from hpslib.scores.clip import Clip, build_clip, save_clip
from hpslib.scores.pixels import Mode, Preprocessing
from hpslib.scores.transformers_clip import from_transformers

__all__ = [
    "KINDS",
    "OPENAI",
    "VIT_B16",
    "VIT_B32",
    "VIT_H14",
    "VIT_L14",
    "Kind",
    "architecture_of",
    "convert_checkpoint",
    "load_released",
]

OPENAI = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
_NOT_WEIGHTS = {"input_resolution", "context_length", "vocab_size"}  # numbers in OpenAI's own files
_VISION = {"image_size": 224, "patch_size": 14}
_TEXT = {"context_length": 77, "vocab_size": 49408}
VIT_L14 = {
    "embed_dim": 768,
    "vision_cfg": {**_VISION, "layers": 24, "width": 1024, "head_width": 64},
    "text_cfg": {**_TEXT, "width": 768, "heads": 12, "layers": 12},
}
VIT_B16 = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "patch_size": 16, "layers": 12, "width": 768, "head_width": 64},
    "text_cfg": {**_TEXT, "width": 512, "heads": 8, "layers": 12},
}
VIT_B32 = {**VIT_B16, "vision_cfg": {"image_size": 224, "patch_size": 32, "layers": 12, "width": 768, "head_width": 64}}
VIT_H14 = {
    "embed_dim": 1024,
    "vision_cfg": {**_VISION, "layers": 32, "width": 1280, "head_width": 80},
    "text_cfg": {**_TEXT, "width": 1024, "heads": 16, "layers": 24},
}


@dataclass(frozen=True)
class Kind:
    """What a checkpoint does not say about itself: ``name`` for people, ``model_cfg`` of open_clip without the
    activation, ``quick_gelu``, how its authors preprocess (``mode``) and scale (``factor`` times the cosine, or
    "logit_scale"). ``smaller`` are further sizes of the same release by their names, told apart by their shapes."""

    name: str
    model_cfg: dict[str, Any]
    quick_gelu: bool
    mode: Mode
    factor: float | Literal["logit_scale"]
    smaller: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, dict[str, Any]]:
        """Every size of the release by its name."""
        return {self.name: self.model_cfg, **self.smaller}


_SMALLER = {"OpenAI's CLIP ViT-B/16": VIT_B16, "OpenAI's CLIP ViT-B/32": VIT_B32}
KINDS = {
    "clip": Kind("OpenAI's CLIP ViT-L/14", VIT_L14, True, "crop", 1.0, _SMALLER),
    "hps_v1": Kind("HPS v1 (ViT-L/14)", VIT_L14, True, "crop", 100.0),
    "hps_v2": Kind("HPS v2 or v2.1 (ViT-H/14)", VIT_H14, False, "pad", 1.0),
    "pickscore": Kind("PickScore (ViT-H/14)", VIT_H14, False, "crop_floor", "logit_scale"),
}


def convert_checkpoint(kind: str, path: str | Path, folder: str | Path) -> Path:
    """Write a checkpoint as a folder that :func:`hpslib.scores.clip.load_clip` reads.

    Its configuration says how the authors preprocess, in open_clip's words; ``provenance.json`` beside it names the
    kind, the file, its size and SHA-256. Raises what :func:`load_released` and :func:`hpslib.scores.clip.save_clip`
    raise.
    """
    path = Path(path)
    clip = load_released(kind, path)
    folder = save_clip(clip, folder)
    name = _size_of(kind, architecture_of(clip.model.state_dict()), str(path))
    provenance = {"kind": kind, "name": name, "file": path.name, "bytes": path.stat().st_size}
    provenance["sha256"] = sha256(path)
    with written_whole(folder / "provenance.json") as partial:
        partial.write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    return folder


def load_released(kind: str, path: str | Path) -> Clip:
    """The two towers in a checkpoint file of one of :data:`KINDS`, float32 on the CPU.

    Keys are those of OpenAI and open_clip or of transformers. ``clip`` is OpenAI's ViT-L/14, ViT-B/16 or ViT-B/32, by
    the shapes; LAION's have the same, but another activation, so load none of those as ``clip``.

    Raises ``FileNotFoundError`` when the file is absent and ``ValueError`` for an unknown kind, a file that cannot be
    read, another architecture than the kind's, or keys that find no place.
    """
    if kind not in KINDS:
        raise ValueError(f"the kind {kind!r} is unknown: use one of {', '.join(KINDS)}.")
    release, path = KINDS[kind], Path(path)
    weights = read_state_dict(path)
    if any(key.startswith("vision_model.") for key in weights):
        weights = from_transformers(weights, str(path))
    weights = {key: value for key, value in weights.items() if key not in _NOT_WEIGHTS}
    model_cfg = release.sizes[_size_of(kind, architecture_of(weights, str(path)), str(path))]
    how = {**OPENAI, **Preprocessing(release.mode).stated()}
    config = {"model_cfg": {**model_cfg, "quick_gelu": release.quick_gelu}, "preprocess_cfg": how}
    return build_clip(config, weights, where=str(path))


def _size_of(kind: str, shapes: Mapping[str, int], where: str) -> str:
    """Which of the kind's sizes a checkpoint of these ``shapes`` is; ``ValueError`` when it is none."""
    release = KINDS[kind]
    for name, model_cfg in release.sizes.items():
        if _shapes(model_cfg) == shapes:
            return name
    expected = _shapes(release.model_cfg)
    different = [f"{name} {shapes[name]} instead of {size}" for name, size in expected.items() if shapes[name] != size]
    others = f" (nor {' or '.join(release.smaller)})" if release.smaller else ""
    raise ValueError(
        f"{where} is not {release.name}{others}, it has {', '.join(different)}: name the kind it was saved as."
    )


def architecture_of(weights: Mapping[str, Tensor], where: str = "the checkpoint") -> dict[str, int]:
    """What the shapes of a CLIP state dict say: embed_dim, and of both towers layers, width and input size.

    Raises ``ValueError`` when the keys are not those of a CLIP with a vision transformer.
    """
    needed = ("visual.conv1.weight", "visual.positional_embedding", "visual.proj", "token_embedding.weight")
    missing = [key for key in needed if key not in weights]
    if missing:
        raise ValueError(
            f"{where} is no CLIP with a vision transformer, since it has no {missing[0]}: name another file."
        )
    conv = weights["visual.conv1.weight"]
    blocks = {
        tower: sum(key.startswith(prefix) and key.endswith(".ln_1.weight") for key in weights)
        for tower, prefix in (("vision", "visual.transformer.resblocks."), ("text", "transformer.resblocks."))
    }
    grid = round((len(weights["visual.positional_embedding"]) - 1) ** 0.5)
    return {
        "embed_dim": weights["visual.proj"].shape[1],
        "vision layers": blocks["vision"],
        "vision width": conv.shape[0],
        "patch size": conv.shape[-1],
        "image size": grid * conv.shape[-1],
        "text layers": blocks["text"],
        "text width": weights["token_embedding.weight"].shape[1],
        "vocabulary": len(weights["token_embedding.weight"]),
    }


def _shapes(config: Mapping[str, Any]) -> dict[str, int]:
    vision, text = config["vision_cfg"], config["text_cfg"]
    return {
        "embed_dim": config["embed_dim"],
        "vision layers": vision["layers"],
        "vision width": vision["width"],
        "patch size": vision["patch_size"],
        "image size": vision["image_size"],
        "text layers": text["layers"],
        "text width": text["width"],
        "vocabulary": text["vocab_size"],
    }
