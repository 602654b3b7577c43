from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from hpslib.scores.clip import Clip, encode_images, encode_prompts, load_clip, save_clip, truncated_prompts
from hpslib.scores.pixels import preprocess

ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
WEIGHTS, CONFIG = "open_clip_model.safetensors", "open_clip_config.json"


@pytest.fixture
def copy(tiny_clip_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_clip_folder, tmp_path / "clip"))


def rewrite(folder: Path, change) -> None:
    config = json.loads((folder / CONFIG).read_text())
    change(config["model_cfg"])
    (folder / CONFIG).write_text(json.dumps(config))


# --- loading and saving ----------------------------------------------------------------------------------------------


def test_loaded_weights_are_the_files(tiny_clip: Clip, tiny_clip_folder: Path) -> None:
    weights = load_file(tiny_clip_folder / WEIGHTS)
    state = tiny_clip.model.state_dict()
    assert set(state) == set(weights) and all(torch.equal(state[key], weights[key]) for key in weights)
    assert not tiny_clip.model.training
    assert (tiny_clip.image_size, tiny_clip.context_length, tiny_clip.mean) == (32, 16, (0.5, 0.4, 0.3))


def test_loading_leaves_the_global_random_state_alone(tiny_clip_folder: Path) -> None:
    before = torch.random.get_rng_state()
    load_clip(tiny_clip_folder)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_saving_and_loading_gives_the_same_features(tiny_clip: Clip, noise_images, tmp_path: Path) -> None:
    save_clip(tiny_clip, tmp_path / "again")
    again = load_clip(tmp_path / "again")
    assert torch.equal(encode_images(again, noise_images), encode_images(tiny_clip, noise_images))
    assert torch.equal(encode_prompts(again, ["a dog"]), encode_prompts(tiny_clip, ["a dog"]))
    assert again.config == tiny_clip.config
    assert sorted(p.name for p in (tmp_path / "again").iterdir()) == [CONFIG, WEIGHTS]


def test_saving_in_half_precision_reads_back_as_float32(tiny_clip: Clip, tmp_path: Path) -> None:
    save_clip(tiny_clip, tmp_path / "half", dtype=torch.float16)
    assert load_file(tmp_path / "half" / WEIGHTS)["visual.proj"].dtype == torch.float16
    again = load_clip(tmp_path / "half")
    assert {p.dtype for p in again.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name} is missing: name a folder with {CONFIG} and {WEIGHTS}"):
        load_clip(copy)


def test_an_unstated_activation_is_refused(copy: Path) -> None:
    rewrite(copy, lambda c: c.pop("quick_gelu"))
    with pytest.raises(ValueError, match=r"does not state quick_gelu: add it \(true for OpenAI's weights"):
        load_clip(copy)


def test_the_activation_matters(tiny_clip: Clip, copy: Path, noise_images) -> None:
    rewrite(copy, lambda c: c.update(quick_gelu=False))
    assert not torch.allclose(encode_images(load_clip(copy), noise_images), encode_images(tiny_clip, noise_images))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c: c["vision_cfg"].update(layers=3), r"12 keys missing, 0 unexpected, 0 of another shape"),
        (lambda c: c["text_cfg"].update(layers=1), r"0 keys missing, 12 unexpected, 0 of another shape"),
        (lambda c: c.update(embed_dim=8), r"0 keys missing, 0 unexpected, 2 of another shape \(first: text_projection"),
    ],
)
def test_another_architecture_is_refused(copy: Path, change, text: str) -> None:
    rewrite(copy, change)
    with pytest.raises(ValueError, match=text):
        load_clip(copy)


def test_a_missing_key_is_named(copy: Path) -> None:
    weights = load_file(copy / WEIGHTS)
    del weights["visual.ln_post.bias"]
    save_file(weights, copy / WEIGHTS)
    with pytest.raises(ValueError, match=r"1 keys missing, 0 unexpected.*first: visual\.ln_post\.bias"):
        load_clip(copy)


def test_nan_in_the_weights_is_refused(copy: Path) -> None:
    weights = load_file(copy / WEIGHTS)
    weights["visual.proj"][0, 0] = torch.nan
    save_file(weights, copy / WEIGHTS)
    with pytest.raises(ValueError, match=rf"{WEIGHTS}: visual\.proj holds NaN or infinity \(1 tensors do\): fetch"):
        load_clip(copy)


def test_a_damaged_weights_file_is_named(copy: Path) -> None:
    (copy / WEIGHTS).write_bytes((copy / WEIGHTS).read_bytes()[:1000])
    with pytest.raises(ValueError, match=rf"{WEIGHTS} cannot be read \(.*: fetch the file again"):
        load_clip(copy)


def test_the_wrong_vocabulary_is_refused(copy: Path) -> None:
    weights = load_file(copy / WEIGHTS)
    weights["token_embedding.weight"] = weights["token_embedding.weight"][:900].clone()
    save_file(weights, copy / WEIGHTS)
    rewrite(copy, lambda c: c["text_cfg"].update(vocab_size=900))
    with pytest.raises(
        ValueError, match=rf"^the model in .*{WEIGHTS} knows 900 tokens but the tokenizer has 49408: .*bpe\.txt\.gz"
    ):
        load_clip(copy)


# --- preprocessing ---------------------------------------------------------------------------------------------------


def test_pad_keeps_the_whole_image_and_fills_with_black() -> None:
    wide = Image.new("RGB", (64, 32), (255, 255, 255))
    pixels = preprocess([wide], 32, ZERO, ONE, "pad")[0]
    assert pixels.shape == (3, 32, 32) and pixels.dtype == torch.float32
    assert (pixels[:, 8:24] == 1).all() and (pixels[:, :8] == 0).all() and (pixels[:, 24:] == 0).all()


def test_crop_keeps_the_centre() -> None:
    wide = np.zeros((32, 64, 3), dtype=np.uint8)
    wide[:, 16:48] = 200  # only the centre square is not black
    pixels = preprocess([Image.fromarray(wide)], 32, ZERO, ONE, "crop")[0]
    assert torch.allclose(pixels, torch.full_like(pixels, 200 / 255))


def test_an_image_of_the_right_size_is_only_normalised(rng: np.random.Generator) -> None:
    array = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    pixels = preprocess([Image.fromarray(array)], 32, mean, std)[0]
    np.testing.assert_allclose(pixels.permute(1, 2, 0), (array / 255 - mean) / std, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 500), (500, 1), (33, 31), (7, 5)])
@pytest.mark.parametrize("mode", ["pad", "crop"])
def test_every_shape_becomes_a_square(size: tuple[int, int], mode) -> None:
    assert preprocess([Image.new("RGB", size, "white")], 32, ZERO, ONE, mode).shape == (1, 3, 32, 32)


def test_grey_images_are_read_as_rgb() -> None:
    assert (preprocess([Image.new("L", (32, 32), 255)], 32, ZERO, ONE) == 1).all()


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="mode is 'stretch': use 'pad'"):
        preprocess([Image.new("RGB", (4, 4))], 32, ZERO, ONE, "stretch")  # type: ignore[arg-type]


# --- encoding --------------------------------------------------------------------------------------------------------


def test_features_are_unit_vectors_of_the_model(tiny_clip: Clip, noise_images) -> None:
    features = encode_images(tiny_clip, noise_images, batch_size=5)
    assert features.shape == (24, 16) and features.dtype == torch.float32
    torch.testing.assert_close(features.norm(dim=1), torch.ones(24))
    with torch.no_grad():
        raw = tiny_clip.model.encode_image(preprocess(noise_images, 32, tiny_clip.mean, tiny_clip.std))
    torch.testing.assert_close(features, raw / raw.norm(dim=1, keepdim=True), atol=1e-5, rtol=1e-4)


def test_permuting_the_images_permutes_the_features(tiny_clip: Clip, noise_images, rng) -> None:
    order = rng.permutation(24)
    features = encode_images(tiny_clip, noise_images, batch_size=7)
    moved = encode_images(tiny_clip, [noise_images[k] for k in order], batch_size=7)
    torch.testing.assert_close(moved, features[order], atol=1e-5, rtol=1e-4)


def test_equal_prompts_are_encoded_once_and_stand_where_they_stood(tiny_clip: Clip) -> None:
    seen: list[str] = []

    def counting(texts: list[str]):
        seen.extend(texts)
        return tiny_clip.tokenize(texts)

    prompts = ["a dog", "a cat", "a dog", "a hat", "a cat"]
    features = encode_prompts(replace(tiny_clip, tokenize=counting), prompts, batch_size=2)
    assert seen == ["a dog", "a cat", "a hat"]
    for prompt, row in zip(prompts, features):
        torch.testing.assert_close(row, encode_prompts(tiny_clip, [prompt])[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "change",
    [{}, {"pool_type": "last"}, {"pool_type": "first"}, {"no_causal_mask": True}, {"proj_bias": True}],
    ids=str,
)
def test_texts_are_read_as_open_clip_reads_them(tiny_clip: Clip, change: dict[str, Any]) -> None:
    """Cut to their length where nothing behind the end counts, whole where it does."""
    config = {**tiny_clip.config["model_cfg"]}
    config["text_cfg"] = {**config["text_cfg"], **change}
    torch.manual_seed(0)
    clip = replace(tiny_clip, model=open_clip.model.CLIP(**config).eval())
    prompts = ["a", "a red cat on a mat", "two birds " * 40, "rain"]
    expected = clip.model.encode_text(clip.tokenize(prompts), normalize=True)
    torch.testing.assert_close(encode_prompts(clip, prompts), expected, atol=1e-6, rtol=0)


def test_features_can_take_part_in_training(tiny_clip: Clip, noise_images) -> None:
    weight = torch.zeros(16, requires_grad=True)
    (encode_images(tiny_clip, noise_images) @ weight).sum().backward()  # tensors of inference_mode refuse this
    assert weight.grad is not None and weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("encode", "what"), [(encode_images, "images"), (encode_prompts, "prompts")])
def test_nothing_to_encode_is_said(tiny_clip: Clip, encode, what: str) -> None:
    with pytest.raises(ValueError, match=f"^there are no {what} to encode: hand over at least one"):
        encode(tiny_clip, [])


def test_prompts_over_the_context_are_found(tiny_clip: Clip) -> None:
    words = "dog " * 14  # 14 words and two marks fill the 16 places
    assert truncated_prompts(tiny_clip, ["a dog", words, words + "dog"]) == [2]
    kept = encode_prompts(tiny_clip, [words + "dog", words + "dog cat"])
    torch.testing.assert_close(kept[0], kept[1])  # what is beyond the context is not read


@pytest.mark.parametrize("shape", [(300, 400), (401, 300), (225, 223), (64, 997), (224, 224)])
def test_cropping_is_torchvisions_and_padding_hpsv2s_to_the_pixel(
    rng: np.random.Generator, shape: tuple[int, int]
) -> None:
    from torchvision.transforms import functional

    image = Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
    small = functional.resize(image, 224, functional.InterpolationMode.BICUBIC)
    cropped = functional.to_tensor(functional.center_crop(small, [224, 224]))
    assert torch.equal(preprocess([image], 224, (0, 0, 0), (1, 1, 1), "crop")[0], cropped)
    height, width = (round(side * 224 / max(shape)) for side in shape)
    small = functional.resize(image, [height, width], functional.InterpolationMode.BICUBIC)
    left, top = (224 - width) // 2, (224 - height) // 2
    padded = functional.pad(functional.to_tensor(small), [left, top, 224 - width - left, 224 - height - top])
    assert torch.equal(preprocess([image], 224, (0, 0, 0), (1, 1, 1), "pad")[0], padded)


@pytest.mark.parametrize("size", [(454, 448), (640, 427), (427, 641), (512, 512), (30, 61)])
def test_crop_floor_is_the_crop_of_transformers(size: tuple[int, int], rng: np.random.Generator) -> None:
    from transformers import CLIPImageProcessor

    image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    mean, std = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
    theirs = CLIPImageProcessor(
        size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224}, image_mean=mean, image_std=std
    )(image, return_tensors="pt")["pixel_values"]
    ours = preprocess([image], 224, mean, std, "crop_floor")
    assert (ours - theirs).abs().mean() < 0.01, "the same but for the rounding of 8-bit resizing"
    if size == (454, 448):
        assert (preprocess([image], 224, mean, std, "crop") - theirs).abs().mean() > 0.1, "torchvision rounds"
