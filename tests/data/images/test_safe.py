"""hpslib.data.images.safe: every image comes out upright, RGB and whole, or is refused in one sentence."""

from __future__ import annotations

import io
import os
import struct
import time
import zipfile
import zlib
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hpslib.data.images.safe
from hpslib.data.images.archives import MAX_MEMBER_BYTES, open_zip, zip_step
from hpslib.data.images.lazy import LazyImages
from hpslib.data.images.safe import (
    FORMATS,
    check_relative,
    image_extension,
    image_present,
    image_source,
    open_image,
    safe_join,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def noise(rng: np.random.Generator, width: int = 40, height: int = 30) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, name: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims any size and holds next to nothing: the bomb."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def one_sentence(error: pytest.ExceptionInfo[BaseException], *parts: str) -> None:
    text = str(error.value)
    assert "\n" not in text and ". " not in text and text.endswith(".") and text.count(": ") == 1
    for part in parts:
        assert part in text


def test_path_bytes_and_image_give_the_same_pixels(rng: np.random.Generator, tmp_path: Path) -> None:
    image = noise(rng)
    (tmp_path / "a.png").write_bytes(encoded(image))
    expected = np.asarray(image)
    for item in (tmp_path / "a.png", str(tmp_path / "a.png"), encoded(image), bytearray(encoded(image)), image):
        opened = open_image(item, where="a")
        assert opened.mode == "RGB" and type(opened) is Image.Image
        np.testing.assert_array_equal(np.asarray(opened), expected)


@pytest.mark.parametrize("name", FORMATS)
def test_every_listed_format_opens_and_is_recognised(rng: np.random.Generator, name: str) -> None:
    data = encoded(noise(rng), name)
    assert open_image(data, where="a").size == (40, 30)
    assert image_extension(data, where="a") == FORMATS[name]


def test_the_file_is_closed_and_the_callers_image_untouched(rng: np.random.Generator, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(noise(rng)))
    opened = open_image(path, where="a")
    path.unlink()
    opened.getpixel((0, 0))
    mine = noise(rng)
    copy = open_image(mine, where="mine")
    copy.putpixel((0, 0), (1, 2, 3))
    assert mine.getpixel((0, 0)) != (1, 2, 3)


@pytest.mark.parametrize(("tag", "turn"), [(3, 2), (6, 3), (8, 1)])
def test_exif_rotation_is_applied(rng: np.random.Generator, tag: int, turn: int) -> None:
    image, exif = noise(rng), Image.Exif()
    exif[0x0112] = tag
    opened = open_image(encoded(image, exif=exif), where="a")
    np.testing.assert_array_equal(np.asarray(opened), np.rot90(np.asarray(image), turn))
    assert not opened.getexif() and not opened.info


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    for name in ("GIF", "PNG", "WEBP"):
        options = {"lossless": True} if name == "WEBP" else {}
        data = encoded(frames[0], name, save_all=True, append_images=frames[1:], **options)
        assert open_image(data, where="a").getpixel((3, 3)) == (255, 0, 0)


def test_transparency_is_laid_over_white() -> None:
    half = Image.new("RGBA", (2, 1), (200, 0, 0, 0))
    half.putpixel((1, 0), (200, 0, 0, 255))
    opened = open_image(encoded(half), where="a")
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (200, 0, 0)]
    grey = Image.new("LA", (1, 1), (0, 51))
    assert open_image(grey, where="a").getpixel((0, 0)) == (204, 204, 204)
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([9, 9, 9] * 256)
    assert open_image(encoded(palette, transparency=0), where="a").getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    deep = Image.fromarray(np.array([[0, 0x1234, 0xFFFF]], dtype=np.uint16))
    opened = open_image(encoded(deep), where="a")
    assert [opened.getpixel((x, 0))[0] for x in range(3)] == [0, 0x12, 255]
    with pytest.raises(ValueError, match="8 bits per channel") as error:
        open_image(Image.new("F", (2, 2)), where="a")
    one_sentence(error, "a has 32-bit pixels of unknown range: save it")


def test_a_bomb_is_refused_from_its_header() -> None:
    for width, height in ((40_000, 40_000), (9_000, 8_000)):
        with pytest.raises(ValueError, match="smaller copy") as error:
            open_image(png_header(width, height), where="row 3, image 1")
        one_sentence(error, "row 3, image 1 ")


def test_max_pixels_is_inclusive(rng: np.random.Generator) -> None:
    assert open_image(noise(rng), where="a", max_pixels=1200).size == (40, 30)
    with pytest.raises(ValueError, match="40 x 30 pixels, more than the 1199 allowed"):
        open_image(noise(rng), where="a", max_pixels=1199)
    with pytest.raises(ValueError, match="0 x 5"):
        open_image(Image.new("RGB", (0, 5)), where="a")


@pytest.mark.parametrize("name", FORMATS)
def test_a_cut_off_image_is_refused(rng: np.random.Generator, name: str) -> None:
    data = encoded(noise(rng), name)
    with pytest.raises(ValueError, match="download it again") as error:
        open_image(data[: len(data) * 2 // 3], where="preference_test.json, row 3, image 0")
    one_sentence(error, "preference_test.json, row 3, image 0 is ")


def test_flipped_bytes_either_open_or_give_one_sentence(rng: np.random.Generator) -> None:
    data, refused = encoded(noise(rng)), 0
    for position in rng.integers(0, len(data), 200):
        broken = bytearray(data)
        broken[position] ^= 0xFF
        try:
            assert open_image(broken, where="a").mode == "RGB"
        except ValueError as error:
            refused += 1
            assert str(error).startswith("a ") and "\n" not in str(error) and str(error).endswith(".")
    assert refused > 100


def test_absent_empty_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is absent \(.*\): download it") as error:
        open_image(tmp_path / "no.png", where="row 1")
    one_sentence(error, "row 1 is absent", "no.png")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("<html>not found</html>")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
    else:
        (tmp_path / "pipe.png").mkdir()
    faults = [(tmp_path / "empty.png", "is an empty file"), (b"", "has no bytes"), (tmp_path, "regular file")]
    faults += [
        (tmp_path / "text.png", "is no intact image"),
        (tmp_path / "pipe.png", "regular file"),
        (7, "is no image but a int"),
    ]
    for item, part in faults:
        with pytest.raises(ValueError) as refused:
            open_image(item, where="row 1")  # type: ignore[arg-type]
        one_sentence(refused, "row 1 ", part)


def test_postscript_is_never_opened() -> None:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    for function in (open_image, image_extension):
        with pytest.raises(ValueError, match="a is no intact image of a format in JPEG"):
            function(eps, where="a")


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("", "names no file"),
        (".", "names no file"),
        ("a\0.png", "names no file"),
        ("/etc/passwd", "absolute"),
        ("../a.png", "'..'"),
        ("a/../../b.png", "'..'"),
        ("a/..", "'..'"),
        ("C:/a.png", "drive letter"),
        ("c:a.png", "drive letter"),
        ("a\\b.png", "backslash"),
        ("\\\\host\\share", "backslash"),
        (7, "a int"),
        ("a/" + "b" * 5000, "has a name of 5000 bytes in it where 255 are allowed"),
        ("é" * 200, "has a name of 400 bytes"),
    ],
)
def test_paths_that_leave_or_name_nothing(tmp_path: Path, path: str, part: str) -> None:
    for function in (check_relative, lambda name: safe_join(tmp_path, name)):
        with pytest.raises(ValueError) as error:
            function(path)
        one_sentence(error, part, repr(path) if len(str(path)) < 300 else "...'")
        assert len(str(error.value)) < 400


def test_links_may_stay_inside_but_not_leave(tmp_path: Path) -> None:
    root, outside = tmp_path / "release", tmp_path / "outside"
    (root / "images").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret.png").write_bytes(b"x")
    (root / "images" / "real.png").write_bytes(b"x")
    (root / "images" / "inner.png").symlink_to("real.png")
    (root / "images" / "leak.png").symlink_to(outside / "secret.png")
    (root / "gallery").symlink_to(outside)
    (root / "loop").symlink_to("loop")
    assert safe_join(root, "images/inner.png").read_bytes() == b"x"
    assert safe_join(root, "images/not yet.png") == root / "images" / "not yet.png"
    (outside / "leak.png").symlink_to(tmp_path / "elsewhere.png")
    assert safe_join(root, "gallery/secret.png").read_bytes() == b"x", "a linked folder somebody put there on purpose"
    (outside / "disk").symlink_to(root / "images")
    assert safe_join(root, "gallery/disk/inner.png").read_bytes() == b"x"
    for path in ("images/leak.png", "gallery/leak.png", "gallery/disk/leak.png", "loop/a.png"):
        with pytest.raises(ValueError, match="through a link") as error:
            safe_join(root, path)
        one_sentence(error, repr(path))
    (tmp_path / "alias").symlink_to(root)  # the folder itself may be a link: the user named it
    assert safe_join(tmp_path / "alias", "images/real.png").exists()


def test_image_source_prefers_bytes_and_asks_for_a_root(tmp_path: Path) -> None:
    assert image_source({"bytes": b"x", "path": "a.png"}, None, where="row 0") == b"x"
    assert image_source({"bytes": None, "path": "a.png"}, tmp_path, where="row 0") == tmp_path / "a.png"
    with pytest.raises(
        ValueError, match=r"^row 0 is the file 'a.png' beside its annotations: pass their folder as root=\.$"
    ):
        image_source({"bytes": None, "path": "a.png"}, None, where="row 0")
    with pytest.raises(ValueError, match=r"^in row 0, the path '../a.png' has a '\.\.' in it: write it relative"):
        image_source({"bytes": None, "path": "../a.png"}, tmp_path, where="row 0")


# --- zip files --------------------------------------------------------------------------------------------------------


def entry(path: str) -> dict[str, object]:
    return {"bytes": None, "path": path}


def archive(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def test_a_member_of_a_zip_file_gives_its_bytes(rng: np.random.Generator, tmp_path: Path) -> None:
    data = encoded(noise(rng))
    archive(tmp_path / "images/part-000001.zip", {"abc.png": data, "deep/er.png": data[:9]})
    assert image_source(entry("images/part-000001.zip/abc.png"), tmp_path, where="row 0") == data
    assert image_source(entry("images/part-000001.zip/deep/er.png"), tmp_path, where="row 0") == data[:9]
    assert image_present(entry("images/part-000001.zip/abc.png"), tmp_path, where="row 0")
    (tmp_path / "folder.zip").mkdir()  # a folder may be called so
    (tmp_path / "folder.zip/a.png").write_bytes(data)
    assert image_source(entry("folder.zip/a.png"), tmp_path, where="row 0") == tmp_path / "folder.zip/a.png"
    assert image_present(entry("folder.zip/a.png"), tmp_path, where="row 0")
    assert zip_step(tmp_path / "images/part-000001.zip") == (None, ""), "the zip file itself is a file"


def test_an_absent_member_is_handled_like_an_absent_file(tmp_path: Path) -> None:
    archive(tmp_path / "a.zip", {"there.png": b"x", "folder/": b""})
    for path in ("a.zip/no.png", "a.zip/folder", "b.zip/no.png", "no.png"):
        assert not image_present(entry(path), tmp_path, where="row 0")
        source = image_source(entry(path), tmp_path, where="row 0")
        assert source == tmp_path / path and not source.is_file()
        with pytest.raises(FileNotFoundError, match=r"^row 0 is absent \(.*\): download it or remove its row\.$"):
            open_image(source, where="row 0")
    assert image_present({"bytes": b"x", "path": None}, None, where="row 0")


def test_damaged_zip_files_are_refused_in_one_sentence(rng: np.random.Generator, tmp_path: Path) -> None:
    whole = archive(tmp_path / "a.zip", {"a.png": encoded(noise(rng))}).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[:-30])
    flipped = bytearray(whole)
    flipped[200] ^= 0xFF
    (tmp_path / "flipped.zip").write_bytes(flipped)
    locked = bytearray(whole)
    locked[6] |= 1
    locked[whole.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(locked)
    for name, part in (
        ("cut", "cut.zip of row 3, image 0 is damaged or cut off"),
        ("flipped", "'a.png' in"),
        ("locked", "encrypted"),
    ):
        with pytest.raises(ValueError, match="download") as error:
            image_source(entry(f"{name}.zip/a.png"), tmp_path, where="row 3, image 0")
        one_sentence(error, "row 3, image 0 ", part)
    with pytest.raises(FileNotFoundError, match=r"^the zip file .*no\.zip of here is absent: download it\.$"):
        open_zip(tmp_path / "no.zip", where="here")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    archive(tmp_path / "bomb.zip", {"bomb.png": bytes(MAX_MEMBER_BYTES + 1), "fine.png": bytes(10_000)})
    assert (tmp_path / "bomb.zip").stat().st_size < 100_000
    with pytest.raises(ValueError, match=f"claims {MAX_MEMBER_BYTES + 1} bytes, more than the {MAX_MEMBER_BYTES}") as e:
        image_source(entry("bomb.zip/bomb.png"), tmp_path, where="row 0")
    one_sentence(e, "row 0 leads to 'bomb.png' in ")
    assert image_source(entry("bomb.zip/fine.png"), tmp_path, where="row 0") == bytes(10_000)


def test_a_zip_file_that_claims_less_than_it_holds_gives_no_more_than_it_claims(tmp_path: Path) -> None:
    data = bytearray(archive(tmp_path / "lie.zip", {"a.png": bytes(1_000_000)}).read_bytes())
    index = data.index(b"PK\x01\x02")
    data[index + 24 : index + 28] = struct.pack("<I", 100)
    (tmp_path / "lie.zip").write_bytes(data)
    with pytest.raises(ValueError, match=r"^row 0 leads to 'a.png' in .*lie\.zip, which cannot be read \("):
        image_source(entry("lie.zip/a.png"), tmp_path, where="row 0")


def test_a_changed_zip_file_is_opened_afresh_and_an_unchanged_one_once(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"a.png": b"old"})
    first = open_zip(path, where="a")
    assert open_zip(path, where="a") is first
    assert image_source(entry("a.zip/a.png"), tmp_path, where="a") == b"old"
    archive(tmp_path / "b.zip", {"a.png": b"newer"}).replace(path)
    assert image_source(entry("a.zip/a.png"), tmp_path, where="a") == b"newer"


def test_names_in_zip_paths_cannot_leave_the_folder(tmp_path: Path) -> None:
    archive(tmp_path / "outside/a.zip", {"a.png": b"secret", "../b.png": b"x"})
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside/a.zip").symlink_to(tmp_path / "outside/a.zip")
    for path in ("a.zip/a.png", "../outside/a.zip/a.png", "a.zip/../b.png"):
        for function in (image_source, image_present):
            with pytest.raises(ValueError, match=r"^in row 0, the path"):
                function(entry(path), tmp_path / "inside", where="row 0")


def read_members(folder: str, names: list[str]) -> list[int]:
    return [len(image_source(entry(f"a.zip/{name}"), folder, where="a")) for name in names * 20]


def test_forked_workers_read_the_same_zip_file_at_once(rng: np.random.Generator, tmp_path: Path) -> None:
    members = {f"{k}.png": rng.bytes(20_000 + k) for k in range(20)}
    archive(tmp_path / "a.zip", members)
    expected = [len(data) for data in members.values()] * 20
    assert read_members(str(tmp_path), list(members)) == expected  # opened in the parent before the fork
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        results = [pool.submit(read_members, str(tmp_path), list(members)) for _ in range(4)]
        assert all(result.result() == expected for result in results)


# --- what lies around the pixels --------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def exif(*entries: tuple[int, int, bytes]) -> bytes:
    """EXIF of (tag, type, four bytes) entries."""
    rows = b"".join(struct.pack("<HHI", tag, kind, 1) + value for tag, kind, value in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + rows + b"\0" * 4


TURNED = (0x0112, 3, struct.pack("<HH", 6, 0))


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (exif(TURNED, (0x011A, 9, struct.pack("<i", -3))), (16, 24)),  # signed where Pillow writes unsigned
        (exif(TURNED, (0x8769, 4, b"\xff" * 4)), (16, 24)),
        (exif((0x0112, 3, struct.pack("<HH", 99, 0))), (24, 16)),
        (exif((0x0112, 2, b"abc\0")), (24, 16)),
        (exif(TURNED)[:20], (24, 16)),
        (b"garbage", (24, 16)),
        (b"Exif\0\0garbage", (24, 16)),
    ],
)
def test_sound_pixels_come_through_broken_exif(data: bytes, size: tuple[int, int]) -> None:
    image = Image.new("RGB", (24, 16), "red")
    png = encoded(image)
    files = [encoded(image, "JPEG", exif=data), encoded(image, "WEBP", exif=data)]
    files.append(png[:33] + chunk(b"eXIf", data.removeprefix(b"Exif\0\0")) + png[33:])
    for file in files:
        assert open_image(file, where="a").size in (size, (24, 16))
    assert open_image(files[0], where="a").size == size


@pytest.mark.parametrize("place", [33, -12])
def test_a_png_may_hold_a_megabyte_beside_its_pixels(rng: np.random.Generator, tmp_path: Path, place: int) -> None:
    image = noise(rng)
    png, big = encoded(image), zlib.compress(b"{" + b" " * 2_000_000 + b"}")
    further = {
        "zTXt": chunk(b"zTXt", b"workflow\0\0" + big),
        "iTXt": chunk(b"iTXt", b"workflow\0\x01\0\0\0" + big),
        "many": 70 * chunk(b"zTXt", b"w\0\0" + zlib.compress(b" " * 1_000_000)),
        "iCCP": chunk(b"iCCP", b"icc\0\0" + big),
        "no zlib": chunk(b"iCCP", b"icc\0\0garbage"),
        "checksum": chunk(b"tEXt", b"a\0b")[:-1] + b"x",
    }
    for name, data in further.items():
        file = png[:place] + data + png[place:]
        np.testing.assert_array_equal(np.asarray(open_image(file, where=name)), np.asarray(image))
        assert image_extension(file, where=name) == "png"
        (tmp_path / "a.png").write_bytes(file)
        np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "a.png", where=name)), np.asarray(image))
    turned = chunk(b"eXIf", exif(TURNED).removeprefix(b"Exif\0\0"))
    assert open_image(png[:33] + turned + further["zTXt"] + png[33:], where="a").size == (30, 40)
    with pytest.raises(ValueError, match="damaged or cut off"):
        open_image(png[:33] + further["zTXt"] + png[33:-100], where="a")


def small_png(depth: int, kind: int, row: bytes, width: int, clear: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, kind, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"tRNS", clear) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "colours"),
    [
        (small_png(16, 0, struct.pack(">3H", 0x1234, 0x1299, 0), 3, struct.pack(">H", 0x1234)), [255, 0x12, 0]),
        (small_png(16, 2, struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0x2034, 1, 2), 2,
                   struct.pack(">3H", 0x1234, 0x5678, 0x9ABC)), [255, 0x20]),
        (small_png(8, 0, bytes([1, 2]), 2, struct.pack(">H", 1)), [255, 2]),
        (small_png(4, 0, bytes([0x12]), 2, struct.pack(">H", 1)), [255, 34]),
        (small_png(2, 0, bytes([0b00011011]), 4, struct.pack(">H", 1)), [0, 255, 170, 255]),
        (small_png(1, 0, bytes([0b01000000]), 2, struct.pack(">H", 0)), [255, 255]),
    ],
)  # fmt: skip
def test_the_transparent_colour_has_the_depth_of_its_pixels(data: bytes, colours: list[int]) -> None:
    opened = open_image(data, where="a")
    assert [opened.getpixel((x, 0))[0] for x in range(opened.width)] == colours


def test_images_of_other_formats_are_to_be_converted(tmp_path: Path) -> None:
    begins = {
        "an AVIF": b"\0\0\0 ftypavif\0\0\0\0avifmif1miafMA1B",
        "a HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "a JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 ",
        "a JPEG XL": b"\0\0\0\x0cJXL \r\n\x87\n",
        "a Photoshop": b"8BPS\0\1",
    }
    for name, data in begins.items():
        (tmp_path / "a.png").write_bytes(data)
        for item in (data, tmp_path / "a.png"):
            with pytest.raises(ValueError) as error:
                open_image(item, where="row 1")
            assert str(error.value) == f"row 1 is {name} image, which is not read here: convert it to PNG or JPEG."
        with pytest.raises(ValueError, match="convert it to PNG or JPEG"):
            image_extension(data, where="row 1")


def test_a_name_too_long_for_any_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be looked up") as error:
        open_image(tmp_path / ("a" * 5000), where="row 1")
    one_sentence(error, "row 1 cannot be looked up (File name too long)")
    assert zip_step(tmp_path / ("a" * 5000) / "b.png") == (None, "")


def test_a_large_transparent_image_is_laid_over_white_in_strips(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (4100, 4000, 4), dtype=np.uint8)  # more than 16 million, several strips
    image = Image.fromarray(pixels)
    expected = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    np.testing.assert_array_equal(np.asarray(open_image(image, where="a")), np.asarray(expected))


def test_the_cache_of_huggingface_hub_is_read(tmp_path: Path) -> None:
    cache = tmp_path / "hub/datasets--a--b"
    (cache / "blobs").mkdir(parents=True)
    (cache / "blobs/0123").write_bytes(b"x")
    (tmp_path / "hub/secret").write_bytes(b"y")
    snapshot = cache / "snapshots/main"
    (snapshot / "images").mkdir(parents=True)
    (snapshot / "images/a.zip").symlink_to("../../../blobs/0123")
    (snapshot / "images/leak.png").symlink_to(tmp_path / "hub/secret")
    for root, name in ((snapshot, "images/a.zip"), (snapshot / "images", "a.zip")):
        assert safe_join(root, name).read_bytes() == b"x"
    with pytest.raises(ValueError, match="through a link"):
        safe_join(snapshot, "images/leak.png")


def test_of_large_images_one_is_decoded_at_a_time(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    decode, active, most = hpslib.data.images.safe.upright_rgb, [], []

    def watched(image: Image.Image) -> Image.Image:
        active.append(id(image))  # to compare two images is to decode them, here in the wrong thread
        most.append(len(active))
        time.sleep(0.01)
        active.remove(id(image))
        return decode(image)

    monkeypatch.setattr(hpslib.data.images.safe, "upright_rgb", watched)
    images = LazyImages([{"bytes": encoded(noise(rng)), "path": None}] * 12, ["a"] * 12, None)
    monkeypatch.setattr(hpslib.data.images.safe, "_LARGE", 1199)
    assert len(images[:]) == 12 and max(most) == 1
    most.clear()
    monkeypatch.setattr(hpslib.data.images.safe, "_LARGE", 1200)
    assert len(images[:]) == 12 and max(most) > 1
