from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from full_world import write_diffusiondb
from PIL import Image

from hpslib.adaptation.selection import IDENTIFIER, choose, find_images, identified_caption, read_selection, select
from hpslib.data.groups import flatten_groups
from hpslib.data.images.blur import is_blurry
from hpslib.data.pools.diffusiondb import read_diffusiondb


def by_the_book(scores, threshold: float, min_group: int, temperature: float):
    """The rule as the paper says it, image by image."""
    preferred, rejected, start, small, neither = [], [], 0, 0, 0
    for group in scores:
        n, before = len(group), len(preferred) + len(rejected)
        if n < min_group:
            small += 1
        else:
            up = [math.exp(s / temperature) for s in group]
            down = [math.exp(-s / temperature) for s in group]
            preferred += [start + k for k in range(n) if group[k] == max(group) and up[k] / sum(up) > threshold / n]
            rejected += [start + k for k in range(n) if group[k] == min(group) and down[k] / sum(down) > threshold / n]
            neither += len(preferred) + len(rejected) == before
        start += n
    return preferred, rejected, small, neither


@pytest.mark.parametrize(("threshold", "min_group", "temperature"), [(2, 4, 1), (2, 3, 0.5), (1.5, 2, 2), (3, 4, 1)])
def test_select_is_the_rule_of_the_paper(rng, threshold: float, min_group: int, temperature: float) -> None:
    scores = [rng.normal(20, 1, size=rng.integers(1, 8)).tolist() for _ in range(300)]
    chosen = select(scores, threshold=threshold, min_group=min_group, temperature=temperature)
    expected = by_the_book(scores, threshold, min_group, temperature)
    assert expected[0] and expected[1]  # otherwise nothing was compared
    assert (chosen.preferred.tolist(), chosen.non_preferred.tolist(), chosen.too_small, chosen.neither) == expected
    assert chosen.groups == 300


def test_a_shift_of_a_group_changes_nothing(rng) -> None:
    scores = rng.normal(20, 2, size=(50, 4))
    moved = select(scores + rng.normal(0, 100, size=(50, 1)))
    assert moved.preferred.tolist() == select(scores).preferred.tolist() != []


def test_negated_scores_swap_the_roles(rng) -> None:
    scores = rng.normal(0, 2, size=(50, 4))
    assert select(-scores).preferred.tolist() == select(scores).non_preferred.tolist() != []


def test_a_group_of_two_never_passes_two_over_n() -> None:
    chosen = select([[0.0, 1000.0]], min_group=2)
    assert (len(chosen.preferred), len(chosen.non_preferred), chosen.neither) == (0, 0, 1)


def test_equal_images_give_nothing_and_huge_scores_do_not_overflow() -> None:
    assert select([[5.0] * 4]).neither == 1
    assert select([[1e6, 0.0, 0.0, -1e6]]).preferred.tolist() == [0]


def test_the_counts_are_said() -> None:
    text = str(select([[0, 0, 0, 9], [1, 1, 1, 1], [1, 2]]))
    assert text == ("3 groups: 1 preferred and 0 non-preferred images; 1 groups gave neither, 1 were too small.")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_named(bad: float) -> None:
    with pytest.raises(ValueError, match="group 1 holds a score that is not a number"):
        select([[1, 2, 3, 4], [1, bad, 3, 4]])


def test_a_threshold_everybody_passes_is_refused() -> None:
    with pytest.raises(ValueError, match="threshold is 1: at 1 or below every group passes"):
        select([[1, 2, 3, 4]], threshold=1)


@pytest.mark.parametrize("temperature", [0, -1])
def test_a_temperature_that_turns_the_order_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature is {temperature}: it divides the scores"):
        select([[1, 2, 3, 4]], temperature=temperature)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": math.nan}, "threshold is nan: at 1 or below"),
        ({"threshold": math.inf}, "threshold is inf: at 1 or below"),
        ({"temperature": math.nan}, "temperature is nan: it divides the scores"),
        ({"temperature": math.inf}, "temperature is inf: it divides the scores"),
        ({"min_group": 0}, "min_group is 0: give the fewest images of a group, 1 or more"),
        ({"min_group": math.nan}, "min_group is nan"),
    ],
)
def test_a_setting_that_is_no_number_is_refused(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select([[1, 2, 3, 4]], **options)


def test_cosines_are_refused_with_the_remedy_and_chosen_from_once_it_is_followed(rng) -> None:
    cosines = rng.normal(0.27, 0.02, size=(40, 4))
    for given, more in ((cosines, {}), (-cosines, {}), (cosines, {"threshold": 1.01}), (cosines * 3, {})):
        with pytest.raises(ValueError, match=r"^all scores lie in -1..1 and differ by at most 0\.\d+ within a"):
            select(given, **more)
    with pytest.raises(ValueError, match=r"multiply them by 100, or choose a temperature of 0\.01"):
        select(cosines)
    right = select(cosines, temperature=0.01)
    assert right.preferred.tolist() == select(100 * cosines).preferred.tolist() != []


def test_small_rewards_and_equal_scores_are_no_cosines() -> None:
    assert select([[0.9, -0.9, -0.9, -0.9]]).preferred.tolist() == [0], "an ImageReward may lie in -1..1"
    assert select([[0.3] * 4]).neither == 1 and select([[0.3, 0.31]]).too_small == 1 and select([]).groups == 0
    assert select([[0.2, 0.3, 0.2, 0.2], [20, 20, 20, 29]]).preferred.tolist() == [7]


def test_the_identifier_keeps_its_trailing_space() -> None:
    assert IDENTIFIER == "Weird image. " and identified_caption("a dog") == "Weird image. a dog"


def test_sharp_edges_in_either_direction_are_not_blurry() -> None:
    stripes = np.zeros((16, 16), dtype=np.uint8)
    stripes[:, 8:] = 200
    assert not is_blurry(Image.fromarray(stripes)) and not is_blurry(Image.fromarray(stripes.T))
    assert not is_blurry(Image.fromarray(stripes[:, ::-1]))  # a falling edge counts like a rising one
    ramp = np.tile(np.arange(0, 160, 10, dtype=np.uint8), (16, 1))
    assert is_blurry(Image.fromarray(ramp)) and not is_blurry(Image.fromarray(ramp), threshold=9)


# --- keyed by id and name ---------------------------------------------------------------------------------------------


@pytest.fixture
def scored(rng) -> pd.DataFrame:
    """Two hundred groups; a tenth of the pictures is blurred, and one group altogether."""
    sizes = rng.integers(2, 8, size=200)
    rows = [
        {"id": f"g{k:03d}", "name": f"{j}.png", "prompt": f"prompt {k}", "score": float(rng.normal(20, 1)),
         "blurred": bool(rng.random() < 0.1) or k == 7}
        for k, n in enumerate(sizes) for j in range(n)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_choosing_is_the_rule_whatever_the_order(scored: pd.DataFrame) -> None:
    expected, too_small = set(), 0
    for name, group in scored.groupby("id"):  # the rule as the paper says it, group by group
        left = {row.name: row.score for row in group[~group.blurred][["name", "score"]].itertuples(index=False)}
        too_small += len(left) < 4
        for good, sign in ((True, 1), (False, -1)) if len(left) >= 4 else ():
            weights = {key: math.exp(sign * value) for key, value in left.items()}
            best = max(weights, key=weights.__getitem__)
            if weights[best] / sum(weights.values()) > 2 / len(left):
                expected.add((name, best, good))
    for given in (scored, scored.sample(frac=1, random_state=0)):
        chosen = choose(given, negative_share=1.0)
        assert {(row.id, row.name, row.preferred) for row in chosen.rows.itertuples(index=False)} == expected
    assert {good for *_, good in expected} == {True, False} and chosen.blurred == scored.blurred.sum() > 0
    assert chosen.counts.groups == 200 and chosen.counts.too_small == too_small, "a wholly blurred group counts too"
    assert choose(scored, negative_share=1.0, keep_blurred=True).blurred == 0
    known = scored.set_index(["id", "name"])
    for row in chosen.rows.itertuples(index=False):
        assert (row.prompt, row.score) == tuple(known.loc[(row.id, row.name), ["prompt", "score"]])
        assert row.caption == ("" if row.preferred else "Weird image. ") + row.prompt


def test_half_of_the_negatives_are_kept_by_lot(scored: pd.DataFrame) -> None:
    every = choose(scored, negative_share=1.0).rows
    half, again, other = (choose(scored, seed=seed) for seed in (0, 0, 1))
    assert half.rows.equals(again.rows) and not half.rows.equals(other.rows)
    negatives = len(every) - every.preferred.sum()
    kept = len(half.rows) - half.rows.preferred.sum()
    assert kept == round(negatives / 2) and half.left_out == negatives - kept > 5
    assert half.rows.preferred.sum() == every.preferred.sum(), "preferred images are all kept"
    assert set(half.rows.id[~half.rows.preferred]) <= set(every.id[~every.preferred])
    assert str(half).endswith(f"{negatives - kept} non-preferred images were left out by lot, {kept} kept.")


def test_what_cannot_be_chosen_from_is_refused(scored: pd.DataFrame) -> None:
    sentences = {
        "the scores have no column name, prompt: hand over a table": scored.drop(columns=["name", "prompt"]),
        "the scores do not say which images are blurred: score with blur": scored.drop(columns=["blurred"]),
        "the image '0.png' of the group 'g000' stands there twice (1 such": pd.concat([scored, scored[:1]]),
        "the image '1.png' of the group 'g000' has a score that is not a": scored.assign(
            score=scored.score.where(scored.index != 1)
        ),
        "the image '0.png' of the group 'g000' is in a group with two prompts": scored.assign(
            prompt=scored.prompt.where(scored.index != 1, "other")
        ),
        "the image '1.png' of the group 'g000' has no prompt that is text (1 such": scored.assign(
            prompt=scored.prompt.where(scored.index != 1, math.nan)
        ),
        "the image '1.png' of the group 'g000' has no prompt that is text (2 such": scored.assign(
            prompt=scored.prompt.where(scored.index > 2, " ").where(scored.index != 0, "prompt 0")
        ),
        "the image nan of the group 'g000' has no name that is text": scored.assign(
            name=scored.name.where(scored.index != 1, None)
        ),
        "the image '0.png' of the group nan has no id that is text": scored.assign(
            id=scored.id.where(scored.index != 0, math.nan)
        ),
        "the image '0.png' of the group 'g000' has a score that is not a number (": scored.assign(
            score=scored.score.astype(str)
        ),
        "the image '1.png' of the group 'g000' does not say whether it is blurred": scored.assign(
            blurred=scored.blurred.astype(object).where(scored.index != 1, None)
        ),
        "the image '0.png' of the group 'g000' does not say whether it is blurred": scored.assign(
            blurred=scored.blurred.astype(str)
        ),
    }
    for told, given in sentences.items():
        pattern = re.escape(told).replace("nan", "(nan|None)")  # pandas 3 and pandas 2
        with pytest.raises(ValueError, match=f"^{pattern}"):
            choose(given)
    with pytest.raises(ValueError, match=r"^negative_share is 1\.5: give a share from 0 to 1"):
        choose(scored, negative_share=1.5)
    nothing = choose(scored[:1])
    assert len(nothing.rows) == 0 and list(nothing.rows.columns)[:2] == ["id", "name"]


def test_a_selection_finds_its_pictures_in_another_reading_of_the_pool(tmp_path: Path, rng) -> None:
    write_diffusiondb(tmp_path / "ddb", pictures=24)
    metadata, folder = tmp_path / "ddb" / "metadata-large.parquet", tmp_path / "ddb" / "images"
    whole, _ = read_diffusiondb(metadata, folder, parts=[1, 2])
    images, prompts, sizes = flatten_groups(whole, folder)
    ids = [name for name, n in zip(whole["id"], sizes) for _ in range(n)]
    names = images.names(range(len(images)))
    rows = pd.DataFrame({"id": ids, "name": names, "prompt": prompts}).sample(frac=0.5, random_state=1)
    expected = [images[row].tobytes() for row in rows.index]
    turned = whole.select(range(len(whole))[::-1]).map(
        lambda row: {"images": row["images"][::-1]}, features=whole.features
    )
    for pool in (whole, turned):
        assert [image.tobytes() for image in find_images(rows, pool, folder)] == expected
    first = whole.select(range(1, len(whole)))
    gone = rows[rows.id == whole["id"][0]]
    assert len(gone)
    name, group = gone["name"].iloc[0], gone["id"].iloc[0]
    told = rf"^the pool has no image '{name}' in a group '{group}' .* \({len(gone)} of {len(rows)} are absent"
    with pytest.raises(ValueError, match=told):
        find_images(rows, first, folder)
    with pytest.raises(ValueError, match="with the prompt of the selection"):
        find_images(rows.assign(prompt="another"), whole, folder)


def test_a_file_that_is_no_selection_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="name the file that hpslib select wrote"):
        read_selection(tmp_path / "none.parquet")
    pd.DataFrame({"id": ["a"], "image": [0]}).to_parquet(tmp_path / "old.parquet")
    with pytest.raises(ValueError, match="lacks the column name, prompt, caption, preferred, score: name the file"):
        read_selection(tmp_path / "old.parquet")


def test_a_selection_without_its_texts_is_refused(tmp_path: Path) -> None:
    row = {"id": "a", "name": "1.png", "prompt": "a dog", "caption": "a dog", "preferred": True, "score": 20.0}
    for column in ("id", "name", "prompt", "caption"):
        pd.DataFrame([row, {**row, column: None}]).to_parquet(tmp_path / "s.parquet")
        with pytest.raises(
            ValueError, match=rf"row 1 \(from 0\) has the {column} (nan|None), which is no text \(1 such"
        ):
            read_selection(tmp_path / "s.parquet")


def test_a_selection_whose_text_is_no_utf8_is_named(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    raw = pa.array([b"\xff\xfe"])
    broken = pa.StringArray.from_buffers(1, raw.buffers()[1], raw.buffers()[2])
    columns = {"id": ["g"], "name": ["a"], "prompt": broken, "caption": ["p"], "preferred": [True], "score": [20.0]}
    pq.write_table(pa.table(columns), tmp_path / "s.parquet")
    with pytest.raises(ValueError, match=r"s\.parquet is damaged .*: run hpslib select again\."):
        read_selection(tmp_path / "s.parquet")
