from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from hpslib.critters import assets


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "world"
    files = {"a.txt": b"alpha", "sub/b.bin": b"beta", "sub/c.bin": b"gamma", "subway.bin": b"not below sub"}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    listed = {n: {"sha256": hashlib.sha256(c).hexdigest(), "bytes": len(c)} for n, c in files.items()}
    (folder / "manifest.json").write_text(json.dumps({"files": listed}), encoding="utf-8")
    monkeypatch.setenv("HPSLIB_DATA", str(folder))
    assets._verified.cache_clear()
    yield folder
    assets._verified.cache_clear()


def test_a_whole_file_or_folder_is_handed_out(world: Path) -> None:
    assert assets.asset("a.txt") == world / "a.txt"
    assert assets.asset("sub") == world / "sub"


@pytest.mark.parametrize("asked", ["sub", "sub/c.bin"])
def test_a_damaged_file_is_named(world: Path, asked: str) -> None:
    (world / "sub/c.bin").write_bytes(b"gammA")
    with pytest.raises(ValueError, match=r"^data/sub/c\.bin is damaged .*git checkout -- data/sub/c\.bin"):
        assets.asset(asked)
    assert assets.asset("a.txt")  # the others are still there
    assert assets.asset("subway.bin")  # and a name that only begins alike is not part of the folder


def test_a_missing_file_is_named(world: Path) -> None:
    (world / "sub/b.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"^data/sub/b\.bin is missing: restore it with 'git checkout"):
        assets.asset("sub")


@pytest.mark.parametrize("name", ["nothing.txt", "../a.txt", "su", "manifest.json"])
def test_what_the_manifest_does_not_list_is_refused(world: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is not in the manifest"):
        assets.asset(name)


def test_a_broken_manifest_is_named(world: Path) -> None:
    (world / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"manifest\.json is not valid JSON .*git checkout -- data"):
        assets.asset("a.txt")


def test_no_world_is_said_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPSLIB_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no miniature world in .*set HPSLIB_DATA"):
        assets.data_folder()


def test_the_hash_is_sha256(world: Path) -> None:
    assert assets.sha256(world / "a.txt") == hashlib.sha256(b"alpha").hexdigest()


def test_a_wheel_has_its_own_data_and_a_clone_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, above = tmp_path / "site-packages" / "hpslib", tmp_path / "work" / "data"
    monkeypatch.delenv("HPSLIB_DATA", raising=False)
    monkeypatch.setattr(assets, "__file__", str(package / "critters" / "assets.py"))
    (tmp_path / "work" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work" / "below")
    with pytest.raises(FileNotFoundError, match="no miniature world in"):
        assets.data_folder()
    for place in (above, package / "_data", package.parent / "data"):  # each goes before the one above
        place.mkdir(parents=True)
        (place / "manifest.json").write_text("{}")
        assert assets.data_folder() == place


def test_what_is_damaged_in_a_wheel_is_installed_anew(world: Path) -> None:
    (world / "a.txt").write_text("other")
    with pytest.raises(ValueError, match=r"^data/a\.txt is damaged .*: install hpslib anew\.$"):
        assets.verify(world.rename(world.with_name("_data")), "a.txt")
