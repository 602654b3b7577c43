"""``--plan``: the work is counted and timed, what an earlier run did is found, and nothing changes on the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_commands import write_inputs
from typer.testing import CliRunner

from hpslib.cli.app import app
from hpslib.critters.assets import asset
from hpslib.runs.files import sha256

runner = CliRunner()


def call(*arguments: object, code: int = 0) -> Any:
    result = runner.invoke(app, [str(part) for part in arguments])
    assert result.exit_code == code, (result.output, result.stderr, result.exception)
    return result.stderr.strip() if code else json.loads(result.stdout) if "--json" in arguments else result.stdout


def planned(*arguments: object) -> dict[str, dict[str, Any]]:
    """The stages of a plan by their names."""
    found = call(*arguments, "--plan", "--json", "--device", "cpu")
    assert "one process" in found["notes"][0] and "Peak memory is" in found["notes"][1]
    for stage in found["stages"]:
        timed = stage["count"] == 0 or (stage["seconds_each"] > 0 and stage["peak_bytes"] > 2**20)
        assert timed and stage["hours"] == pytest.approx(stage["count"] * (stage["seconds_each"] or 0) / 3600)
    assert found["hours"] == pytest.approx(sum(stage["hours"] for stage in found["stages"]))
    return {stage["name"]: stage for stage in found["stages"]}


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256(path) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("given"))


def train(given: Path, out: Path, *more: object) -> list[object]:
    return ["train", given / "hpd" / "preference_train.json", asset("clip"), out, "--image-blocks", 1, "--text-blocks",
            0, "--epochs", 3, "--held-out", 0.25, "--lr", 1e-3, "--batch-size", 3, *more]  # fmt: skip


def test_scoring_counts_images_and_what_was_scored(given: Path, tmp_path: Path) -> None:
    file, out = given / "hpd" / "preference_test.json", tmp_path / "out"
    sizes = [len(row["file_path"]) for row in json.loads(file.read_text())]
    score = ("score", "hpslib", asset("hps"), file, out, "--shard-size", 3)
    stage = planned(*score)["score"]
    assert (stage["count"], stage["done"], stage["unit"]) == (sum(sizes), 0, "image")
    assert 0 < stage["bytes_written"] < 1e6 and not out.exists()
    call(*score)
    (out / "part-00001-of-00003.parquet").unlink()
    before = files(out)
    stage = planned(*score)["score"]
    assert (stage["count"], stage["done"]) == (sum(sizes[3:6]), sum(sizes) - sum(sizes[3:6])) and files(out) == before
    call(*score)
    assert planned(*score)["score"]["count"] == 0
    assert "was made with blur False, but now it is True" in call(*score, "--blur", "--plan", code=2), "errors come now"


def test_training_counts_steps_and_validations_from_where_a_run_stopped(given: Path, tmp_path: Path) -> None:
    out = tmp_path / "hps"
    more = ("--evaluate-every", 5, "--test", given / "hpd" / "preference_test.json")
    fresh = planned(*train(given, out, *more))
    assert not out.exists() and list(fresh) == ["train", "validate", "test"]
    assert (fresh["train"]["count"], fresh["train"]["done"]) == (12, 0), "3 epochs of 12 groups, 3 a step"
    assert fresh["validate"]["count"] == 3 * 4, "after steps 5, 10 and 12, four groups each"
    cached = planned(*train(given, out, *more, "--cache"))
    assert list(cached) == ["keep activations", "train", "validate", "test"] and cached["train"]["count"] == 12
    assert not out.exists()

    from hpslib.runs.checkpoints import load_checkpoint, save_checkpoint

    call(*train(given, out, "--evaluate-every", 5, "--device", "cpu"))
    path = out / "training.ckpt"
    size = sum(file.stat().st_size for file in (path, out / "open_clip_model.safetensors"))
    assert fresh["train"]["bytes_written"] == pytest.approx(size, rel=0.05)
    saved = load_checkpoint(path)
    assert saved is not None
    before = files(out)
    assert planned(*train(given, out, *more))["train"]["count"] == 0 and files(out) == before
    save_checkpoint(path, **(saved | {"losses": saved["losses"][:7]}))  # as if it had been stopped there
    before = files(out)
    stopped = planned(*train(given, out, *more))
    assert (stopped["train"]["count"], stopped["train"]["done"]) == (5, 7) and stopped["validate"]["count"] == 2 * 4
    assert files(out) == before
    assert "was made with lr 0.001" in call(*train(given, out, "--lr", 1e-4, "--plan"), code=2)


def test_adapting_counts_images_and_steps(given: Path, tmp_path: Path) -> None:
    out = tmp_path / "lora"
    adapt = ["adapt", asset("sd"), out, "--regularisation", given / "laion", "--regularisation-only", "--rank", 2,
             "--batch-size", 4, "--lr", 1e-3]  # fmt: skip
    fresh = planned(*adapt, "--steps", 9)
    assert (fresh["encode images"]["count"], fresh["train"]["count"]) == (6, 9) and not out.exists()
    call(*adapt, "--steps", 5, "--device", "cpu")
    sizes = {path.name: path.stat().st_size for path in out.rglob("*") if path.is_file()}
    assert fresh["encode images"]["bytes_written"] == pytest.approx(sizes["latents-00000.safetensors"], rel=0.5)
    whole = sizes["training.ckpt"] + sizes["pytorch_lora_weights.safetensors"]
    assert fresh["train"]["bytes_written"] == pytest.approx(whole, rel=0.5)
    before = files(out)
    again = planned(*adapt, "--steps", 5)
    assert (again["encode images"]["count"], again["encode images"]["done"]) == (0, 6)
    assert (again["train"]["count"], again["train"]["done"]) == (0, 5) and files(out) == before
    assert "was made with steps 5, but now it is 9" in call(*adapt, "--steps", 9, "--plan", code=2)
    assert "was made for other images" in call(*adapt, "--steps", 5, "--resolution", 32, "--plan", code=2), (
        "another cache"
    )
    assert files(out) == before


def test_generating_counts_images_and_takes_few_of_many_steps(given: Path, tmp_path: Path) -> None:
    out = tmp_path / "made"
    generate = ("generate", asset("sd"), given / "prompts.txt", out, "--images-per-prompt", 2, "--shard-size", 4)
    few, many = (planned(*generate, "--steps", steps)["generate"] for steps in (4, 40))
    assert few["count"] == many["count"] == 10 and many["bytes_written"] > 1_000 and not out.exists()
    assert many["seconds_each"] > few["seconds_each"], "more steps take longer"
    call(*generate, "--steps", 1, "--device", "cpu")
    assert planned(*generate, "--steps", 1)["generate"]["done"] == 10


def test_evaluating_counts_both_pools(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    pool = tmp_path / "pool.parquet"
    pq.write_table(pq.read_table(asset("diffusiondb_mini.parquet")).slice(0, 12), pool)
    evaluate = ("evaluate", pool, "--clip", asset("clip"), "--hps", asset("hps"))
    assert planned(*evaluate)["measure"]["count"] == 12
    assert planned(*evaluate, "--before", pool)["measure"]["count"] == 24


def test_a_plan_for_people(given: Path, tmp_path: Path) -> None:
    told = call(*train(given, tmp_path / "x", "--plan", "--device", "cpu")).splitlines()
    assert told[0].split("  ")[0] == "stage" and "peak memory" in told[0] and "disk written" in told[0]
    assert told[1].startswith("train ") and "12 steps" in told[1] and "steps/s" in told[1] and "GiB" in told[1]
    assert told[3].startswith("In all ") and told[-1].startswith("Peak memory is the most that this process has had")


def test_a_tracker_is_left_alone_by_a_plan(given: Path, tmp_path: Path) -> None:
    planned(*train(given, tmp_path / "x", "--tracker", "tensorboard"))
    assert not (tmp_path / "x").exists()
