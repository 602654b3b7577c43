"""hpslib.adaptation.lora_files: the same UNet output after every conversion, the names other programs look for, files
refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hpslib.adaptation.lora import add_lora, load_lora, remove_lora, save_lora
from hpslib.adaptation.lora_files import export_kohya, import_legacy
from hpslib.adaptation.lora_layouts import LORA_FILE

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"


@torch.inference_mode()
def output(unet: Any) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    noisy, states = torch.randn(2, 4, 4, 4, generator=generator), torch.randn(2, 32, 16, generator=generator)
    return unet(noisy, torch.tensor([10, 700]), states).sample.clone()


def attention_layers(unet: Any) -> dict[str, nn.Linear]:
    """The projections of every attention, under the names that the UNet gives them."""
    wanted = ("to_q", "to_k", "to_v", "to_out.0")
    return {name: layer for name, layer in unet.named_modules() if ".attn" in name and name.endswith(wanted)}


def legacy_of(unet: Any, rank: int = 2, prefix: str = "") -> dict[str, Tensor]:
    """A LoRA as the paper's training script saved it: every projection of every attention, up matrices not zero."""
    generator = torch.Generator().manual_seed(7)
    weights = {}
    for name, layer in attention_layers(unet).items():
        attention, _, projection = name.removesuffix(".0").rpartition(".")
        key = f"{prefix}{attention}.processor.{projection}_lora"
        weights[f"{key}.down.weight"] = 0.3 * torch.randn(rank, layer.in_features, generator=generator)
        weights[f"{key}.up.weight"] = 0.3 * torch.randn(layer.out_features, rank, generator=generator)
    return weights


def merged(unet: Any, legacy: dict[str, Tensor], scale: float = 1.0) -> Any:
    """A copy of the UNet with W + scale * up @ down in every layer, by hand."""
    unet = copy.deepcopy(unet)
    for name, layer in attention_layers(unet).items():
        attention, _, projection = name.removesuffix(".0").rpartition(".")
        key = f"{attention}.processor.{projection}_lora"
        layer.weight.data += scale * legacy[f"{key}.up.weight"] @ legacy[f"{key}.down.weight"]
    return unet


@pytest.fixture
def trained(tiny_pipe: Any, tmp_path: Path) -> tuple[Any, Tensor, Path]:
    """A pipeline whose LoRA has been taken off again, what its UNet put out with it, and the folder it is saved in."""
    parameters = add_lora(tiny_pipe, rank=4, seed=0)
    before = output(tiny_pipe.unet)
    generator = torch.Generator().manual_seed(3)
    for parameter in parameters:  # up matrices start at zero, which would hide every mistake
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    wanted = output(tiny_pipe.unet)
    assert (wanted - before).abs().max() > 0.01
    save_lora(tiny_pipe, tmp_path / "lora")
    remove_lora(tiny_pipe)
    return tiny_pipe, wanted, tmp_path / "lora"


# --- to kohya ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [None, 4.0, 1.0, 32.0, 2.5])
def test_the_kohya_file_makes_the_same_images_whatever_its_alpha(trained: Any, tmp_path: Path, alpha: Any) -> None:
    pipe, wanted, folder = trained
    path = export_kohya(folder, tmp_path / "deep" / "kohya.safetensors", alpha=alpha)
    assert path == tmp_path / "deep" / "kohya.safetensors"
    pipe.load_lora_weights(str(path.parent), weight_name=path.name, local_files_only=True)
    torch.testing.assert_close(output(pipe.unet), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("alpha", [4.0, 1.0])
def test_alpha_over_rank_times_up_times_down_is_the_product_of_the_source(
    trained: Any, tmp_path: Path, alpha: float
) -> None:
    _, _, folder = trained
    source = load_file(folder / LORA_FILE)
    kohya = load_file(export_kohya(folder / LORA_FILE, tmp_path / "k.safetensors", alpha=alpha))
    assert len(kohya) == len(source) // 2 * 3
    name = f"lora_unet_{BLOCK}.to_q".replace(".", "_")
    down, up = kohya[f"{name}.lora_down.weight"], kohya[f"{name}.lora_up.weight"]
    assert torch.equal(down, source[f"unet.{BLOCK}.to_q.lora.down.weight"])
    assert kohya[f"{name}.alpha"].item() == alpha and kohya[f"{name}.alpha"].dtype == torch.float32
    before = source[f"unet.{BLOCK}.to_q.lora.up.weight"]
    assert torch.equal(up, before) if alpha == 4 else not torch.equal(up, before)
    product = before @ source[f"unet.{BLOCK}.to_q.lora.down.weight"]
    torch.testing.assert_close(alpha / len(down) * up @ down, product, atol=1e-6, rtol=0)


def test_metadata_are_those_that_kohya_writes(trained: Any, tmp_path: Path) -> None:
    export_kohya(trained[2], tmp_path / "k.safetensors", alpha=2)
    with safe_open(tmp_path / "k.safetensors", "pt") as file:
        told = file.metadata()
    assert told == {
        "format": "pt", "ss_network_module": "networks.lora", "ss_network_dim": "4", "ss_network_alpha": "2.0",
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["k.safetensors"], "no partial file is left"


@pytest.mark.parametrize("layout", ["peft", "without prefix", "old processors"])
def test_every_layout_of_diffusers_gives_the_same_kohya_file(trained: Any, tmp_path: Path, layout: str) -> None:
    _, _, folder = trained
    source = load_file(folder / LORA_FILE)
    renamed = {}
    for key, value in source.items():
        if layout == "peft":
            key = key.replace("lora.down", "lora_A").replace("lora.up", "lora_B")
        elif layout == "without prefix":
            key = key.removeprefix("unet.")
        else:
            key = key.replace(".to_", ".processor.to_").replace("to_out.0", "to_out").replace(".lora.", "_lora.")
        renamed[key] = value
    assert not set(renamed) & set(source)
    save_file(renamed, tmp_path / "other.safetensors")
    wanted = load_file(export_kohya(folder, tmp_path / "a.safetensors"))
    found = load_file(export_kohya(tmp_path / "other.safetensors", tmp_path / "b.safetensors"))
    assert found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_a_scale_that_the_source_tells_is_kept(trained: Any, tmp_path: Path) -> None:
    pipe, plain, folder = trained
    weights = load_file(folder / LORA_FILE)
    targets = sorted({key.removeprefix("unet.").split(".lora.")[0] for key in weights})
    told = {"r": 4, "lora_alpha": 10, "target_modules": targets, "alpha_pattern": {}, "rank_pattern": {}}
    raw = json.dumps({f"unet.{key}": value for key, value in told.items()})
    save_file(weights, folder / LORA_FILE, metadata={"format": "pt", "lora_adapter_metadata": raw})
    pipe.load_lora_weights(str(folder), weight_name=LORA_FILE, local_files_only=True)
    wanted = output(pipe.unet)
    assert (wanted - plain).abs().max() > 0.01, "diffusers reads the metadata"
    remove_lora(pipe)
    export_kohya(folder, tmp_path / "k.safetensors")
    pipe.load_lora_weights(str(tmp_path), weight_name="k.safetensors", local_files_only=True)
    torch.testing.assert_close(output(pipe.unet), wanted, atol=1e-5, rtol=0)

    raw = json.dumps({"unet.lora_alpha": 10, "unet.use_rslora": True})
    save_file(weights, folder / LORA_FILE, metadata={"lora_adapter_metadata": raw})
    with pytest.raises(ValueError, match=r"was trained with use_rslora, which is not converted here: use it with diff"):
        export_kohya(folder, tmp_path / "k.safetensors")


def test_half_precision_stays_and_may_not_overflow(trained: Any, tmp_path: Path) -> None:
    _, _, folder = trained
    save_file({key: value.half() for key, value in load_file(folder / LORA_FILE).items()}, tmp_path / "h.safetensors")
    kohya = load_file(export_kohya(tmp_path / "h.safetensors", tmp_path / "k.safetensors", alpha=2))
    assert {value.dtype for key, value in kohya.items() if "alpha" not in key} == {torch.float16}
    with pytest.raises(ValueError, match=r"to_.* times 4e\+07 leaves the range of torch\.float16: give a larger alpha"):
        export_kohya(tmp_path / "h.safetensors", tmp_path / "k.safetensors", alpha=1e-7)
    assert load_file(tmp_path / "k.safetensors").keys() == kohya.keys(), "the old file is still there"


@pytest.mark.parametrize("alpha", [0, -1.0, float("nan"), float("inf")])
def test_alpha_must_be_a_positive_number(tmp_path: Path, alpha: float) -> None:
    with pytest.raises(ValueError, match=rf"^alpha is {alpha}: give a number above 0"):
        export_kohya(tmp_path, tmp_path / "k.safetensors", alpha=alpha)


def test_targets_and_sources_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"k\.pt does not end in \.safetensors: A1111 and ComfyUI find the format"):
        export_kohya(tmp_path, tmp_path / "k.pt")
    with pytest.raises(FileNotFoundError, match=r"pytorch_lora_weights\.safetensors does not exist"):
        export_kohya(tmp_path, tmp_path / "k.safetensors")


def test_what_is_no_unet_lora_is_not_exported(tmp_path: Path) -> None:
    down, up = torch.ones(2, 8), torch.ones(8, 2)
    good = {f"unet.{BLOCK}.to_q.lora.down.weight": down, f"unet.{BLOCK}.to_q.lora.up.weight": up}

    def refused(more: dict[str, Tensor], without: str = "nothing") -> str:
        weights = {key: value.clone() for key, value in {**good, **more}.items() if without not in key}
        save_file(weights, tmp_path / "l.safetensors")
        with pytest.raises(ValueError) as caught:
            export_kohya(tmp_path / "l.safetensors", tmp_path / "k.safetensors")
        assert not (tmp_path / "k.safetensors").exists()
        return str(caught.value).replace(str(tmp_path / "l.safetensors"), "FILE")

    encoder = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.down.weight"
    assert refused({encoder: down}) == (
        f"'{encoder}' in FILE is no LoRA weight of a UNet, or the second for its layer (1 of 3 keys are): only the "
        "LoRA of a UNet is converted here."
    )
    assert "to_q.lora_magnitude_vector' in FILE is no LoRA weight" in refused(
        {f"unet.{BLOCK}.to_q.lora_magnitude_vector": up}
    )
    assert "to_q.lora_B.bias' in FILE is no LoRA weight" in refused({f"unet.{BLOCK}.to_q.lora_B.bias": up[0]})
    assert "to_q.lora_A.weight' in FILE is no" in refused({f"unet.{BLOCK}.to_q.lora_A.weight": down}), (
        "twice the same layer"
    )
    assert refused({}, without="lora.up") == (
        f"{BLOCK}.to_q in FILE has no up matrix (1 of 1 layers lack one): fetch the file again."
    )
    assert f"{BLOCK}.to_q in FILE has no down matrix (1 of 1 layers" in refused({}, without="lora.down")
    assert refused({f"unet.{BLOCK}.to_q.lora.up.weight": torch.ones(8, 3)}) == (
        f"{BLOCK}.to_q in FILE has a down and an up matrix of [2, 8] and [8, 3], which cannot be multiplied: fetch the "
        "file again."
    )
    other = {
        f"unet.{BLOCK}.to_k.lora.down.weight": torch.ones(3, 8),
        f"unet.{BLOCK}.to_k.lora.up.weight": up.new_ones(8, 3),
    }
    assert refused(other) == (
        "FILE mixes the ranks 2, 3, which many releases of diffusers scale wrongly (its pull request 14409): use a "
        "LoRA of one rank."
    )


# --- the paper's own file ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "unet."])
def test_a_legacy_file_is_a_hand_merged_unet(tiny_pipe: Any, tmp_path: Path, prefix: str) -> None:
    base = output(tiny_pipe.unet)
    wanted = output(merged(tiny_pipe.unet, legacy_of(tiny_pipe.unet)))
    assert (wanted - base).abs().max() > 0.01
    torch.save(legacy_of(tiny_pipe.unet, prefix=prefix), tmp_path / "lora.bin")
    path = import_legacy(tmp_path / "lora.bin", tmp_path / "folder")
    assert [found.name for found in path.parent.iterdir()] == [LORA_FILE]
    load_lora(tiny_pipe, path.parent)
    torch.testing.assert_close(output(tiny_pipe.unet), wanted, atol=1e-5, rtol=0)


def test_the_imported_file_has_the_names_that_save_lora_writes(tiny_pipe: Any, tmp_path: Path) -> None:
    torch.save(legacy_of(tiny_pipe.unet, rank=3), tmp_path / "lora.bin")
    found = load_file(import_legacy(tmp_path / "lora.bin", tmp_path / "a"))
    add_lora(tiny_pipe, rank=3, seed=0)
    wanted = load_file(save_lora(tiny_pipe, tmp_path / "b"))
    assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in wanted.items()}


def test_a_legacy_file_becomes_a_kohya_file(tiny_pipe: Any, tmp_path: Path) -> None:
    wanted = output(merged(tiny_pipe.unet, legacy_of(tiny_pipe.unet)))
    torch.save(legacy_of(tiny_pipe.unet), tmp_path / "lora.bin")
    export_kohya(import_legacy(tmp_path / "lora.bin", tmp_path).parent, tmp_path / "k.safetensors", alpha=1)
    tiny_pipe.load_lora_weights(str(tmp_path), weight_name="k.safetensors", local_files_only=True)
    torch.testing.assert_close(output(tiny_pipe.unet), wanted, atol=1e-5, rtol=0)


def test_legacy_files_that_are_refused(tiny_pipe: Any, tmp_path: Path) -> None:
    legacy, path = legacy_of(tiny_pipe.unet), tmp_path / "lora.bin"

    def refused(weights: Any) -> str:
        torch.save(weights, path)
        with pytest.raises(ValueError) as caught:
            import_legacy(path, tmp_path / "folder")
        assert not (tmp_path / "folder").exists()
        return str(caught.value).replace(str(path), "FILE")

    assert refused({"conv.weight": torch.ones(2, 2)}) == (
        "FILE has no key like 'down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight' "
        "(its first is 'conv.weight'): only the layout of the paper's release is imported here."
    )
    standard = {f"unet.{BLOCK}.to_q.lora.down.weight": torch.ones(2, 8)}
    assert "has no key like" in refused(standard), "what diffusers reads by itself is not rewritten"
    count = len(legacy) + 2
    assert refused({**legacy, "step": torch.ones(1), "proj_in.lora.up.weight": torch.ones(1)}) == (
        f"'step' in FILE is no LoRA weight of an attention layer (2 of {count} keys are not): remove what does not "
        "belong to the LoRA."
    )
    torn = {key: value for key, value in legacy.items() if key != f"{BLOCK}.processor.to_out_lora.up.weight"}
    assert f"{BLOCK}.to_out.0 in FILE has no up matrix (1 of {len(legacy) // 2} layers lack one)" in refused(torn)
    twice = {**legacy, f"unet.{BLOCK}.processor.to_q_lora.up.weight": torch.zeros(16, 2)}
    assert (
        f"'unet.{BLOCK}.processor.to_q_lora.up.weight' in FILE is no LoRA weight of a UNet, or the second"
        in refused(twice)
    )
    mixed = {**legacy, **{k: v for k, v in legacy_of(tiny_pipe.unet, rank=5).items() if "attn2" in k}}
    assert refused(mixed).startswith("FILE mixes the ranks 2, 5, which many releases of diffusers scale wrongly")
    assert "cannot be read as weights" in refused({**legacy, "code": Path("x")}), "nothing in a pickle is run"
    with pytest.raises(FileNotFoundError, match=r"absent\.bin does not exist"):
        import_legacy(tmp_path / "absent.bin", tmp_path / "folder")


# --- the key list of the true model -----------------------------------------------------------------------------------


def test_all_keys_of_stable_diffusion_1_4_map_without_remainder(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    with torch.device("meta"):  # the configuration of CompVis/stable-diffusion-v1-4, without its weights
        unet = UNet2DConditionModel(
            sample_size=64, block_out_channels=(320, 640, 1280, 1280), layers_per_block=2, cross_attention_dim=768,
            attention_head_dim=8, down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        )  # fmt: skip
    layers = attention_layers(unet)
    legacy = legacy_of(unet, rank=1)
    assert len(layers) == 128 and len(legacy) == 256
    torch.save(legacy, tmp_path / "lora.bin")
    standard = load_file(import_legacy(tmp_path / "lora.bin", tmp_path))
    assert standard.keys() == {f"unet.{name}.lora.{half}.weight" for name in layers for half in ("down", "up")}
    for name, layer in layers.items():
        attention, _, projection = name.removesuffix(".0").rpartition(".")
        for half in ("down", "up"):
            old = legacy[f"{attention}.processor.{projection}_lora.{half}.weight"]
            assert torch.equal(standard[f"unet.{name}.lora.{half}.weight"], old)
        assert standard[f"unet.{name}.lora.up.weight"].shape == (layer.out_features, 1)

    path = export_kohya(tmp_path, tmp_path / "kohya.safetensors")
    flat = {f"lora_unet_{name.replace('.', '_')}": name for name in layers}  # the rule by which ComfyUI looks them up
    kinds = ("lora_down.weight", "lora_up.weight", "alpha")
    assert load_file(path).keys() == {f"{name}.{kind}" for name in flat for kind in kinds}

    back, alphas = StableDiffusionPipeline.lora_state_dict(str(tmp_path), weight_name=path.name, local_files_only=True)
    assert len(back) == 256 and set(alphas.values()) == {1.0} and len(alphas) == 128
    torch.save(back, tmp_path / "again.bin")  # diffusers names what it reads from kohya as the paper did
    again = load_file(import_legacy(tmp_path / "again.bin", tmp_path / "again"))
    assert again.keys() == standard.keys() and all(torch.equal(again[key], standard[key]) for key in standard)
