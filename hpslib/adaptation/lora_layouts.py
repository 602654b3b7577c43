"""What a LoRA file says about itself: which file it is, its layout, and the settings in its metadata.

A LoRA adds ``scale * up @ down`` to a layer's weight. Other adapters look much the same and mean something else (DoRA
also divides by a norm, LoHa and LoKr multiply other matrices), and readers drop what they do not know. So a file is
looked at before it is loaded, and one that is no plain LoRA of Stable Diffusion is called by its name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpslib.runs.files import read_state_dict

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LORA_FILE", "check_layout", "lora_file", "lora_settings", "model_of", "read_lora"]

LORA_FILE = "pytorch_lora_weights.safetensors"  # the name diffusers gives it

_CONVERT = "write it with hpslib convert lora_v1, which reads this layout"
_PLAIN = "train or fetch a plain LoRA, since only that is read"
_OTHER_MODEL = "name one that was trained for Stable Diffusion 1 or 2"
#: A pattern of keys, what such a file is, and what to do about it; the first that fits is said.
_STRANGERS = (
    (r"dora_scale|lora_magnitude_vector", "a DoRA, whose scales would be dropped", _PLAIN),
    (r"\.hada_", "a LoHa (LyCORIS)", _PLAIN),
    (r"\.lokr_", "a LoKr (LyCORIS)", _PLAIN),
    (r"\.lora_mid\.|\.hada_t|\.cp_", "a LoRA in Tucker decomposition (LyCORIS)", _PLAIN),
    (r"\.(oft_|boft_)|\.oft\.", "an OFT", _PLAIN),
    (r"\.(a1|a2|b1|b2|bm|bm1|bm2)\.weight$", "a GLoRA (LyCORIS)", _PLAIN),
    (r"\.on_input$|\.ia3_", "an (IA)3", _PLAIN),
    (r"\.diff_b$|\.diff$|lora_[AB]\.bias$|lora_(up|down)\.bias$", "a LoRA with biases or whole differences", _PLAIN),
    (r"lora_te[12]_|^text_encoder_2\.", "a LoRA for Stable Diffusion XL", _OTHER_MODEL),
    (r"(input|output|middle)_blocks?_\d|add_embedding|label_emb", "a LoRA for Stable Diffusion XL", _OTHER_MODEL),
    (r"^(lora_)?(transformer|diffusion_model)[._]|^lora_unet_(double|single|joint)_", "of another model", _OTHER_MODEL),
    (r"\.processor\..*_lora\.", "in the layout of diffusers' old attention processors", _CONVERT),
    (r"^base_model\.model\.", "in peft's own layout, whose scale lies in another file", "save it with save_lora"),
)
_WIDTHS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
_KOHYA = re.compile(r"(lora_(?:unet|te)_\w+)\.(lora_down\.weight|lora_up\.weight|alpha)")


def lora_file(source: str | Path) -> Path:
    """The LoRA file that is meant: ``source`` itself, or ``pytorch_lora_weights.safetensors`` in that folder.

    Raises ``FileNotFoundError`` when there is no such file, ``ValueError`` when it is no ``.safetensors``.
    """
    path = Path(source)
    if not path.is_file():
        if path.suffix == ".safetensors" and not path.is_dir():
            raise FileNotFoundError(f"{path} does not exist: give a LoRA file, or the folder that save_lora wrote to.")
        path = path / LORA_FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"{source} holds no {LORA_FILE}: give the folder that save_lora wrote to, or a .safetensors file."
            )
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path} is no .safetensors file: hpslib convert lora_v1 rewrites the LoRA released with the paper, fetch "
            "any other as .safetensors."
        )
    return path


def read_lora(path: Path) -> dict[str, Tensor]:
    """The tensors of a LoRA file in diffusers' or kohya's layout, by the names that they have there.

    Raises ``ValueError`` when the file is damaged, holds NaN, is no plain LoRA of Stable Diffusion, or its metadata
    are not what diffusers writes.
    """
    weights = read_state_dict(path)
    lora_settings(path)
    check_layout(weights, path)
    return weights


def check_layout(weights: Mapping[str, Tensor], where: Path) -> None:
    """Raise ``ValueError`` for another adapter than a plain LoRA, and for a layout that would be read wrongly."""
    for pattern, what, remedy in _STRANGERS:
        key = next((key for key in weights if re.search(pattern, key)), None)
        if key is not None:
            raise ValueError(f"{where} is {what} (it has {key[:120]!r}): {remedy}.")
    kohya = [key for key in weights if key.startswith("lora_")]
    if kohya:
        _check_kohya(weights, where)
        return
    alpha = next((key for key in weights if key.endswith(".alpha")), None)
    if alpha is not None:
        raise ValueError(
            f"{where} keeps its scale in keys such as {alpha[:120]!r} under diffusers' names, where diffusers does not "
            "look for it: fetch it in kohya's layout, or save it again with save_lora."
        )


def _check_kohya(weights: Mapping[str, Tensor], where: Path) -> None:
    """Every key is a down matrix, an up matrix or an alpha of one number, and no layer lacks a matrix."""
    layers: dict[str, set[str]] = {}
    for key, value in weights.items():
        match = _KOHYA.fullmatch(key)
        if match is None:
            raise ValueError(
                f"{key[:120]!r} in {where} is no LoRA weight in kohya's layout: remove it, or fetch the file again."
            )
        if match[2] == "alpha" and value.numel() != 1:
            raise ValueError(f"{key[:120]!r} in {where} is no single number: fetch the file again.")
        layers.setdefault(match[1], set()).add(match[2])
    for layer, parts in layers.items():
        lacking = sorted({"lora_down.weight", "lora_up.weight"} - parts)
        if lacking:
            raise ValueError(f"{layer} in {where} has no {lacking[0]}: fetch the file again.")


def lora_settings(path: Path) -> dict[str, Any]:
    """What diffusers noted about the LoRA in the file's metadata (``unet.r``, ``unet.lora_alpha``, ...), or nothing.

    Raises ``ValueError`` when that is no object, or a value in it is not of the kind that peft would take.
    """
    from safetensors import safe_open

    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get("lora_adapter_metadata")  # diffusers' name for it
    if text is None:
        return {}
    try:
        settings = json.loads(text)
    except ValueError as error:
        raise ValueError(f"the metadata lora_adapter_metadata of {path} are no JSON ({error}): {_ANEW}.") from error
    if not isinstance(settings, dict):
        raise ValueError(f"the metadata lora_adapter_metadata of {path} are no object but {text[:60]!r}: {_ANEW}.")
    for name, value in settings.items():
        kind = name.rpartition(".")[2]
        if kind in _KINDS and not _KINDS[kind](value):
            raise ValueError(f"the metadata of {path} say that {name} is {value!r}, which it cannot be: {_ANEW}.")
    return settings


_ANEW = "save the LoRA again, or fetch the file again"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _is_pattern(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and all(_is_number(part) for part in value.values()))


_KINDS = {
    "lora_alpha": _is_number,
    "r": lambda value: _is_number(value) and value == int(value),
    "rank_pattern": _is_pattern,
    "alpha_pattern": _is_pattern,
    "use_rslora": lambda value: value is None or isinstance(value, bool),
    "use_dora": lambda value: not value,
}


def model_of(weights: Mapping[str, Tensor]) -> str | None:
    """The model that a LoRA was trained for, by the width of the text states that its cross-attention reads."""
    for key, value in weights.items():
        if re.search(r"attn2[._]to_k\.?_?(lora)?.*(down|lora_A)\.weight$", key) and value.ndim >= 2:
            return _WIDTHS.get(value.shape[1])
    return None
