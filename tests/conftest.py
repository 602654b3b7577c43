"""What several test modules share: CLIP and Stable Diffusion with random weights, in their genuine classes."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forks import Forks, forking
from PIL import Image

CONTEXT = 16
CONFIG = {
    "model_cfg": {
        "embed_dim": 16,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": CONTEXT, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    },
    "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]},
}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20230325)


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Starts processes that have torch loaded."""
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    with forking(tmp_path_factory.mktemp("forks")) as started:
        yield started


@pytest.fixture(scope="session")
def tiny_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `hpslib.scores.clip.load_clip` wants it; tests that spoil it copy it first."""
    import torch
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("tiny_clip")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIP(**CONFIG["model_cfg"])
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and name != "logit_scale":  # ones and zeros would hide a forgotten bias
                torch.nn.init.normal_(parameter, 1.0 if "ln" in name and name.endswith("weight") else 0.0, 0.1)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return folder


@pytest.fixture
def tiny_clip(tiny_clip_folder: Path):
    from hpslib.scores.clip import load_clip

    return load_clip(tiny_clip_folder)


@pytest.fixture
def noise_images(rng: np.random.Generator) -> list[Image.Image]:
    """24 images of 32 x 32 random blocks."""
    blocks = rng.integers(0, 256, (24, 4, 4, 3), dtype=np.uint8)
    return [Image.fromarray(block).resize((32, 32), Image.Resampling.NEAREST) for block in blocks]


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature world's vocabulary, learned afresh (half a second) and written for both libraries."""
    from hpslib.critters.build.tokenizer import learn_merges, write_tokenizer
    from hpslib.critters.captions import vocabulary_corpus

    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, learn_merges(vocabulary_corpus()))
    return folder


@pytest.fixture(scope="session")
def _tiny_pipe(tokenizer_folder: Path) -> Any:
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from open_clip.model import CLIP

    from hpslib.critters.build.pipeline import assemble_pipeline

    vision = {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
    text = {"context_length": 32, "vocab_size": 889, "width": 16, "heads": 2, "layers": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip = CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text, quick_gelu=True)
        autoencoder = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3,
            block_out_channels=[8, 8, 8], norm_num_groups=4, latent_channels=4, sample_size=16,
        )  # fmt: skip
        unet = UNet2DConditionModel(
            sample_size=4, in_channels=4, out_channels=4, down_block_types=["CrossAttnDownBlock2D"],
            up_block_types=["CrossAttnUpBlock2D"], block_out_channels=[16], layers_per_block=1,
            cross_attention_dim=16, attention_head_dim=8, norm_num_groups=8,
        )  # fmt: skip
        pipe = assemble_pipeline(unet.eval(), autoencoder.eval(), clip.eval(), tokenizer_folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def tiny_pipe(_tiny_pipe: Any) -> Any:
    """A ``StableDiffusionPipeline`` with random weights, 4x4 latents and 16x16 images; a copy for every test."""
    return copy.deepcopy(_tiny_pipe)


@pytest.fixture(scope="session")
def pipeline_folder(_tiny_pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pipeline as ``save_pretrained`` leaves it."""
    folder = tmp_path_factory.mktemp("sd")
    _tiny_pipe.save_pretrained(folder)
    return folder
