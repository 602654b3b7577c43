"""The networks of the second edition: open_clip's CLIP and diffusers' autoencoder and UNet, small."""

from __future__ import annotations

from typing import Any

__all__ = ["AUTOENCODER", "CLIP", "UNET", "build_autoencoder", "build_clip", "build_unet"]

# Every number is a constructor argument of open_clip or diffusers. mini-CLIP looks at half the size, as the real CLIP
# looks at 224 pixels of a picture of 512; five levels turn 128 pixels into a grid of 8 x 8, the UNet's.
CLIP: dict[str, Any] = {
    "embed_dim": 128,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "layers": 4, "width": 128, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 32, "vocab_size": 889, "width": 128, "heads": 4, "layers": 3},
}
AUTOENCODER: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 5,
    "up_block_types": ["UpDecoderBlock2D"] * 5,
    "block_out_channels": [16, 24, 48, 96, 128],
    "layers_per_block": 1,
    "latent_channels": 16,
    "norm_num_groups": 8,
    "sample_size": 128,
    "mid_block_add_attention": False,
}
UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 16,
    "out_channels": 16,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [80, 144],
    "layers_per_block": 1,
    "cross_attention_dim": 128,
    "attention_head_dim": 4,  # diffusers' name for the number of heads
    "norm_num_groups": 16,
}


def build_clip() -> Any:
    """mini-CLIP with random weights: open_clip's ``CLIP``."""
    from open_clip.model import CLIP as OpenClip

    return OpenClip(**CLIP)


def build_autoencoder() -> Any:
    """mini-SD's autoencoder with random weights: diffusers' ``AutoencoderKL``, 128 pixels to 16 x 8 x 8 latents."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(**AUTOENCODER)


def build_unet() -> Any:
    """mini-SD's UNet with random weights: diffusers' ``UNet2DConditionModel``."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**UNET)
