"""Images that are opened when they are asked for, so that a set need not fit into memory."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, overload

import numpy as np

from hpslib.data.images.archives import is_folder, is_hidden
from hpslib.data.images.decode import FOREIGN_ENDINGS
from hpslib.data.images.safe import IMAGE_ENDINGS, image_source, open_image

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "LazyImages",
    "StoredImages",
    "as_images",
    "each_image",
    "image_name_of",
    "joined",
    "map_images",
    "names_of",
    "open_all",
    "take",
    "to_images",
]

_Result = TypeVar("_Result")


class _Listed(NamedTuple):
    """A folder that was looked into: what it holds may be links to anywhere."""

    folder: str | Path


class LazyImages(Sequence["Image.Image"]):
    """The images of ``{"bytes", "path"}`` entries as upright RGB, each opened anew whenever it is asked for.

    ``wheres`` names each image in errors, ``root`` is the folder of the annotation file. An entry may also be a
    ``Path`` of the user's own, which ``root`` does not confine; nor does it with ``listed``, where the paths come from
    a look into the folder and not from a file that somebody else wrote. A slice is opened by several threads. Raises
    what :func:`hpslib.data.images.safe.open_image` raises, at the image.
    """

    def __init__(
        self,
        items: Sequence[Mapping[str, Any] | Path],
        wheres: Sequence[str],
        root: str | Path | None,
        listed: bool = False,
    ) -> None:
        if len(items) != len(wheres):
            raise ValueError(f"{len(items)} images but {len(wheres)} names for them: give one of each.")
        place = _Listed(root) if listed and root is not None else root
        self._entries = [
            (items, wheres, place, k) for k in range(len(items))
        ]  # items may lie on the disk: not read now

    def __len__(self) -> int:
        return len(self._entries)

    def _of(self, entries: list[Any]) -> LazyImages:
        images = LazyImages([], [], None)
        images._entries = entries
        return images

    def __add__(self, other: LazyImages) -> LazyImages:
        """Both, one behind the other; each keeps its own folder."""
        return self._of(self._entries + other._entries)

    def names(self, rows: Sequence[int]) -> list[str]:
        """What these images are called (:func:`image_name_of`)."""
        return [image_name_of(items[k]) for items, _, _, k in (self._entries[row] for row in rows)]

    def files(self) -> list[tuple[str, str]]:
        """For each image the zip file that it lies in ("" for any other place), and what is equal for two entries of
        one image only: the file, or the hash of its bytes."""
        keys = []
        for items, _, root, k in self._entries:
            item = items[k]
            if isinstance(item, Path):
                keys.append(("", str(item)))
            elif item["bytes"] is not None:  # two images may have one name: it tells those of a group apart
                keys.append(("", hashlib.sha256(item["bytes"]).hexdigest()))
            else:
                path = str(item["path"])
                inside = path.lower().rfind(".zip/")
                keys.append((path[: max(0, inside)], f"{root}/{path}"))
        return keys

    def wheres(self) -> list[str]:
        """What errors call these images, in order."""
        return [wheres[k] for _, wheres, _, k in self._entries]

    def take(self, rows: Sequence[int]) -> LazyImages:
        """The images of these rows, still closed."""
        return self._of([self._entries[row] for row in rows])

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> list[Image.Image]: ...
    def __getitem__(self, index: int | slice) -> Image.Image | list[Image.Image]:
        if isinstance(index, slice):
            return open_all(self, range(*index.indices(len(self))))
        items, wheres, root, k = self._entries[index]
        item, where = items[k], wheres[k]
        if isinstance(item, Path):
            return open_image(item, where=where)
        if isinstance(root, _Listed):
            return open_image(Path(root.folder, item["path"]), where=where)
        return open_image(image_source(item, root, where=where), where=where)


class StoredImages(Sequence[Mapping[str, Any]]):
    """The ``{"bytes", "path"}`` entries of all groups of a ``datasets.Dataset``, one behind the other, each read when
    it is asked for: the bytes of a set with embedded images stay on the disk. ``sizes``: entries of each group."""

    def __init__(self, groups: Any) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        # The dataset may be a selection of its table's rows; ids say which.
        if len(set(groups.data.column("id").to_pylist())) < groups.data.num_rows:
            groups = groups.flatten_indices()  # joined from selections of the same set: its table has rows twice
        column, names = groups.data.column("images"), groups.data.column("id").to_pylist()
        lengths = pc.list_value_length(column).to_numpy()
        row_of = {name: row for row, name in enumerate(names)}
        if len(row_of) < len(names):
            raise ValueError(f"{len(names) - len(row_of)} ids occur twice in the dataset: give every group its own.")
        rows = np.array([row_of[name] for name in groups["id"]], dtype=np.int64)
        starts = np.cumsum(lengths) - lengths
        self._entries = pa.chunked_array([chunk.flatten() for chunk in column.chunks], column.type.value_type)
        self.sizes = lengths[rows].tolist()
        ends = np.cumsum(self.sizes)
        self._places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts[rows] - ends + self.sizes, self.sizes)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        return self._entries[int(self._places[index])].as_py()


def image_name_of(item: Mapping[str, Any] | Path) -> str:
    """What tells an image from the others of its group, in every reading of the data: the path its annotation gives
    (the same whether a zip file on it is unpacked or not), or the hash of its bytes where there is none.

    >>> image_name_of({"bytes": None, "path": "part-000001.zip/abc.png"})
    'part-000001/abc.png'
    >>> image_name_of({"bytes": b"abc", "path": None})
    'sha256:ba7816bf8f01cfea'
    """
    if isinstance(item, Path):
        return str(item)
    if not item["path"]:
        return f"sha256:{hashlib.sha256(item['bytes']).hexdigest()[:16]}"
    return str(item["path"]).replace(".zip/", "/")


def open_all(images: Sequence[Image.Image], rows: Sequence[int]) -> list[Image.Image]:
    """The images of these rows; those of a :class:`LazyImages` are decoded by several threads at once."""
    return map_images(lambda image: image, images, rows)


def map_images(
    function: Callable[[Image.Image], _Result], images: Sequence[Image.Image], rows: Sequence[int]
) -> list[_Result]:
    """``function`` of each of these images, in order: :func:`each_image` to the last."""
    return list(each_image(function, images, rows))


def each_image(
    function: Callable[[Image.Image], _Result], images: Sequence[Image.Image], rows: Sequence[int], ahead: int = 0
) -> Iterator[_Result]:
    """``function`` of each of these images, in order, each image dropped as soon as its result is there.

    Where images are opened when they are asked for, several threads work, up to ``ahead`` results beyond what they have
    in hand: nobody waits for the slowest image of a batch. At most one image a thread is in memory, whatever the number
    of ``rows``, and of those above 16 million pixels only one while it is decoded. An error is raised at its image.
    """
    if not isinstance(images, LazyImages) or len(rows) < 2:
        yield from (function(images[row]) for row in rows)
        return

    def opened(row: int) -> _Result:
        return function(images[row])

    threads = min(_threads(), len(rows))
    waiting: deque[Future[_Result]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for row in rows:
            waiting.append(pool.submit(opened, row))
            if len(waiting) >= threads + ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # the reader may have stopped early


def _threads() -> int:
    """How many threads decode: the machine's cores, shared by the processes of ``accelerate launch`` on it; at least
    four, since a disk can be slow. Pillow lets go of Python's lock meanwhile."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(32, max(4, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def names_of(images: Sequence[Image.Image], rows: Sequence[int]) -> list[str]:
    """What tells these images from others: names of those of a :class:`LazyImages`, else the hash of the pixels."""
    if isinstance(images, LazyImages):
        return images.names(rows)
    return [hashlib.sha256(f"{images[row].size}".encode() + images[row].tobytes()).hexdigest() for row in rows]


def take(images: Sequence[Image.Image], rows: Sequence[int]) -> Sequence[Image.Image]:
    """The images of these rows; those of a :class:`LazyImages` stay closed."""
    return images.take(rows) if isinstance(images, LazyImages) else [images[row] for row in rows]


def joined(*parts: Sequence[Image.Image]) -> Sequence[Image.Image]:
    """All parts, one behind the other; closed if they are all :class:`LazyImages`."""
    lazy = [part for part in parts if isinstance(part, LazyImages)]
    if lazy and len(lazy) == len(parts):
        return sum(lazy[1:], start=lazy[0])
    return [image for part in parts for image in part]


def as_images(images: Any) -> Sequence[Image.Image]:
    """Whatever holds images, as a sequence of upright RGB.

    Takes a sequence of Pillow images, paths, encoded bytes or uint8 arrays (height, width, 3); one array (n, height,
    width, 3) uint8; a tensor (n, 3, height, width), float in [0, 1] or uint8; or a folder, whose images come in the
    order of their names. Hidden files of a folder, such as the ``._a.png`` of macOS, and images of other formats, such
    as AVIF, are left out and counted in warnings; links may lead anywhere. The files of a folder or of a list of paths
    are opened when they are asked for, as :class:`LazyImages`; everything else is decoded now.

    Raises ``ValueError`` for an empty folder and for arrays or tensors of another shape, type or range.
    """
    if isinstance(images, str | Path):
        folder = Path(images)
        files = sorted(file.name for file in folder.glob("*")) if is_folder(folder) else []
        found = [name for name in files if Path(name).suffix.lower() in IMAGE_ENDINGS]
        foreign = [name for name in files if Path(name).suffix.lower() in FOREIGN_ENDINGS and not is_hidden(name)]
        names = [name for name in found if not is_hidden(name)]
        hidden = [name for name in found if is_hidden(name)]
        if not names:
            but = f" but {len(hidden)} hidden ones" if hidden else ""
            but = f" that are read here but {foreign[0]}, to be converted to PNG or JPEG" if foreign else but
            raise ValueError(f"{folder} is no folder with images in it{but}: name another one.")
        if hidden:
            warnings.warn(
                f"{len(hidden)} hidden files of {folder}, such as {hidden[0]}, are left out: rename those that are "
                "images.",
                stacklevel=2,
            )
        if foreign:
            warnings.warn(
                f"{len(foreign)} images of {folder}, such as {foreign[0]}, are of formats that are not read here and "
                "left out: convert them to PNG or JPEG.",
                stacklevel=2,
            )
        entries = [{"bytes": None, "path": name} for name in names]
        return LazyImages(entries, [str(folder / name) for name in names], folder, listed=True)
    if isinstance(images, LazyImages):
        return images
    if hasattr(images, "detach"):  # a tensor, without importing torch to ask
        images = _pixels_of_tensor(images)
    images = images if isinstance(images, Sequence) else list(images)
    if images and all(isinstance(image, str | Path) for image in images):
        return LazyImages([Path(image) for image in images], [f"image {k}" for k in range(len(images))], None)
    return [_as_image(image, number) for number, image in enumerate(images)]


def _pixels_of_tensor(tensor: Any) -> Any:
    values = tensor.detach().cpu()
    if values.ndim != 4 or values.shape[1] != 3:
        raise ValueError(f"a tensor of shape {tuple(values.shape)} holds no images: give (n, 3, height, width).")
    if values.is_floating_point():
        if values.numel() and not (float(values.min()) >= 0 and float(values.max()) <= 1):
            raise ValueError("a float tensor of images leaves the range from 0 to 1: undo the normalisation first.")
        values = (values.float() * 255).round().byte()
    elif str(values.dtype) != "torch.uint8":
        raise ValueError(f"a tensor of type {values.dtype} holds no images: give float in [0, 1] or uint8.")
    return values.permute(0, 2, 3, 1).numpy()


def _as_image(image: Any, number: int) -> Image.Image:
    from PIL import Image

    if getattr(image, "__array_interface__", None) is not None and not isinstance(image, Image.Image):
        if image.dtype != "uint8" or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(
                f"image {number} is an array of shape {image.shape}, {image.dtype}: give (height, width, 3), uint8."
            )
        return Image.fromarray(image)
    return open_image(image, where=f"image {number}")


def to_images(pixels: np.ndarray) -> list[Image.Image]:
    """uint8 (n, height, width, 3) -> n PIL images."""
    from PIL import Image

    return [Image.fromarray(array) for array in pixels]
