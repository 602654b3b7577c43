"""Are the files there? Asked of a whole release at once, where a look at each path from its root up takes minutes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from hpslib.data.images.archives import zip_step
from hpslib.data.images.names import path_fault, path_parts

__all__ = ["plain_lookup"]


def plain_lookup(root: str | Path) -> Callable[[str], bool | None]:
    """A function that says of a path below ``root`` whether a file lies there, or ``None`` where that is not plain.

    Plain is a sound name, no link and no zip file between ``root`` and the file, and a file that is no link itself: one
    look at the disk then tells what :func:`hpslib.data.images.safe.image_present` finds out in several, and each folder
    is looked at once for all its files. Of everything else, ``image_present`` has the say.

    >>> there = plain_lookup("no such folder")
    >>> there("a.png"), there("../a.png")
    (False, None)
    """
    top, plain_folders = Path(root), {"": zip_step(Path(root, "any"))[0] is None}
    before = f"{top}{os.sep}"

    def is_plain(folder: str) -> bool:
        """No step below the root is a link, and none is a zip file."""
        parts = path_parts(folder)
        linked = any(Path(top, *parts[: k + 1]).is_symlink() for k in range(len(parts)))
        return not linked and zip_step(Path(top, *parts, "any"))[0] is None

    def there(relative: str) -> bool | None:
        folder, _, name = relative.rpartition("/")
        if path_fault(relative) is not None or name in ("", "."):
            return None
        try:
            if folder not in plain_folders:
                plain_folders[folder] = is_plain(folder)
            if not plain_folders[folder]:
                return None
            mode = os.lstat(before + relative).st_mode
        except FileNotFoundError:
            return False
        except (OSError, ValueError):  # a folder that may not be looked into, letters that no file name can have
            return None
        return None if stat.S_ISLNK(mode) else stat.S_ISREG(mode)

    return there
