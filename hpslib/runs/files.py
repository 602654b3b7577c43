"""Files: written whole or not at all, told apart by their hashes, read without running what is in them."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import stat
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = [
    "PARTIAL",
    "check_finite",
    "digest",
    "fingerprint",
    "one_line",
    "read_state_dict",
    "sha256",
    "why_unreadable",
    "written_whole",
]

PARTIAL = ".partial"  # the ending of what a killed process had not finished


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A place to write to: what lies there becomes ``path`` when the block ends, and nothing does when it fails.

    The folder is made if need be. Each call has a place of its own, so that two processes that write the same file
    leave one of the two whole; the file is on the disk before it takes the name, or a power cut could leave it empty.
    A file that is replaced hands on its permissions, a new one has those of the umask, whatever wrote it (safetensors
    makes private files). A killed process leaves a hidden ``.{name}.*.partial`` behind,
    which may be deleted.

    Raises ``OSError``, naming ``path``, when the disk is full or refuses: what lay at ``path`` before is still whole.
    What else goes wrong in the block is raised as it is.

    >>> with written_whole("/tmp/numbers.txt") as partial:
    ...     _ = partial.write_text("1 2 3")
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # less what the umask takes away
        mode = stat.S_IMODE(partial.stat().st_mode)
        yield partial
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        partial.chmod(stat.S_IMODE(path.stat().st_mode) if path.exists() else mode)
        partial.replace(path)
    except Exception as error:
        if not _of_writing(error, path, partial):
            raise
        reason = one_line(getattr(error, "strerror", None) or error)
        raise OSError(f"{path} cannot be written ({reason}): make room or choose another place.") from error
    finally:
        with suppress(OSError):  # the folder may be a file: said above
            partial.unlink(missing_ok=True)


def _of_writing(error: Exception, path: Path, partial: Path) -> bool:
    """Whether the system refused to write, rather than to read another file, or somebody raised a sentence."""
    if not isinstance(error, OSError):  # safetensors and torch's zip writer turn a full disk into types of their own
        return any(sign in str(error) for sign in ("Error while serializing: I/O error", "inline_container.cc"))
    if error.filename is None:  # a read that fails has another number; Pillow and Arrow may give none
        full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
        return error.errno in full or (error.errno is None and type(error) is OSError)
    return Path(os.fsdecode(error.filename)) in (path, partial, *path.parents)


def one_line(error: BaseException | str) -> str:
    """An error's text on one line, at most 200 characters of it, without its full stop: to stand inside a sentence.

    >>> one_line(ValueError("no\\n  such thing."))
    'no such thing'
    """
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__


def sha256(path: str | Path) -> str:
    """The file's SHA-256 as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(*parts: torch.Tensor | str) -> str:
    """SHA-256 of tensors' bytes and of texts, 64 hexadecimal digits: whether a run goes on with what it began with."""
    hashed = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            hashed.update(part.encode("utf-8", "surrogatepass") + b"\0")  # "ab", "c" is not "a", "bc"
        else:
            import torch  # texts alone do without

            hashed.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def check_finite(tensors: Mapping[str, torch.Tensor], where: str) -> None:
    """Raise ``ValueError`` naming the first tensor that holds NaN or infinity: it would give plausible results."""
    import torch

    broken = [key for key, value in tensors.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if broken:
        raise ValueError(
            f"{where}: {broken[0]} holds NaN or infinity ({len(broken)} tensors do): fetch the file again."
        )


_DECISIVE = (".safetensors", ".json", ".txt", ".gz", ".model")  # of a model's folder: no checkpoint, card or cache


def fingerprint(path: Path, contents: bool = True) -> str:
    """What tells this input from another: the hash of a file, or of the weights and settings in a model's folder.

    ``contents=False`` is for a folder of images, which would take long to read: names and sizes of all its files.
    Raises ``FileNotFoundError`` when nothing lies at ``path``.
    """
    if path.is_file():
        return sha256(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: name a file or a folder.")
    whole = [file for file in path.rglob("*") if file.is_file() and file.suffix != PARTIAL]
    files = sorted(file for file in whole if not contents or file.suffix in _DECISIVE)
    lines = [f"{file.relative_to(path)} {sha256(file) if contents else file.stat().st_size}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


_OPENAI_CLIP = "hf://openai/clip-vit-large-patch14/model.safetensors"  # OpenAI's release as plain weights


def why_unreadable(path: Path, error: BaseException) -> str:
    """Why a file of weights could not be read, to stand inside a sentence: what the file is instead, where its first
    bytes tell, else the reader's own reason. What a reader advises is left out: torch's is to run what is in the file.

    >>> why_unreadable(Path("absent.pt"), ValueError("cut off."))
    'cut off'
    """
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as refusal:
        return one_line(refusal.strerror or refusal) if path.exists() else one_line(error)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        return "it is empty"
    if text.startswith(b"version https://git-lfs"):
        return "it is a git-lfs pointer, not the file that it points to"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        return "it is a web page"
    if text.startswith((b"{", b"[")):
        return "it is text, perhaps a server's answer"
    torch_file = start.startswith((b"\x80", b"PK\x03\x04"))
    if torch_file and path.suffix == ".safetensors":
        return "it is a torch file by its content, whatever its name says"
    if torch_file and "weights only" in str(error).lower():
        return "it holds Python objects that reading would run, or is damaged"
    return _plain(error)


def _plain(error: BaseException) -> str:
    """A reader's reason on one line, without the colours of a terminal and without advice."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    advice = re.search(r"weights[ _]only|trust|you have two options", text, re.IGNORECASE)
    return "it is no such file, or damaged" if advice else one_line(text or type(error).__name__)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or torch file, taken out of ``state_dict``, ``model`` and ``module.`` wrappers.

    Torch files are read with ``weights_only=True``: nothing in them is run. Raises ``FileNotFoundError`` when the file
    is absent and ``ValueError`` when it is cut off, something else (a web page, a git-lfs pointer), holds other objects
    than tensors, or no weights at all.
    """
    import torch

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: name the checkpoint file that was downloaded.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*(TorchScript|pickle protocol)")  # said below, once
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a dozen types: cut off, no zip, an object that weights_only refuses, safetensors' own
        if "TorchScript" in str(error):  # OpenAI's own ViT-L-14.pt; to read it would be to run what is in it
            raise ValueError(
                f"{path} is a TorchScript program, not a file of weights, and is not run here: take the same weights "
                f"from {_OPENAI_CLIP}."
            ) from error
        raise ValueError(
            f"{path} cannot be read as weights ({why_unreadable(path, error)}): download it again."
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    weights = {k: v for k, v in content.items() if isinstance(v, torch.Tensor)} if isinstance(content, Mapping) else {}
    if not weights:
        raise ValueError(f"{path} holds no weights: name a checkpoint, not a {type(content).__name__}.")
    check_finite(weights, str(path))
    if all(key.startswith("module.") for key in weights):
        weights = {key.removeprefix("module."): value for key, value in weights.items()}
    return weights
