"""hpslib.cli.report: what train says of a classifier, held against numbers by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from statsmodels.stats.proportion import proportion_confint

from hpslib.cli.report import training_report
from hpslib.scores.pretrained import model_card


def part(prompts: list[str], size: int = 4) -> dict[str, Any]:
    return {"prompt": prompts, "images": [[None] * size] * len(prompts)}


def trained(loss: float, top1: float) -> Any:
    return SimpleNamespace(losses=[1.0] * 7, validation=[(0, loss + 1, 0.5), (7, loss, top1)])


def test_validation_stands_beside_a_blind_guess_and_its_interval() -> None:
    parts = {"train": part(["a", "b"]), "validation": part([f"v{k}" for k in range(38)], size=3)}
    report = training_report(trained(0.9, 12 / 38), parts, None, cut=2, tied=3)
    low, high = proportion_confint(12, 38, method="wilson")
    assert report.numbers["validation_top1_interval"] == pytest.approx([low, high], abs=1e-6)
    assert report.numbers["blind_guess"] == pytest.approx({"top1": 1 / 3, "loss": math.log(3)})
    assert report.numbers["groups"] == {"train": 2, "validation": 38} and report.warnings == []
    assert "test_shared_with_train" not in report.numbers
    shown = f"31.6 % [{100 * low:.1f}, {100 * high:.1f}]"
    assert report.lines == [
        f"7 steps; kept step 7: validation loss 0.900, top-1 {shown}.",
        "A blind guess on these 38 groups has loss 1.099 and top-1 33.3 %.",
        "2 prompts are longer than the text tower reads and were cut off.",
        "3 groups whose best images are tied were left out.",
    ]
    assert report.metrics == {
        "validation top-1, 38 groups": f"{shown}; a blind guess 33.3 %",
        "validation loss, 38 groups": "0.900; a blind guess 1.099",
    }


def test_a_classifier_that_only_guesses_is_called_so() -> None:
    parts = {"train": part(["a"]), "validation": part(["v", "w"])}
    report = training_report(trained(1.4, 0.25), parts, None, 0, 0)
    assert report.warnings == ["On validation the classifier is no better than a blind guess, by its loss."]


def test_shared_prompts_are_counted_whatever_their_case_and_spaces() -> None:
    parts = {"train": part(["A cat", "a dog"]), "validation": part(["a  hen"])}
    report = training_report(trained(0.5, 1.0), parts, part(["a cat", "A DOG ", "a hen", "a cow"]), 0, 0)
    shared = {key: value for key, value in report.numbers.items() if "shared" in key}
    assert shared == {"validation_shared_with_train": 0, "test_shared_with_train": 2, "test_shared_with_validation": 1}
    assert report.warnings[0].startswith("Warning: 2 of 4 test groups have a prompt that was trained on, so that")
    assert report.warnings[1].startswith("Warning: 1 of 4 test groups have a prompt that decided which step was kept")


def test_the_card_shows_intervals_warnings_and_no_html() -> None:
    parts = {"train": part(["a"]), "validation": part(["v"])}
    report = training_report(trained(0.5, 1.0), parts, part(["a"]), 0, 0)
    measured = {"tied_groups": 2, "top1": [0.409, 0.294, 0.52], "chance": 0.25, "pairwise_macro": [0.6, None, None]}
    tested = report.with_test((measured | {"kendall_corpus": [0.231, 0.2, 0.26]}, ["Top-1 ..."]), 1_200)
    assert tested.metrics["test top-1, 1,200 groups"] == "40.9 % [29.4, 52.0]; a blind guess 25.0 %"
    assert tested.metrics["test pairs, macro, 1,200 groups"] == "60.0 % (no interval: one prompt); a blind guess 50.0 %"
    assert tested.metrics["test Kendall's tau over all images, 1,200 groups"] == "0.231 [0.200, 0.260]"
    assert tested.lines[-1] == "Test: Top-1 ..." and tested.numbers["top1"] == [0.409, 0.294, 0.52]
    card = tested.card("<b>x</b>.json", 1, {"data": "<script>\n", "test": None, "lr": 1e-3})
    assert card["summary"].startswith("Trained on 1 choices of <b>x</b>.json.\n\n**Warning: 1 of 1 test")
    assert card["settings"] == {"data": "<script>\n", "lr": 1e-3}
    text = model_card(folder="hps", **card)
    assert "<b>" not in text and "<script>" not in text and "&lt;b&gt;x&lt;/b&gt;.json" in text
