"""hpslib.scores.released: scores equal an independent computation, and what does not fit its kind is refused by
name."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from hpslib.cli.app import app
from hpslib.runs.files import read_state_dict
from hpslib.scores import released
from hpslib.scores.clip import load_clip
from hpslib.scores.released import KINDS, OPENAI, architecture_of, convert_checkpoint
from hpslib.scores.scorers import load_scorer, preference_scores
from hpslib.scores.transformers_clip import from_transformers

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 28, "patch_size": 14, "layers": 2, "width": 32, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3},
}
PROMPTS = ["a red cat", "a very long dog", "a red cat"]


@pytest.fixture(autouse=True)
def tiny_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind at a size that tests can build; activation, preprocessing and factor stay as they are."""
    for name, kind in KINDS.items():
        monkeypatch.setitem(released.KINDS, name, replace(kind, model_cfg=TINY))


@pytest.fixture(scope="module")
def reference() -> Any:
    """transformers' own CLIP with random weights: another implementation of the same architecture."""
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(
        text_config={
            "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2,
            "vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "eos_token_id": 49407,
        },
        vision_config={
            "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 28, "patch_size": 14, "hidden_act": "quick_gelu",
        },
        projection_dim=16,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = CLIPModel(config).eval()
        for parameter in model.parameters():
            if parameter.ndim == 1:
                nn.init.normal_(parameter, 1.0, 0.2)
    with torch.no_grad():
        model.logit_scale.fill_(2.5)
    return model


@pytest.fixture
def images(rng: np.random.Generator) -> list[Image.Image]:
    return [Image.fromarray(rng.integers(0, 256, (41, 28 + 9 * k, 3), dtype=np.uint8)) for k in range(3)]


@pytest.fixture
def openai_weights(reference: Any) -> dict[str, Tensor]:
    """The same weights under the names that OpenAI, open_clip and HPS use."""
    return {key: value.clone().contiguous() for key, value in from_transformers(reference.state_dict()).items()}


def cosine_of_reference(reference: Any, images: list[Image.Image], mode: str) -> np.ndarray:
    """Pixels by torchvision and the towers of transformers: nothing of ours but the tokenizer."""
    from open_clip.tokenizer import SimpleTokenizer
    from torchvision.transforms import functional

    rows = []
    for image in images:
        if mode == "crop":
            small = functional.resize(image, 28, functional.InterpolationMode.BICUBIC)
            small = functional.center_crop(small, [28, 28])
        elif mode == "crop_floor":  # as transformers' processor: the half pixel goes down
            small = functional.resize(image, 28, functional.InterpolationMode.BICUBIC)
            small = functional.crop(small, (small.height - 28) // 2, (small.width - 28) // 2, 28, 28)
        else:
            scale = 28 / max(image.size)
            width, height = (round(side * scale) for side in image.size)
            small = Image.new("RGB", (28, 28))
            resized = image.resize((width, height), Image.Resampling.BICUBIC)
            small.paste(resized, ((28 - width) // 2, (28 - height) // 2))
        rows.append(functional.normalize(functional.to_tensor(small), OPENAI["mean"], OPENAI["std"]))
    with torch.no_grad():
        out = reference(input_ids=SimpleTokenizer()(PROMPTS), pixel_values=torch.stack(rows))
    return (out.image_embeds * out.text_embeds).sum(-1).double().numpy()


@pytest.mark.parametrize("wrapper", ["state_dict", "model", None])
def test_hps_v1_scores_equal_an_independent_clip_with_quickgelu(
    tmp_path: Path, reference: Any, openai_weights: dict[str, Tensor], images: list[Image.Image], wrapper: str | None
) -> None:
    extra = {"context_length": torch.tensor(77), "input_resolution": torch.tensor(28)}  # as in OpenAI's files
    content: Any = {f"module.{k}": v for k, v in openai_weights.items()} if wrapper == "model" else openai_weights
    content = content if wrapper == "model" else content | extra
    torch.save({wrapper: content, "epoch": 1} if wrapper else content, tmp_path / "hpc.pth")
    scores = preference_scores(load_scorer("hps_v1", tmp_path / "hpc.pth"), images, PROMPTS)
    assert np.allclose(scores, 100 * cosine_of_reference(reference, images, "crop"), atol=1e-3)


def test_the_activation_matters_and_each_kind_has_its_own(
    tmp_path: Path, reference: Any, openai_weights: dict[str, Tensor], images: list[Image.Image]
) -> None:
    """HPS v2 is the same file format with GELU and padding: from these QuickGELU weights it must score differently."""
    save_file(openai_weights, tmp_path / "weights.safetensors")
    wrong = preference_scores(load_scorer("hps_v2", tmp_path / "weights.safetensors"), images, PROMPTS)
    reference_padded = cosine_of_reference(reference, images, "pad")
    assert np.abs(wrong - reference_padded).max() > 1e-4
    quick = load_scorer("hps_v1", tmp_path / "weights.safetensors")
    right = preference_scores(replace(quick, mode="pad", factor=1.0), images, PROMPTS)
    assert np.allclose(right, reference_padded, atol=1e-5)


def test_pickscore_is_read_from_transformers_keys_and_scaled(
    tmp_path: Path, reference: Any, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(released.KINDS, "pickscore", replace(released.KINDS["pickscore"], quick_gelu=True))
    save_file({k: v.contiguous() for k, v in reference.state_dict().items()}, tmp_path / "model.safetensors")
    scores = preference_scores(load_scorer("pickscore", tmp_path / "model.safetensors"), images, PROMPTS)
    assert np.allclose(scores, np.exp(2.5) * cosine_of_reference(reference, images, "crop_floor"), atol=1e-4)


def test_a_converted_checkpoint_loads_as_a_clip_folder(
    tmp_path: Path, openai_weights: dict[str, Tensor], images: list[Image.Image]
) -> None:
    torch.save(openai_weights, tmp_path / "hpc.pth")
    folder = convert_checkpoint("hps_v1", tmp_path / "hpc.pth", tmp_path / "hps_v1")
    provenance = json.loads((folder / "provenance.json").read_text())
    assert (provenance["kind"], provenance["file"]) == ("hps_v1", "hpc.pth") and len(provenance["sha256"]) == 64
    clip = load_clip(folder)
    assert clip.config["model_cfg"]["quick_gelu"] is True
    direct = load_scorer("hps_v1", tmp_path / "hpc.pth")
    again = preference_scores(replace(direct, clip=clip), images, PROMPTS)
    assert np.array_equal(again, preference_scores(direct, images, PROMPTS))


def test_the_command_line_converts_and_scores(
    tmp_path: Path, openai_weights: dict[str, Tensor], images: list[Image.Image]
) -> None:
    runner, file = CliRunner(), tmp_path / "hpc.pth"
    torch.save({"state_dict": openai_weights}, file)
    done = runner.invoke(app, ["convert", "hps_v1", str(file), str(tmp_path / "out")])
    assert done.exit_code == 0 and (tmp_path / "out" / "provenance.json").is_file()
    rows = []
    for number, prompt in enumerate(["a red cat", "long " * 90]):
        paths = [f"preference_images/{number}_{k}.png" for k in range(2 + number)]
        for path, image in zip(paths, images):
            (tmp_path / path).parent.mkdir(exist_ok=True)
            image.save(tmp_path / path)
        row = {"human_preference": 1, "prompt": prompt, "id": number, "file_path": paths, "user_hash": "u"}
        rows.append(row | {"contain_name": False})
    (tmp_path / "preference_test.json").write_text(json.dumps(rows))
    arguments = ["hps_v1", str(file), str(tmp_path / "preference_test.json"), str(tmp_path / "scores.parquet")]
    done = runner.invoke(app, ["score", *arguments])
    assert done.exit_code == 0, done.output
    assert "5 images in 2 groups; 1 prompts were cut off" in done.stdout and "chance 41.7 %" in done.stdout
    written = pq.read_table(tmp_path / "scores.parquet").to_pydict()
    assert written["id"] == ["0", "0", "1", "1", "1"] and len(set(written["name"])) == 5
    direct = preference_scores(load_scorer("hps_v1", file), images[:2], ["a red cat"] * 2)
    assert np.allclose(written["score"][:2], direct)
    refused = runner.invoke(app, ["score", "hps_v1", str(tmp_path / "absent.pth"), *arguments[2:]])
    assert refused.exit_code == 2 and "absent.pth does not exist" in refused.stderr and "\n" not in refused.stderr[:-1]


class Harmful:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("touched"),))


def test_what_cannot_be_read_is_refused_and_nothing_in_it_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, openai_weights: dict[str, Tensor]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="name the checkpoint file"):
        load_scorer("hps_v1", tmp_path / "absent.pth")
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(ValueError, match="cannot be read as weights"):
        load_scorer("hps_v1", tmp_path / "evil.pth")
    assert not (tmp_path / "touched").exists()
    program = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))
    torch.jit.save(program, str(tmp_path / "ViT-L-14.pt"))  # so is OpenAI's own file
    with pytest.raises(ValueError, match=r"is a TorchScript program, .*take the same weights from hf://openai/clip-v"):
        load_scorer("clip", tmp_path / "ViT-L-14.pt")
    torch.save(openai_weights, tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"cut\.pth cannot be read as weights .*: download it again"):
        load_scorer("hps_v1", tmp_path / "cut.pth")
    torch.save({"note": "nothing"}, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match="holds no weights"):
        load_scorer("hps_v1", tmp_path / "empty.pth")
    torch.save(openai_weights | {"visual.proj": openai_weights["visual.proj"] * torch.nan}, tmp_path / "nan.pth")
    with pytest.raises(ValueError, match=r"visual\.proj holds NaN or infinity \(1 tensors do\)"):
        load_scorer("hps_v1", tmp_path / "nan.pth")


def test_another_architecture_and_unmatched_keys_are_refused(
    tmp_path: Path, openai_weights: dict[str, Tensor], reference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(openai_weights, path)
    with pytest.raises(ValueError, match="the kind 'hps_v9' is unknown: use one of clip, hps_v1, hps_v2, pickscore"):
        load_scorer("hps_v9", path)
    monkeypatch.setitem(released.KINDS, "hps_v2", KINDS["hps_v1"])
    other = {**TINY, "vision_cfg": {**TINY["vision_cfg"], "layers": 5}}
    monkeypatch.setitem(released.KINDS, "hps_v2", replace(KINDS["hps_v2"], model_cfg=other))
    with pytest.raises(ValueError, match=r"it has vision layers 2 instead of 5: name the kind it was saved as\.$"):
        load_scorer("hps_v2", path)
    save_file({k: v for k, v in openai_weights.items() if "ln_final" not in k}, path)
    with pytest.raises(ValueError, match=r"2 keys missing, 0 unexpected.*ln_final"):
        load_scorer("hps_v1", path)
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(
        ValueError, match=r"no CLIP with a vision transformer, since it has no visual\.conv1\.weight: name"
    ):
        load_scorer("hps_v1", path)
    with pytest.raises(
        ValueError,
        match=r"the key 'vision_model\.extra\.weight' in .* belongs to no part of a CLIP: name another file\.$",
    ):
        from_transformers({"vision_model.extra.weight": torch.ones(1)})


def test_the_true_shapes_are_those_of_open_clip() -> None:
    import open_clip

    for config, name in (
        (released.VIT_L14, "ViT-L-14"),
        (released.VIT_H14, "ViT-H-14"),
        (released.VIT_B16, "ViT-B-16"),
        (released.VIT_B32, "ViT-B-32"),
    ):
        theirs = open_clip.get_model_config(name)
        assert theirs["embed_dim"] == config["embed_dim"]
        for part in ("vision_cfg", "text_cfg"):
            assert {k: v for k, v in theirs[part].items() if k != "head_width"} == {
                k: v for k, v in config[part].items() if k != "head_width"
            }
        assert theirs["vision_cfg"].get("head_width", 64) == config["vision_cfg"]["head_width"]
        assert architecture_of(_full_size(name)) == released._shapes(config)


def _full_size(name: str) -> dict[str, Tensor]:
    import open_clip
    from open_clip.model import CLIP

    with torch.device("meta"):
        return CLIP(**open_clip.get_model_config(name), quick_gelu=True).state_dict()


def test_openais_smaller_clips_are_known_by_their_shapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: Any, openai_weights: dict[str, Tensor], images: Any
) -> None:
    """In OpenAI's layout at half precision, in transformers', and with the true shapes of both libraries."""
    monkeypatch.undo()
    for name in ("ViT-B-16", "ViT-B-32", "ViT-L-14"):
        known = released._size_of("clip", architecture_of(_full_size(name)), "x")
        assert known == f"OpenAI's CLIP {name[:5]}/{name[6:]}"
    from transformers import CLIPConfig, CLIPModel

    with torch.device("meta"):  # the default of transformers' configuration is openai/clip-vit-base-patch32
        theirs = from_transformers(CLIPModel(CLIPConfig()).state_dict())
    assert released._size_of("clip", architecture_of(theirs), "x") == "OpenAI's CLIP ViT-B/32"
    assert {key: value.shape for key, value in theirs.items()} == {
        key: value.shape for key, value in _full_size("ViT-B-32").items()
    }
    other = {**TINY, "vision_cfg": {**TINY["vision_cfg"], "layers": 5}}
    large = replace(KINDS["clip"], model_cfg=other, smaller={"OpenAI's CLIP ViT-B/16": other, "small one": TINY})
    monkeypatch.setitem(released.KINDS, "clip", large)
    torch.save(reference.state_dict(), tmp_path / "pytorch_model.bin")
    numbers = {"input_resolution": torch.tensor(28), "context_length": torch.tensor(77)}
    torch.save({key: value.half() for key, value in openai_weights.items()} | numbers, tmp_path / "ViT-B-32.pt")
    expected = cosine_of_reference(reference, images, "crop")
    for file, tolerance in {"pytorch_model.bin": 1e-5, "ViT-B-32.pt": 2e-3}.items():
        folder = convert_checkpoint("clip", tmp_path / file, tmp_path / "out")
        assert json.loads((folder / "provenance.json").read_text())["name"] == "small one"
        scorer = load_scorer("hpslib", folder)
        np.testing.assert_allclose(preference_scores(scorer, images, PROMPTS), expected, atol=tolerance)
    monkeypatch.setitem(released.KINDS, "clip", replace(large, smaller={"OpenAI's CLIP ViT-B/16": other}))
    with pytest.raises(
        ValueError, match=r"is not OpenAI's CLIP ViT-L/14 \(nor OpenAI's CLIP ViT-B/16\), it has vision"
    ):
        load_scorer("clip", tmp_path / "pytorch_model.bin")


def test_a_state_dict_is_found_in_its_wrappers(tmp_path: Path) -> None:
    torch.save({"state_dict": {"module.a": torch.ones(2)}, "epoch": 3}, tmp_path / "one.pt")
    assert list(read_state_dict(tmp_path / "one.pt")) == ["a"]


def test_a_converted_folder_scores_as_its_kind_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, openai_weights: dict[str, Tensor], images: list[Image.Image]
) -> None:
    from hpslib.scores.pretrained import save_pretrained

    for kind in ("clip", "hps_v1"):
        torch.save(openai_weights, tmp_path / f"{kind}.pth")
        folder = convert_checkpoint(kind, tmp_path / f"{kind}.pth", tmp_path / kind)
        direct = preference_scores(load_scorer(kind, tmp_path / f"{kind}.pth"), images, PROMPTS)
        assert np.array_equal(preference_scores(load_scorer("hpslib", folder), images, PROMPTS), direct)
    own = load_scorer("hpslib", tmp_path / "hps_v1")
    assert (own.mode, own.factor) == ("crop", 100.0)
    (folder / "provenance.json").write_text('{"kind": "hps_v9"}')
    with pytest.raises(ValueError, match=r"provenance\.json names the unknown kind 'hps_v9': convert the checkpoint"):
        load_scorer("hpslib", folder)
    (folder / "provenance.json").write_text("[]")
    with pytest.raises(ValueError, match=r"provenance\.json names no kind .*: convert the checkpoint again"):
        load_scorer("hpslib", folder)
    save_pretrained(own.clip, folder, title="tuned on")
    again = load_scorer("hpslib", folder)
    assert again.factor == 100.0 and again.mode == "crop", "no release any more, but it looks at images as before"
