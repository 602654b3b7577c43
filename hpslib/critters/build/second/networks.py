"""The networks of the second edition: those of the first, for pictures of 128 pixels."""

from __future__ import annotations

from typing import Any

from hpslib.critters.build import networks as first

__all__ = ["AUTOENCODER", "CLIP", "UNET", "build_autoencoder", "build_clip", "build_unet"]

#: The first's, with more words: it looks at half the size, as the real CLIP looks at 224 pixels of a picture of 512.
CLIP: dict[str, Any] = {**first.CLIP, "text_cfg": {**first.CLIP["text_cfg"], "vocab_size": 912}}
#: Five levels turn 128 pixels into a grid of 8 x 8, the UNet's.
AUTOENCODER: dict[str, Any] = {
    **first.AUTOENCODER,
    "down_block_types": ["DownEncoderBlock2D"] * 5,
    "up_block_types": ["UpDecoderBlock2D"] * 5,
    "block_out_channels": [16, 24, 48, 96, 128],
    "sample_size": 128,
}
#: Four heads (diffusers names their number so), wider than those of the first edition, and cheaper than its 32.
UNET: dict[str, Any] = {**first.UNET, "block_out_channels": [80, 144], "attention_head_dim": 4}


def build_clip() -> Any:
    """mini-CLIP with random weights."""
    return first.build_clip(CLIP)


def build_autoencoder() -> Any:
    """mini-SD's autoencoder with random weights: 128 pixels to 16 x 8 x 8 latents."""
    return first.build_autoencoder(AUTOENCODER)


def build_unet() -> Any:
    """mini-SD's UNet with random weights."""
    return first.build_unet(UNET)
