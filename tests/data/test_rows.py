"""hpslib.data.rows: prompts arrive letter by letter, and the first unreadable row is named."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from release_files import refusal

from hpslib.data.rows import check_columns, csv_columns, csv_rows, parquet_file, parquet_rows, read_prompts

PARTI = Path(__file__).parents[3] / "shared" / "data" / "partiprompts" / "PartiPrompts.tsv"


def saved(folder: Path, name: str, content: str | bytes) -> Path:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


TWO = ["a cat", "a dog"]


@pytest.mark.parametrize(
    ("name", "content", "prompts"),
    [
        ("p.txt", "a cat\na dog\n", TWO),
        ("p.txt", "a cat\r\na dog", TWO),
        ("p.txt", "a cat\na dog\n\n \n\r\n", TWO),
        ("p", "a cat\na dog", TWO),
        ("p.txt", "a\u2028b\n a\x85b \na\x0bb\x0cc\x1cd\n", ["a\u2028b", " a\x85b ", "a\x0bb\x0cc\x1cd"]),
        ("p.tsv", "Prompt\tx\na\u2028b\ty\n", ["a\u2028b"]),
        ("p.csv", "prompt,x\na\u2028b,y\na\x85b,y\n", ["a\u2028b", "a\x85b"]),
        ("p.jsonl", '"a\u2028b"\n{"prompt": "a\x85b", "seed": 1}\n', ["a\u2028b", "a\x85b"]),
        ("p.tsv", 'Prompt\tC\n"S T O P" on a sign\tx\n"half\ty\na 5" disc\tz\n"", she said\tw\n',
         ['"S T O P" on a sign', '"half', 'a 5" disc', '"", she said']),
        ("p.TSV", "category\tPROMPT\r\nx\ta, b\r\n", ["a, b"]),
        ("p.CSV", 'id, Prompt \n1,"a ""red"" cat, oil"\n2,a 5" disc\n', ['a "red" cat, oil', 'a 5" disc']),
        ("p.csv", "prompt\nnan\nNA\nNone\n007\n\n\n", ["nan", "NA", "None", "007"]),
        ("p.csv", 'prompt\n"two\nlines"\n', ["two\nlines"]),
        ("p.JSON", '["a cat", "a dog"]', TWO),
    ],
)  # fmt: skip
def test_prompts_keep_their_letters(tmp_path: Path, name: str, content: str, prompts: list[str]) -> None:
    assert read_prompts(saved(tmp_path, name, content)) == prompts


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", "a cat\na dög\n"),
        ("p.json", '["a cat", "a dög"]'),
        ("p.jsonl", '"a cat"\n"a dög"\n'),
        ("p.csv", "prompt\na cat\na dög\n"),
        ("p.tsv", "prompt\ta\na cat\tb\na dög\tc\n"),
    ],
)
def test_a_byte_order_mark_is_no_letter(tmp_path: Path, name: str, content: str, encoding: str) -> None:
    assert read_prompts(saved(tmp_path, name, content.encode(encoding))) == ["a cat", "a dög"]


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("p.txt", "", "holds no prompt"),
        ("p.txt", "\ufeff\n\n", "holds no prompt"),
        ("p.csv", "", "no column 'prompt'"),
        ("p.csv", "prompt\n", "holds no prompt"),
        ("p.tsv", "", "holds no prompt"),
        ("p.json", "", "cannot be read as prompts"),
        ("p.json", "[]", "holds no prompt"),
        ("p.txt", "a\n\nb\n", "holds an empty prompt, number 1 (from 0)"),
        ("p.csv", "prompt\na\n\nb\n", "line 3 has 0 fields where the header has 1"),
        ("p.csv", "prompt,x\na,1\n ,1\n", "holds an empty prompt, number 1 (from 0)"),
        ("p.csv", "prompt\na red cat, oil painting\n", "line 2 has 2 fields where the header has 1: put prompts with"),
        ("p.csv", "prompt,style\na cat,x\na dog, photo,y\n", "line 3 has 3 fields"),
        ("p.csv", "prompt,style\na cat\n", "line 2 has 1 fields"),
        ("p.csv", 'prompt,x\n"half,1\n', "is not readable as CSV"),
        ("p.csv", "prompt,Prompt\na,b\n", "two columns 'prompt'"),
        ("p.csv", "text\na\n", "no column 'prompt'"),
        ("p.tsv", "prompt\tx\na\n", "line 2 has 1 fields where the header has 2"),
        ("p.txt", "a cat\ra dog\r", "line 1 has a carriage return without a line feed"),
        ("p.txt", b"caf\xe9\n", "cannot be read as prompts"),
        ("p.csv", b"prompt\ncaf\xe9\n", "is not readable as CSV"),
        ("p.txt", "a\0b\n", "NUL character, number 0"),
        ("p.txt", "a cat".encode("utf-16-le"), "NUL character, number 0"),
        ("p.json", '["a", "a \\ud83d cat"]', "not valid Unicode, number 1 (from 0)"),
        ("p.json", '["a", NaN]', "holds a float where a text was expected, number 1 (from 0)"),
        ("p.json", '["a", null]', "holds a NoneType where a text was expected, number 1"),
        ("p.json", '[{"prompt": "a"}]', "(it is no list of texts)"),
        ("p.json", '{"prompt": "a"}', "(it is no list of texts)"),
        ("p.json", "[" * 100_000, "cannot be read as prompts"),
        ("p.jsonl", '"a"\n{"text": "b"}', "holds a NoneType where a text was expected, number 1"),
        ("p.jsonl", '"a"\n' + "[" * 100_000, "cannot be read as prompts"),
        ("p.jsonl", '"a"\n\n"b"', "cannot be read as prompts"),
        ("p.json", "[" + "9" * 5000 + "]", "cannot be read as prompts"),
    ],
)  # fmt: skip
def test_what_is_no_prompt_is_named(tmp_path: Path, name: str, content: str | bytes, part: str) -> None:
    file = saved(tmp_path, name, content)
    text = refusal(lambda: read_prompts(file))
    assert str(file) in text and part in text


def test_an_absent_file_of_prompts_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "no.txt", tmp_path, tmp_path / ("a" * 5000)):
        assert "does not exist: name a file of prompts" in refusal(
            lambda path=path: read_prompts(path), FileNotFoundError
        )


def test_the_real_partiprompts_are_read_whole() -> None:
    if not PARTI.is_file():
        pytest.skip("PartiPrompts.tsv is not beside this checkout")
    prompts = read_prompts(PARTI)
    with PARTI.open(encoding="utf-8", newline="") as stream:
        lines = list(csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert prompts == [line[0] for line in lines[1:]] and len(prompts) == 1632
    assert sum('"' in prompt for prompt in prompts) == 22


# --- CSV and parquet --------------------------------------------------------------------------------------------------


def test_csv_rows_carry_their_line_and_a_name_stands_once(tmp_path: Path) -> None:
    file = saved(tmp_path, "a.csv", "a,b\n1,\n\nx,y\n".encode("utf-16"))
    assert csv_columns(file) == ["a", "b"]
    assert list(csv_rows(file)) == [(2, {"a": "1", "b": ""}), (4, {"a": "x", "b": "y"})]
    assert "line 1 has the column 'a' twice" in refusal(lambda: list(csv_rows(saved(tmp_path, "b.csv", "a,a\n1,2\n"))))
    assert list(csv_rows(saved(tmp_path, "c.csv", "a,,\n1,,\n"))) == [(2, {"a": "1", "": ""})]


def stored(folder: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), folder / "a.parquet")
    return folder / "a.parquet"


def test_a_text_that_is_not_utf_8_is_named_by_its_row(tmp_path: Path) -> None:
    raw = pa.array([b"a", b"b", b"\xff", b"d"])
    broken = pa.StringArray.from_buffers(4, raw.buffers()[1], raw.buffers()[2])
    file = stored(tmp_path, prompt=broken)
    for batch_size in (1, 3, 10):
        rows = parquet_rows(parquet_file(file, ["prompt"], "x"), file, ["prompt"], batch_size)
        text = refusal(lambda rows=rows: list(rows))
        assert text == f"{file}, row 2 (from 0) holds text that is not UTF-8: correct or remove this row."


@pytest.mark.parametrize(
    ("kind", "fitting", "other"),
    [
        ("text", [["a"], [None]], [[1], [b"a"], [1.5], [["a"]], [{"a": 1}], [True]]),
        ("whole", [[1], pa.array([1], pa.uint64()), [None]], [["1"], [1.5], [True], [b"1"], [[1]]]),
        ("number", [[1], [1.5], [None]], [["1"], [True], [b"1"], [[1.5]]]),
        ("label", [[1], [True], [None]], [["1"], [b"1"], [[1]]]),
        ("name", [["a"], [1], [None]], [[b"a"], [1.5], [[1]]]),
        ("bytes", [[b"a"], [None]], [["a"], [1], [{"bytes": b"a"}]]),
    ],
)
def test_a_column_of_another_kind_is_refused(tmp_path: Path, kind: str, fitting: list, other: list) -> None:
    for values in [*fitting, pa.array(["a"]).dictionary_encode()] if kind == "text" else fitting:
        file = stored(tmp_path, x=values)
        check_columns(parquet_file(file, ["x"], "y").schema_arrow, file, {"x": kind, "absent": "text"})
    for values in other:
        file = stored(tmp_path, x=values)
        with parquet_file(file, ["x"], "y") as parquet:
            text = refusal(lambda parquet=parquet, file=file: check_columns(parquet.schema_arrow, file, {"x": kind}))
        assert text.startswith(f"{file} has the column 'x' of the type ")


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["x", "x"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert refusal(lambda: parquet_file(tmp_path / "a.parquet", ["x"], "y")).endswith("has the column x twice: y.")
    with parquet_file(tmp_path / "a.parquet", [], "y") as parquet:
        assert "'x' twice" in refusal(lambda: check_columns(parquet.schema_arrow, "a.parquet", {"x": "text"}))


def test_json_lines_hold_what_json_holds(tmp_path: Path) -> None:
    prompts = ["a\nb", 'a "cat"', "\u2028", "é"]
    lines = "\n".join(json.dumps(prompt, ensure_ascii=False) for prompt in prompts)
    with pytest.raises(ValueError, match="empty prompt, number 2"):
        read_prompts(saved(tmp_path, "p.jsonl", lines))
    assert read_prompts(saved(tmp_path, "p.jsonl", lines.replace("\u2028", "\u2028x"))) == [
        "a\nb", 'a "cat"', "\u2028x", "é"
    ]  # fmt: skip
