"""hpslib.data.images.names: the same parts and the same refusals as pathlib, letter by letter."""

from __future__ import annotations

import doctest
from itertools import product
from pathlib import PurePosixPath

import pytest

import hpslib.data.images.names as module
from hpslib.data.images.names import path_fault, path_parts

PIECES = ("a", "", ".", "..", "b.png", " ", "~", "...", "é")


def test_doctests() -> None:
    result = doctest.testmod(module)
    assert result.failed == 0 and result.attempted >= 2


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_parts_are_those_of_pathlib(length: int) -> None:
    for pieces in product(PIECES, repeat=length):
        relative = "/".join(pieces)
        theirs = [part for part in PurePosixPath(relative).parts if not part.startswith("/")]
        assert path_parts(relative) == theirs, relative


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_a_name_is_sound_exactly_where_pathlib_finds_a_relative_path_without_a_step_up(length: int) -> None:
    for pieces in product(PIECES, repeat=length):
        relative = "/".join(pieces)
        pure = PurePosixPath(relative)
        sound = bool(pure.parts) and not pure.is_absolute() and ".." not in pure.parts
        assert (path_fault(relative) is None) == sound, relative


@pytest.mark.parametrize(
    ("relative", "fault"),
    [
        ("", "the path '' names no file"),
        ("./.", "the path './.' names no file"),
        ("a\0", r"the path 'a\x00' names no file"),
        ("/", "the path '/' is absolute"),
        ("//host/a", "the path '//host/a' is absolute"),
        ("/..", "the path '/..' is absolute"),
        ("a/..", "the path 'a/..' has a '..' in it"),
        ("/a\\b", r"the path '/a\\b' has a backslash or a drive letter where '/' stands between the parts"),
        ("c:/a", "the path 'c:/a' has a backslash or a drive letter where '/' stands between the parts"),
        (None, "the path None is a NoneType where text was expected"),
        (b"a", "the path b'a' is a bytes where text was expected"),
    ],
)
def test_every_fault_has_its_words(relative: object, fault: str) -> None:
    assert path_fault(relative) == fault


@pytest.mark.parametrize(("letter", "most"), [("a", 255), ("é", 127), ("€", 85), ("😀", 63), ("\ud800", 85)])
def test_a_name_has_at_most_255_bytes(letter: str, most: int) -> None:
    assert path_fault(f"a/{letter * most}") is None
    size = len(letter.encode("utf-8", "surrogatepass")) * (most + 1)
    assert f"has a name of {size} bytes in it where 255 are allowed" in str(path_fault(f"{letter * (most + 1)}/b"))
    assert path_fault("/".join([letter * most] * 3)) is None, "it is the name that counts, not the path"
