"""hpslib.critters.build.tokenizer: two libraries, one vocabulary, the same ids for any text."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hpslib.critters.attributes import random_critter
from hpslib.critters.build.networks import CLIP
from hpslib.critters.build.tokenizer import (
    CONTEXT_LENGTH,
    learn_merges,
    load_clip_tokenizer,
    load_tokenizer,
    write_tokenizer,
)
from hpslib.critters.captions import caption, vocabulary_corpus

START, END = 887, 888
ANY_TEXT = [
    "",
    "Weird image. a happy red ball shaped creature",
    "an unknownword, qzxqzx & more!!! (4 k) 2023",
    "don't it's they've we're I'll he'd I'm",
    "🐙🎈 zürich ñandú 日本 мир ½ 👨‍👩‍👧",
    "  white \t space\n\n everywhere  ",
    "x" * 300,
    "a critter " * 40,
]


def content(row: torch.Tensor) -> list[int]:
    """Ids up to and with the end token; what follows is padding, which the libraries fill differently."""
    ids = row.tolist()
    return ids[: ids.index(END) + 1]


def test_both_libraries_give_the_same_ids(tokenizer_folder: Path) -> None:
    rng = np.random.default_rng(0)
    texts = ANY_TEXT + [caption(random_critter(rng, 0.5), rng, body_rate=0.5) for _ in range(200)]
    ours = load_tokenizer(tokenizer_folder)(texts)
    theirs = load_clip_tokenizer(tokenizer_folder)(
        texts, padding="max_length", max_length=CONTEXT_LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
    assert ours.shape == theirs.shape == (len(texts), CONTEXT_LENGTH) and ours.dtype == torch.int64
    for text, one, two in zip(texts, ours, theirs, strict=True):
        assert content(one) == content(two), text
        assert one[0] == START and one.max() == END, "the text tower reads the place of the largest id"


def test_any_text_survives_the_way_there_and_back(tokenizer_folder: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    for text in ("a happy critter", "🐙 zürich", "日本"):
        assert tokenizer.decode(tokenizer.encode(text)).strip() == text


def test_most_words_of_the_grammar_are_one_token(tokenizer_folder: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    words = sorted({word.strip(".") for text in vocabulary_corpus() for word in text.split() if word.isalpha()})
    single = [word for word in words if len(tokenizer.encode(word)) == 1]
    assert len(single) >= 0.95 * len(words)


def test_every_caption_of_the_grammar_fits_the_context(tokenizer_folder: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    rng = np.random.default_rng(1)
    lengths = [len(tokenizer.encode(caption(random_critter(rng), rng))) + 2 for _ in range(500)]
    identifier = len(tokenizer.encode("Weird image. "))
    assert np.mean(np.array(lengths) + identifier <= CONTEXT_LENGTH) > 0.99


def test_the_vocabulary_fits_mini_clip(tokenizer_folder: Path) -> None:
    assert load_tokenizer(tokenizer_folder).vocab_size == CLIP["text_cfg"]["vocab_size"] == END + 1
    vocabulary = json.loads((tokenizer_folder / "vocab.json").read_text(encoding="utf-8"))
    assert sorted(vocabulary.values()) == list(range(END + 1))
    assert (vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]) == (START, END)


def test_merges_end_without_a_newline_and_one_would_shift_every_id(tokenizer_folder: Path, tmp_path: Path) -> None:
    packed = gzip.decompress((tokenizer_folder / "bpe.txt.gz").read_bytes())
    assert packed == (tokenizer_folder / "merges.txt").read_bytes() and not packed.endswith(b"\n")
    assert packed.startswith(b"#version: 0.2\n")
    (tmp_path / "bpe.txt.gz").write_bytes(gzip.compress(packed + b"\n"))  # the fault the comment warns of
    assert load_tokenizer(tmp_path).vocab_size == END + 2


def test_the_same_merges_give_the_same_files(tokenizer_folder: Path, tmp_path: Path) -> None:
    merges = (tokenizer_folder / "merges.txt").read_text(encoding="utf-8").split("\n")[1:]
    write_tokenizer(tmp_path / "new" / "folder", merges)
    for name in ("bpe.txt.gz", "merges.txt", "vocab.json"):
        assert (tmp_path / "new" / "folder" / name).read_bytes() == (tokenizer_folder / name).read_bytes()
    # The library breaks ties between equally frequent pairs anew in every run, so only the order can differ.
    assert sorted(learn_merges(vocabulary_corpus())) == sorted(merges)


def test_merges_are_learned_from_the_corpus_most_frequent_first() -> None:
    merges = learn_merges(["zz zz zz zz", "qy"])
    assert merges[0] == "z z</w>" and "q y</w>" in merges
    assert learn_merges(["ZZ ZZ ZZ ZZ", "QY"]) == merges


@pytest.mark.parametrize("length", [8, 77])
def test_context_length_is_an_argument(tokenizer_folder: Path, length: int) -> None:
    text = ["a critter " * 60]
    ours = load_tokenizer(tokenizer_folder, length)(text)
    theirs = load_clip_tokenizer(tokenizer_folder, length)(text, truncation=True, return_tensors="pt").input_ids
    assert ours.shape == (1, length) and torch.equal(ours, theirs)
