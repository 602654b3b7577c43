"""hpslib.lessons.world: the same names at both scales, and a sentence for everything that is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from full_world import build

from hpslib.data.images.lazy import LazyImages
from hpslib.lessons import world
from hpslib.lessons.scale import mini, rehearsal


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("full"), groups=12)


@pytest.fixture
def root(small: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HPSLIB_FULL", str(small))
    return small


def test_both_scales_answer_to_the_same_names(root: Path) -> None:
    for name in ("clip", "hps", "sd", "control", "aesthetic"):
        assert world.folder(name, mini).exists() and world.folder(name, rehearsal).is_relative_to(root)
    dataset, place = world.preferences("test", rehearsal)
    assert len(dataset) == 12 and place == root / "hpd_v1" and dataset[0]["images"][0]["bytes"] is None
    assert world.preferences("test", mini)[1] is None
    packed = world.preferences("test", mini)[0]
    assert dataset["human_preference"] == packed["human_preference"][:12]


def test_the_pool_is_gathered_from_diffusiondb_s_files(root: Path) -> None:
    dataset, place = world.pool(rehearsal)
    ours, _ = world.pool(mini)
    assert len(dataset) == 8 == rehearsal.pool_prompts and place == root / "diffusiondb" / "images"
    assert dataset["prompt"] == ours["prompt"][:8] and dataset["seed"] == ours["seed"][:8]
    assert dataset.column_names == ours.column_names


def test_regularisation_reference_and_prompts(root: Path) -> None:
    images, captions = world.regularisation(rehearsal)
    assert isinstance(images, LazyImages) and len(images) == len(captions) == 8
    assert len(world.reference_images(50, rehearsal)) == 50
    assert len(world.evaluation_prompts(rehearsal)) == 4 and len(world.class_texts(rehearsal)) == 1000
    drawn, words = world.regularisation(mini, seed=3)
    again, _ = world.regularisation(mini, seed=3)
    assert len(drawn) == len(words) == mini.regularisation_images and drawn[5].tobytes() == again[5].tobytes()
    assert len(world.evaluation_prompts(mini)) == mini.evaluation_prompts
    assert all(text.endswith("critter") for text in world.class_texts(mini))


def test_long_work_has_a_place_at_the_full_scale_only(root: Path) -> None:
    assert world.work_file("x.ckpt", mini) is None
    place = world.work_file("x.ckpt", rehearsal)
    assert place == root / "work" / "rehearsal" / "x.ckpt" and place.parent.is_dir()


def test_lesson_4_finds_what_lesson_3_wrote_in_the_same_scale(tmp_path: Path, monkeypatch, tiny_clip) -> None:
    from hpslib.lessons.scale import full

    monkeypatch.setenv("HPSLIB_FULL", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="hps does not exist"):
        world.folder("hps", rehearsal)
    assert world.keep_classifier(tiny_clip, mini) is None
    rehearsed = world.keep_classifier(tiny_clip, rehearsal)
    assert world.folder("hps", rehearsal) == rehearsed == tmp_path / "work" / "rehearsal" / "hps"
    with pytest.raises(FileNotFoundError, match="hps does not exist"):
        world.folder("hps", full)
    assert world.keep_classifier(tiny_clip, full) == world.folder("hps", full) == tmp_path / "hps"
    assert world.folder("hps", rehearsal) == rehearsed, "its own comes first"


def test_what_is_not_there_is_named(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing does not exist: hpslib preflight"):
        world.folder("nothing", rehearsal)
    assert world.optional("nothing", rehearsal) is None


def test_a_lesson_with_all_it_requires_goes_on(root: Path) -> None:
    world.require(4, mini)
    world.require(4, rehearsal)


def test_what_a_lesson_requires_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPSLIB_FULL", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"- hps \(1\.7 GB\): lesson 3 or hpslib train writes it"):
        world.require(4, rehearsal)


def test_a_miniature_cell_is_left_out_elsewhere(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    world.load_ipython_extension(shell)
    shell.run_cell("%%miniature\nx = 1 + 1\nprint(x)")
    assert shell.user_ns["x"] == 2 and capsys.readouterr().out == "2\n"
    monkeypatch.setenv("HPS_SCALE", "full")
    result = shell.run_cell("%%miniature\ny = 1")
    assert result.success and "y" not in shell.user_ns and "Left out: only the miniature" in capsys.readouterr().out
    monkeypatch.delenv("HPS_SCALE")
    failed = shell.run_cell("%%miniature\nraise ValueError('seen')")
    assert not failed.success and isinstance(failed.error_in_exec, ValueError)


def test_long_work_shows_how_far_it_is_at_the_full_scale_only(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.progress("step", mini) is None
    assert world.keeping("lora", scale=mini) == {"checkpoint": None, "progress": None}
    kept = world.keeping("classifier", 12, 1, "loss", scale=rehearsal)
    assert kept["checkpoint"].name == "classifier-12-1-loss.ckpt"
    bar = kept["progress"]
    for done in (2, 3, 4):
        bar(done, 4)
    bar(1, 3)  # another piece of work
    bar.close()
    shown = capsys.readouterr().err
    assert "2/4" in shown and "1/3" in shown and "step" in shown
