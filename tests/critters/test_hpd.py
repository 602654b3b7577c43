"""hpslib.critters.hpd: prompts, choices and the set's three files, with drawings in place of mini-SD's images."""

from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import pytest
import torch

from hpslib.critters import hpd
from hpslib.critters.attributes import FLAW_DETAILS
from hpslib.critters.captions import ARTISTS, read_caption
from hpslib.critters.eyes import Eye, save_eye
from hpslib.critters.hpd import build_hpd, drawn_images, generate_images, make_prompts, simulate_choices
from hpslib.critters.raters import population


@pytest.fixture
def eye() -> Eye:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Eye(2).eval()


def test_doctests() -> None:
    result = doctest.testmod(hpd)
    assert result.attempted >= 1 and result.failed == 0


def test_prompts_are_distinct_legible_and_avoid_the_taken() -> None:
    prompts = make_prompts(400, seed=1)
    assert prompts == make_prompts(400, seed=1) and len(set(prompts)) == 400
    assert prompts != make_prompts(400, seed=2)
    again = make_prompts(400, seed=1, avoid=prompts[:50])
    assert again[:350] == prompts[50:] and len(set(again)) == 400
    for prompt in prompts:
        read_caption(prompt)


def test_no_prompt_mentions_a_flaw_or_the_body() -> None:
    words = [text for texts in FLAW_DETAILS.values() for text in texts]
    words += ["arm", "leg", "eye", "mouth", "in its place", "well drawn", "weird"]
    assert not [p for p in make_prompts(1000, seed=3) if any(word in p for word in words)]


def test_drawings_fit_their_prompts_and_depend_on_the_seed() -> None:
    prompts = make_prompts(6, seed=0)
    pictures = drawn_images(prompts, seed=1)
    assert pictures.shape == (6, 64, 64, 3) and pictures.dtype == np.uint8
    assert np.array_equal(pictures, drawn_images(prompts, seed=1))
    assert np.array_equal(pictures[:3], drawn_images(prompts[:3], seed=1))
    assert all((one != two).any() for one, two in zip(pictures, drawn_images(prompts, seed=2), strict=True))


def test_two_different_raters_choose_in_each_group(eye: Eye) -> None:
    sizes = [4, 2, 3, 2] * 5
    prompts = [text for text, n in zip(make_prompts(20, 0), sizes, strict=True) for _ in range(n)]
    images = drawn_images(prompts, 1)
    raters = population(5, seed=0)
    made = simulate_choices(eye, images, prompts, raters, seed=2)
    assert len(made) == 20 and made == simulate_choices(eye, images, prompts, raters, seed=2)
    assert made != simulate_choices(eye, images, prompts, raters, seed=3)
    names = {rater.name for rater in raters}
    for size, (first, second, one, two) in zip(sizes, made, strict=True):
        assert 0 <= first < size and 0 <= second < size and one != two and {one, two} <= names
    assert len({name for row in made for name in row[2:]}) == 5, "everybody has a turn"


def test_the_last_place_has_its_bonus(eye: Eye) -> None:
    prompts = [text for text in make_prompts(10, 0) for _ in range(3)]
    images = drawn_images(prompts, 1)
    raters = population(4, seed=0)
    assert all(row[:2] == (2, 2) for row in simulate_choices(eye, images, prompts, raters, 2, last_bonus=1e3))
    never = simulate_choices(eye, images, prompts, raters, 2, last_bonus=-1e3)
    assert not any(2 in row[:2] for row in never)


def test_each_image_needs_its_prompt(eye: Eye) -> None:
    prompts = make_prompts(2, 0)
    with pytest.raises(ValueError, match="2 prompts but 3 images"):
        simulate_choices(eye, drawn_images([*prompts, prompts[0]], 0), prompts, population(3, 0), 0)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A little set with drawings for mini-SD's images; the seeds that were asked for, in order."""
    seeds: list[int] = []

    def drawn(pipe: None, prompts: list[str], chosen: list[int], **settings: object) -> np.ndarray:
        seeds.extend(chosen)
        return np.concatenate([drawn_images([text], seed) for text, seed in zip(prompts, chosen, strict=True)])

    monkeypatch.setattr(hpd, "GROUPS", {"train": 8, "test": 5})
    monkeypatch.setattr(hpd, "PAIRS", 6)
    monkeypatch.setattr(hpd, "POOL", 3)
    monkeypatch.setattr(hpd, "load_pipeline", lambda folder: None)
    monkeypatch.setattr(hpd, "sha256", lambda path: "0" * 64)  # there is no model; its hash only names cache files
    monkeypatch.setattr(hpd, "generate", drawn)
    return seeds


def test_interrupted_or_begun_from_both_ends_the_pictures_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[int]
) -> None:
    folders = [tmp_path / name for name in ("whole", "killed", "backwards")]
    for folder in folders:
        folder.mkdir()
    whole = generate_images(tmp_path, folders[0], steps=2, guidance_scale=3.0)
    asked = list(made)
    assert len(set(asked)) == len(asked) == sum(map(len, whole.values())), "no two images share their noise"
    real = hpd.generate

    def killed(pipe: None, prompts: list[str], seeds: list[int], **settings: object) -> np.ndarray:
        if seeds[0] >= 2_000_000:
            raise KeyboardInterrupt
        return real(pipe, prompts, seeds, **settings)

    monkeypatch.setattr(hpd, "generate", killed)
    with pytest.raises(KeyboardInterrupt):
        generate_images(tmp_path, folders[1], steps=2, guidance_scale=3.0)
    monkeypatch.setattr(hpd, "generate", real)
    made.clear()
    continued = generate_images(tmp_path, folders[1], steps=2, guidance_scale=3.0)
    assert made == [seed for seed in asked if seed >= 2_000_000], "what was there is not made again"
    backwards = generate_images(tmp_path, folders[2], steps=2, guidance_scale=3.0, backwards=True)
    for split in whole:
        assert np.array_equal(whole[split], continued[split]) and np.array_equal(whole[split], backwards[split])


def test_the_set_is_written_as_the_real_one_is_read(tmp_path: Path, made: list[int], eye: Eye) -> None:
    from hpslib.data.pools.pool import read_pool
    from hpslib.data.preferences import load_images
    from hpslib.data.releases.hpd_v1 import read_hpd

    (tmp_path / "eyes").mkdir()
    (tmp_path / "cache").mkdir()
    save_eye(eye, tmp_path / "eyes" / "eye_a.safetensors")
    build_hpd(tmp_path, tmp_path / "cache", steps=2, guidance_scale=3.0)
    parts = {name: read_hpd(tmp_path / "hpd_mini" / f"{name}.parquet") for name in ("train", "test", "other")}
    assert {name: len(part) for name, part in parts.items()} == {"train": 8, "test": 5, "other": 6}
    pool = read_pool(tmp_path / "diffusiondb_mini.parquet")
    assert [len(images) for images in pool["images"]] == [4, 4, 4], "nobody chose among these"
    prompts = [prompt for part in [*parts.values(), pool] for prompt in part["prompt"]]
    assert len(set(prompts)) == len(prompts), "no prompt stands in two parts"
    for name, part in parts.items():
        for row in part:
            pictures = load_images(row)
            assert 2 <= len(pictures) <= 4 and all(p.size == (64, 64) for p in pictures)
            assert 0 <= row["human_preference"] < len(pictures) > row["second_preference"] >= 0
            assert row["user_hash"] != row["second_user_hash"]
            assert row["contain_name"] == any(artist in row["prompt"] for artist in ARTISTS)
            assert row["source"] == ("other_generator" if name == "other" else "hpd_mini")
    assert {len(row["images"]) for row in parts["other"]} == {2}


def test_pictures_stand_with_their_own_group() -> None:
    images = [bytes([k]) for k in range(5)]
    rows = hpd._rows("t", images, ["a", "a", "b", "b", "b"], [(1, 0, "r", "s"), (2, 2, "s", "r")], "x")
    assert [[item["bytes"][0] for item in row["images"]] for row in rows] == [[0, 1], [2, 3, 4]]
    assert [(row["id"], row["human_preference"], row["second_preference"]) for row in rows] == [
        ("t00000", 1, 0), ("t00001", 2, 2),
    ]  # fmt: skip
    with pytest.raises(ValueError):
        hpd._rows("t", images, ["a", "a", "b", "b", "b"], [(1, 0, "r", "s")], "x")


def test_compressed_pictures_are_what_everybody_sees() -> None:
    picture = drawn_images(make_prompts(1, 0), 0)
    (seen,) = hpd._decoded([hpd._encode(picture[0])])
    error = np.abs(seen.astype(int) - picture[0])
    assert seen.shape == (64, 64, 3) and 0 < error.mean() < 8
    assert len(hpd._encode(picture[0])) < 5000
