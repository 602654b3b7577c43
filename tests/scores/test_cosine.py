from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hpslib.data.groups import flatten_groups, split_groups
from hpslib.scores.aesthetic import AestheticHead, aesthetic_scores, load_aesthetic_head
from hpslib.scores.clip import Clip, encode_images, encode_prompts
from hpslib.scores.cosine import clip_scores, hps

PROMPTS = ["a red dog", "a cat", "a red dog", "nine hats"] * 6


def test_clip_scores_are_the_diagonal_of_the_whole_matrix(tiny_clip: Clip, noise_images) -> None:
    whole = encode_images(tiny_clip, noise_images).double() @ encode_prompts(tiny_clip, PROMPTS).double().T
    scores = clip_scores(tiny_clip, noise_images, PROMPTS, batch_size=5)
    assert scores.dtype == np.float64 and np.abs(scores).max() <= 1
    np.testing.assert_allclose(scores, whole.diagonal(), atol=1e-6)


def test_permuting_the_pairs_permutes_the_scores(tiny_clip: Clip, noise_images, rng) -> None:
    order = rng.permutation(24)
    moved = clip_scores(tiny_clip, [noise_images[k] for k in order], [PROMPTS[k] for k in order])
    np.testing.assert_allclose(moved, clip_scores(tiny_clip, noise_images, PROMPTS)[order], atol=1e-6)


def test_hps_is_a_hundred_times_the_cosine(tiny_clip: Clip, noise_images) -> None:
    np.testing.assert_allclose(
        hps(tiny_clip, noise_images, PROMPTS), 100 * clip_scores(tiny_clip, noise_images, PROMPTS)
    )


def test_unequal_lengths_are_refused(tiny_clip: Clip, noise_images) -> None:
    with pytest.raises(ValueError, match="24 images but 1 prompts: hand over one prompt for each image"):
        clip_scores(tiny_clip, noise_images, ["a dog"])


def test_an_empty_prompt_is_named(tiny_clip: Clip, noise_images) -> None:
    with pytest.raises(ValueError, match=r"the prompt of image 1 is empty \(2 in all\)"):
        clip_scores(tiny_clip, noise_images[:3], ["a dog", " ", ""])


def test_aesthetic_scores_are_an_affine_map(rng: np.random.Generator, tmp_path: Path) -> None:
    weight, features = torch.from_numpy(rng.normal(size=16)).float(), torch.from_numpy(rng.normal(size=(5, 16))).float()
    save_file({"weight": weight, "bias": torch.tensor([5.25])}, tmp_path / "head.safetensors")
    head = load_aesthetic_head(tmp_path / "head.safetensors")
    expected = [sum(float(a) * float(b) for a, b in zip(row, weight)) + 5.25 for row in features]
    np.testing.assert_allclose(aesthetic_scores(head, features), expected, rtol=1e-9)


def test_five_layers_without_activation_are_one_affine_map(rng: np.random.Generator) -> None:
    layers = [torch.nn.Linear(a, b).double() for a, b in [(16, 8), (8, 4), (4, 1)]]
    stack, weight, bias = torch.nn.Sequential(*layers), torch.eye(16).double(), torch.zeros(16).double()
    for layer in layers:
        weight, bias = layer.weight @ weight, layer.weight @ bias + layer.bias
    features = torch.from_numpy(rng.normal(size=(6, 16)))
    head = AestheticHead(weight[0].detach(), bias.item())
    np.testing.assert_allclose(aesthetic_scores(head, features), stack(features)[:, 0].detach(), rtol=1e-9)


def test_flatten_and_split_undo_each_other(rng: np.random.Generator, noise_images) -> None:
    import io

    def packed(image) -> dict:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": "x.png"}

    groups = [
        {"id": "0", "prompt": "a", "images": [packed(i) for i in noise_images[:2]]},
        {"id": "1", "prompt": "b", "images": [packed(i) for i in noise_images[2:6]]},
    ]
    images, prompts, sizes = flatten_groups(groups)
    assert prompts == ["a"] * 2 + ["b"] * 4 and sizes == [2, 4]
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(images, noise_images))
    assert [part.tolist() for part in split_groups(np.arange(6), sizes)] == [[0, 1], [2, 3, 4, 5]]


def test_loose_files_are_found_below_the_root(noise_images, tmp_path: Path) -> None:
    noise_images[0].save(tmp_path / "one.png")
    group = {"id": "0", "prompt": "a", "images": [{"bytes": None, "path": "one.png"}]}
    images, _, _ = flatten_groups([group], root=tmp_path)
    assert np.array_equal(np.asarray(images[0]), np.asarray(noise_images[0]))


def test_values_that_do_not_fill_the_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="3 values for groups of 5 images in all"):
        split_groups(np.zeros(3), [2, 3])
