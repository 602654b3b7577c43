"""hpslib.scores.pixels: against open_clip's own transform, and every way in scores a folder alike."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from struct import pack
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from forks import Forks
from PIL import Image

from hpslib.data.images.lazy import as_images
from hpslib.scores.clip import load_clip, save_clip
from hpslib.scores.cosine import clip_scores, hps
from hpslib.scores.folder import CONFIG_FILE
from hpslib.scores.pixels import PADDED, Preprocessing, preprocess, read_preprocessing
from hpslib.scores.scorers import Scorer, load_scorer, preference_scores

ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
SIZES = [(768, 512), (512, 768), (33, 32), (31, 32), (101, 57), (32, 32), (300, 7), (5, 3)]
WAYS = [
    Preprocessing("pad"),
    Preprocessing("crop"),
    Preprocessing("squash"),
    Preprocessing("pad", "bilinear", 127),
    Preprocessing("crop", "bilinear"),
]


def pictures(sizes: list[tuple[int, int]] = SIZES) -> list[Image.Image]:
    rng = np.random.default_rng(7)
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in sizes]


@pytest.mark.parametrize("how", WAYS, ids=str)
def test_the_pixels_are_those_of_open_clip(how: Preprocessing) -> None:
    words = how.stated()
    transform = open_clip.image_transform(
        32, False, ZERO, ONE, words["resize_mode"], words["interpolation"], words["fill_color"]
    )
    for image in pictures():
        assert torch.equal(preprocess([image], 32, ZERO, ONE, how)[0], transform(image)), image.size


@pytest.mark.parametrize("how", [*WAYS, Preprocessing("crop_floor")], ids=str)
def test_what_is_stated_is_read_back(how: Preprocessing) -> None:
    assert read_preprocessing(json.loads(json.dumps(how.stated()))) == how
    assert read_preprocessing({}, "crop") == Preprocessing("crop") and read_preprocessing({}) == PADDED


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"resize_mode": "stretch"}, "resize_mode is 'stretch': use longest, shortest or squash"),
        ({"resize_mode": ["longest"]}, "resize_mode is"),
        ({"interpolation": "nearest"}, "interpolation is 'nearest': use one of bicubic, bilinear"),
        ({"interpolation": 3}, "interpolation is 3"),
        ({"fill_color": 256}, "fill_color is 256: give a whole number from 0 to 255"),
        ({"fill_color": "black"}, "fill_color 'black'"),
        ({"fill_color": True}, "fill_color is True"),
        ({"resize_mode": "longest", "crop_rounding": "floor"}, "crop_rounding is 'floor': leave it out"),
    ],
)
def test_words_that_open_clip_does_not_have_are_refused(words: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        read_preprocessing(words)


@pytest.mark.parametrize("how", WAYS, ids=str)
def test_every_way_in_and_plain_open_clip_score_a_folder_alike(
    tiny_clip: Any, tmp_path: Path, how: Preprocessing
) -> None:
    folder = save_clip(tiny_clip.looking(how), tmp_path / "clip")
    clip, images, prompts = load_clip(folder), pictures(), ["a cat on a mat"] * len(SIZES)
    assert clip.preprocessing == how and load_scorer("hpslib", folder).mode == how.mode
    plain, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokens = clip.tokenize(prompts[:1])
    with torch.no_grad():
        seen = plain.eval().encode_image(torch.stack([transform(image) for image in images]), normalize=True)
        theirs = 100 * (seen @ plain.encode_text(tokens, normalize=True).T)[:, 0].double().numpy()
    np.testing.assert_allclose(hps(clip, images, prompts), theirs, atol=1e-4)
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
    (tmp_path / "clip").rename(tmp_path / "model")
    ways: dict[str, Callable[[], np.ndarray]] = {
        "list": lambda: preference_scores(load_scorer("hpslib", tmp_path / "model"), images, prompts),
        "files": lambda: preference_scores(load_scorer("hpslib", tmp_path / "model"), tmp_path, prompts),
        "cosine": lambda: 100 * clip_scores(clip, as_images(tmp_path), prompts),
        "saved again": lambda: hps(load_clip(save_clip(clip, tmp_path / "again")), images, prompts),
    }
    for name, way in ways.items():
        np.testing.assert_allclose(way(), theirs, atol=1e-4, err_msg=name)


def test_a_folder_that_says_nothing_is_padded_unless_it_is_a_release(tiny_clip_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_clip_folder, tmp_path / "clip"))
    assert load_clip(folder).mode == "pad"
    for kind, mode in {"clip": "crop", "hps_v1": "crop", "hps_v2": "pad", "pickscore": "crop_floor"}.items():
        (folder / "provenance.json").write_text(json.dumps({"kind": kind}))
        assert load_clip(folder).mode == mode
    config = json.loads((folder / CONFIG_FILE).read_text())
    config["preprocess_cfg"]["resize_mode"] = "longest"
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    assert load_clip(folder).mode == "pad", "what is stated comes before what is remembered"


@pytest.mark.parametrize("size", [(20_000, 1), (1, 20_000), (5_000, 7), (3, 9_999)])
def test_a_strip_is_not_scaled_as_a_whole(size: tuple[int, int], rng: np.random.Generator) -> None:
    image = Image.fromarray(rng.integers(64, 192, (size[1], size[0], 3), dtype=np.uint8))  # nothing is clipped
    for mode in ("crop", "crop_floor"):
        pixels = Preprocessing(mode).square(image, 16).astype(int)
        width, height = (int(16 * side / min(size)) for side in size)
        left, top = (width - 16) // 2, (height - 16) // 2
        if mode == "crop":
            left, top = round((width - 16) / 2), round((height - 16) / 2)
        whole = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + 16, top + 16))
        assert np.abs(pixels - np.asarray(whole).astype(int)).max() <= 2


LIMITED = """
import resource, sys
from pathlib import Path
from hpslib.data.images.lazy import as_images
from hpslib.scores.clip import load_clip
from hpslib.scores.scorers import Scorer, preference_scores
clip, folder = load_clip(sys.argv[1]), Path(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
scores = preference_scores(Scorer(clip, sys.argv[3], 100.0), folder, "a cat")
print(len(scores), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def png(path: Path, width: int, height: int) -> None:
    """A black image that is small as a file and large in memory."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return pack(">I", len(data)) + name + data + pack(">I", zlib.crc32(name + data))

    packed = zlib.compressobj(9)
    row = b"\0" * (1 + width * 3)
    body = b"".join(packed.compress(row) for _ in range(height)) + packed.flush()
    header = pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))


@pytest.mark.parametrize(("count", "size", "mode"), [(16, (3_000, 3_000), "pad"), (1, (20_000, 1), "crop")])
def test_small_files_do_not_fill_the_memory(
    tiny_clip: Any, tmp_path: Path, forks: Forks, count: int, size: tuple[int, int], mode: str
) -> None:
    folder = save_clip(tiny_clip, tmp_path / "clip")
    (tmp_path / "images").mkdir()
    for number in range(count):
        png(tmp_path / "images" / f"{number}.png", *size)
    process = forks.start(LIMITED, folder, tmp_path / "images", mode)
    assert process.wait() == 0, process.err.read_text()
    scored, mebibytes = map(int, process.out.read_text().split())
    assert scored == count and mebibytes < 16 * 27, "sixteen decoded images would be 430 MiB, with the copies more"


def test_one_image_one_path_and_a_list_score_alike(tiny_clip: Any, tmp_path: Path) -> None:
    scorer, image = Scorer(tiny_clip, "pad", 100.0), pictures([(40, 30)])[0]
    image.save(tmp_path / "a.png")
    (wanted,) = preference_scores(scorer, [image], ["a cat"])
    for one in (
        image,
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        np.asarray(image),
        (tmp_path / "a.png").read_bytes(),
    ):
        for prompts in ("a cat", ["a cat"]):
            assert preference_scores(scorer, one, prompts).tolist() == [wanted]
    with pytest.raises(FileNotFoundError, match=r"is absent \(.*b\.png\)"):
        preference_scores(scorer, tmp_path / "b.png", "a cat")


@pytest.mark.parametrize("prompt", [float("nan"), None, 3, "half \ud83d a cat"])
def test_what_is_no_text_is_refused_by_its_row(tiny_clip: Any, prompt: Any) -> None:
    images = pictures([(32, 32)] * 2)
    with pytest.raises(ValueError, match=r"^prompt 1 \(from 0\).*leave its row out\.$"):
        preference_scores(Scorer(tiny_clip, "pad", 100.0), images, ["a cat", prompt])
    with pytest.raises(ValueError, match=r"^prompt 1 \(from 0\)"):
        clip_scores(tiny_clip, images, ["a cat", prompt])
