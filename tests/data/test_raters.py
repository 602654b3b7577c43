"""hpslib.data.raters: a dataset as (groups, raters)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from release_files import annotate, ranking, refusal

from hpslib.data.raters import rater_matrix
from hpslib.data.releases.hpd_v2 import read_hpd_v2_test


def group(number: int, user: str, choice: int, images: str = "ab", prompt: str = "p", **more: Any) -> dict[str, Any]:
    return {
        "id": str(number),
        "prompt": prompt,
        "images": [{"bytes": None, "path": f"{name}.png"} for name in images],
        "human_preference": choice,
        "user_hash": user,
        **more,
    }


def test_rows_with_the_same_images_are_one_group_in_any_order() -> None:
    rows = [
        group(0, "ann", 1),
        group(1, "bob", 0, "cd"),
        group(2, "bob", 1, "ba"),  # chose a.png
        group(3, "eve", 0, "ab", "another prompt"),
        group(4, "eve", -1, "cd"),  # a tie
    ]
    raters, choices, where = rater_matrix(Dataset.from_list(rows))
    assert raters == ["ann", "bob", "eve"] and where == [0, 1, 3] and choices.dtype == np.int16
    assert choices.tolist() == [[1, 0, -1], [-1, 0, -1], [-1, -1, 0]]


def test_second_answers_and_nameless_ones_are_counted() -> None:
    rows = [group(0, "ann", 1), group(1, "ann", 0), group(2, "", 0)]
    with pytest.warns(UserWarning, match="^1 answers without a user_hash and 1 second answers of a rater"):
        assert rater_matrix(Dataset.from_list(rows)).choices.tolist() == [[1]]
    assert "no answer of the dataset has a user_hash" in refusal(lambda: rater_matrix(Dataset.from_list(rows[2:])))


def test_the_second_rater_of_the_miniature_set() -> None:
    rows = [
        group(0, "ann", 1, second_preference=0, second_user_hash="bob"),
        group(1, "bob", 0, "cd", second_preference=1, second_user_hash="ann"),
    ]
    assert rater_matrix(Dataset.from_list(rows))[:2] == (["ann", "bob"], pytest.approx(np.array([[1, 0], [1, 0]])))


def test_the_ten_raters_of_hpd_v2(tmp_path: Any) -> None:
    file = annotate(
        tmp_path / "test.json",
        [ranking(0, [0, 1, 2], [[1, 2, 3], [3, 1, 2], [1, 1, 2]]), ranking(1, [1, 0, 2], [[2, 3, 1]])],
    )
    with pytest.warns(UserWarning, match="absent"):
        data = read_hpd_v2_test(file, images="optional")
    raters, choices, _ = rater_matrix(data)
    assert raters == ["u0", "u1", "u2"] and choices.tolist() == [[0, 1, -1], [2, -1, -1]]
