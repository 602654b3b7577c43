"""From what Pillow has opened to upright RGB: sound pixels come through whatever their file says about itself.

Cameras, editors and generators write more into a file than its pixels: a rotation, colour profiles, whole workflows.
Of these only the rotation and the transparency are used here; the rest may be damaged or huge without harm.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["FOREIGN_ENDINGS", "foreign_format", "upright_rgb", "without_metadata"]

#: Endings of images that are not read here, to be counted where a folder is looked through.
FOREIGN_ENDINGS = frozenset((".avif", ".heic", ".heif", ".jp2", ".j2k", ".jpx", ".jxl", ".psd"))

_STRIP = 4_000_000  # pixels that are laid over white at a time, so that no second whole image is needed

_PNG = b"\x89PNG\r\n\x1a\n"

#: First bytes (after the given number) of formats that people have and Pillow's list here lacks.
_FOREIGN = (
    (4, b"ftypavi", "an AVIF"),
    (4, b"ftyphe", "a HEIC"),
    (4, b"ftypmif1", "a HEIC"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL"),
    (0, b"\xff\x0a", "a JPEG XL"),
    (0, b"8BPS", "a Photoshop"),
)


def foreign_format(stream: Path | io.BytesIO) -> str | None:
    """What kind of image it is that is not read here, such as "an AVIF", or ``None`` where it is none that is known."""
    if isinstance(stream, Path):
        with stream.open("rb") as file:
            head = file.read(32)
    else:
        head = stream.getvalue()[:32]
    return next((name for start, mark, name in _FOREIGN if head[start:].startswith(mark)), None)


def without_metadata(stream: Path | io.BytesIO) -> io.BytesIO | None:
    """A PNG's pixels, palette, transparency and EXIF without all the rest, or ``None`` where it is no PNG.

    Pillow refuses a PNG for a megabyte of text (ComfyUI's workflows), a large colour profile or a wrong checksum in
    either, although no pixel needs them. Of an animation the still image is left.
    """
    data = stream.read_bytes() if isinstance(stream, Path) else stream.getvalue()
    if not data.startswith(_PNG):
        return None
    kept, place = [_PNG], len(_PNG)
    while place + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        chunk = data[place : place + 12 + length]
        needed = kind[:1].isupper() or kind == b"tRNS"  # a capital marks what no reader may leave out
        if needed or (kind == b"eXIf" and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")):
            kept.append(chunk)
        place += 12 + length
    return io.BytesIO(b"".join(kept))


def upright_rgb(image: Image.Image) -> Image.Image:
    """A new 8-bit RGB image: the EXIF rotation applied where it can be read, what is transparent laid over white.

    ``image`` has at most 16 bits a channel. Raises what Pillow raises on damaged pixels.
    """
    raw = str(_raw_mode(image))  # before the pixels are decoded: afterwards Pillow knows it no more
    image.load()
    turn = _turn(image)
    rgb = _over_white(_eight_bits(image, raw))
    rgb.info.clear()  # pixels are all that leaves this module: no EXIF, no colour profile
    return rgb if turn is None else rgb.transpose(turn)


def _raw_mode(image: Image.Image) -> Any:
    tiles: Any = getattr(image, "tile", None) or [(None, None, None, "")]
    arguments = tiles[0][3]
    return arguments[0] if isinstance(arguments, tuple) and arguments else arguments


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What turns the image upright; ``None`` where it is, or where its EXIF cannot be read."""
    from PIL import Image

    try:
        orientation = image.getexif().get(0x0112)
    except Exception:  # a dozen types on damaged EXIF, which says nothing against the pixels
        return None
    way = Image.Transpose
    turns = {
        2: way.FLIP_LEFT_RIGHT,
        3: way.ROTATE_180,
        4: way.FLIP_TOP_BOTTOM,
        5: way.TRANSPOSE,
        6: way.ROTATE_270,
        7: way.TRANSVERSE,
        8: way.ROTATE_90,
    }
    return turns.get(orientation) if isinstance(orientation, int) else None


def _eight_bits(image: Image.Image, raw: str) -> Image.Image:
    """The image with 8 bits a channel, its transparent colour on the same scale as its pixels."""
    from PIL import Image

    clear = image.info.get("transparency")
    if image.mode.startswith("I;16"):
        import numpy as np

        # convert("RGB") would clip everything above 255 to white instead of scaling it
        deep = np.asarray(image)
        grey = (deep >> 8).astype(np.uint8)
        if isinstance(clear, int):
            grey[deep == clear] = 255  # all 16 bits must agree; over white it is white
        return Image.fromarray(grey)
    # Pillow scales these pixels while it decodes them, but not the colour that counts as transparent.
    scale = {"L;2": lambda value: value * 85, "L;4": lambda value: value * 17, "RGB;16B": lambda value: value >> 8}
    if clear is None or raw not in scale:
        return image
    image = image.copy()
    image.info["transparency"] = tuple(map(scale[raw], clear)) if isinstance(clear, tuple) else scale[raw](clear)
    return image


def _over_white(image: Image.Image) -> Image.Image:
    from PIL import Image

    if not image.has_transparency_data:
        return image.convert("RGB")
    rgb = Image.new("RGB", image.size)
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        rgb.paste(Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip).convert("RGB"), (0, top))
    return rgb
