"""hpslib.adaptation.examples: pictures of any form give the latents of the autoencoder; a cache is resumed, shared and
checked."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from full_disk import no_room
from PIL import Image

from hpslib.adaptation import examples as module
from hpslib.adaptation.examples import encode_examples, square_pixels
from hpslib.adaptation.lora import add_lora
from hpslib.adaptation.sampling import truncated_prompts
from hpslib.adaptation.training import train_lora

CAPTIONS = ["a red critter", "Weird image. a dog", "a red critter", "on a beach", "rain"]


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)


def test_pictures_and_arrays_give_the_same_latents(tiny_pipe: Any, images: np.ndarray) -> None:
    pictures = [Image.fromarray(array) for array in images]
    direct = encode_examples(tiny_pipe, images, CAPTIONS)
    again = encode_examples(tiny_pipe, pictures, CAPTIONS)
    assert torch.equal(direct.latents, again.latents), "the model's own resolution"
    larger = encode_examples(tiny_pipe, pictures, CAPTIONS, resolution=32).latents
    assert larger.shape[2:] == (8, 8) and again.latents.shape[2:] == (4, 4)


def test_pictures_are_scaled_to_their_shorter_side_and_cut_in_the_middle() -> None:
    wide = np.zeros((20, 60, 3), dtype=np.uint8)
    wide[:, 20:40] = 255
    made = square_pixels([Image.fromarray(wide), Image.fromarray(wide.transpose(1, 0, 2)), Image.new("L", (7, 9))], 10)
    assert made.shape == (3, 10, 10, 3) and (made[:2] > 200).all() and (made[2] == 0).all()


def test_states_of_a_step_are_those_that_were_kept(tiny_pipe: Any, images: np.ndarray) -> None:
    kept = encode_examples(tiny_pipe, images, CAPTIONS)
    fresh = encode_examples(tiny_pipe, images, CAPTIONS, keep_states=False)
    assert fresh.states is None and torch.equal(fresh.tokens, kept.tokens)
    drop = torch.tensor([False, True, True])
    for given in (kept, fresh):
        states = module_states(tiny_pipe, given, torch.tensor([1, 1, 3]), drop)
        torch.testing.assert_close(states[0], kept.states[kept.caption_rows[1]], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(states[1], kept.states[kept.dropped_rows[1]], atol=1e-5, rtol=1e-4)
    losses = []
    for given in (kept, fresh):
        parameters = add_lora(tiny_pipe, rank=2, seed=0)
        losses.append(train_lora(tiny_pipe, parameters, given, steps=3, batch_size=2, lr=0.01, weight_decay=0.0))
        tiny_pipe.unload_lora_weights()
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def module_states(pipe: Any, given: Any, picks: torch.Tensor, drop: torch.Tensor) -> torch.Tensor:
    from hpslib.adaptation.training import _text_states

    return _text_states(pipe, given, picks, drop)


def test_a_cache_is_resumed_shared_and_checked(tiny_pipe: Any, images, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "SHARD", 2)
    seen: list[int] = []
    encode = tiny_pipe.vae.encode
    monkeypatch.setattr(tiny_pipe.vae, "encode", lambda pixels: (seen.append(len(pixels)), encode(pixels))[1])
    direct = encode_examples(tiny_pipe, images, CAPTIONS).latents.half()
    seen.clear()
    first = encode_examples(tiny_pipe, images, CAPTIONS, cache=tmp_path).latents
    assert first.shape == direct.shape and len(first) == 5 and seen == [2, 2, 1]
    assert torch.equal(first[torch.tensor([4, 0, 3])], direct[[4, 0, 3]])
    (tmp_path / "latents-00001.safetensors").unlink()
    seen.clear()
    again = encode_examples(tiny_pipe, images, CAPTIONS, cache=tmp_path).latents
    assert torch.equal(again[torch.arange(5)], direct)
    assert seen == [2], "only what was missing is computed"
    seen.clear()
    two = tmp_path / "two"
    for rank in (1, 0):
        helper = SimpleNamespace(process_index=rank, num_processes=2, wait_for_everyone=lambda: None)
        if rank:
            with pytest.raises(FileNotFoundError):  # alone it waits for nobody and finds the other's files missing
                encode_examples(tiny_pipe, images, CAPTIONS, cache=two, accelerator=helper)
        else:
            shared = encode_examples(tiny_pipe, images, CAPTIONS, cache=two, accelerator=helper).latents
            assert torch.equal(shared[torch.arange(5)], direct)
    assert seen == [2, 2, 1]
    seen.clear()
    again = encode_examples(tiny_pipe, images, ["new", *CAPTIONS[1:]], cache=tmp_path).latents
    assert torch.equal(again[torch.arange(5)], direct) and seen == [], "latents know nothing of captions"
    for others, side in ((255 - images, None), (images, 32)):
        with pytest.raises(ValueError, match=r"latents-00000\.safetensors was made for other images"):
            pictures = [Image.fromarray(array) for array in others]
            encode_examples(tiny_pipe, pictures if side else others, CAPTIONS, resolution=side, cache=tmp_path)
    whole = (tmp_path / "latents-00002.safetensors").read_bytes()
    (tmp_path / "latents-00002.safetensors").write_bytes(whole[:20])
    with pytest.raises(ValueError, match=r"latents-00002\.safetensors is cut off or no safetensors file: delete it"):
        encode_examples(tiny_pipe, images, CAPTIONS, cache=tmp_path)


def test_a_full_disk_is_told_and_leaves_no_half_file(tiny_pipe: Any, images, tmp_path: Path) -> None:
    with no_room(100), pytest.raises(OSError, match=r"latents-00000\.safetensors cannot be written \(.*make room"):
        encode_examples(tiny_pipe, images, CAPTIONS, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_captions_over_the_context_are_counted(tiny_pipe: Any) -> None:
    assert truncated_prompts(tiny_pipe, ["a dog", "a red critter " * 40, "rain"]) == [1]
