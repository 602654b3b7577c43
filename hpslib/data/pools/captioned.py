"""Images with a caption each: the regularisation images that keep an adapted model from forgetting everything else.

The paper trains on about as many images from LAION as on judged ones. LAION is a list of addresses, so there are two
steps: :func:`hpslib.data.pools.downloads.download_images` fetches what is still there into a folder (a run that was
stopped goes on where it was), :func:`read_captioned` reads such a folder, or any other with captions.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from hpslib.data.images.archives import files_below, is_file, is_folder, is_hidden
from hpslib.data.images.decode import FOREIGN_ENDINGS
from hpslib.data.images.safe import IMAGE_ENDINGS, check_relative
from hpslib.data.rows import csv_columns, csv_rows
from hpslib.runs.files import one_line

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["read_captioned"]


def read_captioned(folder: str | Path) -> Dataset:
    """Read a folder of images with captions, in the order of their paths.

    Two layouts are known: ``metadata.csv`` with the columns ``file_name`` and ``text`` (the layout of datasets'
    imagefolder), or else a text file beside each image, ``a.txt`` for ``a.jpg`` (img2dataset's "files" layout, in
    subfolders too, which may be links to another disk). Images without a caption and captions without an image are left
    out and counted in one warning, and so are hidden images, such as the ``._a.jpg`` of macOS, and images of formats
    that are not read here, such as AVIF.

    The dataset has the columns ``id`` (the path in the folder), ``prompt`` (the caption, without white space around it)
    and ``images`` (a list of one; pass ``folder`` as ``root``).

    Raises ``FileNotFoundError`` when the folder is absent, and ``ValueError`` when no image has a caption, a caption is
    not UTF-8, two captions are for one image, or ``metadata.csv`` lacks a column or names a file outside the folder.
    """
    import datasets

    root = Path(folder)
    if not is_folder(root):
        raise FileNotFoundError(f"{root} is no folder: name one with images and their captions.")
    found = sorted(files_below(root))
    paths = [path for path in found if not is_hidden(path)]
    hidden = sum(is_hidden(path) and Path(path).suffix.lower() in IMAGE_ENDINGS for path in found)
    foreign = sum(Path(path).suffix.lower() in FOREIGN_ENDINGS for path in paths)
    images = [path for path in paths if Path(path).suffix.lower() in IMAGE_ENDINGS]
    table = root / "metadata.csv"
    captions = _listed_captions(table) if is_file(table) else _captions_beside(root, paths, images)
    rows = [
        {"id": path, "prompt": captions[path], "images": [{"bytes": None, "path": path}]}
        for path in images
        if captions.get(path)
    ]
    without = len(images) - len(rows)
    known = set(images)
    unused = sum(1 for path, text in captions.items() if text and path not in known)
    if not rows:
        raise ValueError(
            f"{root} holds {len(images)} images and no caption for any: put a.txt beside a.jpg or write a metadata.csv "
            "with the columns file_name and text."
        )
    if without or unused or hidden or foreign:
        more = f" (as are {hidden} hidden images)" if hidden else ""
        more += f" (as are {foreign} images to be converted to PNG or JPEG first)" if foreign else ""
        warnings.warn(
            f"in {root}, {without} of {len(images)} images have no caption and {unused} captions no image, and are "
            f"left out{more}: give each its partner to use it.",
            stacklevel=2,
        )
    text = datasets.Value("string")
    schema = {"id": text, "prompt": text, "images": datasets.List(datasets.Image(decode=False))}
    return datasets.Dataset.from_list(rows, features=datasets.Features(schema))


def _captions_beside(root: Path, paths: list[str], images: list[str]) -> dict[str, str]:
    """The text for each image's path; a text without an image stands under its own path."""
    owners: dict[str, list[str]] = {}
    for path in images:
        owners.setdefault(str(Path(path).with_suffix("")), []).append(path)
    captions = {}
    for path in (path for path in paths if path.endswith(".txt")):
        try:
            text = (root / path).read_bytes().decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"{root / path} is not readable as text ({one_line(error)}): save it as UTF-8.") from error
        for owner in owners.get(path.removesuffix(".txt"), [path]):
            captions[owner] = text
    return captions


def _listed_captions(table: Path) -> dict[str, str]:
    captions: dict[str, str] = {}
    missing = [name for name in ("file_name", "text") if name not in csv_columns(table)]
    if missing:
        raise ValueError(f"{table} lacks the column {', '.join(missing)}: give it a header file_name,text.")
    for number, entry in csv_rows(table):
        try:
            path = check_relative(entry["file_name"]).as_posix()
        except ValueError as error:
            raise ValueError(f"in {table}, line {number}, {error}") from None
        if path in captions:
            raise ValueError(f"{table}, line {number} is a second caption of {path!r}: remove one of the lines.")
        captions[path] = entry["text"].strip()
    return captions
