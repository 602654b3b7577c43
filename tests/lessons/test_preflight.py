"""hpslib.lessons.preflight: everything that the full scale needs and that is missing is named, with how to get it."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from full_world import build

from hpslib.critters.assets import asset
from hpslib.lessons.preflight import NEEDS, check_full, classifier_folder, full_root
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
    assert "- a GPU with 11 GiB is needed, 8 GiB are there: use another machine" in report
    assert f"36 GiB will be written, 10 GiB are free at {root}: make room" in str(check_full(root, scale=full)), (
        "in all"
    )
    remarks = check_full(root, 4, full).remarks
    assert f"12 GiB will be written, 10 GiB are free at {root}: make room" in remarks


def test_what_a_lesson_makes_is_not_missing_before_it(tmp_path: Path) -> None:
    root = build(tmp_path / "full", groups=4)
    shutil.rmtree(root / "hps")
    course = check_full(root, scale=rehearsal)
    assert course.ready, "the whole course can begin"
    assert "- hps (1.7 GB) will be made by lesson 3, before lesson 4 needs it" in str(course)
    assert all(check_full(root, lesson, rehearsal).ready for lesson in (1, 2, 3))
    alone = check_full(root, 4, rehearsal)
    assert [need.place for need in alone.missing] == ["hps"] and "lesson 3 or hpslib train writes it" in str(alone)


def test_a_rehearsal_s_classifier_counts_in_a_rehearsal_only(tmp_path: Path) -> None:
    root = build(tmp_path / "full", groups=4)
    assert classifier_folder(root, rehearsal) == root / "work" / "rehearsal" / "hps"
    assert classifier_folder(root, full) == classifier_folder(root) == root / "hps"
    (root / "work" / "rehearsal").mkdir(parents=True)
    (root / "hps").rename(root / "work" / "rehearsal" / "hps")
    assert check_full(root, 4, rehearsal).ready
    assert "hps" in {need.place for need in check_full(root, 4, full).missing}


def test_commands_write_into_the_folder_of_the_full_scale(tmp_path: Path) -> None:
    root = tmp_path / "my full"
    root.mkdir()
    text = str(check_full(root, 4, rehearsal))
    for words in (
        f"hpslib convert clip hf://openai/clip-vit-large-patch14/model.safetensors {shlex.quote(str(root / 'clip'))}",
        f"sac+logos+ava1-l14-linearMSE.pth {shlex.quote(str(root / 'aesthetic_head.safetensors'))}",
        f"hpslib convert hps_v1 hpc.pth {shlex.quote(str(root / 'hps'))}",
        "of the release's folder diffusiondb-large-part-1/",
        "diffusiondb-large-part-2/ begins with part 10,001",
    ):
        assert words in text, words


@pytest.mark.parametrize(
    "litter",
    [
        ".DS_Store",
        "._00000001.jpg",
        "Thumbs.db",
        "desktop.ini",
        "__MACOSX/00000001.jpg",
        ".cache/huggingface/lock",
        ".open_clip_model.safetensors.1a2b3c4d.partial",
        "00000001.jpg.part",
        "00000001.jpg.crdownload",
        "00000001.jpg.incomplete",
    ],
)
def test_hidden_and_half_files_are_no_content(tmp_path: Path, litter: str) -> None:
    for need in (need for need in NEEDS if "." not in need.place):
        file = tmp_path / need.place / litter
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    report = check_full(tmp_path, 4, rehearsal)
    assert {"clip", "hps", "sd", "regularisation", "diffusiondb/images"} <= {need.place for need in report.missing}
    assert "lacks" not in str(report), "there is nothing of it"


def test_a_folder_is_there_when_its_files_are(tmp_path: Path) -> None:
    root = tmp_path / "full"
    shutil.copytree(asset("clip"), root / "clip")
    weights = root / "clip" / "open_clip_model.safetensors"
    weights.rename(weights.with_name(".open_clip_model.safetensors.1a2b3c4d.partial"))  # convert was killed
    text = str(check_full(root, 1, rehearsal))
    assert "- clip (1.7 GB) lacks open_clip_model.safetensors: hpslib convert clip" in text
    shutil.copytree(asset("sd"), root / "sd")
    assert "sd" not in {need.place for need in check_full(root, 4, rehearsal).missing}
    shutil.rmtree(root / "sd" / "unet")
    (root / "hps").write_text("a file, not a folder")
    report = check_full(root, 4, rehearsal)
    assert "- sd (5 GB) lacks unet/*.safetensors: Stable Diffusion" in str(report)
    assert "hps" in {need.place for need in report.missing}


def test_large_may_keep_the_name_of_the_release(tmp_path: Path) -> None:
    root = build(tmp_path / "full", groups=4)
    images = root / "diffusiondb" / "images"
    images.rename(images.with_name("diffusiondb-large-part-1"))
    report = check_full(root, 4, rehearsal)
    assert report.ready and report.notes == ["2 of the 1,000 parts of DiffusionDB that the paper used are there"]


def test_the_folder_is_one_place_whoever_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    project = tmp_path / "project"
    (project / "notebooks" / "deep").mkdir(parents=True)
    (project / "pyproject.toml").touch()
    for where in (project, project / "notebooks", project / "notebooks" / "deep"):
        monkeypatch.chdir(where)
        for named, expected in (
            ("~/full", tmp_path / "home" / "full"),
            ("data/full", project / "data" / "full"),
            ("", project / "full"),
            (str(tmp_path / "x"), tmp_path / "x"),
        ):
            monkeypatch.setenv("HPSLIB_FULL", named)
            assert full_root() == expected
        monkeypatch.delenv("HPSLIB_FULL")
        assert full_root() == project / "full"
        assert full_root("other") == where / "other" and full_root("~/x") == tmp_path / "home" / "x"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert full_root() == tmp_path / "elsewhere" / "full"
    monkeypatch.setenv("HPSLIB_FULL", "~/full")
    assert str(check_full()).startswith(f"{tmp_path / 'home' / 'full'} is not ready:")
