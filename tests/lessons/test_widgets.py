"""Widgets without a browser: traits, clicks, the HTML as a parser sees it, and stable text."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import ipywidgets
import numpy as np
import pytest
from PIL import Image

import hpslib.lessons.widgets as module
from hpslib.lessons.widgets import browse_groups, compare, image_html, score_slider, static_group
from hpslib.metrics.before_after import majority_votes

NASTY = "<script>alert(1)</script> \"quoted\" 'single' & $x$ 🦄 שלום عربى <img src=x onerror=alert(1)>"


def picture(colour: str | tuple[int, int, int] = "red", size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.new("RGB", size, colour)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def group(prompt: str = "a red critter", n: int = 3, chosen: int = 1) -> dict:
    images = [{"bytes": png(picture((40 * k, 90, 200))), "path": None} for k in range(n)]
    return {"id": prompt, "prompt": prompt, "images": images, "human_preference": chosen}


class Page(HTMLParser):
    """Collects the elements and the text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def of(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


def decoded(img: dict) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(img["src"].removeprefix("data:image/png;base64,"))))


# --- images ----------------------------------------------------------------------------------------------------------


def test_image_html_keeps_pixels_of_small_images():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    (img,) = Page(image_html(image, "noise")).of("img")
    np.testing.assert_array_equal(np.asarray(decoded(img)), np.asarray(image))
    assert "image-rendering: pixelated" in img["style"]


def test_image_html_shrinks_large_images_in_proportion():
    (img,) = Page(image_html(picture(size=(512, 256)), "large", width=128)).of("img")
    assert decoded(img).size == (128, 64)


def test_image_html_escapes_its_alt_text():
    page = Page(image_html(picture(), NASTY))
    assert [tag for tag, _ in page.elements] == ["img"]
    assert page.of("img")[0]["alt"] == NASTY


def test_image_html_refuses_no_width():
    with pytest.raises(ValueError, match=r"^the width is 0: give at least 1 pixel\.$"):
        image_html(picture(), "none", width=0)


# --- browsing --------------------------------------------------------------------------------------------------------


def test_browser_shows_the_group_of_its_slider():
    box = browse_groups([group("first", 2, 0), group("second", 4, 3)])
    slider, view, _ = box.children
    assert (slider.min, slider.max, slider.value) == (0, 1, 0)
    assert len(Page(view.value).of("img")) == 2
    slider.value = 1
    page = Page(view.value)
    assert "second" in page.text
    assert ["chosen" in img["alt"] for img in page.of("img")] == [False, False, False, True]
    assert page.text.count("chosen") == 1


def test_browser_pictures_are_the_groups_own():
    page = Page(browse_groups([group(n=3)]).children[1].value)
    assert [decoded(img).getpixel((0, 0)) for img in page.of("img")] == [(0, 90, 200), (40, 90, 200), (80, 90, 200)]


def test_prompts_are_shown_as_text_never_as_elements():
    page = Page(browse_groups([group(NASTY)]).children[1].value)
    assert NASTY in page.text
    assert not page.of("script")
    assert len(page.of("img")) == 3
    assert all("onerror" not in img for img in page.of("img"))
    assert page.of("p")[0]["dir"] == "auto"


def test_text_form_is_stable_and_short():
    groups = [group("a red critter"), group("word " * 100)]
    first, second = browse_groups(groups), browse_groups(groups)
    assert repr(first) == repr(second) == 'Group 0 of 0 to 1, 3 images, image 1 chosen: "a red critter"'
    first.children[0].value = 1
    assert len(repr(first)) == 110
    assert repr(first).endswith("…")
    assert "base64" not in repr(first)


def test_mimebundle_holds_the_same_text():
    if not hasattr(ipywidgets.Widget, "_repr_mimebundle_"):
        pytest.skip("ipywidgets 7 displays by messages")
    box = browse_groups([group()])
    assert box._repr_mimebundle_()["text/plain"] == repr(box)


def test_a_group_that_cannot_be_opened_says_so_in_its_place():
    broken = group("<b>broken</b>")
    broken["images"][2]["bytes"] = b"no image"
    box = browse_groups([group(), broken])
    box.children[0].value = 1
    page = Page(box.children[1].value)
    assert "group '<b>broken</b>', image 2 is no intact image" in page.text
    assert page.of("p")[0]["role"] == "alert"
    box.children[0].value = 0
    assert len(Page(box.children[1].value).of("img")) == 3


@pytest.mark.parametrize(
    ("groups", "start", "message"),
    [
        ([], 0, "^there is no group to browse: give at least one row"),
        ([group()], 1, r"^there is no group 1 to start with: give a number from 0 to 0\.$"),
        ([group()], -1, "^there is no group -1 to start with"),
    ],
)
def test_browser_refuses(groups, start, message):
    with pytest.raises(ValueError, match=message):
        browse_groups(groups, start)


def test_browser_reads_a_dataset():
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([group("first"), group("second")])
    box = browse_groups(rows, start=1)
    assert "second" in box.children[1].value


def test_static_group_is_a_figure():
    import matplotlib

    matplotlib.use("Agg")
    axes = static_group(group(n=3))
    assert len(axes.images) == 3
    matplotlib.pyplot.close(axes.figure)


# --- comparing -------------------------------------------------------------------------------------------------------


def click(box, *names: str) -> None:
    left, right, undo = box.children[2].children
    for name in names:
        {"left": left, "right": right, "undo": undo}[name].click()


def shown(box) -> list[tuple[int, int, int]]:
    return [decoded(img).getpixel((0, 0)) for img in Page(box.children[1].value).of("img")]


PAIRS = [(picture("red"), picture("blue"))] * 12
PROMPTS = [f"prompt {k}" for k in range(12)]
RED, BLUE = (255, 0, 0), (0, 0, 255)


def test_votes_count_back_to_the_order_of_the_pairs():
    """Somebody who always takes the blue image, wherever it stands, votes +1 throughout."""
    box = compare(PAIRS, PROMPTS, seed=1)
    sides = []
    for _ in PAIRS:
        sides.append("left" if shown(box)[0] == BLUE else "right")
        click(box, sides[-1])
    assert set(sides) == {"left", "right"}
    assert box.votes == [1] * 12
    assert majority_votes(np.array(box.votes)[:, None]).wins == 12


def test_without_a_seed_the_order_is_kept():
    box = compare(PAIRS[:2], PROMPTS[:2], seed=None)
    assert shown(box) == [RED, BLUE]
    click(box, "left", "right")
    assert box.votes == [-1, 1]


def test_the_sides_depend_on_the_seed_alone():
    assert compare(PAIRS, PROMPTS, seed=5).flipped == compare(PAIRS, PROMPTS, seed=5).flipped
    assert compare(PAIRS, PROMPTS, seed=5).flipped != compare(PAIRS, PROMPTS, seed=6).flipped


def test_undo_takes_the_last_vote_back_and_shows_its_pair_again():
    box = compare([(picture("red"), picture("blue")), (picture("lime"), picture("black"))], ["one", "two"], seed=None)
    undo = box.children[2].children[2]
    assert undo.disabled
    click(box, "left")
    assert "two" in box.children[1].value
    click(box, "undo")
    assert "one" in box.children[1].value
    assert box.votes == []
    assert undo.disabled
    click(box, "undo", "right")
    assert box.votes == [1]


def test_the_end_disables_voting_but_not_undo():
    box = compare(PAIRS[:1], PROMPTS[:1], seed=None)
    assert "Pair 1 of 1" in box.children[0].value
    click(box, "left")
    left, right, undo = box.children[2].children
    assert (left.disabled, right.disabled, undo.disabled) == (True, True, False)
    assert "Done: 1 of 1 pairs" in box.children[0].value
    left.click()  # a click already under way
    assert box.votes == [-1]
    click(box, "undo")
    assert (left.disabled, right.disabled) == (False, False)


def test_on_vote_hears_of_every_change_with_a_copy():
    heard = []
    box = compare(PAIRS[:2], PROMPTS[:2], on_vote=heard.append, seed=None)
    click(box, "left", "undo", "right")
    assert heard == [[-1], [], [1]]
    heard[-1].append(99)
    assert box.votes == [1]


def test_votes_are_a_trait_one_can_observe():
    box, heard = compare(PAIRS[:2], PROMPTS[:2], seed=None), []
    box.observe(lambda change: heard.append(change["new"]), "votes")
    click(box, "right")
    assert heard == [[1]]


def test_the_vote_is_blind():
    """Neither text nor alt text nor element names the origin: flipped and unflipped differ in the pixels only."""
    here = compare([(picture("red"), picture("blue"))], ["p"], seed=None).children[1].value
    there = compare([(picture("blue"), picture("red"))], ["p"], seed=None).children[1].value
    assert [img["alt"] for img in Page(here).of("img")] == [img["alt"] for img in Page(there).of("img")]
    assert Page(here).text == Page(there).text == "p"


def test_compare_escapes_its_prompts_and_prints_a_sentence():
    box = compare(PAIRS[:1], [NASTY])
    assert [tag for tag, _ in Page(box.children[1].value).elements] == ["p", "div", "img", "img"]
    assert NASTY in Page(box.children[1].value).text
    assert repr(box) == "1 pair to vote on."
    click(box, "left")
    assert repr(box) == "1 of 1 pairs voted on."


@pytest.mark.parametrize(
    ("pairs", "prompts", "message"),
    [
        ([], [], "^there are 0 pairs and 0 prompts: give"),
        (PAIRS[:2], ["one"], "^there are 2 pairs and 1 prompts: give one prompt per pair, and at least one"),
        ([(picture(),)], ["one"], r"^pair 0 holds 1 images: give 2 to compare\.$"),
    ],
)
def test_compare_refuses(pairs, prompts, message):
    with pytest.raises(ValueError, match=message):
        compare(pairs, prompts)


# --- the knob --------------------------------------------------------------------------------------------------------


def test_slider_says_what_its_function_says():
    knob = score_slider(lambda x: f"twice is {2 * x:.1f}", 0.0, 1.0, 0.5)
    slider, label, _ = knob.children
    assert repr(knob) == "twice is 1.0"
    slider.value = 0.8
    assert repr(knob) == "twice is 1.6"
    assert Page(label.value).text == "twice is 1.6"


def test_a_box_with_sliders_holds_one_that_names_them():
    assert len(compare(PAIRS[:1], ["p"]).children) == 3, "buttons have names"
    *_, names = score_slider(str, 0, 10, 3, step=1).children
    assert names._esm == Path(module.__file__).with_name("names.js").read_text(encoding="utf-8")


def test_whole_numbers_make_a_whole_slider():
    knob = score_slider(str, 0, 10, 3, step=1)
    assert isinstance(knob.children[0], ipywidgets.IntSlider)
    assert isinstance(score_slider(str, 0, 10, 3, step=0.5).children[0], ipywidgets.FloatSlider)
    knob.children[0].value = 4
    assert repr(knob) == "4"


def test_slider_text_is_text():
    label = score_slider(lambda _: NASTY, 0, 1, 0, step=1).children[1]
    assert [tag for tag, _ in Page(label.value).elements] == ["p"]
    assert Page(label.value).text == NASTY


@pytest.mark.parametrize("arguments", [(1, 0, 0), (0, 1, 2), (0, 1, float("nan")), (0, 1, 0, 0)])
def test_slider_refuses(arguments):
    with pytest.raises(
        ValueError,
        match=r"^the slider goes from .*: give a minimum below the maximum, a value between and a step above 0\.$",
    ):
        score_slider(str, *arguments)
