"""LoRA files of others and for others: kohya's layout for A1111 and ComfyUI, and the paper's released ``.bin``.

A LoRA adds ``scale * up @ down`` to a layer's weight. The layouts differ in the names of the layers and in where the
scale is kept: diffusers multiplies by 1 unless the file says otherwise, kohya by ``alpha / rank`` with an alpha in the
file. Renaming is diffusers' own; what is checked here is that every key finds its place and the product stays the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from hpslib.adaptation.lora_layouts import LORA_FILE, lora_settings
from hpslib.runs.files import read_state_dict, written_whole

__all__ = ["export_kohya", "import_legacy"]

_LEGACY = re.compile(r"(unet\.)?.+\.attn[12]\.processor\.to_(q|k|v|out)_lora\.(down|up)\.weight")
_PARTS = "down_blocks|mid_block|up_blocks|conv_in|conv_out|time_embedding|add_embedding"  # of a UNet2DConditionModel
_LAYER = re.compile(rf"(?:unet\.)?((?:{_PARTS})(?:\..+)?)\.lora_([AB])\.weight")


def export_kohya(source: str | Path, target: str | Path, *, alpha: float | None = None) -> Path:
    """Write a diffusers LoRA of a UNet as one file that A1111 and ComfyUI read; returns ``target``.

    ``source`` is a LoRA file or the folder that :func:`hpslib.adaptation.lora.save_lora` wrote to, with the ``lora_A``
    and ``lora_B`` of peft or the ``lora.down`` and ``lora.up`` of diffusers' scripts. Keys become ``lora_unet_<path
    with underscores>`` and ``.lora_down.weight``, ``.lora_up.weight`` or ``.alpha`` (float32). Readers multiply by
    ``alpha / rank``. With ``alpha`` the rank (the default) that is 1 and the weights stay as they are; with another
    alpha ``lora_up`` is multiplied by ``rank / alpha`` in return, so the images are the same. A scale in the source's
    own metadata is multiplied into ``lora_up`` too.

    Raises ``FileNotFoundError`` when there is no such file, ``ValueError`` for an alpha that is not above 0, a target
    that does not end in .safetensors, weights of anything but a UNet, a layer with half of its pair, mixed ranks, or
    weights that would leave the range of their dtype.
    """
    from diffusers.utils import convert_state_dict_to_kohya

    source, target = Path(source), Path(target)
    if target.suffix != ".safetensors":
        raise ValueError(f"{target} does not end in .safetensors: A1111 and ComfyUI find the format by its name.")
    if alpha is not None and not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"alpha is {alpha}: give a number above 0 (readers multiply by alpha / rank).")
    path = source / LORA_FILE if source.is_dir() else source
    layers, rank = _layers(read_state_dict(path), path)
    alpha = float(rank if alpha is None else alpha)
    factor = _stored_scale(path, rank) * rank / alpha
    weights: dict[str, Tensor] = {}
    for name, (down, up) in layers.items():
        scaled = up if factor == 1 else (up.double() * factor).to(up.dtype)
        if not torch.isfinite(scaled).all():
            raise ValueError(f"{name} of {path} times {factor:g} leaves the range of {up.dtype}: give a larger alpha.")
        weights |= {f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": scaled}
    kohya = convert_state_dict_to_kohya(weights)
    kohya |= {key: torch.tensor(alpha) for key in kohya if key.endswith(".alpha")}  # diffusers writes the rank
    metadata = {"ss_network_module": "networks.lora", "ss_network_dim": str(rank), "ss_network_alpha": str(alpha)}
    return _write(kohya, target, metadata)


def import_legacy(path: str | Path, folder: str | Path) -> Path:
    """Rewrite the paper's released LoRA so that :func:`hpslib.adaptation.lora.load_lora` reads it; returns the file
    written.

    The pickle is read with ``weights_only``. Its keys are those of diffusers' old attention processors,
    ``{block}.attn{1,2}.processor.to_{q,k,v,out}_lora.{down,up}.weight``, with or without ``unet.`` before them; it has
    no alpha, so the scale is 1. ``folder`` then holds ``pytorch_lora_weights.safetensors``, with the tensors unchanged.

    Raises ``FileNotFoundError`` when there is no such file, ``ValueError`` when none or only some of its keys are of
    that kind, a layer has half of its pair, or the ranks are mixed (which the authors' own script refuses too).
    """
    from diffusers.utils import convert_state_dict_to_diffusers

    path = Path(path)
    weights = read_state_dict(path)
    other = [key for key in weights if not _LEGACY.fullmatch(key)]
    if len(other) == len(weights):
        raise ValueError(
            f"{path} has no key like 'down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down"
            f".weight' (its first is {other[0]!r}): only the layout of the paper's release is imported here."
        )
    if other:
        raise ValueError(
            f"{other[0]!r} in {path} is no LoRA weight of an attention layer ({len(other)} of {len(weights)} keys are "
            "not): remove what does not belong to the LoRA."
        )
    layers, _ = _layers(weights, path)
    renamed = {f"unet.{name}.lora_A.weight": down for name, (down, _) in layers.items()}
    renamed |= {f"unet.{name}.lora_B.weight": up for name, (_, up) in layers.items()}
    return _write(convert_state_dict_to_diffusers(renamed), Path(folder) / LORA_FILE, {})


def _layers(weights: Mapping[str, Tensor], where: Path) -> tuple[dict[str, tuple[Tensor, Tensor]], int]:
    """The (down, up) of every layer under the name of its module in the UNet, and their common rank."""
    from diffusers.utils import convert_unet_state_dict_to_peft

    layers: dict[str, dict[str, Tensor]] = {}
    other = []
    for key, value in weights.items():
        (name,) = convert_unet_state_dict_to_peft({key: value})  # one by one, or two keys could become the same
        match = _LAYER.fullmatch(name)
        if match is None or match[2] in layers.setdefault(match[1], {}):
            other.append(key)
        else:
            layers[match[1]][match[2]] = value
    if other:
        raise ValueError(
            f"{other[0]!r} in {where} is no LoRA weight of a UNet, or the second for its layer ({len(other)} of "
            f"{len(weights)} keys are): only the LoRA of a UNet is converted here."
        )
    halves = [name for name, pair in layers.items() if len(pair) < 2]
    if halves:
        lacking = "up" if "A" in layers[halves[0]] else "down"
        raise ValueError(
            f"{halves[0]} in {where} has no {lacking} matrix ({len(halves)} of {len(layers)} layers lack one): "
            "fetch the file again."
        )
    pairs = {name: (pair["A"], pair["B"]) for name, pair in layers.items()}
    torn = [name for name, (down, up) in pairs.items() if min(down.ndim, up.ndim) < 2 or up.shape[1] != down.shape[0]]
    if torn:
        shapes = " and ".join(str(list(part.shape)) for part in pairs[torn[0]])
        raise ValueError(
            f"{torn[0]} in {where} has a down and an up matrix of {shapes}, which cannot be multiplied: fetch the file "
            "again."
        )
    ranks = sorted({len(down) for down, _ in pairs.values()})
    if len(ranks) > 1:
        raise ValueError(
            f"{where} mixes the ranks {', '.join(map(str, ranks))}, which many releases of diffusers scale wrongly "
            "(its pull request 14409): use a LoRA of one rank."
        )
    return pairs, ranks[0]


def _stored_scale(path: Path, rank: int) -> float:
    """What diffusers multiplies ``up @ down`` by: alpha / rank where the file's metadata say so, otherwise 1."""
    settings = {key.removeprefix("unet."): value for key, value in lora_settings(path).items()}
    special = [name for name in ("alpha_pattern", "use_rslora") if settings.get(name)]
    if special:
        raise ValueError(f"{path} was trained with {special[0]}, which is not converted here: use it with diffusers.")
    return settings.get("lora_alpha", rank) / rank


def _write(weights: Mapping[str, Tensor], target: Path, metadata: Mapping[str, str]) -> Path:
    from safetensors.torch import save_file

    tensors = {key: value.contiguous() for key, value in weights.items()}
    with written_whole(target) as partial:
        save_file(tensors, partial, metadata={"format": "pt", **metadata})
    return target
