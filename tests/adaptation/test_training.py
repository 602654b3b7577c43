"""hpslib.adaptation.training: resumed and repeated runs, targets against diffusers, draws."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_lora import adapter, train
from torch import Tensor, nn

from hpslib.adaptation.examples import Examples, mixture_weights
from hpslib.adaptation.lora import add_lora, remove_lora
from hpslib.adaptation.training import train_lora


def test_the_same_seed_gives_the_same_weights(tiny_pipe: Any, examples: Examples) -> None:
    def run(seed: int) -> tuple[list[float], dict[str, Tensor]]:
        losses = train(tiny_pipe, examples, seed=seed, caption_dropout=0.3)
        made = adapter(tiny_pipe)
        remove_lora(tiny_pipe)
        return losses, made

    state = torch.get_rng_state()
    (losses, first), (again, second), (other, third) = run(3), run(3), run(4)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is nobody's"
    assert losses == again and losses != other and len(losses) == 3
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], third[key]) for key in first)
    assert not tiny_pipe.unet.training


class Stub(nn.Module):
    """In the UNet's place: predicts 0.3 everywhere, keeps what it was shown and the target the gradient tells."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.full((1,), 0.3))
        self.shown: list[dict[str, Any]] = []
        self.attn_processors: dict[str, Any] = {}
        self.is_gradient_checkpointing = False

    def set_attn_processor(self, processor: Any) -> None:
        pass

    def forward(self, noisy: Tensor, time_steps: Tensor, states: Tensor) -> Any:
        value = self.bias.item()
        kept = {"noisy": noisy, "t": time_steps, "row": states[:, 0, 0].long(), "bias": value}
        self.shown.append(kept)
        made = self.bias.expand(noisy.shape).clone()
        made.register_hook(lambda g: kept.update(target=value - g * g.numel() / 2))  # d mean((p - t)^2) = 2 (p - t) / N
        return SimpleNamespace(sample=made)


def watched(prediction: str, steps: int = 1, batch: int = 16, **changes: Any) -> tuple[Any, list[dict[str, Tensor]]]:
    """Train on latents that are constant (their own number), with text states that are their own row."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction
    )
    stub = Stub()
    examples = Examples(
        torch.arange(5.0)[:, None, None, None].expand(5, 4, 8, 8),
        torch.zeros(12, 3, dtype=torch.int64),
        torch.arange(12.0)[:, None, None].expand(12, 3, 2),
        torch.arange(5),
        torch.tensor([10, 11, 10, 11, 10]),
        torch.tensor([False, True, False, True, False]),
    )
    train_lora(
        SimpleNamespace(unet=stub, scheduler=scheduler, device=torch.device("cpu")),
        [stub.bias], examples, steps=steps, batch_size=batch,
        **{"lr": 1e-3, "weight_decay": 0.0, **changes},
    )  # fmt: skip
    for shown in stub.shown:
        alpha = scheduler.alphas_cumprod[shown["t"]][:, None, None, None]
        x = shown["noisy"]
        if prediction == "epsilon":
            shown["clean"] = (x - (1 - alpha).sqrt() * shown["target"]) / alpha.sqrt()
        else:
            shown["clean"] = alpha.sqrt() * x - (1 - alpha).sqrt() * shown["target"]
        shown["image"] = shown["clean"].mean((1, 2, 3)).round().long()
    return scheduler, stub.shown


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_targets_are_those_of_diffusers(prediction: str) -> None:
    scheduler, (shown,) = watched(prediction)
    clean = shown["image"].float()[:, None, None, None].expand(shown["noisy"].shape)
    torch.testing.assert_close(shown["clean"], clean, atol=0.02, rtol=0)
    alpha = scheduler.alphas_cumprod[shown["t"]][:, None, None, None]
    noise = (shown["noisy"] - alpha.sqrt() * clean) / (1 - alpha).sqrt()
    torch.testing.assert_close(scheduler.add_noise(clean, noise, shown["t"]), shown["noisy"])
    expected = noise if prediction == "epsilon" else scheduler.get_velocity(clean, noise, shown["t"])
    torch.testing.assert_close(shown["target"], expected, atol=2e-3, rtol=1e-3)
    assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1
    assert torch.equal(shown["t"] * 16 // 1000, torch.arange(16)), "one time step in each sixteenth of the axis"


def test_dropped_captions_give_way_to_the_identifier_or_the_empty_text() -> None:
    dropped_rows = torch.tensor([10, 11, 10, 11, 10])
    for rate in (0.0, 0.3, 1.0):
        _, steps = watched("v_prediction", steps=30, caption_dropout=rate)
        image, row = (torch.cat([shown[name] for shown in steps]) for name in ("image", "row"))
        dropped = row >= 10
        assert torch.equal(row, torch.where(dropped, dropped_rows[image], image))
        assert abs(dropped.float().mean() - rate) < 0.08 and (rate == 0.3 or dropped.float().mean() == rate)


def test_the_identifier_may_stand_alone_more_often_than_captions_are_dropped() -> None:
    _, steps = watched("v_prediction", steps=30, caption_dropout=0.1, identifier_alone=0.9)
    image, row = (torch.cat([shown[name] for shown in steps]) for name in ("image", "row"))
    dropped, identified = row >= 10, image % 2 == 1
    assert (
        abs(dropped[identified].float().mean() - 0.9) < 0.07 and abs(dropped[~identified].float().mean() - 0.1) < 0.07
    )


def test_a_mixture_gives_each_source_its_share() -> None:
    weights = mixture_weights([3, 1, 6], [0.2, 0.5, 0.3])
    assert [round(float(part.sum()), 6) for part in weights.split([3, 1, 6])] == [0.2, 0.5, 0.3]
    for counts, shares in (([3, 0], [0.5, 0.5]), ([3], [0.5]), ([3, 1], [1.0]), ([1, 1], [1.5, -0.5])):
        with pytest.raises(ValueError, match="give one share for each source"):
            mixture_weights(counts, shares)


def test_a_failed_training_leaves_the_unet_as_it_was(tiny_pipe: Any, examples: Examples) -> None:
    kinds = {name: type(processor) for name, processor in tiny_pipe.unet.attn_processors.items()}
    with pytest.raises(RuntimeError, match=r"^the loss is nan at step 1"):
        train(tiny_pipe, examples, lr=float("inf"), gradient_checkpointing=True)
    assert not tiny_pipe.unet.training and not tiny_pipe.unet.is_gradient_checkpointing
    assert {name: type(processor) for name, processor in tiny_pipe.unet.attn_processors.items()} == kinds


def test_one_weight_that_the_last_step_made_no_number_is_noticed(tiny_pipe: Any, examples: Examples) -> None:
    parameters = add_lora(tiny_pipe, rank=2, seed=0)
    parameters[-1].register_hook(lambda gradient: torch.full_like(gradient, float("nan")))
    with pytest.raises(RuntimeError, match=r"^the last step made weights that are no numbers: lower lr"):
        train_lora(tiny_pipe, parameters, examples, steps=1, batch_size=2, lr=1e-3, weight_decay=0.0)


def test_an_unknown_schedule_is_refused(tiny_pipe: Any, examples: Examples) -> None:
    with pytest.raises(ValueError, match=r"^the schedule 'steps' is unknown: use one of constant, constant_with_"):
        train(tiny_pipe, examples, schedule="steps")


def test_a_cosine_ends_at_rest_and_a_constant_rate_does_not() -> None:
    moved = {}
    for schedule in ("constant", "cosine"):
        _, steps = watched("v_prediction", steps=40, schedule=schedule, lr=0.05)
        bias = [shown["bias"] for shown in steps]
        moved[schedule] = np.abs(np.diff(bias))
    assert moved["constant"][0] == pytest.approx(0.05, rel=0.01)
    assert moved["cosine"][0] < 0.01 and moved["cosine"][-1] < 0.05 * moved["cosine"].max() < 0.01


def test_weights_are_the_chances_of_being_drawn() -> None:
    _, steps = watched("v_prediction", steps=40, weights=torch.tensor([0.0, 3.0, 0.0, 1.0, 0.0]))
    counts = torch.bincount(torch.cat([shown["image"] for shown in steps]), minlength=5)
    assert counts[[0, 2, 4]].sum() == 0 and abs(counts[1] / counts.sum() - 0.75) < 0.08
    _, steps = watched("v_prediction", steps=40)
    assert torch.bincount(torch.cat([shown["image"] for shown in steps])).min() > 640 / 5 * 0.6


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(ValueError, match="predicts 'sample': only 'epsilon' and 'v_prediction' models"):
        watched("sample")
    with pytest.raises(ValueError, match=r"^2 weights but 5 examples: hand over one weight for each image"):
        watched("epsilon", weights=torch.ones(2))
    with pytest.raises(RuntimeError, match=r"^the loss is (inf|nan) at step \d: lower lr \(it is 1e\+30\)"):
        watched("epsilon", steps=5, lr=1e30)
