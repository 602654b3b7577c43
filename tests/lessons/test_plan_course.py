"""hpslib.lessons.plan_course: what the lessons do is counted from the files; what is missing is named, not guessed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from full_world import build

from hpslib.lessons.plan_course import course_plan, course_stages
from hpslib.lessons.preflight import AMPLE_GIB, DISK_GIB, GPU_GIB, check_full
from hpslib.lessons.scale import full, rehearsal
from hpslib.runs.plan import Stage, hours


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("full"), groups=40)


def counted(root: Path, lessons: tuple[int, ...], **changes: Any) -> dict[str, Stage]:
    given = {"scale": full, "missing": (), "device": None, **changes}
    return {stage.name: stage for stage in course_stages(root, lessons, **given)}


def sizes(root: Path, split: str) -> list[int]:
    return [len(row["file_path"]) for row in json.loads((root / "hpd_v1" / f"preference_{split}.json").read_text())]


def test_counts_come_from_the_files_and_the_scale(root: Path) -> None:
    found = counted(root, (1, 2, 3, 4), scale=replace(full, classifier_batch=1, image_blocks=1, text_blocks=1))
    test = sizes(root, "test")
    assert found["2 encode images"].count == sum(test) + len(test)
    assert found["3 train 1 + 1 blocks"].count == 36 + 2 * 30, "nine tenths of 40 once, 30 twice, no others"
    assert found["3 train 0 + 0 blocks"].count == found["3 train 2 + 2 blocks"].count == 36
    assert found["3 score test images"].count == 12 * sum(test)
    assert found["4 score the pool"].count == 48 and found["4 train the LoRA"].count == 10_000
    assert found["4 encode images, at most"].count == 220 + round(1.5 * 12)
    assert found["4 generate"].count == 8 * (4 + 2 + 1 + 1), "eight prompts, every LoRA that is there"
    assert all(stage.seconds_each is None and "no CUDA GPU is here" in stage.remark for stage in found.values())


def test_what_is_missing_is_named_and_keeps_its_counts_and_rates_unknown(tmp_path: Path) -> None:
    some = build(tmp_path / "full", groups=4)
    shutil.rmtree(some / "sd")
    (some / "hpd_v1" / "preference_train.json").unlink()
    missing = check_full(some, scale=rehearsal).absent
    assert missing == {"sd", "hpd_v1/preference_train.json"}
    found = counted(some, (3, 4), scale=rehearsal, missing=missing, device="cpu")
    train = found["3 train 1 + 1 blocks"]
    assert train.count is None and train.seconds_each is None and hours(train) is None
    assert train.remark.startswith("not counted, hpd_v1/preference_train.json is missing; rate and memory not measured")
    lora = found["4 train the LoRA"]
    assert lora.count == 3 and lora.seconds_each is None and lora.remark.endswith("not measured, sd is missing")
    assert found["4 score the pool"].seconds_each and not found["4 score the pool"].remark


def test_a_rehearsal_is_timed_on_what_there_is(root: Path) -> None:
    report = check_full(root, scale=rehearsal)
    before = sorted(path for path in root.rglob("*"))
    found = counted(root, (2, 3, 4), scale=rehearsal, missing=report.absent, device="cpu")
    assert all(stage.seconds_each and stage.peak_bytes and not stage.remark for stage in found.values())
    assert sorted(path for path in root.rglob("*")) == before, "nothing is written"
    assert found["4 train the LoRA"].bytes_written and found["3 train 1 + 1 blocks"].bytes_written


def test_the_plan_for_people_states_the_memory_of_a_full_lesson(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    told = course_plan(check_full(root, 3, full), (3,), replace(full, image_blocks=1, text_blocks=1))
    assert "GPU memory, computed and not measured: 11 GiB for lesson 3 (15 GiB and nothing is computed twice)." in told
    assert "3 train 1 + 1 blocks, 3 train 0 + 0 blocks" in told and "no CUDA GPU is here" in told


def test_lesson_3_s_disk_is_that_of_its_nine_classifiers(tmp_path: Path) -> None:
    from hpslib.scores.released import VIT_L14

    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "open_clip_config.json").write_text(json.dumps({"model_cfg": VIT_L14}))
    there = ("hpd_v1/preference_train.json", "hpd_v1/preference_test.json")
    found = counted(tmp_path, (3,), missing=there)
    kept = sum(stage.bytes_written or 0 for stage in found.values())
    assert kept / 2**30 + 1.6 == pytest.approx(DISK_GIB[3], abs=0.5), "and the classifier for lesson 4"
    assert AMPLE_GIB[3] > GPU_GIB[3]
