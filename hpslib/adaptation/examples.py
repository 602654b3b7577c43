"""Training images for Stable Diffusion, encoded once: latents of the frozen autoencoder, tokens of the captions.

The autoencoder and the text encoder are frozen, so nothing of theirs needs computing twice. A small set keeps its text
states as well; for the paper's 250,000 captions these would take 30 GB, and a step encodes its own few.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hpslib.adaptation.latents import SHARD, CachedLatents, Encode, batches, cached_latents
from hpslib.adaptation.sampling import latent_size
from hpslib.adaptation.selection import IDENTIFIER
from hpslib.data.images.lazy import map_images, names_of, take
from hpslib.runs.distributed import ahead
from hpslib.runs.files import digest
from hpslib.scores.pixels import scaled_square
from hpslib.scores.tokens import check_texts

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Examples", "encode_examples", "encode_texts", "mixture_weights", "square_pixels"]


@dataclass(frozen=True)
class Examples:
    """Encoded training data: scaled ``latents`` (n, c, h, w), of which a tensor of row numbers takes some; ``tokens``
    (m, context) int64 of the distinct captions and their text ``states`` (m, context, width), or ``None`` where each
    step encodes its own; ``caption_rows`` (n,), each image's row among the captions; ``dropped_rows`` (n,), the row
    used when the caption is dropped (the empty text, or the identifier alone for an identified caption);
    ``identified`` (n,) bool; ``kept`` (n,), each image's row among those that were handed over, or ``None`` where none
    was left out."""

    latents: Tensor | CachedLatents
    tokens: Tensor
    states: Tensor | None
    caption_rows: Tensor
    dropped_rows: Tensor
    identified: Tensor
    kept: Tensor | None = None

    def __len__(self) -> int:
        return len(self.latents)


def encode_examples(
    pipe: Any,
    images: np.ndarray | Sequence[Image.Image],
    captions: Sequence[str],
    *,
    identifier: str = IDENTIFIER,
    batch_size: int = 64,
    resolution: int | None = None,
    keep_states: bool = True,
    cache: str | Path | None = None,
    accelerator: Accelerator | None = None,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Examples:
    """Images and their captions -> :class:`Examples`.

    ``images`` is a uint8 array (n, height, width, 3), or n images, which :func:`square_pixels` brings to
    ``resolution`` (default: the model's own, 512 for SD v1.4). Latents are the mean of the autoencoder's distribution,
    scaled; they stay on the pipeline's device, with ``cache`` on the disk (:class:`CachedLatents`): the folder takes
    files of 1,000 latents, float16, each written whole, and what is there is not computed again, be it after a kill, by
    another process of ``accelerator`` (each encodes its share of the files), or for another selection of the same
    images, which are known by their names. Captions longer than the tokenizer's context are cut off by it;
    :func:`hpslib.adaptation.sampling.truncated_prompts` counts them. ``progress`` receives (images in files that are
    there, images). With ``skip_bad`` images that cannot be read are left out, counted in a warning and, in a cache,
    remembered; ``Examples.kept`` then says which rows are left.

    Raises ``ValueError`` when the lengths differ, there is no image, a caption is no text, an image cannot be read, or
    the cache is damaged or was made for other images or another resolution, ``OSError`` when a file of it cannot be
    written.
    """
    if len(images) != len(captions):
        raise ValueError(f"{len(images)} images but {len(captions)} captions: hand over one caption for each image.")
    check_texts(captions, "caption")
    resolution = _resolution(pipe) if resolution is None else resolution
    if len(images) == 0:
        raise ValueError("there are no images to encode: hand over at least one.")

    def encode(rows: Sequence[int]) -> tuple[Tensor, list[int], list[tuple[int, str]]]:
        return _encoded(pipe, images, rows, batch_size, resolution, skip_bad)

    bad: list[tuple[str, str]]
    latents: Tensor | CachedLatents
    if cache is None:
        latents, rows, faults = encode(range(len(images)))
        bad = [(str(row), text) for row, text in faults]
    else:
        latents = _cached(pipe, images, captions, resolution, encode, Path(cache), skip_bad, accelerator, progress)
        bad = latents.bad
        spoilt = {name for name, _ in bad}
        rows = (
            [row for row, name in enumerate(_names(images)) if name not in spoilt] if bad else list(range(len(images)))
        )
    if not rows:
        raise ValueError(f"none of the {len(images)} images can be read, the first: {bad[0][1]}")
    if bad:
        warnings.warn(
            f"{len(bad)} of {len(images)} images cannot be read and are left out, the first: {bad[0][1]}", stacklevel=2
        )
    captions = [captions[row] for row in rows]
    dropped = [identifier if caption.startswith(identifier) else "" for caption in captions]
    unique = list(dict.fromkeys([*captions, *dropped]))
    place = {text: row for row, text in enumerate(unique)}
    tokens, states = encode_texts(pipe, unique, batch_size, keep_states)
    return Examples(
        latents,
        tokens,
        states,
        torch.tensor([place[text] for text in captions], device=pipe.device),
        torch.tensor([place[text] for text in dropped], device=pipe.device),
        torch.tensor([text == identifier for text in dropped]),
        torch.tensor(rows) if bad else None,
    )


def _resolution(pipe: Any) -> int:
    """The side of the square images that the model was made for. ``ValueError`` when its images are no squares."""
    height, width = latent_size(pipe)
    if height != width:
        raise ValueError(f"the UNet's sample_size is {height} x {width}, no square: give a resolution.")
    return height * pipe.vae_scale_factor


@torch.inference_mode()
def encode_texts(
    pipe: Any, texts: Sequence[str], batch_size: int = 64, keep_states: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Tokens (n, context) on the CPU and, if kept, the text encoder's states (n, context, width) on its device."""
    tokens, states = [], []
    for start in range(0, len(texts), batch_size):
        batch, limit = list(texts[start : start + batch_size]), pipe.tokenizer.model_max_length
        padded = pipe.tokenizer(batch, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
        part = padded.input_ids
        tokens.append(part)
        if keep_states:
            states.append(pipe.text_encoder(part.to(pipe.device))[0])
    return torch.cat(tokens), torch.cat(states) if keep_states else None


def square_pixels(images: Sequence[Image.Image], resolution: int) -> np.ndarray:
    """Images -> uint8 (n, resolution, resolution, 3): shorter side scaled (bilinear, as in diffusers' training
    scripts), centre cut out. Images that are opened when they are asked for are scaled one by one."""
    squares = map_images(lambda image: _square(image, resolution), images, range(len(images)))
    return np.stack(squares) if squares else np.empty((0, resolution, resolution, 3), dtype=np.uint8)


def _square(image: Image.Image, resolution: int) -> np.ndarray:
    width, height = (max(resolution, round(side * resolution / min(image.size))) for side in image.size)
    corner = ((width - resolution) // 2, (height - resolution) // 2)
    image = image if image.mode == "RGB" else image.convert("RGB")
    return scaled_square(image, (width, height), corner, resolution, Image.Resampling.BILINEAR)


def _encoded(
    pipe: Any, images: Any, rows: Sequence[int], batch_size: int, resolution: int, skip_bad: bool
) -> tuple[Tensor, list[int], list[tuple[int, str]]]:
    """The scaled latents of these rows, the rows themselves, and (row, sentence) of those that cannot be read."""

    def pixels_of(batch: Sequence[int]) -> tuple[np.ndarray, list[int], list[tuple[int, str]]]:
        if isinstance(images, np.ndarray):
            return images[list(batch)], list(batch), []
        try:
            return square_pixels(take(images, batch), resolution), list(batch), []
        except (ValueError, OSError):
            if not skip_bad:
                raise
        squares, good, faults = [], [], []
        for row in batch:  # one by one, to find out which
            try:
                squares.append(square_pixels([images[row]], resolution)[0])
                good.append(row)
            except (ValueError, OSError) as error:
                faults.append((row, str(error)))
        return np.array(squares).reshape(-1, resolution, resolution, 3), good, faults

    latents, kept, bad = [], [], []
    spans = list(batches(rows, batch_size))
    for pixels, good, faults in ahead(pixels_of, spans, depth=int(pipe.device.type == "cuda")):
        kept += good
        bad += faults
        if not good:
            continue
        with torch.inference_mode():
            scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(pipe.device, pipe.vae.dtype) / 127.5 - 1
            latents.append(pipe.vae.encode(scaled).latent_dist.mean * pipe.vae.config.scaling_factor)
    if not latents:
        side = resolution // pipe.vae_scale_factor
        return torch.empty((0, pipe.vae.config.latent_channels, side, side)), kept, bad
    return torch.cat(latents), kept, bad


def _names(images: Any) -> list[str]:
    """What tells each of these images from others."""
    if isinstance(images, np.ndarray):
        return [digest(torch.from_numpy(np.ascontiguousarray(image))) for image in images]
    return names_of(images, range(len(images)))


def _cached(
    pipe: Any,
    images: Any,
    captions: Sequence[str],
    resolution: int,
    encode: Encode,
    folder: Path,
    skip_bad: bool,
    accelerator: Accelerator | None,
    progress: Callable[[int, int], None] | None,
) -> CachedLatents:
    """The latents in files below ``folder``: what is there is kept, the rest encoded in shares."""
    autoencoder, names = digest(*pipe.vae.state_dict().values()), _names(images)

    def former(rows: range) -> str:  # until files named their images, these and their captions made one hash
        return digest(str(resolution), autoencoder, *(captions[row] for row in rows), *(names[row] for row in rows))

    share: dict[str, Any] = {"keep_bad": skip_bad, "shard": SHARD, "progress": progress}
    if accelerator is not None:
        share |= {"rank": accelerator.process_index, "processes": accelerator.num_processes}
        share |= {"wait": accelerator.wait_for_everyone}
    model = digest(str(resolution), autoencoder)
    return cached_latents(names, encode, folder, model=model, former=former, **share)


def mixture_weights(counts: Sequence[int], shares: Sequence[float]) -> Tensor:
    """The chance of each image, source after source, when source k makes up ``shares[k]`` of what is drawn.

    >>> mixture_weights([2, 4], [0.5, 0.5]).tolist()
    [0.25, 0.25, 0.125, 0.125, 0.125, 0.125]

    Raises ``ValueError`` when the two lists differ in length, a source is empty or the shares do not sum to 1.
    """
    if len(counts) != len(shares) or min(counts, default=0) < 1 or abs(sum(shares) - 1) > 1e-6 or min(shares) < 0:
        raise ValueError(
            f"sources of {list(counts)} images and shares {list(shares)}: give one share for each source, at least one "
            "image in each, and shares that sum to 1."
        )
    return torch.cat([torch.full((count,), share / count) for count, share in zip(counts, shares, strict=True)])
