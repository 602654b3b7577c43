"""The commands of the full scale, one behind the other, on small files of the released formats."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from full_world import write_diffusiondb
from PIL import Image
from typer.testing import CliRunner

from hpslib.cli.app import app
from hpslib.critters.assets import asset
from hpslib.data.pools.pool import read_pool
from hpslib.runs.files import sha256
from hpslib.runs.shards import read_shards

runner = CliRunner()


def call(*arguments: object, code: int = 0) -> Any:
    """Run a command; its JSON if it succeeds, what it says on stderr otherwise."""
    result = runner.invoke(app, [str(part) for part in arguments])
    assert result.exit_code == code, (result.output, result.stderr, result.exception)
    if code:
        return result.stderr.strip()
    return json.loads(result.stdout) if "--json" in arguments else result.stdout


@pytest.fixture(scope="module")
def hpd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen groups of the miniature set as HPD v1 lies on disk."""
    from hpslib.data.releases.hpd_v1 import read_hpd, write_hpd

    folder = tmp_path_factory.mktemp("hpd_v1")
    whole = read_hpd(asset("hpd_mini/train.parquet"))
    write_hpd(whole.select(range(16)), folder, "train")
    write_hpd(read_hpd(asset("hpd_mini/test.parquet")).select(range(8)), folder, "test")
    return folder


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten prompts of the miniature pool in one packed file."""
    import pyarrow.parquet as pq

    path = tmp_path_factory.mktemp("pool") / "pool.parquet"
    pq.write_table(pq.read_table(asset("diffusiondb_mini.parquet")).slice(0, 30), path)
    return path


def test_score_writes_parts_and_goes_on_where_it_stopped(hpd: Path, tmp_path: Path) -> None:
    given = ("score", "hpslib", asset("hps"), hpd / "preference_test.json", tmp_path / "out", "--shard-size", 3)
    found = call(*given, "--json", "--device", "cpu")
    table = read_shards(tmp_path / "out")
    assert found["images"] == table.num_rows and table.column_names == ["id", "name", "prompt", "score"]
    assert found["groups"] == 8 and 0 <= found["top1"][0] <= 1 and found["tied_groups"] == 0
    assert set(found) >= {"chance", "pairwise_macro", "pairwise_micro", "prompts_cut_off"}
    files = {file.name: sha256(file) for file in (tmp_path / "out").iterdir()}
    (tmp_path / "out" / "part-00001-of-00003.parquet").unlink()
    told = call(*given)
    assert "1 parts made, 2 were there." in told and "Top-1" in told and "Pairwise accuracy, macro" in told
    assert {file.name: sha256(file) for file in (tmp_path / "out").iterdir()} == files
    told = call("score", "hpslib", asset("clip"), *given[3:], code=2)
    assert "was made with checkpoint" in told


def test_train_writes_a_classifier_that_scores(hpd: Path, tmp_path: Path) -> None:
    from hpslib.scores.pretrained import from_pretrained

    given = ("train", hpd / "preference_train.json", asset("clip"), tmp_path / "hps", "--image-blocks", 1,
             "--text-blocks", 0, "--epochs", 2, "--held-out", 0.25, "--lr", 1e-3, "--test",
             hpd / "preference_test.json", "--device", "cpu")  # fmt: skip
    found = call(*given, "--json", "--tracker", "tensorboard")
    assert found["steps"] == 5 and found["groups"] == {"train": 12, "validation": 4} and "top1" in found
    assert list((tmp_path / "hps" / "hpslib").glob("events*")), "TensorBoard's file"
    card = (tmp_path / "hps" / "README.md").read_text()
    assert "Trained on 12 choices of preference_train.json." in card and "| lr | 0.001 |" in card
    assert len(from_pretrained(tmp_path / "hps").tokenize.encode("smiling")) == 1, "the vocabulary came along"
    again = call(*given)
    assert "5 steps" in again, "a finished run trains no more"
    scored = call("score", "hpslib", tmp_path / "hps", hpd / "preference_test.json", tmp_path / "s", "--json")
    assert scored["top1"] == found["top1"]


def test_a_test_on_what_was_trained_on_is_told_everywhere(hpd: Path, tmp_path: Path) -> None:
    strange = shutil.copytree(hpd, tmp_path / "x") / "preference_<img src=x>.json"
    (strange.parent / "preference_train.json").rename(strange)
    given = ("train", strange, asset("clip"), tmp_path / "hps", "--image-blocks", 1, "--text-blocks", 0, "--epochs", 1,
             "--held-out", 0.25, "--test", strange, "--device", "cpu")  # fmt: skip
    found = call(*given, "--json")
    assert found["test_shared_with_train"] == 12 and found["test_shared_with_validation"] == 4
    assert found["validation_shared_with_train"] == 0
    from hpslib.data.preferences import split_by_prompt
    from hpslib.data.releases.hpd_v1 import read_hpd

    sizes = [len(row) for row in split_by_prompt(read_hpd(strange), {"a": 0.75, "b": 0.25}, 0)["b"]["images"]]
    assert found["blind_guess"]["loss"] == pytest.approx(np.mean(np.log(sizes)))
    assert found["blind_guess"]["top1"] == pytest.approx(np.mean(1 / np.array(sizes)))
    low, high = found["validation_top1_interval"]
    assert 0 <= low < found["validation_top1"] < high or found["validation_top1"] in (0, 1)
    told, card = call(*given), (tmp_path / "hps" / "README.md").read_text()
    for text in (told, card):
        assert "Warning: 12 of 16 test groups have a prompt that was trained on, so that their numbers say" in text
        assert "Warning: 4 of 16 test groups have a prompt that decided which step was kept" in text
    assert "A blind guess on these 4 groups has loss" in told
    assert re.search(r"\| test top-1, 16 groups \| \d+\.\d % \[\d+\.\d, \d+\.\d\]; a blind guess \d+\.\d % \|", card)
    assert "<img" not in card and "preference_&lt;img src=x&gt;.json" in card


def test_one_prompt_has_numbers_without_an_interval(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "one.parquet"
    pq.write_table(pq.read_table(asset("diffusiondb_mini.parquet")).slice(0, 3), path)
    told = call("evaluate", path, "--before", path, "--hps", asset("hps"))
    assert re.search(r"hps: \d+\.\d+; change \+0 \(no interval: one prompt\)", told)
    found = call("evaluate", path, "--hps", asset("hps"), "--json")["hps"]
    assert found["mean"] > 0 and found["low"] is None and found["high"] is None


def test_evaluation_takes_the_preprocessing_and_scale_of_a_release(pool: Path, tmp_path: Path) -> None:
    """HPS v1 was released for a centre crop, v2 as a plain cosine: what hpslib convert wrote says so."""
    ours = call("evaluate", pool, "--hps", asset("hps"), "--json")["hps"]["mean"]
    v2 = shutil.copytree(asset("hps"), tmp_path / "v2")
    (v2 / "provenance.json").write_text(json.dumps({"kind": "hps_v2"}))
    assert call("evaluate", pool, "--hps", v2, "--json")["hps"]["mean"] == pytest.approx(ours / 100, rel=1e-5)
    call("score", "hpslib", v2, pool, tmp_path / "scores", "--format", "pool")
    scores = read_shards(tmp_path / "scores").column("score").to_numpy()
    assert scores.mean() == pytest.approx(ours / 100, rel=1e-5)


def test_settings_that_are_no_numbers_are_refused_before_any_work(hpd: Path, pool: Path, tmp_path: Path) -> None:
    train = ("train", hpd / "preference_train.json", asset("clip"), tmp_path / "o")
    adapt = ("adapt", asset("sd"), tmp_path / "o", "--regularisation", hpd, "--regularisation-only")
    for arguments, sentence in (
        ((*train, "--lr", "nan"), "--lr is nan: give a finite number above 0."),
        ((*train, "--epochs", 0), "--epochs is 0.0: give a finite number above 0."),
        ((*train, "--held-out", "nan"), "--held-out is nan: give a finite number above 0."),
        ((*train, "--weight-decay", "inf"), "--weight-decay is inf: give a finite number from 0."),
        ((*adapt, "--lr", "nan"), "--lr is nan: give a finite number above 0."),
        (("generate", asset("sd"), hpd, tmp_path / "o", "--guidance-scale", "nan"), "--guidance-scale is nan: give"),
        (("select", tmp_path, tmp_path / "s", "--threshold", "nan"), "--threshold is nan: give a finite number above"),
    ):
        assert sentence in call(*arguments, code=2)
    for steps in (
        ("adapt", "sd", "o", "--regularisation", "r", "--steps", 0),
        ("generate", "sd", "p", "o", "--steps", 0),
    ):
        assert "--steps" in call(*steps, code=2)


def test_the_way_from_a_pool_to_an_adapted_model(pool: Path, tmp_path: Path) -> None:
    call("score", "hpslib", asset("hps"), pool, tmp_path / "scores", "--format", "pool", "--blur")
    chosen = call("select", tmp_path / "scores", tmp_path / "selection.parquet", "--temperature", 5,
                  "--min-group", 3, "--threshold", 1.2, "--negative-share", 1,
                  "--json")  # fmt: skip
    rows = pd.read_parquet(tmp_path / "selection.parquet")
    assert chosen["preferred"] == rows.preferred.sum() > 0 and chosen["non_preferred"] == (~rows.preferred).sum() > 0
    assert rows.caption[~rows.preferred].str.startswith("Weird image. ").all()

    plain = tmp_path / "laion"
    plain.mkdir()
    for k in range(4):
        noise = np.random.default_rng(k).integers(0, 256, (70, 90, 3), dtype=np.uint8)
        Image.fromarray(noise).save(plain / f"{k}.jpg")
        (plain / f"{k}.txt").write_text(f"caption {k}")
    learn = ("--selection", tmp_path / "selection.parquet", "--pool", pool, "--format", "pool")
    given = ("adapt", asset("sd"), tmp_path / "lora", "--regularisation", plain, *learn,
             "--rank", 2, "--batch-size", 4, "--micro-batch", 2, "--steps", 3,
             "--lr", 1e-3, "--device", "cpu")  # fmt: skip
    found = call(*given, "--json")
    assert found["images"] == 4 + len(rows) and found["steps"] == 3 and found["rank"] == 2
    call("convert", "kohya", tmp_path / "lora", tmp_path / "kohya.safetensors")
    assert (tmp_path / "kohya.safetensors").stat().st_size > 1000

    (tmp_path / "prompts.txt").write_text("a happy red round critter\na blue square critter at night\n")
    for name, more in (("base", []), ("adapted", ["--lora", tmp_path / "lora", "--negative-prompt", "Weird image. "])):
        made = call("generate", asset("sd"), tmp_path / "prompts.txt", tmp_path / name, "--steps", 2, "--shard-size", 3,
                    "--images-per-prompt", 2, "--seed", 7, "--json", *more)  # fmt: skip
        assert made == {"images": 4, "prompts_cut_off": 0, "made": 2, "found": 0}
    assert [group["seed"] for group in read_pool(tmp_path / "base")] == [[7, 8], [9, 10]]
    result = call("evaluate", tmp_path / "adapted", "--before", tmp_path / "base", "--clip", asset("clip"), "--hps",
                  asset("hps"), "--aesthetic", asset("aesthetic_head.safetensors"), "--json")  # fmt: skip
    assert set(result) == {"clip", "aesthetic", "hps", "prompts_cut_off"} and result["prompts_cut_off"] == 0
    assert result["hps"]["difference"] == pytest.approx(result["hps"]["mean"] - result["hps"]["before"])
    assert call("evaluate", tmp_path / "adapted", code=2).startswith("nothing to measure with: give --clip")
    other = call("generate", asset("sd"), tmp_path / "prompts.txt", tmp_path / "base", "--steps", 3, "--shard-size", 3,
                 "--images-per-prompt", 2, "--seed", 7, code=2)  # fmt: skip
    assert "was made with steps 2, but now it is 3" in other


def test_an_adaptation_stops_at_an_unreadable_image_or_leaves_it_out_and_says_so(tmp_path: Path) -> None:
    plain = tmp_path / "laion"
    plain.mkdir()
    for k in range(3):
        Image.new("RGB", (70, 70), (60 * k, 90, 30)).save(plain / f"{k}.png")
        (plain / f"{k}.txt").write_text("a very long caption " * 30 if k == 1 else f"caption {k}")
    (plain / "1.png").write_bytes((plain / "1.png").read_bytes()[:60])
    given = ["adapt", asset("sd"), tmp_path / "lora", "--regularisation", plain, "--regularisation-only", "--rank", 2,
             "--batch-size", 2, "--steps", 2, "--device", "cpu"]  # fmt: skip
    assert "1.png" in call(*given, code=2)
    result = runner.invoke(app, [str(part) for part in (*given, "--skip-bad", "--json")])
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["images"], told["left_out"], told["captions_cut_off"]) == (2, 1, 0)
    assert "1 of 3 images cannot be read and are left out, the first: " in result.stderr and "1.png" in result.stderr
    plan = runner.invoke(app, [str(part) for part in (*given, "--skip-bad", "--plan")])
    assert plan.exit_code == 0 and "plan_training.py" not in plan.stderr, plan.stderr


def test_diffusiondb_is_scored_and_selected_from_its_zips(tmp_path: Path) -> None:
    write_diffusiondb(tmp_path / "ddb", pictures=24)
    metadata, scores = tmp_path / "ddb" / "metadata-large.parquet", tmp_path / "scores"
    given = ("score", "hpslib", asset("hps"), metadata, scores, "--format", "diffusiondb", "--parts")
    found = call(*given, "1-2", "--blur", "--json")
    table = read_shards(tmp_path / "scores")
    assert found["images"] == table.num_rows == 24 and set(table.column("id").to_pylist()[:4]) != {"0"}
    assert table.column_names == ["id", "name", "prompt", "score", "blurred"]
    out = tmp_path / "selection.parquet"
    chosen = call("select", scores, out, "--temperature", 5, "--threshold", 1.2, "--json")
    assert chosen["groups"] == 6 and chosen["preferred"] + chosen["non_preferred"] == len(pd.read_parquet(out)) > 0
    said = call(*given, "a-b", code=2)
    assert said == "parts 'a-b': name a range of numbers such as 1-1000."
    (tmp_path / "ddb" / "images" / "part-000002.zip").unlink()
    rest = call(*given[:4], tmp_path / "rest", "--format", "diffusiondb", "--json")
    assert rest["images"] == 12, "the parts that are there"
    assert call(*given[:4], tmp_path / "two", "--format", "diffusiondb", "--max-prompts", 2, "--json")["groups"] == 2


def test_cosines_are_refused_by_select_with_the_remedy(pool: Path, tmp_path: Path) -> None:
    clip = shutil.copytree(asset("clip"), tmp_path / "clip")
    (clip / "provenance.json").write_text(json.dumps({"kind": "clip"}))
    call("score", "hpslib", clip, pool, tmp_path / "scores", "--format", "pool", "--blur")
    given = ("select", tmp_path / "scores", tmp_path / "s.parquet", "--min-group", 3)
    said = call(*given, code=2)
    assert "as cosines do" in said and "choose a temperature of 0.01." in said
    assert not (tmp_path / "s.parquet").exists()
    assert call(*given, "--temperature", 0.01, "--threshold", 1.2, "--json")["preferred"] > 0


def test_preflight_asks_no_gpu_of_a_rehearsal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, needed in (("rehearsal", False), ("full", True), ("mini", True)):
        monkeypatch.setenv("HPS_SCALE", name)
        told = runner.invoke(app, ["preflight", str(tmp_path), "--lesson", "4"]).stdout
        assert ("a GPU with 12 GiB is needed" in told) == (needed and not __import__("torch").cuda.is_available())


def test_preflight_lists_where_the_training_differs(tmp_path: Path) -> None:
    result = runner.invoke(app, ["preflight", str(tmp_path)])
    assert result.exit_code == 2 and "- gradient clipping: to the norm 1.0 there, none here, for" in result.stdout
    assert f"model.safetensors {tmp_path / 'clip'}" in result.stdout
    assert "gradient clipping" not in runner.invoke(app, ["preflight", str(tmp_path), "--lesson", "1"]).stdout


def test_bad_input_is_one_sentence_and_exit_code_2(hpd: Path, pool: Path, tmp_path: Path) -> None:
    test = hpd / "preference_test.json"
    out = tmp_path / "out"
    empty = shutil.copytree(asset("clip"), tmp_path / "empty")
    (empty / "open_clip_config.json").write_text("{}")
    small = ("--held-out", 0.5, "--batch-size", 2, "--image-blocks", 1, "--text-blocks", 0)
    sentences = {
        (
            "score",
            "hpslib",
            asset("hps"),
            test,
            out,
            "--device",
            "cuda",
        ): "--device cuda finds no CUDA GPU here",
        ("score", "hpslib", asset("hps"), test, out, "--device", "tpu"): "--device tpu: use auto, cpu or cuda.",
        (
            "score",
            "hpslib",
            asset("hps"),
            test,
            out,
            "--format",
            "xml",
        ): "the format 'xml' is unknown: use one",
        ("score", "what", asset("hps"), test, out): "the kind 'what' is unknown: use one of clip,",
        (
            "score",
            "hpslib",
            asset("hps"),
            test,
            out,
            "--parts",
            "1-2",
        ): "only DiffusionDB has parts",
        ("select", tmp_path, out): f"{tmp_path} holds no part-",
        ("generate", tmp_path, test, out): "cannot be read as prompts (it is no list of texts)",
        ("generate", asset("sd"), tmp_path / "none.txt", out): "none.txt does not exist: name a file of prompts",
        ("train", test, asset("clip"), out, "--tracker", "paper"): "--tracker paper: use tensorboard or wandb",
        (
            "train",
            test,
            asset("clip"),
            out,
            "--held-out",
            0.5,
            "--image-blocks",
            99,
        ): "image_blocks is 99: this tower has",
        ("train", test, asset("clip"), out, *small, "--micro-batch", "all"): "give a number from 1, or auto.",
        ("train", test, asset("clip"), out, *small, "--precision", "fp8"): "use one of no, bf16, fp16",
        ("train", test, asset("clip"), out, *small, "--precision", "fp16", "--device", "cpu"): "a CPU does not compute",
        ("adapt", "sd", out, "--regularisation", hpd): "give --selection and --pool, or --regularisation-only.",
        (
            "adapt",
            "sd",
            out,
            "--regularisation",
            hpd,
            "--pool",
            pool,
        ): "a selection names images of a pool: give both",
        ("adapt", "sd", out, "--regularisation", hpd, "--schedule", "steps"): "the schedule 'steps' is unknown: use",
        ("adapt", "sd", out, "--regularisation", hpd, "--regularisation-only", "--selection", out): "is not clear",
        (
            "adapt",
            asset("sd"),
            out,
            "--regularisation",
            pool.parent,
            "--selection",
            pool,
            "--pool",
            pool,
        ): f"{pool.parent} holds 0 images",
        ("train", test, asset("clip"), out, "--format", "pool"): "--format pool holds no choices: use one of hpd_v1,",
        ("train", test, asset("clip"), out, "--test", tmp_path / "t.json"): "t.json does not exist",
        ("evaluate", pool, "--clip", empty): "open_clip_config.json is no configuration of open_clip (KeyError: 'mod",
        ("evaluate", pool, "--clip", asset("clip"), "--aesthetic", pool): "pool.parquet cannot be read as safetensors",
        (
            "evaluate",
            pool,
            "--reference",
            tmp_path,
        ): "FID has only one half: give --reference, a folder of",
    }
    if __import__("torch").cuda.is_available():
        sentences.pop(next(iter(sentences)))
    for arguments, sentence in sentences.items():
        said = call(*arguments, code=2)
        assert sentence in said and "\n" not in said, (arguments, said)
    call("score", "hpslib", asset("hps"), pool, tmp_path / "scores", "--format", "pool")
    said = call("select", tmp_path / "scores", out, code=2)
    assert "does not say which images are blurred: score with --blur, or --keep-blurred." in said


def test_a_loss_that_is_no_number_is_exit_code_3(hpd: Path, tmp_path: Path) -> None:
    said = call("train", hpd / "preference_train.json", asset("clip"), tmp_path / "o", "--image-blocks", 1, "--device",
                "cpu", "--text-blocks", 0, "--lr", 1e30, "--epochs", 3, "--held-out", 0.25, code=3)  # fmt: skip
    assert said.startswith("the loss is nan at step") and "lower lr (it is 1e+30)" in said


def test_every_command_has_an_example() -> None:
    for command in (
        "audit",
        "check",
        "convert",
        "score",
        "train",
        "select",
        "adapt",
        "generate",
        "evaluate",
        "preflight",
    ):
        text = " ".join(call(command, "--help").split())
        assert "Example:" in text and f"hpslib {command}" in text, command


def test_sentences_reach_a_shell(tmp_path: Path) -> None:
    shutil.copy(asset("aesthetic_head.safetensors"), tmp_path / "x.safetensors")
    done = subprocess.run(
        [sys.executable, "-m", "hpslib", "convert", "hps_v1", str(tmp_path / "x.safetensors"), str(tmp_path / "y")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.strip().endswith("name another file.") and done.stderr.count("\n") == 1
