"""hpslib.adaptation.evaluation: the numbers are those of the parts it is made of, paired by prompt and seed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hpslib.adaptation.evaluation import compare_pools, fid_between, load_inception, measure_images
from hpslib.data.pools.pool import read_pool, write_pool
from hpslib.metrics.distributions import extract_features, fid
from hpslib.scores.aesthetic import AestheticHead, aesthetic_scores
from hpslib.scores.clip import encode_images
from hpslib.scores.cosine import clip_scores, hps

PROMPTS = ["a cat", "a dog", "a cat", "rain"]


def pool_of(path: Path, images: list[Image.Image], prompts: list[str], seeds: list[int]):
    files = [io.BytesIO() for _ in images]
    for image, file in zip(images, files):
        image.save(file, "PNG")
    return read_pool(write_pool(path, prompts, seeds, [file.getvalue() for file in files], step=2, cfg=3.0))


def test_measures_are_those_of_the_scores(tiny_clip, noise_images) -> None:
    images, head = noise_images[:4], AestheticHead(torch.arange(16.0) / 10, 5.0)
    found = measure_images(images, PROMPTS, clip=tiny_clip, head=head, classifier=tiny_clip)
    np.testing.assert_array_equal(found["clip"], clip_scores(tiny_clip, images, PROMPTS, mode="crop"))
    features = encode_images(tiny_clip, images, mode="crop")
    np.testing.assert_array_equal(found["aesthetic"], aesthetic_scores(head, features))
    np.testing.assert_array_equal(found["hps"], hps(tiny_clip, images, PROMPTS))
    assert list(measure_images(images, PROMPTS, classifier=tiny_clip)) == ["hps"]


def test_pools_are_paired_by_prompt_and_seed_whatever_their_order(tiny_clip, noise_images, tmp_path: Path) -> None:
    def measure(images, prompts):
        return {"hps": hps(tiny_clip, images, prompts)}

    prompts, seeds = [f"prompt {k % 6}" for k in range(12)], list(range(12))
    after = pool_of(tmp_path / "a.parquet", noise_images[:12], prompts, seeds)
    order = np.random.default_rng(0).permutation(12)
    before = pool_of(
        tmp_path / "b.parquet", [noise_images[12 + k] for k in order], [prompts[k] for k in order],
        [seeds[k] for k in order],
    )  # fmt: skip
    row = compare_pools(after, before, measure).loc["hps"]
    values = hps(tiny_clip, noise_images[:12], prompts)
    base = hps(tiny_clip, noise_images[12:24], prompts)
    assert row["mean"] == pytest.approx(values.mean()) and row["before"] == pytest.approx(base.mean(), abs=1e-4)
    assert row["difference"] == pytest.approx((values - base).mean(), abs=1e-4)
    assert row["difference_low"] < row["difference"] < row["difference_high"] and row["low"] < row["high"]
    assert list(compare_pools(after, None, measure).columns) == ["mean", "low", "high"]
    same = compare_pools(after, after, measure).loc["hps"]
    assert same["difference"] == same["difference_low"] == 0
    other = pool_of(tmp_path / "c.parquet", noise_images[:12], prompts, [*seeds[:-1], 99])
    with pytest.raises(ValueError, match=r"only one of the two pools has the prompt 'prompt 5' with the seed (99|11)"):
        compare_pools(after, other, measure)


def test_a_prompt_with_the_same_seed_twice_cannot_be_paired(noise_images, tmp_path: Path) -> None:
    def measure(images, prompts):
        return {"red": np.array([np.asarray(image)[..., 0].mean() for image in images])}

    twice = pool_of(tmp_path / "a.parquet", noise_images[:3], ["a cat", "a cat", "a dog"], [1, 1, 1])
    other = pool_of(tmp_path / "b.parquet", noise_images[:3], ["a cat", "a cat", "a dog"], [1, 2, 1])
    told = "has the prompt 'a cat' with the seed 1 2 times, so that its images cannot be paired: leave the copies"
    for after, before, name in ((twice, twice, "pool"), (twice, other, "pool"), (other, twice, "pool before")):
        with pytest.raises(ValueError, match=f"^the {name} {told}"):
            compare_pools(after, before, measure)
    assert compare_pools(twice, None, measure).loc["red", "mean"] > 0, "nothing is paired"
    assert compare_pools(other, other, measure).loc["red", "difference"] == 0


def test_one_prompt_has_a_mean_and_no_interval(noise_images, tmp_path: Path) -> None:
    def measure(images, prompts):
        return {"red": np.arange(3.0)}

    pool = pool_of(tmp_path / "a.parquet", noise_images[:3], ["a cat"] * 3, [1, 2, 3])
    row = compare_pools(pool, pool, measure).loc["red"]
    assert row["mean"] == 1 and row["difference"] == 0 and np.isnan(row[["low", "high", "difference_low"]]).all()


def test_fid_is_that_of_the_encoder_s_features(noise_images) -> None:
    def encode(images: list[Image.Image]) -> torch.Tensor:
        return torch.tensor(np.stack([np.asarray(image).mean((0, 1)) for image in images]) / 255)

    # Pictures of 48 x 32 whose middle 32 columns are the picture: they are cut back to it, without any scaling.
    reference = []
    for image in noise_images[8:]:
        wide = Image.new("RGB", (48, 32), "white")
        wide.paste(image, (8, 0))
        reference.append(wide)
    expected = fid(extract_features(noise_images[:8], encode), extract_features(noise_images[8:], encode))
    assert expected > 1e-4
    assert fid_between(noise_images[:8], reference, encode) == pytest.approx(expected, rel=1e-6)
    assert fid_between(noise_images[:8], noise_images[:8], encode) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match=r"^0 images and 24 of reference: hand over at least one of each"):
        fid_between([], noise_images, encode)


def test_inception_is_torch_fidelity_s_and_its_file_is_never_unpickled(
    tmp_path: Path, noise_images, monkeypatch
) -> None:
    import torch_fidelity.feature_extractor_inceptionv3 as source

    kind = source.FeatureExtractorInceptionV3
    with monkeypatch.context() as patch, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        patch.setattr(source, "load_state_dict_from_url", lambda *a, **k: {})
        patch.setattr(kind, "load_state_dict", lambda self, weights: None)
        network = kind("inception-v3-compat", ["2048"])
    torch.save(network.state_dict(), tmp_path / "inception.pth")
    encode = load_inception(tmp_path / "inception.pth")
    images = noise_images[:2]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).contiguous()
    features = encode(images)
    assert features.shape == (2, 2048) and torch.equal(features, network(pixels)[0])
    with pytest.raises(ValueError, match=r"the images have the sizes .*: bring them to one size before FID"):
        encode([images[0], images[1].resize((8, 8))])
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "wrong.pth")
    with pytest.raises(ValueError, match=r"wrong\.pth does not fit InceptionV3 \(.*\): name torch-fidelity's weights"):
        load_inception(tmp_path / "wrong.pth")
    torch.save(print, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth cannot be read as weights"):
        load_inception(tmp_path / "evil.pth")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "^nothing to measure with: hand over a CLIP, a classifier"),
        (
            {"head": AestheticHead(torch.zeros(16), 0.0)},
            "^the aesthetic head rates CLIP's features: hand over",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(given, told: str, noise_images) -> None:
    with pytest.raises(ValueError, match=told):
        measure_images(noise_images[:1], ["x"], **given)
    with pytest.raises(ValueError, match=r"^1 images but 2 prompts"):
        measure_images(noise_images[:1], ["x", "y"])


def test_no_images_and_empty_prompts_are_refused(tiny_clip, noise_images) -> None:
    with pytest.raises(ValueError, match="there are no images to measure: hand over at least one"):
        measure_images([], [], clip=tiny_clip)
    with pytest.raises(ValueError, match=r"the prompt of image 1 \(from 0\) is empty \(1 in all\)"):
        measure_images(noise_images[:2], ["a dog", " "], classifier=tiny_clip)
    assert set(measure_images(noise_images[:2], ["a dog", " "], clip=tiny_clip)) == {"clip"}


def test_each_image_is_opened_once_for_both_models(tiny_clip, noise_images, monkeypatch) -> None:
    from hpslib.data.images.lazy import LazyImages

    files = []
    for image in noise_images[:5]:
        file = io.BytesIO()
        image.save(file, "PNG")
        files.append({"bytes": file.getvalue(), "path": None})
    opened: list[str] = []
    images, one = LazyImages(files, [str(k) for k in range(5)], None), LazyImages.__getitem__

    def counted(self: LazyImages, index: int | slice) -> object:
        if isinstance(index, int) and index < len(self):
            opened.append(self.names([index])[0])
        return one(self, index)

    monkeypatch.setattr(LazyImages, "__getitem__", counted)
    measured = measure_images(images, list("abcde"), clip=tiny_clip, classifier=tiny_clip, batch_size=2)
    assert sorted(opened) == sorted(images.names(range(5)))  # several threads read
    np.testing.assert_allclose(measured["hps"], hps(tiny_clip, noise_images[:5], list("abcde")), atol=1e-5)
