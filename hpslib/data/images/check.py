"""Open every image beforehand, so that a long run does not end at the first bad one."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

from hpslib.data.images.archives import files_below, is_folder, is_hidden, open_zip, read_member, zip_step
from hpslib.data.images.lazy import LazyImages
from hpslib.data.images.safe import IMAGE_ENDINGS, open_image

__all__ = ["CheckedImages", "check_images"]


@dataclass(frozen=True)
class CheckedImages:
    """What became of the images: ``checked`` in all, ``bad`` ones as (name, sentence), in the order of the names.

    ``hidden`` counts image files whose names begin with a dot (macOS makes them), ``other`` files by their ending that
    were passed over, since no ending in :data:`hpslib.data.images.safe.IMAGE_ENDINGS` is theirs.

    >>> print(CheckedImages(checked=3, bad=(("b.png", "b.png is an empty file: download it again."),), hidden=1))
    2 of 3 images are sound, 1 is not; passed over: 1 hidden image
    """

    checked: int
    bad: tuple[tuple[str, str], ...] = ()
    hidden: int = 0
    other: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        faults = len(self.bad)
        text = f"{self.checked - faults} of {self.checked} images are sound"
        text += f", {faults} {'is' if faults == 1 else 'are'} not" if faults else ""
        passed = [f"{self.hidden} hidden image{'s' * (self.hidden != 1)}"] if self.hidden else []
        passed += [f"{count} {ending or 'without an ending'}" for ending, count in sorted(self.other.items())]
        return text + (f"; passed over: {', '.join(passed)}" if passed else "")


def check_images(
    images: str | Path | LazyImages,
    names: Sequence[str] | None = None,
    *,
    workers: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> CheckedImages:
    """Decode every image once, as a run would, and say which cannot be used.

    Args:
        images: a folder, with all its subfolders and the zip files in them, links followed; or the images of a data
            set, as :func:`hpslib.data.groups.flatten_groups` gives them.
        names: look only at these files of the folder, such as ``"a.png"`` or ``"part-000001.zip/b.png"``.
        workers: images decoded at once; their number bounds the memory, and of very large images one is decoded at a
            time.
        progress: called with (images checked, images in all) after each image.

    The result is the same whatever the number of workers. Raises ``FileNotFoundError`` when there is no such folder,
    and ``ValueError`` when ``workers`` is below 1, names are given for a data set, or there is no image to look at.
    """
    if workers < 1 or (names is not None and isinstance(images, LazyImages)):
        raise ValueError(f"workers={workers} and names={names!r}: use at least 1 worker, and names only for a folder.")
    bad: list[tuple[str, str]] = []
    hidden, other = 0, Counter[str]()
    opened: list[tuple[str, Callable[[], object]]]
    if isinstance(images, LazyImages):
        wheres = images.wheres()
        opened = [(where, partial(images.__getitem__, row)) for row, where in enumerate(wheres)]
    else:
        root = Path(images)
        if not is_folder(root):
            raise FileNotFoundError(f"{root} is no folder: name one with images.")
        if names is None:
            found, hidden, other, bad = _listed(root)
        else:
            found = list(names)
        opened = [(name, partial(_open, root, name)) for name in found]
    total = len(opened) + len(bad)
    if total == 0:
        but = f" but {hidden} hidden ones" if hidden else ""
        what = "the data set" if isinstance(images, LazyImages) else images
        raise ValueError(f"{what} holds no image{but}: name another one.")
    for done, (name, fault) in enumerate(_faults(opened, workers), 1 + len(bad)):
        if fault is not None:
            bad.append((name, fault))
        if progress is not None:
            progress(done, total)
    return CheckedImages(total, tuple(bad if isinstance(images, LazyImages) else sorted(bad)), hidden, dict(other))


def _listed(root: Path) -> tuple[list[str], int, Counter[str], list[tuple[str, str]]]:
    """Images below a folder, zip files opened, the number of hidden ones, of other files, and zip files that fail."""
    found: list[str] = []
    faults: list[tuple[str, str]] = []
    hidden, other = 0, Counter[str]()
    for path in _with_members(root, faults):
        ending = Path(path).suffix.lower()
        if ending not in IMAGE_ENDINGS:
            other[ending] += not is_hidden(path)
        elif is_hidden(path):
            hidden += 1
        else:
            found.append(path)
    return found, hidden, +other, faults


def _with_members(root: Path, faults: list[tuple[str, str]]) -> Iterator[str]:
    for path in files_below(root):
        if not path.lower().endswith(".zip") or is_hidden(path):
            yield path
            continue
        try:
            archive = open_zip(root / path, where=path)
        except (ValueError, OSError) as error:
            faults.append((path, str(error)))
            continue
        yield from (f"{path}/{info.filename}" for info in archive.infolist() if not info.is_dir())


def _open(root: Path, name: str) -> object:
    archive, member = zip_step(Path(root, name))
    data = None if archive is None else read_member(archive, member, where=name)
    return open_image(Path(root, name) if data is None else data, where=name)


def _faults(opened: Iterable[tuple[str, Callable[[], object]]], workers: int) -> Iterator[tuple[str, str | None]]:
    """Name and fault of each, in order; a few more than ``workers`` are under way, so that no image waits in memory."""
    waiting: deque[tuple[str, Future[str | None]]] = deque()
    rest = iter(opened)
    with ThreadPoolExecutor(workers) as pool:
        while True:
            for name, opens in islice(rest, 4 * workers - len(waiting)):
                waiting.append((name, pool.submit(_fault, opens)))
            if not waiting:
                return
            name, future = waiting.popleft()
            yield name, future.result()


def _fault(opens: Callable[[], object]) -> str | None:
    try:
        opens()
    except (ValueError, OSError) as error:
        return str(error)
    return None
