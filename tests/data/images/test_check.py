"""hpslib.data.images.check: every image is opened, every bad one is named, and nothing is passed over in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
from release_files import image_file, put, put_files, refusal, zipped

from hpslib.data.images.check import CheckedImages, check_images
from hpslib.data.images.lazy import LazyImages


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    put(root, "b.png", "a.PNG", "sub/c.png")
    put_files(
        root,
        {
            "cut.png": image_file(1)[:40],
            "empty.jpg": b"",
            "page.png": "<html>",
            "._a.png": b"\0\5\x16\7",
            ".DS_Store": b"x",
            "a.txt": "a cat",
            "x.avif": b"\0\0\0 ftypavif",
            "LICENSE": "",
            "bad.zip": b"PK",
        },
    )
    zipped(root / "part.zip", "0.png", "in/1.png", "__MACOSX/._0.png", "readme.md")
    return root


def test_every_image_is_looked_at_and_every_bad_one_named(folder: Path) -> None:
    checked = check_images(folder)
    assert checked.checked == 9 and checked.hidden == 2
    assert checked.other == {".txt": 1, ".avif": 1, "": 1, ".md": 1}
    assert [name for name, _ in checked.bad] == ["bad.zip", "cut.png", "empty.jpg", "page.png"]
    for name, reason in checked.bad:
        assert name in reason and reason.endswith(".") and ": " in reason and "\n" not in reason
    assert str(checked) == (
        "5 of 9 images are sound, 4 are not; passed over: 2 hidden images, 1 without an ending, 1 .avif, 1 .md, 1 .txt"
    )


def test_the_number_of_workers_changes_nothing(folder: Path) -> None:
    put(folder, *(f"more/{k:03d}.png" for k in range(60)))
    (folder / "more/031.png").write_bytes(b"x")
    steps: list[tuple[int, int]] = []
    alone = check_images(folder, workers=1, progress=lambda done, total: steps.append((done, total)))
    assert alone == check_images(folder, workers=7) and "more/031.png" in dict(alone.bad)
    assert steps == [(k, 69) for k in range(2, 70)], "the zip file that cannot be opened is settled first"


def test_names_say_which(folder: Path) -> None:
    checked = check_images(folder, ["part.zip/0.png", "b.png", "part.zip/no.png", "cut.png"])
    assert checked.checked == 4 and [name for name, _ in checked.bad] == ["cut.png", "part.zip/no.png"]
    assert "is absent" in dict(checked.bad)["part.zip/no.png"]
    assert str(check_images(folder, ["b.png"])) == "1 of 1 images are sound"


def test_a_linked_folder_and_a_data_set(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    linked, direct = check_images(tmp_path / "link"), check_images(folder)
    assert str(linked) == str(direct) and dict(linked.bad).keys() == dict(direct.bad).keys()
    items = [{"bytes": image_file(1), "path": None}, {"bytes": b"x", "path": None}, {"bytes": None, "path": "b.png"}]
    images = LazyImages(items, [f"group 'g', image {k}" for k in (2, 1, 0)], folder)
    checked = check_images(images)
    assert isinstance(checked, CheckedImages) and checked.checked == 3
    assert [name for name, _ in checked.bad] == ["group 'g', image 1"]


def test_faults_of_the_arguments(tmp_path: Path) -> None:
    assert "is no folder" in refusal(lambda: check_images(tmp_path / "no"), FileNotFoundError)
    put_files(tmp_path, {"._a.png": b"x"})
    assert "holds no image but 1 hidden ones" in refusal(lambda: check_images(tmp_path))
    assert "at least 1 worker" in refusal(lambda: check_images(tmp_path, workers=0))
    assert "only for a folder" in refusal(lambda: check_images(LazyImages([], [], None), ["a"]))
    assert "the data set holds no image" in refusal(lambda: check_images(LazyImages([], [], None)))
