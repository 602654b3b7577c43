"""hpslib.adaptation.sampling: an image depends on its prompt and its seed, and on nothing beside it."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hpslib.adaptation.sampling import generate, initial_noise, load_pipeline, truncated_prompts
from hpslib.data.images.lazy import to_images

PROMPTS = ["a happy red critter", "a sad blue creature at night", "on a beach", "a dog"]
SEEDS = [5, 6, 7, 8]


def sample(pipe: Any, prompts: list[str] = PROMPTS, seeds: list[int] = SEEDS, **changes: Any) -> np.ndarray:
    return generate(pipe, prompts, seeds, **{"steps": 3, "guidance_scale": 3.0, **changes})


def distance(one: np.ndarray, two: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - two).max())


def test_noise_depends_on_the_seed_alone() -> None:
    noise = initial_noise([3, 4, 3], (4, 8, 8))
    assert noise.shape == (3, 4, 8, 8) and noise.dtype == torch.float32
    assert torch.equal(noise[0], noise[2]) and not torch.equal(noise[0], noise[1])
    assert torch.equal(noise[1:2], initial_noise(np.array([4]), (4, 8, 8)))
    many = initial_noise(range(200), (4, 8, 8))
    assert abs(many.mean()) < 0.02 and abs(many.std() - 1) < 0.02


def test_order_batch_size_and_neighbours_do_not_matter(tiny_pipe: Any) -> None:
    state = torch.get_rng_state()
    whole = sample(tiny_pipe)
    assert whole.shape == (4, 16, 16, 3) and whole.dtype == np.uint8 and whole.std() > 1
    assert np.array_equal(sample(tiny_pipe), whole)
    assert distance(sample(tiny_pipe, PROMPTS[::-1], SEEDS[::-1])[::-1], whole) <= 1
    assert distance(sample(tiny_pipe, batch_size=3), whole) <= 1
    assert distance(sample(tiny_pipe, PROMPTS[2:3], SEEDS[2:3]), whole[2:3]) <= 1
    assert torch.equal(torch.get_rng_state(), state), "the global generator is nobody's"


def test_seed_and_prompt_do_matter(tiny_pipe: Any) -> None:
    one, two, three = sample(tiny_pipe, [PROMPTS[0], PROMPTS[0], PROMPTS[1]], [5, 6, 5], guidance_scale=20.0)
    assert distance(one, two) > 3 and distance(one, three) > 0


def test_the_negative_prompt_takes_the_place_of_the_empty_one(tiny_pipe: Any) -> None:
    plain = sample(tiny_pipe, guidance_scale=20.0)
    assert np.array_equal(sample(tiny_pipe, guidance_scale=20.0, negative_prompt=""), plain)
    assert distance(sample(tiny_pipe, guidance_scale=20.0, negative_prompt="Weird image. "), plain) > 0
    unguided = [sample(tiny_pipe, guidance_scale=1.0, negative_prompt=text) for text in ("", "Weird image. ")]
    assert np.array_equal(*unguided), "without guidance there is nothing to push away from"


@torch.inference_mode()
def test_against_the_loop_written_out(tiny_pipe: Any) -> None:
    pipe, scale, negative = tiny_pipe, 4.0, "Weird image. "
    got = sample(pipe, guidance_scale=scale, negative_prompt=negative)
    scheduler = copy.deepcopy(pipe.scheduler)
    scheduler.set_timesteps(3)

    def states(texts: list[str]) -> torch.Tensor:
        tokens = pipe.tokenizer(texts, padding="max_length", max_length=32, truncation=True, return_tensors="pt")
        return pipe.text_encoder(tokens.input_ids)[0]

    wanted, unwanted = states(PROMPTS), states([negative] * 4)
    latents = initial_noise(SEEDS, (4, 4, 4)) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        towards, away = (pipe.unet(latents, t, text).sample for text in (wanted, unwanted))
        latents = scheduler.step(away + scale * (towards - away), t, latents).prev_sample
    pixels = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    expected = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy()
    assert distance(got, expected.astype(int)) <= 1


def test_progress_counts_images(tiny_pipe: Any) -> None:
    calls: list[tuple[int, int]] = []
    sample(tiny_pipe, batch_size=3, steps=1, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(3, 4), (4, 4)]


def test_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^2 prompts but 1 seeds: hand over one seed for each prompt, and at least"):
        sample(None, ["a", "b"], [1])
    with pytest.raises(ValueError, match=r"^0 prompts but 0 seeds: .* at least one"):
        sample(None, [], [])


def test_a_folder_without_a_pipeline_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} holds no model_index.json: give the folder of a saved"):
        load_pipeline(tmp_path)


def test_a_loaded_pipeline_is_quiet_and_of_the_asked_type(
    pipeline_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from diffusers.utils import logging

    before = logging.get_verbosity()
    pipe = load_pipeline(str(pipeline_folder))
    assert logging.get_verbosity() == before
    assert pipe.unet.dtype == torch.float32 and not pipe.unet.training
    half = load_pipeline(pipeline_folder, dtype=torch.bfloat16)
    assert half.unet.dtype == torch.bfloat16
    sample(pipe, steps=1)
    assert capfd.readouterr() == ("", ""), "a notebook with output on stderr is not clean"


def test_to_images_keeps_the_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), dtype=np.uint8)
    images = to_images(pixels)
    assert all(isinstance(image, Image.Image) and image.size == (7, 5) for image in images)
    assert np.array_equal(np.stack([np.asarray(image) for image in images]), pixels)


def test_nan_is_noticed_in_files_and_in_pictures(pipeline_folder: Path, tiny_pipe: Any, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(pipeline_folder, tmp_path / "sd")
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_in.bias"][0] = torch.nan
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"unet: conv_in\.bias holds NaN or infinity \(1 tensors do\)"):
        load_pipeline(copy)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"sd cannot be loaded as Stable Diffusion \(.*\): fetch its files again"):
        load_pipeline(copy)
    with torch.no_grad():
        tiny_pipe.unet.conv_out.bias[0] = torch.nan
    with pytest.raises(RuntimeError, match=r"the image of prompt 0 \(from 0\) is no number \(2 of 2 in its batch\)"):
        generate(tiny_pipe, ["a", "b"], [1, 2], steps=1, guidance_scale=2.0)


def test_values_are_rounded_to_the_nearest_of_256_levels() -> None:
    levels = np.array([0.0, 0.4, 0.6, 1.4, 127.49, 127.51, 254.4, 254.6, 255.0])
    values = np.broadcast_to((levels / 255)[None, :, None, None], (1, 9, 2, 3))

    class Pipe:
        device, unet = "cpu", SimpleNamespace(config=SimpleNamespace(sample_size=2, in_channels=4), dtype=torch.float32)

        def __call__(self, prompts: list[str], **how: Any) -> Any:
            return SimpleNamespace(images=values)

    pixels = generate(Pipe(), ["a dog"], [0], steps=1, guidance_scale=1.0)
    assert pixels[0, :, 0, 0].tolist() == [0, 0, 1, 1, 127, 128, 254, 255, 255]


def test_a_prompt_that_just_fits_is_not_cut(tiny_pipe: Any) -> None:
    limit = tiny_pipe.tokenizer.model_max_length
    fits = next(text for k in range(1, limit + 1) if len(tiny_pipe.tokenizer(text := "dog " * k).input_ids) == limit)
    assert truncated_prompts(tiny_pipe, [fits, fits + "dog"]) == [1]
