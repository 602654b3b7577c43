"""hpslib.scores.folder: what a configuration may say, and that nothing is fetched because of it."""

from __future__ import annotations

import json
import math
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from hpslib.scores.clip import load_clip
from hpslib.scores.folder import CONFIG_FILE

NAN = math.nan


@pytest.fixture
def folder(tiny_clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to spoil; whoever asks the network from here on fails the test."""

    def asked(*host: Any, **rest: Any) -> None:
        pytest.fail(f"the network was asked for {host[0]}")

    monkeypatch.setattr(socket, "getaddrinfo", asked)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return Path(shutil.copytree(tiny_clip_folder, tmp_path / "clip"))


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("model_cfg.extra", 1, "extra is no setting of a plain CLIP"),
        ("model_cfg.custom_text", True, "custom_text is no setting"),
        ("model_cfg.multimodal_cfg", {}, "multimodal_cfg is no setting"),
        ("model_cfg.quick_gelu", "false", "quick_gelu is 'false': write true or false"),
        (
            "model_cfg.text_cfg.width",
            "a" * 5_000,
            "width is 'aaaaaaaaaaaa...aaaaaaaaaaaaa': write a whole number",
        ),
        ("model_cfg.quick_gelu", 1, "quick_gelu is 1: write true or false"),
        ("model_cfg.quick_gelu", None, "quick_gelu is None"),
        ("model_cfg.embed_dim", "x", "embed_dim is 'x': write a whole number above 0"),
        ("model_cfg.embed_dim", NAN, "embed_dim is nan"),
        ("model_cfg.embed_dim", True, "embed_dim is True"),
        ("model_cfg.vision_cfg", [], "no configuration of open_clip"),
        ("model_cfg.vision_cfg.foo", 1, r"vision_cfg\.foo is no setting"),
        ("model_cfg.vision_cfg.image_size", "64", "image_size is '64'"),
        ("model_cfg.vision_cfg.image_size", [32, 32], "image_size is"),
        ("model_cfg.vision_cfg.layers", [1, 1, 1, 1], "layers is"),
        ("model_cfg.vision_cfg.patch_size", 0, "patch_size is 0"),
        ("model_cfg.vision_cfg.patch_size", 64, "patch_size is 64: write at most the image_size 32"),
        ("model_cfg.vision_cfg.head_width", 7, "head_width is 7: write a divisor of the width 32"),
        ("model_cfg.vision_cfg.head_width", 0, "head_width is 0"),
        ("model_cfg.vision_cfg.mlp_ratio", NAN, "mlp_ratio is nan: write a number"),
        ("model_cfg.vision_cfg.no_ln_pre", "false", "no_ln_pre is 'false': write true or false"),
        ("model_cfg.vision_cfg.timm_model_name", "vit", "timm_model_name is 'vit', which is no part of a plain CLIP"),
        ("model_cfg.text_cfg.hf_model_name", "evil/evil", "hf_model_name is 'evil/evil', which is no part"),
        ("model_cfg.text_cfg.hf_tokenizer_name", "evil/evil", "hf_tokenizer_name is"),
        ("model_cfg.text_cfg.heads", 5, "heads is 5: write a divisor"),
        ("model_cfg.text_cfg.context_length", -1, "context_length is -1"),
        ("model_cfg.text_cfg.output_tokens", True, "output_tokens is True"),
        ("preprocess_cfg.mean", [NAN] * 3, r"mean is \[nan, nan, nan\]: write three numbers"),
        ("preprocess_cfg.mean", [1, 2], "mean is"),
        ("preprocess_cfg.mean", None, "mean is None"),
        ("preprocess_cfg.mean", "abc", "mean is 'abc'"),
        ("preprocess_cfg.std", [0, 0, 0], r"std is \[0, 0, 0\]: write three numbers above 0"),
        ("preprocess_cfg.std", [0.2, -0.1, 0.3], "std is"),
        ("preprocess_cfg.std", [0.2, math.inf, 0.3], "std is"),
        ("preprocess_cfg.resize_mode", "stretch", r"preprocess_cfg\.resize_mode is 'stretch'"),
        ("preprocess_cfg.fill_color", NAN, "fill_color"),
        ("preprocess_cfg.mode", "L", "mode is 'L': only RGB is read"),
        ("model_cfg.text_cfg.pool_type", "?", r"pool_type is '\?': use one of argmax, eos"),
        ("model_cfg.vision_cfg.pool_type", 3, "pool_type is 3: use one of tok, avg"),
    ],
)
def test_an_odd_value_is_named(folder: Path, path: str, value: Any, text: str) -> None:
    file = folder / CONFIG_FILE
    config = json.loads(file.read_text())
    *parents, name = path.split(".")
    place = config
    for parent in parents:
        place = place[parent]
    place[name] = value
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=text) as error:
        load_clip(folder)
    assert str(folder) in str(error.value) and str(error.value).endswith(".") and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"x" * 50, b"", b"\x1f\x8b\x08\x00 cut"])
def test_a_damaged_vocabulary_is_named(folder: Path, content: bytes) -> None:
    (folder / "bpe.txt.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"bpe\.txt\.gz cannot be read as a vocabulary \(.*\): copy it anew|own bpe"):
        load_clip(folder)


def test_a_pointer_in_place_of_the_weights_is_called_by_its_name(folder: Path) -> None:
    (folder / "open_clip_model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(ValueError, match=r"cannot be read \(it is a git-lfs pointer, not the file .*: fetch the file"):
        load_clip(folder)
