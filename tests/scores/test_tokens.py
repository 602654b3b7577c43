"""hpslib.scores.tokens: open_clip's own ids for every prompt at hand and for texts nobody would type."""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hpslib.scores import tokens
from hpslib.scores.tokens import clean_text, encode_text, vocabulary_file

SHARED = Path(__file__).parents[3] / "shared" / "data"

ODD = (
    "",
    " \t\n ",
    "a photo of a cat",
    "😀👍🏽 👨‍👩‍👧 🇩🇪 emoji",
    "\x00\x01\x1f control \x7f \x85 \u200b\ufeff zero width",
    "مرحبا بالعالم, 你好，世界, ภาษาไทย, हिन्दी में, 日本語",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ＦＵＬＬ ﬁ ﬂ Å K Ǆ İstanbul ẞ",
    "&lt;b&gt; &amp;amp;amp; &copy; &#x1F600; &nbsp;x",
    "1234567890 ½ ⅷ ² ٣",
    "it's they're I've I'm we'll he'd don't O'Neil's 'S 'T ''s '''''",
    "'ſ it'ſ",  # a long s counts as an s where case is ignored
    "mÃ©lange â€œquotesâ€\x9d",  # mended by ftfy
    "<start_of_text> hello <end_of_text><START_OF_TEXT> !<end_of_text>! <|startoftext|> <ſtart_of_text>",
    "a\u00a0b\u3000c\u2028d\u1680e",
    "x" * 300,
)


@pytest.fixture(scope="module")
def reference() -> Callable[[str], list[int]]:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer().encode


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    if not SHARED.exists():
        pytest.skip("the sample files are not beside this checkout")
    with (SHARED / "partiprompts" / "PartiPrompts.tsv").open(encoding="utf-8", newline="") as file:
        texts = [row["Prompt"] for row in csv.DictReader(file, delimiter="\t")]
    for name in ("hpd_v1_sample/preference_test.json", "imagereward/test.json"):
        texts += [row["prompt"] for row in json.loads((SHARED / name).read_text(encoding="utf-8"))]
    return texts


@pytest.mark.parametrize("text", ODD)
def test_odd_texts_have_the_ids_of_open_clip(text: str, reference: Callable[[str], list[int]]) -> None:
    assert encode_text(text) == reference(text)


def test_so_has_what_a_generator_of_characters_makes(reference: Callable[[str], list[int]]) -> None:
    rng = random.Random(0)
    blocks = [(32, 127), (0, 0x250), (0x300, 0x3000), (0x3000, 0xD800), (0xE000, 0x11000), (0x1F300, 0x1FB00)]
    for _ in range(3000):
        ends = (rng.choice([*blocks, (0, 0xD800), (0xE000, 0x110000)]) for _ in range(rng.randrange(1, 30)))
        text = "".join(chr(rng.randrange(*block)) for block in ends)
        assert encode_text(text) == reference(text), ascii(text)


def test_every_prompt_at_hand_has_the_ids_of_open_clip(
    prompts: list[str], reference: Callable[[str], list[int]]
) -> None:
    assert len(prompts) > 2400
    assert [text for text in prompts if encode_text(text) != reference(text)] == []


def test_text_is_cleaned_as_open_clip_does() -> None:
    from open_clip.tokenizer import _clean_lower

    assert [clean_text(text) for text in ODD] == [_clean_lower(text) for text in ODD]


def test_no_network_is_loaded() -> None:
    code = "import sys; from hpslib.scores.tokens import encode_text; encode_text('a'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "tokenizers" in loaded and not {"torch", "open_clip", "transformers"} & set(loaded)


def test_a_missing_vocabulary_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert vocabulary_file().is_file()
    monkeypatch.setattr(tokens.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"does not exist: pip install open_clip_torch, which carries"):
        vocabulary_file()
