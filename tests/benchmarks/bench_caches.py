"""What the caches are worth: ``python tests/benchmarks/bench_caches.py`` prints ratios measured in one run.

Each line sets the library's way beside what a user would otherwise write, on the miniature world, with the same
threads, taking turns so that a busy machine slows both. Ratios only: seconds mean nothing on another machine. Not
collected by pytest; nothing here asserts a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from open_clip.tokenizer import SimpleTokenizer

from hpslib.adaptation.examples import encode_examples
from hpslib.adaptation.sampling import load_pipeline
from hpslib.classifier.loss import group_logits
from hpslib.classifier.trunk import cache_trunk, trunk_logits
from hpslib.critters.assets import asset
from hpslib.data.groups import read_groups
from hpslib.data.releases.hpd_v1 import read_hpd
from hpslib.scores.clip import encode_images, encode_prompts, load_clip
from hpslib.scores.cosine import clip_scores
from hpslib.scores.tokens import encode_text


def ratio(usual: Callable[[], object], ours: Callable[[], object], rounds: int = 5) -> str:
    """Median of usual / ours over ``rounds`` turns, with the smallest and largest."""
    found = []
    for _ in range(rounds):
        seconds = []
        for run in (usual, ours):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        found.append(seconds[0] / seconds[1])
    return f"{np.median(found):.1f}x ({min(found):.1f} to {max(found):.1f})"


def main() -> None:
    torch.set_num_threads(2)
    clip, test = load_clip(asset("clip")), read_hpd(asset("hpd_mini/test.parquet")).select(range(64))
    groups = read_groups(test)
    images, prompts = groups.images, groups.image_prompts

    def one_by_one() -> None:  # the loop of hpsv2.score and ImageReward's inference_rank
        for image, prompt in zip(images, prompts, strict=True):
            clip_scores(clip, [image], [prompt])

    print("scoring, image by image / batched with each prompt encoded once:", end=" ")
    print(ratio(one_by_one, lambda: clip_scores(clip, images, prompts)))

    trunk = cache_trunk(clip, images, groups.prompts, groups.sizes, groups.choices, image_blocks=1, text_blocks=0)
    every, factor = torch.arange(len(groups.sizes)), clip.model.logit_scale.exp().detach()

    def whole_towers() -> None:
        group_logits(encode_images(clip, images), encode_prompts(clip, groups.prompts), groups.sizes, factor)

    def tuned_end() -> None:
        with torch.no_grad():
            trunk_logits(clip.model, trunk, every)

    print("classifier, forward pass of an epoch, whole towers / cached trunk:", ratio(whole_towers, tuned_end))

    pipe = load_pipeline(asset("sd"))
    pixels, captions = np.stack([np.asarray(image) for image in images[:32]]), prompts[:32]
    examples = encode_examples(pipe, pixels, captions)
    noise, steps = torch.randn(examples.latents.shape), torch.full((32,), 500)

    def step() -> None:  # what is left of a LoRA step's forward pass
        with torch.no_grad():
            pipe.unet(noise, steps, examples.states[examples.caption_rows]).sample  # noqa: B018

    def step_with_encoding() -> None:  # as align_sd's and diffusers' training scripts do it
        encode_examples(pipe, pixels, captions)
        step()

    print(
        "LoRA, forward pass of a step, encoding each time / cached latents and texts:", ratio(step_with_encoding, step)
    )
    many = read_hpd(asset("hpd_mini/train.parquet"))["prompt"]
    theirs = SimpleTokenizer().encode
    by_open_clip, by_us = (lambda: [theirs(text) for text in many]), (lambda: [encode_text(text) for text in many])
    print("CLIP's tokens of 3,000 prompts, open_clip (which loads torch) / hpslib.scores.tokens:", end=" ")
    print(ratio(by_open_clip, by_us))


if __name__ == "__main__":
    main()
