"""hpslib.critters.build.pipeline: converting the text tower is exact, and the pipeline is a genuine one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hpslib.adaptation.sampling import generate, load_pipeline
from hpslib.critters.build.pipeline import SCHEDULER, convert_text_tower
from hpslib.critters.build.tokenizer import load_tokenizer

TEXTS = ["a happy red round critter on a beach", "Weird image. ", "", "🐙 " * 40]


def clip(quick_gelu: bool) -> Any:
    from open_clip.model import CLIP

    vision = {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
    text = {"context_length": 32, "vocab_size": 889, "width": 32, "heads": 4, "layers": 3}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = CLIP(embed_dim=24, vision_cfg=vision, text_cfg=text, quick_gelu=quick_gelu)
        for parameter in model.parameters():  # fresh biases are zero and fresh norms one: a mix-up would not show
            nn.init.normal_(parameter, std=0.3) if parameter.ndim >= 1 else None
    return model.eval()


@torch.inference_mode()
def hidden_states(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """open_clip's text tower before pooling and projection."""
    x = model.token_embedding(tokens) + model.positional_embedding
    return model.ln_final(model.transformer(x, attn_mask=model.attn_mask))


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_the_conversion_is_exact(quick_gelu: bool, tokenizer_folder: Path) -> None:
    model = clip(quick_gelu)
    state = torch.get_rng_state()
    converted = convert_text_tower(model)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is nobody's"
    assert not converted.training
    tokens = load_tokenizer(tokenizer_folder)(TEXTS)
    with torch.inference_mode():
        got = converted(tokens).last_hidden_state
        expected = hidden_states(model, tokens)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
        # ... and at the end token, projected, it is open_clip's own text embedding.
        pooled = got[torch.arange(len(TEXTS)), tokens.argmax(1)] @ model.text_projection
        torch.testing.assert_close(pooled, model.encode_text(tokens), atol=1e-4, rtol=1e-4)
        other = convert_text_tower(model)
        other.config.hidden_act = "changed"
        wrong = clip(not quick_gelu)
        assert (hidden_states(wrong, tokens) - got).abs().max() > 1e-3, "the activation must matter in this test"


def test_the_converted_weights_are_copies(tokenizer_folder: Path) -> None:
    model = clip(True)
    converted = convert_text_tower(model)
    tokens = load_tokenizer(tokenizer_folder)(TEXTS)
    with torch.inference_mode():
        before = converted(tokens).last_hidden_state
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    with torch.inference_mode():
        assert torch.equal(converted(tokens).last_hidden_state, before)


def test_the_pipeline_is_complete_and_survives_saving(tiny_pipe: Any, pipeline_folder: Path) -> None:
    again = load_pipeline(pipeline_folder)
    assert type(again).__name__ == "StableDiffusionPipeline" and again.safety_checker is None
    config = again.scheduler.config
    assert type(again.scheduler).__name__ == "DPMSolverMultistepScheduler" and config.rescale_betas_zero_snr
    assert {key: config[key] for key in SCHEDULER} == SCHEDULER
    made = [generate(p, TEXTS, range(4), steps=3, guidance_scale=3.0) for p in (tiny_pipe, again)]
    assert np.abs(made[0].astype(int) - made[1]).max() <= 1


def test_the_last_training_step_has_no_signal(tiny_pipe: Any) -> None:
    alphas = tiny_pipe.scheduler.alphas_cumprod
    assert len(alphas) == 1000 and alphas[-1] < 1e-6 and alphas[0] > 0.99
    assert (alphas.diff() < 0).all()
