"""hpslib.metrics.audit: held against counts by hand and counts from the released JSON."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from scipy.stats import binomtest, chisquare
from small_groups import dataset, group, png

from hpslib.metrics.audit import audit, blind_guess, shared_prompts

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "hpd_v1_sample" / "preference_test.json"


def prompts_with_repeats(rng: np.random.Generator, n: int = 300) -> Dataset:
    words = [f"{'A ' if rng.random() < 0.5 else 'a  '}critter {rng.integers(0, 120)}" for _ in range(n)]
    return dataset([group(k, prompt=prompt) for k, prompt in enumerate(words)])


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def small_set() -> Dataset:
    rows = [
        group(0, n=2, choice=1, prompt="A cat", contain_name=True, user_hash="u"),
        group(1, n=4, choice=3, prompt="a   CAT", user_hash="u"),
        group(2, n=4, choice=0, prompt="one two three four", user_hash="u"),
        group(3, n=4, choice=3, prompt=" ", user_hash="v"),
    ]
    return dataset(rows)


def test_audit_of_a_set_counted_by_hand() -> None:
    found = audit(small_set(), other=dataset([group(0, prompt="a cat"), group(1, prompt="a dog")]))
    assert (found.n_groups, found.n_images, found.group_sizes) == (4, 14, {2: 1, 4: 3})
    assert found.chance_top1 == pytest.approx((1 / 2 + 3 / 4) / 4)
    assert found.position_counts == {2: [0, 1], 4: [1, 0, 0, 2]}
    assert found.position_p_values[4] == pytest.approx(chisquare([1, 0, 0, 2]).pvalue)
    assert (found.always_first.value, found.always_last.value, found.always_last.n) == (1 / 4, 3 / 4, 4)
    assert (found.best_constant_position, found.best_constant.value) == (3, 2 / 4)
    assert (found.n_raters, found.max_groups_per_rater, found.rater_unique_per_group) == (2, 3, False)
    assert (found.repeated_prompt_groups, found.prompts_shared_with_other) == (2, 2)
    assert (found.words_mean, found.words_median, found.words_max, found.empty_prompts) == (2.0, 2.0, 4, 1)
    assert found.contain_name_share == 0.25
    assert found.prompts_over_context is None and found.images_absent is None and found.first_absent is None
    text = str(found)
    assert "no tokenizer was given" in text and "no root folder was given" in text
    assert "Always the last image: 75.0% (3 of 4; 95% interval 30.1% to 95.4%)." in text
    assert "4 groups with 14 images (1 of 2, 3 of 4); a blind guess is right 31.2% of the time." in text


def test_audit_wilson_interval_by_the_formula() -> None:
    share = audit(small_set()).always_last
    z, n, p = 1.959963984540054, 4, 0.75
    centre, half = (p + z * z / (2 * n)), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert share.low == pytest.approx((centre - half) / (1 + z * z / n))
    assert share.high == pytest.approx((centre + half) / (1 + z * z / n))


def test_audit_is_ready_for_json() -> None:
    found = audit(small_set())
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False)) == found.to_dict()
    assert found.to_dict()["position_counts"] == {"2": [0, 1], "4": [1, 0, 0, 2]}
    share = found.to_dict()["always_last"]
    assert list(share) == ["hits", "total", "share", "low", "high"] and list(share.values())[:3] == [3, 4, 0.75]


def test_audit_does_not_depend_on_the_order_of_rows(rng: np.random.Generator) -> None:
    data = prompts_with_repeats(rng)
    assert audit(data.select(rng.permutation(len(data)))) == audit(data)


def test_audit_counts_long_prompts_and_absent_files(tmp_path: Path) -> None:
    found = audit(
        small_set(), tokenizer=lambda text: [0, *range(len(text.split())), 1], context_length=5, root=tmp_path
    )
    assert found.prompts_over_context == 1, "4 words and 2 marks are 6 tokens"
    assert audit(small_set(), tokenizer=lambda text: [0] * 6, context_length=6).prompts_over_context == 0
    assert (found.images_absent, found.first_absent) == (14, "images/0_0.png")
    assert "Prompts over 5 tokens, so cut off at the end: 1." in str(found)
    assert "14 of 14 images are absent" in str(found)
    embedded = dataset([group(k, images=[{"bytes": png(), "path": None}] * 2) for k in range(2)])
    assert audit(embedded).images_absent == 0


@pytest.mark.parametrize("tokens", [np.zeros((1, 77), int), {"input_ids": [1]}, [[1, 2]], "text"])
def test_audit_refuses_tokenizers_whose_length_is_a_wrong_answer(tokens: Any) -> None:
    with pytest.raises(ValueError, match="neither padded nor cut off"):
        audit(small_set(), tokenizer=lambda text: tokens)


def test_audit_refuses_a_malformed_dataset() -> None:
    with pytest.raises(ValueError, match=r"row 0 .* human_preference is 9"):
        audit(dataset([group(0, choice=9)]))


def test_audit_of_hpd_v1_agrees_with_counts_from_the_json() -> None:
    if not SAMPLE.exists():
        pytest.skip("the HPD v1 sample is not beside this checkout")
    entries = json.loads(SAMPLE.read_text())
    rows = copy.deepcopy(entries)
    for row in rows:
        row.update(
            id=str(row["id"]), images=[{"bytes": None, "path": path} for path in row.pop("file_path")], source="hpd_v1"
        )
    found = audit(dataset(rows), root=SAMPLE.parent)
    sizes = [len(entry["file_path"]) for entry in entries]
    prompts = Counter(" ".join(entry["prompt"].lower().split()) for entry in entries)
    words = [len(entry["prompt"].split()) for entry in entries]
    assert found.n_groups == len(entries) == 400
    assert found.n_images == found.images_absent == sum(sizes)
    assert found.group_sizes == dict(Counter(sizes))
    assert found.chance_top1 == pytest.approx(mean(1 / n for n in sizes))
    assert found.to_dict()["always_last"]["hits"] == sum(
        e["human_preference"] == len(e["file_path"]) - 1 for e in entries
    )
    assert found.always_last.low > found.chance_top1, "the released file's position bias"
    assert found.position_counts[4] == [
        sum((n, e["human_preference"]) == (4, k) for n, e in zip(sizes, entries)) for k in range(4)
    ]
    assert found.rater_unique_per_group and found.n_raters == 400
    assert found.repeated_prompt_groups == sum(count for count in prompts.values() if count > 1)
    assert (found.words_mean, found.words_median, found.words_max) == (mean(words), median(words), max(words))
    assert found.contain_name_share == mean(entry["contain_name"] for entry in entries)
    assert found.first_absent == entries[0]["file_path"][0]


def test_an_audits_shares_say_their_confidence() -> None:
    share = audit(small_set()).always_last
    assert share.confidence == 0.95 and share.low < share.value < share.high


def test_positions_are_told_as_shares_with_their_interval() -> None:
    """The share of the last of four places in the released test file, 31.1 %, comes with how sure it is."""
    chosen = [700, 1100, 1463, 1474]
    rows = [group(k, n=4, choice=place) for place, times in enumerate(chosen) for k in range(times)]
    rows = [{**row, "id": str(k), "prompt": "critter", "user_hash": ""} for k, row in enumerate(rows)]
    found = audit(dataset([*rows, group(9_999, n=2, choice=1)]))
    for place, times in enumerate(chosen):
        share = found.position_shares[4][place]
        expected = binomtest(times, 4737).proportion_ci(method="wilson")
        assert (share.value, share.low, share.high) == pytest.approx((times / 4737, expected.low, expected.high))
    text = str(found)
    assert "700, 1,100, 1,463, 1,474 times" in text and "30.9 % [29.6, 32.2]; 31.1 % [29.8, 32.5]." in text
    assert "0.0 % [0.0, 79.3]; 100.0 % [20.7, 100.0]." in text, "one group of two"
    told = found.to_dict()["position_shares"]["4"][3]
    assert (told["hits"], told["total"]) == (1474, 4737)


def test_a_prompt_of_the_whole_context_is_not_cut_off_unless_told_of_a_shorter_one() -> None:
    counted = [audit(small_set(), tokenizer=lambda text, n=n: [0] * n) for n in (77, 78)]
    assert [found.prompts_over_context for found in counted] == [0, 4] and counted[0].context_length == 77


def test_a_set_with_some_loose_images_is_not_called_complete(tmp_path: Path) -> None:
    """One image of its own beside embedded ones: without a root nobody has looked for it."""
    mixed = [{"bytes": png(), "path": None}, {"bytes": None, "path": "gone.png"}]
    rows = dataset([group(0, images=[{"bytes": png(), "path": None}] * 2), group(1, images=mixed)])
    assert audit(rows).images_absent is None
    assert (audit(rows, root=tmp_path).images_absent, audit(rows, root=tmp_path).first_absent) == (1, "gone.png")


def test_blind_guesses_and_shared_prompts_by_hand() -> None:
    guess = blind_guess([2, 3, 4])
    assert guess.top1 == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3) and guess.loss == pytest.approx(np.log(24) / 3)
    with pytest.raises(ValueError, match="sizes is no list of the groups' sizes"):
        blind_guess([])
    assert shared_prompts(["A  Cat", "a dog", "a cat "], ["a cat", "a cow"]) == 2 and shared_prompts([], ["x"]) == 0
