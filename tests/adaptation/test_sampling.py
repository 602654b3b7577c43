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

from hpslib.adaptation.sampling import generate, generate_rows, initial_noise, load_pipeline, truncated_prompts
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
    for scale in (1.0, 0.0, 1, -2.0):
        sample(tiny_pipe, guidance_scale=scale, negative_prompt=" ", steps=1)
        with pytest.raises(
            ValueError, match=r"^the negative prompt 'Weird image\. ' has no effect with guidance_scale"
        ):
            sample(tiny_pipe, guidance_scale=scale, negative_prompt="Weird image. ")


def test_each_distinct_text_is_encoded_once_a_batch(tiny_pipe: Any) -> None:
    sizes: list[int] = []
    tiny_pipe.text_encoder.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(len(args[0] if args else kwargs["input_ids"])), with_kwargs=True
    )
    same = sample(tiny_pipe, ["a", "b", "a", "a"], [1, 2, 1, 3], batch_size=3)
    assert sizes == [1, 2, 1], "the negative prompt, then each batch's own"
    assert distance(same[:1], same[2:3]) <= 1 < distance(same[:1], same[3:])


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


def test_values_are_rounded_to_the_nearest_of_256_levels(tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = np.array([0.0, 0.4, 0.6, 1.4, 127.49, 127.51, 254.4, 254.6, 255.0])
    values = np.broadcast_to((levels / 255)[None, :, None, None], (1, 9, 2, 3))
    monkeypatch.setattr(type(tiny_pipe), "__call__", lambda *_, **how: SimpleNamespace(images=values))
    pixels = generate(tiny_pipe, ["a dog"], [0], steps=1, guidance_scale=1.0)
    assert pixels[0, :, 0, 0].tolist() == [0, 0, 1, 1, 127, 128, 254, 255, 255]


def test_a_prompt_that_just_fits_is_not_cut(tiny_pipe: Any) -> None:
    limit = tiny_pipe.tokenizer.model_max_length
    fits = next(text for k in range(1, limit + 1) if len(tiny_pipe.tokenizer(text := "dog " * k).input_ids) == limit)
    assert truncated_prompts(tiny_pipe, [fits, fits + "dog"]) == [1]


# --- noise of the steps -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["EulerAncestralDiscreteScheduler", "DDPMScheduler", "KDPM2AncestralDiscreteScheduler"]
)
def test_with_noise_in_every_step_the_batch_does_not_matter_either(tiny_pipe: Any, name: str) -> None:
    import diffusers

    config = dict(tiny_pipe.scheduler.config) | {"rescale_betas_zero_snr": False, "prediction_type": "epsilon"}
    tiny_pipe.scheduler = getattr(diffusers, name).from_config(config)
    state = torch.get_rng_state()
    whole = sample(tiny_pipe)
    assert np.array_equal(sample(tiny_pipe), whole) and whole.std() > 1
    assert distance(sample(tiny_pipe, PROMPTS[::-1], SEEDS[::-1])[::-1], whole) <= 1
    assert distance(sample(tiny_pipe, batch_size=3), whole) <= 1
    assert distance(sample(tiny_pipe, PROMPTS[2:3], SEEDS[2:3]), whole[2:3]) <= 1
    assert torch.equal(torch.get_rng_state(), state)


def test_an_sde_solver_draws_from_each_images_own_generator(tiny_pipe: Any) -> None:
    from diffusers import DPMSolverMultistepScheduler

    config = dict(tiny_pipe.scheduler.config) | {"algorithm_type": "sde-dpmsolver++"}
    tiny_pipe.scheduler = DPMSolverMultistepScheduler.from_config(config)
    whole = sample(tiny_pipe)
    assert distance(sample(tiny_pipe, PROMPTS[3:], SEEDS[3:]), whole[3:]) <= 1


def test_noise_for_whole_batches_is_refused(tiny_pipe: Any) -> None:
    class DPMSolverSDEScheduler(type(tiny_pipe.scheduler)):  # the real one wants a package of its own
        pass

    tiny_pipe.scheduler = DPMSolverSDEScheduler.from_config(tiny_pipe.scheduler.config)
    with pytest.raises(
        ValueError, match=r"^DPMSolverSDEScheduler draws its noise for a whole batch, .*: use a scheduler"
    ):
        sample(tiny_pipe)


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [2**63, 2**64 - 1, np.uint64(2**63 + 5), np.int64(7), np.uint8(3), -1, 5.0])
def test_every_seed_that_torch_takes_is_taken(seed: Any) -> None:
    wanted = torch.randn((4, 4, 4), generator=torch.Generator().manual_seed(int(seed)))
    assert torch.equal(initial_noise([seed], (4, 4, 4))[0], wanted)


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 1.5, float("nan"), float("inf"), None, "7", [1]])
def test_what_is_no_seed_is_refused(tiny_pipe: Any, seed: Any) -> None:
    with pytest.raises(ValueError, match=r"^the seed .* is none: give whole numbers from 0 to 2\^64 - 1\.$"):
        sample(tiny_pipe, ["a"], [seed], steps=1)


def test_a_seed_that_has_no_room_in_the_table_is_refused_beforehand(tiny_pipe: Any) -> None:
    how: dict[str, Any] = {"steps": 1, "guidance_scale": 2.0}
    assert generate_rows(tiny_pipe, ["a", "b"], range(2), seed=2**63 - 2, **how).num_rows > 0
    with pytest.raises(ValueError, match=r"^the seed \d+ has no room in a table: give one below 2\^63"):
        generate_rows(tiny_pipe, ["a", "b"], range(2), seed=2**63 - 1, **how)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"steps": 0}, "^steps is 0: give a whole number"),
        ({"steps": 2.5}, r"^steps is 2\.5"),
        ({"batch_size": 0}, "^batch_size is 0"),
        ({"guidance_scale": float("nan")}, "^guidance_scale is nan: give a number"),
        ({"guidance_scale": "3"}, "^guidance_scale is '3'"),
        ({"negative_prompt": None}, r"^negative prompt 0 \(from 0\) is None, no text"),
    ],
)
def test_numbers_that_are_none_are_refused(tiny_pipe: Any, change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        sample(tiny_pipe, **change)


@pytest.mark.parametrize("prompt", [float("nan"), None, "half \ud83d a critter"])
def test_what_is_no_text_is_refused_by_its_row(tiny_pipe: Any, prompt: Any) -> None:
    for call in (lambda: sample(tiny_pipe, ["a", prompt], [1, 2]), lambda: truncated_prompts(tiny_pipe, ["a", prompt])):
        with pytest.raises(ValueError, match=r"^prompt 1 \(from 0\).*leave its row out\.$"):
            call()


def test_a_prompt_with_the_end_in_it_is_counted_as_cut(tiny_pipe: Any) -> None:
    end = tiny_pipe.tokenizer.eos_token
    assert truncated_prompts(tiny_pipe, ["a dog", f"a {end} dog", end]) == [1, 2]
    assert truncated_prompts(tiny_pipe, []) == []
