"""The adapter itself: LoRA on the UNet's attention projections, put on, taken off, saved and loaded."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from hpslib.adaptation.lora_layouts import LORA_FILE, lora_file, lora_settings, model_of, read_lora
from hpslib.adaptation.model_folder import quiet
from hpslib.runs.files import one_line, written_whole

__all__ = ["ATTENTION_PROJECTIONS", "add_lora", "fused_lora", "load_lora", "remove_lora", "save_lora"]

_SAME = "name one that was trained for the same model"
_WEIGHT = re.compile(r"(unet|text_encoder)\.(.+)\.lora_([AB])\.weight")
ATTENTION_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")  # of self- and cross-attention


def add_lora(pipe: Any, *, rank: int, seed: int, name: str = "hps") -> list[torch.nn.Parameter]:
    """Put a fresh LoRA of ``rank`` (scale 1) on the UNet's attention projections; return its parameters.

    A starts random, B at zero, so the model is unchanged until it is trained (Hu et al., 2021). The base
    weights are frozen. The draw of A depends on ``seed`` alone. The LoRA is float32 even on a bfloat16 pipeline, where
    a small learning rate would otherwise be rounded away. Raises ``ValueError`` for a rank below 1 or a ``name`` that
    is taken.
    """
    from diffusers.training_utils import cast_training_params
    from peft import LoraConfig

    if rank < 1 or rank != int(rank):
        raise ValueError(f"rank is {rank}: give a whole number of at least 1.")
    if name in getattr(pipe.unet, "peft_config", {}):
        raise ValueError(
            f"the pipeline already has a LoRA called {name!r}: call remove_lora first or give another name."
        )
    pipe.unet.requires_grad_(False)
    config = LoraConfig(
        r=rank, lora_alpha=rank, target_modules=list(ATTENTION_PROJECTIONS), init_lora_weights="gaussian"
    )
    with torch.random.fork_rng():  # peft draws from the global generator; it is put back as it was
        torch.manual_seed(seed)
        with _beside_an_old_torchao():
            pipe.unet.add_adapter(config, adapter_name=name)
    pipe.unet.set_adapter(name)
    cast_training_params([pipe.unet], dtype=torch.float32)
    return [parameter for parameter in pipe.unet.parameters() if parameter.requires_grad]


@contextmanager
def _beside_an_old_torchao() -> Iterator[None]:
    """Within the block peft works beside a torchao that is too old for it, as Colab's is.

    peft asks about torchao at every layer, and refuses all of them where it is too old, though none of ours needs it.
    """
    try:
        from peft.tuners.lora import torchao
    except ImportError:  # a peft that does not ask
        yield
        return
    too_old = False
    try:
        torchao.is_torchao_available()
    except ImportError:
        too_old = True
    with patch.object(torchao, "is_torchao_available", lambda: False) if too_old else nullcontext():
        yield


def remove_lora(pipe: Any) -> None:
    """Take every LoRA off the pipeline: the base model is back, bit by bit."""
    pipe.unload_lora_weights()


@contextmanager
def fused_lora(pipe: Any) -> Iterator[None]:
    """Within the block the active LoRAs are part of the weights, W + scale * B A, so that a forward pass costs what the
    base model's does; afterwards every weight is the very one from before, whatever happened in the block.

    The images are the same to a grey level or so, since sums are rounded in another order. Only float32 layers are
    fused: in 16 bits a small update would be rounded away. Do not train within the block.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    modules = [module for part in (pipe.unet, pipe.text_encoder) for module in part.modules()]
    kept = []
    try:
        for module in modules:
            if not isinstance(module, BaseTunerLayer) or module.merged or module.disable_adapters:
                continue
            base = module.get_base_layer()
            if any(parameter.dtype != torch.float32 for parameter in base.parameters()):
                continue
            before = [(parameter, parameter.data) for parameter in base.parameters()]
            kept.append((module, before))
            for parameter, data in before:
                parameter.data = data.clone()  # peft adds in place, and to subtract again would leave rounding behind
            module.merge()
        yield
    finally:
        for module, before in kept:
            module.merged_adapters.clear()  # to unmerge would compute B A again only for us to drop it
            for parameter, data in before:
                parameter.data = data


def save_lora(pipe: Any, folder: str | Path) -> Path:
    """Write ``pytorch_lora_weights.safetensors`` in diffusers' standard format; returns its path.

    Raises ``ValueError`` unless just one LoRA is active, ``OSError`` when the file cannot be written.
    """
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    active = pipe.unet.active_adapters() if getattr(pipe.unet, "peft_config", None) else []
    if len(active) != 1:
        raise ValueError(f"{len(active)} LoRAs are active: add or load one, or choose one with pipe.set_adapters.")
    (adapter,) = active
    weights = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipe.unet, adapter_name=adapter))
    target = Path(folder) / LORA_FILE
    with written_whole(target) as partial:
        StableDiffusionPipeline.save_lora_weights(
            folder, unet_lora_layers=weights, weight_name=partial.name, safe_serialization=True
        )
    return target


def load_lora(pipe: Any, source: str | Path, *, name: str = "hps") -> None:
    """Load a LoRA of Stable Diffusion: a folder of :func:`save_lora` or of any diffusers script, or a file of its own
    name, in diffusers' layout or in kohya's (A1111, ComfyUI). One that does not fit is refused.

    diffusers itself only warns about keys that match no layer, and the images stay those of the base model; so every
    weight is held against the layer it is for, before and after. After an error the pipeline is as it was. Raises
    ``FileNotFoundError`` when there is no LoRA file, ``ValueError`` when it is damaged, no plain LoRA (a DoRA, a LoHa),
    for another model (Stable Diffusion XL), when a weight of it belongs to no layer, has another shape, lacks its other
    half or holds NaN, or when ``name`` is taken.
    """
    path = lora_file(source)
    if name in getattr(pipe.unet, "peft_config", {}):
        raise ValueError(
            f"the pipeline already has a LoRA called {name!r}: call remove_lora first or give another name."
        )
    weights = read_lora(path)
    with quiet(), _beside_an_old_torchao():
        expected = _checked_scales(pipe, weights, path)
        reason = None
        try:
            pipe.load_lora_weights(
                str(path.parent), adapter_name=name, weight_name=path.name, local_files_only=True, use_safetensors=True
            )
        except Exception as error:  # of diffusers, peft and torch
            reason = error
    loaded = _loaded_scales(pipe, name)
    if reason is None and _agree(loaded, expected):
        return
    if set(getattr(pipe.unet, "peft_config", {})) <= {name}:
        remove_lora(pipe)
    else:
        pipe.delete_adapters(name)
    why = "its weights or scales came out as others" if reason is None else one_line(reason)
    raise ValueError(f"diffusers cannot load {path} ({why}): {_SAME}, of one rank.") from reason


def _agree(loaded: Mapping[str, float], expected: Mapping[str, float]) -> bool:
    """Whether the same layers have the same scales, as far as these are known."""
    return loaded.keys() == expected.keys() and all(
        math.isnan(scale) or math.isclose(loaded[layer], scale, rel_tol=1e-6) for layer, scale in expected.items()
    )


def _checked_scales(pipe: Any, weights: dict[str, Tensor], path: Path) -> dict[str, float]:
    """The layers that the LoRA is for, by the names of their modules, and what ``up @ down`` of each is multiplied by.

    Raises ``ValueError`` when a weight has no place, another shape, or no partner.
    """
    try:
        renamed, _ = pipe.lora_state_dict(dict(weights))  # kohya's names become diffusers'; a dictionary is used up
        places = _places(renamed)
    except Exception as error:  # KeyError, ValueError, ... for names that they do not know
        raise ValueError(f"{path} holds layers that diffusers does not know ({one_line(error)}): {_SAME}.") from error
    pairs: dict[tuple[str, str], dict[str, Tensor]] = {}
    strays = []
    for key, value in renamed.items():
        part, layer, side = places[key]
        if not _fits(_module(pipe, part, layer)[1], side, value) or side in pairs.get((part, layer), {}):
            strays.append(key)
        else:
            pairs.setdefault((part, layer), {})[side] = value
    if strays or not any(part == "unet" for part, _ in pairs):
        trained_for = model_of(renamed)
        other = f" ({trained_for}, by the width of its attention)" if trained_for and strays else ""
        stray = f"; {strays[0][:160]!r} does not" if strays else ""
        raise ValueError(
            f"{path} does not fit this UNet ({len(renamed) - len(strays)} of its {len(renamed)} LoRA weights belong to "
            f"a layer): {_SAME}{other}{stray}."
        )
    settings = lora_settings(path)
    scales = {}
    for (part, layer), pair in pairs.items():
        where = f"{part}.{layer}"
        if len(pair) < 2:
            raise ValueError(
                f"{where} in {path} has no {'up' if 'A' in pair else 'down'} matrix: fetch the file again."
            )
        if pair["B"].shape[1] != len(pair["A"]):
            raise ValueError(f"{where} in {path} has matrices that cannot be multiplied: fetch the file again.")
        scales[f"{part}.{_module(pipe, part, layer)[0]}"] = _scale(where, len(pair["A"]), weights, settings)
    return scales


def _scale(layer: str, rank: int, weights: dict[str, Tensor], settings: dict[str, Any]) -> float:
    """kohya's alpha / rank, or diffusers' 1 or what the metadata say; NaN where peft decides by patterns of names."""
    part, _, name = layer.partition(".")
    stem = ("lora_unet_" if part == "unet" else "lora_te_") + name.replace(".", "_")
    if f"{stem}.lora_down.weight" in weights:
        return float(weights[f"{stem}.alpha"]) / rank if f"{stem}.alpha" in weights else 1.0
    if any(settings.get(f"{part}.{name}") for name in ("alpha_pattern", "rank_pattern", "use_rslora")):
        return math.nan
    return settings.get(f"{part}.lora_alpha", rank) / rank


def _loaded_scales(pipe: Any, name: str) -> dict[str, float]:
    """The layers that hold the LoRA called ``name`` with values of their own, and their scales."""
    return {
        f"{part}.{layer}": float(module.scaling[name])
        for part in ("unet", "text_encoder")
        for layer, module in getattr(pipe, part).named_modules()
        if name in getattr(module, "lora_A", {}) and name not in getattr(module, "lora_magnitude_vector", {})
        if not any(side[name].weight.is_meta for side in (module.lora_A, module.lora_B))
    }


def _places(renamed: Mapping[str, Tensor]) -> dict[str, tuple[str, str, str]]:
    """For each key of diffusers' layout its part of the pipeline, its layer, and which half it is: "A" is down, "B" is
    up; three empty texts where it is no such weight."""
    from diffusers.utils import (
        convert_state_dict_to_diffusers,
        convert_state_dict_to_peft,
        convert_unet_state_dict_to_peft,
    )

    names = {}
    for key, value in renamed.items():
        if key.startswith("unet."):  # one by one, or two keys could become the same
            (name,) = convert_unet_state_dict_to_peft({key.removeprefix("unet."): value})
            names[key] = f"unet.{name}"
    texts = {key.removeprefix("text_encoder."): key for key in renamed if key.startswith("text_encoder.")}
    if texts:  # all at once, since diffusers finds out by all of them which of its layouts they have
        converted = []
        with suppress(ValueError):  # none of the layouts they know
            layout = convert_state_dict_to_diffusers({name: renamed[key] for name, key in texts.items()})
            converted = list(convert_state_dict_to_peft(layout))
        if len(converted) == len(texts):
            names |= {key: f"text_encoder.{name}" for key, name in zip(texts.values(), converted)}
    matches = {key: _WEIGHT.fullmatch(names.get(key, "")) for key in renamed}
    return {key: (match[1], match[2], match[3]) if match else ("", "", "") for key, match in matches.items()}


def _module(pipe: Any, part: str, layer: str) -> tuple[str, Any]:
    """The name and the layer itself, ``None`` where there is none; transformers has written the parts of CLIP's text
    model with and without ``text_model.`` before them."""
    for name in (layer, layer.removeprefix("text_model.")):
        try:
            module: Any = getattr(pipe, part).get_submodule(name) if part else None
        except AttributeError:
            continue
        return name, module.get_base_layer() if hasattr(module, "get_base_layer") else module
    return layer, None


def _fits(module: Any, side: str, value: Tensor) -> bool:
    """Whether ``value`` can be half of a LoRA on this layer: its inputs for "A", its outputs for "B"."""
    weight = getattr(module, "weight", None)
    if weight is None or weight.ndim < 2 or value.ndim != weight.ndim:
        return False
    if side == "A":
        return value.shape[1:] == weight.shape[1:]
    return value.shape[0] == weight.shape[0] and all(extent == 1 for extent in value.shape[2:])
