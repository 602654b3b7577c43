"""hpslib.data.pools.captioned: both layouts of captions, what has no partner, and the faults of a folder."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
from release_files import image_file, put_files, refusal

from hpslib.data.groups import flatten_groups
from hpslib.data.pools.captioned import read_captioned
from hpslib.data.preferences import load_images


def test_text_files_beside_images_are_their_captions(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        "00001/b.jpg": image_file(1, "JPEG"),
        "00001/b.txt": " a cat,\nünï \n",
        "00001/b.json": "{}",
    }
    files |= {
        "00000/z.PNG": image_file(2),
        "00000/z.txt": "a dog",
        "a.webp": image_file(3, "WEBP"),
        "a.txt": "\ufeffa fox",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = read_captioned(put_files(tmp_path, files))
    assert list(data.features) == ["id", "prompt", "images"]
    assert list(data["id"]) == ["00000/z.PNG", "00001/b.jpg", "a.webp"]
    assert list(data["prompt"]) == ["a dog", "a cat,\nünï", "a fox"]
    assert all(load_images(row, tmp_path)[0].size == (5, 4) for row in data)


def test_a_table_of_captions_takes_the_place_of_text_files(tmp_path: Path) -> None:
    table = 'file_name,text,source\nb.png,"a cat, red",x\nsub/a.png,a dog,y\n'
    put_files(
        tmp_path, {"metadata.csv": table, "b.png": image_file(1), "sub/a.png": image_file(2), "b.txt": "not this"}
    )
    data = read_captioned(tmp_path)
    assert list(zip(data["id"], data["prompt"])) == [("b.png", "a cat, red"), ("sub/a.png", "a dog")]


@pytest.mark.parametrize("layout", ["files", "table"])
def test_what_has_no_partner_is_counted_in_one_warning(tmp_path: Path, layout: str) -> None:
    put_files(
        tmp_path,
        {f"{letter}.png": image_file(1) for letter in "abc"} | {".hidden.png": image_file(1), "failed.jsonl": "{}"},
    )
    if layout == "files":
        put_files(tmp_path, {"a.txt": "a cat", "b.txt": " \n", "x.txt": "a dog", "y.txt": "a fox"})
    else:
        put_files(tmp_path, {"metadata.csv": "file_name,text\na.png,a cat\nb.png, \nx.png,a dog\ny.png,a fox\n"})
    with pytest.warns(UserWarning, match="2 of 3 images have no caption and 2 captions no image") as caught:
        data = read_captioned(tmp_path)
    assert len(caught) == 1 and list(data["id"]) == ["a.png"]


def test_faults_of_a_folder(tmp_path: Path) -> None:
    assert "is no folder" in refusal(lambda: read_captioned(tmp_path / "no"), FileNotFoundError)
    put_files(tmp_path, {"a.png": image_file(1)})
    assert "holds 1 images and no caption for any: put a.txt" in refusal(lambda: read_captioned(tmp_path))
    put_files(tmp_path, {"a.txt": "ünï".encode("latin-1")})
    assert "a.txt is not readable as text" in refusal(lambda: read_captioned(tmp_path))
    for text, part in (
        ("file,text\n", "lacks the column file_name: give it a header"),
        ("file_name,text\na.png,x\na.png,y\n", "line 3 is a second caption of 'a.png': remove"),
        ("file_name,text\n../a.png,x\n", "in {tmp_path}/metadata.csv, line 2, the path '../a.png' has a '..'"),
        ("file_name,text\na.png,x,y\n", "line 2 has 3 fields where the header has 2: put"),
        ("", "lacks the column file_name, text: give"),
    ):
        put_files(tmp_path, {"metadata.csv": text})
        assert part.format(tmp_path=tmp_path) in refusal(lambda: read_captioned(tmp_path))


def test_a_linked_folder_is_read_once_and_hidden_images_are_counted(tmp_path: Path) -> None:
    put_files(tmp_path / "disk", {"a.png": image_file(1), "a.txt": "a cat", "._a.png": b"x", "__MACOSX/a.png": b"x"})
    (tmp_path / "disk/again").symlink_to(tmp_path / "disk")
    (tmp_path / "here").mkdir()
    (tmp_path / "here/set").symlink_to(tmp_path / "disk")
    for root, name in ((tmp_path / "here", "set/a.png"), (tmp_path / "here/set", "a.png")):
        with pytest.warns(UserWarning, match=r"0 of 1 images have no caption .* \(as are 2 hidden images\)"):
            data = read_captioned(root)
        assert list(data["id"]) == [name] and list(data["prompt"]) == ["a cat"]
        assert flatten_groups(data, root)[0][0].size == (5, 4)


def test_a_file_name_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    put_files(tmp_path, {"a.png": image_file(1), "a.txt": "a cat"})
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(image_file(1))
    text = refusal(lambda: read_captioned(tmp_path))
    assert text == f"{tmp_path} holds the file '\\\\udcff.png', whose name is not UTF-8: rename it."
