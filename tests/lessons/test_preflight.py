"""hpslib.lessons.preflight: everything that the full scale needs and that is missing is named, with how to get it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from full_world import build

from hpslib.lessons.preflight import check_full, diffusiondb_parts
from hpslib.lessons.scale import full, rehearsal


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("full"), groups=12)


def test_preflight_names_what_is_missing_and_how_to_get_it(root: Path, tmp_path: Path) -> None:
    assert check_full(root, scale=rehearsal).ready
    notes = check_full(root, 4, rehearsal).notes
    assert notes == ["2 of the 1,000 parts of DiffusionDB that the paper used are there"]
    (tmp_path / "diffusiondb" / "images").mkdir(parents=True)
    (tmp_path / "prompts.txt").touch()
    report = check_full(tmp_path, 4, rehearsal)
    assert {"diffusiondb/images", "prompts.txt"} <= {need.place for need in report.missing}, "empty is missing"
    assert not report.ready and "hpd_v1/preference_train.json" not in str(report)
    for words in ("is not ready:", "- sd (5 GB): Stable Diffusion v1.4", "hpslib convert clip hf://openai/clip-vit"):
        assert words in str(report)


def test_preflight_looks_at_memory_and_disk(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda k: SimpleNamespace(total_memory=8 * 2**30))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=10 * 2**30))
    assert check_full(root, 2, full).ready
    report = str(check_full(root, 3, full))
    assert "- a GPU with 10 GiB is needed, 8 GiB are there: use another machine" in report
    remarks = check_full(root, 4, full).remarks
    assert f"12 GiB will be written, 10 GiB are free at {root}: make room" in remarks


def test_parts_are_folders_and_zips_by_their_number(tmp_path: Path) -> None:
    for name in ("part-000003.zip", "part-000003 (1).zip", "part-00004.zip", "part-000011.zip.part"):
        (tmp_path / name).touch()
    (tmp_path / "part-000001").mkdir()
    assert diffusiondb_parts(tmp_path) == [1, 3]
