"""hpslib.data.preferences: the schema's faults and splits without leaks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Features, Image, List, Value
from small_groups import dataset, group, png

from hpslib.data.preferences import (
    TIED,
    features,
    load_images,
    malformed_rows,
    normalise_prompt,
    row_fault,
    split_by_prompt,
    validate,
)


def test_features_round_trip_a_group() -> None:
    rows = [group(0), group(1, images=[{"bytes": png(), "path": None}, {"bytes": png((9, 9, 9)), "path": "b.png"}])]
    assert dataset(rows).to_list() == rows
    validate(dataset(rows))
    validate(rows)
    validate(iter(rows))


ROW_FAULTS: list[tuple[Any, str]] = [
    (group(1, ranks=[1, 2]), "ranks is [1, 2] where a list of 3 numbers, one per image"),
    (group(1, ranks="123"), "ranks is '123' where a list of 3 numbers"),
    (group(1, ranks=[1, 0, 2]), "image 1 has the rank 0 where a whole number from 1 (the best)"),
    (group(1, ranks=[1, 2.0, 2]), "image 1 has the rank 2.0 where a whole number"),
    (group(1, ranks=[True, 2, 2]), "image 0 has the rank True where a whole number"),
    (group(1, choice=1, ranks=[1, 2, 3]), "image 0 has the best rank, so human_preference must be 0, not 1"),
    (group(1, choice=TIED, ranks=[2, 1, 3]), "image 1 has the best rank, so human_preference must be 1, not -1"),
    (group(1, choice=2, ranks=[2, 1, 1]), "images 1 and 2 share the best rank, so human_preference must be -1, not 2"),
    (group(1, choice=3, ranks=[1, 2, 3]), "human_preference is 3 where an index from 0 to 2, or -1 for a tie, was"),
    (group(1, choice=TIED, ranks=None), "human_preference is -1 where an index from 0 to 2 was"),
    (["a"], "it is a list where an object"),
    ({"id": "1"}, "it has no prompt, images (file_path in HPD v1), human_preference"),
    (group(1, id=1), "id is a int where text"),
    (group(1, id=" "), "id is empty"),
    (group(1, prompt=None), "prompt is a NoneType"),
    (group(1, prompt=" \n"), "prompt is empty"),
    (group(1, prompt="a \ud800"), "prompt holds characters that are not valid Unicode"),
    (group(1, user_hash=5), "user_hash is a int"),
    (group(1, source=None), "source is a NoneType"),
    (group(1, contain_name=1), "contain_name is a int where true or false"),
    (group(1, human_preference="0"), "human_preference is a str where a whole number"),
    (group(1, human_preference=0.0), "human_preference is a float"),
    (group(1, human_preference=True), "human_preference is a bool"),
    (group(1, choice=3), "human_preference is 3 where an index from 0 to 2"),
    (group(1, choice=-1), "human_preference is -1 where an index from 0 to 2"),
    (group(1, n=1), "the group holds 1 image where a choice needs at least 2:"),
    (group(1, n=0), "the group holds 0 images where a choice needs"),
    (group(1, images="ab"), "images (file_path in HPD v1) is a str where a list"),
    (group(1, images=["a.png", "b.png"]), "image 0 is a str where bytes and path"),
    (group(1, images=[{"bytes": None, "path": None}] * 2), "image 0 has neither bytes nor a path"),
    (group(1, images=[{"bytes": png(), "path": None}, {"bytes": b"", "path": None}]), "image 1 has empty bytes"),
    (group(1, images=[{"bytes": None, "path": 5}] * 2), "in image 0 the path 5 is a int where text"),
    (group(1, images=[{"bytes": None, "path": "../a.png"}] * 2), "in image 0 the path '../a.png' has a '..'"),
    (group(1, images=[{"bytes": None, "path": "a\ud800"}] * 2), "the path of image 0 holds characters"),
    (
        group(1, images=[{"bytes": None, "path": p} for p in ("x/a.png", "b", "x/./a.png")]),
        "images 0 and 2 are the same file",
    ),
]


@pytest.mark.parametrize(("row", "part"), ROW_FAULTS, ids=[part for _, part in ROW_FAULTS])
def test_every_fault_of_a_row_is_named_in_one_sentence(row: Any, part: str) -> None:
    with pytest.raises(ValueError) as error:
        validate([group(0), row, group(2)], "votes.json")
    text = str(error.value)
    assert text.startswith(f"votes.json, row 1 (from 0) is malformed, since {part}")
    assert text.endswith(": correct or remove this row.")
    assert "\n" not in text


def test_a_well_formed_row_has_no_fault() -> None:
    assert row_fault(group(1)) is None
    assert row_fault(group(1, human_preference=np.int64(2), second_preference=1)) is None
    same_bytes = [{"bytes": png(), "path": "a.png"}, {"bytes": png(), "path": "a.png"}]
    assert row_fault(group(1, images=same_bytes)) is None, "with bytes the path is only a name"


def test_ranks_may_have_gaps_and_ties_and_be_absent_in_some_rows() -> None:
    assert row_fault(group(1, n=4, ranks=[1, 2, 5, 3])) is None
    assert row_fault(group(1, choice=TIED, ranks=[2, 5, 2])) is None, "the best rank need not be 1"
    assert row_fault(group(1, choice=2, ranks=None)) is None
    schema = Features({**features(), "ranks": List(Value("int64"))})
    rows = [group(0, ranks=[1, 2, 2]), group(1, choice=TIED, ranks=[1, 1, 3]), group(2, ranks=None)]
    data = Dataset.from_list(rows, features=schema)
    validate(data)
    assert data.to_list() == rows


def test_all_rows_are_checked_and_counted() -> None:
    rows = [group(0), group(1, n=1), group(0), "x", group(4)]
    assert [number for number, _ in malformed_rows(rows)] == [1, 2, 3]
    assert malformed_rows(rows)[1][1] == "its id '0' is already used by row 0"
    with pytest.raises(ValueError, match=r"row 1 .*: correct or remove this row and 2 more malformed rows\.$"):
        validate(rows)
    with pytest.raises(ValueError, match=r"row 1 .*: correct or remove this row and 1 more malformed row\.$"):
        validate(rows[:3])


def test_dataset_level_faults() -> None:
    good = dataset([group(0)])
    with pytest.raises(ValueError, match=r"^the dataset holds no row: give at least one preference group\.$"):
        validate(good.select([]))
    with pytest.raises(ValueError, match=r"^the dataset holds no row: give at least one preference group\.$"):
        validate([])
    with pytest.raises(ValueError, match=r"^the dataset lacks the column user_hash, source: build"):
        validate(good.remove_columns(["user_hash", "source"]))
    with pytest.raises(
        ValueError, match=r"^the dataset has images of the type .*: use List\(Image\(decode=False\)\)\.$"
    ):
        validate(good.cast_column("images", List(Image())))
    validate(good.add_column("second_preference", [1]))


def test_load_images_keeps_the_order_and_names_the_group(tmp_path: Path) -> None:
    colours = [(250, 0, 0), (0, 250, 0)]
    (tmp_path / "b.png").write_bytes(png(colours[1]))
    row = dataset([group(7, images=[{"bytes": png(colours[0]), "path": None}, {"bytes": None, "path": "b.png"}])])[0]
    assert [image.getpixel((0, 0)) for image in load_images(row, root=tmp_path)] == colours
    with pytest.raises(
        ValueError, match=r"^group '7', image 1 is the file 'b.png' beside its annotations: pass .* root=\.$"
    ):
        load_images(row)
    (tmp_path / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"^group '7', image 1 is absent \(.*b\.png\): download it"):
        load_images(row, root=tmp_path)


# --- splitting --------------------------------------------------------------------------------------------------------


def prompts_with_repeats(rng: np.random.Generator, n: int = 300) -> Dataset:
    words = [f"{'A ' if rng.random() < 0.5 else 'a  '}critter {rng.integers(0, 120)}" for _ in range(n)]
    return dataset([group(k, prompt=prompt) for k, prompt in enumerate(words)])


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def keys(data: Dataset) -> set[str]:
    return {normalise_prompt(prompt) for prompt in data["prompt"]}


def test_split_shares_no_prompt_and_loses_no_row(rng: np.random.Generator) -> None:
    data = prompts_with_repeats(rng)
    largest = max(Counter(normalise_prompt(prompt) for prompt in data["prompt"]).values())
    splits = split_by_prompt(data, {"train": 0.6, "valid": 0.1, "test": 0.3}, seed=0)
    assert list(splits) == ["train", "valid", "test"]
    assert not keys(splits["train"]) & keys(splits["test"]) and not keys(splits["valid"]) & keys(splits["test"])
    assert not keys(splits["train"]) & keys(splits["valid"])
    ids = [int(i) for part in splits.values() for i in part["id"]]
    assert sorted(ids) == list(range(len(data)))
    for name, share in {"train": 0.6, "valid": 0.1, "test": 0.3}.items():
        assert abs(len(splits[name]) - share * len(data)) <= 2 * largest
        assert list(splits[name]["id"]) == sorted(splits[name]["id"], key=int), "rows keep their order"


def test_split_depends_on_the_seed_and_not_on_the_order(rng: np.random.Generator) -> None:
    data, halves = prompts_with_repeats(rng), {"a": 0.5, "b": 0.5}
    first = keys(split_by_prompt(data, halves, seed=1)["a"])
    assert first == keys(split_by_prompt(data, halves, seed=np.random.default_rng(1))["a"])
    assert first == keys(split_by_prompt(data.select(rng.permutation(len(data))), halves, seed=1)["a"])
    assert first != keys(split_by_prompt(data, halves, seed=2)["a"])


@pytest.mark.parametrize(
    "fractions", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": 1.0, "b": 0.0}, {"a": float("nan")}]
)
def test_split_refuses_fractions_that_do_not_add_up(fractions: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="are no shares: give numbers above 0 that add up to 1"):
        split_by_prompt(dataset([group(0), group(1)]), fractions, seed=0)


def test_split_refuses_an_empty_split() -> None:
    same = dataset([group(k, prompt="a critter") for k in range(10)])
    with pytest.raises(
        ValueError, match=r"the split 'b' would be empty, since 1 different prompts are dealt out as .*: give it"
    ):
        split_by_prompt(same, {"a": 0.5, "b": 0.5}, seed=0)


def test_extra_columns_survive_a_split() -> None:
    extra = Features({**features(), "second_preference": Value("int64")})
    data = Dataset.from_list([group(k, second_preference=1) for k in range(6)], features=extra)
    assert split_by_prompt(data, {"a": 0.5, "b": 0.5}, seed=0)["a"].features == extra
