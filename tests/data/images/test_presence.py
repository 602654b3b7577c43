"""hpslib.data.images.presence: what one look tells is what image_present finds out, and where it cannot, it says so."""

from __future__ import annotations

import doctest
import os
import zipfile
from itertools import product
from pathlib import Path

import pytest

import hpslib.data.images.presence as module
from hpslib.data.images.presence import plain_lookup
from hpslib.data.images.safe import image_present


def test_doctests() -> None:
    result = doctest.testmod(module)
    assert result.failed == 0 and result.attempted >= 2


def release(folder: Path) -> Path:
    """A folder with everything that a path may meet: links in and out, loops, zip files, folders called so, a pipe."""
    root, outside = folder / "release", folder / "outside"
    (root / "images" / "deep").mkdir(parents=True)
    (root / "folder.zip").mkdir()
    outside.mkdir()
    for place in (root / "images", root / "images/deep", root / "folder.zip", root, outside):
        (place / "a.png").write_bytes(b"x")
    (root / "images/inner.png").symlink_to("a.png")
    (root / "images/leak.png").symlink_to(outside / "a.png")
    (root / "images/nowhere.png").symlink_to("gone.png")
    (root / "gallery").symlink_to(outside)
    (root / "images/back").symlink_to("..")
    (root / "loop").symlink_to("loop")
    with zipfile.ZipFile(root / "part.zip", "w") as file:
        file.writestr("a.png", b"x")
    (root / "linked.zip").symlink_to(root / "part.zip")
    (root / "stolen.zip").symlink_to(outside / "part.zip")
    (outside / "part.zip").write_bytes((root / "part.zip").read_bytes())
    os.mkfifo(root / "images/pipe.png")
    return root


FOLDERS = (
    "",
    ".",
    "images",
    "images/",
    "images//deep",
    "images/./deep",
    "gallery",
    "images/back",
    "loop",
    "gone",
    "part.zip",
    "linked.zip",
    "stolen.zip",
    "folder.zip",
    "images/a.png",
    "..",
    "/etc",
    "a\ud800",
)
NAMES = (
    "a.png",
    "gone.png",
    "inner.png",
    "leak.png",
    "nowhere.png",
    "pipe.png",
    "deep",
    "",
    ".",
    "..",
    "a\0",
    "a\\b",
    "c:a.png",
    "b" * 300,
    "é" * 127,
    "a\ud800.png",
    "part.zip",
)


def asked(root: Path, relative: str) -> bool | str:
    try:
        return image_present({"bytes": None, "path": relative}, root, where="row 0")
    except (ValueError, OSError) as error:
        return str(error)


@pytest.mark.parametrize("alias", [False, True])
def test_a_plain_answer_is_that_of_image_present(tmp_path: Path, alias: bool) -> None:
    root = release(tmp_path)
    if alias:  # the folder itself may be a link: the user named it
        root = tmp_path / "alias"
        root.symlink_to(tmp_path / "release")
    there, plain = plain_lookup(root), 0
    for folder, name in product(FOLDERS, NAMES):
        relative = f"{folder}/{name}" if folder else name
        found = there(relative)
        assert found is None or found is asked(root, relative), relative
        plain += found is not None
    assert plain > 50


def test_what_is_refused_or_lies_behind_a_link_or_in_a_zip_file_is_left_to_a_closer_look(tmp_path: Path) -> None:
    there = plain_lookup(release(tmp_path))
    assert there("images/a.png") is there("images//deep/a.png") is there("folder.zip/a.png") is True
    assert there("images/gone.png") is there("gone/a.png") is there("images/deep") is there("images/pipe.png") is False
    for relative in (
        "../a.png",
        "/etc/hostname",
        "images\\a.png",
        "c:a.png",
        "",
        "a\0",
        "images/leak.png",
        "images/inner.png",
        "gallery/a.png",
        "images/back/a.png",
        "loop/a.png",
        "part.zip/a.png",
        "stolen.zip/a.png",
        "images/",
    ):
        assert there(relative) is None, relative


def test_a_root_inside_a_zip_file_is_never_plain(tmp_path: Path) -> None:
    release(tmp_path)
    assert plain_lookup(tmp_path / "release/part.zip")("a.png") is None
    assert plain_lookup(tmp_path / "release/part.zip")("deep/a.png") is None


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may look into every folder")
def test_a_folder_that_may_not_be_looked_into_is_left_to_a_closer_look(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o000)
    assert plain_lookup(tmp_path)("closed/a.png") is None


def test_paths_are_relative_to_where_one_stands_without_a_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(release(tmp_path))
    for root in ("", ".", Path()):
        assert plain_lookup(root)("images/a.png") is True
