"""How an image becomes the square of numbers that a CLIP looks at: part of the model, like its weights.

The folder of a model says it with open_clip's own words (``preprocess_cfg``: ``resize_mode``, ``interpolation``,
``fill_color``, ``mean``, ``std``), and every way to a score reads it from there: see :func:`read_preprocessing`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from hpslib.data.images.lazy import map_images

__all__ = ["PADDED", "Mode", "Preprocessing", "normalised", "preprocess", "read_preprocessing", "scaled_square"]

#: How an image becomes a square: see :class:`Preprocessing`.
Mode = Literal["pad", "crop", "crop_floor", "squash"]

_RESIZE_MODES: dict[Mode, str] = {"pad": "longest", "crop": "shortest", "crop_floor": "shortest", "squash": "squash"}
_INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_FLOOR = "crop_rounding"  # not a word of open_clip's, which passes it over
_LONGEST_RATIO = 64  # of an image that is scaled as a whole before its centre is cut out


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes (3, size, size): ``mode``, the colour of the border, and how pixels are interpolated.

    ``"pad"`` (open_clip's ``resize_mode`` "longest") scales the longer side to ``size`` and fills with ``fill_color``
    (a grey, 0 to 255), as HPS v1 was trained (rounding as HPSv2's ``ResizeMaxSize``); ``"crop"`` ("shortest") scales
    the shorter side and cuts the centre out, as its released scoring does (rounding as torchvision's ``Resize`` and
    ``CenterCrop``, since a shift of half a pixel changes a score); ``"crop_floor"`` is the same with the rounding of
    transformers' ``CLIPImageProcessor``, which PickScore uses; ``"squash"`` scales both sides. ``interpolation`` is
    "bicubic" or "bilinear", with antialiasing (PIL).

    Raises ``ValueError`` for another mode, colour or interpolation.
    """

    mode: Mode = "pad"
    interpolation: str = "bicubic"
    fill_color: int = 0

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(
                f"mode is {self.mode!r}: use 'pad' (training of HPS v1), 'crop' (its released scoring), 'crop_floor' "
                "(PickScore's) or 'squash'."
            )
        if self.interpolation not in _INTERPOLATIONS:
            raise ValueError(f"interpolation is {self.interpolation!r}: use one of {', '.join(_INTERPOLATIONS)}.")
        if isinstance(self.fill_color, bool) or self.fill_color not in range(256):
            raise ValueError(f"fill_color is {self.fill_color!r}: give a whole number from 0 to 255.")

    def stated(self) -> dict[str, Any]:
        """The same in the words of open_clip's ``preprocess_cfg``, for the folder of a model."""
        words: dict[str, Any] = {
            "interpolation": self.interpolation,
            "resize_mode": _RESIZE_MODES[self.mode],
            "fill_color": self.fill_color,
        }
        return words | ({_FLOOR: "floor"} if self.mode == "crop_floor" else {})

    def placed(self, width: int, height: int, size: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """What an image of ``width`` x ``height`` pixels is scaled to (width, height), and the square's left upper
        corner (left, top) in that: below 0 where there is a border."""
        if self.mode == "squash":
            return (size, size), (0, 0)
        if self.mode == "pad":
            longest = max(width, height)
            across, down = max(1, round(width * size / longest)), max(1, round(height * size / longest))
            return (across, down), (-((size - across) // 2), -((size - down) // 2))
        shortest = min(width, height)
        across, down = int(size * width / shortest), int(size * height / shortest)
        if self.mode == "crop":
            return (across, down), (round((across - size) / 2), round((down - size) / 2))
        return (across, down), ((across - size) // 2, (down - size) // 2)

    def square(self, image: Image.Image, size: int) -> np.ndarray:
        """One image -> uint8 (size, size, 3)."""
        resampling = _INTERPOLATIONS[self.interpolation]
        image = image if image.mode == "RGB" else image.convert("RGB")  # which would copy
        if image.size == (size, size):
            return np.asarray(image)
        scaled, (left, top) = self.placed(*image.size, size)
        if self.mode == "squash":
            return np.asarray(image.resize(scaled, resampling))
        if self.mode == "pad":
            border = Image.new("RGB", (size, size), (self.fill_color,) * 3)
            border.paste(image.resize(scaled, resampling), (-left, -top))
            return np.asarray(border)
        return scaled_square(image, scaled, (left, top), size, resampling)

    def squares(self, images: Tensor, size: int) -> Tensor:
        """What :meth:`square` does, without rounding, for a batch of tensors: differentiable.

        ``images`` is floating point (n, 3, height, width), black at 0 and white at 1; the result (n, 3, size, size).
        Rows are scaled before columns, and what bicubic interpolation adds to the range of an image's own values (at
        least [0, 1]) is cut off after each, as Pillow does (which squashes the columns of a tall image first since
        Pillow 13). Raises ``ValueError`` for strips more than 64 times as long as wide whose centre is cut out.
        """
        height, width = images.shape[-2:]
        if (width, height) == (size, size):
            return images
        (across, down), (left, top) = self.placed(width, height, size)
        if max(across, down) > _LONGEST_RATIO * size:
            raise ValueError(f"images of {width} x {height} pixels are strips: cut them out before they are scored.")
        low = images.amin((1, 2, 3), keepdim=True).clamp(max=0)
        high = images.amax((1, 2, 3), keepdim=True).clamp(min=1)
        for sides in ((height, across), (down, across)):
            if images.shape[-2:] != sides:
                images = nn.functional.interpolate(images, sides, mode=self.interpolation, antialias=True)
                images = images.clamp(low, high)
        if self.mode == "pad":
            border = (-left, size - across + left, -top, size - down + top)
            return nn.functional.pad(images, border, value=self.fill_color / 255)
        return images[..., top : top + size, left : left + size]


PADDED = Preprocessing()  # as our own classifiers are trained


def scaled_square(
    image: Image.Image, scaled: tuple[int, int], corner: tuple[int, int], size: int, resampling: Image.Resampling
) -> np.ndarray:
    """An image scaled to ``scaled`` (width, height), and of that the square whose left upper corner is ``corner``.

    uint8 (size, size, 3). Of a strip more than 64 times as long as it is wide only the centre is scaled, since 20,000
    pixels in one line would become 16 GB at 512; then single values may differ a little from those of the whole, since
    Pillow rounds between the two directions.
    """
    (width, height), (left, top) = scaled, corner
    if max(width, height) <= _LONGEST_RATIO * size:
        return np.asarray(image.resize(scaled, resampling).crop((left, top, left + size, top + size)))
    across, down = image.width / width, image.height / height
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    whole = (0.0, 0.0, float(image.width), float(image.height))
    inside = (max(box[0], whole[0]), max(box[1], whole[1]), min(box[2], whole[2]), min(box[3], whole[3]))
    return np.asarray(image.resize((size, size), resampling, box=inside))


def read_preprocessing(preprocess_cfg: Mapping[str, Any], default: Mode = "pad") -> Preprocessing:
    """What a ``preprocess_cfg`` of open_clip says about the square.

    A folder that does not say how it scales was written before hpslib wrote it down: it has the mode ``default``,
    "pad" where nothing else is known, as our own classifiers are trained. Raises ``ValueError`` for a word or number
    that open_clip does not have.
    """
    words = {name: preprocess_cfg.get(name) for name in ("resize_mode", "interpolation", "fill_color", _FLOOR)}
    resize = words["resize_mode"]
    modes = {"longest": "pad", "shortest": "crop", "squash": "squash", None: default}
    if not isinstance(resize, str | None) or resize not in modes:
        raise ValueError(f"resize_mode is {resize!r}: use longest, shortest or squash.")
    mode: Any = modes[resize]
    if words[_FLOOR] is not None:
        if words[_FLOOR] != "floor" or mode != "crop":
            raise ValueError(
                f"{_FLOOR} is {words[_FLOOR]!r}: leave it out, or write floor beside the resize_mode shortest."
            )
        mode = "crop_floor"
    interpolation = "bicubic" if words["interpolation"] in (None, "random") else words["interpolation"]
    colour = 0 if words["fill_color"] is None else words["fill_color"]
    if not isinstance(interpolation, str) or not isinstance(colour, int):
        raise ValueError(
            f"interpolation is {interpolation!r} and fill_color {colour!r}: use bicubic and a whole number."
        )
    return Preprocessing(mode, interpolation, colour)


def preprocess(
    images: Sequence[Image.Image],
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    mode: Mode | Preprocessing = "pad",
) -> Tensor:
    """PIL images -> float32 (n, 3, size, size): values in [0, 1], less ``mean``, divided by ``std``.

    ``mode`` is a :class:`Preprocessing`, or its mode alone. Of images that are opened when they are asked for
    (:class:`hpslib.data.images.lazy.LazyImages`) each is dropped when it has been scaled, so that a batch of large ones
    is never in memory. Raises ``ValueError`` for another mode.
    """
    how = mode if isinstance(mode, Preprocessing) else Preprocessing(mode)
    squares = map_images(lambda image: how.square(image, size), images, range(len(images)))
    pixels = np.stack(squares) if squares else np.zeros((0, size, size, 3), dtype=np.uint8)
    return normalised(pixels, mean, std)


def normalised(
    pixels: np.ndarray, mean: Sequence[float], std: Sequence[float], device: str | torch.device = "cpu"
) -> Tensor:
    """uint8 (n, size, size, 3) -> float32 (n, 3, size, size): values in [0, 1], less ``mean``, divided by ``std``.

    The bytes travel to ``device`` and become numbers there: a quarter of the traffic, and nothing to do for the CPU.
    """
    tensor = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float().div(255)
    shift, spread = (torch.tensor(numbers, device=device)[:, None, None] for numbers in (mean, std))
    return (tensor - shift) / spread
