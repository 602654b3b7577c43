"""Captions for critters: a small grammar with several phrasings, in the manner of the prompts people type.

Prompts of HPD v1 are lower case, vary in length, carry style words after a comma and sometimes
the name of an artist. These captions do the same; the artists are invented.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hpslib.critters.attributes import COLOURS, FLAW_DETAILS, Critter

__all__ = ["ARTISTS", "caption", "clean_body", "distinct_texts", "read_caption", "vocabulary_corpus"]

_SHAPES = {
    "round": ("round", "ball shaped"),
    "square": ("square", "boxy"),
    "triangular": ("triangular", "pyramid shaped"),
    "long": ("long", "egg shaped"),
}
_SCENES = {
    "meadow": ("in a meadow", "on green grass", "in a sunny field"),
    "beach": ("on a beach", "by the sea", "on the sand by the ocean"),
    "night": ("at night", "under the moon and stars", "in the dark night"),
    "snow": ("in the snow", "in a snowy landscape", "next to a fir tree in winter"),
    "desert": ("in a desert", "next to a cactus", "in the hot desert"),
    "city": ("in a city", "in front of tall buildings", "downtown"),
}
_ACCESSORIES = {
    "none": ("",),
    "hat": ("wearing a hat", "with a top hat"),
    "crown": ("wearing a crown", "with a golden crown"),
    "balloon": ("holding a balloon", "with a pink balloon"),
    "scarf": ("wearing a scarf", "with a teal scarf"),
}
_EXPRESSIONS = {
    "happy": ("happy", "smiling", "cheerful"),
    "sad": ("sad", "crying", "unhappy"),
    "surprised": ("surprised", "astonished", "amazed"),
}
_NOUNS = ("critter", "creature", "little monster")
_STYLES = (
    "digital art",
    "cute cartoon",
    "highly detailed",
    "children's book illustration",
    "4 k",
    "soft light",
    "trending",
    "vector art",
    "sharp focus",
    "character design",
    "flat colors",
    "masterpiece",
)
ARTISTS = ("mira holt", "juno abara", "tomas velin", "ines okada")  # invented: no living artist is imitated
_CLEAN = ("with two arms and two legs", "with two eyes", "with everything in its place", "with two arms", "well drawn")


def clean_body(critter: Critter, rng: np.random.Generator) -> str:
    """A clause about the body: what is wrong with it, or, for a sound critter, that all is in place."""
    if critter.detail:
        return "with " + " and ".join(text for _, text in critter.detail)
    return _CLEAN[rng.integers(len(_CLEAN))]


def caption(
    critter: Critter,
    rng: np.random.Generator,
    *,
    body_rate: float = 0.0,
    style_rate: float = 0.5,
    name_rate: float = 0.1,
) -> str:
    """Describe ``critter`` in one of many phrasings.

    ``body_rate`` is the share of captions with a clause about the body. The clause is as frequent for sound
    critters as for flawed ones, so a caption *without* it tells nothing about flaws: that is why, later, the
    agreement between image and prompt hardly tells a good image from a bad one.

    >>> caption(Critter("red", "round", "beach", "hat", "happy"), np.random.default_rng(1), style_rate=0, name_rate=0)
    'a smiling red ball shaped little monster wearing a hat on the sand by the ocean'
    """

    def pick(options: tuple[str, ...]) -> str:
        return options[rng.integers(len(options))]

    mood, shape, noun = pick(_EXPRESSIONS[critter.expression]), pick(_SHAPES[critter.shape]), pick(_NOUNS)
    scene, accessory = pick(_SCENES[critter.scene]), pick(_ACCESSORIES[critter.accessory])
    body = clean_body(critter, rng) if rng.random() < body_rate else ""
    form = rng.integers(4)
    if form == 0:
        parts = [f"a {mood} {critter.colour} {shape} {noun}", accessory, body, scene]
    elif form == 1:
        parts = [f"{critter.colour} {shape} {noun}", accessory, body, scene, f"looking {mood}"]
    elif form == 2:
        parts = [f"{scene} a {critter.colour} {shape} {noun}", accessory, f"is {mood}", body]
    else:
        parts = [f"{mood} {noun}", f"{critter.colour} and {shape}", accessory, scene, body]
    text = " ".join(part for part in parts if part)
    if rng.random() < style_rate:
        styles = rng.choice(len(_STYLES), size=1 + int(rng.integers(3)), replace=False)
        text += ", " + ", ".join(_STYLES[i] for i in styles)
    if rng.random() < name_rate:
        text += f", by {pick(ARTISTS)}"
    return text


def distinct_texts(count: int, write: Callable[[], str], avoid: Sequence[str] = ()) -> list[str]:
    """``count`` texts by ``write``, none like another and none of them in ``avoid``."""
    seen = set(avoid)
    texts: list[str] = []
    while len(texts) < count:
        text = write()
        if text not in seen:
            seen.add(text)
            texts.append(text)
    return texts


def vocabulary_corpus() -> list[str]:
    """Every phrase of the grammar once, plus the identifier: what the tokenizer's merges are learned from."""
    phrases = [*COLOURS, *_NOUNS, *_STYLES, *ARTISTS, *_CLEAN, "looking", "is", "by", "and", "with", "a photo of"]
    for table in (_SHAPES, _SCENES, _ACCESSORIES, _EXPRESSIONS, FLAW_DETAILS):
        for options in table.values():
            phrases += [text for text in options if text]
    return [*phrases, "weird image.", "a picture of a"]


def read_caption(text: str) -> dict[str, str]:
    """The attributes a prompt asks for: the grammar backwards.

    Phrases are looked for longest first and removed when met, so the "green" of "on green grass" is not taken
    for the critter's colour. Raises ``ValueError`` for a text the grammar could not have written.

    >>> read_caption("on green grass a red boxy creature with a top hat is happy, 4 k")["colour"]
    'red'
    """
    tables: dict[str, Mapping[str, tuple[str, ...]]] = {
        "scene": _SCENES,
        "accessory": _ACCESSORIES,
        "shape": _SHAPES,
        "expression": _EXPRESSIONS,
        "colour": {name: (name,) for name in COLOURS},
    }
    rest = f" {' '.join(text.lower().split(',')[0].split())} "
    attributes: dict[str, str] = {}
    for attribute, table in tables.items():
        options = [(phrase, value) for value, phrases in table.items() for phrase in phrases if phrase]
        for phrase, value in sorted(options, key=lambda option: -len(option[0])):
            if f" {phrase} " in rest:
                attributes[attribute] = value
                rest = rest.replace(f" {phrase} ", " ", 1)
                break
    attributes.setdefault("accessory", "none")
    missing = [name for name in tables if name not in attributes]
    if missing:
        raise ValueError(
            f"the prompt {text!r} names no {missing[0]}: simulated raters only understand captions of the "
            "critters grammar (hpslib.critters.captions.caption)."
        )
    return attributes
