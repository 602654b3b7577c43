"""Lessons 1 to 4 at the full scale's code path, on files of the released formats: what ``HPS_SCALE=full`` will meet."""

from __future__ import annotations

from pathlib import Path

import pytest
from full_world import build

from hpslib.adaptation.lora import LORA_FILE
from hpslib.lessons.execution import execute
from hpslib.scores.clip import load_clip
from hpslib.scores.pretrained import from_pretrained

ROOT = Path(__file__).parents[2]
LESSONS = sorted((ROOT / "notebooks").glob("0[1-4]_*.ipynb"))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("full"))


@pytest.mark.slow
@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_runs_on_the_real_formats(path: Path, full: Path) -> None:
    done = execute(path, {"HPS_SCALE": "rehearsal", "HPSLIB_FULL": str(full), "CUDA_VISIBLE_DEVICES": ""})
    assert done.fault is None
    text = "".join(o.get("text", "") for c in done.notebook.cells if c.cell_type == "code" for o in c.outputs)
    assert text.count("Left out: only the miniature world knows the truth") >= 1
    if path.name.startswith("03"):
        work = full / "work" / "rehearsal"
        kept = {file.name for file in work.glob("classifier-*.ckpt")}
        assert len(kept) >= 3 and all((work / name).stat().st_size for name in kept), "every fit goes on where it was"
        assert from_pretrained(work / "hps").image_size == load_clip(full / "clip").image_size
    if path.name.startswith("04"):
        work = full / "work" / "rehearsal"
        assert list((work / "scores").glob("part-*")) and list((work / "latents").glob("latents-*"))
        assert (work / "lora" / LORA_FILE).stat().st_size > 0, "what was learned outlives the notebook"
        assert "8 prompts" in text and "8 regularisation + " in text
        again = execute(path, {"HPS_SCALE": "rehearsal", "HPSLIB_FULL": str(full), "CUDA_VISIBLE_DEVICES": ""})
        assert again.fault is None, "a second run goes on from what is there"


def test_a_lesson_says_what_is_missing_before_anything_long_starts(tmp_path: Path) -> None:
    lesson = next(path for path in LESSONS if path.name.startswith("04"))
    done = execute(lesson, {"HPS_SCALE": "rehearsal", "HPSLIB_FULL": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""})
    assert done.fault is not None and "cell 4" in done.fault and "is not ready" in done.fault
