"""What a command says while it works: lines where there is no terminal, and a tracker that knows the settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from forks import Forks
from typer.testing import CliRunner

import hpslib.runs.progress as progress
from hpslib.cli.app import app
from hpslib.cli.support import told_to
from hpslib.critters.assets import asset

runner = CliRunner()


@pytest.fixture(scope="module")
def hpd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from hpslib.data.releases.hpd_v1 import read_hpd, write_hpd

    folder = tmp_path_factory.mktemp("hpd_v1")
    write_hpd(read_hpd(asset("hpd_mini/train.parquet")).select(range(40)), folder, "train")
    return folder


def train(hpd: Path, out: Path, *more: object) -> list[str]:
    given = ["train", hpd / "preference_train.json", asset("clip"), out, "--image-blocks", 1, "--text-blocks", 0,
             "--held-out", 0.25, "--lr", 1e-3, "--batch-size", 3, "--device", "cpu", *more]  # fmt: skip
    return [str(part) for part in given]


def test_a_redirected_run_can_be_read_while_it_runs(hpd: Path, tmp_path: Path, forks: Forks) -> None:
    log, code = tmp_path / "log", (
        "import sys, hpslib.runs.progress as p; p.FIRST = p.EVERY = 0.5\n"
        "from hpslib.cli.app import app; app(sys.argv[1:])"
    )  # fmt: skip
    command = train(hpd, tmp_path / "hps", "--epochs", 12, "--evaluate-every", 10)
    code_of_exit = forks.start(code, *command, out=log).wait()
    text = log.read_text()
    assert code_of_exit == 0, text
    lines = [line for line in text.splitlines() if line.startswith("step ")]
    rate = r"(\d+\.\d steps/s|\d+\.\d s per step)"
    whole = rf"step \d+ of 120, loss \d\.\d{{3}}, accuracy [01]\.\d\d, {rate}, \d[\d.]* (s|min) left"
    assert re.fullmatch(whole, lines[-1]), text
    assert "\r" not in text and "it/s" not in text, "no bar in a file"


def test_nothing_is_said_of_work_that_takes_seconds(hpd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST", 600.0)
    result = runner.invoke(app, train(hpd, tmp_path / "hps", "--epochs", 1))
    assert result.exit_code == 0 and result.stderr == "" and "10 steps; kept step" in result.stdout


def test_the_tracker_gets_the_settings_of_the_command(hpd: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    import yaml
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "hps"
    assert runner.invoke(app, train(hpd, out, "--epochs", 1, "--tracker", "tensorboard")).exit_code == 0
    (file,) = (out / "hpslib").rglob("hparams.yml")
    told = yaml.safe_load(file.read_text())
    assert told["command"] == "train" and (told["lr"], told["batch_size"], told["image_blocks"]) == (1e-3, 3, 1)
    assert told["data"].endswith("preference_train.json") and told["cache"] is False and told["epochs"] == 1.0
    assert "test" not in told and "plan" not in told and "as_json" not in told
    assert all(isinstance(value, bool | int | float | str) for value in told.values())
    plugins, logged = set(), set()
    for events in (out / "hpslib").rglob("events*"):
        accumulator = EventAccumulator(str(events))
        accumulator.Reload()
        plugins |= set(accumulator.summary_metadata)
        logged |= set(accumulator.Tags()["scalars"])
    assert "_hparams_/session_start_info" in plugins and {"loss", "validation_top1"} <= logged


def test_the_log_of_a_loop_reaches_progress_and_tracker() -> None:
    heard: list[Any] = []
    bar = progress.ProgressBar("step", False)
    told_to(bar, lambda values, step: heard.append((values, step)))({"loss": 2.0, "lr": 0.1}, 3)
    told_to(bar, None)({"validation_top1": 0.5}, 4)
    assert bar.values == {"loss": 2.0, "validation_top1": 0.5} and heard == [({"loss": 2.0, "lr": 0.1}, 3)]
