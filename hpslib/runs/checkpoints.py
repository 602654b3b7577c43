"""Checkpoints of a training run: written whole or not at all, continued only with the settings they were made with."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hpslib.runs.files import one_line, why_unreadable, written_whole

__all__ = ["continue_from", "load_checkpoint", "save_checkpoint"]


def save_checkpoint(path: str | Path, **parts: Any) -> None:
    """Write tensors, numbers, texts and containers of them; a killed run or a full disk leaves the last whole file.

    Raises ``OSError`` when the disk is full.
    """
    try:
        # An open file, since torch writes the name of a path into the archive.
        with written_whole(path) as partial, partial.open("wb") as file:
            torch.save(parts, file)
    except RuntimeError as error:  # torch's zip writer turns a full disk into one
        raise OSError(f"{path} cannot be written ({one_line(error)}): make room or choose another place.") from error


def load_checkpoint(path: str | Path) -> dict[str, Any] | None:
    """What :func:`save_checkpoint` wrote, or ``None`` when there is no file. Nothing in it is run.

    Raises ``ValueError`` when the file is cut off, damaged or no checkpoint. torch writes a checksum beside every
    tensor and never looks at it again; here it is compared, or one flipped bit would go on as another run.
    """
    path = Path(path)
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is None:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a dozen types
        reason = why_unreadable(path, error)
        raise ValueError(f"{path} is no checkpoint of a run ({reason}): delete it to start anew.") from error
    if damaged is not None:
        raise ValueError(
            f"{path} is no checkpoint of a run ({damaged} in it does not have its checksum): delete it to start anew."
        )
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} is no checkpoint of a run (it holds a {type(content).__name__}): delete it to start anew."
        )
    return content


def continue_from(path: str | Path | None, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The checkpoint to continue from, or ``None`` to begin. Its ``settings`` must equal those of this run.

    Raises ``ValueError`` as :func:`load_checkpoint`, and naming the first setting that differs: to go on with another
    would give neither run's result.
    """
    saved = load_checkpoint(path) if path is not None else None
    if saved is None:
        return None
    before = saved.get("settings")
    if not isinstance(before, dict):
        raise ValueError(f"{path} is no checkpoint of a run (it names no settings): delete it to start anew.")
    for name in {**before, **settings}:
        if before.get(name) != settings.get(name):
            raise ValueError(
                f"{path} was made with {name} {before.get(name)!r}, but now it is {settings.get(name)!r}: use the same "
                "settings, or delete the file to start anew."
            )
    return saved
