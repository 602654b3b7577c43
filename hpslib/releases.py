"""The other public releases of human preferences, read into the one schema of :mod:`hpslib.preferences`.

================  ============================================================  ===========================
format            what lies on disk                                             people said
================  ============================================================  ===========================
``hpd_v1``        ``preference_*.json`` or a packed file (:mod:`.sources`)      the best of 2 to 4
``hpd_v2_train``  ``train.json`` and ``train/``                                 the better of 2, or level
``hpd_v2_test``   ``test.json`` and ``test/``                                   an order of 9 or 10, ten times
``imagereward``   ``test.json`` or ``metadata-*.parquet``, pictures or zips     an order of 4 to 9, with ties
``pickapic``      parquet files that hold the pictures (:mod:`.pickapic`)       the better of 2, or level
``table``         your own CSV file with a picture a line (:mod:`.tables`)      either
================  ============================================================  ===========================

No reader runs a dataset's own loading script. What a release calls a rank is brought to 1 = best, a malformed row is
refused by its number, and absent pictures are refused or reported as in :func:`hpslib.sources.read_hpd`.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from hpslib.annotations import fields_of, finished, gather, group_row, json_rows, parquet_file, parquet_rows
from hpslib.hpd_v2 import STYLES, read_hpd_v2_benchmark, read_hpd_v2_test, read_hpd_v2_train
from hpslib.pickapic import read_pickapic
from hpslib.sources import Images, read_hpd
from hpslib.tables import read_table

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "FORMATS",
    "STYLES",
    "read_hpd_v2_benchmark",
    "read_hpd_v2_test",
    "read_hpd_v2_train",
    "read_imagereward",
    "read_pickapic",
    "read_preferences",
    "read_table",
]

#: What :func:`read_preferences` takes.
FORMATS = ("hpd_v1", "hpd_v2_train", "hpd_v2_test", "pickapic", "imagereward", "table")


def read_preferences(path: str | Path, format: str, **options: Any) -> Dataset:
    """Read any release by the name of its format, one of :data:`FORMATS`; ``options`` go to its reader.

    Raises:
        ValueError: for an unknown format; otherwise as the reader does.

    >>> read_preferences("votes.csv", "csv")
    Traceback (most recent call last):
    ...
    ValueError: format='csv' is unknown, use one of hpd_v1, hpd_v2_train, hpd_v2_test, pickapic, imagereward, table
    """
    readers = {
        "hpd_v1": read_hpd,
        "hpd_v2_train": read_hpd_v2_train,
        "hpd_v2_test": read_hpd_v2_test,
        "pickapic": read_pickapic,
        "imagereward": read_imagereward,
        "table": read_table,
    }
    if format not in readers:
        raise ValueError(f"format={format!r} is unknown, use one of {', '.join(FORMATS)}")
    return readers[format](path, **options)  # type: ignore[operator]


# --- ImageReward ------------------------------------------------------------------------------------------------------


def read_imagereward(path: str | Path, images: Images = "require") -> Dataset:
    """ImageReward's annotations: 4 to 9 pictures a prompt in order, with ties.

    Two layouts are read:

    * ``.json``, as in the project's repository: ``[{"id", "prompt", "generations": [...], "ranking": [...]}, ...]``.
      Pictures are looked for beside ``test.json`` and in ``test_images/`` or ``test_images.zip``.
    * ``.parquet``, the metadata of ImageRewardDB: a row per picture with ``image_path``, ``prompt_id``, ``prompt`` and
      ``rank`` (the ratings are not read), gathered by ``prompt_id`` in the order of first appearance. The picture
      ``images/train/train_1/a.webp`` may also lie in ``images/train/train_1.zip``.

    Ranks are kept as they are: 1 is the best, and gaps and ties occur, in two groups of five at the top.

    Returns:
        A dataset with the columns of :func:`hpslib.rankings.ranked_features`; ``user_hash`` is empty, ``source`` is
        ``"imagereward"``.

    Raises:
        FileNotFoundError, ValueError: as :func:`hpslib.sources.read_hpd`; also for a prompt_id with two prompts.
    """
    file = Path(path)
    if file.suffix.lower() == ".parquet":
        return finished(_from_metadata(file), file, images)
    rows = gather(json_rows(file), _ranking, str(file))
    folder = f"{file.stem}_images"
    return finished(rows, file, images, ("", f"{folder}/", f"{folder}.zip/", f"{folder}.zip/{folder}/"))


def _ranking(number: int, entry: Any) -> dict[str, Any]:
    name, prompt, ranks, paths = fields_of(entry, ("id", "prompt", "ranking"), ("generations",))
    return group_row(name, prompt, paths, ranks, "imagereward")


def _from_metadata(file: Path) -> list[dict[str, Any]]:
    needed = ["image_path", "prompt_id", "prompt", "rank"]
    parquet = parquet_file(file, needed, "name a metadata-*.parquet file of ImageRewardDB")
    groups: dict[str, tuple[str, list[str], list[int]]] = {}
    unzipped: dict[PurePosixPath, bool] = {}
    for number, entry in enumerate(parquet_rows(parquet, file, needed, 10_000)):
        prompt, paths, ranks = groups.setdefault(entry["prompt_id"], (entry["prompt"], [], []))
        if prompt != entry["prompt"]:
            raise ValueError(
                f"{file}, row {number} (from 0): prompt_id {entry['prompt_id']!r} has had another prompt before, "
                "correct or remove this row"
            )
        place = PurePosixPath(str(entry["image_path"]))
        folder = place.parent
        if folder not in unzipped:
            archive = PurePosixPath(f"{folder}.zip")
            unzipped[folder] = Path(file.parent, folder).is_dir() or not Path(file.parent, archive).is_file()
        paths.append(str(place) if unzipped[folder] else f"{folder}.zip/{place.name}")
        ranks.append(entry["rank"])
    return [group_row(name, prompt, paths, ranks, "imagereward") for name, (prompt, paths, ranks) in groups.items()]
