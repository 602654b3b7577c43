"""Where preference groups come from: HPD v1's folder, one of its JSON files, or a packed file, read by one function.

HPD v1 (Wu et al., ICCV 2023) lies on disk as ::

    preference_images/{id}_{k}.jpg
    preference_train.json
    preference_test.json     [{"human_preference": 0, "prompt": "...", "id": 2,
                               "file_path": ["preference_images/2_0.jpg", ...],
                               "user_hash": "...", "contain_name": false}, ...]

:func:`read_hpd` gives it the schema of :mod:`hpslib.data.preferences`; :func:`write_hpd` writes any preference dataset
in that layout, so that other people's tools can read the miniature set or your own votes. Nothing is skipped: what
cannot be read is refused in a sentence that names its row.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpslib.data.images.archives import is_file, is_folder
from hpslib.data.images.safe import IMAGE_ENDINGS, image_extension
from hpslib.data.preferences import PreferenceGroup, features, malformed_rows, refuse_malformed, validate
from hpslib.data.releases.annotations import Images, checked_option, report_absent
from hpslib.data.releases.packed import image_bytes, read_packed
from hpslib.runs.files import one_line, written_whole

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["HPD_V1", "read_hpd", "write_hpd"]

#: ``source`` of the groups that HPD v1 itself holds.
HPD_V1 = "hpd_v1"


# --- reading ----------------------------------------------------------------------------------------------------------


def read_hpd(path: str | Path, images: Images = "require", split: str | None = None) -> Dataset:
    """Read preference groups from an HPD v1 release or from a packed file.

    Args:
        path: a JSON file of HPD v1, a folder that holds ``preference_{split}.json``, or a packed ``.parquet`` file.
        images: ``"require"`` refuses data whose image files are not all there; ``"optional"`` reads the annotations
            anyway and says in one warning how many files are absent. The files are looked for, not opened.
        split: which file of a folder, such as ``"test"``; only for a folder.

    The dataset has the columns of :func:`hpslib.data.preferences.features`, then any further fields of the file. From
    JSON, ids become text, ``source`` is ``"hpd_v1"`` unless a row says otherwise, and image paths stay relative: pass
    the folder as ``root`` to :func:`hpslib.data.preferences.load_images`.

    Raises ``FileNotFoundError`` when the file is absent, or with ``images="require"`` any image file, and
    ``ValueError`` when the file or any of its rows is malformed; the first bad row is named, the others are counted.
    """
    checked_option(images)
    file = _annotation_file(Path(path), split)
    dataset = read_packed(file) if file.suffix.lower() == ".parquet" else _read_json(file)
    report_absent(dataset, file.parent, str(file), images, stacklevel=3)
    return dataset


def _annotation_file(path: Path, split: str | None) -> Path:
    if is_folder(path):
        known = sorted(file.stem.removeprefix("preference_") for file in path.glob("preference_*.json"))
        if not known:
            raise FileNotFoundError(f"{path} holds no preference_*.json: name an HPD v1 folder or a file.")
        if split not in known:
            raise ValueError(
                f"{path} is a folder with the splits {', '.join(known)}: pass one as split= or name a file."
            )
        return path / f"preference_{split}.json"
    if not is_file(path):
        raise FileNotFoundError(f"{path} does not exist: name an HPD v1 JSON file, its folder or a packed file.")
    if split is not None:
        raise ValueError(f"{path} is one file and has no split {split!r}: leave out split= or name its folder.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is an empty file: download it again.")
    return path


def _read_json(file: Path) -> Dataset:
    from datasets import Dataset, Features

    try:
        entries = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested without end
        raise ValueError(
            f"{file} is not readable as JSON ({one_line(error)}): download it again or name a JSON file."
        ) from error
    if not isinstance(entries, list):
        kind = type(entries).__name__
        raise ValueError(f"{file} holds a {kind} where HPD v1 has a list of rows: name a preference_*.json file.")
    if not entries:
        raise ValueError(f"{file} holds no row: name a file with at least one preference group.")
    for number, entry in enumerate(entries):
        if isinstance(entry, dict) and "images" in entry:  # would be hidden behind file_path
            raise ValueError(
                f"{file}, row {number} (from 0) has a field 'images', which HPD v1 lacks: rename it to 'file_path'."
            )
    rows = [_from_hpd(entry) for entry in entries]
    refuse_malformed(malformed_rows(rows), str(file))
    known = features()
    extra_names = list(dict.fromkeys(name for row in rows for name in row if name not in known))
    columns = {name: [row.get(name) for row in rows] for name in [*known, *extra_names]}
    extras = {}
    for name in extra_names:
        try:
            extras.update(Dataset.from_dict({name: columns[name]}).features)
        except Exception as error:  # Arrow has a dozen types for "these values do not fit together"
            raise ValueError(
                f"{file} has a further field {name!r} whose values do not fit together ({one_line(error)}): make them "
                "alike."
            ) from error
    return Dataset.from_dict(columns, features=Features({**known, **extras}))


def _from_hpd(entry: Any) -> Any:
    """Rename HPD v1's fields to the schema's; an odd entry passes through, to be refused with the other bad rows."""
    if not isinstance(entry, Mapping):
        return entry
    row = {"source": HPD_V1, **entry}
    if "file_path" in row:
        paths = row.pop("file_path")
        row["images"] = [{"bytes": None, "path": path} for path in paths] if isinstance(paths, list) else paths
    if isinstance(row.get("id"), int) and not isinstance(row["id"], bool):
        row["id"] = str(row["id"])
    return row


# --- writing ----------------------------------------------------------------------------------------------------------

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_NAME_REMEDY = "use at most 100 letters, digits, '-', '_' and '.'"


def write_hpd(
    dataset: Dataset, folder: str | Path, split: str, *, root: str | Path | None = None, overwrite: bool = False
) -> Path:
    """Write a preference dataset in HPD v1's own layout; reading it back gives the same groups.

    Image bytes are copied as they are, not encoded again. Ids that are whole numbers are written as numbers, as in
    HPD v1. Further columns become further fields, and so does ``source`` unless it is ``"hpd_v1"``.

    Everything is first written to a temporary folder inside ``folder`` and moved when complete, the JSON file last: a
    failure leaves what was there, and a JSON file never names images that are not there. Images of an overwritten
    split that no row names any more stay on disk.

    Args:
        folder: made if absent; may hold other splits, as long as no id occurs in two of them.
        split: names the file ``preference_{split}.json``.
        root: folder of the annotation file that ``dataset`` came from; needed if its images are files.
        overwrite: replace the files of an earlier write.

    Returns the path of the JSON file. Raises ``FileExistsError`` when a file to be written exists and ``overwrite`` is
    false, ``FileNotFoundError`` when an image of ``dataset`` is absent, and ``ValueError`` when the dataset is
    malformed, an image is of an unknown format, an id or the split cannot be part of a file name, another split of the
    folder uses one of the ids, or a further column does not fit into JSON, and ``OSError`` when the disk is full.
    """
    folder = Path(folder)
    if not _NAME.fullmatch(split):
        raise ValueError(f"split={split!r} cannot be part of a file name: {_NAME_REMEDY}.")
    validate(dataset, f"the dataset for {folder}")
    target = folder / f"preference_{split}.json"
    with written_whole(target) as json_file, _stage(folder) as name:
        stage = Path(name)
        entries = []
        for number, row in enumerate(dataset):
            entry = _to_hpd(row, f"the dataset, row {number} (from 0)")
            for k, item in enumerate(row["images"]):
                where = f"the dataset, row {number} (from 0), image {k}"
                data = image_bytes(item, root, where)
                file_name = f"{row['id']}_{k}.{_extension(item, data, where)}"
                (stage / file_name).write_bytes(data)
                entry["file_path"].append(f"preference_images/{file_name}")
            entries.append(entry)
        try:
            text = json.dumps(entries, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"a further column does not fit into JSON ({one_line(error)}): remove or convert it."
            ) from error
        paths = [path for entry in entries for path in entry["file_path"]]
        _refuse_conflicts(folder, target, paths, overwrite)
        with json_file.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # a full disk is noticed before the old file goes
        target.unlink(missing_ok=True)  # from here to the end the split is absent rather than half old, half new
        (folder / "preference_images").mkdir(exist_ok=True)
        for path in paths:
            (stage / Path(path).name).replace(folder / path)
    return target


def _stage(folder: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder for images on their way; what is left of it at the end must not fail the writing."""
    return tempfile.TemporaryDirectory(prefix=".write_hpd_", dir=folder, ignore_cleanup_errors=True)


def _to_hpd(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """One row as HPD v1's fields in HPD v1's order, ``file_path`` still empty."""
    if not _NAME.fullmatch(row["id"]):
        raise ValueError(f"{where} has the id {row['id']!r}, which cannot be part of a file name: {_NAME_REMEDY}.")
    number = re.fullmatch(r"0|[1-9][0-9]{0,17}", row["id"])
    further = {name: value for name, value in row.items() if name not in PreferenceGroup.__annotations__}
    return {
        "human_preference": row["human_preference"],
        "prompt": row["prompt"],
        "id": int(row["id"]) if number else row["id"],
        "file_path": [],
        "user_hash": row["user_hash"],
        "contain_name": row["contain_name"],
        **({} if row["source"] == HPD_V1 else {"source": row["source"]}),
        **further,
    }


def _extension(item: Mapping[str, Any], data: bytes, where: str) -> str:
    """The extension the image already has, otherwise the one of its format. Refuses what is no image."""
    sniffed = image_extension(data, where=where)
    named = Path(item["path"] or "").suffix[1:]
    return named if f".{named.lower()}" in IMAGE_ENDINGS else sniffed


def _refuse_conflicts(folder: Path, target: Path, paths: list[str], overwrite: bool) -> None:
    for other in sorted(set(folder.glob("preference_*.json")) - {target}):
        try:
            taken = set(paths) & {path for entry in json.loads(other.read_bytes()) for path in entry["file_path"]}
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{other} is no HPD v1 file and may own images here: move it away.") from error
        if taken:
            raise ValueError(f"{min(taken)!r} belongs to {other}: give this split other ids or another folder.")
    existing = [place for place in [target, *(folder / path for path in paths)] if os.path.lexists(place)]
    if existing and not overwrite:
        raise FileExistsError(f"{existing[0]} exists already: pass overwrite=True or write to another folder.")
