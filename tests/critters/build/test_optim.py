"""hpslib.critters.build.optim: Muon against linear algebra and torch's own, schedule, average, checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hpslib.critters.build.optim import Muon, _orthogonalise, average_weights, optimizers, set_rate


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def moved(shape: tuple[int, ...], gradients: list[Tensor], **settings: float) -> Tensor:
    """Where a parameter at zero goes under these gradients."""
    parameter = nn.Parameter(torch.zeros(shape))
    optimizer = Muon([parameter], **{"lr": 1.0, **settings})
    for gradient in gradients:
        parameter.grad = gradient.clone().reshape(shape)
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize("shape", [(12, 12), (8, 32), (32, 8), (1, 9), (9, 1)])
def test_singular_values_are_pushed_towards_one(shape: tuple[int, int], generator: torch.Generator) -> None:
    # Not worse conditioned than gradients are: five iterations cannot lift a singular value of nearly zero.
    matrix = torch.randn(shape, generator=generator) + 2 * torch.eye(*shape)
    values = torch.linalg.svdvals(_orthogonalise(matrix))
    assert values.min() > 0.6 and values.max() < 1.25
    torch.testing.assert_close(_orthogonalise(matrix.T), _orthogonalise(matrix).T)
    torch.testing.assert_close(_orthogonalise(1000 * matrix), _orthogonalise(matrix), atol=1e-4, rtol=1e-4)


def test_singular_vectors_stay(generator: torch.Generator) -> None:
    matrix = torch.randn(10, 6, generator=generator)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    turned = left.T @ _orthogonalise(matrix) @ right.T
    torch.testing.assert_close(turned, torch.diag(torch.diag(turned)), atol=1e-4, rtol=0)
    assert (torch.diag(turned) > 0.6).all()


def test_no_gradient_is_no_step_and_zero_gradient_is_no_number_lost() -> None:
    idle = nn.Parameter(torch.ones(2, 2))
    Muon([idle], lr=1.0).step()
    assert torch.equal(idle, torch.ones(2, 2))
    assert torch.equal(moved((3, 4), [torch.zeros(3, 4)]), torch.zeros(3, 4))


def test_a_kernel_counts_as_out_by_the_rest(generator: torch.Generator) -> None:
    gradients = [torch.randn(6, 4, 3, 3, generator=generator) for _ in range(3)]
    flat = moved((6, 36), gradients)
    torch.testing.assert_close(moved((6, 4, 3, 3), gradients).flatten(1), flat)
    assert torch.linalg.svdvals(moved((6, 4, 3, 3), gradients[:1]).flatten(1)).min() > 0.6


def test_a_channels_last_kernel_takes_the_same_step(generator: torch.Generator) -> None:
    gradient = torch.randn(6, 4, 3, 3, generator=generator)
    parameter = nn.Parameter(torch.zeros(6, 4, 3, 3).to(memory_format=torch.channels_last))
    parameter.grad = gradient.to(memory_format=torch.channels_last)
    Muon([parameter], lr=1.0).step()
    torch.testing.assert_close(parameter.detach().contiguous(), moved((6, 4, 3, 3), [gradient]))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
@pytest.mark.parametrize("shape", [(16, 24), (24, 16)])
def test_steps_are_those_of_torch(shape: tuple[int, int], generator: torch.Generator) -> None:
    """torch iterates in bfloat16, so only to a few percent."""
    gradients = [torch.randn(shape, generator=generator) for _ in range(4)]
    theirs = nn.Parameter(torch.zeros(shape))
    optimizer = torch.optim.Muon([theirs], lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True)
    for gradient in gradients:
        theirs.grad = gradient.clone()
        optimizer.step()
    ours = moved(shape, gradients, lr=0.1, momentum=0.9, weight_decay=0.1)
    assert (ours - theirs).norm() < 0.05 * ours.norm()
    assert (moved(shape, gradients, lr=0.1, momentum=0.5) - theirs).norm() > 0.1 * ours.norm()  # the test has power


def test_every_trainable_weight_has_one_optimiser() -> None:
    model = nn.ModuleDict({"conv": nn.Conv2d(2, 3, 3), "norm": nn.LayerNorm(3), "head": nn.Linear(3, 2)})
    model["frozen"] = nn.Linear(2, 2).requires_grad_(False)
    adam, muon = optimizers(model, 0.02, 0.002, exclude=("head",))
    assert isinstance(adam, torch.optim.AdamW) and isinstance(muon, Muon)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    by = [sorted(names[id(p)] for group in made.param_groups for p in group["params"]) for made in (adam, muon)]
    assert by == [["conv.bias", "head.bias", "head.weight", "norm.bias", "norm.weight"], ["conv.weight"]]
    assert [made.param_groups[0]["initial_lr"] for made in (adam, muon)] == [0.002, 0.02]
    (alone,) = optimizers(nn.LayerNorm(3), 0.02, 0.002)
    assert isinstance(alone, torch.optim.AdamW)


def test_the_rate_warms_up_and_falls_to_zero() -> None:
    made = optimizers(nn.Linear(2, 2), 0.02, 0.002)
    rates = []
    for step in range(200):
        set_rate(made, step, 200, warmup=10)
        rates.append([optimizer.param_groups[0]["lr"] for optimizer in made])
    adam, muon = np.array(rates).T
    np.testing.assert_allclose(muon, 10 * adam)
    np.testing.assert_allclose(adam[:10], 0.002 * np.arange(1, 11) / 10)
    np.testing.assert_allclose(adam[10:61], 0.002)
    np.testing.assert_allclose(np.diff(adam[61:]), -0.002 / 140)  # straight
    assert adam[-1] == pytest.approx(0.002 / 140)


def test_the_average_is_the_exponential_moving_average(generator: torch.Generator) -> None:
    model = nn.BatchNorm1d(3)
    average: dict[str, Tensor] = {}
    values = torch.randn(5, 3, generator=generator)
    for k, value in enumerate(values):
        model.weight.data = value.clone()
        model.num_batches_tracked.fill_(k)
        average_weights(average, model, decay=0.8)
    expected = values[0] * 0.8**4 + sum(0.2 * 0.8 ** (4 - k) * values[k] for k in range(1, 5))
    torch.testing.assert_close(average["weight"], expected)
    assert average["num_batches_tracked"] == 4, "counts are copied, not averaged"
    model.weight.data.zero_()
    assert average["weight"].abs().sum() > 0, "the average is a copy"
