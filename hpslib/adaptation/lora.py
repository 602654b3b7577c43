"""The adapter itself: LoRA on the UNet's attention projections, put on, taken off, saved and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hpslib.runs.files import check_finite, written_whole

__all__ = ["ATTENTION_PROJECTIONS", "LORA_FILE", "add_lora", "load_lora", "remove_lora", "save_lora"]

ATTENTION_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")  # of self- and cross-attention
LORA_FILE = "pytorch_lora_weights.safetensors"  # the name diffusers gives it


def add_lora(pipe: Any, *, rank: int, seed: int, name: str = "hps") -> list[torch.nn.Parameter]:
    """Put a fresh LoRA of ``rank`` (scale 1) on the UNet's attention projections; return its parameters.

    A starts random, B at zero, so the model is unchanged until it is trained (Hu et al., 2021). The base
    weights are frozen. The draw of A depends on ``seed`` alone. The LoRA is float32 even on a bfloat16 pipeline, where
    a small learning rate would otherwise be rounded away.
    """
    from diffusers.training_utils import cast_training_params
    from peft import LoraConfig

    pipe.unet.requires_grad_(False)
    config = LoraConfig(
        r=rank, lora_alpha=rank, target_modules=list(ATTENTION_PROJECTIONS), init_lora_weights="gaussian"
    )
    with torch.random.fork_rng():  # peft draws from the global generator; it is put back as it was
        torch.manual_seed(seed)
        pipe.unet.add_adapter(config, adapter_name=name)
    pipe.unet.set_adapter(name)
    cast_training_params([pipe.unet], dtype=torch.float32)
    return [parameter for parameter in pipe.unet.parameters() if parameter.requires_grad]


def remove_lora(pipe: Any) -> None:
    """Take every LoRA off the pipeline: the base model is back, bit by bit."""
    pipe.unload_lora_weights()


def save_lora(pipe: Any, folder: str | Path) -> Path:
    """Write ``pytorch_lora_weights.safetensors`` in diffusers' standard format; returns its path."""
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    (adapter,) = pipe.unet.active_adapters()
    weights = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipe.unet, adapter_name=adapter))
    target = Path(folder) / LORA_FILE
    with written_whole(target) as partial:
        StableDiffusionPipeline.save_lora_weights(
            folder, unet_lora_layers=weights, weight_name=partial.name, safe_serialization=True
        )
    return target


def load_lora(pipe: Any, folder: str | Path, *, name: str = "hps") -> None:
    """Load a folder written by :func:`save_lora` or by any diffusers LoRA script; refuse one that does not fit.

    diffusers itself only warns about keys that match no layer, and the images stay those of the base model. After an
    error the pipeline is as it was. Raises ``FileNotFoundError`` when the folder holds no LoRA file, ``ValueError``
    when a weight of it belongs to no layer of this UNet, has another shape or holds NaN, or when ``name`` is taken.
    """
    from diffusers.utils import logging

    path = Path(folder) / LORA_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {LORA_FILE}: give the folder that save_lora wrote to.")
    if name in getattr(pipe.unet, "peft_config", {}):
        raise ValueError(
            f"the pipeline already has a LoRA called {name!r}: call remove_lora first or give another name."
        )
    source = {"weight_name": path.name, "local_files_only": True, "use_safetensors": True}
    stored, _ = pipe.lora_state_dict(str(folder), **source)
    check_finite(stored, str(path))
    expected = sum(key.startswith("unet.") and not key.endswith("alpha") for key in stored)
    loaded = 0
    reason: Exception | None = None
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns that there is no LoRA for the text encoder, as is meant; we count below
    try:
        pipe.load_lora_weights(str(folder), adapter_name=name, **source)
        loaded = sum(f".{name}." in key and ".lora_" in key for key in pipe.unet.state_dict())
    except (ValueError, RuntimeError) as error:  # no layer matches; a shape differs
        reason = error
    finally:
        logging.set_verbosity(verbosity)
    if reason is None and 0 < loaded == expected:
        return
    if set(getattr(pipe.unet, "peft_config", {})) <= {name}:
        remove_lora(pipe)
    else:
        pipe.delete_adapters(name)
    raise ValueError(
        f"{path} does not fit this UNet ({loaded} of its {expected} LoRA weights belong to a layer): name one that was "
        "trained for the same model."
    ) from reason
