"""HPD v2 (Wu et al., 2023, arXiv 2306.09341): training pairs, the ranked test set and the benchmark of models.

What lies on disk is, after unpacking the two ``.tar.gz``::

    train.json    train/{number}.jpg
    test.json     test/{number}.jpg
    benchmark/{style}.json    benchmark/benchmark_imgs/{model}/{style}/{number:05d}.jpg
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpslib.data.images.archives import is_folder, is_hidden
from hpslib.data.preferences import is_unicode
from hpslib.data.releases.annotations import (
    Images,
    checked_option,
    fields_of,
    finished,
    gather,
    group_row,
    report_absent,
)
from hpslib.data.rows import json_rows
from hpslib.runs.files import one_line

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["STYLES", "read_hpd_v2_benchmark", "read_hpd_v2_test", "read_hpd_v2_train"]

#: The four styles of the benchmark, as its files are named.
STYLES = ("anime", "concept-art", "paintings", "photo")


def read_hpd_v2_train(path: str | Path, images: Images = "require") -> Dataset:
    """HPD v2's ``train.json``: pairs, ``{"human_preference": [1, 0], "prompt": ..., "file_path": [..., ...]}``.

    The preferred image has rank 1 and the other rank 2; equal numbers are a tie. Ids are ``train-`` and the row's
    number from 0, as the file has none. Images are looked for beside the file and in ``train/``.

    Args:
        path: the JSON file; ``image_path`` may stand for ``file_path``, and ``user_hash`` may be absent.
        images: ``"require"`` or ``"optional"``, see :func:`hpslib.data.releases.hpd_v1.read_hpd`.

    The dataset has the columns of :func:`hpslib.data.rankings.ranked_features`; ``source`` is ``"hpd_v2_train"`` and
    ``contain_name`` always false. Other fields of the file are not read. Raises ``FileNotFoundError`` and
    ``ValueError`` as :func:`hpslib.data.releases.hpd_v1.read_hpd` does.
    """
    file = Path(path)
    rows = gather(json_rows(file), _pair, str(file))
    return finished(rows, file, images, ("", "train/"))


def _pair(number: int, entry: Any) -> dict[str, Any]:
    marks, prompt, paths = fields_of(entry, ("human_preference", "prompt"), ("file_path", "image_path"))
    if not isinstance(marks, list) or len(marks) != len(paths) or not all(mark in (0, 1) for mark in marks):
        raise ValueError(
            f"human_preference is {one_line(repr(marks))} where a 0 or 1 for each of {len(paths)} images was expected"
        )
    ranks = [1 if mark == max(marks) else 2 for mark in marks]
    return group_row(f"train-{number:06d}", prompt, paths, ranks, "hpd_v2_train", entry.get("user_hash", ""))


def read_hpd_v2_test(path: str | Path, images: Images = "require") -> Dataset:
    """HPD v2's ``test.json``: 9 or 10 images a prompt, put in order by ten people.

    ``{"prompt": ..., "image_path": [...], "rank": [...], "raw_annotations": [{"rank": [...], "user_hash": ...}]}``.
    ``rank`` is the averaged order, lower is better (HPSv2's ``evaluate_rank`` holds it against ``argsort(-score)``).
    Whether a file counts from 0 or 1, or states averages, the order is kept and brought to 1, 2, ..., where equals
    share the lower number. Ids are ``test-`` and the row's number. Images are looked for beside the file and in
    ``test/``.

    The dataset has the columns of :func:`hpslib.data.rankings.ranked_features`, then the single people: ``rater_ranks``
    (one list of ranks each, brought to 1 = best likewise) and ``raters`` (their ``user_hash``). ``user_hash`` itself is
    empty, ``source`` is ``"hpd_v2_test"``. Raises ``FileNotFoundError`` and ``ValueError`` as
    :func:`hpslib.data.releases.hpd_v1.read_hpd` does.
    """
    import datasets

    file = Path(path)
    rows = gather(json_rows(file), _ranking, str(file))
    text, whole = datasets.Value("string"), datasets.Value("int64")
    further = {"rater_ranks": datasets.List(datasets.List(whole)), "raters": datasets.List(text)}
    return finished(rows, file, images, ("", "test/"), further)


def _ranking(number: int, entry: Any) -> dict[str, Any]:
    rank, prompt, paths = fields_of(entry, ("rank", "prompt"), ("image_path", "file_path"))
    raw = entry.get("raw_annotations", entry.get("raw_annotation", []))  # the release and its description differ
    if not isinstance(raw, list) or not all(isinstance(one, dict) and {"rank", "user_hash"} <= set(one) for one in raw):
        raise ValueError("raw_annotations is no list of objects with rank and user_hash")
    row = group_row(f"test-{number:06d}", prompt, paths, _places(rank, len(paths), "rank"), "hpd_v2_test")
    row["rater_ranks"] = [_places(one["rank"], len(paths), f"the rank of rater {k}") for k, one in enumerate(raw)]
    odd = next((one["user_hash"] for one in raw if not isinstance(one["user_hash"], str | int)), "")
    row["raters"] = [str(one["user_hash"]) for one in raw]
    if odd != "" or not all(map(is_unicode, row["raters"])):
        raise ValueError("raw_annotations has a user_hash that is no text")
    return row


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _places(rank: Any, n_images: int, name: str) -> list[int]:
    """Ranks counted from anywhere as 1 = best; equals share the lower number."""
    from scipy.stats import rankdata

    # Beyond 2**53 a float cannot tell neighbours apart, and an order of ten images needs no such number.
    numbers = isinstance(rank, list) and all(_is_number(one) and abs(one) < 2**53 for one in rank)
    if not numbers or len(rank) != n_images:
        raise ValueError(
            f"{name} is {one_line(repr(rank))} where a list of {n_images} numbers, one per image, was expected"
        )
    return rankdata(rank, method="min").astype(int).tolist()


def read_hpd_v2_benchmark(
    images_folder: str | Path,
    prompts_folder: str | Path,
    images: Images = "require",
    styles: Sequence[str] = STYLES,
) -> Dataset:
    """The HPS v2 benchmark: one image of every model for each of 800 prompts in four styles. Nobody judged them.

    Prompts lie in ``{prompts_folder}/{style}.json`` (a list of texts), images in
    ``{images_folder}/{model}/{style}/{number:05d}.jpg``. Every folder in ``images_folder`` is a model.

    The dataset has ``id`` (``anime-00000``), ``prompt``, ``images`` (one per model, paths below ``images_folder``),
    ``models`` (their names, in the order of ``images``) and ``style``. Raises ``FileNotFoundError`` when a folder, a
    prompt file or (with ``images="require"``) an image is absent, and ``ValueError`` when a prompt file is no list of
    texts, or a style is not among :data:`STYLES`.
    """
    import datasets

    checked_option(images)
    root, unknown = Path(images_folder), [style for style in styles if style not in STYLES]
    if unknown or not styles:
        raise ValueError(f"styles={list(styles)} names no style, or an unknown one: use some of {', '.join(STYLES)}.")
    if not is_folder(root):
        raise FileNotFoundError(f"{root} is no folder: name the one that holds a folder of images for each model.")
    models = sorted(folder.name for folder in root.iterdir() if folder.is_dir() and not is_hidden(folder.name))
    if not models:
        raise FileNotFoundError(f"{root} holds no folder of a model: put {{model}}/{{style}}/00000.jpg into it.")
    rows = []
    for style in styles:
        file = Path(prompts_folder, f"{style}.json")
        for number, prompt in enumerate(json_rows(file)):
            if not isinstance(prompt, str) or not prompt.strip() or not is_unicode(prompt):
                raise ValueError(
                    f"{file}, row {number} (from 0) is no prompt but {one_line(repr(prompt))}: download it again."
                )
            paths = [{"bytes": None, "path": f"{model}/{style}/{number:05d}.jpg"} for model in models]
            rows.append({"id": f"{style}-{number:05d}", "prompt": prompt, "images": paths})
            rows[-1] |= {"models": models, "style": style}
    text = datasets.Value("string")
    schema = {"id": text, "prompt": text, "images": datasets.List(datasets.Image(decode=False))}
    schema |= {"models": datasets.List(text), "style": text}
    dataset = datasets.Dataset.from_list(rows, features=datasets.Features(schema))
    report_absent(dataset, root, str(root), images)
    return dataset
