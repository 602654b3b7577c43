"""Open pictures that somebody else made, safely: one door for every image file and byte string of the course.

An annotation file names its pictures, and neither the names nor the pictures can be trusted: a name may point outside
the folder, a picture may be absent, cut off, rotated by its EXIF tag, animated, transparent, or a "bomb" that unpacks
into gigabytes. :func:`safe_join` looks at the name, :func:`open_image` at the picture. Both either return something
usable or say in one sentence what is wrong and what to do.

A path may lead into a zip file, as in ``part-000001.zip/abc.png`` (see :mod:`hpslib.data.images.archives`).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from hpslib.data.images.archives import open_zip, read_member, zip_step

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "check_relative",
    "image_extension",
    "image_present",
    "image_source",
    "open_image",
    "safe_join",
]

#: Formats that are read, with the file extension each is written with. A closed list on purpose: some of Pillow's other
#: readers start external programs (EPS) or were never meant for untrusted files.
FORMATS: dict[str, str] = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}

#: Largest accepted picture: 64 million pixels, about 190 MB as RGB. Stable Diffusion's own pictures have 0.26 million.
MAX_PIXELS = 64_000_000


def check_relative(relative: str) -> PurePosixPath:
    """Read a file name from an annotation as a relative path, by its letters alone (nothing is looked up on disk).

    Raises:
        ValueError: for an empty or absolute name, ``..``, a backslash, a Windows drive letter or a NUL character.

    >>> check_relative("preference_images/./2_0.jpg")
    PurePosixPath('preference_images/2_0.jpg')
    """
    remedy = "write it relative to the annotation's folder"
    if not isinstance(relative, str):
        raise ValueError(f"the path {relative!r} is a {type(relative).__name__}, give it as a string")
    pure = PurePosixPath(relative)
    if not pure.parts or "\0" in relative:
        raise ValueError(f"the path {relative!r} names no file, {remedy}")
    if "\\" in relative or relative[1:2] == ":":
        raise ValueError(
            f"the path {relative!r} has a backslash or a drive letter, {remedy} with '/' between its parts"
        )
    if pure.is_absolute():
        raise ValueError(f"the path {relative!r} is absolute, {remedy}")
    if ".." in pure.parts:
        raise ValueError(f"the path {relative!r} has a '..' in it, {remedy}")
    return pure


def safe_join(folder: str | Path, relative: str) -> Path:
    """Join a folder and a relative file name from an annotation file, refusing every name that leaves the folder.

    Args:
        folder: the folder that holds the annotation file; may itself be a symbolic link.
        relative: a name such as ``"preference_images/2_0.jpg"``, with ``/`` between its parts on every system.

    Returns:
        ``folder / relative``. The file need not exist.

    Raises:
        ValueError: see :func:`check_relative`; also for a symbolic link that leads out of the folder.

    >>> safe_join("hpd", "preference_images/2_0.jpg").as_posix()
    'hpd/preference_images/2_0.jpg'
    >>> safe_join("hpd", "../secret.png")
    Traceback (most recent call last):
    ...
    ValueError: the path '../secret.png' has a '..' in it, write it relative to the annotation's folder
    """
    pure = check_relative(relative)
    joined = Path(folder, pure)
    # Only a link below the folder can still lead out, and asking for links is ten times cheaper than resolving.
    steps = [joined, *list(joined.parents)[: len(pure.parts) - 1]]
    if any(step.is_symlink() for step in steps):
        try:
            inside = joined.resolve().is_relative_to(Path(folder).resolve())
        except (OSError, RuntimeError):  # a loop of links: RuntimeError up to Python 3.12, OSError after
            inside = False
        if not inside:
            raise ValueError(f"the path {relative!r} leaves {folder} through a link, copy the file into the folder")
    return joined


def image_source(item: Mapping[str, Any], root: str | Path | None, *, where: str) -> bytes | Path:
    """Return the bytes of one ``{"bytes", "path"}`` entry of a preference dataset, or else its path below ``root``.

    Of a path that leads into a zip file the member's bytes are returned; a member that is not there gives the path,
    which names no file, so that it is handled like any absent picture.

    Raises:
        ValueError: if the picture is a file and ``root`` is None, its path leaves ``root``, or its zip file is damaged
            (see :func:`hpslib.data.images.archives.read_member`).

    >>> image_source({"bytes": None, "path": "2_0.jpg"}, "hpd", where="row 0").as_posix()
    'hpd/2_0.jpg'
    """
    if item["bytes"] is not None:
        return item["bytes"]
    path = _joined(item["path"], root, where)
    archive, member = zip_step(path)
    data = None if archive is None else read_member(archive, member, where=where)
    return path if data is None else data


def image_present(item: Mapping[str, Any], root: str | Path | None, *, where: str) -> bool:
    """Whether :func:`image_source` finds the picture; looked up, not opened. Raises ``ValueError`` as it does."""
    if item["bytes"] is not None:
        return True
    path = _joined(item["path"], root, where)
    archive, member = zip_step(path)
    return path.is_file() if archive is None else member in open_zip(archive, where=where).NameToInfo


def _joined(relative: str, root: str | Path | None, where: str) -> Path:
    if root is None:
        raise ValueError(f"{where}: {relative!r} is a file beside its annotations, pass their folder as root=")
    try:
        return safe_join(root, relative)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def open_image(
    item: str | Path | bytes | bytearray | memoryview | Image.Image, *, where: str, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Open one picture as an upright 8-bit RGB image, fully decoded and independent of its file.

    The EXIF rotation is applied; of an animation the first frame is taken (a Pillow image: the frame it stands at);
    transparent pixels are laid over white, as a browser shows them; 16-bit greys keep their upper 8 bits. The size
    is read from the header and checked *before* any pixel is decoded.

    Args:
        item: a file's path, a file's bytes, or a Pillow image (which is left unchanged).
        where: what the error message calls this picture, such as ``"preference_test.json, row 3, image 0"``.
        max_pixels: largest accepted width x height. Above about 179 million Pillow's own limit
            (``2 * PIL.Image.MAX_IMAGE_PIXELS``) holds as well.

    Returns:
        A new image of mode ``"RGB"``, values 0..255.

    Raises:
        FileNotFoundError: if the file is absent.
        ValueError: if it is no regular file, empty, of a format not in :data:`FORMATS`, damaged, cut off, or too large.

    >>> from PIL import Image
    >>> open_image(Image.new("RGBA", (2, 1), (255, 0, 0, 0)), where="a clear picture").getpixel((0, 0))
    (255, 255, 255)
    """
    from PIL import Image

    image = item if isinstance(item, Image.Image) else _opened(_stream(item, where), where)
    try:
        _check_size(image, where, max_pixels)
        return _rgb_over_white(_upright(image, where), where)
    finally:
        if image is not item:
            image.close()


def image_extension(data: bytes, *, where: str) -> str:
    """Return the file extension (no dot) for a picture's bytes, from its header alone.

    Raises:
        ValueError: if the bytes are empty or do not begin one of the :data:`FORMATS`.

    >>> from io import BytesIO
    >>> from PIL import Image
    >>> file = BytesIO()
    >>> Image.new("RGB", (2, 2)).save(file, "WEBP")
    >>> image_extension(file.getvalue(), where="a small picture")
    'webp'
    """
    with _opened(_stream(data, where), where) as image:
        # A phone's JPEG with several pictures announces itself as MPO although its first picture is a plain JPEG.
        return FORMATS.get(image.format or "", "jpg")


def _stream(item: str | Path | bytes | bytearray | memoryview, where: str) -> Path | io.BytesIO:
    """Check what can be checked without reading the picture and return what Pillow opens."""
    if isinstance(item, bytes | bytearray | memoryview):
        if len(item) == 0:
            raise ValueError(f"{where}: the picture has no bytes, download it again or remove its row")
        return io.BytesIO(item)
    if not isinstance(item, str | Path):
        kind = type(item).__name__
        raise ValueError(f"{where}: a picture cannot be a {kind}, pass a path, bytes or a Pillow image")
    path = Path(item)
    if not path.exists():
        raise FileNotFoundError(f"{where}: the image file {path} is absent, download it or remove its row")
    if not path.is_file():  # also keeps us from waiting for ever on a named pipe
        raise ValueError(f"{where}: {path} is not a regular file, name an image file")
    if path.stat().st_size == 0:
        raise ValueError(f"{where}: the image file {path} is empty, download it again")
    return path


def _opened(stream: Path | io.BytesIO, where: str) -> Image.Image:
    """Read the header only."""
    from PIL import Image

    try:
        return Image.open(stream, formats=list(FORMATS))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{where}: the picture is too large to decode ({_line(error)}), use a smaller copy") from error
    except Exception as error:  # Pillow's readers raise a dozen types on damaged data; the cause stays chained
        formats = ", ".join(FORMATS)
        raise ValueError(f"{where}: this is no intact picture of a format in {formats}, download it again") from error


def _upright(image: Image.Image, where: str) -> Image.Image:
    """Decode the pixels and apply the EXIF rotation; the result is a copy."""
    from PIL import ImageOps

    try:
        image.load()
        return ImageOps.exif_transpose(image)
    except Exception as error:  # see _opened
        raise ValueError(f"{where}: the picture is damaged or cut off ({_line(error)}), download it again") from error


def _rgb_over_white(image: Image.Image, where: str) -> Image.Image:
    from PIL import Image

    if image.mode in ("I", "F"):
        raise ValueError(f"{where}: the picture has 32-bit pixels of unknown range, save it with 8 bits per channel")
    if image.mode.startswith("I;16"):
        import numpy as np

        # convert("RGB") would clip everything above 255 to white instead of scaling it
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    rgb = image.convert("RGB")
    rgb.info.clear()  # pixels are all that leaves this module: no EXIF, no colour profile
    return rgb


def _check_size(image: Image.Image, where: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(
            f"{where}: the picture claims {width} x {height} pixels, more than the {max_pixels} allowed, "
            "use a smaller copy or raise max_pixels"
        )
    if width * height == 0:
        raise ValueError(f"{where}: the picture claims {width} x {height} pixels, download it again or remove its row")


def _line(error: Exception) -> str:
    """An exception's text on one line and without its full stop, to stand inside a sentence."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
