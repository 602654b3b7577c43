"""hpslib on the command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hpslib.cli.app import app
from hpslib.critters.assets import asset

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "hpd_v1_sample" / "preference_test.json"
runner = CliRunner()


def write(path: Path, prompts: list[str], **changes: Any) -> Path:
    rows = [
        {
            "human_preference": 1,
            "prompt": prompt,
            "id": number,
            "file_path": [f"preference_images/{number}_{k}.jpg" for k in range(2)],
            "user_hash": f"u{number}",
            "contain_name": False,
            **changes,
        }
        for number, prompt in enumerate(prompts)
    ]
    path.write_text(json.dumps(rows))
    return path


def test_audit_prints_sentences(tmp_path: Path) -> None:
    result = runner.invoke(app, ["audit", str(write(tmp_path / "a.json", ["a cat", "a dog"]))])
    assert (result.exit_code, result.stderr) == (0, "")
    assert "2 groups with 4 images" in result.stdout
    assert "Always the last image: 100.0% (2 of 2;" in result.stdout
    assert "4 of 4 images are absent, the first is 'preference_images/0_0.jpg'." in result.stdout


def test_absent_images_are_told_once_and_not_as_a_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    result = runner.invoke(app, ["audit", str(write(tmp_path / "a.json", ["a cat", "a dog"]))])
    assert result.stdout.count("absent") == 1
    assert not [str(warning.message) for warning in recwarn if warning.category is UserWarning]


def test_audit_json_is_only_json_and_counts_shared_prompts(tmp_path: Path) -> None:
    one = write(tmp_path / "a.json", ["a cat", "a dog", "a cow"])
    two = write(tmp_path / "b.json", ["A  Cat", "a hen"])
    result = runner.invoke(app, ["audit", str(one), "--other", str(two), "--json"])
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert (found["n_groups"], found["prompts_shared_with_other"], found["images_absent"]) == (3, 1, 6)
    alone = json.loads(runner.invoke(app, ["audit", str(one), "--json"]).stdout)
    assert alone["prompts_shared_with_other"] is None


@pytest.mark.parametrize("which", ["file", "other"])
def test_bad_input_is_one_sentence_on_stderr_and_exit_code_2(tmp_path: Path, which: str) -> None:
    good = write(tmp_path / "good.json", ["a cat"])
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    for bad, part in [
        (tmp_path / "no.json", "does not exist"),
        (broken, "is not readable as JSON"),
        (
            write(tmp_path / "row.json", ["a cat", "a dog"], human_preference=2),
            "row 0 (from 0) is malformed, since human_preference is 2",
        ),
        (tmp_path / "empty folder", "does not exist"),
    ]:
        arguments = [str(bad)] if which == "file" else [str(good), "--other", str(bad)]
        result = runner.invoke(app, ["audit", *arguments])
        assert result.exit_code == 2 and result.stdout == ""
        assert part in result.stderr and str(bad) in result.stderr
        assert result.stderr.count("\n") == 1 and "Traceback" not in result.stderr


def test_check_names_the_bad_images_and_ends_with_1(tmp_path: Path) -> None:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(file, "PNG")
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.png").write_bytes(file.getvalue())
    (tmp_path / "notes.txt").write_text("x")
    good = runner.invoke(app, ["check", str(tmp_path)])
    assert (good.exit_code, good.stdout) == (0, "1 of 1 images are sound; passed over: 1 .txt.\n")
    (tmp_path / "sub" / "cut.png").write_bytes(file.getvalue()[:40])
    (tmp_path / "empty.jpg").touch()
    bad = runner.invoke(app, ["check", str(tmp_path)])
    assert bad.exit_code == 1 and bad.stdout.startswith("1 of 3 images are sound, 2 are not; passed over: 1 .txt.\n")
    lines = bad.stdout.splitlines()[1:]
    assert [line.split(":")[0] for line in lines] == ["- empty.jpg", f"- {Path('sub') / 'cut.png'}"]
    assert all(len(line.split(": ", 1)[1]) > 10 for line in lines), "each with its reason"
    told = runner.invoke(app, ["check", str(tmp_path), "--workers", "1", "--json"])
    found = json.loads(told.stdout)
    assert told.exit_code == 1 and (found["checked"], found["sound"], found["other"]) == (3, 1, {".txt": 1})
    assert [one["name"] for one in found["bad"]] == ["empty.jpg", str(Path("sub") / "cut.png")]
    absent = runner.invoke(app, ["check", str(tmp_path / "none")])
    assert absent.exit_code == 2 and "is no folder: name one with images." in absent.stderr


def test_help_names_the_command() -> None:
    result = runner.invoke(app, ["--help"])
    assert result.exit_code == 0 and "audit" in result.stdout
    assert runner.invoke(app, ["no-such-command"]).exit_code == 2


def test_audit_of_the_real_sample() -> None:
    if not SAMPLE.exists():
        pytest.skip("the HPD v1 sample is not beside this checkout")
    entries = json.loads(SAMPLE.read_text())
    found = json.loads(runner.invoke(app, ["audit", str(SAMPLE), "--json"]).stdout)
    last = sum(row["human_preference"] == len(row["file_path"]) - 1 for row in entries)
    assert found["n_groups"] == len(entries) == 400
    assert found["always_last"]["hits"] == last


def test_importing_the_cli_loads_nothing_heavy() -> None:
    heavy = {"torch", "datasets", "pandas", "numpy", "scipy", "PIL"}
    code = f"import sys, hpslib.cli.app; print(*sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5,000 groups in one file: rows of the miniature set again and again, each under an id of its own."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(asset("hpd_mini/test.parquet")).slice(0, 50)
    many = pa.concat_tables([table] * 100).combine_chunks()
    ids = pa.array([f"group{row:05d}" for row in range(many.num_rows)], many.schema.field("id").type)
    path = tmp_path_factory.mktemp("packed") / "many.parquet"
    pq.write_table(many.set_column(many.schema.get_field_index("id"), many.schema.field("id"), ids), path)
    return path


@pytest.mark.parametrize("which", ["packed", "json"])
def test_audit_loads_no_network(packed: Path, tmp_path: Path, which: str) -> None:
    file = packed if which == "packed" else write(tmp_path / "a.json", [f"a cat {k}" for k in range(20)])
    code = (
        "import json, sys\nfrom hpslib.cli.app import app\n"
        f"app(['audit', {str(file)!r}, '--json'], standalone_mode=False)\n"
        f"print(sorted({{'torch', 'transformers', 'open_clip', 'diffusers'}} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert report["n_groups"] == (5000 if which == "packed" else 20) and report["prompts_over_context"] == 0
    assert done.stderr.strip().splitlines()[-1] == "[]"
