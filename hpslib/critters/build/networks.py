"""The networks of the miniature world: open_clip's CLIP and diffusers' autoencoder and UNet, small."""

from __future__ import annotations

from typing import Any

__all__ = ["AUTOENCODER", "CLIP", "MEAN", "STD", "UNET", "build_autoencoder", "build_clip", "build_unet"]

# The genuine classes, small: every number is a constructor argument of open_clip or diffusers.
CLIP: dict[str, Any] = {
    "embed_dim": 128,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "layers": 4, "width": 128, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 32, "vocab_size": 889, "width": 128, "heads": 4, "layers": 3},
}
AUTOENCODER: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [16, 32, 64, 96],
    "layers_per_block": 1,
    "latent_channels": 16,
    "norm_num_groups": 8,
    "sample_size": 64,
    "mid_block_add_attention": False,
}
UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 16,
    "out_channels": 16,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [64, 128],
    "layers_per_block": 1,
    "cross_attention_dim": 128,
    "attention_head_dim": 32,
    "norm_num_groups": 16,
}
MEAN = (0.48145466, 0.4578275, 0.40821073)  # OpenAI CLIP's
STD = (0.26862954, 0.26130258, 0.27577711)


def build_clip(config: dict[str, Any] | None = None) -> Any:
    """mini-CLIP with random weights: open_clip's ``CLIP``; of :data:`CLIP` where no other ``config`` is given."""
    from open_clip.model import CLIP as OpenClip

    return OpenClip(**(config or CLIP))


def build_autoencoder(config: dict[str, Any] | None = None) -> Any:
    """mini-SD's autoencoder with random weights: diffusers' ``AutoencoderKL``, pixels to 16 x 8 x 8 latents."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(**(config or AUTOENCODER))


def build_unet(config: dict[str, Any] | None = None) -> Any:
    """mini-SD's UNet with random weights: diffusers' ``UNet2DConditionModel``."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**(config or UNET))
