"""Assemble mini-SD: a genuine ``StableDiffusionPipeline`` around the trained parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hpslib.critters.build.tokenizer import load_clip_tokenizer
from hpslib.scores.clip import ClipModel

__all__ = ["SCHEDULER", "assemble_pipeline", "convert_text_tower"]

# DPM-Solver++ (2M) on the schedule of Stable Diffusion, but with zero signal at the last step (Lin et al., 2024), so
# that sampling from pure noise is what the network was trained for.
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "final_sigmas_type": "zero",
}


def convert_text_tower(model: ClipModel) -> Any:
    """open_clip text tower -> transformers ``CLIPTextModel`` with the same weights. The conversion is exact.

    Works for any ``open_clip.model.CLIP``; the projection stays behind, since Stable Diffusion conditions on the last
    hidden states.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    source = model.state_dict()
    blocks = model.transformer.resblocks
    vocabulary, width = source["token_embedding.weight"].shape
    quick = type(blocks[0].mlp.gelu).__name__ == "QuickGELU"
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=source["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        num_hidden_layers=len(blocks),
        num_attention_heads=blocks[0].attn.num_heads,
        max_position_embeddings=source["positional_embedding"].shape[0],
        hidden_act="quick_gelu" if quick else "gelu",
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    target: dict[str, Tensor] = {
        "embeddings.token_embedding.weight": source["token_embedding.weight"],
        "embeddings.position_embedding.weight": source["positional_embedding"],
        "final_layer_norm.weight": source["ln_final.weight"],
        "final_layer_norm.bias": source["ln_final.bias"],
    }
    for k in range(len(blocks)):
        old, new = f"transformer.resblocks.{k}", f"encoder.layers.{k}"
        for kind in ("weight", "bias"):
            merged = source[f"{old}.attn.in_proj_{kind}"].chunk(3)
            for name, part in zip(("q_proj", "k_proj", "v_proj"), merged, strict=True):
                target[f"{new}.self_attn.{name}.{kind}"] = part
            target[f"{new}.self_attn.out_proj.{kind}"] = source[f"{old}.attn.out_proj.{kind}"]
            target[f"{new}.layer_norm1.{kind}"] = source[f"{old}.ln_1.{kind}"]
            target[f"{new}.layer_norm2.{kind}"] = source[f"{old}.ln_2.{kind}"]
            target[f"{new}.mlp.fc1.{kind}"] = source[f"{old}.mlp.c_fc.{kind}"]
            target[f"{new}.mlp.fc2.{kind}"] = source[f"{old}.mlp.c_proj.{kind}"]
    with torch.random.fork_rng(devices=[]):  # it draws weights first, which are replaced below
        converted = CLIPTextModel(config)
    names = converted.state_dict()
    prefix = "text_model." if any(name.startswith("text_model.") for name in names) else ""
    weights = {prefix + key: value.clone() for key, value in target.items()}
    # Older releases keep the position ids among the weights; everything else must be there.
    weights |= {name: value for name, value in names.items() if name.endswith("position_ids")}
    converted.load_state_dict(weights, strict=True)
    return converted.eval()


def assemble_pipeline(unet: nn.Module, autoencoder: nn.Module, clip: ClipModel, tokenizer_folder: Path) -> Any:
    """Put UNet, autoencoder and mini-CLIP's text tower together; save it with ``save_pretrained``."""
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=convert_text_tower(clip),
        tokenizer=load_clip_tokenizer(tokenizer_folder),
        unet=unet,
        scheduler=DPMSolverMultistepScheduler(**SCHEDULER, rescale_betas_zero_snr=True),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
