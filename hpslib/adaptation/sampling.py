"""Generate images with a ``StableDiffusionPipeline``, each from its own seed.

The noise of an image depends on its seed alone: not on its place in the list, the batch size, or which images are
made beside it. So a before/after pair shares its noise, which the released code's single generator does not ensure.
"""

from __future__ import annotations

import copy
import inspect
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hpslib.adaptation.lora import fused_lora
from hpslib.adaptation.model_folder import (
    check_index,
    check_settings,
    check_timesteps,
    check_weights,
    damaged_part,
    dtype_option,
    limit_tokens,
    load_tokenizer,
    quiet,
    restore_text_encoder,
)
from hpslib.data.images.lazy import to_images
from hpslib.data.pools.pool import pool_table
from hpslib.runs.distributed import fast_dtype
from hpslib.runs.files import check_finite, one_line
from hpslib.scores.tokens import check_texts

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["generate", "generate_rows", "initial_noise", "latent_size", "load_pipeline", "truncated_prompts"]

#: Schedulers whose steps draw noise for the whole batch at once, from no generator that could be handed over.
_BATCH_NOISE = ("DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler")


def load_pipeline(folder: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Any:
    """A ``StableDiffusionPipeline`` from a folder in diffusers' layout; nothing is fetched from a hub.

    ``dtype`` defaults to that of :func:`hpslib.runs.distributed.fast_dtype`. Raises ``FileNotFoundError`` when the
    folder holds no pipeline, ``ValueError`` when it is another kind of pipeline, or a part of it is missing, damaged,
    lacks weights, has others, or holds NaN.
    """
    from diffusers import StableDiffusionPipeline

    folder = Path(folder)
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no model_index.json: give the folder of a saved StableDiffusionPipeline."
        )
    check_index(folder / "model_index.json")
    check_timesteps(folder / "scheduler" / "scheduler_config.json")
    device = torch.device(device)
    chosen = dtype or fast_dtype(device)
    options = {"safety_checker": None, "local_files_only": True, "use_safetensors": True, **dtype_option(chosen)}
    with quiet(), torch.random.fork_rng(devices=[]):  # what a release draws at random is not drawn from the caller's
        try:
            tokenizer = load_tokenizer(folder / "tokenizer")
            if tokenizer is None:
                pipe = StableDiffusionPipeline.from_pretrained(folder, **options)
            else:
                pipe = StableDiffusionPipeline.from_pretrained(folder, **options, tokenizer=None)
                pipe.register_modules(tokenizer=tokenizer)
        except Exception as error:  # OSError for a missing file, types of their own for a damaged one
            reason = damaged_part(folder) or one_line(error)
            raise ValueError(
                f"{folder} cannot be loaded as Stable Diffusion ({reason}): fetch its files again."
            ) from error
    check_settings(folder, pipe)
    restore_text_encoder(folder / "text_encoder", pipe.text_encoder)
    for name in ("unet", "vae", "text_encoder"):
        state = getattr(pipe, name).state_dict()
        check_weights(folder / name, name, state)
        check_finite(state, str(folder / name))
    with quiet():
        _try_scheduler(pipe, folder)
    limit_tokens(pipe, folder)
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.to(memory_format=torch.channels_last)
    pipe.vae.to(memory_format=torch.channels_last)
    return pipe.to(device)


def _try_scheduler(pipe: Any, folder: Path) -> None:
    """A configuration that the scheduler takes may still fail at its first use: try a copy of it."""
    try:
        scheduler, noise = copy.deepcopy(pipe.scheduler), torch.zeros(1, 4, 2, 2)
        scheduler.set_timesteps(4)
        first = scheduler.timesteps[0]
        scheduler.step(noise, first, scheduler.scale_model_input(noise, first))
    except Exception as error:  # of any type: its fields are handed on unchecked
        raise ValueError(
            f"{folder}/scheduler/scheduler_config.json cannot be used ({one_line(error)}): fetch it again."
        ) from error


def latent_size(pipe: Any) -> tuple[int, int]:
    """Height and width of the latents that the UNet was made for: its ``sample_size``, a number or a pair.

    Raises ``ValueError`` when its configuration does not say.
    """
    size = pipe.unet.config.sample_size
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides):
        raise ValueError(
            f"the UNet's sample_size is {size!r}: write the side of its latents into unet/config.json (64 for Stable "
            "Diffusion v1.4)."
        )
    return sides[0], sides[1]


def initial_noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> torch.Tensor:
    """Standard normal noise (n, *shape), float32, drawn on the CPU: row i depends on ``seeds[i]`` alone.

    Raises ``ValueError`` for a seed that is no whole number from -2^63 to 2^64 - 1, which is what torch takes.
    """
    return _noise(seeds, shape)[0]


def _noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> tuple[torch.Tensor, list[torch.Generator]]:
    """The noise of :func:`initial_noise`, and each image's generator where that has left it."""
    generators = [torch.Generator().manual_seed(seed) for seed in map(_seed, seeds)]
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators]), generators


def _seed(seed: Any) -> int:
    try:
        number = int(seed)
        if number != seed or isinstance(seed, str) or not -(2**63) <= number < 2**64:
            raise ValueError
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"the seed {seed!r} is none: give whole numbers from 0 to 2^64 - 1.") from error
    return number


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
    ``"Weird image. "``. In float32 LoRAs are fused (:func:`hpslib.adaptation.lora.fused_lora`); each distinct text is
    encoded once a batch. A scheduler that adds noise in its steps (Euler ancestral, DDPM, ...) draws each image's from
    the generator that has drawn its first noise, so that images do not depend on their batch there either. Raises
    ``ValueError`` when the lengths differ, a prompt is no text, a seed or a number none, there is a negative prompt but
    no guidance, or the scheduler only has noise for whole batches; ``RuntimeError`` when a pixel is no number.
    """
    if len(prompts) != len(seeds) or len(prompts) == 0:
        raise ValueError(
            f"{len(prompts)} prompts but {len(seeds)} seeds: hand over one seed for each prompt, and at least one."
        )
    check_texts(prompts)
    check_texts([negative_prompt], "negative prompt")
    _check_numbers(steps, guidance_scale, batch_size)
    if negative_prompt.strip() and guidance_scale <= 1:
        raise ValueError(
            f"the negative prompt {negative_prompt!r} has no effect with guidance_scale {guidance_scale}: use a "
            "guidance_scale above 1, or leave the negative prompt out."
        )
    _check_scheduler(getattr(pipe, "scheduler", None))
    height, width = latent_size(pipe)
    sides = {}
    if height != width:  # older releases of diffusers only know one side of the UNet's own
        sides = {"height": height * pipe.vae_scale_factor, "width": width * pipe.vae_scale_factor}
    images = []
    with fused_lora(pipe):
        refused = _states(pipe, [negative_prompt]) if guidance_scale > 1 else None
        for start in range(0, len(prompts), batch_size):
            part = slice(start, start + batch_size)
            noise, generators = _noise(seeds[part], (pipe.unet.config.in_channels, height, width))
            values = pipe(
                **sides,
                prompt_embeds=_states(pipe, prompts[part]),
                negative_prompt_embeds=None if refused is None else refused.expand(len(noise), -1, -1),
                latents=noise.to(pipe.device, pipe.unet.dtype).to(memory_format=torch.channels_last),
                generator=generators,
                num_inference_steps=steps,
                guidance_scale=guidance_scale,
                output_type="np",
            ).images
            images.append(_grey_levels(values, start))
            if progress is not None:
                progress(min(start + batch_size, len(prompts)), len(prompts))
    return np.concatenate(images)


def _states(pipe: Any, texts: Sequence[str]) -> torch.Tensor:
    """The text encoder's states (n, tokens, width), each distinct text encoded once."""
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    states, _ = pipe.encode_prompt(list(rows), pipe.device, 1, False)
    return states[[rows[text] for text in texts]]


def _grey_levels(values: np.ndarray, first: int) -> np.ndarray:
    """Values in [0, 1] as uint8; raises ``RuntimeError`` with the prompt's place where one is no number."""
    broken = np.flatnonzero(~np.isfinite(values).all(axis=(1, 2, 3)))
    if len(broken):
        raise RuntimeError(
            f"the image of prompt {first + broken[0]} (from 0) is no number ({len(broken)} of {len(values)} in its "
            "batch): fetch the model again, or compute in float32."
        )
    return (values * 255).round().astype(np.uint8)


def _check_numbers(steps: int, guidance_scale: float, batch_size: int) -> None:
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} is {value!r}: give a whole number of at least 1.")
    if not isinstance(guidance_scale, int | float | np.number) or not math.isfinite(guidance_scale):
        raise ValueError(f"guidance_scale is {guidance_scale!r}: give a number.")


def _check_scheduler(scheduler: Any) -> None:
    """Raise ``ValueError`` where the noise of a step cannot be each image's own."""
    name = type(scheduler).__name__
    sde = scheduler is not None and "sde" in str(scheduler.config.get("algorithm_type", ""))
    if name in _BATCH_NOISE or (sde and "generator" not in inspect.signature(scheduler.step).parameters):
        raise ValueError(
            f"{name} draws its noise for a whole batch, so that an image would depend on those beside it: use a "
            "scheduler without, such as DPMSolverMultistepScheduler."
        )


def generate_rows(
    pipe: Any, prompts: Sequence[str], rows: range, *, seed: int, steps: int, guidance_scale: float, **options: Any
) -> pa.Table:
    """The images of ``prompts[row]`` for each row as :func:`hpslib.data.pools.pool.pool_table` keeps them, in PNG.

    Row k is made from the noise of ``seed + k``, whatever the other rows are. ``options`` go to
    :func:`hpslib.adaptation.sampling.generate`, which raises ``ValueError`` and ``RuntimeError``. Raises ``ValueError``
    too when a seed has no room in the table (2^63 and more).
    """
    first = _seed(seed)
    texts, seeds = [prompts[row] for row in rows], [first + row for row in rows]
    if seeds and not -(2**63) <= seeds[0] <= seeds[-1] < 2**63:
        raise ValueError(f"the seed {seed} has no room in a table: give one below 2^63, less the number of images.")
    pixels = generate(pipe, texts, seeds, steps=steps, guidance_scale=guidance_scale, **options)
    files = [io.BytesIO() for _ in rows]
    for image, file in zip(to_images(pixels), files):
        image.save(file, "PNG")
    images = [file.getvalue() for file in files]
    return pool_table(texts, seeds, images, step=steps, cfg=guidance_scale, first=rows.start)


def truncated_prompts(pipe: Any, prompts: Sequence[str]) -> list[int]:
    """The rows of prompts of which not all is read, so count and report them: those longer than the text encoder's
    context (SD v1.4: 77 tokens), and those with the token of the end (``<|endoftext|>``) in them."""
    if not len(prompts):
        return []
    check_texts(prompts)
    limit, end = pipe.tokenizer.model_max_length, pipe.tokenizer.eos_token_id
    ids = pipe.tokenizer(list(prompts), truncation=False, verbose=False).input_ids
    return [row for row, tokens in enumerate(ids) if len(tokens) > limit or end in tokens[1:-1]]
