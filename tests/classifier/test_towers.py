from __future__ import annotations

import pytest
from small_trunk import trunk_of

from hpslib.classifier.towers import set_trainable
from hpslib.scores.clip import Clip

HEADS = {"logit_scale", "visual.proj", "text_projection"}
HEADS |= {f"{norm}.{part}" for norm in ("visual.ln_post", "ln_final") for part in ("weight", "bias")}


@pytest.mark.parametrize(("image_blocks", "text_blocks"), [(0, 0), (1, 0), (0, 1), (2, 2)])
def test_exactly_the_last_blocks_are_trainable(tiny_clip: Clip, image_blocks: int, text_blocks: int) -> None:
    names = set_trainable(tiny_clip.model, image_blocks, text_blocks)
    image = tuple(f"visual.transformer.resblocks.{k}." for k in range(2 - image_blocks, 2))
    text = tuple(f"transformer.resblocks.{k}." for k in range(2 - text_blocks, 2))
    everything = [name for name, _ in tiny_clip.model.named_parameters()]
    assert names == [
        n for n in everything if n in HEADS or (image and n.startswith(image)) or (text and n.startswith(text))
    ]
    assert names == [n for n, p in tiny_clip.model.named_parameters() if p.requires_grad]


def test_fewer_blocks_freeze_again_what_more_had_freed(tiny_clip: Clip) -> None:
    assert len(set_trainable(tiny_clip.model, 2, 2)) > len(set_trainable(tiny_clip.model, 0, 0)) == len(HEADS)


@pytest.mark.parametrize(("blocks", "text"), [((3, 0), "image_blocks is 3"), ((0, -1), "text_blocks is -1")])
def test_blocks_that_are_not_there_are_refused(tiny_clip: Clip, noise_images, blocks, text: str) -> None:
    for call in (lambda: set_trainable(tiny_clip.model, *blocks), lambda: trunk_of(tiny_clip, noise_images, *blocks)):
        with pytest.raises(ValueError, match=f"{text}: this tower has 2 blocks, so choose 0 to 2"):
            call()
