"""Where preference groups come from: HPD v1's folder, one of its JSON files, or a packed file, read by one function.

HPD v1 (Wu et al., ICCV 2023) lies on disk as ::

    preference_images/{id}_{k}.jpg
    preference_train.json
    preference_test.json     [{"human_preference": 0, "prompt": "...", "id": 2,
                               "file_path": ["preference_images/2_0.jpg", ...],
                               "user_hash": "...", "contain_name": false}, ...]

:func:`read_hpd` gives it the schema of :mod:`hpslib.data.preferences`; :func:`write_hpd` writes any preference dataset
in that layout, so that other people's tools can read the miniature set or your own votes; :func:`write_packed` puts
everything into one parquet file. Nothing is skipped: what cannot be read is refused in a sentence that names its row.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hpslib.data.images.safe import FORMATS, image_extension, image_source
from hpslib.data.preferences import PreferenceGroup, absent_images, features, malformed_rows, refuse_malformed, validate

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Images", "checked_option", "read_hpd", "report_absent", "write_hpd", "write_packed"]

HPD_V1 = "hpd_v1"

#: What is done about absent pictures: refused, or reported in one warning.
Images = Literal["require", "optional"]


# --- reading ----------------------------------------------------------------------------------------------------------


def read_hpd(path: str | Path, images: Images = "require", split: str | None = None) -> Dataset:
    """Read preference groups from an HPD v1 release or from a packed file.

    Args:
        path: a JSON file of HPD v1, a folder that holds ``preference_{split}.json``, or a packed ``.parquet`` file.
        images: ``"require"`` refuses data whose image files are not all there; ``"optional"`` reads the annotations
            anyway and says in one warning how many files are absent. The files are looked for, not opened.
        split: which file of a folder, such as ``"test"``; only for a folder.

    Returns:
        A dataset with the columns of :func:`hpslib.data.preferences.features`, then any further fields of the file.
        From JSON, ids become text, ``source`` is ``"hpd_v1"`` unless a row says otherwise, and image paths stay
        relative: pass the folder as ``root`` to :func:`hpslib.data.preferences.load_images`.

    Raises:
        FileNotFoundError: if the file is absent, or with ``images="require"`` any image file.
        ValueError: if the file or any of its rows is malformed; the first bad row is named, the others are counted.
    """
    checked_option(images)
    file = _annotation_file(Path(path), split)
    dataset = _read_packed(file) if file.suffix.lower() == ".parquet" else _read_json(file)
    report_absent(dataset, file.parent, str(file), images, stacklevel=3)
    return dataset


def checked_option(images: str) -> None:
    """Raise ``ValueError`` unless it is ``"require"`` or ``"optional"``."""
    if images not in ("require", "optional"):
        raise ValueError(f"images={images!r} is neither 'require' nor 'optional', use one of these")


def report_absent(dataset: Dataset, root: Path, where: str, images: Images, stacklevel: int = 3) -> None:
    """With ``"require"`` raise ``FileNotFoundError`` for absent pictures, else warn once of how many there are."""
    absent = absent_images(dataset, root, where)
    if absent:
        row, first = absent[0]
        found = f"{len(absent)} of {sum(map(len, dataset['images']))} image files are absent below {root}"
        if images == "require":
            raise FileNotFoundError(
                f"{where}, row {row} (from 0): the image file {first!r} is absent ({found}), "
                "put the images beside the annotation file or read it with images='optional'"
            )
        warnings.warn(f"{where}: {found}, the first is {first!r} in row {row} (from 0)", stacklevel=stacklevel)


def _annotation_file(path: Path, split: str | None) -> Path:
    if path.is_dir():
        known = sorted(file.stem.removeprefix("preference_") for file in path.glob("preference_*.json"))
        if not known:
            raise FileNotFoundError(f"{path} holds no preference_*.json, name an HPD v1 folder or a file")
        if split not in known:
            raise ValueError(
                f"{path} is a folder with the splits {', '.join(known)}, pass one as split= or name a file"
            )
        return path / f"preference_{split}.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist, name an HPD v1 JSON file, its folder or a packed parquet file")
    if split is not None:
        raise ValueError(f"{path} is one file, so leave out split={split!r} or name its folder")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is an empty file, download it again")
    return path


def _read_json(file: Path) -> Dataset:
    from datasets import Dataset, Features

    try:
        entries = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested without end
        reason = " ".join(str(error).split())
        raise ValueError(f"{file} is not readable as JSON ({reason}), download it again or name a JSON file") from error
    if not isinstance(entries, list):
        kind = type(entries).__name__
        raise ValueError(f"{file} holds a {kind} where HPD v1 has a list of rows, name a preference_*.json file")
    if not entries:
        raise ValueError(f"{file} holds no row, name a file with at least one preference group")
    for number, entry in enumerate(entries):
        if isinstance(entry, dict) and "images" in entry:  # would be hidden behind file_path
            raise ValueError(f"{file}, row {number} (from 0): HPD v1 has no field 'images', rename it to 'file_path'")
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
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{file}: the further field {name!r} holds values that do not fit together ({reason}), make them alike"
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


def _read_packed(file: Path) -> Dataset:
    import pyarrow.parquet as pq
    from datasets import Dataset, Features
    from datasets.table import table_cast

    try:
        table = pq.read_table(file)
    except Exception as error:  # pyarrow raises its own types as well as OSError
        reason = " ".join(str(error).split())
        raise ValueError(f"{file} is not readable as parquet ({reason}), download it again") from error
    missing = [name for name in features() if name not in table.column_names]
    if missing:
        raise ValueError(f"{file}: the column {', '.join(missing)} is missing, write it with write_packed")
    try:
        # Other writers leave no note of the image type, or use Arrow's large strings.
        found = Features.from_arrow_schema(table.schema)
        wanted = Features({**features(), **{name: kind for name, kind in found.items() if name not in features()}})
        dataset = Dataset(table_cast(table, wanted.arrow_schema))
    except Exception as error:  # see above
        reason = " ".join(str(error).split())
        raise ValueError(f"{file}: the columns lack the types of features() ({reason}), write it again") from error
    validate(dataset, str(file))
    return dataset


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
    failure leaves what was there, and a JSON file never names pictures that are not there. Pictures of an overwritten
    split that no row names any more stay on disk.

    Args:
        folder: made if absent; may hold other splits, as long as no id occurs in two of them.
        split: names the file ``preference_{split}.json``.
        root: folder of the annotation file that ``dataset`` came from; needed if its pictures are files.
        overwrite: replace the files of an earlier write.

    Returns:
        The path of the JSON file.

    Raises:
        FileExistsError: if a file to be written exists and ``overwrite`` is False.
        FileNotFoundError: if a picture of ``dataset`` is absent.
        ValueError: if the dataset is malformed, a picture is of an unknown format, an id or the split cannot be part of
            a file name, another split of the folder uses one of the ids, or a further column does not fit into JSON.
    """
    folder = Path(folder)
    if not _NAME.fullmatch(split):
        raise ValueError(f"split={split!r} cannot be part of a file name, {_NAME_REMEDY}")
    validate(dataset, f"the dataset for {folder}")
    target = folder / f"preference_{split}.json"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".write_hpd_", dir=folder) as name:
        stage = Path(name)
        entries = []
        for number, row in enumerate(dataset):
            entry = _to_hpd(row, f"the dataset, row {number} (from 0)")
            for k, item in enumerate(row["images"]):
                where = f"the dataset, row {number} (from 0), image {k}"
                data = _picture_bytes(item, root, where)
                file_name = f"{row['id']}_{k}.{_extension(item, data, where)}"
                (stage / file_name).write_bytes(data)
                entry["file_path"].append(f"preference_images/{file_name}")
            entries.append(entry)
        try:
            text = json.dumps(entries, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"a further column does not fit into JSON ({error}), remove or convert it") from error
        paths = [path for entry in entries for path in entry["file_path"]]
        _refuse_conflicts(folder, target, paths, overwrite)
        (stage / target.name).write_text(text, encoding="utf-8")
        target.unlink(missing_ok=True)  # from here to the last line the split is absent rather than half old, half new
        (folder / "preference_images").mkdir(exist_ok=True)
        for path in paths:
            (stage / Path(path).name).replace(folder / path)
        (stage / target.name).replace(target)
    return target


def _to_hpd(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """One row as HPD v1's fields in HPD v1's order, ``file_path`` still empty."""
    if not _NAME.fullmatch(row["id"]):
        raise ValueError(f"{where}: the id {row['id']!r} cannot be part of a file name, {_NAME_REMEDY}")
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


def _picture_bytes(item: Mapping[str, Any], root: str | Path | None, where: str) -> bytes:
    source = image_source(item, root, where=where)
    if isinstance(source, bytes):
        return source
    if not source.is_file():
        raise FileNotFoundError(f"{where}: the image file {source} is absent, download it or remove its row")
    return source.read_bytes()


def _extension(item: Mapping[str, Any], data: bytes, where: str) -> str:
    """The extension the picture already has, otherwise the one of its format. Refuses what is no picture."""
    sniffed = image_extension(data, where=where)
    named = Path(item["path"] or "").suffix[1:]
    return named if named.lower() in {*FORMATS.values(), "jpeg", "tiff"} else sniffed


def _refuse_conflicts(folder: Path, target: Path, paths: list[str], overwrite: bool) -> None:
    for other in sorted(set(folder.glob("preference_*.json")) - {target}):
        try:
            taken = set(paths) & {path for entry in json.loads(other.read_bytes()) for path in entry["file_path"]}
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{other} is no HPD v1 file, so whose images are here is unknown, move it away") from error
        if taken:
            raise ValueError(f"{min(taken)!r} belongs to {other}, give this split other ids or another folder")
    existing = [place for place in [target, *(folder / path for path in paths)] if os.path.lexists(place)]
    if existing and not overwrite:
        raise FileExistsError(f"{existing[0]} exists already, pass overwrite=True or write to another folder")


def write_packed(
    dataset: Dataset, path: str | Path, *, root: str | Path | None = None, overwrite: bool = False
) -> Path:
    """Write a preference dataset with its pictures into one parquet file that :func:`read_hpd` reads.

    The same rows give the same bytes with the same pyarrow version. Pictures are copied as they are.

    Args:
        path: file to write, ending in ``.parquet``; its folder is made if absent.
        root: folder of the annotation file that ``dataset`` came from; needed if its pictures are files.
        overwrite: replace an existing file.

    Raises:
        FileExistsError, FileNotFoundError, ValueError: as :func:`write_hpd`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if path.suffix.lower() != ".parquet":
        raise ValueError(f"{path} does not end in .parquet, which is how read_hpd knows a packed file, rename it")
    if os.path.lexists(path) and not overwrite:
        raise FileExistsError(f"{path} exists already, pass overwrite=True or write to another file")
    validate(dataset, f"the dataset for {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = dataset.features.arrow_schema
    with tempfile.TemporaryDirectory(prefix=".write_packed_", dir=path.parent) as name:
        temporary = Path(name) / path.name
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for start in range(0, len(dataset), 1000):  # so that a large release never stands in memory as a whole
                columns = dataset[start : start + 1000]
                for number, images in enumerate(columns["images"], start):
                    for k, item in enumerate(images):
                        where = f"the dataset, row {number} (from 0), image {k}"
                        item["bytes"] = _picture_bytes(item, root, where)
                        image_extension(item["bytes"], where=where)  # refuses what is no picture
                writer.write_table(pa.Table.from_pydict(columns, schema=schema))
        temporary.replace(path)
    return path
