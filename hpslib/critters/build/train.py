"""The four trainings that build the miniature world: mini-CLIP, the autoencoder, mini-SD's UNet, the raters' eyes.

Each reads a bank of images and runs in :func:`hpslib.critters.build.loop.run_loop`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpslib.critters.attributes import ATTRIBUTES
from hpslib.critters.build.loop import augment, bank_pixels, batch_rows, generator_of, normalise, run_loop, squares
from hpslib.critters.build.networks import build_autoencoder, build_clip, build_unet
from hpslib.critters.build.optim import optimizers
from hpslib.critters.eyes import Eye

__all__ = ["train_autoencoder", "train_clip", "train_eye", "train_unet"]


def _image_and_tokens(model: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The image embedding and the last block's patch tokens (n, 64, width)."""
    visual: Any = model.visual
    x = visual.transformer(visual._embeds(pixels))
    pooled, tokens = visual._pool(x)
    return pooled @ visual.proj, tokens


def train_clip(
    folder: Path,
    banks: list[tuple[np.ndarray, np.ndarray]],
    texts_of: Callable[[int, np.ndarray], Tensor],
    labels: tuple[np.ndarray, np.ndarray],
    *,
    steps: int,
    batch: int = 256,
    seed: int = 0,
    start_from: dict[str, Tensor] | None = None,
    name: str = "clip",
    rates: tuple[float, float] = (0.015, 1.5e-3),
    flaw_weights: Sequence[float] = (1.5,) * 6,
    teacher: Any = None,
    build: Callable[[], Any] = build_clip,
    device: str = "cpu",
) -> nn.Module:
    """Train mini-CLIP with the symmetric contrastive loss (Radford et al., 2021).

    ``banks`` holds pairs of images (uint8) and the critter each row shows (drawings, reconstructions). A linear head
    reads attributes and flaws off the image embedding beside the contrastive loss. It stands in for the billions of
    images a real CLIP has seen, and is thrown away afterwards.

    First both towers learn and ``texts_of(step, critters)`` gives tokens. With ``start_from`` the text tower stays as
    it is, so that mini-SD, which was trained on it, keeps understanding its prompts; ``texts_of`` then gives the unit
    text features, computed once. A small vision transformer needs very many images before it counts limbs; a
    convolutional ``teacher`` (an :class:`~hpslib.critters.eyes.Eye` of its own, no rater's) shows it where to look, as
    in DeiT (Touvron et al., 2021): each patch token predicts the teacher's 24 features at its place. ``build``
    makes the model.
    """
    torch.manual_seed(seed)
    model = build()
    attributes, flaws = (torch.from_numpy(array).to(device) for array in labels)
    sizes = [len(values) for values in ATTRIBUTES.values()]
    width, embedding = model.visual.proj.shape
    both = nn.ModuleDict({"clip": model, "head": nn.Linear(embedding, sum(sizes) + flaws.shape[1])})
    if teacher is not None:
        both["pupil"] = nn.Linear(width, 24)
        teacher.to(device)
    if start_from is not None:
        both.load_state_dict(start_from, strict=teacher is None)
        for key, parameter in model.named_parameters():
            parameter.requires_grad_(key.startswith("visual."))
    exclude = ("embedding", "conv1", "head", "pupil", "logit_scale", "text_projection", "visual.proj")
    moving = optimizers(both.to(device), *rates, exclude=exclude)
    weights = torch.tensor(flaw_weights, device=device)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        bank, critters = banks[step % len(banks)]
        rows = batch_rows(seed, step, len(bank), batch)
        shown = critters[rows]
        pixels = augment(bank_pixels(bank, rows, device), generator_of(seed, step, device))
        # In pieces of 64 the activations stay in the processor's cache: a quarter faster than 256 at once.
        parts = [_image_and_tokens(model, part) for part in normalise(pixels).split(64)]
        image = F.normalize(torch.cat([pooled for pooled, _ in parts]), dim=-1)
        text = texts_of(step, shown).to(device)
        if start_from is None:
            text = F.normalize(model.encode_text(text), dim=-1)
        logits = model.logit_scale.exp().clamp(max=100) * image @ text.T
        own = torch.arange(batch, device=device)
        contrastive = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        pieces = both["head"](image * 10).split([*sizes, flaws.shape[1]], dim=1)
        named = sum(F.cross_entropy(p, attributes[shown, k]) for k, p in enumerate(pieces[:-1])) / len(sizes)
        each = F.binary_cross_entropy_with_logits(pieces[-1], flaws[shown], reduction="none").mean(0)
        loss = contrastive + 0.3 * named + (weights * each).mean()
        if teacher is not None:
            with torch.inference_mode():
                target = teacher.maps(pixels).flatten(2).transpose(1, 2)
            predicted = both["pupil"](torch.cat([tokens for _, tokens in parts]))
            loss = loss + F.mse_loss(predicted, target.clone()) / target.var()
        report = {f"flaw{k}": value.item() for k, value in enumerate(each)}
        return loss, {"contrastive": contrastive.item(), "attributes": float(torch.as_tensor(named).detach()), **report}

    both.load_state_dict(run_loop(name, folder, both, moving, loss_of, steps, decay=0.99))
    return both


def train_autoencoder(
    folder: Path,
    bank: np.ndarray,
    *,
    steps: int,
    batch: int = 8,
    seed: int = 0,
    name: str = "autoencoder",
    start_from: dict[str, Tensor] | None = None,
    build: Callable[[], Any] = build_autoencoder,
    edges: float = 0.0,
    side: int | None = None,
    device: str = "cpu",
) -> nn.Module:
    """Train the autoencoder: squared and absolute error, and a weak pull of the latents towards N(0, 1).

    ``edges`` adds the absolute error of the differences between neighbouring pixels, with this weight: without it what
    is hard to place is drawn soft. With ``side`` it sees squares of so many pixels out of the images: at first many
    small steps teach more than few large ones. ``build`` makes the model.
    """
    torch.manual_seed(seed)
    model = build().to(memory_format=torch.channels_last)
    if start_from is not None:
        model.load_state_dict(start_from)
    moving = optimizers(model.to(device), 0.01, 2e-3, exclude=("conv_in", "conv_out", "quant_conv"))

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        pixels = bank_pixels(bank, batch_rows(seed + 7, step, len(bank), batch), device) * 2 - 1
        pixels = pixels if side is None else squares(pixels, side, np.random.default_rng([seed + 8, step]))
        posterior = model.encode(pixels).latent_dist
        output = model.decode(posterior.sample(generator_of(seed, step, device))).sample
        error = F.mse_loss(output, pixels)
        spread = posterior.kl().mean() / posterior.mean[0].numel()
        loss = error + 0.05 * F.l1_loss(output, pixels) + 3e-4 * spread
        if edges:
            wrong = output - pixels
            loss = loss + edges * (wrong.diff(dim=2).abs().mean() + wrong.diff(dim=3).abs().mean())
        return loss, {"psnr": -10 * float(torch.log10(error.detach() / 4)), "kl": spread.item()}

    model.load_state_dict(run_loop(name, folder, model, moving, loss_of, steps, decay=0.999))
    return model


def train_unet(
    folder: Path,
    latents: Tensor,
    text_states: Tensor,
    texts_of: Callable[[int, np.ndarray], np.ndarray],
    alphas_cumprod: Tensor,
    *,
    steps: int,
    batch: int = 64,
    seed: int = 0,
    name: str = "unet",
    start_from: dict[str, Tensor] | None = None,
    odds: np.ndarray | None = None,
    rates: tuple[float, float] = (0.01, 1.5e-3),
    decay: float = 0.998,
    build: Callable[[], Any] = build_unet,
    device: str = "cpu",
) -> nn.Module:
    """Train mini-SD's UNet on cached latents (n, 16, 8, 8) with v-prediction (Salimans and Ho, 2022).

    ``text_states`` (m, 32, 128) holds the text tower's output for every distinct caption and ``texts_of`` the row
    for each image of a batch; which captions are dropped or prefixed is decided there. ``odds`` (n,) sum to 1 and
    say how often an image is drawn (uniform when ``None``). ``rates`` are Muon's and AdamW's, ``decay`` that of the
    weights' moving average, which is what is kept. ``build`` makes the model.
    """
    torch.manual_seed(seed)
    model = build().to(memory_format=torch.channels_last)
    if start_from is not None:
        model.load_state_dict(start_from)
    moving = optimizers(model.to(device), *rates, exclude=("conv_in", "conv_out", "time_embedding"))
    latents, text_states, alphas_cumprod = latents.to(device), text_states.to(device), alphas_cumprod.to(device)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        rows = batch_rows(seed + 11, step, len(latents), batch, odds)
        generator = generator_of(seed, step, device)
        clean = latents[rows].float()
        noise = torch.randn(clean.shape, generator=generator, device=device)
        # Stratified timesteps: every batch covers the whole range, which lowers the variance of the loss.
        spread = torch.arange(batch, device=device) + torch.rand(batch, generator=generator, device=device)
        timesteps = (spread / batch * 1000).long()
        signal = alphas_cumprod[timesteps].sqrt()[:, None, None, None]
        sigma = (1 - alphas_cumprod[timesteps]).sqrt()[:, None, None, None]
        noisy = signal * clean + sigma * noise
        target = signal * noise - sigma * clean
        predicted = model(noisy, timesteps, text_states[texts_of(step, rows)].float()).sample
        loss = F.mse_loss(predicted, target)
        return loss, {}

    model.load_state_dict(run_loop(name, folder, model, moving, loss_of, steps, decay=decay))
    return model


def train_eye(
    folder: Path,
    banks: list[np.ndarray],
    labels: tuple[np.ndarray, np.ndarray],
    *,
    name: str,
    width: int,
    steps: int,
    batch: int = 128,
    seed: int = 0,
    build: Callable[[int], Any] = Eye,
    device: str = "cpu",
) -> nn.Module:
    """Train a simulated raters' eye to read attributes and flaws off drawings and their reconstructions.

    And qualities, where the labels hold them.

    ``build`` makes the network of this ``width``.
    """
    torch.manual_seed(seed)
    model = build(width).to(memory_format=torch.channels_last)
    moving = optimizers(model.to(device), 0.02, 2e-3, exclude=("features.0.", "head.2."))
    attributes, flaws = (torch.from_numpy(array).to(device) for array in labels)
    sizes = [len(values) for values in ATTRIBUTES.values()]

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        bank = banks[step % len(banks)]
        rows = batch_rows(seed + 17, step, len(bank), batch)
        model.train()
        pixels = augment(bank_pixels(bank, rows, device), generator_of(seed, step, device))
        pieces = model(pixels).split([*sizes, flaws.shape[1]], dim=1)
        named = sum(F.cross_entropy(p, attributes[rows, k]) for k, p in enumerate(pieces[:-1])) / len(sizes)
        wrong = F.binary_cross_entropy_with_logits(pieces[-1], flaws[rows])
        return named + 3 * wrong, {"attributes": float(torch.as_tensor(named).detach()), "flaws": wrong.item()}

    model.load_state_dict(run_loop(name, folder, model, moving, loss_of, steps, decay=0.99))
    return model
