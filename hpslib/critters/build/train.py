"""The training loops that build the miniature world: mini-CLIP, the autoencoder, the raters' eyes, mini-SD.

Each loop reads a bank of pictures, draws batch ``k`` from ``(seed, k)`` alone, writes a checkpoint now and then
and continues from it, so that a build which was stopped ends with the weights of one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpslib.critters.build.optim import average_weights, optimizers, set_rate
from hpslib.runs.checkpoints import load_checkpoint, save_checkpoint

__all__ = [
    "AUTOENCODER",
    "CLIP",
    "MEAN",
    "STD",
    "UNET",
    "augment",
    "build_autoencoder",
    "build_clip",
    "build_unet",
    "normalise",
    "run_loop",
    "train_autoencoder",
    "train_clip",
    "train_eye",
    "train_unet",
]

# The genuine classes, small: every number is a constructor argument of open_clip or diffusers.
CLIP: dict[str, Any] = {
    "embed_dim": 128,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "layers": 4, "width": 128, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 32, "vocab_size": 889, "width": 128, "heads": 4, "layers": 3},
}
AUTOENCODER: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [16, 32, 64, 96],
    "layers_per_block": 1,
    "latent_channels": 16,
    "norm_num_groups": 8,
    "sample_size": 64,
    "mid_block_add_attention": False,
}
UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 16,
    "out_channels": 16,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [64, 128],
    "layers_per_block": 1,
    "cross_attention_dim": 128,
    "attention_head_dim": 32,
    "norm_num_groups": 16,
}
MEAN = (0.48145466, 0.4578275, 0.40821073)  # OpenAI CLIP's
STD = (0.26862954, 0.26130258, 0.27577711)


def build_clip() -> Any:
    from open_clip.model import CLIP as OpenClip

    return OpenClip(**CLIP)


def build_autoencoder() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(**AUTOENCODER)


def build_unet() -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**UNET)


def run_loop(
    name: str,
    folder: Path,
    model: nn.Module,
    made: list[torch.optim.Optimizer],
    loss_of: Callable[[int], tuple[Tensor, dict[str, float]]],
    steps: int,
    *,
    decay: float = 0.995,
    save_every: int = 500,
    log_every: int = 100,
) -> dict[str, Tensor]:
    """Optimise ``loss_of(step)`` for ``steps`` steps; return the averaged weights (also left in the checkpoint)."""
    path = folder / f"{name}.ckpt"
    average: dict[str, Tensor] = {}
    start = 0
    saved = load_checkpoint(path)
    if saved is not None:
        model.load_state_dict(saved["model"])
        average, start = saved["average"], saved["step"]
        for optimizer, state in zip(made, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
    began, seen = time.perf_counter(), start
    for step in range(start, steps):
        set_rate(made, step, steps)
        loss, report = loss_of(step)
        if not torch.isfinite(loss):  # before the weights are touched: the last checkpoint stays good
            raise ValueError(f"{name}: the loss is {loss.item()} at step {step}; lower the learning rate.")
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in made:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        average_weights(average, model, min(decay, (step + 1) / (step + 10)))
        last = step + 1 == steps
        if (step + 1) % log_every == 0 or last:
            rate = (step + 1 - seen) / (time.perf_counter() - began)
            figures = "  ".join(f"{key} {value:.4f}" for key, value in report.items())
            print(f"{name} {step + 1}/{steps}  loss {loss.item():.4f}  {figures}  {rate:.2f} steps/s", flush=True)
        if (step + 1) % save_every == 0 or last:
            states = [optimizer.state_dict() for optimizer in made]
            save_checkpoint(path, model=model.state_dict(), average=average, step=step + 1, optimizers=states)
    return average


def _picks(seed: int, step: int, count: int, batch: int, odds: np.ndarray | None = None) -> np.ndarray:
    rng = np.random.default_rng([seed, step])
    return np.sort(rng.integers(count, size=batch) if odds is None else rng.choice(count, size=batch, p=odds))


def _pixels(bank: np.ndarray, picks: np.ndarray) -> Tensor:
    """Pictures as float32 (batch, 3, 64, 64) in [0, 1], channels last in memory."""
    return torch.from_numpy(bank[picks]).permute(0, 3, 1, 2).float().div(255)


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the pictures; soften and add noise by random amounts, as an autoencoder would."""
    n = len(pixels)
    mirror = torch.rand(n, generator=generator) < 0.5
    pixels = torch.where(mirror[:, None, None, None], pixels.flip(3), pixels)
    soft = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    amount = torch.rand(n, 1, 1, 1, generator=generator) * 0.8
    noise = torch.randn(pixels.shape, generator=generator) * torch.rand(n, 1, 1, 1, generator=generator) * 0.04
    return (pixels + amount * (soft - pixels) + noise).clamp(0, 1)


def normalise(pixels: Tensor) -> Tensor:
    """[0, 1] -> the input of mini-CLIP."""
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


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
    flaw_weights: tuple[float, ...] = (1.5,) * 6,
    teacher: Any = None,
) -> nn.Module:
    """Train mini-CLIP with the symmetric contrastive loss (Radford et al., 2021).

    ``banks`` holds pairs of pictures and the critter each row shows (drawings, reconstructions). A linear head reads
    attributes and flaws off the image embedding beside the contrastive loss. It stands in for the billions of
    pictures a real CLIP has seen, and is thrown away afterwards.

    First both towers learn and ``texts_of(step, critters)`` gives tokens. With ``start_from`` the text tower stays as
    it is, so that mini-SD, which was trained on it, keeps understanding its prompts; ``texts_of`` then gives the unit
    text features, computed once. A small vision transformer needs very many pictures before it counts limbs; a
    convolutional ``teacher`` (an :class:`~hpslib.critters.eyes.Eye` of its own, no rater's) shows it where to look, as
    in DeiT (Touvron et al., 2021): each patch token predicts the teacher's 24 features at its place.
    """
    from hpslib.critters.draw import ATTRIBUTES

    torch.manual_seed(seed)
    model = build_clip()
    attributes, flaws = (torch.from_numpy(array) for array in labels)
    sizes = [len(values) for values in ATTRIBUTES.values()]
    head = nn.Linear(CLIP["embed_dim"], sum(sizes) + flaws.shape[1])
    both = nn.ModuleDict({"clip": model, "head": head})
    if teacher is not None:
        both["pupil"] = nn.Linear(CLIP["vision_cfg"]["width"], 24)
    if start_from is not None:
        both.load_state_dict(start_from, strict=teacher is None)
        for key, parameter in model.named_parameters():
            parameter.requires_grad_(key.startswith("visual."))
    exclude = ("embedding", "conv1", "head", "pupil", "logit_scale", "text_projection", "visual.proj")
    made = optimizers(both, *rates, exclude=exclude)
    weights = torch.tensor(flaw_weights)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        pictures, critters = banks[step % len(banks)]
        rows = _picks(seed, step, len(pictures), batch)
        picks = critters[rows]
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        pixels = augment(_pixels(pictures, rows), generator)
        # In pieces of 64 the activations stay in the processor's cache: a quarter faster than 256 at once.
        parts = [_image_and_tokens(model, part) for part in normalise(pixels).split(64)]
        image = F.normalize(torch.cat([pooled for pooled, _ in parts]), dim=-1)
        text = texts_of(step, picks)
        if start_from is None:
            text = F.normalize(model.encode_text(text), dim=-1)
        logits = model.logit_scale.exp().clamp(max=100) * image @ text.T
        target = torch.arange(batch)
        contrastive = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        pieces = head(image * 10).split([*sizes, flaws.shape[1]], dim=1)
        named = sum(F.cross_entropy(p, attributes[picks, k]) for k, p in enumerate(pieces[:-1])) / len(sizes)
        each = F.binary_cross_entropy_with_logits(pieces[-1], flaws[picks], reduction="none").mean(0)
        loss = contrastive + 0.3 * named + (weights * each).mean()
        if teacher is not None:
            with torch.inference_mode():
                shown = teacher.maps(pixels).flatten(2).transpose(1, 2)
            seen = both["pupil"](torch.cat([tokens for _, tokens in parts]))
            loss = loss + F.mse_loss(seen, shown.clone()) / shown.var()
        report = {f"flaw{k}": value.item() for k, value in enumerate(each)}
        return loss, {"contrastive": contrastive.item(), "attributes": float(torch.as_tensor(named).detach()), **report}

    both.load_state_dict(run_loop(name, folder, both, made, loss_of, steps, decay=0.99))
    return both


def train_autoencoder(folder: Path, bank: np.ndarray, *, steps: int, batch: int = 8, seed: int = 0) -> nn.Module:
    """Train the autoencoder: squared and absolute error, and a weak pull of the latents towards N(0, 1)."""
    torch.manual_seed(seed)
    model = build_autoencoder().to(memory_format=torch.channels_last)
    made = optimizers(model, 0.01, 2e-3, exclude=("conv_in", "conv_out", "quant_conv"))

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        pixels = _pixels(bank, _picks(seed + 7, step, len(bank), batch)) * 2 - 1
        posterior = model.encode(pixels).latent_dist
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        output = model.decode(posterior.sample(generator)).sample
        error = F.mse_loss(output, pixels)
        spread = posterior.kl().mean() / posterior.mean[0].numel()
        loss = error + 0.05 * F.l1_loss(output, pixels) + 3e-4 * spread
        return loss, {"psnr": -10 * float(torch.log10(error / 4)), "kl": spread.item()}

    model.load_state_dict(run_loop("autoencoder", folder, model, made, loss_of, steps, decay=0.999))
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
) -> nn.Module:
    """Train mini-SD's UNet on cached latents (n, 16, 8, 8) with v-prediction (Salimans and Ho, 2022).

    ``text_states`` (m, 32, 128) holds the text tower's output for every distinct caption and ``texts_of`` the row
    for each picture of a batch; which captions are dropped or prefixed is decided there. ``odds`` (n,) sum to 1 and
    say how often a picture is drawn (uniform when ``None``). ``rates`` are Muon's and AdamW's, ``decay`` that of the
    weights' moving average, which is what is kept.
    """
    torch.manual_seed(seed)
    model = build_unet().to(memory_format=torch.channels_last)
    if start_from is not None:
        model.load_state_dict(start_from)
    made = optimizers(model, *rates, exclude=("conv_in", "conv_out", "time_embedding"))

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        picks = _picks(seed + 11, step, len(latents), batch, odds)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        clean = latents[picks]
        noise = torch.randn(clean.shape, generator=generator)
        # Stratified time steps: every batch covers the whole range, which lowers the variance of the loss.
        time_steps = ((torch.arange(batch) + torch.rand(batch, generator=generator)) / batch * 1000).long()
        signal = alphas_cumprod[time_steps].sqrt()[:, None, None, None]
        sigma = (1 - alphas_cumprod[time_steps]).sqrt()[:, None, None, None]
        noisy = signal * clean + sigma * noise
        target = signal * noise - sigma * clean
        predicted = model(noisy, time_steps, text_states[texts_of(step, picks)].float()).sample
        loss = F.mse_loss(predicted, target)
        return loss, {}

    model.load_state_dict(run_loop(name, folder, model, made, loss_of, steps, decay=decay))
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
) -> nn.Module:
    """Train a simulated raters' eye to read attributes and flaws off drawings and their reconstructions."""
    from hpslib.critters.draw import ATTRIBUTES
    from hpslib.critters.eyes import Eye

    torch.manual_seed(seed)
    model = Eye(width).to(memory_format=torch.channels_last)
    made = optimizers(model, 0.02, 2e-3, exclude=("features.0.", "head.2."))
    attributes, flaws = (torch.from_numpy(array) for array in labels)
    sizes = [len(values) for values in ATTRIBUTES.values()]

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        bank = banks[step % len(banks)]
        picks = _picks(seed + 17, step, len(bank), batch)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        model.train()
        pieces = model(augment(_pixels(bank, picks), generator)).split([*sizes, flaws.shape[1]], dim=1)
        named = sum(F.cross_entropy(p, attributes[picks, k]) for k, p in enumerate(pieces[:-1])) / len(sizes)
        wrong = F.binary_cross_entropy_with_logits(pieces[-1], flaws[picks])
        return named + 3 * wrong, {"attributes": float(torch.as_tensor(named).detach()), "flaws": wrong.item()}

    model.load_state_dict(run_loop(name, folder, model, made, loss_of, steps, decay=0.99))
    return model
