"""The models of the GPU check: random weights at the true shapes, or on a CPU the miniature world's own models."""

from __future__ import annotations

import gzip
import io
import json
import math
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hpslib.critters.assets import asset
from hpslib.scores.clip import Clip, build_clip, load_clip

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))


def clip_model(device: str, dry: bool) -> Clip:
    """ViT-L/14 with random weights, or the mini CLIP."""
    if dry:
        return load_clip(asset("clip"), device)
    from open_clip.model import CLIP

    from hpslib.scores.released import OPENAI, VIT_L14

    config = {"model_cfg": {**VIT_L14, "quick_gelu": True}, "preprocess_cfg": OPENAI}
    torch.manual_seed(0)
    with torch.device(device):
        model = CLIP(**VIT_L14, quick_gelu=True)
    model.logit_scale.data.fill_(math.log(100))
    weights = {name: value.cpu() for name, value in model.state_dict().items()}
    return build_clip(config, weights, where="random weights").to(device)


def pipeline_folder(folder: Path, device: str, dry: bool) -> Path:
    """SD v1.4's shapes with random weights, saved as diffusers saves them, or the mini pipeline."""
    if dry:
        return asset("sd")
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from memory_full import SD_V14, VAE_SD_V14
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    text = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        hidden_act="quick_gelu",
        bos_token_id=49406,
        eos_token_id=49407,
    )
    with torch.device(device):
        parts = {
            "unet": UNet2DConditionModel(**SD_V14),
            "vae": AutoencoderKL(**VAE_SD_V14),
            "text_encoder": CLIPTextModel(text),
        }
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    tokenizer = CLIPTokenizer(*_vocabulary(folder.with_name("tokenizer")), model_max_length=77)
    pipe: Any = StableDiffusionPipeline(
        **parts,
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.to("cpu").save_pretrained(folder)
    return folder


def _vocabulary(folder: Path) -> tuple[str, str]:
    """CLIP's own tokens as transformers reads them: vocab.json and merges.txt, from open_clip's file of merges."""
    import open_clip

    folder.mkdir(parents=True)
    packed = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.decompress(packed.read_bytes()).decode().split("\n")[1:48895]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(code) for code in printable] + [chr(256 + k) for k in range(256 - len(printable))]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair.split()) for pair in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return str(folder / "vocab.json"), str(folder / "merges.txt")


def images(count: int, side: int, seed: int = 0) -> Iterator[Image.Image]:
    """Soft shapes with grain, ``side`` pixels square: they pack like photographs."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (side // 16, side // 16, 3), dtype=np.uint8))
        soft = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)).astype(int)
        yield Image.fromarray((soft + rng.integers(-12, 12, soft.shape)).clip(0, 255).astype(np.uint8))


def diffusiondb(folder: Path, pictures: list[Image.Image], count: int, parts: int, spread: bool) -> None:
    """DiffusionDB's table and zip files of WebP; a prompt's five images in one part, or ``spread`` over the parts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "images").mkdir(parents=True)
    packed = []
    for picture in pictures:
        file = io.BytesIO()
        picture.save(file, "WEBP", quality=90)
        packed.append(file.getvalue())
    archives = [zipfile.ZipFile(folder / "images" / f"part-{k + 1:06d}.zip", "w") for k in range(parts)]
    rows = []
    for k in range(count):
        part = k % parts if spread else k * parts // count
        archives[part].writestr(f"{k:06d}.webp", packed[k % len(packed)])
        rows.append(
            {"image_name": f"{k:06d}.webp", "prompt": f"prompt {k // 5}", "part_id": part + 1, "seed": k}
            | {"step": 50, "cfg": 7.0, "image_nsfw": 0.1}
        )
    for archive in archives:
        archive.close()
    pq.write_table(pa.Table.from_pylist(rows), folder / "metadata-large.parquet")


def clear(folder: Path) -> Path:
    """An empty folder of that name."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
