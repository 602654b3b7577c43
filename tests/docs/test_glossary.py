"""The glossary: two sentences a word, in order, each with a lesson that uses it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from stored_lessons import printed, words

TEXT = (Path(__file__).parents[2] / "docs" / "glossary.md").read_text(encoding="utf-8")
ENTRIES = dict(re.findall(r"^## (.+?)\n\n(.+?)(?=\n## |\Z)", TEXT, re.M | re.S))
#: How a lesson says a word that has its own heading here.
SAID = {
    "Abstain": "abstain",
    "Blind guess": "guess",
    "Bradley–Terry model": "Bradley and Terry",
    "Conditional logit": "logit",
    "D-optimal design": "D-optimal",
    "Group": "group",
    "HPD": "HPD",
    "Leak": "leak",
    "Logit scale": "logit_scale",
    "LoRA rank": "r \\times d",
    "Noise ceiling": "ceiling",
    "Paired difference": "difference",
    "Pairwise accuracy": "Pairwise",
    "Position bias": "position",
    "Tie": "ties",
    "Top-1 accuracy": "Top-1",
    "Wilson interval": "Wilson",
}


def test_the_words_stand_in_order() -> None:
    assert list(ENTRIES) == sorted(ENTRIES, key=str.casefold)
    assert len(ENTRIES) == TEXT.count("\n## ")


@pytest.mark.parametrize("term", ENTRIES)
def test_a_word_has_two_sentences_and_a_lesson_that_says_it(term: str) -> None:
    *paragraphs, link = ENTRIES[term].strip().split("\n\n")
    assert len(paragraphs) == 1
    text = re.sub(r"`[^`]+`", "code", " ".join(paragraphs[0].split()))
    assert len(re.findall(r"[.?!](?= [A-Z*]|$)", text)) == 2, text
    number, heading, notebook, anchor = re.fullmatch(
        r"\[Lesson (\d) · (.+)\]\(\.\./notebooks/([\w.]+)#([\w-]+)\)", link
    ).groups()
    assert notebook.startswith(f"0{number}_")
    assert anchor in printed(notebook), f"{notebook} has no heading '{heading}'."
    said = SAID.get(term, term)
    assert re.search(rf"\b{re.escape(said)}", words(notebook), 0 if said.isupper() else re.I)


def test_what_a_newcomer_needs_is_explained() -> None:
    needed = {"Top-1 accuracy", "Chance", "Blind guess", "Wilson interval", "Bootstrap by prompt", "KID", "FID", "IS"}
    needed |= {"CLIP", "Tower", "Logit scale", "LoRA rank", "Classifier-free guidance", "Negative prompt"}
    needed |= {"Identifier", "Regularisation pictures", "HPD", "DiffusionDB", "HPS"}
    assert needed <= set(ENTRIES)
