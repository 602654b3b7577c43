"""hpslib.runs.files: a file is whole or the one before, and hashes tell files, folders and tensors apart."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import stat
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from full_disk import no_room
from safetensors.torch import save_file

from hpslib.runs import files
from hpslib.runs.files import check_finite, digest, fingerprint, one_line, read_state_dict, sha256, written_whole


def test_the_file_takes_its_name_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    with written_whole(path) as partial:
        partial.write_text("old")
        assert not path.exists() and partial.parent == path.parent and partial.name.startswith(".a.txt.")
    with written_whole(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "error", [ValueError("broken"), KeyboardInterrupt(), FileNotFoundError("a sentence: read it.")]
)
def test_a_block_that_fails_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(type(error)) as raised, written_whole(path) as partial:
        partial.write_text("half")
        raise error
    assert raised.value is error, "what is no fault of the disk is raised as it is"
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_read_in_the_block_is_not_taken_for_the_one_that_is_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error, written_whole(tmp_path / "a.txt"):
        (tmp_path / "absent.txt").read_text()
    assert error.value.filename == str(tmp_path / "absent.txt") and list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with no_room(1_000), pytest.raises(OSError) as error, written_whole(path) as partial:
        partial.write_bytes(bytes(5_000))
    assert str(error.value) == f"{path} cannot be written (File too large): make room or choose another place."
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_disk_that_refuses_at_the_very_end_is_the_same_sentence(tmp_path: Path, monkeypatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    sentence = r"a\.bin cannot be written \(No space left on device\): make room"
    with pytest.raises(OSError, match=sentence), written_whole(tmp_path / "a.bin") as partial:
        partial.write_bytes(b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_place_where_no_file_can_be_is_the_same_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "a.txt", tmp_path / "folder"):
        with pytest.raises(OSError) as error, written_whole(path) as partial:
            partial.write_text("new")
        assert str(error.value).startswith(f"{path} cannot be written (")
        assert str(error.value).endswith("): make room or choose another place.")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_the_bytes_are_on_the_disk_before_they_take_the_name(tmp_path: Path, monkeypatch) -> None:
    path, order = tmp_path / "a.txt", []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: (order.append("sync"), sync(descriptor)))
    monkeypatch.setattr(Path, "replace", lambda self, target: (order.append("name"), replace(self, target)))
    with written_whole(path) as partial:
        partial.write_text("new")
    assert order == ["sync", "name"]


def test_two_writers_leave_one_of_the_two_whole(tmp_path: Path) -> None:
    path, both = tmp_path / "a.bin", threading.Barrier(2)
    contents = [bytes([k]) * 100_000 for k in (1, 2)]

    def write(content: bytes) -> None:
        with written_whole(path) as partial:
            both.wait()
            partial.write_bytes(content)
            both.wait()

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert path.read_bytes() in contents and list(tmp_path.iterdir()) == [path]


def test_permissions_are_those_of_the_old_file_or_else_of_any_new_one(tmp_path: Path) -> None:
    path, plain = tmp_path / "a.txt", tmp_path / "plain.txt"
    before = os.umask(0o027)
    try:
        plain.write_text("")
        for mode in (stat.S_IMODE(plain.stat().st_mode), 0o600, 0o664):
            if mode in (0o600, 0o664):
                path.chmod(mode)
            with written_whole(path) as partial:
                partial.write_text("new")
            assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(before)


def test_an_errors_text_stands_inside_a_sentence() -> None:
    assert one_line(ValueError(" two\n lines. ")) == "two lines" and one_line(KeyError()) == "KeyError"
    assert len(one_line("x" * 900)) == 200 and one_line("12. 5") == "12. 5"


def test_sha256_is_the_hash_of_the_files_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_digest_is_the_hash_of_all_bytes_in_their_order() -> None:
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensor = torch.from_numpy(numbers)
    assert digest(tensor) == hashlib.sha256(numbers.tobytes()).hexdigest()
    assert digest(tensor.t()) == hashlib.sha256(numbers.T.copy().tobytes()).hexdigest() != digest(tensor)
    assert digest(tensor[:1], tensor[1:]) == digest(tensor) != digest(tensor[1:], tensor[:1])
    changed = tensor.clone()
    changed[1, 2] = torch.nextafter(changed[1, 2], torch.tensor(9.0))
    assert digest(changed) != digest(tensor)
    assert len(digest(tensor.bfloat16(), torch.tensor(True), torch.zeros(0))) == 64, "any type and shape"
    assert digest(tensor.requires_grad_()) == digest(tensor.detach())
    assert digest("ab", "c") != digest("a", "bc") and digest("ab") != digest("ab", ""), "texts keep their borders"
    assert digest("a \ud800", tensor) != digest("a", tensor), "any text"


def test_a_fingerprint_knows_a_file_by_its_bytes_and_a_model_by_its_weights_and_settings(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "weights.safetensors").write_bytes(b"abc")
    (folder / "config.json").write_text("{}")
    file, whole = fingerprint(folder / "config.json"), fingerprint(folder)
    assert file == sha256(folder / "config.json") and whole != file
    (folder / "README.md").write_text("a card")
    assert fingerprint(folder) == whole and fingerprint(folder, contents=False) != fingerprint(tmp_path, contents=False)
    (folder / "unet" / "weights.safetensors").write_bytes(b"abd")
    assert fingerprint(folder) != whole
    names = fingerprint(folder, contents=False)
    (folder / "unet" / "weights.safetensors").write_bytes(b"xyz")
    assert fingerprint(folder, contents=False) == names, "names and sizes only"
    (folder / "unet" / "weights.safetensors").write_bytes(b"four")
    assert fingerprint(folder, contents=False) != names
    with pytest.raises(FileNotFoundError, match=r"absent does not exist: name a file or a folder\.$"):
        fingerprint(tmp_path / "absent")


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_named_and_counted(broken: float) -> None:
    good = {"a": torch.ones(2), "count": torch.tensor([3]), "empty": torch.zeros(0)}
    check_finite(good, "w.pt")
    bad = {**good, "b": torch.tensor([1.0, broken]), "c": torch.tensor(broken)}
    with pytest.raises(ValueError, match=r"^w\.pt: b holds NaN or infinity \(2 tensors do\): fetch the file again\.$"):
        check_finite(bad, "w.pt")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_a_source_that_cannot_be_read_is_not_taken_for_a_full_disk(tmp_path: Path, number: int) -> None:
    with pytest.raises(OSError) as caught, written_whole(tmp_path / "a.txt"):
        raise OSError(number, os.strerror(number))  # what read() says of a broken disk: without a file name
    assert caught.value.errno == number and "cannot be written" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_no_part_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"image")
    before = fingerprint(tmp_path, contents=False)
    (tmp_path / ".b.jpg.0a1b2c3d.partial").write_bytes(b"half")
    assert fingerprint(tmp_path, contents=False) == before
    (tmp_path / "b.jpg").write_bytes(b"whole")
    assert fingerprint(tmp_path, contents=False) != before


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_what_safetensors_writes_is_as_readable_as_the_umask_says(tmp_path: Path, umask: int) -> None:
    path, before = tmp_path / "w.safetensors", os.umask(umask)
    try:
        with written_whole(path) as partial:
            save_file({"a": torch.ones(2)}, partial)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
        path.chmod(0o640)
        with written_whole(path) as partial:
            save_file({"a": torch.zeros(2)}, partial)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640, "a file that is replaced keeps its own"
    finally:
        os.umask(before)


class Code:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("run",))


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
            "it is a git-lfs pointer, not the file",
        ),
        (b"\n <!DOCTYPE html><html>429</html>", "it is a web page"),
        (b"\xef\xbb\xbf<html>", "it is a web page"),
        (b'{"error": "rate limit"}', "it is text, perhaps a server's answer"),
        (b"", "it is empty"),
    ],
)
def test_what_is_no_file_of_weights_is_called_by_its_name(
    tmp_path: Path, content: bytes, reason: str, ending: str
) -> None:
    path = tmp_path / f"hpc.{ending}"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        read_state_dict(path)
    assert str(error.value).startswith(f"{path} cannot be read as weights ({reason}")
    assert str(error.value).endswith("): download it again.")


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_no_advice_to_run_what_is_in_a_file_is_passed_on(tmp_path: Path, ending: str) -> None:
    for number, protocol in enumerate((0, 2, 4)):
        (tmp_path / f"{number}.{ending}").write_bytes(pickle.dumps(Code(), protocol))
    torch.save(Code(), tmp_path / f"code.{ending}")
    whole = (tmp_path / f"code.{ending}").read_bytes()
    (tmp_path / f"cut.{ending}").write_bytes(whole[: len(whole) // 2])
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError, match="cannot be read as weights") as error:
            read_state_dict(path)
        assert not any(word in str(error.value) for word in ("weights_only", "trust", "\x1b", "\n"))
