"""A score as a folder for transformers: ``CLIPModel``, ``CLIPTokenizer`` and ``CLIPImageProcessor`` open it.

Both libraries compute the same features; how an image becomes a square, transformers can say less exactly, and the
folder's card says what differs.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from hpslib.runs.files import written_whole
from hpslib.scores.clip import Clip
from hpslib.scores.pixels import Preprocessing
from hpslib.scores.scorers import Scorer, load_scorer
from hpslib.scores.transformers_clip import to_transformers

__all__ = ["export_transformers", "save_transformers"]

#: Settings of open_clip's towers that transformers has too, or that change nothing once a model is trained.
_SHARED = {"image_size", "patch_size", "layers", "width", "head_width", "heads", "context_length", "vocab_size"}
_SHARED |= {"mlp_ratio", "patch_dropout", "pos_embed_type", "eos_id"}

_CARD = """---
library_name: transformers
tags:
- human-preference-score
- clip
- text-to-image
---

# A score for transformers

The two towers of a CLIP, written by hpslib for transformers' `CLIPModel`. The score of an image is {factor:g} x the
cosine with its prompt; only differences between images of one prompt mean anything.

```python
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

folder = {folder}
model, tokenize, look = (kind.from_pretrained(folder) for kind in (CLIPModel, CLIPTokenizer, CLIPImageProcessor))
words = tokenize(prompts, padding="max_length", truncation=True, return_tensors="pt")
output = model(**words, **look(images, return_tensors="pt"))
scores = {factor:g} * (output.image_embeds * output.text_embeds).sum(-1)
```

## What differs from hpslib

{differences}
"""
_ALWAYS = (
    "Images are scaled by torchvision or Pillow, as transformers chooses: a value of a pixel may differ by a step of "
    "255.",
    "Broken Unicode and HTML entities in a prompt are read as they stand, which open_clip mends first.",
)


def export_transformers(source: str | Path, folder: str | Path) -> Path:
    """The folder ``source`` of hpslib, or ``hf://owner/name``, as :func:`save_transformers` writes it.

    Raises what :func:`hpslib.scores.scorers.load_scorer` and :func:`save_transformers` raise.
    """
    scorer = load_scorer("hpslib", source)
    assert isinstance(scorer, Scorer)
    return save_transformers(scorer, folder)


def save_transformers(scorer: Scorer, folder: str | Path) -> Path:
    """Write weights, configuration, tokenizer, image processor and a card for transformers; returns the folder.

    Features, logit scale and tokens are those of the scorer. ``README.md`` shows how to score and says what
    transformers does otherwise: of a preprocessing that it has no words for, the nearest one is written. Each file is
    replaced only when the new one is complete.

    Raises ``ValueError`` for towers that ``CLIPModel`` cannot be, ``OSError`` when the folder cannot be written.
    """
    from safetensors.torch import save_file

    folder, clip = Path(folder), scorer.clip
    weights = to_transformers(clip.model.state_dict())
    config = _config(clip, weights)
    processor, differences = _image_processor(scorer.looks[0], clip)
    stored = {key: value.detach().cpu().float().contiguous() for key, value in weights.items()}
    with written_whole(folder / "model.safetensors") as partial:
        save_file(stored, partial, metadata={"format": "pt"})
    lines = "\n".join(f"- {sentence}" for sentence in (*differences, *_ALWAYS))
    name = json.dumps(folder.name, ensure_ascii=False)
    card = _CARD.format(factor=scorer.factor, folder=name, differences=lines)
    texts = {"preprocessor_config.json": json.dumps(processor, indent=2) + "\n", "README.md": card}
    with TemporaryDirectory() as place:
        config.save_pretrained(place)
        _save_tokenizer(clip, Path(place))
        texts |= {file.name: file.read_text(encoding="utf-8") for file in Path(place).iterdir()}
    for file, text in texts.items():
        with written_whole(folder / file) as partial:
            partial.write_text(text, encoding="utf-8")
    return folder


def _config(clip: Clip, weights: Mapping[str, Tensor]) -> Any:
    """transformers' ``CLIPConfig`` of the same architecture; ``ValueError`` for a setting that it does not have."""
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg
    from transformers import CLIPConfig

    model = clip.config["model_cfg"]
    settings = {}
    for part, kind in (("vision_cfg", CLIPVisionCfg), ("text_cfg", CLIPTextCfg)):
        usual = dataclasses.asdict(kind())
        strange = [name for name in model[part] if name not in _SHARED and model[part][name] != usual[name]]
        if strange:
            raise ValueError(
                f"model_cfg.{part}.{strange[0]} is {model[part][strange[0]]!r}, which transformers' CLIPModel does not "
                "know: use the model with open_clip."
            )
        settings[part] = usual | model[part]
    vision, text = settings["vision_cfg"], settings["text_cfg"]
    both = {"hidden_act": "quick_gelu" if model["quick_gelu"] else "gelu", "projection_dim": model["embed_dim"]}
    tokenizer: Any = clip.tokenize  # open_clip's SimpleTokenizer
    last = tokenizer.eot_token_id
    config = CLIPConfig(
        projection_dim=model["embed_dim"],
        logit_scale_init_value=float(clip.model.logit_scale.detach()),
        vision_config={
            **both,
            "hidden_size": vision["width"],
            "intermediate_size": len(weights["vision_model.encoder.layers.0.mlp.fc1.weight"]),
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["width"] // vision["head_width"],
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
        },
        text_config={
            **both,
            "hidden_size": text["width"],
            "intermediate_size": len(weights["text_model.encoder.layers.0.mlp.fc1.weight"]),
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            "max_position_embeddings": text["context_length"],
            "vocab_size": text["vocab_size"],
            "bos_token_id": last - 1,
            "eos_token_id": last,
            "pad_token_id": last,
        },
    )
    config.architectures = ["CLIPModel"]
    return config


def _save_tokenizer(clip: Clip, place: Path) -> None:
    """The model's vocabulary as transformers reads it, with the same ids."""
    from transformers import CLIPTokenizer

    ours: Any = clip.tokenize  # open_clip's SimpleTokenizer
    spelling = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {spelling.get(token, token): number for token, number in ours.encoder.items()}
    (place / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    merges = [" ".join(pair) for pair in ours.bpe_ranks if len(pair) == 2]
    (place / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
    tokenizer = CLIPTokenizer(
        str(place / "vocab.json"), str(place / "merges.txt"), model_max_length=clip.context_length
    )
    tokenizer.save_pretrained(place)


def _image_processor(how: Preprocessing, clip: Clip) -> tuple[dict[str, Any], list[str]]:
    """What ``preprocessor_config.json`` says, and in sentences what transformers then does otherwise than ``how``."""
    side = clip.image_size
    square = {"height": side, "width": side}
    sizes: dict[str, dict[str, int]] = {
        "pad": {"max_height": side, "max_width": side},  # and a centre crop of what is smaller, which adds a border
        "crop": {"shortest_edge": side},
        "crop_floor": {"shortest_edge": side},
        "squash": square,
    }
    said = {
        "pad": [
            "The shorter side of a scaled image may be a pixel shorter, since transformers rounds it down.",
            "transformers 4 does not know this way of scaling and says so: use 5 or later.",
        ],
        "crop": ["Where the scaled image is an odd number of pixels larger, it may be cut one further up or left."],
    }.get(how.mode, [])
    if how.mode == "pad" and how.fill_color != 0:
        said.append(
            f"The border is black, since transformers knows no other; the model wants {how.fill_color} of 255: pad the "
            "images to squares first."
        )
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": sizes[how.mode],
        "resample": {"bicubic": 3, "bilinear": 2}[how.interpolation],  # Pillow's numbers
        "do_center_crop": True,
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(clip.mean),
        "image_std": list(clip.std),
    }, said
