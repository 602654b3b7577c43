"""hpslib.scores.reward: the scores of files on tensors, with a gradient that finite differences confirm."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from fake_gpu import fake_gpu
from PIL import Image
from release_files import refusal
from torch import Tensor

from hpslib.critters.assets import asset
from hpslib.scores import reward as module
from hpslib.scores.aesthetic import AestheticHead, aesthetic_scores
from hpslib.scores.clip import Clip, encode_images
from hpslib.scores.imagereward import ImageReward
from hpslib.scores.pixels import Mode, Preprocessing
from hpslib.scores.reward import AestheticScorer, Reward
from hpslib.scores.scorers import Scorer, load_scorer, preference_scores

PROMPTS = ["a red cat", "a dog on a mat", "a red cat", "two birds"]
MODES: list[Mode] = ["pad", "crop", "crop_floor", "squash"]


def tensors(images: list[Image.Image]) -> Tensor:
    """Images of one size -> (n, 3, height, width) in [0, 1]."""
    return torch.from_numpy(np.stack([np.array(image) for image in images])).permute(0, 3, 1, 2).float() / 255


def blocks(rng: np.random.Generator, width: int, height: int, n: int = 4) -> list[Image.Image]:
    """Large blocks of pure colours (their edges overshoot when they are scaled) above noise."""
    small = rng.integers(0, 2, (n, 5, 4, 3), dtype=np.uint8) * 255
    pictures = [np.array(Image.fromarray(one).resize((width, height), Image.Resampling.NEAREST)) for one in small]
    for picture in pictures:
        noisy = rng.integers(0, 256, picture[height // 2 :].shape, dtype=np.uint8)
        picture[height // 2 :] = noisy
    return [Image.fromarray(picture) for picture in pictures]


@pytest.fixture(scope="module")
def critters() -> tuple[list[Image.Image], list[str]]:
    rows = pq.read_table(asset("hpd_mini/test.parquet")).slice(0, 5).to_pylist()
    images = [Image.open(io.BytesIO(image["bytes"])).convert("RGB") for row in rows for image in row["images"]]
    return images, [row["prompt"] for row in rows for _ in row["images"]]


def test_the_reward_of_an_image_is_the_score_of_its_file(critters: tuple[list[Image.Image], list[str]]) -> None:
    """The classifier of the lessons, on images of its own size."""
    images, prompts = critters
    scorer = load_scorer("hpslib", asset("hps"))
    rewards = Reward(scorer)(tensors(images), prompts)
    assert rewards.dtype == torch.float32 and rewards.shape == (len(images),) and not rewards.requires_grad
    np.testing.assert_allclose(rewards, preference_scores(scorer, images, prompts), atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_every_kind_of_scorer_and_their_weighted_sum(tiny_clip: Clip, noise_images: Any, mode: Mode) -> None:
    images, prompts = noise_images[:4], PROMPTS
    head = AestheticHead(torch.linspace(-3, 3, 16), 5.0)
    hps, cosine = Scorer(tiny_clip, mode, 100.0), Scorer(tiny_clip, mode, 1.0)
    reward = Reward(hps, cosine, AestheticScorer(tiny_clip, head), weights=[0.5, -2, 3])
    files = [preference_scores(hps, images, prompts), preference_scores(cosine, images, prompts)]
    files.append(aesthetic_scores(head, encode_images(tiny_clip, images)))
    np.testing.assert_allclose(reward.each(tensors(images), prompts), np.stack(files, 1), atol=1e-4)
    expected = 0.5 * files[0] - 2 * files[1] + 3 * files[2]
    np.testing.assert_allclose(reward(tensors(images), prompts), expected, atol=1e-4)
    one = preference_scores(hps, images, "a red cat")
    np.testing.assert_allclose(Reward(hps)(tensors(images), "a red cat"), one, atol=1e-4)


@pytest.mark.parametrize("how", [*map(Preprocessing, MODES), Preprocessing("pad", "bilinear", 127)], ids=str)
def test_pixels_are_pillows_up_to_its_two_roundings(how: Preprocessing, rng: np.random.Generator) -> None:
    for width, height in [(96, 64), (64, 97), (51, 51), (33, 32), (20, 24), (32, 32), (100, 3)]:
        if how.mode == "squash" and height > width:
            continue  # Pillow 13 takes the columns of such an image first
        images = blocks(rng, width, height)
        ours = 255 * how.squares(tensors(images), 32)
        theirs = np.stack([how.square(image, 32) for image in images]).transpose(0, 3, 1, 2)
        difference = ours.numpy() - theirs
        assert np.abs(difference).max() < (1.2 if (width, height) != (32, 32) else 1e-4), (width, height)
        assert abs(difference.mean()) < 0.05, "no shift of half a step"


def test_a_scaled_critter_scores_as_its_file_does_within_the_stated_bound(
    critters: tuple[list[Image.Image], list[str]],
) -> None:
    images, prompts = critters[0][:8], critters[1][:8]
    scorer = load_scorer("hpslib", asset("hps"))
    large = [image.resize((200, 170), Image.Resampling.LANCZOS) for image in images]
    files = preference_scores(scorer, large, prompts)
    np.testing.assert_allclose(Reward(scorer)(tensors(large), prompts), files, atol=0.5)
    assert np.ptp(files) > 5, "beside what the bound is small"


@pytest.mark.parametrize("mode", MODES)
def test_the_gradient_is_that_of_finite_differences(tiny_clip: Clip, rng: np.random.Generator, mode: Mode) -> None:
    """Through resampling, border and tower, in float64; pixels beyond [0, 1] have a gradient too."""
    tiny_clip.model.double()
    head = AestheticHead(torch.linspace(-3, 3, 16), 5.0)
    scorers = Scorer(tiny_clip, mode, 100.0), AestheticScorer(tiny_clip, head)
    monitored = Reward(*scorers, weights=[1, 2])
    monitored._texts = {key: {text: torch.randn(16) for text in PROMPTS} for key in monitored._texts}
    images = torch.from_numpy(rng.uniform(0.3, 0.7, (4, 3, 48, 40)))
    images[0] += 0.5
    images.requires_grad_(True)
    rewards = monitored(images, PROMPTS)
    assert rewards.dtype == torch.float64
    rewards.sum().backward()
    assert images.grad is not None and (images.grad.flatten(1).norm(dim=1) > 0).all()
    for _ in range(3):
        step = torch.from_numpy(rng.normal(size=tuple(images.shape)))
        with torch.no_grad():
            up, down = (monitored(images + sign * 1e-6 * step, PROMPTS).sum() for sign in (1, -1))
        expected = (images.grad * step).sum().item()
        assert ((up - down) / 2e-6).item() == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_one_model_may_look_at_images_in_two_ways(tiny_clip: Clip, rng: np.random.Generator) -> None:
    """Whatever their order: the columns are those of each scorer alone."""
    images = tensors(blocks(rng, 40, 56))
    cropped = Scorer(tiny_clip.looking(Preprocessing("crop")), "crop", 100.0)
    padded = Scorer(tiny_clip.looking(Preprocessing("pad", fill_color=255)), "pad", 100.0)
    expected = torch.stack([Reward(one)(images, PROMPTS) for one in (cropped, padded)], dim=1)
    torch.testing.assert_close(Reward(cropped, padded).each(images, PROMPTS), expected)
    torch.testing.assert_close(Reward(padded, cropped).each(images, PROMPTS), expected.flip(1))


def test_the_callers_model_is_left_alone(tiny_clip: Clip, noise_images: Any) -> None:
    before = copy.deepcopy(tiny_clip.model.state_dict())
    tiny_clip.model.train()
    tiny_clip.model.visual.conv1.requires_grad_(False)
    flags = [parameter.requires_grad for parameter in tiny_clip.model.parameters()]
    plain, saving = (Reward(Scorer(tiny_clip, "pad", 100.0), gradient_checkpointing=yes) for yes in (False, True))
    gradients = []
    for reward in (plain, saving):
        images = tensors(noise_images[:4]).requires_grad_(True)
        reward(images, PROMPTS).sum().backward()
        gradients.append(images.grad)
    assert torch.allclose(*gradients, atol=1e-6) and gradients[0].abs().max() > 0
    assert tiny_clip.model.training and tiny_clip.model.visual.training
    assert not tiny_clip.model.visual.transformer.grad_checkpointing
    assert [parameter.requires_grad for parameter in tiny_clip.model.parameters()] == flags
    assert all(parameter.grad is None for parameter in tiny_clip.model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in tiny_clip.model.state_dict().items())
    (view,) = {id(scorer.clip.model): scorer.clip.model for scorer in plain._scorers}.values()
    ours, theirs = view.state_dict(), tiny_clip.model.state_dict()
    assert all(ours[key].data_ptr() == theirs[key].data_ptr() for key in ours), "no second copy in memory"


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[int]:
    """How many rows each call of the function got, as its second argument."""
    calls: list[int] = []
    function: Callable[..., Any] = getattr(owner, name)

    def counting(first: Any, rows: Any, *more: Any) -> Any:
        calls.append(len(rows))
        return function(first, rows, *more)

    monkeypatch.setattr(owner, name, counting)
    return calls


def test_prompts_are_encoded_once_and_kept_within_bounds(
    tiny_clip: Clip, noise_images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, images = counted(monkeypatch, module, "encode_prompts"), counted(monkeypatch, module, "_encoded")
    reward, pixels = Reward(Scorer(tiny_clip, "pad", 1.0), Scorer(tiny_clip, "pad", 2.0)), tensors(noise_images[:4])
    with torch.inference_mode():  # DDPO samples in it; DRaFT goes backwards with the same callable later
        first = reward(pixels, PROMPTS)
    pixels.requires_grad_(True)
    again = reward(pixels, PROMPTS)
    again.sum().backward()
    assert torch.allclose(first, again, atol=1e-6) and pixels.grad is not None
    assert texts == [3] and images == [4, 4], "both scorers look at the same tower's features"
    monkeypatch.setattr(module, "_KEPT_PROMPTS", 2)
    reward(pixels, ["one", "two", "three", "four"])
    assert [list(known) for known in reward._texts.values()] == [["three", "four"]]
    assert texts == [3, 4], "no text twice"
    with torch.autocast("cpu", torch.bfloat16):
        rough = reward(pixels.detach(), PROMPTS)
    assert rough.dtype == torch.float32 and torch.allclose(rough, again, atol=0.1)
    assert not torch.equal(rough, again), "the caller's autocast holds for the image tower"
    assert torch.allclose(reward(pixels.detach().half(), PROMPTS), again, atol=1e-2)


def test_images_and_towers_may_be_on_different_devices(tiny_clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_check_images", lambda images: None)  # looks at their content
    with fake_gpu():
        towers = tiny_clip.to("cuda:0")
        head = AestheticHead(torch.zeros(16), 5.0)
        reward = Reward(Scorer(towers, "crop", 100.0), AestheticScorer(towers, head))
        for device, side in [("cuda:0", 48), ("cuda:0", 32), ("cpu", 48)]:
            rewards = reward(torch.rand(4, 3, side, side, device=device, requires_grad=True), PROMPTS)
            assert str(rewards.device) == device and rewards.shape == (4,) and rewards.requires_grad


def test_what_is_no_batch_of_images_or_no_scorer_is_refused(tiny_clip: Clip, noise_images: Any) -> None:
    pixels, scorer = tensors(noise_images[:2]), Scorer(tiny_clip, "crop", 1.0)
    reward = Reward(scorer)
    for images, words in {
        (pixels * 255).byte(): r"the images are torch\.uint8 \[2, 3, 32, 32\]: hand over a floating-point tensor",
        pixels[0]: r"the images are torch\.float32 \[3, 32, 32\]:",
        pixels[:, :1]: r"\[2, 1, 32, 32\]",
        pixels[:0]: r"are \[0, 3, 32, 32\], so there are none: hand over at least one",
        2 * pixels
        - 1: r"values from -0.898 to 1, far outside \[0, 1\]: divide bytes by 255, and what a VAE decodes by 2",
        pixels * 255: "values from 13 to 255",
        torch.rand(1, 3, 2, 200): "images of 200 x 2 pixels are strips: cut them",
    }.items():
        with pytest.raises(ValueError, match=words):
            reward(images, ["a"] * len(images))
    with pytest.raises(ValueError, match="there are 2 images but 1 prompts"):
        reward(pixels, ["a"])
    with pytest.raises(ValueError, match="is empty"):
        reward(pixels, "")
    other: Any = object.__new__(ImageReward)
    head = AestheticHead(torch.ones(5), 0.0)
    for wrong, words in {
        lambda: Reward(): "there is no scorer to make a reward of",
        lambda: Reward(other): "a ImageReward is no differentiable reward: use scorers that are made of a CLIP",
        lambda: Reward(scorer, weights=[1, 2]): "weights is [1, 2] for 1 scorers: give one finite number for each",
        lambda: Reward(scorer, weights=[float("nan")]): "weights is [nan]",
        lambda: Reward(AestheticScorer(tiny_clip, head)): "rates embeddings of 5 numbers, its CLIP has 16: use it",
    }.items():
        assert words in refusal(wrong)


def test_one_step_of_draft_raises_the_reward_in_the_miniature_world() -> None:
    """A LoRA on the UNet, the gradient through the last denoising step, the VAE and the reward (Clark et al., 2024)."""
    from hpslib.adaptation.lora import add_lora
    from hpslib.adaptation.sampling import initial_noise, latent_size, load_pipeline

    pipe = load_pipeline(asset("sd"))
    pipe.vae.requires_grad_(False)
    reward = Reward(load_scorer("hpslib", asset("hps")))
    prompts = ["a happy red critter", "two blue critters on the grass"] * 4
    states = pipe.encode_prompt(prompts, "cpu", 1, False)[0].detach()
    noise = initial_noise(range(8), (pipe.unet.config.in_channels, *latent_size(pipe)))

    def rewards() -> Tensor:
        pipe.scheduler.set_timesteps(4)
        latents = noise * pipe.scheduler.init_noise_sigma
        for number, step in enumerate(pipe.scheduler.timesteps):
            with torch.set_grad_enabled(number == 3):
                latents = pipe.scheduler.step(pipe.unet(latents, step, states).sample, step, latents).prev_sample
        return reward(pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample / 2 + 0.5, prompts)

    lora = add_lora(pipe, rank=4, seed=0)
    optimizer = torch.optim.SGD(lora, lr=1e-4)
    before = rewards()
    (-before.mean()).backward()
    assert all(parameter.grad is not None for parameter in lora)
    assert not any(parameter.grad is not None for parameter in pipe.vae.parameters())
    optimizer.step()
    after = rewards()
    assert after.mean() > before.mean() + 0.01
