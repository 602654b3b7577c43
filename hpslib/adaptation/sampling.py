"""Generate images with a ``StableDiffusionPipeline``, each from its own seed.

The noise of an image depends on its seed alone: not on its place in the list, the batch size, or which images are
made beside it. So a before/after pair shares its noise, which the released code's single generator does not ensure.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hpslib.data.images.lazy import to_images
from hpslib.data.pools.pool import pool_table
from hpslib.runs.distributed import fast_dtype
from hpslib.runs.files import check_finite

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["generate", "generate_rows", "initial_noise", "load_pipeline", "truncated_prompts"]


def load_pipeline(folder: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Any:
    """A ``StableDiffusionPipeline`` from a folder in diffusers' layout; nothing is fetched from a hub.

    ``dtype`` defaults to that of :func:`hpslib.runs.distributed.fast_dtype`. Raises ``FileNotFoundError`` when the
    folder holds no pipeline, ``ValueError`` when a part of it is missing, damaged or holds NaN.
    """
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import logging
    from transformers.utils import logging as transformers_logging

    folder = Path(folder)
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no model_index.json: give the folder of a saved StableDiffusionPipeline."
        )
    device = torch.device(device)
    chosen = dtype or fast_dtype(device)
    verbosity, bars = logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # the missing safety checker is meant
    logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()  # it has one of its own, on stderr
    try:
        pipe = StableDiffusionPipeline.from_pretrained(
            folder, dtype=chosen, safety_checker=None, local_files_only=True, use_safetensors=True
        )
    except Exception as error:  # OSError for a missing file, types of their own for a damaged one
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{folder} cannot be loaded as Stable Diffusion ({reason}): fetch its files again.") from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
    for name in ("unet", "vae", "text_encoder"):
        check_finite(getattr(pipe, name).state_dict(), str(folder / name))
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.to(memory_format=torch.channels_last)
    pipe.vae.to(memory_format=torch.channels_last)
    return pipe.to(device)


def initial_noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> torch.Tensor:
    """Standard normal noise (n, *shape), float32, drawn on the CPU: row i depends on ``seeds[i]`` alone."""
    rows = [torch.randn(shape, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
    return torch.stack(rows)


@torch.inference_mode()
def generate(
    pipe: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int,
    guidance_scale: float,
    negative_prompt: str = "",
    batch_size: int = 50,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """One image per (prompt, seed): uint8 (n, height, width, 3).

    ``negative_prompt`` takes the place of the empty prompt in classifier-free guidance; the paper's adapted model uses
    ``"Weird image. "``. Raises ``ValueError`` when the lengths differ, ``RuntimeError`` when a pixel is no number.
    """
    if len(prompts) != len(seeds) or len(prompts) == 0:
        raise ValueError(
            f"{len(prompts)} prompts but {len(seeds)} seeds: hand over one seed for each prompt, and at least one."
        )
    side = pipe.unet.config.sample_size
    images = []
    for start in range(0, len(prompts), batch_size):
        part = slice(start, start + batch_size)
        noise = initial_noise(seeds[part], (pipe.unet.config.in_channels, side, side))
        values = pipe(
            list(prompts[part]),
            negative_prompt=[negative_prompt] * len(noise),
            latents=noise.to(pipe.device, pipe.unet.dtype).to(memory_format=torch.channels_last),
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            output_type="np",
        ).images
        broken = np.flatnonzero(~np.isfinite(values).all(axis=(1, 2, 3)))
        if len(broken):
            raise RuntimeError(
                f"the image of prompt {start + broken[0]} (from 0) is no number ({len(broken)} of {len(values)} in its "
                "batch): fetch the model again, or compute in float32."
            )
        images.append((values * 255).round().astype(np.uint8))
        if progress is not None:
            progress(min(start + batch_size, len(prompts)), len(prompts))
    return np.concatenate(images)


def generate_rows(
    pipe: Any, prompts: Sequence[str], rows: range, *, seed: int, steps: int, guidance_scale: float, **options: Any
) -> pa.Table:
    """The images of ``prompts[row]`` for each row as :func:`hpslib.data.pools.pool.pool_table` keeps them, in PNG.

    Row k is made from the noise of ``seed + k``, whatever the other rows are. ``options`` go to
    :func:`hpslib.adaptation.sampling.generate`, which raises ``RuntimeError`` when a pixel is no number.
    """
    texts, seeds = [prompts[row] for row in rows], [seed + row for row in rows]
    pixels = generate(pipe, texts, seeds, steps=steps, guidance_scale=guidance_scale, **options)
    files = [io.BytesIO() for _ in rows]
    for image, file in zip(to_images(pixels), files):
        image.save(file, "PNG")
    images = [file.getvalue() for file in files]
    return pool_table(texts, seeds, images, step=steps, cfg=guidance_scale, first=rows.start)


def truncated_prompts(pipe: Any, prompts: Sequence[str]) -> list[int]:
    """The rows of prompts longer than the text encoder's context (SD v1.4: 77 tokens): count and report them."""
    limit = pipe.tokenizer.model_max_length
    lengths = [len(tokens) for tokens in pipe.tokenizer(list(prompts), truncation=False, verbose=False).input_ids]
    return [row for row, length in enumerate(lengths) if length > limit]
