"""What the folder of a CLIP says: open_clip's configuration, read with suspicion.

open_clip builds a model of whatever stands there: a text is true where a yes or no belongs, a NaN among the means gives
scores that are NaN, and the name of somebody else's text model is looked up on the hub. Here every value is checked
first, and nothing is fetched.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from functools import reduce
from operator import getitem
from pathlib import Path
from reprlib import repr as brief
from typing import Any

from hpslib.scores.pixels import Mode, Preprocessing, read_preprocessing

__all__ = ["CONFIG_FILE", "check_config", "preprocessing_of", "read_config", "stated_config"]

CONFIG_FILE = "open_clip_config.json"
_SETTINGS = (
    "model_cfg.embed_dim",
    "model_cfg.vision_cfg.image_size",
    "model_cfg.text_cfg.context_length",
    "model_cfg.text_cfg.vocab_size",
    "preprocess_cfg.mean",
    "preprocess_cfg.std",
)
_LARGEST = {"layers": 256, "vocab_size": 2**20}  # a file must not decide how much memory is taken
_COUNTS = {
    "model_cfg": ("embed_dim",),
    "vision_cfg": ("image_size", "layers", "width", "head_width", "patch_size"),
    "text_cfg": ("context_length", "vocab_size", "width", "heads", "layers"),
}
#: Parts that open_clip would build from other libraries or fetch, or that make it return something else than vectors.
_ELSEWHERE = ("timm_model_name", "hf_model_name", "hf_tokenizer_name", "output_tokens", "tokenizer_mode")
_CHOICES: dict[str, dict[str, tuple[str, ...]]] = {
    "vision_cfg": {"pool_type": ("tok", "avg"), "pos_embed_type": ("learnable", "sin_cos_2d")},
    "text_cfg": {"pool_type": ("argmax", "eos", "last", "first"), "proj_type": ("linear", "none")},
}
#: Modes of the kinds that hpslib convert wrote before the configuration named them.
_CONVERTED: dict[str, Mode] = {"clip": "crop", "hps_v1": "crop", "hps_v2": "pad", "pickscore": "crop_floor"}
_ANEW = "copy it anew from the model, or write the folder with hpslib convert clip"


def read_config(file: Path) -> dict[str, Any]:
    """open_clip's configuration with all that is used of it; ``ValueError`` where it is damaged or lacks a part."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        for path in _SETTINGS:
            reduce(getitem, path.split("."), config)
    except (ValueError, KeyError, TypeError) as error:  # not JSON or not UTF-8; a name is missing; not an object
        raise ValueError(
            f"{file} is no configuration of open_clip ({type(error).__name__}: {error}): {_ANEW}."
        ) from error
    if "quick_gelu" not in config["model_cfg"]:
        raise ValueError(
            f"{file} does not state quick_gelu: add it (true for OpenAI's weights and HPS v1, false for most of "
            "open_clip's), since weights load either way and score wrongly in the other one."
        )
    check_config(config, str(file))
    return config


def check_config(config: Mapping[str, Any], where: str) -> None:
    """Raise ``ValueError``, naming ``where`` and the setting, for what is no CLIP of two transformers."""
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    model, how = config["model_cfg"], config["preprocess_cfg"]
    known = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_scale", "init_logit_bias"}
    known |= {"nonscalar_logit_scale", "output_dict", "cast_dtype"}
    _check_names(model, known, f"{where}: model_cfg")
    for name in ("quick_gelu", "nonscalar_logit_scale", "output_dict"):
        if not isinstance(model.get(name, False), bool):
            raise ValueError(f"{where}: model_cfg.{name} is {brief(model[name])}: write true or false.")
    for part, kind in (("vision_cfg", CLIPVisionCfg), ("text_cfg", CLIPTextCfg)):
        settings, at = model[part], f"{where}: model_cfg.{part}"
        if not isinstance(settings, Mapping):
            raise ValueError(f"{at} is {brief(settings)}: {_ANEW}.")
        fields = {field.name: field for field in dataclasses.fields(kind)}
        _check_names(settings, set(fields), at)
        for name, value in settings.items():
            if name in _ELSEWHERE and value:
                raise ValueError(f"{at}.{name} is {brief(value)}, which is no part of a plain CLIP: use another model.")
            if isinstance(fields[name].default, bool) and not isinstance(value, bool):
                raise ValueError(f"{at}.{name} is {brief(value)}: write true or false.")
            if name in _CHOICES[part] and value not in _CHOICES[part][name]:
                raise ValueError(f"{at}.{name} is {brief(value)}: use one of {', '.join(_CHOICES[part][name])}.")
            if isinstance(fields[name].default, float) and not _is_number(value):
                raise ValueError(f"{at}.{name} is {brief(value)}: write a number.")
    _check_counts(model, where)
    for name in ("mean", "std"):
        value = how[name]
        three = isinstance(value, list | tuple) and len(value) == 3 and all(map(_is_number, value))
        if not three or (name == "std" and min(value) <= 0):
            rule = "three numbers above 0" if name == "std" else "three numbers"
            raise ValueError(
                f"{where}: preprocess_cfg.{name} is {brief(value)}: write {rule}, for red, green and blue."
            )
    if how.get("mode", "RGB") != "RGB":
        raise ValueError(f"{where}: preprocess_cfg.mode is {brief(how['mode'])}: only RGB is read.")


def _check_names(settings: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(str(name) for name in settings if name not in known)
    if unknown:
        raise ValueError(f"{where}.{unknown[0]} is no setting of a plain CLIP: use another model, or take it out.")


def _check_counts(model: Mapping[str, Any], where: str) -> None:
    """Sizes are whole numbers above 0, and widths can be split into heads; what is left out has open_clip's default."""
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    vision = {**dataclasses.asdict(CLIPVisionCfg()), **model["vision_cfg"]}
    text = {**dataclasses.asdict(CLIPTextCfg()), **model["text_cfg"]}
    for part, settings in (("model_cfg", model), ("vision_cfg", vision), ("text_cfg", text)):
        for name in _COUNTS[part]:
            value = settings[name]
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                place = part if part == "model_cfg" else f"model_cfg.{part}"
                raise ValueError(f"{where}: {place}.{name} is {brief(value)}: write a whole number above 0.")
            if value > _LARGEST.get(name, 2**14):
                place = part if part == "model_cfg" else f"model_cfg.{part}"
                raise ValueError(f"{where}: {place}.{name} is larger than that of any CLIP: write its true number.")
    for part, settings in (("vision_cfg", vision), ("text_cfg", text)):
        if 12 * settings["width"] ** 2 * settings["layers"] > 2**32:  # 17 GB of weights; bigG's tower has 1.8 billion
            raise ValueError(f"{where}: model_cfg.{part} is larger than any CLIP's: write its true width and layers.")
    if vision["width"] % vision["head_width"]:
        raise ValueError(
            f"{where}: model_cfg.vision_cfg.head_width is {vision['head_width']}: write a divisor of the width "
            f"{vision['width']}."
        )
    if text["width"] % text["heads"]:
        raise ValueError(
            f"{where}: model_cfg.text_cfg.heads is {text['heads']}: write a divisor of the width {text['width']}."
        )
    if vision["patch_size"] > vision["image_size"]:
        raise ValueError(
            f"{where}: model_cfg.vision_cfg.patch_size is {vision['patch_size']}: write at most the image_size "
            f"{vision['image_size']}."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def preprocessing_of(config: Mapping[str, Any], where: str, folder: Path | None = None) -> Preprocessing:
    """How the model looks at images: what its configuration states.

    One that states nothing was written by an earlier hpslib: converted releases (``provenance.json`` in ``folder``) are
    preprocessed as their authors do, all else is padded, as our classifiers are trained. Raises ``ValueError``, naming
    ``where``, for what open_clip does not have.
    """
    default: Mode = "pad"
    provenance = folder / "provenance.json" if folder else None
    if provenance is not None and provenance.is_file():
        try:
            default = _CONVERTED.get(json.loads(provenance.read_text(encoding="utf-8"))["kind"], "pad")
        except (ValueError, KeyError, TypeError):  # load_scorer, which needs the kind, says so
            default = "pad"
    try:
        return read_preprocessing(config["preprocess_cfg"], default)
    except ValueError as error:
        raise ValueError(f"{where}: preprocess_cfg.{error}") from error


def stated_config(config: Mapping[str, Any], how: Preprocessing) -> dict[str, Any]:
    """The configuration with ``how`` stated in open_clip's words, so that plain open_clip looks at the same pixels."""
    kept = {name: value for name, value in config["preprocess_cfg"].items() if name not in _WORDS}
    return {**config, "preprocess_cfg": {**kept, **how.stated()}}


_WORDS = set(Preprocessing("crop_floor").stated())
