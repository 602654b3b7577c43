"""The eyes of the simulated raters: small networks that see attributes and flaws in any image.

Generated images come without labels. An *eye* is a convolutional network trained on drawings, whose truth is
known, and on their reconstructions by the autoencoder, whose look generated images share. Eye A is what the
simulated raters choose with. Eye B is smaller, trained apart on other drawings, labels nothing, and
judges the final evaluation only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpslib.critters.attributes import ATTRIBUTES, FLAWS
from hpslib.critters.draw import SIZE
from hpslib.runs.files import written_whole

__all__ = ["Eye", "Seen", "eye_outputs", "load_eye", "look", "save_eye", "to_pixels"]


class Eye(nn.Module):
    """Convolutional network, (n, 3, 64, 64) in [0, 1] -> attribute and flaw logits (n, 24 + 6)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        stages: list[nn.Module] = []
        before = 3
        for after, stride in ((width, 2), (width, 1), (2 * width, 2), (2 * width, 1), (4 * width, 2), (4 * width, 1)):
            stages += [
                nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
            before = after
        self.features = nn.Sequential(*stages)
        # The 8 x 8 map is flattened after a narrow layer: where a mouth or an arm sits must not be averaged away.
        self.narrow = nn.Conv2d(before, 24, 1)
        outputs = sum(len(values) for values in ATTRIBUTES.values()) + len(FLAWS)
        self.head = nn.Sequential(nn.Linear(24 * 64, 128), nn.ReLU(), nn.Linear(128, outputs))

    def maps(self, pixels: Tensor) -> Tensor:
        """What the eye sees where: (n, 24, 8, 8), before the head puts it together."""
        return F.relu(self.narrow(self.features((pixels - 0.5) * 4)))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (n, 24 + 6): the attributes' values one behind the other, then the flaws."""
        return self.head(self.maps(pixels).flatten(1))


@dataclass(frozen=True)
class Seen:
    """What an eye sees in n images.

    ``attributes[name]`` is (n, classes) of probabilities; ``flaws`` is (n, 6) of probabilities in the order of
    :data:`hpslib.critters.attributes.FLAWS`; ``vividness`` is (n,), the mean saturation of the pixels in [0, 1].
    """

    attributes: dict[str, np.ndarray]
    flaws: np.ndarray
    vividness: np.ndarray

    @property
    def flawed(self) -> np.ndarray:
        """(n,) bool: at least one flaw is more likely than not."""
        return self.flaws.max(axis=1) > 0.5

    def match(self, asked: Sequence[dict[str, str]]) -> np.ndarray:
        """(n,) mean probability, over the five attributes, of what each image's prompt asks for."""
        if len(asked) != len(self.flaws):
            raise ValueError(f"{len(asked)} prompts but {len(self.flaws)} images: hand over one for each image.")
        columns = [
            [self.attributes[name][row, values.index(attributes[name])] for name, values in ATTRIBUTES.items()]
            for row, attributes in enumerate(asked)
        ]
        return np.asarray(columns).mean(axis=1)


def to_pixels(images: Sequence[Any] | np.ndarray) -> Tensor:
    """PIL images or a uint8 array (n, 64, 64, 3) -> float32 (n, 3, 64, 64) in [0, 1]; other sizes are resized."""
    if isinstance(images, np.ndarray):
        array = images
    else:
        small = [image if image.size == (SIZE, SIZE) else image.resize((SIZE, SIZE)) for image in images]
        array = np.stack([np.asarray(image.convert("RGB")) for image in small])
    return torch.from_numpy(np.ascontiguousarray(array)).permute(0, 3, 1, 2).float().div(255)


def look(eye: Eye, images: Sequence[Any] | np.ndarray, batch_size: int = 256) -> Seen:
    """Let an eye see ``images`` (PIL or a uint8 array of shape (n, 64, 64, 3)).

    Raises ``ValueError`` when there is none.
    """
    return Seen(*eye_outputs(eye, images, to_pixels, batch_size))


@torch.inference_mode()
def eye_outputs(
    eye: Eye,
    images: Sequence[Any] | np.ndarray,
    pixels_of: Callable[[Sequence[Any] | np.ndarray], Tensor],
    batch_size: int,
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Attributes and the chances behind them, (n, ...), and vividness: the fields of :class:`Seen`.

    ``pixels_of`` makes the eye's input of a batch. Raises ``ValueError`` when there is no image.
    """
    if len(images) == 0:
        raise ValueError("no images to look at: hand over at least one.")
    eye.eval()
    logits, vivid = [], []
    for start in range(0, len(images), batch_size):
        pixels = pixels_of(images[start : start + batch_size])
        logits.append(eye(pixels))
        high, low = pixels.amax(1), pixels.amin(1)
        vivid.append(((high - low) / high.clamp(min=1e-3)).mean((1, 2)))
    together = torch.cat(logits)
    sizes = [len(values) for values in ATTRIBUTES.values()]
    *named, rest = together.split([*sizes, together.shape[1] - sum(sizes)], dim=1)
    attributes = {name: piece.softmax(1).numpy() for name, piece in zip(ATTRIBUTES, named, strict=True)}
    return attributes, rest.sigmoid().numpy(), torch.cat(vivid).numpy()


def save_eye(eye: Eye, path: Path) -> None:
    """Write the weights as float16 safetensors, the width in the header."""
    from safetensors.torch import save_file

    state = {name: weight.contiguous() for name, weight in eye.state_dict().items()}
    weights = {name: weight.half() if weight.is_floating_point() else weight for name, weight in state.items()}
    with written_whole(path) as partial:
        save_file(weights, partial, metadata={"eye": json.dumps({"width": eye.width})})


def load_eye(path: str | Path, build: Callable[..., Eye] = Eye) -> Eye:
    """Read an eye written by :func:`save_eye`, in float32 and evaluation mode; ``build`` makes one of its kind."""
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        eye = build(**json.loads(file.metadata()["eye"]))
        eye.load_state_dict({key: file.get_tensor(key).float() for key in file.keys()})  # noqa: SIM118
    return eye.eval()
