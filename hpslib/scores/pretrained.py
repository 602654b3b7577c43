"""A trained classifier as a folder for others: weights in open_clip's layout, and a card that says what it is."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpslib.runs.files import written_whole
from hpslib.scores.clip import Clip, load_clip, save_clip
from hpslib.scores.pixels import PADDED, Mode, Preprocessing

__all__ = ["from_pretrained", "local_folder", "model_card", "push_to_hub", "save_pretrained"]

_MODEL = ["open_clip_config.json", "open_clip_model.safetensors", "bpe.txt.gz", "provenance.json"]
_BODY = """
# {title}

{summary}

It is the preference classifier of *Human Preference Score: Better Aligning Text-to-Image Models with Human Preference*
(Wu et al., ICCV 2023), trained with hpslib. Its score, HPS, is 100 x the cosine of an image and its prompt; images are
{pixels}. **Only differences between images of one prompt mean anything**:
scores of different prompts are not comparable. A score learned from choices repeats the habits of those who chose.

```python
from hpslib.scores.pretrained import from_pretrained
from hpslib.scores.cosine import hps

classifier = from_pretrained({folder})
hps(classifier, images, prompts)
```

## Training

{settings}

## Measured

{metrics}
"""


_PIXELS: dict[Mode, str] = {
    "pad": "scaled to their longer side and padded with {colour}",
    "crop": "scaled to their shorter side, and the centre is cut out",
    "crop_floor": "scaled to their shorter side, and the centre is cut out",
    "squash": "scaled to a square",
}


def model_card(
    title: str,
    summary: str,
    folder: str,
    settings: Mapping[str, Any],
    metrics: Mapping[str, Any],
    *,
    preprocessing: Preprocessing = PADDED,
    **data: Any,
) -> str:
    """The text of ``README.md``: metadata that the hub reads, then sentences and two tables for people.

    ``settings`` and ``metrics`` become rows of a table (values by ``str``, so an
    :class:`hpslib.metrics.intervals.Estimate` brings its interval along); ``preprocessing`` says what becomes of an
    image; ``data`` is for huggingface_hub's ``ModelCardData``, such as ``license``, ``base_model`` and ``datasets``.
    Whatever stands in title, summary and tables is text: HTML in it is shown, not obeyed.
    """
    from huggingface_hub import ModelCardData

    metadata: dict[str, Any] = {
        "library_name": "open_clip",
        "tags": ["human-preference-score", "clip", "text-to-image"],
        **data,
    }
    head = ModelCardData(**metadata).to_yaml()
    colour = "black" if preprocessing.fill_color == 0 else f"grey ({preprocessing.fill_color} of 255)"
    body = _BODY.format(
        title=_text(" ".join(title.split())),
        summary=_text(summary),
        folder=json.dumps(folder, ensure_ascii=False),
        pixels=_PIXELS[preprocessing.mode].format(colour=colour),
        settings=_table(settings),
        metrics=_table(metrics),
    )
    return f"---\n{head}\n---\n{body}"


def _table(rows: Mapping[str, Any]) -> str:
    cells = [[_text(" ".join(str(part).split())).replace("|", "\\|") for part in row] for row in rows.items()]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in cells)])


def _text(words: str) -> str:
    """Words as Markdown shows them, whatever HTML they hold."""
    return words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _recorded(value: Any) -> Any:
    """For JSON, which knows no infinity and no NaN, and no numbers of numpy."""
    if isinstance(value, Mapping):
        return {str(name): _recorded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_recorded(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    plain = isinstance(value, str | int | None) or (isinstance(value, float) and math.isfinite(value))
    return value if plain else str(value)


def save_pretrained(
    clip: Clip,
    folder: str | Path,
    *,
    title: str,
    summary: str = "",
    settings: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    **data: Any,
) -> Path:
    """Write weights, configuration, ``training.json`` and the model card; :func:`from_pretrained` reads the folder.

    The vocabulary is copied when it is not CLIP's own. Arguments as in :func:`model_card`. Each file is replaced only
    when the new one is complete. Raises ``OSError`` when the folder cannot be written.
    """
    folder = save_clip(clip, folder, dtype=dtype)
    (folder / "provenance.json").unlink(missing_ok=True)  # of a converted checkpoint that lay here before
    settings, metrics = dict(settings or {}), dict(metrics or {})
    record = {"settings": _recorded(settings), "metrics": {name: str(value) for name, value in metrics.items()}}
    texts = {
        "training.json": json.dumps(record, indent=2, allow_nan=False) + "\n",
        "README.md": model_card(
            title, summary, folder.name, settings, metrics, preprocessing=clip.preprocessing, **data
        ),
    }
    for name, text in texts.items():
        with written_whole(folder / name) as partial:
            partial.write_text(text, encoding="utf-8")
    return folder


def from_pretrained(name: str | Path, device: str | torch.device = "cpu") -> Clip:
    """A folder of :func:`save_pretrained`, or the hub repository ``owner/name`` (from the local cache if it is there).

    Raises ``FileNotFoundError`` when it is neither, ``ValueError`` as :func:`hpslib.scores.clip.load_clip`.
    """
    return load_clip(local_folder(name), device)


def local_folder(name: str | Path) -> Path:
    """The folder itself, or that of the hub repository ``owner/name`` (also ``hf://owner/name``) in the local cache.

    Raises ``FileNotFoundError`` when it is neither.
    """
    folder, repository = Path(name), str(name)
    if repository.startswith("hf:/"):
        repository = repository.removeprefix("hf:").strip("/")  # Path("hf://a/b") is "hf:/a/b"
    elif folder.is_dir():
        return folder
    if repository.count("/") != 1:
        raise FileNotFoundError(f"{name} is no folder and names no hub repository: name a folder or owner/name.")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=_MODEL))
    except Exception as error:  # offline, no such repository, no access
        reason = " ".join(str(error).split())[:200]
        raise FileNotFoundError(
            f"{name} is no folder, not in the local hub cache, and could not be fetched ({reason}): name a folder of "
            "hpslib train or hpslib convert, or a repository of the hub."
        ) from error


def push_to_hub(
    folder: str | Path,
    repository: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Add a preference classifier of hpslib.",
) -> str:
    """Put a folder of :func:`save_pretrained` (``hpslib train`` writes one) onto the hub; returns the commit's address.

    The repository ``owner/name`` is made if there is none. The model, its card, which then loads it from there, and
    ``training.json`` travel; a checkpoint of the training stays behind. ``token`` is that of ``hf auth login`` unless
    given. The work is that of huggingface_hub's ``ModelHubMixin``.

    Raises ``FileNotFoundError`` and ``ValueError`` when the folder holds no model that :func:`from_pretrained` reads,
    ``ValueError`` when it has no card or ``repository`` is another name, and what huggingface_hub raises.
    """
    from huggingface_hub import ModelHubMixin

    source = Path(folder)
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise ValueError(f"{repository!r} names no repository of the hub: write owner/name.")
    load_clip(source)
    if not (source / "README.md").is_file():
        raise ValueError(f"{source} has no README.md, the model's card: write the folder with save_pretrained.")

    class Pushed(ModelHubMixin):
        def _save_pretrained(self, save_directory: Path) -> None:
            for name in (*_MODEL, "training.json"):
                if (source / name).is_file():
                    shutil.copyfile(source / name, save_directory / name)
            card = (source / "README.md").read_text(encoding="utf-8")
            loading = f"from_pretrained({json.dumps(source.name, ensure_ascii=False)})"
            card = card.replace(loading, f"from_pretrained({json.dumps(repository)})")
            (save_directory / "README.md").write_text(card, encoding="utf-8")

    return str(Pushed().push_to_hub(repository, private=private, token=token, commit_message=commit_message))
