from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml

from hpslib.metrics.intervals import wilson_interval
from hpslib.scores.clip import encode_images, encode_prompts, load_clip
from hpslib.scores.cosine import hps
from hpslib.scores.pixels import Preprocessing
from hpslib.scores.pretrained import from_pretrained, push_to_hub, save_pretrained
from hpslib.scores.scorers import load_scorer


def test_a_saved_classifier_comes_back_with_a_card_that_says_what_it_is(
    tiny_clip, noise_images, tmp_path: Path
) -> None:
    settings = {"lr": 1.7e-5, "blocks": "10 image, 6 text"}
    metrics = {"top-1 on 8 groups": wilson_interval(5, 8).percent(), "odd|name": "two\nlines"}
    folder = save_pretrained(
        tiny_clip, tmp_path / "mine", title="My HPS", summary="Learned from simulated raters.", settings=settings,
        metrics=metrics, license="apache-2.0", base_model="openai/clip-vit-large-patch14",
    )  # fmt: skip
    back = from_pretrained(folder)
    assert torch.equal(encode_images(back, noise_images), encode_images(tiny_clip, noise_images))
    assert torch.equal(encode_prompts(back, ["a cat"]), encode_prompts(tiny_clip, ["a cat"]))
    _, head, body = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["license"] == "apache-2.0" and metadata["base_model"] == "openai/clip-vit-large-patch14"
    assert "human-preference-score" in metadata["tags"]
    assert "# My HPS" in body and "Learned from simulated raters." in body and "| lr | 1.7e-05 |" in body
    assert f"| top-1 on 8 groups | {metrics['top-1 on 8 groups']} |" in body and r"| odd\|name | two lines |" in body
    assert 'from_pretrained("mine")' in body
    assert json.loads((folder / "training.json").read_text())["settings"] == settings
    assert not list(folder.glob("*.partial"))


def test_the_code_on_the_card_runs_as_it_stands(tiny_clip, noise_images, tmp_path: Path, monkeypatch) -> None:
    card = (save_pretrained(tiny_clip, tmp_path / "mine", title="My HPS") / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"(?ms)^```python\n(.*?)^```$", card)
    monkeypatch.chdir(tmp_path)
    prompts = ["a cat", "a dog", "a cat"]
    lines = code.splitlines()
    names: dict[str, Any] = {"images": noise_images[:3], "prompts": prompts}
    exec("\n".join([*lines[:-1], f"scores = {lines[-1]}"]), names)
    np.testing.assert_array_equal(names["scores"], hps(tiny_clip, noise_images[:3], prompts))


def test_a_vocabulary_of_its_own_travels_along(tmp_path: Path, noise_images) -> None:
    from hpslib.critters.assets import asset

    mini = load_clip(asset("clip"))
    back = from_pretrained(save_pretrained(mini, tmp_path / "mini", title="mini", dtype=torch.float16))
    assert torch.equal(back.tokenize(["a happy red critter"]), mini.tokenize(["a happy red critter"]))
    assert replace(back, model=mini.model, merges=mini.merges) == replace(mini, tokenize=back.tokenize)


def test_a_repository_in_the_hub_cache_needs_no_network(tiny_clip, tmp_path: Path, monkeypatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    place = tmp_path / "models--me--taste"
    save_pretrained(tiny_clip, place / "snapshots" / ("0" * 40), title="taste")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0" * 40)
    assert torch.equal(from_pretrained("me/taste").model.logit_scale, tiny_clip.model.logit_scale)
    own = load_scorer("hpslib", Path("hf://me/taste"))
    assert torch.equal(own.clip.model.logit_scale, tiny_clip.model.logit_scale) and own.mode == "pad"
    with pytest.raises(
        FileNotFoundError, match=r"^me/other is no folder, not in the local hub cache.*: name a folder of hpslib"
    ):
        from_pretrained("me/other")
    with pytest.raises(
        FileNotFoundError, match=r"^nowhere is no folder and names no hub repository: name a folder or owner/name\.$"
    ):
        from_pretrained("nowhere")


def test_html_in_title_and_settings_is_shown_and_not_obeyed(tiny_clip, tmp_path: Path) -> None:
    evil = '<img src=x onerror="alert(1)"> & co'
    folder = save_pretrained(
        tiny_clip, tmp_path / 'a"b', title=f"{evil}\n# more", summary=evil, settings={evil: evil}, metrics={evil: evil}
    )
    _, _, body = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert "<" not in body and body.count("&lt;img src=x") == 6 and "\n# more" not in body
    assert 'from_pretrained("a\\"b")' in body


def test_numbers_that_json_does_not_know_are_recorded_as_text(tiny_clip, tmp_path: Path) -> None:
    settings = {"lr": float("nan"), "count": np.int64(3), "share": np.float32(0.5), "all": [1, float("inf")], "x": None}
    folder = save_pretrained(tiny_clip, tmp_path / "a", title="t", settings={**settings, "path": Path("b")})

    def no_constant(name: str) -> None:
        pytest.fail(f"{name} is no JSON")

    record = json.loads((folder / "training.json").read_text(), parse_constant=no_constant)
    expected = {"lr": "nan", "count": 3, "share": 0.5, "all": [1, "inf"], "x": None, "path": "b"}
    assert record["settings"] == expected


def test_the_card_says_what_becomes_of_an_image(tiny_clip, tmp_path: Path) -> None:
    for how, words in {
        Preprocessing("pad"): "scaled to their longer side and padded with black",
        Preprocessing("pad", fill_color=127): "padded with grey (127 of 255)",
        Preprocessing("crop"): "scaled to their shorter side, and the centre is cut out",
        Preprocessing("squash"): "scaled to a square",
    }.items():
        folder = save_pretrained(tiny_clip.looking(how), tmp_path / "a", title="t")
        assert words in " ".join((folder / "README.md").read_text(encoding="utf-8").split())
        assert load_clip(folder).preprocessing == how


class NoHub:
    """In the place of huggingface_hub's ``HfApi``: keeps what it was asked and a copy of what it was sent."""

    asked: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, token: str | None = None) -> None:
        self.asked.append({"token": token})

    def create_repo(self, repo_id: str, **more: Any) -> Any:
        self.asked.append({"repo_id": repo_id, **more})
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, folder_path: Path, **more: Any) -> str:
        files = {file.name: file.read_bytes() for file in Path(folder_path).iterdir()}
        self.asked.append({"files": files, **more})
        return "https://example.org/commit/1"


def test_a_folder_is_pushed_to_the_hub_with_a_card_that_loads_it_from_there(
    tiny_clip, noise_images, tmp_path: Path, monkeypatch
) -> None:
    import huggingface_hub.hub_mixin

    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", NoHub)
    monkeypatch.setattr(NoHub, "asked", [])
    folder = save_pretrained(tiny_clip, tmp_path / "mine", title="My HPS", settings={"lr": 1})
    (folder / "training.ckpt").write_bytes(b"the optimizer")
    address = push_to_hub(folder, "me/taste", private=True, commit_message="first")
    assert address == "https://example.org/commit/1"
    who, made, sent = NoHub.asked
    assert who == {"token": None} and made["repo_id"] == "me/taste" and made["private"] is True
    assert sent["repo_id"] == "me/taste" and sent["commit_message"] == "first"
    card = sent["files"].pop("README.md").decode()
    assert 'classifier = from_pretrained("me/taste")' in card and "mine" not in card
    names = ["open_clip_config.json", "open_clip_model.safetensors", "training.json"]
    assert sorted(sent["files"]) == names, "no checkpoint"
    assert all(content == (folder / name).read_bytes() for name, content in sent["files"].items())
    assert 'from_pretrained("mine")' in (folder / "README.md").read_text(), "the folder stays as it was"
    for name in ("taste", "a/b/c", "/taste"):
        with pytest.raises(ValueError, match="names no repository of the hub: write owner/name"):
            push_to_hub(folder, name)
    (folder / "README.md").unlink()
    with pytest.raises(
        ValueError, match=r"mine has no README\.md, the model's card: write the folder with save_pretra"
    ):
        push_to_hub(folder, "me/taste")
    with pytest.raises(FileNotFoundError, match=r"open_clip_config\.json is missing"):
        push_to_hub(tmp_path, "me/taste")
    assert len(NoHub.asked) == 3, "nothing was sent"
