"""The bases people have, small and built from their published configurations: Stable Diffusion 1.5 and 2.1."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_lora import CAPTIONS, train

from hpslib.adaptation.examples import encode_examples
from hpslib.adaptation.lora import load_lora, remove_lora, save_lora
from hpslib.adaptation.sampling import generate, initial_noise, load_pipeline

HOW: dict[str, Any] = {"steps": 3, "guidance_scale": 4.0, "negative_prompt": "Weird image. "}
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False, "steps_offset": 1,
}  # fmt: skip


def write_base(folder: Path, tokenizer_folder: Path, release: str) -> Path:
    """A pipeline as that release lies on the hub: its layout, classes and odd settings, with small widths."""
    from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from hpslib.critters.build.tokenizer import load_clip_tokenizer

    second = release == "2.1"
    torch.manual_seed(0)
    tokenizer = load_clip_tokenizer(tokenizer_folder)
    if second:
        tokenizer.pad_token = "!"
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length, hidden_act="gelu" if second else "quick_gelu",
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8 if second else 4, block_out_channels=[16, 32], layers_per_block=1, norm_num_groups=8,
        down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"], up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
        cross_attention_dim=16, attention_head_dim=[2, 4] if second else 8, use_linear_projection=second,
        upcast_attention=second,
    )  # fmt: skip
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 8], norm_num_groups=4, latent_channels=4,
    )  # fmt: skip
    if second:
        scheduler: Any = DDIMScheduler(**SCHEDULE, clip_sample=False, prediction_type="v_prediction")
    else:
        scheduler = PNDMScheduler(**SCHEDULE, skip_prk_steps=True)
    pipe = StableDiffusionPipeline(
        vae=vae, text_encoder=CLIPTextModel(text), tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"feature_extractor": ["transformers", "CLIPImageProcessor"], "requires_safety_checker": not second}
    if not second:  # listed, and left out by most who keep a copy
        index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "feature_extractor").mkdir(exist_ok=True)
    (folder / "feature_extractor" / "preprocessor_config.json").write_text(
        '{"image_processor_type": "CLIPImageProcessor"}'
    )
    return folder


@pytest.fixture(scope="module", params=["1.5", "2.1"])
def base(request: Any, tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng(devices=[]):
        return write_base(tmp_path_factory.mktemp("base"), tokenizer_folder, request.param)


@torch.inference_mode()
def test_its_images_are_those_of_plain_diffusers(base: Path) -> None:
    from diffusers import StableDiffusionPipeline

    plain = StableDiffusionPipeline.from_pretrained(base, safety_checker=None, requires_safety_checker=False)
    plain.set_progress_bar_config(disable=True)
    ours = load_pipeline(base)
    side = ours.unet.config.sample_size
    made = plain(
        CAPTIONS[:3], negative_prompt=["Weird image. "] * 3, latents=initial_noise([3, 4, 5], (4, side, side)),
        num_inference_steps=3, guidance_scale=4.0, output_type="np",
    ).images  # fmt: skip
    got = generate(ours, CAPTIONS[:3], [3, 4, 5], **HOW)
    assert got.shape == (3, 2 * side, 2 * side, 3)
    assert np.abs(got.astype(int) - (made * 255).round().astype(int)).max() <= 1


def test_its_captions_are_encoded_as_it_encodes_prompts(base: Path) -> None:
    pipe = load_pipeline(base)
    side = 2 * pipe.unet.config.sample_size
    images = np.random.default_rng(0).integers(0, 256, (len(CAPTIONS), side, side, 3), dtype=np.uint8)
    examples = encode_examples(pipe, images, CAPTIONS)
    assert examples.states is not None
    with torch.inference_mode():
        wanted, _ = pipe.encode_prompt(CAPTIONS, "cpu", 1, False)
    torch.testing.assert_close(examples.states[examples.caption_rows], wanted, atol=1e-5, rtol=1e-5)


def test_it_learns_and_its_lora_is_read_back(base: Path, tmp_path: Path) -> None:
    pipe = load_pipeline(base)
    side = 2 * pipe.unet.config.sample_size
    images = np.random.default_rng(0).integers(0, 256, (len(CAPTIONS), side, side, 3), dtype=np.uint8)
    before = generate(pipe, CAPTIONS[:2], [1, 2], **HOW)
    losses = train(pipe, encode_examples(pipe, images, CAPTIONS), steps=20, gradient_checkpointing=True, lr=0.01)
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    adapted = generate(pipe, CAPTIONS[:2], [1, 2], **HOW)
    save_lora(pipe, tmp_path)
    remove_lora(pipe)
    assert (generate(pipe, CAPTIONS[:2], [1, 2], **HOW) == before).all() and (adapted != before).any()
    load_lora(pipe, tmp_path)
    assert (generate(pipe, CAPTIONS[:2], [1, 2], **HOW) == adapted).all()


def test_text_encoder_names_of_the_hubs_files_are_read(base: Path, tmp_path: Path) -> None:
    """Older transformers wrote ``text_model.`` before every name, and the positions as a weight."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, tmp_path / "hub")
    path = tmp_path / "hub" / "text_encoder" / "model.safetensors"
    weights = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(path).items()}
    weights["text_model.embeddings.position_ids"] = torch.arange(32)[None]
    save_file(weights, path, {"format": "pt"})
    assert (
        generate(load_pipeline(tmp_path / "hub"), CAPTIONS[:2], [1, 2], **HOW)
        == generate(load_pipeline(base), CAPTIONS[:2], [1, 2], **HOW)
    ).all()
