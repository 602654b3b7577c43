"""What scoring and sampling save: ``python tests/benchmarks/bench_scores.py`` prints one table, measured in one run.

ViT-B/32 with random weights scores JPEG files of 512 pixels, four to a prompt, beside the loop of HPSv2's own package
(one image per forward pass, here with its model kept) and beside transformers' ``CLIPModel`` and processor on the
exported weights, in one batch. As in ``bench_statistics.py`` both take turns, results are compared, and the script ends
with 1 where they differ. Not collected by pytest; nothing here asserts a time.

What arithmetic forbids is printed too: a score's image tower is work that nobody can leave out, and what is saved
around it is bounded by its share.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from bench_statistics import DIFFERS, Case, Row, as_text, compared
from PIL import Image

from hpslib.adaptation.lora import load_lora
from hpslib.adaptation.sampling import generate, initial_noise, load_pipeline
from hpslib.critters.assets import asset
from hpslib.scores.clip import Clip, build_clip, encode_prompts
from hpslib.scores.pixels import Preprocessing
from hpslib.scores.released import OPENAI, VIT_B32
from hpslib.scores.scorers import Scorer, preference_scores
from hpslib.scores.transformers_folder import save_transformers

TEXTS = [
    "a small red fox asleep in the snow",
    "an old lighthouse at night, oil painting",
    "two cups of coffee on a wooden table",
    "portrait of an astronaut, highly detailed, 4k",
]
EACH = 4  # images of a prompt


def vit_b32() -> Clip:
    """ViT-B/32 with random weights, centre-cropped as OpenAI's."""
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**VIT_B32, quick_gelu=True)
    config = {
        "model_cfg": {**VIT_B32, "quick_gelu": True},
        "preprocess_cfg": {**OPENAI, **Preprocessing("crop_floor").stated()},
    }
    return build_clip(config, model.state_dict(), where="random weights")


def jpegs(folder: Path, count: int) -> list[Path]:
    """Soft shapes with grain as files."""
    rng, files = np.random.default_rng(0), []
    for k in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        soft = np.asarray(coarse.resize((512, 512), Image.Resampling.BICUBIC)).astype(int)
        files.append(folder / f"{k}.jpg")
        Image.fromarray((soft + rng.integers(-9, 9, soft.shape)).clip(0, 255).astype(np.uint8)).save(
            files[-1], quality=90
        )
    return files


def scoring(folder: Path) -> list[Case]:
    """The same scores by three ways, and in bfloat16."""
    from transformers import AutoProcessor, CLIPModel

    clip, prompts = vit_b32(), [text for text in TEXTS for _ in range(EACH)]
    files, scorer = jpegs(folder, len(prompts)), Scorer(clip, "crop_floor", 100.0)
    transform = open_clip.image_transform(224, is_train=False, mean=OPENAI["mean"], std=OPENAI["std"])
    theirs = CLIPModel.from_pretrained(save_transformers(scorer, folder / "transformers")).eval()
    processor: Any = AutoProcessor.from_pretrained(folder / "transformers", backend="pil")
    half = Scorer(vit_b32().to("cpu", torch.bfloat16), "crop_floor", 100.0)

    @torch.no_grad()
    def one_by_one() -> list[float]:
        scores = []
        for file, prompt in zip(files, prompts):
            image = transform(Image.open(file).convert("RGB")).unsqueeze(0)
            seen = clip.model.encode_image(image, normalize=True)
            read = clip.model.encode_text(clip.tokenize([prompt]), normalize=True)
            scores.append(100 * float((seen @ read.T)[0, 0]))
        return scores

    @torch.no_grad()
    def one_batch() -> np.ndarray:
        images = [Image.open(file).convert("RGB") for file in files]
        found = theirs(**processor(text=prompts, images=images, return_tensors="pt", padding=True))
        return 100 * (found.image_embeds * found.text_embeds).sum(-1).numpy()

    def ours() -> np.ndarray:
        return preference_scores(scorer, files, prompts)

    def halved() -> np.ndarray:
        return preference_scores(half, files, prompts)

    @torch.no_grad()
    def texts() -> np.ndarray:
        return clip.model.encode_text(clip.tokenize(prompts), normalize=True).numpy()

    what = f"score {len(files)} JPEG of {len(TEXTS)} prompts, ViT-B/32"
    return [
        (what, "HPSv2's loop, model kept", one_by_one, ours, 2e-3),
        (what, "transformers, one batch", one_batch, ours, 2e-3),
        (f"{what}, bfloat16", "HPSv2's loop, model kept", one_by_one, halved, 2e-2),
        ("encode their prompts", "open_clip, 77 tokens", texts, lambda: encode_prompts(clip, prompts), 1e-5),
    ]


def sampling() -> list[Case]:
    """The adapted mini Stable Diffusion: ours fuses the LoRA and encodes each text once."""
    pipe = load_pipeline(asset("sd"))
    load_lora(pipe, asset("control/random"))
    prompts, how = [f"a happy red critter {k % 4}" for k in range(16)], {"guidance_scale": 3.0}
    size, refused = pipe.unet.config.sample_size, "Weird image. "

    def theirs() -> np.ndarray:
        noise = initial_noise(range(16), (pipe.unet.config.in_channels, size, size))
        many: dict[str, Any] = {"negative_prompt": [refused] * 16, "latents": noise, "output_type": "np"}
        return (pipe(prompts, num_inference_steps=8, **many, **how).images * 255).round().astype(int)

    def ours() -> np.ndarray:
        return generate(pipe, prompts, range(16), steps=8, negative_prompt=refused, **how).astype(int)

    return [("generate 16 critters with a LoRA", "diffusers, one batch", theirs, ours, 2 / 255)]


def rows(turns: int = 3) -> list[Row]:
    """The lines of the table."""
    with tempfile.TemporaryDirectory() as folder:
        return [compared(case, turns) for case in [*scoring(Path(folder)), *sampling()]]


def limits() -> str:
    """What no way of scoring can leave out, as a share of the whole."""
    from torch.utils.flop_counter import FlopCounterMode

    clip = vit_b32()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not see into the fused kernel
    costs = []
    for run in (
        lambda: clip.model.encode_image(torch.zeros(1, 3, 224, 224)),
        lambda: clip.model.encode_text(clip.tokenize(["a"])),
    ):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run()
        costs.append(counter.get_total_flops() / 1e9)
    torch.backends.mha.set_fastpath_enabled(True)
    image, text = costs
    return (
        f"floor: {image:.1f} GFLOP an image, {text:.1f} a prompt of 77 tokens: prompts encoded once and cut can save "
        f"{(image + text) / image:.2f}x of the towers' work at most, where each image has a forward pass of its own."
    )


if __name__ == "__main__":
    found = rows()
    print(as_text(found))
    print(limits())
    sys.exit(any(row.note.startswith(DIFFERS) for row in found))
