"""hpslib.scores.aesthetic: one affine map, whatever number of linear layers it was written as."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hpslib.scores.aesthetic import (
    AestheticHead,
    aesthetic_scores,
    load_aesthetic_head,
    load_laion_head,
    save_aesthetic_head,
)


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


def test_laions_head_collapses_to_one_affine_map(tmp_path: Path, rng: np.random.Generator) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Sequential(
            nn.Linear(12, 20), nn.Dropout(0.2), nn.Linear(20, 10), nn.Dropout(0.2), nn.Linear(10, 6), nn.Dropout(0.1),
            nn.Linear(6, 4), nn.Linear(4, 1),
        ).eval()  # fmt: skip
    torch.save({f"layers.{key}": value for key, value in layers.state_dict().items()}, tmp_path / "head.pth")
    features = torch.from_numpy(rng.normal(size=(7, 12))).float()
    ratings = aesthetic_scores(load_laion_head(tmp_path / "head.pth"), features)
    with torch.no_grad():
        assert np.allclose(ratings, layers(features)[:, 0].numpy(), atol=1e-5)
    torch.save({"layers.0.weight": torch.ones(1, 2), "layers.3.weight": torch.ones(1, 1)}, tmp_path / "relu.pth")
    with pytest.raises(ValueError, match="the variant with ReLU is no affine map"):
        load_laion_head(tmp_path / "relu.pth")


def test_a_head_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    head = AestheticHead(torch.linspace(-1, 1, 8), 5.25)
    path = save_aesthetic_head(head, tmp_path / "new" / "head.safetensors")
    again = load_aesthetic_head(path)
    assert torch.equal(again.weight, head.weight) and again.bias == head.bias
    assert [file.name for file in path.parent.iterdir()] == ["head.safetensors"]


def test_files_that_hold_no_head_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    with pytest.raises(FileNotFoundError, match=r"head\.safetensors does not exist: hpslib convert aesthetic writes"):
        load_aesthetic_head(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"head\.safetensors cannot be read as safetensors \(.*\): write it again\.$"):
        load_aesthetic_head(path)
    save_file({"weight": torch.ones(2, 2), "bias": torch.ones(1)}, path)
    with pytest.raises(
        ValueError, match=r"holds bias \(1,\), weight \(2, 2\) where weight \(embed_dim,\) and bias \(1,\)"
    ):
        load_aesthetic_head(path)


def test_embeddings_of_another_length_are_refused() -> None:
    head = AestheticHead(torch.ones(8), 0.0)
    with pytest.raises(
        ValueError, match=r"^the aesthetic head rates embeddings of 8 numbers, these have 9: use it with"
    ):
        aesthetic_scores(head, torch.ones(2, 9))


def test_laions_first_head_is_one_linear_layer(tmp_path: Path, rng: np.random.Generator) -> None:
    layer = nn.Linear(12, 1)
    torch.save(layer.state_dict(), tmp_path / "sa_0_4_vit_l_14_linear.pth")
    features = torch.from_numpy(rng.normal(size=(7, 12))).float()
    ratings = aesthetic_scores(load_laion_head(tmp_path / "sa_0_4_vit_l_14_linear.pth"), features)
    with torch.no_grad():
        assert np.allclose(ratings, layer(features)[:, 0].numpy(), atol=1e-6)


@pytest.mark.parametrize(("matrix", "bias"), [((2, 12), (2,)), ((12,), (1,)), ((1, 12), (2,)), ((), ())])
def test_layers_that_do_not_end_in_one_number_are_refused(tmp_path: Path, matrix: tuple, bias: tuple) -> None:
    torch.save({"weight": torch.ones(matrix), "bias": torch.ones(bias)}, tmp_path / "head.pth")
    with pytest.raises(
        ValueError, match=r"head\.pth: layer has weights of .* make no chain of linear layers that ends"
    ):
        load_laion_head(tmp_path / "head.pth")


def test_a_head_with_nan_is_refused(tmp_path: Path) -> None:
    path = save_aesthetic_head(AestheticHead(torch.tensor([1.0, torch.nan]), 0.0), tmp_path / "head.safetensors")
    with pytest.raises(ValueError, match=r"head\.safetensors: weight holds NaN or infinity"):
        load_aesthetic_head(path)
