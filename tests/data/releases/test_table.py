"""hpslib.data.releases.table: a CSV file becomes groups, and every fault names its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from release_files import put, refusal

from hpslib.data.preferences import TIED, validate
from hpslib.data.rankings import ranked_features
from hpslib.data.releases.table import read_table

HEAD = "id,prompt,image,chosen\n"


def table(folder: Path, text: str, *images: str) -> Path:
    for name in images:
        (folder / name).write_bytes(b"x")
    file = folder / "votes.csv"
    file.write_bytes(text.encode())
    return file


def test_chosen_pictures_and_lines_that_stand_apart(tmp_path: Path) -> None:
    text = (
        HEAD
        + '7,"a red, round cat",a.png,1\n8,a dog,c.png,0\n'
        + '7,"a red, round cat",b.png,0\n8,a dog,d.png,1\n8,a dog,e.png,0\n'
    )
    data = read_table(table(tmp_path, text, *(f"{letter}.png" for letter in "abcde")))
    assert data.features == ranked_features() and list(data["id"]) == ["7", "8"]
    assert data[0]["prompt"] == "a red, round cat" and list(data["human_preference"]) == [0, 1]
    assert list(data["ranks"]) == [[1, 2], [2, 1, 2]] and list(data["user_hash"]) == ["", ""]
    assert [item["path"] for item in data[1]["images"]] == ["c.png", "d.png", "e.png"]
    validate(data)


def test_ranks_with_ties_users_a_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    text = (
        "\ufeffuser,rank,image,prompt,id,note\r\nann,2,a.png,ünï,x,\r\nann, 2 ,b.png,ünï,x,z\r\nann,5,c.png,ünï,x,\r\n"
    )
    row = read_table(table(tmp_path, text, "a.png", "b.png", "c.png"))[0]
    assert (row["ranks"], row["human_preference"], row["user_hash"]) == ([2, 2, 5], TIED, "ann")
    assert row["prompt"] == "ünï" and row["source"] == "table"


def test_absent_pictures_are_refused_or_reported(tmp_path: Path) -> None:
    file = table(tmp_path, HEAD + "7,a,a.png,1\n7,a,b.png,0\n", "a.png")
    with pytest.raises(FileNotFoundError, match=r"the image file 'b.png' is absent \(1 of 2"):
        read_table(file)
    with pytest.warns(UserWarning, match="1 of 2 image files are absent"):
        assert len(read_table(file, images="optional")) == 1
    with pytest.raises(FileNotFoundError, match="name a CSV file"):
        read_table(tmp_path / "no.csv")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "line 1 lacks the column id, prompt, image: give it a header"),
        ("id,prompt,chosen\n", "line 1 lacks the column image: give"),
        ("id,prompt,image\n7,a,b\n", "line 1 has neither a column chosen nor rank: give exactly one of them."),
        ("id,prompt,image,chosen,rank\n", "line 1 has both columns chosen and rank: give exactly one of them."),
        ("id,id,prompt,image,rank\n", "line 1 uses a column name twice: rename one."),
        (HEAD, "holds no line below its header"),
        (
            HEAD + "7,a,a.png,1\n7,b,b.png,0\n",
            "line 3 has another prompt than line 2, which has the same id '7': make them equal",
        ),
        (
            HEAD + "7,a,a.png,yes\n7,a,b.png,0\n",
            "line 2 has 'yes' as chosen where 0 or 1 was expected: correct this line.",
        ),
        (HEAD + "7,a,a.png,1\n7,a,b.png,1\n", "line 2, group '7', has 2 chosen images: mark exactly one with 1."),
        (HEAD + "7,a,a.png,0\n7,a,b.png,0\n", "line 2, group '7', has 0 chosen images: mark"),
        (HEAD + "7,a,a.png,1\n", "line 2, group '7', is malformed, since the group holds 1 image"),
        (
            HEAD + "8,x,p.png,1\n8,x,q.png,0\n7,a,../a.png,1\n7,a,b.png,0\n",
            "line 4, group '7', is malformed, since in image 0 the path '../a.png' has a",
        ),
        (
            HEAD + "7, ,a.png,1\n7, ,b.png,0\n",
            "line 2, group '7', is malformed, since prompt is empty: correct or remove its lines.",
        ),
        (HEAD + "7,a,a.png\n", "line 2 has 3 fields where the header has 4: put texts with a comma"),
        (HEAD + "7,a, big,a.png,1\n", "line 2 has 5 fields where the header has 4: put"),
        (
            "id,prompt,image,rank\n7,a,a.png,1\n7,a,b.png,0\n",
            "line 3 has '0' as rank where a whole number from 1 (the best) was expected: correct",
        ),
        ("id,prompt,image,rank\n7,a,a.png,1.5\n", "line 2 has '1.5' as rank where a whole number"),
        ("id,prompt,image,rank,user\n7,a,a.png,1,u\n7,a,b.png,2,v\n", "line 3 has another user than line 2"),
        (HEAD + '7,"a', "is not readable as CSV"),
    ],
)
def test_every_fault_names_its_line(tmp_path: Path, text: str, part: str) -> None:
    file = table(tmp_path, text)
    with pytest.raises(ValueError) as error:
        read_table(file, images="optional")
    message = str(error.value)
    assert message.startswith(str(file)) and part in message and "\n" not in message and message.endswith(".")


def test_another_encoding_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "votes.csv"
    file.write_bytes((HEAD + "7,ünï,a.png,1\n").encode("latin-1"))
    with pytest.raises(ValueError, match=r"is not readable as CSV .*: save it as CSV with UTF-8"):
        read_table(file)


def test_a_model_for_each_image_is_kept(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png")
    (tmp_path / "v.csv").write_text("id,prompt,image,chosen,model\n1,a cat,a.png,0,SD 1.4\n1,a cat,b.png,1,\n")
    data = read_table(tmp_path / "v.csv")
    assert list(data["models"]) == [["SD 1.4", ""]] and list(data["human_preference"]) == [1]


@pytest.mark.parametrize("rank", ["9" * 5000, "²", "1.0", "-1", "0", "1e3", "٣"])
def test_a_rank_is_written_in_ordinary_digits(tmp_path: Path, rank: str) -> None:
    (tmp_path / "v.csv").write_text(f"id,prompt,image,rank\n1,a,a.png,1\n1,a,b.png,{rank}\n")
    assert "line 3 has '" in refusal(lambda: read_table(tmp_path / "v.csv", images="optional"))
