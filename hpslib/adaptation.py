"""Teach a Stable Diffusion UNet with LoRA (paper, section 5): peft adapters, trained from encoded examples.

The loss is the one the base model was trained with (epsilon or v-prediction, read from its scheduler). The same loop
runs on one CPU, on one GPU, and under ``accelerate launch`` in several processes (:mod:`hpslib.parallel`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hpslib.examples import CachedLatents, Examples
from hpslib.parallel import agreed_loss, local_accelerator, micro_batches, restore_scaler, scaler_state, synchronised
from hpslib.resume import check_finite, continue_from, digest, save_checkpoint

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = [
    "ATTENTION_PROJECTIONS",
    "LORA_FILE",
    "SCHEDULES",
    "add_lora",
    "check_schedule",
    "load_lora",
    "remove_lora",
    "save_lora",
    "train_lora",
]

ATTENTION_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")  # of self- and cross-attention
LORA_FILE = "pytorch_lora_weights.safetensors"  # the name diffusers gives it
SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial")


def add_lora(pipe: Any, *, rank: int, seed: int, name: str = "hps") -> list[torch.nn.Parameter]:
    """Put a fresh LoRA of ``rank`` (scale 1) on the UNet's attention projections; return its parameters.

    A starts random, B at zero, so the model is unchanged until it is trained (Hu et al., 2021). The base
    weights are frozen. The draw of A depends on ``seed`` alone. The LoRA is float32 even on a bfloat16 pipeline, where
    a small learning rate would otherwise be rounded away.
    """
    from diffusers.training_utils import cast_training_params
    from peft import LoraConfig

    pipe.unet.requires_grad_(False)
    config = LoraConfig(
        r=rank, lora_alpha=rank, target_modules=list(ATTENTION_PROJECTIONS), init_lora_weights="gaussian"
    )
    with torch.random.fork_rng():  # peft draws from the global generator; it is put back as it was
        torch.manual_seed(seed)
        pipe.unet.add_adapter(config, adapter_name=name)
    pipe.unet.set_adapter(name)
    cast_training_params([pipe.unet], dtype=torch.float32)
    return [parameter for parameter in pipe.unet.parameters() if parameter.requires_grad]


def remove_lora(pipe: Any) -> None:
    """Take every LoRA off the pipeline: the base model is back, bit by bit."""
    pipe.unload_lora_weights()


def check_schedule(schedule: str) -> None:
    """Raise ``ValueError`` for a schedule that :func:`train_lora` does not have."""
    if schedule not in SCHEDULES:
        raise ValueError(f"the schedule {schedule!r} is unknown: use one of {', '.join(SCHEDULES)}.")


def train_lora(
    pipe: Any,
    parameters: Sequence[torch.nn.Parameter],
    examples: Examples,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    caption_dropout: float = 0.0,
    identifier_alone: float | None = None,
    schedule: str = "constant",
    weights: Tensor | None = None,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    accumulation: int = 1,
    gradient_checkpointing: bool = False,
    checkpoint: str | Path | None = None,
    save_every: int = 200,
    log: Callable[[dict[str, float], int], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Train the adapter in place; return the loss of every step.

    AdamW; ``schedule`` is one of :data:`SCHEDULES`, diffusers' names ("constant", as in the paper, or for short runs
    "cosine", which ends at zero and so averages out the last steps' noise). ``weights`` (n,) are the chances
    with which images are drawn (uniform when ``None``). ``caption_dropout`` replaces a caption by the empty text;
    ``identifier_alone`` (default: the same) replaces an identified caption by the identifier, which is what stands in
    the negative prompt. Noise, time steps and order are drawn on the CPU from ``seed``, step by step, so they do not
    depend on the device.

    ``batch_size`` images make one step, whatever the number of processes of ``accelerator`` (default: this one, see
    :func:`hpslib.parallel.local_accelerator`) and the number of micro-batches, ``accumulation``. With
    ``gradient_checkpointing`` the UNet computes its blocks again in the backward pass instead of keeping their
    activations. ``log`` receives ``{"loss", "lr"}`` after each step, in the main process.

    With ``checkpoint``, the file is written after every ``save_every`` steps, once the step behind them has shown that
    their loss is a number, and at the end. A run that was killed and is started again goes on from it and ends with the
    same weights, on a CPU bit by bit; a finished one trains no more. It goes on with the same settings, base weights,
    captions and pictures only (cached ones by name).

    Raises ``ValueError`` for another kind of model, an unknown schedule, ``weights`` of the wrong length, a batch too
    small for the processes or a checkpoint made with other settings, ``RuntimeError`` when the loss stops being a
    number (the last checkpoint stays as it was). Whatever ends it, the UNet is as ready to generate as before.
    """
    from diffusers.optimization import get_scheduler

    scheduler = pipe.scheduler
    prediction = scheduler.config.prediction_type
    if prediction not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"the scheduler predicts {prediction!r}: only 'epsilon' and 'v_prediction' models can be trained here."
        )
    check_schedule(schedule)
    accelerator = accelerator or local_accelerator(pipe.device)
    device, processes = accelerator.device, accelerator.num_processes
    alphas = scheduler.alphas_cumprod.to(device)
    optimizer = torch.optim.AdamW(list(parameters), lr=lr, weight_decay=weight_decay)
    if weights is not None and len(weights) != len(examples):
        raise ValueError(f"{len(weights)} weights but {len(examples)} examples: hand over one weight for each image.")
    odds = torch.ones(len(examples)) if weights is None else weights.cpu()
    rates = get_scheduler(
        schedule, optimizer, num_warmup_steps=0 if schedule == "constant" else 10, num_training_steps=steps
    )
    alone = caption_dropout if identifier_alone is None else identifier_alone
    dropout = torch.where(examples.identified.cpu(), alone, caption_dropout)
    losses: list[float] = []
    settings = {
        "images": len(examples), "odds": float((odds.double() * torch.arange(len(odds))).sum()), "steps": steps,
        "weights": [list(p.shape) for p in parameters], "batch_size": batch_size, "lr": lr, "schedule": schedule,
        "weight_decay": weight_decay, "caption_dropout": caption_dropout, "identifier_alone": alone, "seed": seed,
        "prediction": prediction, "precision": accelerator.mixed_precision,
    }  # fmt: skip
    if checkpoint is not None:  # seconds at SD's size
        settings["captions"] = digest(examples.tokens, examples.caption_rows, examples.dropped_rows)
        frozen = [p for p in pipe.unet.parameters() if not p.requires_grad]
        settings["base"] = digest(*frozen, *pipe.text_encoder.parameters())
        latents = examples.latents
        settings["pictures"] = latents.made_of if isinstance(latents, CachedLatents) else digest(latents)
    saved = continue_from(checkpoint, settings)
    if saved is not None:
        for parameter, value in zip(parameters, saved["parameters"], strict=True):
            parameter.data.copy_(value)
        optimizer.load_state_dict(saved["optimizer"])
        rates.load_state_dict(saved["rates"])
        losses = saved["losses"]
        restore_scaler(accelerator, saved)
    began = len(losses)

    def save() -> None:
        if checkpoint is None:
            return
        if accelerator.is_main_process:
            save_checkpoint(
                checkpoint, settings=settings, parameters=[p.detach().cpu() for p in parameters], losses=losses,
                optimizer=optimizer.state_dict(), rates=rates.state_dict(), scaler=scaler_state(accelerator),
            )  # fmt: skip
        accelerator.wait_for_everyone()

    with _in_training(pipe.unet, device, gradient_checkpointing):
        denoiser, stepper = accelerator.prepare(_Denoiser(pipe.unet), optimizer)
        for step in range(len(losses), steps):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
            picks = torch.multinomial(odds, batch_size, replacement=True, generator=generator)
            noise = torch.randn((batch_size, *examples.latents.shape[1:]), generator=generator)
            # One draw in each of batch_size equal slices of the time axis: the same expectation, less variance.
            spread = (torch.arange(batch_size) + torch.rand(batch_size, generator=generator)) / batch_size
            time_steps = (spread * len(alphas)).long()
            drop = torch.rand(batch_size, generator=generator) < dropout[picks]
            own = micro_batches(torch.arange(batch_size), accelerator, accumulation)
            total = torch.zeros((), device=device)
            stepper.zero_grad(set_to_none=True)
            for k, part in enumerate(own):
                clean = examples.latents[picks[part]].to(device).float()
                dirt, moments = noise[part].to(device), time_steps[part].to(device)
                signal, sigma = (a[:, None, None, None] for a in (alphas[moments].sqrt(), (1 - alphas[moments]).sqrt()))
                target = dirt if prediction == "epsilon" else signal * dirt - sigma * clean
                states = _states(pipe, examples, picks[part], drop[part])
                with synchronised(accelerator, denoiser, last=k == len(own) - 1):
                    predicted = denoiser(signal * clean + sigma * dirt, moments, states)
                    value = F.mse_loss(predicted.float(), target) * (len(part) * processes / batch_size)
                    accelerator.backward(value)
                total += value.detach()
            agreed = agreed_loss(total, accelerator, step, lr)
            if step > began and step % save_every == 0:
                save()  # not before these weights have given a finite loss
            rate = float(rates.get_last_lr()[0])
            stepper.step()
            rates.step()
            losses.append(agreed)
            if log is not None and accelerator.is_main_process:
                log({"loss": losses[-1], "lr": rate}, step + 1)
            if progress is not None:
                progress(step + 1, steps)
        if not all(torch.isfinite(p).all() for p in parameters):
            raise RuntimeError(
                f"the last step made weights that are no numbers: lower lr (it is {lr}) and start again."
            )
        if steps > began:
            save()
    return losses


@contextmanager
def _in_training(unet: Any, device: torch.device, gradient_checkpointing: bool) -> Iterator[None]:
    """The UNet set up for training, and afterwards, be it after an error, as it was."""
    from diffusers.models.attention_processor import AttnProcessor

    processors, training, checkpointing = unet.attn_processors, unet.training, unet.is_gradient_checkpointing
    if device.type == "cpu":  # the fused kernel's backward pass is slow there: a quarter of a step
        unet.set_attn_processor(AttnProcessor())
    unet.train()
    if gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    try:
        yield
    finally:
        if gradient_checkpointing and not checkpointing:
            unet.disable_gradient_checkpointing()
        unet.train(training)
        unet.set_attn_processor(processors)


class _Denoiser(torch.nn.Module):
    """The UNet's forward pass as a module of its own, so that wrapping it for training leaves the pipeline alone."""

    def __init__(self, unet: torch.nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, noisy: Tensor, time_steps: Tensor, states: Tensor) -> Tensor:
        return self.unet(noisy, time_steps, states).sample


def _states(pipe: Any, examples: Examples, picks: Tensor, drop: Tensor) -> Tensor:
    """The text states of the picked images, of the dropped caption where ``drop`` is set."""
    place = examples.caption_rows.device
    rows = torch.where(drop.to(place), examples.dropped_rows[picks], examples.caption_rows[picks])
    if examples.states is not None:
        return examples.states[rows]
    with torch.no_grad():
        return pipe.text_encoder(examples.tokens[rows.cpu()].to(pipe.device))[0]


def save_lora(pipe: Any, folder: str | Path) -> Path:
    """Write ``pytorch_lora_weights.safetensors`` in diffusers' standard format; returns its path."""
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    (adapter,) = pipe.unet.active_adapters()
    weights = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipe.unet, adapter_name=adapter))
    target = Path(folder) / LORA_FILE
    partial = target.with_name(f".{LORA_FILE}")  # a killed run leaves the old file whole
    StableDiffusionPipeline.save_lora_weights(
        folder, unet_lora_layers=weights, weight_name=partial.name, safe_serialization=True
    )
    partial.replace(target)
    return target


def load_lora(pipe: Any, folder: str | Path, *, name: str = "hps") -> None:
    """Load a folder written by :func:`save_lora` or by any diffusers LoRA script; refuse one that does not fit.

    diffusers itself only warns about keys that match no layer, and the images stay those of the base model. After an
    error the pipeline is as it was. Raises ``FileNotFoundError`` when the folder holds no LoRA file, ``ValueError``
    when a weight of it belongs to no layer of this UNet, has another shape or holds NaN, or when ``name`` is taken.
    """
    from diffusers.utils import logging

    path = Path(folder) / LORA_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {LORA_FILE}: give the folder that save_lora wrote to.")
    if name in getattr(pipe.unet, "peft_config", {}):
        raise ValueError(
            f"the pipeline already has a LoRA called {name!r}: call remove_lora first or give another name."
        )
    source = {"weight_name": path.name, "local_files_only": True, "use_safetensors": True}
    stored, _ = pipe.lora_state_dict(str(folder), **source)
    check_finite(stored, str(path))
    wanted = sum(key.startswith("unet.") and not key.endswith("alpha") for key in stored)
    loaded = 0
    reason: Exception | None = None
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns that there is no LoRA for the text encoder, as is meant; we count below
    try:
        pipe.load_lora_weights(str(folder), adapter_name=name, **source)
        loaded = sum(f".{name}." in key and ".lora_" in key for key in pipe.unet.state_dict())
    except (ValueError, RuntimeError) as error:  # no layer matches; a shape differs
        reason = error
    finally:
        logging.set_verbosity(verbosity)
    if reason is None and 0 < loaded == wanted:
        return
    if set(getattr(pipe.unet, "peft_config", {})) <= {name}:
        remove_lora(pipe)
    else:
        pipe.delete_adapters(name)
    raise ValueError(
        f"{path} does not fit this UNet: {loaded} of its {wanted} LoRA weights belong to a layer. Check that it was "
        "trained for the same model."
    ) from reason
