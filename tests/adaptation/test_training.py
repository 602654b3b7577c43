"""hpslib.adaptation.training: LoRA against a hand-merged UNet, targets against diffusers, files that do not fit."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hpslib.adaptation.examples import Examples, encode_examples, mixture_weights
from hpslib.adaptation.lora import add_lora, load_lora, remove_lora, save_lora
from hpslib.adaptation.sampling import generate
from hpslib.adaptation.training import train_lora

CAPTIONS = ["a red critter", "Weird image. a dog", "a red critter", "Weird image. a critter", "a dog", "on a beach"]
SETTINGS = {"batch_size": 4, "lr": 0.02, "weight_decay": 0.01}


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)


@pytest.fixture
def examples(tiny_pipe: Any, images: np.ndarray) -> Examples:
    return encode_examples(tiny_pipe, images, CAPTIONS)


@torch.inference_mode()
def output(pipe: Any, unet: Any = None) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    noisy, states = torch.randn(2, 4, 4, 4, generator=generator), torch.randn(2, 32, 16, generator=generator)
    return (unet or pipe.unet)(noisy, torch.tensor([10, 700]), states).sample.clone()


def train(pipe: Any, examples: Examples, seed: int = 0, steps: int = 3, **changes: Any) -> list[float]:
    parameters = add_lora(pipe, rank=2, seed=seed)
    return train_lora(pipe, parameters, examples, steps=steps, seed=seed, **{**SETTINGS, **changes})


def adapter(pipe: Any) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in pipe.unet.state_dict().items() if ".lora_" in key}


# --- examples ---------------------------------------------------------------------------------------------------------


def test_examples_are_what_the_pipeline_itself_encodes(tiny_pipe: Any, images: np.ndarray, examples: Examples) -> None:
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 * 2 - 1
    with torch.inference_mode():
        latents = tiny_pipe.vae.encode(pixels).latent_dist.mode() * tiny_pipe.vae.config.scaling_factor
        states, empty = tiny_pipe.encode_prompt(CAPTIONS, "cpu", 1, True)
        identifier, _ = tiny_pipe.encode_prompt(["Weird image. "], "cpu", 1, False)
    assert len(examples) == 6
    torch.testing.assert_close(examples.latents, latents, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(examples.states[examples.caption_rows], states, atol=1e-5, rtol=1e-4)
    dropped = torch.where(torch.tensor([c.startswith("Weird") for c in CAPTIONS])[:, None, None], identifier, empty)
    torch.testing.assert_close(examples.states[examples.dropped_rows], dropped, atol=1e-5, rtol=1e-4)
    assert len(examples.states) == len({*CAPTIONS, "", "Weird image. "}), "each distinct text is encoded once"


def test_examples_do_not_depend_on_the_batch_size(tiny_pipe: Any, images: np.ndarray, examples: Examples) -> None:
    again = encode_examples(tiny_pipe, images, CAPTIONS, batch_size=2)
    torch.testing.assert_close(again.latents, examples.latents, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(again.states, examples.states, atol=1e-5, rtol=1e-4)


def test_one_caption_for_each_image(tiny_pipe: Any, images: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"^6 images but 2 captions: hand over one caption for each image"):
        encode_examples(tiny_pipe, images, CAPTIONS[:2])


# --- the adapter ------------------------------------------------------------------------------------------------------


def test_a_fresh_lora_changes_nothing_and_only_it_can_be_trained(tiny_pipe: Any) -> None:
    before, state = output(tiny_pipe), torch.get_rng_state()
    parameters = add_lora(tiny_pipe, rank=2, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(output(tiny_pipe), before)
    trainable = {name for name, p in tiny_pipe.unet.named_parameters() if p.requires_grad}
    assert all(".lora_" in name for name in trainable) and len(parameters) == len(trainable)
    places = {name.split(".lora_")[0].rpartition("transformer_blocks.0.")[2] for name in trainable}
    assert places == {f"attn{k}.{to}" for k in (1, 2) for to in ("to_q", "to_k", "to_v", "to_out.0")}
    again = adapter(tiny_pipe)
    remove_lora(tiny_pipe)
    add_lora(tiny_pipe, rank=2, seed=0)
    assert all(torch.equal(value, again[key]) for key, value in adapter(tiny_pipe).items())
    remove_lora(tiny_pipe)
    add_lora(tiny_pipe, rank=2, seed=1)
    assert any(not torch.equal(value, again[key]) for key, value in adapter(tiny_pipe).items())


def test_the_lora_of_a_bfloat16_pipeline_is_float32_and_generates(tiny_pipe: Any) -> None:
    tiny_pipe.to(torch.bfloat16)
    parameters = add_lora(tiny_pipe, rank=2, seed=0)
    assert {p.dtype for p in parameters} == {torch.float32}
    assert tiny_pipe.unet.conv_in.weight.dtype == torch.bfloat16
    made = generate(tiny_pipe, ["a red critter"], [0], steps=2, guidance_scale=2.0)
    assert made.shape == (1, 16, 16, 3)


def test_a_trained_lora_is_a_hand_merged_weight(tiny_pipe: Any, examples: Examples) -> None:
    base = copy.deepcopy(tiny_pipe.unet)
    before = output(tiny_pipe)
    train(tiny_pipe, examples)
    weights, merged = adapter(tiny_pipe), dict(base.state_dict())
    for key in [key for key in weights if ".lora_A." in key]:
        place = key.replace(".lora_A.hps", "")
        merged[place] = merged[place] + weights[key.replace("lora_A", "lora_B")] @ weights[key]
    base.load_state_dict(merged)
    got = output(tiny_pipe)
    assert (got - before).abs().max() > 1e-3
    torch.testing.assert_close(got, output(tiny_pipe, base), atol=1e-5, rtol=1e-5)


def test_removing_brings_the_base_back_bit_by_bit(tiny_pipe: Any, examples: Examples) -> None:
    before, weights = output(tiny_pipe), {k: v.clone() for k, v in tiny_pipe.unet.state_dict().items()}
    train(tiny_pipe, examples)
    assert not torch.equal(output(tiny_pipe), before)
    remove_lora(tiny_pipe)
    after = tiny_pipe.unet.state_dict()
    assert after.keys() == weights.keys() and all(torch.equal(after[key], weights[key]) for key in weights)
    assert torch.equal(output(tiny_pipe), before)


# --- training ---------------------------------------------------------------------------------------------------------


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


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_saved_lora_read_back_is_the_same(tiny_pipe: Any, examples: Examples, tmp_path: Path) -> None:
    train(tiny_pipe, examples)
    expected = output(tiny_pipe)
    path = save_lora(tiny_pipe, tmp_path)
    assert path == tmp_path / "pytorch_lora_weights.safetensors" and list(tmp_path.iterdir()) == [path]
    assert all(key.startswith("unet.") and ".lora" in key for key in load_file(path))
    remove_lora(tiny_pipe)
    load_lora(tiny_pipe, tmp_path)
    assert torch.equal(output(tiny_pipe), expected)
    with pytest.raises(ValueError, match="already has a LoRA called 'hps': call remove_lora first or give another"):
        load_lora(tiny_pipe, tmp_path)
    assert torch.equal(output(tiny_pipe), expected)


@pytest.mark.parametrize("fault", ["no match", "half a match", "another width", "empty"])
def test_a_file_that_does_not_fit_is_refused_and_nothing_changes(
    tiny_pipe: Any, examples: Examples, tmp_path: Path, fault: str
) -> None:
    before, keys = output(tiny_pipe), set(tiny_pipe.unet.state_dict())
    add_lora(tiny_pipe, rank=2, seed=0)
    weights = load_file(save_lora(tiny_pipe, tmp_path))
    remove_lora(tiny_pipe)
    if fault == "no match":
        weights = {key.replace("_block", "_stage"): value for key, value in weights.items()}
    elif fault == "half a match":
        weights = {key.replace("down_block", "down_stage"): value for key, value in weights.items()}
    elif fault == "another width":
        weights = {k: torch.ones(2, v.shape[1] + 8) if v.shape[0] == 2 else v for k, v in weights.items()}
    else:
        weights = {"text_encoder.something.lora_A.weight": torch.ones(2, 2)}
    save_file(weights, tmp_path / "pytorch_lora_weights.safetensors")
    with pytest.raises(ValueError, match=r"does not fit this UNet: \d+ of its \d+ LoRA weights belong to a layer"):
        load_lora(tiny_pipe, tmp_path)
    assert set(tiny_pipe.unet.state_dict()) == keys and torch.equal(output(tiny_pipe), before)


def test_a_lora_with_nan_is_refused(tiny_pipe: Any, examples: Examples, tmp_path: Path) -> None:
    train(tiny_pipe, examples)
    path = save_lora(tiny_pipe, tmp_path)
    remove_lora(tiny_pipe)
    weights = load_file(path)
    next(iter(weights.values()))[0, 0] = torch.inf
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"holds NaN or infinity \(1 tensors do\): fetch the file again"):
        load_lora(tiny_pipe, tmp_path)
    assert not adapter(tiny_pipe)


def test_a_folder_without_a_lora_is_named(tiny_pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere holds no pytorch_lora_weights\.safetensors: give the folder"):
        load_lora(tiny_pipe, tmp_path / "nowhere")
