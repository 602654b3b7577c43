"""Images inside zip files, read without unpacking anything.

DiffusionDB and ImageRewardDB are released as zip files of about a thousand images each. A path may lead into one, as
in ``part-000001.zip/abc.png``; :func:`hpslib.data.images.safe.image_source` then reads the member. Nothing is written
to disk, and what a zip file claims about itself is checked before a byte is unpacked.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePath

from hpslib.runs.files import one_line

__all__ = [
    "MAX_MEMBER_BYTES",
    "files_below",
    "is_file",
    "is_folder",
    "is_hidden",
    "open_zip",
    "read_member",
    "zip_step",
]

#: Largest accepted image in a zip file, unpacked: 64 MB. A few kilobytes of a zip file can claim gigabytes.
MAX_MEMBER_BYTES = 64_000_000


def is_file(path: Path) -> bool:
    """Whether a file lies there; false, not an error, where the name is too long for any file."""
    try:
        return path.is_file()
    except OSError:  # pathlib lets go of "file name too long" and "permission denied" up to Python 3.13
        return False


def is_folder(path: Path) -> bool:
    """Whether a folder lies there; false, not an error, where :func:`is_file` would be."""
    try:
        return path.is_dir()
    except OSError:
        return False


def is_hidden(path: str | PurePath) -> bool:
    """Whether a part of the path begins with a dot or is what macOS adds to its zip files: such files are no data.

    >>> is_hidden("a/._b.png"), is_hidden("__MACOSX/b.png"), is_hidden("a/b.png")
    (True, True, False)
    """
    return any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in PurePath(path).parts)


def files_below(root: Path) -> Iterator[str]:
    """The paths of all files below a folder, relative and with ``/``, in the order of their names, hidden ones too.

    Folders that are links are followed, each real folder once, so that a loop of links ends.

    Raises ``ValueError`` for a name that is not UTF-8, since no table can hold it, and for a folder that may not be
    read.
    """
    seen = set()

    def refuse(error: OSError) -> None:
        raise ValueError(
            f"{error.filename} cannot be read ({one_line(error.strerror or error)}): change its permissions."
        )

    for folder, subfolders, names in os.walk(root, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            try:
                str(path.relative_to(root)).encode()
            except UnicodeEncodeError:
                shown = path.relative_to(root).as_posix().encode("utf-8", "backslashreplace").decode()
                raise ValueError(f"{root} holds the file {shown!r}, whose name is not UTF-8: rename it.") from None
            if is_file(path):
                yield path.relative_to(root).as_posix()


def zip_step(path: Path) -> tuple[Path | None, str]:
    """The zip file that a path leads into and the member's name in it, or ``(None, "")`` for an ordinary path.

    >>> zip_step(Path("images/2_0.jpg"))
    (None, '')
    """
    for step in path.parents:
        if step.suffix.lower() == ".zip" and is_file(step):
            return step, path.relative_to(step).as_posix()
    return None, ""


def open_zip(path: str | Path, *, where: str) -> zipfile.ZipFile:
    """An open zip file. The last 16 are kept open for as long as their files do not change: do not close it.

    Raises ``FileNotFoundError`` when the file is absent and ``ValueError`` when it is no zip file or cut off; ``where``
    says in the error what needs the file.
    """
    path = Path(path)
    try:
        stat = path.stat()
    except OSError:
        raise FileNotFoundError(f"the zip file {path} of {where} is absent: download it.") from None
    try:
        # A worker process made by a fork would share the file position with its parent, hence the process id.
        return _kept_open(str(path), stat.st_mtime_ns, stat.st_size, os.getpid())
    except Exception as error:  # not only BadZipFile: a damaged index can also raise struct.error or UnicodeDecodeError
        raise ValueError(
            f"the zip file {path} of {where} is damaged or cut off ({one_line(error)}): download it again."
        ) from error


@lru_cache(maxsize=16)
def _kept_open(path: str, mtime_ns: int, size: int, process: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def read_member(archive: Path, member: str, *, where: str) -> bytes | None:
    """The bytes of one member, or ``None`` where there is no such file in the archive.

    Raises ``ValueError`` when the archive is damaged, or the member claims more than :data:`MAX_MEMBER_BYTES`, is
    locked by a password or does not agree with its checksum; ``FileNotFoundError`` when the archive is absent.
    """
    opened = open_zip(archive, where=where)
    info = opened.NameToInfo.get(member)
    if info is None or info.is_dir():
        return None
    if info.file_size > MAX_MEMBER_BYTES:
        raise ValueError(
            f"{where} leads to {member!r} in {archive}, which claims {info.file_size} bytes, more than the "
            f"{MAX_MEMBER_BYTES} allowed: remove its row or use a smaller copy."
        )
    try:
        return opened.read(info)  # never unpacks more than file_size
    except Exception as error:  # a wrong checksum, a password, an unknown compression: a type each
        raise ValueError(
            f"{where} leads to {member!r} in {archive}, which cannot be read ({one_line(error)}): download the zip "
            "file again."
        ) from error
