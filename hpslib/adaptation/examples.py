"""Training images for Stable Diffusion, encoded once: latents of the frozen autoencoder, tokens of the captions.

The autoencoder and the text encoder are frozen, so nothing of theirs needs computing twice. A small set keeps its text
states as well; for the paper's 250,000 captions these would take 30 GB, and a step encodes its own few.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hpslib.adaptation.sampling import latent_size
from hpslib.adaptation.selection import IDENTIFIER
from hpslib.data.images.lazy import names_of, open_all
from hpslib.runs.distributed import ahead
from hpslib.runs.files import digest, written_whole
from hpslib.scores.tokens import check_texts

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["CachedLatents", "Examples", "encode_examples", "encode_texts", "mixture_weights", "square_pixels"]

SHARD = 1_000  # images in one cached file: half an hour's loss at worst, and 33 MB at 512 pixels


class CachedLatents:
    """The latents of all cached files as one array, ``shape`` (n, c, h, w): rows are read when they are asked for.

    The files are mapped into memory, not read: 260,000 latents of 512 pixels are 8.5 GB, which all processes of a
    machine then share.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        from safetensors import safe_open

        self._parts: list[Tensor] = []
        self.made_of: list[str] = []
        for file in files:
            with safe_open(file, "pt") as content:
                self._parts.append(content.get_tensor("latents"))
                self.made_of.append((content.metadata() or {})["made_of"])  # images and captions, by name
        self.shape = (sum(map(len, self._parts)), *self._parts[0].shape[1:])

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: Tensor) -> Tensor:
        """The latents of these rows (k,), float16."""
        return torch.stack([self._parts[row // SHARD][row % SHARD] for row in rows.tolist()])


@dataclass(frozen=True)
class Examples:
    """Encoded training data: scaled ``latents`` (n, c, h, w), of which a tensor of row numbers takes some; ``tokens``
    (m, context) int64 of the distinct captions and their text ``states`` (m, context, width), or ``None`` where each
    step encodes its own; ``caption_rows`` (n,), each image's row among the captions; ``dropped_rows`` (n,), the row
    used when the caption is dropped (the empty text, or the identifier alone for an identified caption);
    ``identified`` (n,) bool."""

    latents: Tensor | CachedLatents
    tokens: Tensor
    states: Tensor | None
    caption_rows: Tensor
    dropped_rows: Tensor
    identified: Tensor

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
    progress: Callable[[int, int], None] | None = None,
) -> Examples:
    """Images and their captions -> :class:`Examples`.

    ``images`` is a uint8 array (n, height, width, 3), or n images, which :func:`square_pixels` brings to
    ``resolution`` (default: the model's own, 512 for SD v1.4). Latents are the mean of the autoencoder's distribution,
    scaled; they stay on the pipeline's device, with ``cache`` on the disk (:class:`CachedLatents`): the folder takes
    files of 1,000 latents, float16, each written whole, and what is there is not computed again, neither after a kill nor
    by another process of ``accelerator`` (each encodes its share of the files). Captions longer than the tokenizer's
    context are cut off by it; :func:`hpslib.adaptation.sampling.truncated_prompts` counts them.
    ``progress`` receives (images in files that are there, images).

    Raises ``ValueError`` when the lengths differ or the cache was made for other captions or another resolution,
    ``OSError`` when a file of it cannot be written.
    """
    if len(images) != len(captions):
        raise ValueError(f"{len(images)} images but {len(captions)} captions: hand over one caption for each image.")
    check_texts(captions, "caption")
    resolution = _resolution(pipe) if resolution is None else resolution
    dropped = [identifier if caption.startswith(identifier) else "" for caption in captions]
    unique = list(dict.fromkeys([*captions, *dropped]))
    place = {text: row for row, text in enumerate(unique)}
    tokens, states = encode_texts(pipe, unique, batch_size, keep_states)
    if cache is None:
        parts = range(0, len(images), batch_size)
        latents: Tensor | CachedLatents = torch.cat(
            list(_latents(pipe, images, [(k, k + batch_size) for k in parts], resolution))
        )
    else:
        latents = _cached_latents(pipe, images, captions, batch_size, resolution, Path(cache), accelerator, progress)
    return Examples(
        latents,
        tokens,
        states,
        torch.tensor([place[text] for text in captions], device=pipe.device),
        torch.tensor([place[text] for text in dropped], device=pipe.device),
        torch.tensor([text == identifier for text in dropped]),
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
    scripts), centre cut out."""
    pixels = np.empty((len(images), resolution, resolution, 3), dtype=np.uint8)
    for row, image in enumerate(images):
        width, height = (max(resolution, round(side * resolution / min(image.size))) for side in image.size)
        left, top = (width - resolution) // 2, (height - resolution) // 2
        scaled = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        pixels[row] = np.asarray(scaled.crop((left, top, left + resolution, top + resolution)))
    return pixels


def _latents(pipe: Any, images: Any, spans: Sequence[tuple[int, int]], resolution: int) -> Any:
    """The scaled latents of each span of rows, one tensor after the other."""

    def pixels_of(span: tuple[int, int]) -> np.ndarray:
        start, stop = span[0], min(span[1], len(images))
        if isinstance(images, np.ndarray):
            return images[start:stop]
        return square_pixels(open_all(images, range(start, stop)), resolution)

    for pixels in ahead(pixels_of, spans, depth=int(pipe.device.type == "cuda")):
        with torch.inference_mode():
            scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(pipe.device, pipe.vae.dtype) / 127.5 - 1
            yield pipe.vae.encode(scaled).latent_dist.mean * pipe.vae.config.scaling_factor


def _names(images: Any, start: int, stop: int) -> list[str]:
    """What tells the images of these rows from others."""
    if isinstance(images, np.ndarray):
        return [digest(torch.from_numpy(np.ascontiguousarray(images[start:stop])))]
    return names_of(images, range(start, stop))


def _cached_latents(
    pipe: Any,
    images: Any,
    captions: Sequence[str],
    batch_size: int,
    resolution: int,
    folder: Path,
    accelerator: Accelerator | None,
    progress: Callable[[int, int], None] | None,
) -> CachedLatents:
    """The latents in files of a thousand below ``folder``: what is there is kept, the rest encoded in shares."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    rank, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    folder.mkdir(parents=True, exist_ok=True)
    autoencoder = digest(*pipe.vae.state_dict().values())
    files = []
    for number, start in enumerate(range(0, len(images), SHARD)):
        stop = min(start + SHARD, len(images))
        made_of = digest(str(resolution), autoencoder, *captions[start:stop], *_names(images, start, stop))
        file = folder / f"latents-{number:05d}.safetensors"
        files.append(file)
        if file.exists():
            try:
                with safe_open(file, "pt") as content:
                    before = (content.metadata() or {}).get("made_of")
            except Exception as error:  # safetensors raises a type of its own
                raise ValueError(f"{file} is cut off or no safetensors file: delete it, it is made anew.") from error
            if before != made_of:
                raise ValueError(
                    f"{file} was made for other images, captions or models: name another cache or delete it."
                )
        elif number % processes == rank:
            spans = [(k, min(k + batch_size, stop)) for k in range(start, stop, batch_size)]
            latents = torch.cat([part.half().cpu() for part in _latents(pipe, images, spans, resolution)])
            with written_whole(file) as partial:
                save_file({"latents": latents.contiguous()}, partial, metadata={"made_of": made_of})
        if progress is not None:
            progress(stop, len(images))
    if accelerator is not None:
        accelerator.wait_for_everyone()
    return CachedLatents(files)


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
