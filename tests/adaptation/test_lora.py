"""hpslib.adaptation.lora: against a hand-merged UNet, read back, files that do not fit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_lora import adapter, output, train

from hpslib.adaptation.examples import Examples
from hpslib.adaptation.lora import add_lora, fused_lora, load_lora, remove_lora, save_lora
from hpslib.adaptation.sampling import generate


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
    remove_lora(tiny_pipe)
    assert {len(p) for p in add_lora(tiny_pipe, rank=1, seed=0)[::2]} == {1}


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


def test_generation_fuses_a_lora_and_leaves_every_weight_the_very_one(tiny_pipe: Any, examples: Examples) -> None:
    train(tiny_pipe, examples)
    weights = {key: (value, value.clone()) for key, value in tiny_pipe.unet.state_dict().items()}
    layer = tiny_pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
    calls: list[int] = []
    layer.lora_A["hps"].register_forward_hook(lambda *_: calls.append(1))
    beside = output(tiny_pipe)
    assert calls == [1]
    with fused_lora(tiny_pipe):
        torch.testing.assert_close(output(tiny_pipe), beside, atol=1e-5, rtol=1e-5)
    with pytest.raises(RuntimeError, match="stopped"), fused_lora(tiny_pipe):
        raise RuntimeError("stopped")
    generate(tiny_pipe, ["a red critter"], [0], steps=2, guidance_scale=2.0)
    assert calls == [1], "fused, it costs nothing of its own"
    assert torch.equal(output(tiny_pipe), beside) and calls == [1, 1]
    after = tiny_pipe.unet.state_dict()
    for key, (value, copied) in weights.items():
        assert after[key].data_ptr() == value.data_ptr() and torch.equal(after[key], copied)
    tiny_pipe.set_adapters(["hps"], [0.5])
    half = output(tiny_pipe)
    with fused_lora(tiny_pipe):
        torch.testing.assert_close(output(tiny_pipe), half, atol=1e-5, rtol=1e-5)


def test_half_precision_and_switched_off_loras_are_not_fused(tiny_pipe: Any, examples: Examples) -> None:
    before = output(tiny_pipe)
    train(tiny_pipe, examples)
    layer = tiny_pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
    tiny_pipe.disable_lora()
    with fused_lora(tiny_pipe):
        assert not layer.merged and torch.equal(output(tiny_pipe), before)
    tiny_pipe.enable_lora()
    tiny_pipe.to(torch.bfloat16)
    with fused_lora(tiny_pipe):
        assert not layer.merged
    whole = copy.deepcopy(tiny_pipe).to(torch.float32)
    layer = whole.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
    with fused_lora(whole):
        assert layer.merged
    assert not layer.merged


def test_a_layer_without_the_active_lora_is_left_alone(tiny_pipe: Any, recwarn: pytest.WarningsRecorder) -> None:
    from peft import LoraConfig

    for name, part in (("one", "to_q"), ("two", "to_k")):
        tiny_pipe.unet.add_adapter(LoraConfig(r=2, target_modules=[part], init_lora_weights=False), name)
    tiny_pipe.set_adapters(["two"])
    beside = output(tiny_pipe)
    with fused_lora(tiny_pipe):
        torch.testing.assert_close(output(tiny_pipe), beside, atol=1e-5, rtol=1e-5)
    assert torch.equal(output(tiny_pipe), beside)
    assert not [warning for warning in recwarn if "merge" in str(warning.message)]


def test_removing_brings_the_base_back_bit_by_bit(tiny_pipe: Any, examples: Examples) -> None:
    before, weights = output(tiny_pipe), {k: v.clone() for k, v in tiny_pipe.unet.state_dict().items()}
    train(tiny_pipe, examples)
    assert not torch.equal(output(tiny_pipe), before)
    remove_lora(tiny_pipe)
    after = tiny_pipe.unet.state_dict()
    assert after.keys() == weights.keys() and all(torch.equal(after[key], weights[key]) for key in weights)
    assert torch.equal(output(tiny_pipe), before)


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
    with pytest.raises(
        ValueError, match=r"does not fit this UNet \(\d+ of its \d+ LoRA weights belong to a layer\): name one"
    ):
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


def test_a_lora_on_convolutions_is_read_back(tiny_pipe: Any, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model_state_dict

    names = ["to_q", "proj_in", "conv1"]
    tiny_pipe.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=names, init_lora_weights=False), "hps")
    after = output(tiny_pipe)
    weights = get_peft_model_state_dict(tiny_pipe.unet, adapter_name="hps")
    assert {value.shape[2:] for value in weights.values()} == {(), (1, 1), (3, 3)}
    named = {f"unet.{key}": value.clone(memory_format=torch.contiguous_format) for key, value in weights.items()}
    save_file(named, tmp_path / "pytorch_lora_weights.safetensors")
    remove_lora(tiny_pipe)
    assert not torch.equal(output(tiny_pipe), after)
    load_lora(tiny_pipe, tmp_path)
    torch.testing.assert_close(output(tiny_pipe), after)


def test_a_folder_without_a_lora_is_named(tiny_pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere holds no pytorch_lora_weights\.safetensors: give the folder"):
        load_lora(tiny_pipe, tmp_path / "nowhere")


def test_a_torchao_too_old_for_peft_is_no_hindrance(tiny_pipe, tmp_path: Path, monkeypatch) -> None:
    from peft.tuners.lora import torchao

    def too_old() -> bool:
        raise ImportError("Found an incompatible version of torchao.")

    monkeypatch.setattr(torchao, "is_torchao_available", too_old)
    add_lora(tiny_pipe, rank=2, seed=0)
    save_lora(tiny_pipe, tmp_path)
    remove_lora(tiny_pipe)
    load_lora(tiny_pipe, tmp_path)
    assert torchao.is_torchao_available is too_old, "only while it is ours to decide"
    with pytest.raises(ValueError, match="already has a LoRA"):
        load_lora(tiny_pipe, tmp_path)
    assert torchao.is_torchao_available is too_old
