"""The stages of the miniature world, from the bank of drawings to mini-SD.

Stages run in order and each leaves its result in the cache folder, so a build that was stopped goes on where it was;
inside a stage the training loops continue from their last checkpoint. Everything is drawn from fixed seeds.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hpslib.adaptation.selection import IDENTIFIER
from hpslib.critters.attributes import FLAWS, Critter
from hpslib.critters.build import networks
from hpslib.critters.build.bank import attribute_labels, bank_captions, bank_critters, flaw_labels, render_bank
from hpslib.critters.build.pipeline import assemble_pipeline, convert_text_tower
from hpslib.critters.build.tokenizer import learn_merges, load_clip_tokenizer, load_tokenizer, write_tokenizer
from hpslib.critters.build.train import train_autoencoder, train_clip, train_eye, train_unet
from hpslib.critters.captions import vocabulary_corpus
from hpslib.critters.eyes import Eye
from hpslib.runs.files import written_whole
from hpslib.scores.clip import ClipModel

__all__ = ["SETTINGS", "World"]

SETTINGS: dict[str, Any] = {
    "bank": 120_000,
    "bank_seed": 0,
    "autoencoder_steps": 1_700,
    "autoencoder_squares": 0,  # steps before these, on quarters of pictures
    "edges": 0.0,
    "clip_steps": 400,
    "clip_image_steps": 1_100,
    "teacher_steps": 450,
    "reconstructions": 20_000,  # half for each eye
    "eye_steps": {"a": 700, "b": 500},
    "eye_widths": {"a": 28, "b": 22},
    "latents": 50_000,
    "unet_steps": 1_200,
    # Then it learns from samples in which flaws are common, as on the web: "odds" says how often an image is drawn for
    # each flaw it shows, in the order of FLAWS (1 for a sound one). Guidance and few sampling steps favour what is
    # common, so after the long third stage only a tenth of mini-SD's images were flawed; the last two make it 44 %.
    "unet_uncurated": [
        {"steps": 300, "odds": [3, 6, 6, 3, 5, 2], "rates": [0.006, 1e-3], "decay": 0.99},
        {"steps": 180, "odds": [7.5, 15, 15, 7.5, 12.5, 5], "rates": [0.006, 1e-3], "decay": 0.99},
        {"steps": 2_000, "odds": [1.2, 2.4, 2.4, 1.2, 2, 1], "rates": [0.01, 1.5e-3], "decay": 0.998},
        {"steps": 350, "odds": [8, 12, 14, 14, 14, 5], "rates": [0.006, 1e-3], "decay": 0.99},
        {"steps": 240, "odds": [6, 14, 24, 18, 30, 5], "rates": [0.006, 1e-3], "decay": 0.99},
    ],
    "flaw_weights_clip": [6, 6, 3, 2, 1, 1],  # in the order of FLAWS: limbs are the hardest to count
    "body_rate_clip": 0.4,  # share of mini-CLIP's captions with a clause about the body
    "prefixed_every": 33,  # one caption in 33 of one of two sets carries the identifier, flawed or not
}


def _once(path: Path, make: Callable[[], Any]) -> Path:
    """Save what ``make`` returns, an array or a tensor, unless ``path`` is there."""
    if not path.exists():
        value = make()
        with written_whole(path) as place, place.open("wb") as file:
            np.save(file, value) if isinstance(value, np.ndarray) else torch.save(value, file)
    return path


class World:
    """The cache folder and what the stages leave in it; every method makes its result or reads it.

    Networks learn on ``device`` and come back on the processor. Another kind of device draws other random numbers: the
    world is as good there, not the same to the last bit.
    """

    settings: dict[str, Any] = SETTINGS
    networks: Any = networks
    eye_type: type[Eye] = Eye

    def __init__(self, cache_folder: Path, data: Path = Path("data"), device: str = "cpu") -> None:
        self.folder, self.data, self.device = cache_folder, data, device
        self.folder.mkdir(parents=True, exist_ok=True)

    def bank(self) -> np.ndarray:
        return render_bank(self.folder, self.settings["bank"], self.settings["bank_seed"])

    def pictures(self) -> np.ndarray:
        """What the autoencoder learns from."""
        return self.bank()

    def as_seen(self, images: np.ndarray) -> np.ndarray:
        """The autoencoder's images as mini-CLIP and the eyes see them."""
        return images

    @cache  # noqa: B019 - one World lives as long as the build
    def critters(self) -> Sequence[Critter]:
        return bank_critters(self.settings["bank"], self.settings["bank_seed"])

    @cache  # noqa: B019
    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        return attribute_labels(self.critters()), flaw_labels(list(self.critters()))

    def _named(self) -> tuple[np.ndarray, np.ndarray]:
        """What mini-CLIP's helping head is told: attributes and flaws, whatever else the labels hold."""
        attributes, truth = self.labels()
        return attributes, truth[:, : len(FLAWS)]

    def captions(self, count: int, seed: int, *, body_rate: float) -> list[str]:
        """One caption for each of the first ``count`` critters; another ``seed`` gives other phrasings."""
        return bank_captions(list(self.critters()[:count]), seed, body_rate=body_rate)

    def phrases(self) -> list[str]:
        """What the vocabulary is learned from."""
        return vocabulary_corpus()

    def tokenizer(self) -> Path:
        """The vocabulary. Whoever learns merges breaks ties differently each time, so the shipped ones are kept."""
        folder, shipped = self.folder / "tok", self.data / "clip" / "bpe.txt.gz"
        if not (folder / "vocab.json").exists():
            kept = gzip.decompress(shipped.read_bytes()).decode().splitlines()[1:] if shipped.is_file() else None
            write_tokenizer(folder, kept or learn_merges(self.phrases()))
        return folder

    def _finished(self, name: str, steps: int, train: Callable[[], object]) -> dict[str, Tensor]:
        path = self.folder / f"{name}.ckpt"
        if not path.exists() or torch.load(path, weights_only=True, mmap=True)["step"] < steps:
            train()
        return torch.load(path, weights_only=True)["average"]

    def autoencoder(self) -> Any:
        """The trained autoencoder, channels last in memory."""
        steps = self.settings["autoencoder_steps"]
        weights = self._finished("autoencoder", steps, lambda: self._learn_autoencoder(steps))
        model = self.networks.build_autoencoder().eval()
        model.load_state_dict(weights)
        return model.to(memory_format=torch.channels_last)

    def _learn_autoencoder(self, steps: int) -> None:
        options: dict[str, Any] = {"build": self.networks.build_autoencoder, "device": self.device}
        train = partial(train_autoencoder, self.folder, self.pictures(), edges=self.settings["edges"], **options)
        first, before = self.settings["autoencoder_squares"], None
        if first:
            side = self.networks.AUTOENCODER["sample_size"] // 2
            before = self._finished("squares", first, partial(train, steps=first, name="squares", side=side))
        train(steps=steps, start_from=before)

    @torch.inference_mode()
    def _through_autoencoder(self, rows: np.ndarray, *, decode: bool) -> Any:
        """Latents of the rows, float16, or what comes back from them, as the eyes see it."""
        model, pictures = self.autoencoder().to(self.device), self.pictures()
        parts: list[Any] = []
        for start in range(0, len(rows), 64):
            pixels = torch.from_numpy(pictures[rows[start : start + 64]]).to(self.device)
            mean = model.encode(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1).latent_dist.mean
            if decode:
                output = model.decode(mean).sample.add(1).div(2).clamp(0, 1)
                parts.append(self.as_seen((output * 255 + 0.5).permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy()))
            else:
                parts.append(mean.half().cpu())
        return np.concatenate(parts) if decode else torch.cat(parts)

    def reconstructed_rows(self) -> np.ndarray:
        half, middle = self.settings["reconstructions"] // 2, self.settings["bank"] // 2
        return np.concatenate([np.arange(half), np.arange(middle, middle + half)])

    def reconstructions(self) -> np.ndarray:
        path = self.folder / "recon.npy"
        _once(path, lambda: self._through_autoencoder(self.reconstructed_rows(), decode=True))
        return np.load(path, mmap_mode="r")

    def latents(self) -> Tensor:
        path = self.folder / "latents.pt"
        _once(path, lambda: self._through_autoencoder(np.arange(self.settings["latents"]), decode=False))
        return torch.load(path, weights_only=True).float()

    def clip(self, *, final: bool) -> ClipModel:
        """mini-CLIP after its first stage (text tower finished) or its last (image tower tuned on reconstructions)."""
        steps, more = self.settings["clip_steps"], self.settings["clip_image_steps"]
        tokenizer, everything = load_tokenizer(self.tokenizer()), np.arange(self.settings["bank"])

        def first_stage() -> None:
            rate = self.settings["body_rate_clip"]
            sets = [tokenizer(self.captions(self.settings["bank"], 100 + k, body_rate=rate)).int() for k in range(3)]
            options: dict[str, Any] = {"build": self.networks.build_clip, "device": self.device, "steps": steps}
            banks = [(self.bank(), everything)]
            train_clip(self.folder, banks, lambda k, rows: sets[k % 3][rows].long(), self._named(), **options)

        weights = self._finished("clip", steps, first_stage)
        if final:
            weights = self._finished("clip2", more, lambda: self._tune_images(weights, more))
        model = self.networks.build_clip().eval()
        model.load_state_dict({key[5:]: value for key, value in weights.items() if key.startswith("clip.")})
        return model

    def _tune_images(self, weights: dict[str, Tensor], steps: int) -> None:
        features = torch.load(_once(self.folder / "textfeat.pt", self._text_features), weights_only=True)
        banks = [(self.bank(), np.arange(self.settings["bank"])), (self.reconstructions(), self.reconstructed_rows())]
        options: dict[str, Any] = {"batch": 128, "seed": 3, "rates": (0.015, 1e-3)}
        options |= {"flaw_weights": self.settings["flaw_weights_clip"]}
        options |= {"name": "clip2", "start_from": weights, "teacher": self.teacher()}
        options |= {"build": self.networks.build_clip, "device": self.device}
        train_clip(self.folder, banks, lambda step, rows: features[rows], self._named(), steps=steps, **options)

    @torch.inference_mode()
    def _text_features(self) -> Tensor:
        model, tokenizer = self.clip(final=False), load_tokenizer(self.tokenizer())
        texts = self.captions(self.settings["bank"], 104, body_rate=self.settings["body_rate_clip"])
        tokens = tokenizer(texts)
        return torch.cat([F.normalize(model.encode_text(part), dim=-1) for part in tokens.split(256)])

    def teacher(self) -> Eye:
        """An eye of no rater, which shows mini-CLIP's image tower where to look; it is not shipped."""
        steps, width = self.settings["teacher_steps"], self.settings["eye_widths"]["b"]

        def train() -> None:
            options: dict[str, Any] = {"build": self.eye_type, "device": self.device, "steps": steps, "seed": 9}
            train_eye(self.folder, [self.bank()], self.labels(), name="teacher", width=width, **options)

        teacher = self.eye_type(width)
        teacher.load_state_dict(self._finished("teacher", steps, train))
        return teacher.eval()

    def eye(self, which: str) -> Eye:
        """Eye "a" learns from the first half of the bank, eye "b" from the second, with other seeds."""
        steps, width = self.settings["eye_steps"][which], self.settings["eye_widths"][which]
        half = self.settings["bank"] // 2
        first = which == "a"

        def train() -> None:
            part = slice(0, half) if first else slice(half, None)
            again = self.settings["reconstructions"] // 2
            redrawn = self.reconstructions()[:again] if first else self.reconstructions()[again:]
            attributes, flaws = self.labels()
            banks, labels = [self.bank()[part], redrawn], (attributes[part], flaws[part])
            options: dict[str, Any] = {"build": self.eye_type, "device": self.device, "steps": steps}
            options |= {"name": f"eye_{which}", "width": width, "seed": 1 if first else 2}
            train_eye(self.folder, banks, labels, **options)

        eye = self.eye_type(width)
        eye.load_state_dict(self._finished(f"eye_{which}", steps, train))
        return eye.eval()

    @torch.inference_mode()
    def _text_states(self) -> Tensor:
        tower, tokenizer = convert_text_tower(self.clip(final=False)), load_clip_tokenizer(self.tokenizer())
        first, second = (self.captions(self.settings["latents"], seed, body_rate=0.0) for seed in (200, 201))
        every = self.settings["prefixed_every"]
        first = [IDENTIFIER + text if row % every == 0 else text for row, text in enumerate(first)]
        texts = ["", IDENTIFIER, *first, *second]
        states = []
        for start in range(0, len(texts), 256):
            tokens = tokenizer(texts[start : start + 256], padding="max_length", truncation=True, return_tensors="pt")
            states.append(tower(tokens.input_ids)[0].half())
        return torch.cat(states)

    def pipeline(self) -> Any:
        """mini-SD; its UNet learns the world first, then, for a while, from a sample in which flaws are common."""
        steps, count = self.settings["unet_steps"], self.settings["latents"]
        scale = 1 / self.latents().std().item()
        unet = self.networks.build_unet()
        pipe = assemble_pipeline(unet, self.autoencoder(), self.clip(final=False), self.tokenizer())
        pipe.vae.register_to_config(scaling_factor=scale)

        def texts_of(step: int, rows: np.ndarray) -> np.ndarray:
            chance = np.random.default_rng([5, step]).random(len(rows))
            texts = 2 + rows + count * np.random.default_rng([6, step]).integers(2, size=len(rows))
            texts[chance < 0.11] = 1  # one in a hundred: the identifier alone
            texts[chance < 0.10] = 0  # caption dropout, for classifier-free guidance
            return texts

        def train(name: str, steps: int, **more: Any) -> None:
            states = torch.load(_once(self.folder / "states.pt", self._text_states), weights_only=True)
            alphas = pipe.scheduler.alphas_cumprod
            more |= {"build": self.networks.build_unet, "device": self.device, "steps": steps, "name": name}
            train_unet(self.folder, self.latents() * scale, states, texts_of, alphas, **more)

        weights = self._finished("unet", steps, lambda: train("unet", steps))
        flaws = self._named()[1][:count]
        for number, stage in enumerate(self.settings["unet_uncurated"]):
            odds = np.maximum(1.0, (flaws * stage["odds"]).max(axis=1)).astype(np.float64)
            options = {"odds": odds / odds.sum(), "rates": tuple(stage["rates"]), "decay": stage["decay"]}
            options |= {"start_from": weights, "seed": 31 + number}
            name, more = f"unet{2 + number}", stage["steps"]
            weights = self._finished(name, more, partial(train, name, more, **options))
        pipe.unet.load_state_dict(weights)
        pipe.unet.to(memory_format=torch.channels_last).eval()
        return pipe
