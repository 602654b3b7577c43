"""hpslib.critters.build.bank: picture i depends on (seed, i) alone, so an interrupted bank is the same bank."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hpslib.critters.attributes import ATTRIBUTES, FLAWS, random_critter
from hpslib.critters.build import bank
from hpslib.critters.build.bank import (
    FLAW_RATE,
    attribute_labels,
    bank_captions,
    bank_critters,
    flaw_labels,
    render_bank,
)
from hpslib.critters.captions import read_caption
from hpslib.critters.draw import draw


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank, "_CHUNK", 8)


def test_each_picture_is_drawn_from_seed_and_index(tmp_path: Path) -> None:
    pictures = render_bank(tmp_path, 20, seed=5, workers=1)
    assert pictures.shape == (20, 64, 64, 3) and pictures.dtype == np.uint8
    for index in (0, 7, 8, 19):
        rng = np.random.default_rng([5, index])
        np.testing.assert_array_equal(pictures[index], np.asarray(draw(random_critter(rng, FLAW_RATE), rng)))


def test_a_longer_bank_begins_with_the_shorter_one_and_another_seed_differs(tmp_path: Path) -> None:
    short, long = render_bank(tmp_path, 9, seed=1, workers=1), render_bank(tmp_path, 18, seed=1, workers=2)
    np.testing.assert_array_equal(short, long[:9])
    other = render_bank(tmp_path, 9, seed=2, workers=1)
    assert all(np.any(one != two) for one, two in zip(short, other, strict=True))


def test_a_bank_that_lost_a_chunk_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    never = np.array(render_bank(tmp_path / "never", 20, seed=3, workers=1))
    folder = tmp_path / "killed" / "bank-3-20"
    folder.mkdir(parents=True)
    bank._render_chunk(folder, 3, 0, 8)
    bank._render_chunk(folder, 3, 16, 20)
    (folder / ".0000008.npy.1a2b3c4d.partial").write_bytes(b"half a chunk")  # what a kill leaves behind
    kept = (folder / "0000000.npy").stat().st_mtime_ns

    drawn: list[int] = []
    real = bank._render_chunk

    class Inline:
        """A process pool without processes, so that the test sees what is drawn again."""

        def __init__(self, workers: int) -> None: ...
        def __enter__(self) -> Inline:
            return self

        def __exit__(self, *exception: object) -> None: ...
        def submit(self, task, target: Path, seed: int, start: int, stop: int) -> Inline:
            if not (target / f"{start:07d}.npy").exists():
                drawn.append(start)
            else:
                assert (target / "0000000.npy").stat().st_mtime_ns == kept
            real(target, seed, start, stop)
            return self

        def result(self) -> None: ...

    monkeypatch.setattr(bank, "ProcessPoolExecutor", Inline)
    continued = render_bank(tmp_path / "killed", 20, seed=3)
    assert drawn == [8]
    np.testing.assert_array_equal(continued, never)
    shown = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    assert shown == ["all.npy"], "no chunk stays, and what a kill left behind plays no part"


def test_a_finished_bank_is_read_not_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = np.array(render_bank(tmp_path, 5, seed=0, workers=1))
    monkeypatch.setattr(bank, "ProcessPoolExecutor", None)  # would raise when called
    again = render_bank(tmp_path, 5, seed=0)
    np.testing.assert_array_equal(first, again)
    assert isinstance(again, np.memmap)


def test_labels_and_captions_tell_of_the_pictures_in_order() -> None:
    critters = bank_critters(50, seed=4)
    assert critters[:10] == bank_critters(10, seed=4)
    attributes, flaws = attribute_labels(critters), flaw_labels(critters)
    assert attributes.shape == (50, 5) and attributes.dtype == np.int64
    assert flaws.shape == (50, 6) and flaws.dtype == np.float32
    texts = bank_captions(critters, seed=9, body_rate=0.0)
    for critter, row, wrong, text in zip(critters, attributes, flaws, texts, strict=True):
        read = {name: values[k] for (name, values), k in zip(ATTRIBUTES.items(), row, strict=True)}
        assert read == read_caption(text)
        assert tuple(sorted(FLAWS[k] for k in np.nonzero(wrong)[0])) == critter.flaws
    assert texts == bank_captions(critters, seed=9, body_rate=0.0)
    assert texts != bank_captions(critters, seed=10, body_rate=0.0)
