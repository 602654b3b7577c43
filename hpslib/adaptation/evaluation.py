"""Generated images in numbers: CLIP score, aesthetic rating, HPS, and FID against a folder of real images.

The paper's table 3 has these four columns. All but FID belong to single images, so that a model can be held against
another pair by pair, with the same prompt and the same noise (:mod:`hpslib.metrics.before_after`).
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hpslib.data.groups import flatten_groups
from hpslib.data.images.lazy import each_image
from hpslib.metrics.distributions import extract_features, fid
from hpslib.runs.files import read_state_dict
from hpslib.scores.aesthetic import AestheticHead, aesthetic_scores
from hpslib.scores.clip import Clip, check_prompts, encode_pixels, encode_prompts
from hpslib.scores.cosine import cosines
from hpslib.scores.pixels import Preprocessing, normalised
from hpslib.scores.scorers import Scorer

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["compare_pools", "fid_between", "load_inception", "measure_images"]


def measure_images(
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    *,
    clip: Clip | None = None,
    head: AestheticHead | None = None,
    classifier: Clip | Scorer | None = None,
    batch_size: int = 64,
) -> dict[str, np.ndarray]:
    """``clip`` (cosine, centre-cropped), ``aesthetic`` (about 1 to 10) and ``hps`` (100 x cosine), float64 (n,) each.

    What is not given is not measured; the aesthetic head rates the features that ``clip`` computes. A ``classifier``
    from :func:`hpslib.scores.scorers.load_scorer` brings its authors' preprocessing and scale, which for a converted
    release differ from ours (100 x cosine, padded). Each image is opened once, for both models, and goes through each
    tower once; each distinct prompt is encoded once.

    Raises ``ValueError`` when the lengths differ, a head comes without its CLIP, or there is nothing to measure with.
    """
    if len(images) != len(prompts):
        raise ValueError(f"{len(images)} images but {len(prompts)} prompts: hand over one prompt for each image.")
    if clip is None and head is not None:
        raise ValueError("the aesthetic head rates CLIP's features: hand over that CLIP too.")
    if clip is None and classifier is None:
        raise ValueError("nothing to measure with: hand over a CLIP, a classifier, or both.")
    if len(images) == 0:
        raise ValueError("there are no images to measure: hand over at least one.")
    if classifier is not None:
        check_prompts(prompts, len(images))
    looks: dict[str, tuple[Clip, Preprocessing]] = {}
    if clip is not None:
        looks["clip"] = (clip, clip.preprocessing)
    if isinstance(classifier, Clip):
        looks["hps"] = (classifier, classifier.preprocessing)  # as it was trained
    elif classifier is not None:
        looks["hps"] = (classifier.clip, classifier.looks[0])
    parts: dict[str, list[Tensor]] = {name: [] for name in looks}
    seen = each_image(
        lambda image: {name: how.square(image, model.image_size) for name, (model, how) in looks.items()},
        images,
        range(len(images)),
        batch_size,
    )
    while batch := list(islice(seen, batch_size)):
        for name, (model, _) in looks.items():
            squares = np.stack([squares_of[name] for squares_of in batch])
            parts[name].append(encode_pixels(model, normalised(squares, model.mean, model.std, model.device)))
    features = {name: torch.cat(part) for name, part in parts.items()}
    values = {name: cosines(features[name], encode_prompts(model, prompts)) for name, (model, _) in looks.items()}
    if head is not None:
        values["aesthetic"] = aesthetic_scores(head, features["clip"])
    if classifier is not None:
        values["hps"] = (100.0 if isinstance(classifier, Clip) else classifier.factor) * values["hps"]
    return {name: values[name] for name in ("clip", "aesthetic", "hps") if name in values}


def compare_pools(after: Any, before: Any | None, measure: Callable[..., dict[str, np.ndarray]]) -> pd.DataFrame:
    """Means and 95 % intervals of what ``measure(images, prompts)`` says of one pool, and differences to another.

    Pools are those of :func:`hpslib.data.pools.pool.read_pool`. Images are paired by prompt and seed, so that both
    have the same noise. Rows are measures; columns ``mean``, ``low``, ``high`` and, with ``before``, ``before`` (its
    mean), ``difference``, ``difference_low``, ``difference_high``. Whole prompts are resampled.

    Of one prompt alone the ends of the intervals are NaN.

    Raises ``ValueError`` when one of two pools holds a prompt with the same seed twice, or they do not hold the same
    prompts and seeds.
    """
    import pandas as pd

    from hpslib.metrics.before_after import mean_difference
    from hpslib.metrics.intervals import bootstrap_by_prompt

    pools = [after] if before is None else [after, before]
    keys = [[(g["prompt"], seed) for g in pool for seed in g["seed"]] for pool in pools]
    for name, pairs in zip(("pool", "pool before"), keys if before is not None else ()):
        repeated = next((item for item in Counter(pairs).items() if item[1] > 1), None)
        if repeated is not None:
            (prompt, seed), times = repeated
            raise ValueError(
                f"the {name} has the prompt {prompt!r} with the seed {seed} {times} times, so that its images "
                "cannot be paired: leave the copies out, or generate from another seed."
            )
    if before is not None and sorted(keys[0]) != sorted(keys[1]):
        other = next(iter(set(keys[0]) ^ set(keys[1])), keys[0][0])
        raise ValueError(
            f"only one of the two pools has the prompt {other[0]!r} with the seed {other[1]}: generate both from the "
            "same prompts and seed."
        )
    measured = []
    for pool in pools:
        images, prompts, _ = flatten_groups(pool)
        measured.append(measure(images, prompts))
    prompts = [prompt for prompt, _ in keys[0]]
    rows: dict[str, dict[str, float]] = {}
    for name, values in measured[0].items():
        mean = bootstrap_by_prompt(values, prompts=prompts)
        rows[name] = {"mean": mean.value, "low": mean.low, "high": mean.high}
        if before is not None:
            partner = {key: row for row, key in enumerate(keys[1])}
            base = measured[1][name][[partner[key] for key in keys[0]]]
            change = mean_difference(base, values, prompts)
            rows[name] |= {"before": float(base.mean()), "difference": change.value}
            rows[name] |= {"difference_low": change.low, "difference_high": change.high}
    return pd.DataFrame.from_dict(rows, orient="index")


def load_inception(path: str | Path, device: str | torch.device = "cpu") -> Callable[[list[Image.Image]], Tensor]:
    """The FID of the literature's eye: torch-fidelity's InceptionV3, pooled features (n, 2048), from a local file.

    The file is ``weights-inception-2015-12-05-6726825d.pth`` of torch-fidelity's releases. The result is an encoder
    for :func:`hpslib.metrics.distributions.extract_features`; images are scaled to 299 pixels by the network itself,
    as TensorFlow did, so that all images of a batch must have one size.

    Raises ``FileNotFoundError`` and ``ValueError`` as :func:`hpslib.runs.files.read_state_dict`, ``ValueError`` also
    when the weights are not those of this network.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    weights = read_state_dict(path)  # torch-fidelity would unpickle the file, so it only sees a copy of what is safe
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "inception.pth"
        torch.save(weights, copy)
        try:
            network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(copy)).to(device)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:160]
            raise ValueError(f"{path} does not fit InceptionV3 ({reason}): name torch-fidelity's weights.") from error

    def encode(images: list[Image.Image]) -> Tensor:
        sizes = {image.size for image in images}
        if len(sizes) > 1:
            raise ValueError(f"the images have the sizes {sorted(sizes)[:3]}: bring them to one size before FID.")
        pixels = torch.from_numpy(np.stack([np.asarray(image.convert("RGB")) for image in images]))
        return network(pixels.permute(0, 3, 1, 2).contiguous().to(device))[0]

    return encode


def fid_between(
    images: Sequence[Image.Image],
    reference: Sequence[Image.Image],
    encoder: Callable[[list[Image.Image]], Any],
    batch_size: int = 64,
) -> float:
    """FID of the images to the reference (Heusel et al., 2017), at least 0; lower is closer.

    Reference images of another size are brought to that of the first generated one (shorter side scaled, centre cut
    out). Raises ``ValueError`` for an empty set; warns when there are fewer images than features.
    """
    from hpslib.adaptation.examples import square_pixels

    if len(images) == 0 or len(reference) == 0:
        raise ValueError(f"{len(images)} images and {len(reference)} of reference: hand over at least one of each.")
    side = images[0].size[0]
    scaled = (Image.fromarray(square_pixels([image], side)[0]) for image in reference)
    return fid(extract_features(images, encoder, batch_size), extract_features(scaled, encoder, batch_size))
