"""hpslib.adaptation.model_folder by way of load_pipeline: what a folder lacks or has too much is said, not drawn."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hpslib.adaptation.examples import encode_examples, encode_texts
from hpslib.adaptation.sampling import generate, load_pipeline

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


@pytest.fixture
def folder(pipeline_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pipeline_folder, tmp_path / "sd"))


def rewrite(file: Path, change: Any) -> None:
    settings = json.loads(file.read_text())
    change(settings)
    file.write_text(json.dumps(settings))


def image(pipe: Any) -> np.ndarray:
    return generate(pipe, ["a red critter"], [1], steps=1, guidance_scale=2.0)


@pytest.mark.parametrize(
    ("file", "setting", "value"),
    [
        ("unet/config.json", "norm_eps", "1e-5"),
        ("unet/config.json", "flip_sin_to_cos", "false"),
        ("unet/config.json", "freq_shift", "a"),
        ("vae/config.json", "scaling_factor", "0.18"),
    ],
)
def test_a_text_where_a_number_belongs_is_found_before_the_first_image(
    folder: Path, file: str, setting: str, value: str
) -> None:
    rewrite(folder / file, lambda settings: settings.update({setting: value}))
    with pytest.raises(ValueError, match=rf"{file}: {setting} is '{value}': write a number, or true or false"):
        load_pipeline(folder)


def test_a_schedule_that_fails_at_its_first_step_is_found_at_once(folder: Path) -> None:
    file = folder / "scheduler" / "scheduler_config.json"
    rewrite(file, lambda settings: settings.update(prediction_type="v_predicction"))
    with pytest.raises(ValueError, match=r"scheduler_config\.json cannot be used \(prediction_type given as"):
        load_pipeline(folder)
    file.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="cannot be loaded as Stable Diffusion"):
        load_pipeline(folder)


@pytest.mark.parametrize("count", [2**31, 1e12, float("nan")])
def test_timesteps_that_would_fill_the_memory_are_refused(folder: Path, count: float) -> None:
    file = "scheduler/scheduler_config.json"
    rewrite(folder / file, lambda settings: settings.update(num_train_timesteps=count))
    with pytest.raises(ValueError, match=rf"{file}: num_train_timesteps is .+: write the number of the model"):
        load_pipeline(folder)


@pytest.mark.parametrize("file", [UNET, VAE, TEXT])
@pytest.mark.parametrize("fault", ["missing", "unexpected", "misspelt"])
def test_every_weight_of_every_part_is_there_and_has_a_place(folder: Path, file: str, fault: str) -> None:
    weights = load_file(folder / file)
    key = sorted(weights)[3]
    if fault != "unexpected":
        value = weights.pop(key)
    if fault != "missing":
        weights[f"{key}_old"] = value if fault == "misspelt" else torch.ones(2)
    save_file(weights, folder / file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"{folder}.*: fetch its files again") as error:
        load_pipeline(folder)
    assert "\n" not in str(error.value)


def test_weights_in_several_files_are_read_and_each_is_missed(folder: Path) -> None:
    whole = image(load_pipeline(folder))
    for name, kind in (("unet", UNET), ("vae", VAE)):
        part = getattr(load_pipeline(folder), name)
        (folder / kind).unlink()
        part.save_pretrained(folder / name, max_shard_size="20KB")
        assert len(list((folder / name).glob("*-of-*.safetensors"))) > 2 and not (folder / kind).exists()
    assert (image(load_pipeline(folder)) == whole).all()
    shutil.copy(sorted((folder / "unet").glob("*-of-*.safetensors"))[0], folder / UNET)
    with pytest.raises(ValueError, match=r"holds both .*\.safetensors and .*index\.json: remove the one that is out"):
        load_pipeline(folder)
    (folder / UNET).unlink()
    last = sorted((folder / "unet").glob("*-of-*.safetensors"))[-1]
    weights = load_file(last)
    for damage in ("one weight", "cut off", "all"):
        if damage == "one weight":
            save_file(dict(list(weights.items())[1:]), last, {"format": "pt"})
        elif damage == "cut off":
            last.write_bytes(last.read_bytes()[:100])
        else:
            last.unlink()
        with pytest.raises(ValueError, match=f"{folder}.*: fetch its files again") as error:
            load_pipeline(folder)
        assert damage == "one weight" or last.name in str(error.value)
    for text in ("", "{}", "[]", '{"weight_map": {"a": 1}}', '{"weight_map": {"a": "../../x.safetensors"}}'):
        (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(text)
        with pytest.raises(ValueError, match=r"index\.json does not say where .* \(.*\): fetch it again\.$"):
            load_pipeline(folder)


def test_a_text_encoder_that_was_drawn_at_random_is_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import CLIPTextModel

    load = CLIPTextModel.from_pretrained.__func__

    def forgetful(cls: Any, *where: Any, **how: Any) -> Any:
        model = load(cls, *where, **how)
        torch.nn.init.normal_(model.get_input_embeddings().weight)
        return model

    monkeypatch.setattr(CLIPTextModel, "from_pretrained", classmethod(forgetful))
    with pytest.raises(ValueError, match=r"text_encoder does not hold its model, 1 are not those of the file"):
        load_pipeline(folder)


def test_the_names_of_older_libraries_are_known(folder: Path) -> None:
    wanted = image(load_pipeline(folder))
    old = {
        f"text_model.{key.removeprefix('text_model.')}": value.clone()
        for key, value in load_file(folder / TEXT).items()
    }
    save_file(old | {"text_model.embeddings.position_ids": torch.arange(32)[None]}, folder / TEXT)
    weights = {key: value.clone() for key, value in load_file(folder / VAE).items()}  # their file is written over
    for new, name in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
        weights = {
            key.replace(f".{new}.", f".{name}.") if ".attentions." in key else key: value
            for key, value in weights.items()
        }
    assert any(".proj_attn." in key for key in weights), "as in Stable Diffusion v1.4"
    save_file(weights, folder / VAE, metadata={"format": "pt"})
    save_file(old, folder / TEXT, metadata={"format": "pt"})
    assert np.array_equal(image(load_pipeline(folder)), wanted)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"_class_name": "StableDiffusionXLPipeline"},
            "that of a StableDiffusionXLPipeline: give the folder of a Stab",
        ),
        ({"unet": ["diffusers", "UNet2DModel"]}, "names 'UNet2DModel' as its unet: only UNet2DConditionModel is read"),
        ({"unet": ["diffusers", "Transformer2DModel"]}, "names 'Transformer2DModel' as its unet"),
        ({"vae": ["diffusers", "AutoencoderTiny"]}, "names 'AutoencoderTiny' as its vae"),
        ({"text_encoder": [None, None]}, "names None as its text_encoder"),
        ({"scheduler": 3}, "names 3 as its scheduler"),
    ],
)
def test_another_kind_of_pipeline_is_named(folder: Path, change: dict[str, Any], text: str) -> None:
    rewrite(folder / "model_index.json", lambda index: index.update(change))
    with pytest.raises(ValueError, match=text) as error:
        load_pipeline(folder)
    assert str(folder / "model_index.json") in str(error.value)


@pytest.mark.parametrize("content", ["", "[]", "{}", "<html>"])
def test_a_damaged_index_is_named(folder: Path, content: str) -> None:
    (folder / "model_index.json").write_text(content)
    with pytest.raises(ValueError, match=r"model_index\.json is no index of a StableDiffusionPipeline"):
        load_pipeline(folder)


@pytest.mark.parametrize("file", [UNET, VAE, TEXT])
def test_a_part_that_is_something_else_is_called_by_its_name(folder: Path, file: str) -> None:
    (folder / file).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    with pytest.raises(
        ValueError, match=rf"\({file}: it is a git-lfs pointer, not the file that it points to\): fetch"
    ):
        load_pipeline(folder)
    (folder / file).unlink()
    with pytest.raises(ValueError, match=rf"\({file} is missing\): fetch its files again"):
        load_pipeline(folder)


@pytest.mark.parametrize("limit", [None, 10**30, 0, 77_000])
def test_a_tokenizer_without_its_limit_has_that_of_the_text_encoder(folder: Path, limit: int | None) -> None:
    wanted = image(load_pipeline(folder))
    file = folder / "tokenizer" / "tokenizer_config.json"
    rewrite(file, lambda settings: settings.pop("model_max_length"))
    if limit is not None:
        rewrite(file, lambda settings: settings.update(model_max_length=limit))
    pipe = load_pipeline(folder)
    assert pipe.tokenizer.model_max_length == 32
    assert np.array_equal(image(pipe), wanted)
    assert encode_texts(pipe, ["a critter " * 40])[0].shape == (1, 32)


def test_a_unet_of_two_sides_or_of_none(folder: Path) -> None:
    wanted = image(load_pipeline(folder))
    rewrite(folder / "unet" / "config.json", lambda settings: settings.update(sample_size=[4, 4]))
    pipe = load_pipeline(folder)
    assert np.array_equal(image(pipe), wanted)
    assert len(encode_examples(pipe, np.zeros((1, 16, 16, 3), dtype=np.uint8), ["a dog"])) == 1
    rewrite(folder / "unet" / "config.json", lambda settings: settings.update(sample_size=[4, 8]))
    assert image(load_pipeline(folder)).shape == (1, 16, 32, 3)
    for size in (None, 0, "4", [4], [4, None]):
        rewrite(folder / "unet" / "config.json", lambda settings, size=size: settings.update(sample_size=size))
        with pytest.raises(ValueError, match=r"sample_size|cannot be loaded"):
            image(load_pipeline(folder))


def test_the_text_encoder_is_that_of_the_file_whatever_a_release_looks_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import CLIPTextModel

    load, wanted = CLIPTextModel.from_pretrained.__func__, image(load_pipeline(folder))
    weights = {key.removeprefix("text_model."): value.clone() for key, value in load_file(folder / TEXT).items()}
    ours = any(key.startswith("text_model.") for key in load(CLIPTextModel, folder / "text_encoder").state_dict())
    other = weights if ours else {f"text_model.{key}": value for key, value in weights.items()}
    save_file(other, folder / TEXT, metadata={"format": "pt"})

    def forgetful(cls: Any, *where: Any, **how: Any) -> Any:  # as transformers before 5.6: unknown names, drawn values
        model = load(cls, *where, **how)
        for value in model.state_dict().values():
            torch.nn.init.normal_(value)
        return model

    monkeypatch.setattr(CLIPTextModel, "from_pretrained", classmethod(forgetful))
    before = torch.random.get_rng_state()
    assert np.array_equal(image(load_pipeline(folder)), wanted)
    assert torch.equal(before, torch.random.get_rng_state()), "what was drawn is not drawn from the caller's"


def test_a_tokenizer_of_one_file_is_read(folder: Path) -> None:
    pipe = load_pipeline(folder)
    words = ["a red critter", "Weird image. "]
    wanted, limit = pipe.tokenizer(words).input_ids, pipe.tokenizer.model_max_length
    if not (folder / "tokenizer" / "tokenizer.json").is_file():  # transformers 4 writes the other two
        from transformers import CLIPTokenizerFast

        CLIPTokenizerFast.from_pretrained(folder / "tokenizer").save_pretrained(folder / "tokenizer")
    for name in ("vocab.json", "merges.txt"):
        (folder / "tokenizer" / name).unlink(missing_ok=True)
    pipe = load_pipeline(folder)
    assert (pipe.tokenizer(words).input_ids, pipe.tokenizer.model_max_length) == (wanted, limit)
