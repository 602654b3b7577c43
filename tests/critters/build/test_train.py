"""hpslib.critters.build's loop and trainings: stopped and continued is never stopped; the losses are what they say."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpslib.critters.build import networks, train
from hpslib.critters.build.bank import attribute_labels, bank_critters, flaw_labels, render_bank
from hpslib.critters.build.loop import augment, bank_pixels, batch_rows, normalise, run_loop, squares
from hpslib.critters.build.optim import optimizers

SMALL_CLIP = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 32, "vocab_size": 889, "width": 16, "heads": 2, "layers": 1},
}
SMALL_UNET = {
    **networks.UNET,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [8, 8],
    "norm_num_groups": 4,
    "cross_attention_dim": 8,
    "attention_head_dim": 4,
}
SMALL_AUTOENCODER = {**networks.AUTOENCODER, "block_out_channels": [4, 4, 4, 4], "norm_num_groups": 2}


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    return np.array(render_bank(tmp_path_factory.mktemp("bank"), 24, seed=1, workers=1))


@pytest.fixture(scope="module")
def labels() -> tuple[np.ndarray, np.ndarray]:
    critters = bank_critters(24, seed=1)
    return attribute_labels(critters), flaw_labels(critters)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "CLIP", SMALL_CLIP)
    monkeypatch.setattr(networks, "UNET", SMALL_UNET)
    monkeypatch.setattr(networks, "AUTOENCODER", SMALL_AUTOENCODER)


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def little_run(
    folder: Path, steps: int, kill_at: int | None = None, **settings: Any
) -> tuple[nn.Module, dict[str, Tensor]]:
    """A small network with every kind of weight: kernel, matrix, vector, running statistics."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    made = optimizers(model, 0.02, 0.002, exclude=("3.",))

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        if step == kill_at:
            raise Killed
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(6, 3, 8, 8, generator=generator), torch.randint(2, (6,), generator=generator)
        return F.cross_entropy(model(x), y), {"x": 1.0}

    return model, run_loop("little", folder, model, made, loss_of, steps, save_every=4, **settings)


@pytest.mark.parametrize("kill_at", [2, 4, 9])
def test_killed_and_resumed_is_never_killed_bit_by_bit(tmp_path: Path, kill_at: int) -> None:
    whole, average = little_run(tmp_path, 10)
    folder = tmp_path / "killed"
    folder.mkdir()
    with pytest.raises(Killed):
        little_run(folder, 10, kill_at=kill_at)
    resumed, again = little_run(folder, 10)
    assert same(whole.state_dict(), resumed.state_dict()) and same(average, again)
    assert not same(average, whole.state_dict())
    one, two = (torch.load(f / "little.ckpt", weights_only=True) for f in (tmp_path, folder))
    for mine, other in zip(one["optimizers"], two["optimizers"], strict=True):
        assert mine["param_groups"] == other["param_groups"]
        assert all(same(mine["state"][k], other["state"][k]) for k in mine["state"])


def test_a_finished_run_is_read_not_trained(tmp_path: Path) -> None:
    model, average = little_run(tmp_path, 6)
    again, same_average = little_run(tmp_path, 6, kill_at=0)  # a step would raise
    assert same(model.state_dict(), again.state_dict()) and same(average, same_average)
    assert [path.name for path in tmp_path.iterdir()] == ["little.ckpt"]


def test_the_average_converges_on_the_first_weights_quickly(tmp_path: Path) -> None:
    """A young average must not remember the random start for a thousand steps."""
    model, average = little_run(tmp_path, 10, decay=0.9999)
    gap = (average["0.weight"] - model.state_dict()["0.weight"]).norm()
    torch.manual_seed(3)
    start = nn.Conv2d(3, 4, 3).weight
    assert gap < 0.7 * (start - model.state_dict()["0.weight"]).norm()


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    made = optimizers(model, 0.1, 0.1)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        return model(torch.full((1, 2), float("inf"))).sum() * 0, {}

    with pytest.raises(ValueError, match=r"^the loss of bad is nan at step 0: lower the learning rate\."):
        run_loop("bad", tmp_path, model, made, loss_of, 5, log_every=2)
    assert not (tmp_path / "bad.ckpt").exists()


def test_progress_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    little_run(tmp_path, 5, log_every=2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["little 2/5", "little 4/5", "little 5/5"]
    assert "x 1.0000" in lines[0] and lines[0].endswith("steps/s")


def test_batches_are_drawn_from_seed_and_step() -> None:
    assert np.array_equal(batch_rows(3, 5, 100, 8), np.sort(np.random.default_rng([3, 5]).integers(100, size=8)))
    assert not np.array_equal(batch_rows(3, 5, 100, 8), batch_rows(3, 6, 100, 8))


def test_augment_mirrors_softens_and_stays_in_range(bank: np.ndarray) -> None:
    pixels = bank_pixels(bank, np.arange(24))
    made = augment(pixels, torch.Generator().manual_seed(0))
    assert torch.equal(made, augment(pixels, torch.Generator().manual_seed(0)))
    assert made.min() >= 0 and made.max() <= 1 and made.shape == pixels.shape
    straight, mirrored = ((made - p).abs().mean((1, 2, 3)) for p in (pixels, pixels.flip(3)))
    turned = mirrored < straight
    assert 4 <= turned.sum() <= 20
    assert torch.minimum(straight, mirrored).max() < 0.06, "the picture must stay recognisable"


def test_normalise_is_that_of_clip(bank: np.ndarray) -> None:
    from torchvision.transforms.functional import normalize

    pixels = bank_pixels(bank, np.arange(3))
    assert pixels.dtype == torch.float32 and pixels[2, 1, 4, 7] == bank[2, 4, 7, 1] / np.float32(255)
    torch.testing.assert_close(normalise(pixels), normalize(pixels, networks.MEAN, networks.STD))


def test_the_patch_tokens_come_with_clips_own_embedding(bank: np.ndarray) -> None:
    model: Any = networks.build_clip()
    pixels = normalise(bank_pixels(bank, np.arange(4)))
    embedding, tokens = train._image_and_tokens(model, pixels)
    torch.testing.assert_close(embedding, model.encode_image(pixels))
    assert tokens.shape == (4, 64, 16)


class Stub(nn.Module):
    """In the UNet's place: predicts a constant, and keeps what it was shown and what the loss told it."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.full((1,), 0.3))
        self.norm = nn.LayerNorm(2)  # a vector weight and a matrix, so that both optimisers have work
        self.inner = nn.Linear(2, 2)
        self.shown: list[dict[str, Tensor]] = []

    def forward(self, noisy: Tensor, time_steps: Tensor, states: Tensor) -> Any:
        output = self.bias.expand(noisy.shape).clone() + 0 * self.inner(self.norm(torch.ones(2))).sum()
        kept = {"noisy": noisy, "t": time_steps, "states": states}
        self.shown.append(kept)
        # d mean((p - target)^2) / dp = 2 (p - target) / N, so the gradient tells the target.
        output.register_hook(lambda g: kept.update(target=(0.3 - g * g.numel() / 2)))
        return type("Output", (), {"sample": output})


def test_mini_sd_learns_velocities(tmp_path: Path) -> None:
    """Noisy latents and targets against diffusers' DDPMScheduler."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    stub = Stub()
    latents = torch.arange(5.0)[:, None, None, None].expand(5, 4, 8, 8).contiguous()
    states = torch.arange(7.0)[:, None, None].expand(7, 32, 8)
    asked: list[np.ndarray] = []

    def texts_of(step: int, picks: np.ndarray) -> np.ndarray:
        asked.append(picks)
        return picks + 2

    options: dict[str, Any] = {"steps": 1, "batch": 16, "build": lambda: stub}
    train.train_unet(tmp_path, latents, states, texts_of, scheduler.alphas_cumprod, **options)
    (shown,) = stub.shown
    assert torch.equal(shown["states"][:, 0, 0], torch.from_numpy(asked[0] + 2).float())
    clean = latents[asked[0]]
    alpha = scheduler.alphas_cumprod[shown["t"]][:, None, None, None]
    noise = (shown["noisy"] - alpha.sqrt() * clean) / (1 - alpha).sqrt()
    torch.testing.assert_close(scheduler.add_noise(clean, noise, shown["t"]), shown["noisy"])
    target = scheduler.get_velocity(clean, noise, shown["t"])
    torch.testing.assert_close(shown["target"], target, atol=2e-3, rtol=1e-3)
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05
    # One time step in each sixteenth of the axis.
    assert torch.equal(shown["t"] * 16 // 1000, torch.arange(16))


def start_clip(bank: np.ndarray, labels: tuple[np.ndarray, np.ndarray], **extra: Any) -> Callable[..., nn.Module]:
    everybody = np.arange(24)

    def run(folder: Path, kill_at: int | None = None) -> nn.Module:
        def texts_of(step: int, critters: np.ndarray) -> Tensor:
            if step == kill_at:
                raise Killed
            if "start_from" in extra:
                return F.normalize(torch.randn(8, 16, generator=torch.Generator().manual_seed(step)), dim=-1)
            tokens = torch.randint(1, 880, (8, 32), generator=torch.Generator().manual_seed(step))
            tokens[:, -1] = 888
            return tokens

        banks = [(bank, everybody), (bank[::-1].copy(), everybody[::-1].copy())]
        return train.train_clip(folder, banks, texts_of, labels, steps=5, batch=8, **extra)

    return run


def start_unet() -> Callable[..., nn.Module]:
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(10, 4, 8, 8, generator=generator)
    states = torch.randn(3, 32, 8, generator=generator)

    def run(folder: Path, kill_at: int | None = None) -> nn.Module:
        def texts_of(step: int, picks: np.ndarray) -> np.ndarray:
            if step == kill_at:
                raise Killed
            return picks % 3

        return train.train_unet(folder, latents, states, texts_of, torch.linspace(0.999, 0, 1000), steps=5, batch=2)

    return run


@pytest.mark.parametrize("which", ["clip", "unet"])
def test_the_builds_own_loops_resume_bit_by_bit(
    which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bank: np.ndarray, labels: tuple[np.ndarray, np.ndarray]
) -> None:
    monkeypatch.setattr(train, "run_loop", partial(run_loop, save_every=2))
    run = start_clip(bank, labels) if which == "clip" else start_unet()
    whole = run(tmp_path)
    folder = tmp_path / "killed"
    folder.mkdir()
    with pytest.raises(Killed):
        run(folder, kill_at=3)
    assert same(whole.state_dict(), run(folder).state_dict())


def test_from_a_start_the_text_tower_stays(
    tmp_path: Path, bank: np.ndarray, labels: tuple[np.ndarray, np.ndarray]
) -> None:
    from hpslib.critters.eyes import Eye

    before = {k: v.clone() for k, v in start_clip(bank, labels)(tmp_path).state_dict().items()}
    after = start_clip(bank, labels, start_from=before, name="again", teacher=Eye(2).eval())(tmp_path).state_dict()
    text = [key for key in before if key.startswith("clip.") and not key.startswith("clip.visual.")]
    seen = [key for key in before if key.startswith("clip.visual.") and before[key].ndim >= 2]
    assert len(text) > 10 and all(torch.equal(before[key], after[key]) for key in text)
    assert seen and all(not torch.equal(before[key], after[key]) for key in seen)
    assert set(after) - set(before) == {"pupil.weight", "pupil.bias"}


def test_the_autoencoder_learns(tmp_path: Path, bank: np.ndarray) -> None:
    def error(model: Any) -> float:
        pixels = bank_pixels(bank, np.arange(8)) * 2 - 1
        with torch.inference_mode():
            return float(F.mse_loss(model.decode(model.encode(pixels).latent_dist.mean).sample, pixels))

    torch.manual_seed(0)
    start = error(networks.build_autoencoder())
    model = train.train_autoencoder(tmp_path, bank, steps=12, batch=4)
    assert error(model) < 0.95 * start
    assert same(model.state_dict(), train.train_autoencoder(tmp_path, bank, steps=12, batch=4).state_dict())


def test_the_autoencoder_learns_from_squares_and_goes_on_with_whole_images(tmp_path: Path, bank: np.ndarray) -> None:
    pixels = bank_pixels(bank, np.arange(6))
    parts = squares(pixels, 16, np.random.default_rng(3))
    assert parts.shape == (6, 3, 16, 16)
    for image, part in zip(pixels, parts, strict=True):
        places = image.unfold(1, 16, 1).unfold(2, 16, 1).permute(1, 2, 0, 3, 4)
        assert (places == part).flatten(2).all(2).any(), "a square of another image, or of none"
    assert torch.equal(squares(pixels, pixels.shape[2], np.random.default_rng(0)), pixels)
    small = train.train_autoencoder(tmp_path, bank, steps=3, batch=4, name="squares", side=32).state_dict()
    before = {name: weight.clone() for name, weight in small.items()}
    after = train.train_autoencoder(tmp_path, bank, steps=1, batch=4, start_from=before).state_dict()
    moved = torch.cat([(after[name] - before[name]).flatten() for name in before])
    assert 0 < moved.abs().max() < 0.05, "it starts from what it was given"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["autoencoder.ckpt", "squares.ckpt"]


def test_an_eye_learns_and_depends_on_its_seed(
    tmp_path: Path, bank: np.ndarray, labels: tuple[np.ndarray, np.ndarray]
) -> None:
    def run(folder: str, seed: int) -> nn.Module:
        (tmp_path / folder).mkdir()
        return train.train_eye(tmp_path / folder, [bank], labels, name="eye", width=4, steps=6, batch=8, seed=seed)

    first, again, other = run("a", 0), run("b", 0), run("c", 1)
    assert same(first.state_dict(), again.state_dict())
    assert not torch.equal(first.state_dict()["narrow.weight"], other.state_dict()["narrow.weight"])  # type: ignore[index]
    assert first.state_dict()["features.1.num_batches_tracked"] == 6
