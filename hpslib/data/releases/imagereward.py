"""ImageReward's annotations: 4 to 9 images a prompt, in order, with ties."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from hpslib.data.images.archives import is_file, is_folder
from hpslib.data.releases.annotations import Images, fields_of, finished, gather, group_row
from hpslib.data.rows import check_columns, json_rows, parquet_file, parquet_rows
from hpslib.runs.files import one_line

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["read_imagereward"]


def read_imagereward(path: str | Path, images: Images = "require") -> Dataset:
    """ImageReward's annotations: 4 to 9 images a prompt in order, with ties.

    Two layouts are read:

    * ``.json``, as in the project's repository: ``[{"id", "prompt", "generations": [...], "ranking": [...]}, ...]``.
      Images are looked for beside ``test.json`` and in ``test_images/`` or ``test_images.zip``.
    * ``.parquet``, the metadata of ImageRewardDB: a row per image with ``image_path``, ``prompt_id``, ``prompt`` and
      ``rank`` (the ratings are not read), gathered by ``prompt_id`` in the order of first appearance. The image
      ``images/train/train_1/a.webp`` may also lie in ``images/train/train_1.zip``.

    Ranks are kept as they are: 1 is the best, and gaps and ties occur, in two groups of five at the top.

    The dataset has the columns of :func:`hpslib.data.rankings.ranked_features`; ``user_hash`` is empty, ``source`` is
    ``"imagereward"``. Raises ``FileNotFoundError`` and ``ValueError`` as :func:`hpslib.data.releases.hpd_v1.read_hpd`
    does, and ``ValueError`` for a prompt_id with two prompts.
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
    kinds = {"image_path": "text", "prompt_id": "text", "prompt": "text", "rank": "whole"}
    check_columns(parquet.schema_arrow, file, kinds)
    groups: dict[str, tuple[str, list[str], list[int]]] = {}
    unzipped: dict[PurePosixPath, bool] = {}
    for number, entry in enumerate(parquet_rows(parquet, file, needed, 10_000)):
        empty = next((name for name in needed if entry[name] is None), None)
        if empty is not None:
            raise ValueError(f"{file}, row {number} (from 0) has no {empty}: correct or remove this row.")
        prompt, paths, ranks = groups.setdefault(entry["prompt_id"], (entry["prompt"], [], []))
        if prompt != entry["prompt"]:
            raise ValueError(
                f"{file}, row {number} (from 0) gives prompt_id {one_line(repr(entry['prompt_id']))} another prompt "
                "than before: correct or remove this row."
            )
        place = PurePosixPath(entry["image_path"])
        folder = place.parent
        if folder not in unzipped:
            archive = PurePosixPath(f"{folder}.zip")
            unzipped[folder] = is_folder(Path(file.parent, folder)) or not is_file(Path(file.parent, archive))
        paths.append(str(place) if unzipped[folder] else f"{folder}.zip/{place.name}")
        ranks.append(entry["rank"])
    return [group_row(name, prompt, paths, ranks, "imagereward") for name, (prompt, paths, ranks) in groups.items()]
