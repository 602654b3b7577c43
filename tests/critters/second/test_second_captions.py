"""hpslib.critters.second.captions: style words follow the picture, and in a prompt they are wishes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np

from hpslib.critters.captions import read_caption
from hpslib.critters.second.attributes import QUALITIES, Critter, random_critter
from hpslib.critters.second.captions import STYLES, caption, make_prompts, vocabulary_corpus, wishes

CRITTER = Critter("red", "round", "beach", "hat", "happy")


def test_what_a_caption_asks_for_can_be_read_back() -> None:
    rng = np.random.default_rng(0)
    for _ in range(400):
        critter = random_critter(rng)
        asked = read_caption(caption(critter, rng))
        assert asked == {name: getattr(critter, name) for name in asked}


def test_an_orange_critter_has_its_article() -> None:
    rng = np.random.default_rng(4)
    articles: set[tuple[str, str]] = set()
    for expression in ("happy", "sad", "surprised"):
        critter = Critter("orange", "round", "beach", "hat", expression)
        for _ in range(60):
            words = caption(critter, rng, style_rate=0, name_rate=0).split()
            assert ("looking" not in words) or words[words.index("looking") + 1] not in ("crying", "smiling")
            articles |= {(a, b[0]) for a, b in pairwise(words) if a in ("a", "an")}
    assert {("an", "o"), ("an", "u"), ("an", "a"), ("a", "h"), ("a", "s")} <= articles
    assert not {(a, b) for a, b in articles if (a == "an") != (b in "aeiou")}


def test_style_words_follow_the_picture() -> None:
    def share(name: str, value: float, word: str) -> float:
        values = list(CRITTER.qualities)
        values[QUALITIES.index(name)] = value
        critter, rng = replace(CRITTER, qualities=tuple(values)), np.random.default_rng(1)
        return float(np.mean([word in caption(critter, rng, style_rate=1.0) for _ in range(1_500)]))

    for word, said in STYLES.items():
        for name, sign in said:
            if word == "masterpiece":
                continue  # two qualities at once
            much, little = share(name, 0.95, word), share(name, 0.05, word)
            assert sign * (much - little) > 0.08, word


def test_contradicting_wishes_cancel() -> None:
    assert wishes("a sad red round critter at night, flat colors, 4 k") == {}
    assert wishes("a sad red round critter at night") == {}
    assert wishes("a sad red round critter at night, MASTERPIECE, by mira holt") == {"finish": 1, "placement": 1}


def test_prompts_are_distinct_sound_and_avoid_what_is_taken() -> None:
    some = make_prompts(60, seed=2)
    assert len(set(some)) == 60 and make_prompts(60, seed=2) == some
    assert not any(" arm" in text or "eye" in text for text in some)
    assert not set(make_prompts(60, seed=2, avoid=some[:30])) & set(some[:30])


def test_every_style_word_is_in_the_vocabularys_corpus() -> None:
    corpus = vocabulary_corpus()
    assert set(STYLES) <= set(corpus) and len(corpus) == len(set(corpus))
