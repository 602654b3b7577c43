"""Open images that somebody else made, safely: one door for every image file and byte string of the course.

An annotation file names its images, and neither the names nor the images can be trusted: a name may point outside
the folder, an image may be absent, cut off, rotated by its EXIF tag, animated, transparent, or a "bomb" that unpacks
into gigabytes. :func:`safe_join` looks at the name, :func:`open_image` at the image. Both either return something
usable or say in one sentence what is wrong and what to do.

A path may lead into a zip file, as in ``part-000001.zip/abc.png`` (see :mod:`hpslib.data.images.archives`).
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from hpslib.data.images.archives import is_file, open_zip, read_member, zip_step
from hpslib.data.images.decode import foreign_format, upright_rgb, without_metadata
from hpslib.data.images.names import path_fault
from hpslib.runs.files import one_line

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "FORMATS",
    "IMAGE_ENDINGS",
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

#: Endings of the files that count as images, in lower case and with their dot.
IMAGE_ENDINGS = frozenset(f".{ending}" for ending in (*FORMATS.values(), "jpeg", "tiff"))

#: Largest accepted image: 64 million pixels, about 190 MB as RGB. Stable Diffusion's own images have 0.26 million.
MAX_PIXELS = 64_000_000


_LARGE = 16_000_000  # pixels: larger images are decoded one at a time

_PATH_REMEDY = "write it relative to the annotation's folder"


def check_relative(relative: str) -> PurePosixPath:
    """Read a file name from an annotation as a relative path, by its letters alone (nothing is looked up on disk).

    Raises ``ValueError`` for an empty or absolute name, ``..``, a backslash, a Windows drive letter, a NUL character or
    a name of more than 255 bytes.

    >>> check_relative("preference_images/./2_0.jpg")
    PurePosixPath('preference_images/2_0.jpg')
    """
    fault = path_fault(relative)
    if fault is not None:
        raise ValueError(f"{fault}: {_PATH_REMEDY}.")
    return PurePosixPath(relative)


def safe_join(folder: str | Path, relative: str) -> Path:
    """Join a folder and a relative file name from an annotation file, refusing every name that leaves the folder.

    Args:
        folder: the folder that holds the annotation file; may itself be a symbolic link.
        relative: a name such as ``"preference_images/2_0.jpg"``, with ``/`` between its parts on every system.

    A folder below ``folder`` may be a link to another disk, which somebody has put there on purpose; from there on the
    name must stay inside the linked folder. The file need not exist. Raises ``ValueError`` as :func:`check_relative`
    does, and for a file that is a symbolic link out of its folder (into the blobs of its own release in the cache of
    huggingface_hub aside).

    >>> safe_join("hpd", "preference_images/2_0.jpg").as_posix()
    'hpd/preference_images/2_0.jpg'
    >>> safe_join("hpd", "../secret.png")
    Traceback (most recent call last):
    ...
    ValueError: the path '../secret.png' has a '..' in it: write it relative to the annotation's folder.
    """
    pure = check_relative(relative)
    joined = Path(folder, pure)
    # Only a link below the folder can still lead out, and asking for links is ten times cheaper than resolving.
    steps = [joined, *list(joined.parents)[: len(pure.parts) - 1]]
    if any(step.is_symlink() for step in steps):
        base = next((step for step in steps[1:] if step.is_symlink() and step.is_dir()), Path(folder))
        try:
            place = base.resolve()
            # huggingface_hub keeps a release's files in blobs/ and links them into snapshots/{revision}/.
            blobs = [parent.parent / "blobs" for parent in place.parents if parent.name == "snapshots"]
            target = joined.resolve()
            loop = any(step.is_symlink() for step in (target, *target.parents))  # what Python 3.13 on leaves of one
            inside = not loop and any(target.is_relative_to(allowed) for allowed in (place, *blobs))
        except (OSError, RuntimeError):  # a loop of links, up to Python 3.12
            inside = False
        if not inside:
            raise ValueError(f"the path {relative!r} leaves {folder} through a link: copy the file into the folder.")
    return joined


def image_source(item: Mapping[str, Any], root: str | Path | None, *, where: str) -> bytes | Path:
    """The bytes of one ``{"bytes", "path"}`` entry of a preference dataset, or else its path below ``root``.

    Of a path that leads into a zip file the member's bytes are returned; a member that is not there gives the path,
    which names no file, so that it is handled like any absent image.

    Raises ``ValueError`` when the image is a file and ``root`` is ``None``, its path leaves ``root``, or its zip file
    is damaged (see :func:`hpslib.data.images.archives.read_member`).

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
    """Whether :func:`image_source` finds the image; looked up, not opened. Raises ``ValueError`` as it does."""
    if item["bytes"] is not None:
        return True
    path = _joined(item["path"], root, where)
    archive, member = zip_step(path)
    return is_file(path) if archive is None else member in open_zip(archive, where=where).NameToInfo


def _joined(relative: str, root: str | Path | None, where: str) -> Path:
    if root is None:
        raise ValueError(f"{where} is the file {relative!r} beside its annotations: pass their folder as root=.")
    try:
        return safe_join(root, relative)
    except ValueError as error:
        raise ValueError(f"in {where}, {error}") from None


def open_image(
    item: str | Path | bytes | bytearray | memoryview | Image.Image, *, where: str, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Open one image as an upright 8-bit RGB image, fully decoded and independent of its file.

    The EXIF rotation is applied where it can be read; of an animation the first frame is taken (a Pillow image: the
    frame it stands at); transparent pixels are laid over white, as a browser shows them; 16-bit greys keep their upper
    8 bits. Text, colour profiles and damaged EXIF around sound pixels do not count. The size is read from the header
    and checked *before* any pixel is decoded; of images above 16 million pixels one is decoded at a time, whatever the
    number of threads.

    Args:
        item: a file's path, a file's bytes, or a Pillow image (which is left unchanged).
        where: what the error message calls this image, such as ``"preference_test.json, row 3, image 0"``.
        max_pixels: largest accepted width x height. Above about 179 million Pillow's own limit
            (``2 * PIL.Image.MAX_IMAGE_PIXELS``) holds as well.

    The result is a new image of mode ``"RGB"``, values 0 to 255. Raises ``FileNotFoundError`` when the file is absent
    and ``ValueError`` when it is no regular file, empty, of a format not in :data:`FORMATS`, damaged, cut off, or too
    large.

    >>> from PIL import Image
    >>> open_image(Image.new("RGBA", (2, 1), (255, 0, 0, 0)), where="a clear image").getpixel((0, 0))
    (255, 255, 255)
    """
    from PIL import Image

    if isinstance(item, Image.Image):
        return _decoded(item, where, max_pixels)
    stream = _stream(item, where)
    try:
        with _opened(stream, where) as image:
            return _decoded(image, where, max_pixels)
    except ValueError:
        pixels_only = without_metadata(stream)
        if pixels_only is None:
            raise
        with _opened(pixels_only, where) as image:  # what lies around the pixels may be the only fault
            return _decoded(image, where, max_pixels)


def image_extension(data: bytes, *, where: str) -> str:
    """The file extension (no dot) for an image's bytes, from its header alone.

    Raises ``ValueError`` when the bytes are empty or do not begin one of the :data:`FORMATS`.

    >>> from io import BytesIO
    >>> from PIL import Image
    >>> file = BytesIO()
    >>> Image.new("RGB", (2, 2)).save(file, "WEBP")
    >>> image_extension(file.getvalue(), where="a small image")
    'webp'
    """
    stream = _stream(data, where)
    try:
        image = _opened(stream, where)
    except ValueError:
        if without_metadata(stream) is None:
            raise
        image = _opened(without_metadata(stream) or stream, where)
    with image:
        # A phone's JPEG with several images announces itself as MPO although its first image is a plain JPEG.
        return FORMATS.get(image.format or "", "jpg")


def _stream(item: str | Path | bytes | bytearray | memoryview, where: str) -> Path | io.BytesIO:
    """Check what can be checked without reading the image and return what Pillow opens."""
    if isinstance(item, bytes | bytearray | memoryview):
        if len(item) == 0:
            raise ValueError(f"{where} has no bytes: download it again or remove its row.")
        return io.BytesIO(item)
    if not isinstance(item, str | Path):
        raise ValueError(f"{where} is no image but a {type(item).__name__}: pass a path, bytes or a Pillow image.")
    path = Path(item)
    try:
        exists, regular = path.exists(), path.is_file()
    except OSError as error:  # a name too long for any file, a folder that may not be looked into
        raise ValueError(
            f"{where} cannot be looked up ({one_line(error.strerror or error)}): name a file that can be opened."
        ) from error
    if not exists:
        raise FileNotFoundError(f"{where} is absent ({path}): download it or remove its row.")
    if not regular:  # also keeps us from waiting for ever on a named pipe
        raise ValueError(f"{where} is not a regular file ({path}): name an image file.")
    if path.stat().st_size == 0:
        raise ValueError(f"{where} is an empty file ({path}): download it again.")
    return path


def _opened(stream: Path | io.BytesIO, where: str) -> Image.Image:
    """Read the header only."""
    from PIL import Image

    try:
        return Image.open(stream, formats=list(FORMATS))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{where} is too large to decode ({one_line(error)}): use a smaller copy.") from error
    except Exception as error:  # Pillow's readers raise a dozen types on damaged data; the cause stays chained
        if isinstance(error, PermissionError):
            raise ValueError(f"{where} may not be read ({stream}): change its permissions.") from error
        foreign = foreign_format(stream)
        if foreign is not None:
            raise ValueError(
                f"{where} is {foreign} image, which is not read here: convert it to PNG or JPEG."
            ) from error
        formats = ", ".join(FORMATS)
        raise ValueError(f"{where} is no intact image of a format in {formats}: download it again.") from error


def _decoded(image: Image.Image, where: str, max_pixels: int) -> Image.Image:
    """The pixels as upright RGB; of large images one at a time."""
    _check_size(image, where, max_pixels)
    if image.mode in ("I", "F"):
        raise ValueError(f"{where} has 32-bit pixels of unknown range: save it with 8 bits per channel.")
    try:
        if image.width * image.height > _LARGE:
            return _large_images(os.getpid()).submit(upright_rgb, image).result()
        return upright_rgb(image)
    except Exception as error:  # see _opened
        raise ValueError(f"{where} is damaged or cut off ({one_line(error)}): download it again.") from error


@lru_cache(maxsize=1)
def _large_images(process: int) -> ThreadPoolExecutor:
    """The one thread that decodes large images. Each thread of its own would keep the half gigabyte it once needed.

    ``process`` is there because a worker process made by a fork lacks the threads of its parent.
    """
    return ThreadPoolExecutor(1, "large-image")


def _check_size(image: Image.Image, where: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(
            f"{where} claims {width} x {height} pixels, more than the {max_pixels} allowed: use a smaller copy or "
            "raise max_pixels."
        )
    if width * height == 0:
        raise ValueError(f"{where} claims {width} x {height} pixels: download it again or remove its row.")
