"""Checkpoints of a training run: written whole or not at all, continued only with the settings they were made with."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

__all__ = ["continue_from", "digest", "load_checkpoint", "save_checkpoint"]


def save_checkpoint(path: str | Path, **parts: Any) -> None:
    """Write tensors, numbers, texts and containers of them; a killed run or a full disk leaves the last whole file."""
    path = Path(path)
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            torch.save(parts, file)
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave a renamed but empty file
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch's zip writer turns a full disk into a RuntimeError
        reason = " ".join(str(error).split())[:200]
        raise OSError(f"{path} cannot be written ({reason}): make room; the last checkpoint is still whole.") from error
    finally:
        partial.unlink(missing_ok=True)


def load_checkpoint(path: str | Path) -> dict[str, Any] | None:
    """What :func:`save_checkpoint` wrote, or ``None`` when there is no file. Nothing in it is run."""
    path = Path(path)
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a dozen types
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is no checkpoint of a run ({reason}): delete it to start anew.") from error


def digest(*tensors: torch.Tensor) -> str:
    """SHA-256 of the tensors' bytes: whether a run goes on with the weights and the data that it began with."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def check_finite(tensors: Mapping[str, torch.Tensor], where: str) -> None:
    """Raise ``ValueError`` naming the first tensor that holds NaN or infinity: it would give plausible results."""
    broken = [key for key, value in tensors.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if broken:
        raise ValueError(
            f"{where}: {broken[0]} holds NaN or infinity ({len(broken)} tensors do): fetch the file again."
        )


def continue_from(path: str | Path | None, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The checkpoint to continue from, or ``None`` to begin. Its ``settings`` must equal those of this run.

    Raises ``ValueError`` naming the first setting that differs: to go on with another would give neither run's result.
    """
    saved = load_checkpoint(path) if path is not None else None
    if saved is None:
        return None
    before = saved.get("settings", {})
    for name in {**before, **settings}:
        if before.get(name) != settings.get(name):
            raise ValueError(
                f"{path} was made with {name} {before.get(name)!r}, but now it is {settings.get(name)!r}: use the same "
                "settings, or delete the file to start anew."
            )
    return saved
