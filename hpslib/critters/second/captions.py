"""Captions for critters of the second edition: the grammar of the first, and style words that mean something.

Style words follow what a picture looks like, as far as people bother: "flat colors" stands more often under a picture
of little finish, "moody lighting" under a dark one. The same words in a prompt are wishes (:func:`wishes`), which the
simulated raters know and mini-CLIP may learn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from hpslib.critters import captions as first
from hpslib.critters.captions import ARTISTS, distinct_texts
from hpslib.critters.second.attributes import QUALITIES, Critter, random_critter

__all__ = ["STYLES", "caption", "make_prompts", "vocabulary_corpus", "wishes"]

#: Style words, and what they say about a picture: a quality and whether much or little of it.
STYLES: dict[str, tuple[tuple[str, int], ...]] = {
    "digital art": (),
    "cute cartoon": (),
    "children's book illustration": (),
    "trending": (),
    "masterpiece": (("finish", 1), ("placement", 1)),
    "highly detailed": (("finish", 1),),
    "sharp focus": (("finish", 1),),
    "4 k": (("finish", 1),),
    "vector art": (("finish", -1),),
    "flat colors": (("finish", -1),),
    "vivid colors": (("vividness", 1),),
    "soft pastel": (("vividness", -1),),
    "close up": (("size", 1),),
    "character design": (("size", 1),),
    "wide shot": (("size", -1),),
    "bright daylight": (("light", 1),),
    "moody lighting": (("light", -1),),
}
_FOLLOWS = 3.0  # how strongly the words follow the picture, per unit of a quality


def _style_odds(critter: Critter) -> np.ndarray:
    weights = []
    for said in STYLES.values():
        fits = sum(sign * (critter.quality(name) - 0.5) for name, sign in said)
        weights.append(np.exp(_FOLLOWS * fits))
    return np.array(weights) / np.sum(weights)


def caption(
    critter: Critter,
    rng: np.random.Generator,
    *,
    body_rate: float = 0.0,
    style_rate: float = 0.6,
    name_rate: float = 0.1,
) -> str:
    """Describe ``critter`` in one of many phrasings.

    ``body_rate`` is the share of captions with a clause about the body. The clause is as frequent for sound critters as
    for flawed ones, so a caption *without* it tells nothing about flaws. With probability ``style_rate`` one to three
    style words follow, drawn according to how well they fit.

    >>> critter = Critter("red", "round", "beach", "hat", "happy")
    >>> caption(critter, np.random.default_rng(1), style_rate=0, name_rate=0)
    'a smiling red ball shaped little monster wearing a hat on the sand by the ocean'
    """
    text = first.caption(critter, rng, body_rate=body_rate, style_rate=0, name_rate=0)
    text = re.sub(r"\ba (?=[aeiou])", "an ", text)  # an orange one, an unhappy one
    text = text.replace("looking crying", "crying").replace("looking smiling", "smiling")
    if rng.random() < style_rate:
        count = 1 + int(rng.integers(3))
        words = rng.choice(list(STYLES), size=count, replace=False, p=_style_odds(critter))
        text += ", " + ", ".join(words)
    if rng.random() < name_rate:
        text += f", by {ARTISTS[rng.integers(len(ARTISTS))]}"
    return text


def wishes(prompt: str) -> dict[str, int]:
    """What a prompt's style words wish for: quality -> 1 (much) or -1 (little); contradictions cancel out.

    >>> wishes("a sad red round critter at night, flat colors, wide shot")
    {'size': -1, 'finish': -1}
    """
    words = [part.strip() for part in prompt.lower().split(",")[1:]]
    total = dict.fromkeys(QUALITIES, 0)
    for word in words:
        for name, sign in STYLES.get(word, ()):
            total[name] += sign
    return {name: int(np.sign(value)) for name, value in total.items() if value}


def make_prompts(count: int, seed: int, avoid: Sequence[str] = ()) -> list[str]:
    """``count`` distinct prompts of the grammar, none of them in ``avoid``; no prompt mentions the body.

    >>> make_prompts(1, seed=0)[0].split(",")[0]
    'happy little monster purple and triangular with a top hat next to a fir tree in winter'
    """
    rng = np.random.default_rng(seed)
    return distinct_texts(count, lambda: caption(random_critter(rng, flaw_share=0.0), rng), avoid)


def vocabulary_corpus() -> list[str]:
    """Every phrase of the grammar once, plus the identifier: what the tokenizer's merges are learned from."""
    known = first.vocabulary_corpus()
    return [*known, "an", *(style for style in STYLES if style not in known)]
