"""hpslib.adaptation.latents by way of encode_examples: images come and go, are bad, and what is encoded stays."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hpslib.adaptation import examples as module
from hpslib.adaptation.examples import Examples, encode_examples
from hpslib.data.images.lazy import as_images
from hpslib.runs.files import sha256

COUNT = 7


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(COUNT):
        pixels = rng.integers(0, 256, (16, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    return tmp_path / "images"


class Counted:
    """The autoencoder, which counts the images that it encodes."""

    def __init__(self, pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pipe, self.count, encode = pipe, 0, pipe.vae.encode

        def counting(pixels: torch.Tensor) -> Any:
            self.count += len(pixels)
            return encode(pixels)

        monkeypatch.setattr(module, "SHARD", 3)
        monkeypatch.setattr(pipe.vae, "encode", counting)

    def __call__(self, folder: Path, cache: Path | None = None, **how: Any) -> tuple[Examples, int]:
        self.count, images = 0, as_images(folder)
        captions = [f"caption {Path(name).stem}" for name in images.names(range(len(images)))]
        return encode_examples(self.pipe, images, captions, cache=cache, batch_size=1, **how), self.count


@pytest.fixture
def encoded(tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(tiny_pipe, monkeypatch)


def same(one: Examples, two: Examples) -> bool:
    rows = torch.arange(len(one))
    latents = [given.latents[rows].half() for given in (one, two)]
    captions = [given.tokens[given.caption_rows] for given in (one, two)]
    return len(one) == len(two) and torch.equal(*latents) and torch.equal(*captions)


def test_an_image_that_goes_takes_no_other_with_it(encoded: Counted, folder: Path, tmp_path: Path) -> None:
    assert encoded(folder, tmp_path / "cache")[1] == COUNT
    (folder / "1.png").unlink()
    again, count = encoded(folder, tmp_path / "cache")
    assert count == 0 and same(again, encoded(folder)[0]) and again.kept is None
    assert encoded(folder, tmp_path / "cache")[1] == 0, "and so the next time"


def test_an_image_that_comes_is_the_only_one_that_is_encoded(encoded: Counted, folder: Path, tmp_path: Path) -> None:
    encoded(folder, tmp_path / "cache")
    Image.new("RGB", (30, 20), "red").save(folder / "00.png")
    again, count = encoded(folder, tmp_path / "cache")
    assert count == 1 and same(again, encoded(folder)[0])
    assert encoded(folder, tmp_path / "cache")[1] == 0


def test_the_files_are_those_of_an_undisturbed_run(encoded: Counted, folder: Path, tmp_path: Path) -> None:
    encoded(folder, tmp_path / "whole")
    encoded(folder, tmp_path / "cache")
    (tmp_path / "cache" / "latents-00001.safetensors").unlink()
    encoded(folder, tmp_path / "cache")
    for file in (tmp_path / "whole").iterdir():
        assert sha256(file) == sha256(tmp_path / "cache" / file.name)


@pytest.mark.parametrize("rows", [[0], [6], [2, 3], [3, 4, 5], [0, 1, 2, 3, 4, 5]])
def test_bad_images_stop_the_run_or_are_left_out_and_counted(
    encoded: Counted, folder: Path, tmp_path: Path, rows: list[int]
) -> None:
    for row in rows:
        (folder / f"{row}.png").write_bytes(b"no image")
    for cache in (None, tmp_path / "cache"):
        with pytest.raises(ValueError, match=rf"{rows[0]}\.png is no intact image"):
            encoded(folder, cache)
        for again in range(2):
            with pytest.warns(
                UserWarning, match=rf"^{len(rows)} of 7 images cannot be read and are left out, the first: "
            ):
                left, count = encoded(folder, cache, skip_bad=True)
            assert left.kept is not None and left.kept.tolist() == [k for k in range(COUNT) if k not in rows]
            assert len(left) == COUNT - len(rows) == len(left.caption_rows) == len(left.identified)
            assert count == 0 or not again or cache is None
    for row in rows:
        (folder / f"{row}.png").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sound, count = encoded(folder, tmp_path / "cache")
    assert count == 0 and same(sound, left)


def test_a_bad_image_that_was_repaired_is_encoded(encoded: Counted, folder: Path, tmp_path: Path) -> None:
    whole = (folder / "4.png").read_bytes()
    (folder / "4.png").write_bytes(whole[:50])
    with pytest.warns(UserWarning, match="^1 of 7 images"):
        encoded(folder, tmp_path / "cache", skip_bad=True)
    (folder / "4.png").write_bytes(whole)
    again, count = encoded(folder, tmp_path / "cache")
    assert count == 1 and same(again, encoded(folder)[0])


def test_no_image_at_all_is_said(encoded: Counted, folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        file.write_bytes(b"no image")
    for cache in (None, tmp_path / "cache"):
        with pytest.raises(
            ValueError, match=r"^none of the 7 images can be read, the first: .*0\.png is no intact image"
        ):
            encoded(folder, cache, skip_bad=True)
    with pytest.raises(ValueError, match=r"^there are no images to encode"):
        encode_examples(encoded.pipe, [], [])


def test_one_flipped_bit_is_noticed(encoded: Counted, folder: Path, tmp_path: Path) -> None:
    wanted, _ = encoded(folder)  # what is mapped from the files would change with them
    encoded(folder, tmp_path / "cache")
    file = tmp_path / "cache" / "latents-00001.safetensors"
    whole = file.read_bytes()
    for place in (8, 20, 40, len(whole) // 4, len(whole) - 1, len(whole) - 100):
        data = bytearray(whole)
        data[place] ^= 4
        file.write_bytes(data)
        with pytest.raises(ValueError, match=r"latents-00001\.safetensors is .*delete it, it is made anew\.$"):
            encoded(folder, tmp_path / "cache")
    file.unlink()
    assert same(encoded(folder, tmp_path / "cache")[0], wanted)
