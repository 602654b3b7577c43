"""A small byte-pair vocabulary in the format CLIP uses, readable by open_clip and by transformers alike.

Byte fallback makes every text valid; the merges cover the grammar's words, so most words are one token.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

__all__ = ["CONTEXT_LENGTH", "learn_merges", "load_clip_tokenizer", "load_tokenizer", "write_tokenizer"]

CONTEXT_LENGTH = 32
# OpenAI CLIP's own pattern without the contractions; transformers' CLIPTokenizer uses the same one.
_PATTERN = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


def learn_merges(corpus: list[str], vocabulary_size: int = 1600) -> list[str]:
    """Learn merges with the ``tokenizers`` library; each is ``"left right"``, most frequent first."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    options: dict[str, Any] = {"end_of_word_suffix": "</w>", "min_frequency": 1, "show_progress": False}
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocabulary_size, initial_alphabet=letters, **options)
    tokenizer.train_from_iterator([text.lower() for text in corpus], trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [" ".join(pair) for pair in merges]


def write_tokenizer(folder: Path, merges: list[str]) -> None:
    """Write ``bpe.txt.gz`` (open_clip) and ``vocab.json`` + ``merges.txt`` (transformers) with the same ids."""
    folder.mkdir(parents=True, exist_ok=True)
    # No newline at the end: open_clip would read an empty last merge and every later id would shift by one.
    text = "\n".join(["#version: 0.2", *merges])
    with (folder / "bpe.txt.gz").open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as file:
        file.write(text.encode("utf-8"))
    (folder / "merges.txt").write_text(text, encoding="utf-8")
    # The two libraries spell the special tokens differently; the ids are what matters.
    spelling = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {spelling.get(token, token): i for token, i in load_tokenizer(folder).encoder.items()}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")


def load_tokenizer(folder: Path, context_length: int = CONTEXT_LENGTH) -> Any:
    """open_clip's ``SimpleTokenizer`` over the small vocabulary: texts -> (n, context_length) int64."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(bpe_path=str(folder / "bpe.txt.gz"), context_length=context_length)


def load_clip_tokenizer(folder: Path, context_length: int = CONTEXT_LENGTH) -> Any:
    """transformers' ``CLIPTokenizer`` with the same ids, as a ``StableDiffusionPipeline`` wants it."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=context_length)
