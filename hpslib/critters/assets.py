"""The files of the miniature world in ``data/``: where they are, and that they are whole."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from hpslib.runs.files import sha256

__all__ = ["asset", "data_folder", "manifest", "verify"]


def data_folder() -> Path:
    """The folder with ``manifest.json``: ``$HPSLIB_DATA``, or else ``data/`` beside the package (a clone), ``_data`` in
    the package (a wheel), or ``data/`` above the working folder.

    Raises ``FileNotFoundError`` when there is none.
    """
    named = os.environ.get("HPSLIB_DATA")
    package = Path(__file__).resolve().parents[1]
    above = [parent / "data" for parent in (Path.cwd(), *Path.cwd().parents)]
    places = [package.parent / "data", package / "_data", *above]
    if named:
        places = [Path(named).expanduser().absolute()]
    for place in places:
        if (place / "manifest.json").is_file():
            return place
    raise FileNotFoundError(
        f"no miniature world in {places[0]}: clone the project with its data/ folder, or set HPSLIB_DATA."
    )


def manifest(folder: Path | None = None) -> dict[str, Any]:
    """The content of ``manifest.json``: ``files`` (path -> sha256 and bytes), ``settings`` and ``gates``."""
    path = (folder or data_folder()) / "manifest.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): restore it with 'git checkout -- data'.") from error


def verify(folder: Path, name: str) -> None:
    """Check one file, or every file below a folder, against the manifest; see :func:`asset` for the errors."""
    listed = {
        key: entry for key, entry in manifest(folder)["files"].items() if key == name or key.startswith(f"{name}/")
    }
    if not listed:
        raise ValueError(f"data/{name} is not in the manifest: ask for one of its files or folders.")
    for key, entry in listed.items():
        path = folder / key
        if not path.is_file():
            raise FileNotFoundError(f"data/{key} is missing: {_restored(folder, key)}.")
        if sha256(path) != entry["sha256"]:
            raise ValueError(f"data/{key} is damaged (its SHA-256 differs): {_restored(folder, key)}.")


def _restored(folder: Path, key: str) -> str:
    return "install hpslib anew" if folder.name == "_data" else f"restore it with 'git checkout -- data/{key}'"


@cache
def _verified(folder: Path, name: str) -> Path:
    verify(folder, name)
    return folder / name


def asset(name: str) -> Path:
    """The path of a file or folder below ``data/``, checked by its hash the first time it is asked for.

    Raises ``FileNotFoundError`` for a missing and ``ValueError`` for a damaged file, each named.
    """
    return _verified(data_folder(), name)
