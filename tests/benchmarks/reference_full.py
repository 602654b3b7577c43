"""HPS v1 at its true shapes against an independent computation: ``python tests/benchmarks/reference_full.py``.

Random weights in transformers' CLIP of ViT-L/14's size, pixels by torchvision as in the README of the release. The same
weights under OpenAI's names go through ``load_scorer("hps_v1", ...)``. Some 5 GB of memory and half a minute.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import functional
from transformers import CLIPConfig, CLIPModel

from hpslib.scores.released import OPENAI, VIT_L14
from hpslib.scores.scorers import load_scorer, preference_scores
from hpslib.scores.transformers_clip import from_transformers


def reference_model() -> CLIPModel:
    """OpenAI's ViT-L/14 as transformers builds it, QuickGELU, with random weights."""
    vision, text = VIT_L14["vision_cfg"], VIT_L14["text_cfg"]
    config = CLIPConfig(
        projection_dim=VIT_L14["embed_dim"],
        vision_config={
            "hidden_size": vision["width"], "num_hidden_layers": vision["layers"], "patch_size": vision["patch_size"],
            "image_size": vision["image_size"], "num_attention_heads": vision["width"] // 64,
            "intermediate_size": 4 * vision["width"], "hidden_act": "quick_gelu",
        },
        text_config={
            "hidden_size": text["width"], "num_hidden_layers": text["layers"], "intermediate_size": 4 * text["width"],
            "num_attention_heads": text["heads"], "vocab_size": text["vocab_size"],
            "hidden_act": "quick_gelu", "bos_token_id": 49406, "eos_token_id": 49407,
        },
    )  # fmt: skip
    torch.manual_seed(0)
    return CLIPModel(config).eval()


def main() -> None:
    from open_clip.tokenizer import SimpleTokenizer

    model, rng = reference_model(), np.random.default_rng(0)
    prompts = ["a red cat", "two blue moons over the sea, oil on canvas", "portrait of an old sailor"]
    sizes = [(512, 512), (640, 427), (300, 500)]
    images = [Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(size) for size in sizes]
    side = VIT_L14["vision_cfg"]["image_size"]
    pixels = []
    for image in images:
        small = functional.resize(image, side, functional.InterpolationMode.BICUBIC)
        whole = functional.to_tensor(functional.center_crop(small, [side, side]))
        pixels.append(functional.normalize(whole, OPENAI["mean"], OPENAI["std"]))
    with torch.no_grad():
        out = model(input_ids=SimpleTokenizer()(prompts), pixel_values=torch.stack(pixels))
    expected = 100 * (out.image_embeds * out.text_embeds).sum(-1).double().numpy()
    with tempfile.TemporaryDirectory() as folder:
        torch.save({"state_dict": from_transformers(model.state_dict())}, Path(folder) / "hpc.pth")
        found = preference_scores(load_scorer("hps_v1", Path(folder) / "hpc.pth"), images, prompts)
    print(f"100 x cosine: reference {expected.round(4)}, ours {found.round(4)}")
    print(f"largest difference {np.abs(found - expected).max():.1e} of 100 x cosine")


if __name__ == "__main__":
    main()
