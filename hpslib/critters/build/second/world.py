"""The stages of the second edition: those of the first, on larger pictures with more to see in them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from hpslib.critters.build import world as first
from hpslib.critters.build.bank import attribute_labels
from hpslib.critters.build.second import networks
from hpslib.critters.build.second.bank import (
    bank_captions,
    bank_critters,
    render_bank,
    truth_labels,
)
from hpslib.critters.second.attributes import Critter
from hpslib.critters.second.captions import vocabulary_corpus
from hpslib.critters.second.eyes import Eye, halved

__all__ = ["SETTINGS", "World"]

SETTINGS: dict[str, Any] = {
    "bank": 90_000,
    "whole": 60_000,  # of them kept at their own size, for the autoencoder
    "bank_seed": 0,
    "autoencoder_squares": 6_000,
    "autoencoder_steps": 3_000,
    "edges": 0.1,
    "clip_steps": 500,
    "clip_image_steps": 1_200,
    "teacher_steps": 500,
    "reconstructions": 12_000,  # half for each eye
    "eye_steps": {"a": 800, "b": 600},
    "eye_widths": {"a": 28, "b": 22},
    "latents": 60_000,
    "unet_steps": 6_000,
    "unet_uncurated": [],
    # Flaws and qualities; mini-CLIP is told of the flaws only. What makes a picture well made it must find out.
    "flaw_weights_clip": [6, 6, 3, 2, 1, 1],
    "body_rate_clip": 0.4,
    "prefixed_every": 33,
}


class World(first.World):
    """The cache folder of the second edition; see :class:`hpslib.critters.build.world.World`."""

    settings = SETTINGS
    networks = networks
    eye_type = Eye

    def _banks(self) -> tuple[np.ndarray, np.ndarray]:
        options = self.settings
        return render_bank(self.folder, options["bank"], options["bank_seed"], whole=options["whole"])

    def bank(self) -> np.ndarray:
        """The drawings as mini-CLIP and the eyes see them, at half the size."""
        return self._banks()[1]

    @cache  # noqa: B019 - one World lives as long as the build
    def critters(self) -> list[Critter]:
        return bank_critters(self.settings["bank"], self.settings["bank_seed"])

    @cache  # noqa: B019
    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        return attribute_labels(self.critters()), truth_labels(self.critters())

    def captions(self, count: int, seed: int, *, body_rate: float) -> list[str]:
        return bank_captions(self.critters()[:count], seed, body_rate=body_rate)

    def phrases(self) -> list[str]:
        return vocabulary_corpus()

    def pictures(self) -> np.ndarray:
        """The drawings at their own size."""
        return self._banks()[0]

    def as_seen(self, images: np.ndarray) -> np.ndarray:
        return halved(images)
