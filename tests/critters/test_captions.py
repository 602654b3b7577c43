"""hpslib.critters.captions: the grammar and its way back, and what captions do not give away."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from hpslib.critters import captions as module
from hpslib.critters.attributes import ATTRIBUTES, FLAW_DETAILS, Critter, random_critter, with_flaws
from hpslib.critters.captions import ARTISTS, caption, clean_body, read_caption, vocabulary_corpus

FLAW_TEXTS = [text for texts in FLAW_DETAILS.values() for text in texts]


def attributes(critter: Critter) -> dict[str, str]:
    return {name: getattr(critter, name) for name in ATTRIBUTES}


def test_doctests() -> None:
    result = doctest.testmod(module)
    assert result.attempted >= 2 and result.failed == 0


@pytest.mark.parametrize("body_rate", [0.0, 1.0])
def test_read_caption_inverts_caption(body_rate: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        critter = random_critter(rng, 0.5)
        text = caption(critter, rng, body_rate=body_rate)
        assert read_caption(text) == attributes(critter), text
        assert read_caption(f"  {text.upper()} ") == attributes(critter)


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("", "scene"),
        ("a dog", "scene"),
        ("a happy red round critter", "scene"),
        ("a happy red critter on a beach", "shape"),
        ("a red round critter on a beach", "expression"),
        ("a happy round critter on green grass", "colour"),
    ],
)
def test_other_texts_are_refused(text: str, missing: str) -> None:
    with pytest.raises(ValueError, match=f"names no {missing}: simulated raters only understand captions"):
        read_caption(text)


def test_a_caption_depends_on_its_generator_alone_and_varies() -> None:
    critter = Critter("red", "round", "beach", "hat", "happy")
    texts = [caption(critter, np.random.default_rng(seed)) for seed in range(200)]
    assert texts == [caption(critter, np.random.default_rng(seed)) for seed in range(200)]
    assert len(set(texts)) > 150


def test_without_the_body_clause_no_caption_mentions_a_flaw() -> None:
    rng = np.random.default_rng(1)
    for _ in range(500):
        critter = random_critter(rng, 1.0)
        seed = int(rng.integers(2**32))
        text = caption(critter, np.random.default_rng(seed))
        assert not any(flaw in text for flaw in FLAW_TEXTS)
        sound = with_flaws(critter, (), rng)
        assert text == caption(sound, np.random.default_rng(seed)), "the caption must not tell flawed from sound"


def test_the_body_clause_is_as_frequent_for_sound_as_for_flawed_critters() -> None:
    def share(flaw_rate: float) -> float:
        rng = np.random.default_rng(2)
        texts = [caption(random_critter(rng, flaw_rate), rng, body_rate=0.3) for _ in range(3000)]
        return float(np.mean([any(clause in text for clause in (*module._CLEAN, *FLAW_TEXTS)) for text in texts]))

    assert abs(share(0.0) - 0.3) < 0.035 and abs(share(1.0) - 0.3) < 0.035


def test_the_body_clause_says_what_is_wrong() -> None:
    rng = np.random.default_rng(3)
    critter = with_flaws(Critter("red", "round", "beach", "hat", "happy"), ("smear", "washed_out"), rng)
    assert clean_body(critter, rng) == "with a smeared body and washed out colors"
    assert "with a smeared body and washed out colors" in caption(critter, rng, body_rate=1.0)
    assert clean_body(with_flaws(critter, (), rng), rng) in module._CLEAN


def test_style_words_and_artists_come_at_their_rates() -> None:
    rng = np.random.default_rng(4)
    texts = [caption(random_critter(rng), rng, style_rate=0.5, name_rate=0.1) for _ in range(3000)]
    named = [text for text in texts if any(text.endswith(f", by {artist}") for artist in ARTISTS)]
    assert abs(len(named) / 3000 - 0.1) < 0.025
    styled = [text for text in texts if text.removesuffix(text[text.find(", by ") :]).count(",") > 0]
    assert abs(len(styled) / 3000 - 0.5) < 0.05
    plain = [caption(random_critter(rng), rng, style_rate=0, name_rate=0) for _ in range(200)]
    assert not any("," in text for text in plain)


def test_the_corpus_holds_every_word_a_caption_can_have() -> None:
    words = {word for phrase in vocabulary_corpus() for word in phrase.replace(",", " ").split()}
    rng = np.random.default_rng(5)
    for _ in range(1000):
        text = caption(random_critter(rng, 0.5), rng, body_rate=0.5)
        assert set(text.replace(",", " ").split()) <= words | {"a"}, text
    assert "weird image." in vocabulary_corpus()
