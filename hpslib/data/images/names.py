"""File names from annotations, by their letters alone: nothing is looked up on disk.

Plain text and no :mod:`pathlib`, for a release names hundreds of thousands of files and each is checked several times.
"""

from __future__ import annotations

__all__ = ["path_fault", "path_parts"]

_LONGEST = 255  # bytes of a name, the limit of the file systems in use


def path_parts(relative: str) -> list[str]:
    """The names between the slashes, as :class:`pathlib.PurePosixPath` gives them and ten times faster.

    >>> path_parts("preference_images//./2_0.jpg")
    ['preference_images', '2_0.jpg']
    """
    return [part for part in relative.split("/") if part and part != "."]


def path_fault(relative: object) -> str | None:
    """What is wrong with a file name from an annotation, by its letters alone, or ``None``.

    >>> path_fault("../secret.png")
    "the path '../secret.png' has a '..' in it"
    """
    fault = _name_fault(relative)
    if fault is None:
        return None
    shown = relative if not isinstance(relative, str) or len(relative) <= 300 else f"{relative[:100]}..."
    return f"the path {shown!r} {fault}"


def _name_fault(relative: object) -> str | None:
    if not isinstance(relative, str):
        return f"is a {type(relative).__name__} where text was expected"
    parts, absolute = path_parts(relative), relative.startswith("/")
    if not (parts or absolute) or "\0" in relative:
        return "names no file"
    if "\\" in relative or relative[1:2] == ":":
        return "has a backslash or a drive letter where '/' stands between the parts"
    if absolute:
        return "is absolute"
    if ".." in parts:
        return "has a '..' in it"
    if len(relative) <= _LONGEST // 4:  # no letter has more than 4 bytes
        return None
    long = max(len(part.encode("utf-8", "surrogatepass")) for part in parts)
    return f"has a name of {long} bytes in it where {_LONGEST} are allowed" if long > _LONGEST else None
