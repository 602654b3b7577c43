"""The commands under a launcher and after a kill: the result is that of one undisturbed process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from forks import Fork, Forks
from safetensors.torch import load_file
from small_commands import write_inputs

from hpslib.adaptation.lora import LORA_FILE
from hpslib.critters.assets import asset
from hpslib.runs.files import sha256
from hpslib.runs.shards import read_shards

SCRIPT = """
import json, sys
from hpslib.cli.app import app

for command in json.loads(sys.argv[1]):
    app([*command, "--device", "cpu", "--json"], standalone_mode=False)
"""
#: Two processes by torch's launcher, which is what ``accelerate launch`` starts for several GPUs.
PAIR = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def written(commands: tuple[list[object], ...]) -> str:
    return json.dumps([[str(part) for part in command] for command in commands])


def start(forks: Forks, *commands: list[object]) -> Fork:
    """The commands one after the other in a process of their own."""
    return forks.start(SCRIPT, written(commands))


def run(forks: Forks, *commands: list[object]) -> list[Any]:
    """What each command found."""
    process = start(forks, *commands)
    assert process.wait() == 0, process.err.read_text()[-2000:]
    return answers(process.out.read_text(), len(commands))


def run_pair(folder: Path, *commands: list[object]) -> list[Any]:
    """The same in two processes. Only the main one speaks, or there would be more answers than commands."""
    (folder / "run.py").write_text(SCRIPT)
    done = subprocess.run(
        [*PAIR, str(folder / "run.py"), written(commands)], env=ENVIRONMENT, text=True, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return answers(done.stdout, len(commands))


def answers(said: str, count: int) -> list[Any]:
    found, rest, decoder = [], said.strip(), json.JSONDecoder()
    while rest:
        answer, end = decoder.raw_decode(rest)
        found.append(answer)
        rest = rest[end:].strip()
    assert len(found) == count, said
    return found


def same_files(one: Path, two: Path, pattern: str) -> None:
    names = sorted(file.name for file in one.glob(pattern))
    assert names == sorted(file.name for file in two.glob(pattern)) and names
    assert all(sha256(one / name) == sha256(two / name) for name in names)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("given"))


def train(given: Path, out: Path, *more: object) -> list[object]:
    return ["train", given / "hpd" / "preference_train.json", asset("clip"), out, "--image-blocks", 1, "--text-blocks",
            0, "--epochs", 1, "--held-out", 0.25, "--lr", 1e-3, "--batch-size", 4, *more]  # fmt: skip


def adapt(given: Path, out: Path, *more: object) -> list[object]:
    return ["adapt", asset("sd"), out, "--regularisation", given / "laion", "--regularisation-only", "--rank", 2,
            "--batch-size", 4, "--steps", 6, "--lr", 1e-3, "--save-every", 1, *more]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(given: Path, tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> tuple[Path, list[Any]]:
    """Every command in one process."""
    out = tmp_path_factory.mktemp("one")
    return out, run(forks, *every_command(given, out))


def every_command(given: Path, out: Path) -> list[list[object]]:
    return [
        ["generate", asset("sd"), given / "prompts.txt", out / "made", "--steps", 1, "--shard-size", 2],
        ["score", "hpslib", asset("hps"), given / "hpd" / "preference_train.json", out / "scores", "--shard-size", 5],
        train(given, out / "hps"),
        adapt(given, out / "lora"),
    ]


def test_the_number_of_processes_changes_nothing(
    given: Path, undisturbed: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    one, found = undisturbed
    made, scored, trained, adapted = run_pair(tmp_path, *every_command(given, tmp_path))
    assert made == found[0] == {"images": 5, "prompts_cut_off": 0, "made": 3, "found": 0}, "counted over both"
    same_files(one / "made", tmp_path / "made", "part-*")
    same_files(one / "scores", tmp_path / "scores", "part-*")
    assert scored["groups"] == 16 == len(set(read_shards(tmp_path / "scores").column("id").to_pylist()))
    loss = found[2]["validation_loss"]
    assert {**trained, "output": ""} == {**found[2], "output": "", "validation_loss": pytest.approx(loss, abs=1e-4)}
    same_files(one / "lora" / "latents", tmp_path / "lora" / "latents", "latents-*")
    assert adapted["steps"] == 6
    weights, others = (load_file(folder / "lora" / LORA_FILE) for folder in (one, tmp_path))
    for key, value in weights.items():  # AdamW's first steps are signs: a rate each, wherever rounding decides
        assert (value - others[key]).abs().median() < 1e-5, key


def test_an_adaptation_that_is_killed_and_started_again_ends_as_if_nothing_had_happened(
    given: Path, undisturbed: tuple[Path, list[Any]], tmp_path: Path, forks: Forks
) -> None:
    out = tmp_path / "lora"
    child = start(forks, adapt(given, out))
    deadline = time.monotonic() + 120
    while not (out / "training.ckpt").exists():
        assert child.poll() is None and time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.002)
    assert child.kill() == -signal.SIGKILL
    assert not (out / LORA_FILE).exists(), "it was killed before its end"
    encoded = {file.name: file.stat().st_mtime_ns for file in (out / "latents").iterdir()}
    assert run(forks, adapt(given, out))[0]["steps"] == 6
    same_files(undisturbed[0] / "lora", out, LORA_FILE)
    after = {file.name: file.stat().st_mtime_ns for file in (out / "latents").iterdir()}
    assert after == encoded, "no picture was encoded again"


def test_precision_is_an_option(given: Path, undisturbed: tuple[Path, list[Any]], tmp_path: Path, forks: Forks) -> None:
    """bfloat16 on a CPU: the frozen parts are rounded, what is trained is float32 all the same."""
    more = ("--precision", "bf16")
    trained, _ = run(forks, train(given, tmp_path / "hps", *more), adapt(given, tmp_path / "lora", *more))
    assert {str(value.dtype) for value in load_file(tmp_path / "lora" / LORA_FILE).values()} == {"torch.float32"}
    exact = undisturbed[1][2]["validation_loss"]
    assert trained["validation_loss"] != exact and trained["validation_loss"] == pytest.approx(exact, rel=0.1)
