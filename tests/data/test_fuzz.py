"""A handful of spoilt inputs for every reader: each is read, or refused in one sentence of the library's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools.fuzz import TARGETS, is_clean, outcome

from hpslib.data.rows import read_prompts


@pytest.mark.parametrize("reader", TARGETS)
@pytest.mark.filterwarnings("ignore")
def test_a_spoilt_input_is_read_or_refused_in_one_sentence(reader: str) -> None:
    kinds = [outcome(reader, number, seed=0) for number in range(10)]
    assert [fault for fault in kinds if fault[0] == "traceback"] == []


@pytest.mark.parametrize("reader", TARGETS)
@pytest.mark.filterwarnings("ignore")
def test_what_is_not_spoilt_is_read(tmp_path: Path, reader: str) -> None:
    TARGETS[reader](tmp_path).read()


def test_what_counts_as_clean(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as ours:
        read_prompts(tmp_path / "no.txt")
    assert is_clean(ours.value)
    for theirs in (lambda: int("x"), lambda: {}["a"], lambda: (tmp_path / "no").read_text()):
        with pytest.raises((ValueError, KeyError, OSError)) as error:
            theirs()
        assert not is_clean(error.value)
