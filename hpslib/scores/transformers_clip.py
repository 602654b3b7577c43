"""The weights of a CLIP under the names of transformers' ``CLIPModel``, and back.

open_clip keeps query, key and value in one matrix and projects with ``x @ weight``; transformers keeps three and
projects with ``x @ weight.T``. Nothing else differs, so that both libraries compute the same features.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["from_transformers", "to_transformers"]

_TOWERS = {"text_model.encoder.layers.": "transformer.", "vision_model.encoder.layers.": "visual.transformer."}
_PARTS = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
_PARTS |= {"self_attn.out_proj": "attn.out_proj"}
_THREE = ("q_proj", "k_proj", "v_proj")
_SINGLES = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",  # spelled so in transformers
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "logit_scale": "logit_scale",
}
_TURNED = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}


def from_transformers(weights: Mapping[str, Tensor], where: str = "the checkpoint") -> dict[str, Tensor]:
    """The weights of transformers' ``CLIPModel`` under open_clip's names; query, key and value become one matrix.

    Raises ``ValueError`` when a key finds no place.
    """
    renamed: dict[str, Tensor] = {}
    for key, value in weights.items():
        if key.endswith("position_ids") or ".self_attn.k_proj." in key or ".self_attn.v_proj." in key:
            continue  # a range, and what is gathered with the query
        if key in _SINGLES:
            renamed[_SINGLES[key]] = value
        elif key in _TURNED:
            renamed[_TURNED[key]] = value.T
        else:
            tower = next((old for old in _TOWERS if key.startswith(old)), None)
            number, _, rest = key.removeprefix(tower or "").partition(".")
            part, _, kind = rest.rpartition(".")
            if tower is None or (part not in _PARTS and part != "self_attn.q_proj"):
                raise ValueError(f"the key {key!r} in {where} belongs to no part of a CLIP: name another file.")
            block = f"{_TOWERS[tower]}resblocks.{number}."
            if part == "self_attn.q_proj":
                three = [weights[key.replace("q_proj", name)] for name in _THREE]
                renamed[f"{block}attn.in_proj_{kind}"] = torch.cat(three)
            else:
                renamed[f"{block}{_PARTS[part]}.{kind}"] = value
    return renamed


def to_transformers(weights: Mapping[str, Tensor], where: str = "the model") -> dict[str, Tensor]:
    """The weights of an open_clip model under the names of transformers' ``CLIPModel``: what undoes
    :func:`from_transformers`.

    Raises ``ValueError`` when ``CLIPModel`` has no place for a key.
    """
    singles = {ours: theirs for theirs, ours in _SINGLES.items()}
    turned = {ours: theirs for theirs, ours in _TURNED.items()}
    parts = {ours: theirs for theirs, ours in _PARTS.items()}
    renamed: dict[str, Tensor] = {}
    for key, value in weights.items():
        if key in singles:
            renamed[singles[key]] = value
            continue
        if key in turned:
            renamed[turned[key]] = value.T
            continue
        tower = next((theirs for theirs, ours in _TOWERS.items() if key.startswith(f"{ours}resblocks.")), None)
        number, _, rest = key.removeprefix(f"{_TOWERS.get(tower or '')}resblocks.").partition(".")
        part, _, kind = rest.rpartition(".")
        if tower is not None and part in parts:
            renamed[f"{tower}{number}.{parts[part]}.{kind}"] = value
        elif tower is not None and rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
            for name, third in zip(_THREE, value.chunk(3)):
                renamed[f"{tower}{number}.self_attn.{name}.{rest.removeprefix('attn.in_proj_')}"] = third
        else:
            raise ValueError(f"transformers' CLIPModel has no place for {key!r} in {where}: export another model.")
    return renamed
