"""hpslib.critters.eyes: what an eye reports, and that it is the same after a way through a file."""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hpslib.critters.attributes import ATTRIBUTES, FLAWS
from hpslib.critters.eyes import Eye, Seen, load_eye, look, save_eye, to_pixels


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def eye() -> Eye:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Eye(4)
        made(torch.rand(8, 3, 64, 64))  # running statistics that are not the initial ones
    return made


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (7, 64, 64, 3), dtype=np.uint8)


def test_shapes_and_ranges(eye: Eye, images: np.ndarray) -> None:
    seen = look(eye, images)
    assert {name: p.shape for name, p in seen.attributes.items()} == {n: (7, len(v)) for n, v in ATTRIBUTES.items()}
    for probabilities in seen.attributes.values():
        np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    assert seen.flaws.shape == (7, len(FLAWS)) and (seen.flaws > 0).all() and (seen.flaws < 1).all()
    assert eye.maps(to_pixels(images)).shape == (7, 24, 8, 8)


def test_vividness_is_the_mean_saturation(eye: Eye, images: np.ndarray) -> None:
    expected = [np.mean([colorsys.rgb_to_hsv(*pixel)[1] for pixel in image.reshape(-1, 3) / 255]) for image in images]
    np.testing.assert_allclose(look(eye, images).vividness, expected, atol=2e-3)
    assert look(eye, np.full((1, 64, 64, 3), 99, np.uint8)).vividness == 0


def test_a_picture_is_seen_alone(eye: Eye, images: np.ndarray) -> None:
    """Neither its neighbours nor the batch size matter, and the eye is put in evaluation mode first."""
    eye.train()
    whole = look(eye, images)
    order = np.array([3, 1, 6])
    part = look(eye, images[order], batch_size=2)
    np.testing.assert_allclose(part.flaws, whole.flaws[order], atol=1e-6)
    np.testing.assert_allclose(part.attributes["shape"], whole.attributes["shape"][order], atol=1e-6)


def test_pil_images_are_arrays_and_other_sizes_are_resized(eye: Eye, images: np.ndarray) -> None:
    pictures = [Image.fromarray(image) for image in images]
    assert torch.equal(to_pixels(pictures), to_pixels(images))
    pixels = to_pixels(images)
    assert pixels.dtype == torch.float32 and pixels.shape == (7, 3, 64, 64)
    assert pixels[2, 1, 5, 9] == pytest.approx(images[2, 5, 9, 1] / 255)
    large = Image.new("RGBA", (100, 50), (255, 0, 0, 255))
    assert torch.equal(to_pixels([large])[0, :, 0, 0], torch.tensor([1.0, 0.0, 0.0]))


def test_no_images_are_refused(eye: Eye) -> None:
    with pytest.raises(ValueError, match="no images to look at: hand over at least one"):
        look(eye, [])


def test_flawed_means_any_flaw_more_likely_than_not() -> None:
    flaws = np.array([[0.4] * 6, [0.0, 0.51, 0, 0, 0, 0], [0.5] * 6])
    assert Seen({}, flaws, np.zeros(3)).flawed.tolist() == [False, True, False]


def test_match_is_the_mean_probability_of_what_was_asked(rng: np.random.Generator) -> None:
    attributes = {name: rng.dirichlet(np.ones(len(values)), 4) for name, values in ATTRIBUTES.items()}
    seen = Seen(attributes, np.zeros((4, 6)), np.zeros(4))
    wanted = [{name: values[(row + k) % len(values)] for k, (name, values) in enumerate(ATTRIBUTES.items())}
              for row in range(4)]  # fmt: skip
    expected = [
        np.mean([attributes[name][row, (row + k) % len(values)] for k, (name, values) in enumerate(ATTRIBUTES.items())])
        for row in range(4)
    ]
    np.testing.assert_allclose(seen.match(wanted), expected)
    with pytest.raises(ValueError, match="1 prompts but 4 images: hand over one for each image"):
        seen.match(wanted[:1])


def test_an_eye_read_back_sees_the_same(eye: Eye, images: np.ndarray, tmp_path: Path) -> None:
    save_eye(eye, tmp_path / "eye.safetensors")
    again = load_eye(tmp_path / "eye.safetensors")
    assert again.width == 4 and not again.training
    assert all(p.dtype == torch.float32 for p in again.parameters())
    np.testing.assert_allclose(look(again, images).flaws, look(eye, images).flaws, atol=2e-3)  # stored as float16
    for key, value in eye.state_dict().items():
        kept = value.half().float() if value.is_floating_point() else value
        assert torch.equal(again.state_dict()[key], kept), key
    assert [path.name for path in tmp_path.iterdir()] == ["eye.safetensors"]


def test_where_something_sits_is_not_averaged_away(eye: Eye) -> None:
    """A mirrored picture is another picture to the head; a global average could hardly tell."""
    pixels = torch.zeros(1, 3, 64, 64)
    pixels[..., 20:30, 5:15] = 1
    eye.eval()
    with torch.inference_mode():
        assert (eye(pixels) - eye(pixels.flip(3))).abs().max() > 1e-4
