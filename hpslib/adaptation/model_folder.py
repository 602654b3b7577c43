"""The folder of a Stable Diffusion: whether it is one, and whether every weight in its files found its place.

diffusers and transformers draw at random what a file lacks and say so in a warning, if at all: with some pairs of
versions a whole text encoder, after which images look plausible and mean nothing. So names are compared with the files,
and the text encoder's values too.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from reprlib import repr as brief
from typing import Any

import torch
from torch import Tensor

from hpslib.data.images.safe import check_relative
from hpslib.runs.files import one_line, why_unreadable

__all__ = [
    "check_index",
    "check_settings",
    "check_timesteps",
    "check_weights",
    "damaged_part",
    "dtype_option",
    "limit_tokens",
    "load_tokenizer",
    "quiet",
    "restore_text_encoder",
]

#: The parts of the pipeline, the classes that are read here, and the name of the file with their weights.
_PARTS = {
    "unet": (("UNet2DConditionModel",), "diffusion_pytorch_model.safetensors"),
    "vae": (("AutoencoderKL",), "diffusion_pytorch_model.safetensors"),
    "text_encoder": (("CLIPTextModel",), "model.safetensors"),
    "tokenizer": (("CLIPTokenizer", "CLIPTokenizerFast"), None),
    "scheduler": (None, None),
}
_MOST_TIMESTEPS = 100_000  # a hundred times as many as any published model has
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # of SD v1's autoencoder


def check_index(file: Path) -> None:
    """Raise ``ValueError`` when this is the index of another kind of pipeline, or of other networks."""
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
        named = {name: index[name] for name in ("_class_name", *_PARTS)}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is no index of a StableDiffusionPipeline ({type(error).__name__}: {one_line(error)}): fetch it "
            "again."
        ) from error
    if named["_class_name"] != "StableDiffusionPipeline":
        raise ValueError(
            f"{file} is that of a {named['_class_name']}: give the folder of a StableDiffusionPipeline (Stable "
            "Diffusion 1 or 2)."
        )
    for name, (classes, _) in _PARTS.items():
        entry = named[name]
        kind = entry[1] if isinstance(entry, list) and len(entry) == 2 else entry
        if not isinstance(kind, str) or (classes is not None and kind not in classes):
            known = "a scheduler of diffusers" if classes is None else " or ".join(classes)
            raise ValueError(f"{file} names {brief(kind)} as its {name}: only {known} is read here.")


def check_timesteps(file: Path) -> None:
    """Raise ``ValueError`` where a scheduler asks for so many training timesteps that they would fill the memory."""
    try:
        count = json.loads(file.read_text(encoding="utf-8"))["num_train_timesteps"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # diffusers says what is wrong with it
        return
    if isinstance(count, int | float) and not count <= _MOST_TIMESTEPS:
        raise ValueError(f"{file}: num_train_timesteps is {brief(count)}: write the number of the model, mostly 1000.")


def check_settings(folder: Path, pipe: Any) -> None:
    """Raise ``ValueError`` where a part's settings hold a text and its class has a number, or a yes or no.

    diffusers builds such a part, and stops in the middle of the first image.
    """
    for name, file in (("unet", "config.json"), ("vae", "config.json"), ("scheduler", "scheduler_config.json")):
        part = getattr(pipe, name)
        for setting, parameter in inspect.signature(type(part).__init__).parameters.items():
            value = part.config.get(setting)
            texts = any(isinstance(item, str) for item in _items(value))
            if texts and all(isinstance(item, int | float) for item in _items(parameter.default)):
                raise ValueError(
                    f"{folder / name / file}: {setting} is {brief(value)}: write a number, or true or false, as in "
                    "the published file."
                )


def _items(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _files(folder: Path, name: str) -> list[Path]:
    """The files with the weights of a part: one, or those that an index names. ``ValueError`` for a damaged index."""
    file = str(_PARTS[name][1])
    index = folder / f"{file}.index.json"
    if index.is_file() and (folder / file).is_file():  # diffusers reads the one, transformers the other
        raise ValueError(f"{folder} holds both {file} and {index.name}: remove the one that is out of date.")
    if not index.is_file():
        return [folder / file]
    try:
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return [folder / check_relative(part) for part in sorted(named)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} does not say where the weights are ({one_line(error)}): fetch it again.") from error


def damaged_part(folder: Path) -> str | None:
    """The first file of weights that cannot be read, and why."""
    from safetensors import safe_open

    for name in ("unet", "vae", "text_encoder"):
        for path in _files(folder / name, name):
            if not path.is_file():
                return f"{name}/{path.name} is missing"
            try:
                with safe_open(path, "pt") as content:
                    content.keys()
            except Exception as error:  # safetensors raises a type of its own
                return f"{name}/{path.name}: {why_unreadable(path, error)}"
    return None


def dtype_option(dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The argument of diffusers' ``from_pretrained`` that sets the type of the weights: before 0.40 it had another
    name, and the one of today was passed over in silence."""
    import diffusers

    release = tuple(int(part) for part in diffusers.__version__.split(".")[:2])
    return {"dtype" if release >= (0, 40) else "torch_dtype": dtype}


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder that transformers 5 has written, ``tokenizer.json`` alone, for transformers 4, whose
    ``CLIPTokenizer`` wants two other files; ``None`` where diffusers loads it by itself."""
    transformers: Any = import_module("transformers")  # what is in it differs between the two
    alone = (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file()
    if not alone or int(transformers.__version__.split(".")[0]) >= 5:
        return None
    return transformers.CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)


def restore_text_encoder(folder: Path, model: Any) -> None:
    """Put in the file's values where transformers looks for them under other names, and has drawn them at random.

    Names begin with ``text_model.`` in the files and models of transformers before 5.6; later releases write them
    without, and alone read both. A weight whose name in the file is that in the model is left as it was loaded.
    """
    from safetensors import safe_open

    ours = model.state_dict()  # shares the memory of the model
    names = {_plain("text_encoder", name): name for name in ours}
    for path in _files(folder, "text_encoder"):
        with safe_open(path, "pt") as content:
            for key in content.keys():  # noqa: SIM118 (no mapping)
                name = names.get(_plain("text_encoder", key), key)
                if name != key and list(ours[name].shape) == content.get_slice(key).get_shape():  # else check_weights
                    ours[name].copy_(content.get_tensor(key))


def check_weights(folder: Path, name: str, state: dict[str, Tensor]) -> None:
    """Raise ``ValueError`` when the file lacks a weight, holds another one, or the text encoder has other values."""
    from safetensors import safe_open

    ours = {_plain(name, key): value for key, value in state.items()}
    stored: set[str] = set()
    other = []
    for path in _files(folder, name):
        with safe_open(path, "pt") as content:
            for key in content.keys():  # noqa: SIM118 (no mapping)
                plain = _plain(name, key)
                stored.add(plain)
                if name == "text_encoder" and plain in ours:
                    value = content.get_tensor(key).to(ours[plain].dtype)
                    if value.shape != ours[plain].shape or not torch.equal(value, ours[plain].cpu()):
                        other.append(plain)
    stored.discard("embeddings.position_ids")
    missing, unexpected = sorted(set(ours) - stored - {"embeddings.position_ids"}), sorted(stored - set(ours))
    unset = sorted(key for key, value in ours.items() if value.is_meta)
    faults = [
        f"{len(keys)} {what} (first: {keys[0]})"
        for keys, what in (
            (missing, "weights are missing"),
            (unexpected, "belong to no layer"),
            (unset, "are not loaded"),
            (other, "are not those of the file, which this version of transformers reads wrongly"),
        )
        if keys
    ]
    if faults:
        raise ValueError(f"{folder} does not hold its model, {', '.join(faults)}: fetch its files again.")


def _plain(part: str, key: str) -> str:
    """The name of a weight without what versions of the two libraries write differently."""
    if part == "text_encoder":
        return key.removeprefix("text_model.")
    if part == "vae" and ".attentions." in key:
        return re.sub(r"\.(query|key|value|proj_attn)\.", lambda match: f".{_OLD_ATTENTION[match[1]]}.", key)
    return key


def limit_tokens(pipe: Any, folder: Path) -> None:
    """A tokenizer that does not know its limit (transformers says 10^30) cuts off where the text encoder ends.

    Raises ``ValueError`` when that does not say either.
    """
    limit = getattr(pipe.text_encoder.config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 3:
        raise ValueError(
            f"{folder / 'text_encoder'} reads {brief(limit)} tokens: write max_position_embeddings into its "
            "config.json."
        )
    known = pipe.tokenizer.model_max_length
    pipe.tokenizer.model_max_length = min(int(known), limit) if isinstance(known, int | float) and known > 2 else limit


@contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' warnings and bars on stderr: a missing safety checker and a LoRA without a text encoder's
    part are meant, and weights are compared by us."""
    from diffusers.utils import logging
    from transformers.utils import logging as transformers_logging

    verbosity, bars = logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    loudness = transformers_logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        transformers_logging.set_verbosity(loudness)
        if bars:
            transformers_logging.enable_progress_bar()
