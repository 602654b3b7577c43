from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_lora import CAPTIONS

from hpslib.adaptation.examples import Examples, encode_examples


def test_examples_are_what_the_pipeline_itself_encodes(tiny_pipe: Any, images: np.ndarray, examples: Examples) -> None:
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 * 2 - 1
    with torch.inference_mode():
        latents = tiny_pipe.vae.encode(pixels).latent_dist.mode() * tiny_pipe.vae.config.scaling_factor
        states, empty = tiny_pipe.encode_prompt(CAPTIONS, "cpu", 1, True)
        identifier, _ = tiny_pipe.encode_prompt(["Weird image. "], "cpu", 1, False)
    assert len(examples) == 6
    torch.testing.assert_close(examples.latents, latents, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(examples.states[examples.caption_rows], states, atol=1e-5, rtol=1e-4)
    dropped = torch.where(torch.tensor([c.startswith("Weird") for c in CAPTIONS])[:, None, None], identifier, empty)
    torch.testing.assert_close(examples.states[examples.dropped_rows], dropped, atol=1e-5, rtol=1e-4)
    assert len(examples.states) == len({*CAPTIONS, "", "Weird image. "}), "each distinct text is encoded once"


def test_examples_do_not_depend_on_the_batch_size(tiny_pipe: Any, images: np.ndarray, examples: Examples) -> None:
    again = encode_examples(tiny_pipe, images, CAPTIONS, batch_size=2)
    torch.testing.assert_close(again.latents, examples.latents, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(again.states, examples.states, atol=1e-5, rtol=1e-4)


def test_one_caption_for_each_image(tiny_pipe: Any, images: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"^6 images but 2 captions: hand over one caption for each image"):
        encode_examples(tiny_pipe, images, CAPTIONS[:2])
