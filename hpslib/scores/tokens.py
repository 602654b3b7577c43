"""CLIP's text as numbers, without loading a network: the tokens of open_clip's ``SimpleTokenizer``, counted or read.

Importing open_clip loads torch. Whoever only counts tokens, such as ``hpslib audit``, needs no more than the byte-pair
vocabulary (Radford et al., 2021; Sennrich et al., 2016), which the installed package carries as a file.
"""

from __future__ import annotations

import gzip
import html
import importlib.util
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["check_texts", "clean_text", "encode_text", "vocabulary_file"]

_MERGES = 49_152 - 256 - 2  # of the vocabulary's 49,408 entries: 512 bytes, the merges, start and end
_SPECIAL = ("<start_of_text>", "<end_of_text>")
_WORDS = "|".join(_SPECIAL) + r"|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def check_texts(texts: Sequence[object], what: str = "prompt") -> None:
    """Raise ``ValueError`` for the first that is no text (an empty cell of a table is NaN or ``None``) or that holds
    half a character, as JSON can carry it; ``what`` is what the message calls it.

    >>> check_texts(["a cat", float("nan")])
    Traceback (most recent call last):
    ...
    ValueError: prompt 1 (from 0) is nan, no text: give a text, or leave its row out.
    """
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"{what} {row} (from 0) is {text!r}, no text: give a text, or leave its row out.")
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ValueError(
                f"{what} {row} (from 0), {text[:60]!r}, has half a character in it (a lone surrogate): write the text "
                "anew, or leave its row out."
            )


def vocabulary_file() -> Path:
    """The ``bpe_simple_vocab_16e6.txt.gz`` that open_clip carries, found without importing it.

    Raises ``FileNotFoundError`` when open_clip is not installed, or installed without it.
    """
    spec = importlib.util.find_spec("open_clip")
    folder = Path(spec.origin).parent if spec and spec.origin else Path("open_clip")
    path = folder / "bpe_simple_vocab_16e6.txt.gz"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: pip install open_clip_torch, which carries CLIP's vocabulary.")
    return path


def clean_text(text: str) -> str:
    """What CLIP reads of a text: broken Unicode mended (ftfy), HTML unescaped twice, white space single, lower case.

    >>> clean_text("  A &amp;amp; B \\n")
    'a & b'
    """
    import ftfy

    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower()


def encode_text(text: str) -> list[int]:
    """The token ids of a text as ``open_clip.tokenizer.SimpleTokenizer().encode`` gives them: no start, end or padding.

    >>> encode_text("a photo of a cat")
    [320, 1125, 539, 320, 2368]
    """
    import regex  # as open_clip does: what is a letter depends on the version of Unicode, and Rust's is another

    words = regex.findall(_WORDS, clean_text(text), regex.IGNORECASE)
    return [number for word in words for number in _encode_word(word)]


@lru_cache(maxsize=100_000)
def _encode_word(word: str) -> tuple[int, ...]:
    """The ids of one word; prompts share most of theirs."""
    return tuple(_tokenizer().encode(word).ids)


@cache
def _tokenizer() -> Tokenizer:
    """CLIP's byte pairs in Rust; ids in open_clip's order: bytes, bytes that end a word, merges, start, end."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    lines = gzip.decompress(vocabulary_file().read_bytes()).decode("utf-8").split("\n")[1 : _MERGES + 1]
    merges = [(first, second) for first, second in (line.split() for line in lines)]
    letters = list(_byte_letters())
    names = [*letters, *(f"{letter}</w>" for letter in letters), *(first + second for first, second in merges)]
    vocabulary = {name: number for number, name in enumerate([*names, *_SPECIAL])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.add_special_tokens(list(_SPECIAL))
    return tokenizer


def _byte_letters() -> list[str]:
    """A visible letter for each of the 256 bytes, in the vocabulary's order: GPT-2's table."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [*map(chr, shown), *(chr(256 + number) for number in range(256 - len(shown)))]
