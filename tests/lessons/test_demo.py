"""hpslib.lessons.demo: one page that holds all it shows, whatever a prompt says, and asks what was drawn by lot."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import hpslib.lessons.demo as module
from hpslib.critters.assets import asset
from hpslib.data.groups import flatten_groups
from hpslib.data.releases.hpd_v1 import read_hpd
from hpslib.lessons.demo import demo_groups, demo_page, write_demo
from hpslib.scores.clip import load_clip
from hpslib.scores.cosine import hps

EVIL = "a </script><script>alert(1)</script> & \"quoted\" 'prompt' <!-- \u2028 {{figure}}"


def group(prompt: str, **changes: Any) -> dict[str, Any]:
    return {"prompt": prompt, "images": ["data:,a", "data:,b"], "rater": 1, "hps": 0, "clip": 1, **changes}


class Page(HTMLParser):
    """The tags of a page with their attributes, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts.append(data)


def test_no_prompt_can_leave_its_place() -> None:
    page = Page(demo_page([group(EVIL)], b"png"))
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert json.loads(page.scripts[0]) == {"groups": [group(EVIL)], "chance": 0.5}


def test_nothing_is_fetched_and_everything_has_its_words() -> None:
    text = demo_page([group("a cat")], b"png")
    assert re.findall(r"https?:|//\w+\.|url\(|@import|fetch\(|innerHTML|document\.write", text) == []
    assert "{{" not in text
    tags = Page(text).tags
    assert [value for tag, value in tags if tag == "link"] == []
    images = [value for tag, value in tags if tag == "img"]
    assert images and all(str(image["src"]).startswith("data:") and len(str(image["alt"])) > 50 for image in images)
    assert dict(tags)["html"] == {"lang": "en"} and [tag for tag, _ in tags].count("h1") == 1
    assert "1 questions." in text


def test_the_groups_are_those_of_the_test_set_and_the_scores_choices_theirs() -> None:
    groups = demo_groups(3, seed=1)
    dataset = read_hpd(asset("hpd_mini/test.parquet"))
    prompts = list(dataset["prompt"])
    assert [one["prompt"] for one in groups] == [one["prompt"] for one in demo_groups(3, seed=1)]
    for one in groups:
        row = dataset[prompts.index(one["prompt"])]
        images, texts, (size,) = flatten_groups([row])
        assert (len(one["images"]), one["rater"]) == (size, row["human_preference"])
        assert one["hps"] == int(hps(load_clip(asset("hps")), images[:], texts).argmax())
        shown = Image.open(io.BytesIO(base64.b64decode(one["images"][0].split(",")[1])))
        assert shown.convert("RGB").tobytes() == images[0].convert("RGB").tobytes()


@pytest.mark.parametrize("count", [0, 801])
def test_groups_that_are_not_there_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"^{count} groups cannot be shown: ask for 1 to 800"):
        demo_groups(count)


def test_the_page_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "demo_groups", lambda: [group("a cat")])
    place = write_demo(tmp_path / "page.html")
    assert place == tmp_path / "page.html" and place.read_text(encoding="utf-8").endswith("</html>\n")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
