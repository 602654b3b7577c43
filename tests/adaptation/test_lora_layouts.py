"""hpslib.adaptation.lora_layouts and the files of others that load_lora takes or refuses, each by its name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_lora import adapter, output
from torch import Tensor

from hpslib.adaptation.lora import add_lora, load_lora, remove_lora, save_lora
from hpslib.adaptation.lora_files import export_kohya
from hpslib.adaptation.lora_layouts import LORA_FILE, lora_file, lora_settings


@pytest.fixture
def ours(tiny_pipe: Any, tmp_path: Path) -> tuple[Any, Tensor, Path]:
    """A pipeline whose LoRA has been taken off again, what its UNet put out with it, and the file it is saved in."""
    generator = torch.Generator().manual_seed(3)
    for parameter in add_lora(tiny_pipe, rank=2, seed=0):
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    wanted = output(tiny_pipe)
    path = save_lora(tiny_pipe, tmp_path / "ours")
    remove_lora(tiny_pipe)
    return tiny_pipe, wanted, path


def refused(pipe: Any, source: Path, text: str) -> str:
    before, keys = output(pipe), set(pipe.unet.state_dict())
    with pytest.raises(ValueError, match=text) as error:
        load_lora(pipe, source)
    assert set(pipe.unet.state_dict()) == keys and torch.equal(output(pipe), before), "the pipeline is as it was"
    sentence = str(error.value)
    assert str(source) in sentence and sentence.endswith(".") and "\n" not in sentence and len(sentence) < 600
    return sentence


def put(path: Path, weights: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.clone().contiguous() for key, value in weights.items()}, path, metadata=metadata)
    return path


def test_a_file_of_its_own_name_is_loaded_by_its_path(ours: Any, tmp_path: Path) -> None:
    pipe, wanted, path = ours
    for alpha in (None, 1.0, 8.0):
        kohya = export_kohya(path, tmp_path / "my lora.safetensors", alpha=alpha)
        for source in (kohya, path, path.parent):
            load_lora(pipe, source)
            torch.testing.assert_close(output(pipe), wanted, atol=1e-5, rtol=1e-5)
            remove_lora(pipe)
    assert lora_file(path.parent) == lora_file(path) == path


def test_a_lora_of_the_text_encoder_is_loaded_whole_or_not_at_all(ours: Any, tmp_path: Path) -> None:
    pipe, _, path = ours
    export_kohya(path, tmp_path / "k.safetensors")
    weights = load_file(tmp_path / "k.safetensors")
    for layer in ("self_attn_q_proj", "self_attn_out_proj"):
        stem = f"lora_te_text_model_encoder_layers_0_{layer}"
        weights |= {f"{stem}.lora_down.weight": torch.randn(2, 16), f"{stem}.lora_up.weight": torch.randn(16, 2)}
        weights[f"{stem}.alpha"] = torch.tensor(2.0)
    both = put(tmp_path / "both.safetensors", weights)
    tokens = torch.arange(32)[None]
    before = pipe.text_encoder(tokens)[0]
    load_lora(pipe, both)
    assert not torch.allclose(pipe.text_encoder(tokens)[0], before)
    remove_lora(pipe)
    assert torch.equal(pipe.text_encoder(tokens)[0], before)
    other = {key.replace("layers_0", "layers_7"): value for key, value in weights.items()}
    refused(pipe, put(tmp_path / "other.safetensors", other), r"does not fit this UNet \(\d+ of its \d+ LoRA weights")
    assert torch.equal(pipe.text_encoder(tokens)[0], before)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (".dora_scale", "is a DoRA, whose scales would be dropped .*: train or fetch a plain LoRA"),
        (".hada_w1_a", "is a LoHa"),
        (".lokr_w1", "is a LoKr"),
        (".lora_mid.weight", "is a LoRA in Tucker decomposition"),
        (".diff_b", "is a LoRA with biases or whole differences"),
        (".diff", "is a LoRA with biases or whole differences"),
        (".oft_blocks", "is an OFT"),
        (".on_input", r"is an \(IA\)3"),
        (".a1.weight", "is a GLoRA"),
        (".lora_upp.weight", "is no LoRA weight in kohya's layout"),
    ],
)
def test_other_adapters_are_called_by_their_names(ours: Any, tmp_path: Path, change: str, text: str) -> None:
    pipe, _, path = ours
    weights = load_file(export_kohya(path, tmp_path / "k.safetensors"))
    stem = next(iter(weights)).partition(".")[0]
    refused(pipe, put(tmp_path / "a.safetensors", weights | {stem + change: torch.ones(4, 2)}), text)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight", "is a LoRA for Stable Diffusion XL"),
        ("lora_unet_input_blocks_4_1_proj_in.lora_up.weight", "is a LoRA for Stable Diffusion XL"),
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight", "is of another model"),
        ("transformer.blocks.0.attn.to_q.lora_A.weight", "is of another model"),
        ("unet.mid_block.attentions.0.attn1.processor.to_q_lora.down.weight", "old attention processors .*hpslib conv"),
        (
            "base_model.model.mid_block.attentions.0.to_q.lora_A.weight",
            "in peft's own layout.*: save it with save_lora",
        ),
        ("unet.mid_block.attentions.0.to_q.lora_magnitude_vector", "is a DoRA"),
        ("unet.mid_block.attentions.0.to_q.alpha", "keeps its scale in keys such as .* under diffusers' names"),
    ],
)
def test_other_layouts_are_called_by_their_names(tiny_pipe: Any, tmp_path: Path, key: str, text: str) -> None:
    refused(tiny_pipe, put(tmp_path / LORA_FILE, {key: torch.ones(2, 2)}), text)


def test_the_width_of_another_model_is_said(ours: Any) -> None:
    pipe, _, path = ours
    weights = {
        key: torch.ones(2, 2048) if "attn2.to_k" in key and value.shape[0] == 2 else value
        for key, value in load_file(path).items()
    }
    put(path, weights)
    refused(
        pipe, path, r"does not fit this UNet .*: name one that .* \(Stable Diffusion XL, by the width of its attent"
    )


@pytest.mark.parametrize("fault", ["misspelt", "foreign"])
def test_names_are_compared_and_not_counted(ours: Any, fault: str) -> None:
    pipe, _, path = ours
    weights = load_file(path)
    up = next(key for key in weights if key.endswith("up.weight") or "lora_B" in key)
    other = up.replace(".weight", "p.weight") if fault == "misspelt" else re.sub("attn[12]", "attn7", up)
    weights[other] = weights.pop(up)
    put(path, weights)
    assert other[:160] in refused(pipe, path, r"does not fit this UNet \(\d+ of its \d+ LoRA weights belong to a layer")
    del weights[other]
    put(path, weights)
    refused(pipe, path, "has no up matrix: fetch the file again")


def test_half_a_pair_in_kohyas_layout_is_named(ours: Any, tmp_path: Path) -> None:
    pipe, _, path = ours
    weights = load_file(export_kohya(path, tmp_path / "k.safetensors"))
    down = next(key for key in weights if key.endswith("lora_down.weight"))
    del weights[down]
    refused(pipe, put(tmp_path / "k.safetensors", weights), r"in .*k\.safetensors has no lora_down\.weight: fetch")


def test_damaged_files_and_other_files_are_one_sentence(ours: Any) -> None:
    pipe, _, path = ours
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:5], b"", b"\x80\x02}q\x00." * 9, b"<html></html>", whole[:-1]):
        path.write_bytes(content)
        refused(pipe, path, rf"{LORA_FILE} cannot be read as weights \(.+\): download it again")
    (path.parent / "old.bin").write_bytes(whole)
    refused(pipe, path.parent / "old.bin", "is no .safetensors file: hpslib convert lora_v1 rewrites the LoRA released")
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors does not exist: give a LoRA file, or the folder"):
        load_lora(pipe, path.parent / "none.safetensors")
    assert not adapter(pipe)


@pytest.mark.parametrize(
    "text",
    [
        "{oops",
        "[1]",
        "7",
        '{"unet.lora_alpha": null}',
        '{"unet.lora_alpha": "8"}',
        '{"unet.lora_alpha": NaN}',
        '{"unet.lora_alpha": 0}',
        '{"unet.lora_alpha": true}',
        '{"unet.r": 2.5}',
        '{"unet.alpha_pattern": [1]}',
        '{"unet.use_dora": true}',
    ],
)
def test_metadata_are_not_trusted(ours: Any, tmp_path: Path, text: str) -> None:
    pipe, _, path = ours
    put(path, load_file(path), {"lora_adapter_metadata": text})
    refused(pipe, path, "the metadata .*: save the LoRA again, or fetch the file again")
    with pytest.raises(ValueError, match=LORA_FILE):
        export_kohya(path, tmp_path / "k.safetensors")


def test_the_scale_in_the_metadata_is_that_of_the_images(ours: Any) -> None:
    pipe, _, path = ours
    weights = {key: value.clone() for key, value in load_file(path).items()}  # their file is written over
    twice = {
        key: 2 * value if key.endswith((".up.weight", "lora_B.weight")) else value for key, value in weights.items()
    }
    load_lora(pipe, put(path, twice))
    wanted = output(pipe)
    remove_lora(pipe)
    layers = sorted({key.removeprefix("unet.").split(".lora")[0] for key in weights})
    settings = {"unet.r": 2, "unet.lora_alpha": 4, "unet.target_modules": layers, "unet.rank_pattern": {}}
    put(path, weights, {"lora_adapter_metadata": json.dumps(settings)})
    assert lora_settings(path) == settings
    load_lora(pipe, path)
    torch.testing.assert_close(output(pipe), wanted, atol=1e-5, rtol=1e-5)


def test_a_second_lora_and_what_is_no_rank(ours: Any, tmp_path: Path) -> None:
    pipe, _, path = ours
    with pytest.raises(ValueError, match=r"^0 LoRAs are active: add or load one"):
        save_lora(pipe, tmp_path)
    with pytest.raises(ValueError, match=r"^rank is 0: give a whole number"):
        add_lora(pipe, rank=0, seed=0)
    load_lora(pipe, path)
    with pytest.raises(ValueError, match="already has a LoRA called 'hps'"):
        add_lora(pipe, rank=2, seed=0)
