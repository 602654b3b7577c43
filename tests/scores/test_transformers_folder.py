"""hpslib.scores.transformers_folder and transformers_clip: transformers' own classes open what is written and agree."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from release_files import refusal
from torch import Tensor
from typer.testing import CliRunner

from hpslib.cli.app import app
from hpslib.critters.assets import asset
from hpslib.scores.clip import Clip, encode_images, encode_prompts, load_clip, save_clip
from hpslib.scores.pixels import Preprocessing
from hpslib.scores.scorers import Scorer, load_scorer, preference_scores
from hpslib.scores.transformers_clip import from_transformers, to_transformers
from hpslib.scores.transformers_folder import save_transformers

PROMPTS = ["a red cat", "A happy, hungry critter in the grass!", "", "12 dogs' don't", "long " * 90, "naïve — 猫 🐈"]
#: transformers 4 has no way of scaling that fits into a square: the card says so.
ONLY_5 = pytest.mark.skipif(int(transformers.__version__.split(".")[0]) < 5, reason="pads only with transformers 5")
WAYS = [
    pytest.param(Preprocessing("pad"), marks=ONLY_5),
    Preprocessing("crop"),
    Preprocessing("crop_floor"),
    Preprocessing("squash", "bilinear"),
]


def opened(folder: Path) -> tuple[Any, Any, Any]:
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    model, info = CLIPModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    return model.eval(), CLIPTokenizer.from_pretrained(folder), CLIPImageProcessor.from_pretrained(folder)


def features(model: Any, **inputs: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        output = model(**inputs)
    return output.image_embeds, output.text_embeds


def sized(clip: Clip, images: int = 3) -> list[Image.Image]:
    """Noise of the tower's own size, so that nothing is scaled."""
    values = np.random.default_rng(5).integers(0, 256, (images, clip.image_size, clip.image_size, 3), dtype=np.uint8)
    return [Image.fromarray(one) for one in values]


@pytest.fixture(scope="module")
def gelu_clip(tiny_clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """As the towers of HPS v2 are: another activation, and other numbers of heads."""
    folder = tmp_path_factory.mktemp("gelu")
    config = json.loads((tiny_clip_folder / "open_clip_config.json").read_text())
    config["model_cfg"]["quick_gelu"] = False
    config["model_cfg"]["vision_cfg"]["head_width"] = 8
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    (folder / "open_clip_model.safetensors").symlink_to(tiny_clip_folder / "open_clip_model.safetensors")
    return load_clip(folder)


@ONLY_5
@pytest.mark.parametrize("which", ["quick_gelu", "gelu", "miniature"])
def test_features_scale_and_tokens_are_the_same(
    which: str, tiny_clip_folder: Path, gelu_clip: Clip, tmp_path: Path
) -> None:
    """CLIP's vocabulary, and the miniature world's own."""
    clip = {
        "quick_gelu": lambda: load_clip(tiny_clip_folder),
        "gelu": lambda: gelu_clip,
        "miniature": lambda: load_clip(asset("hps")),
    }[which]()
    model, tokenize, look = opened(save_transformers(Scorer(clip, "pad", 100.0), tmp_path / "out"))
    words = tokenize(PROMPTS, padding="max_length", truncation=True, return_tensors="pt")
    ours = clip.tokenize(PROMPTS)
    until = ours.argmax(1)[:, None] >= torch.arange(clip.context_length)
    assert torch.equal(words["input_ids"][until], ours[until]) and words["input_ids"].shape == ours.shape
    images = sized(clip)
    pixels = look(images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, clip.pixels(images), atol=1e-5, rtol=0)
    seen, read = features(model, pixel_values=pixels, **words)
    torch.testing.assert_close(seen, encode_images(clip, images), atol=1e-5, rtol=0)
    torch.testing.assert_close(read, encode_prompts(clip, PROMPTS), atol=1e-5, rtol=0)
    assert torch.equal(model.logit_scale, clip.model.logit_scale)


@pytest.mark.parametrize("how", WAYS, ids=str)
def test_the_image_processor_says_the_same_preprocessing(tiny_clip: Clip, tmp_path: Path, how: Preprocessing) -> None:
    clip = tiny_clip.looking(how)
    folder = save_transformers(Scorer(clip, how.mode, 1.0), tmp_path / "out")
    look, rng = opened(folder)[2], np.random.default_rng(1)
    for width, height in [(64, 64), (96, 64), (64, 128), (32, 48)]:
        small = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
        images = [Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)]
        theirs = look(images, return_tensors="pt")["pixel_values"]
        steps = (theirs - clip.pixels(images)) * torch.tensor(clip.std)[:, None, None] * 255
        assert steps.abs().max() < 2.1, (width, height)


@ONLY_5
def test_the_code_on_the_card_runs_as_it_stands_and_scores_alike(tmp_path: Path, monkeypatch: Any) -> None:
    runner = CliRunner()
    done = runner.invoke(app, ["convert", "transformers", str(asset("hps")), str(tmp_path / 'a "b"')])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("wrote ")
    card = (tmp_path / 'a "b"' / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"(?ms)^```python\n(.*?)^```$", card)
    monkeypatch.chdir(tmp_path)
    scorer = load_scorer("hpslib", asset("hps"))
    assert isinstance(scorer, Scorer)
    names: dict[str, Any] = {"images": sized(scorer.clip), "prompts": PROMPTS[:3]}
    names["prompts"][2] = "a blue critter"
    exec(code, names)
    expected = preference_scores(scorer, names["images"], names["prompts"])
    np.testing.assert_allclose(names["scores"].detach().numpy(), expected, atol=1e-3)
    assert "may be a pixel shorter" in card and "The border is black" not in card
    refused = runner.invoke(app, ["convert", "transformers", str(tmp_path / "absent"), str(tmp_path / "out")])
    assert refused.exit_code == 2 and "names no hub repository: name a folder or owner/name." in refused.stderr


def test_what_transformers_cannot_say_stands_on_the_card(tiny_clip: Clip, tmp_path: Path) -> None:
    for how, words in {
        Preprocessing("pad", fill_color=127): "The border is black, since transformers knows no other; the model wants",
        Preprocessing("crop"): "it may be cut one further up or left",
    }.items():
        folder = save_transformers(Scorer(tiny_clip.looking(how), how.mode, 1.0), tmp_path / "out")
        assert words in (folder / "README.md").read_text(encoding="utf-8")


def test_what_is_exported_is_read_back_bit_by_bit(tiny_clip: Clip) -> None:
    weights = tiny_clip.model.state_dict()
    again = from_transformers(to_transformers(weights))
    assert set(again) == set(weights) and all(torch.equal(again[key], weights[key]) for key in weights)


def test_towers_that_clip_model_cannot_be_are_refused(tiny_clip: Clip, tmp_path: Path) -> None:
    config = json.loads(json.dumps(tiny_clip.config))
    config["model_cfg"]["text_cfg"]["no_causal_mask"] = True
    scorer = Scorer(dataclasses.replace(tiny_clip, config=config), "pad", 1.0)
    said = refusal(lambda: save_transformers(scorer, tmp_path / "out"))
    assert said == (
        "model_cfg.text_cfg.no_causal_mask is True, which transformers' CLIPModel does not know: use the model with "
        "open_clip."
    )
    assert not (tmp_path / "out").exists()
    said = refusal(lambda: to_transformers({"logit_bias": torch.ones(1)}, "a.pt"))
    assert said == "transformers' CLIPModel has no place for 'logit_bias' in a.pt: export another model."
    said = refusal(lambda: to_transformers({"transformer.resblocks.0.ls_1.gamma": torch.ones(1)}))
    assert "'transformer.resblocks.0.ls_1.gamma' in the model" in said


def test_a_converted_release_keeps_its_factor(tiny_clip: Clip, tmp_path: Path) -> None:
    folder = save_clip(tiny_clip, tmp_path / "hps_v2")
    (folder / "provenance.json").write_text('{"kind": "hps_v2"}')
    done = CliRunner().invoke(app, ["convert", "transformers", str(folder), str(tmp_path / "out")])
    assert done.exit_code == 0
    assert "scores = 1 * (output" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
