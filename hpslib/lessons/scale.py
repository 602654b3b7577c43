"""The two scales: every number the notebooks use, for the miniature world and for the real thing.

``mini`` runs on two CPU cores in minutes. ``full`` holds the paper's settings; the comment behind each says where it
comes from and how sure that is: [V] read in the official repository, [2] two independent digests of the paper agree,
[1] one digest, [ours] our choice where the paper is silent. :data:`DIFFERENCES` lists where training differs from the
released script, and why.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import NamedTuple

__all__ = ["DIFFERENCES", "Difference", "Scale", "active_scale", "full", "mini", "rehearsal"]


@dataclass(frozen=True)
class Scale:
    """Settings of one run of the paper; ``name`` is "mini", "full" or "rehearsal"."""

    name: str
    seed: int  # of what lesson 4 draws: the LoRA, its noise and order, the lot of the non-preferred
    # preference set
    groups: int | None  # at most; None: all
    # classifier
    cache_activations: bool  # keep what the frozen trunk gives, or compute it in every step
    image_blocks: int
    text_blocks: int
    classifier_lr: float
    classifier_scale_lr: float | None  # of logit_scale; None: the same
    classifier_weight_decay: float
    classifier_batch: int
    classifier_epochs: float
    evaluate_every: int  # steps between validations
    # generation
    guidance_scale: float
    sampling_steps: int
    sampling_batch: int  # images made together
    # selection
    pool_prompts: int  # at most
    images_per_prompt: int  # at least; groups of fewer are left out
    threshold: float  # t of the rule t/n
    temperature: float | None  # divides 100 x cosine in the rule; None: what makes logits of it, the classifier's own
    negative_share: float  # of the non-preferred images, the share that is trained on
    # adaptation
    regularisation_images: int
    lora_rank: int
    lora_lr: float
    lora_weight_decay: float
    lora_batch: int
    lora_steps: int
    lora_schedule: str
    lora_shares: tuple[float, float, float] | None  # regularisation, preferred, non-preferred; None: as they come
    caption_dropout: float
    identifier_alone: float
    # evaluation
    evaluation_prompts: int

    def softmax_temperature(self, logit_scale: float) -> float:
        """What divides HPS (100 x cosine) in the rule; ``logit_scale`` is the classifier's factor on the cosine.

        >>> mini.softmax_temperature(20.0), full.softmax_temperature(90.0)
        (5.0, 1.0)
        """
        return 100 / logit_scale if self.temperature is None else self.temperature

    @property
    def simulated(self) -> bool:
        """Whether the data are the miniature world's, whose truth is known."""
        return self.name == "mini"


mini = Scale(
    name="mini",
    seed=0,
    groups=None,
    cache_activations=True,
    image_blocks=1,
    text_blocks=0,  # the final norm and the projection: prompts are few and all different, blocks learn them by heart
    classifier_lr=1e-3,
    classifier_scale_lr=0.2,
    classifier_weight_decay=0.3,
    classifier_batch=128,
    classifier_epochs=2.0,
    evaluate_every=5,
    guidance_scale=3.0,
    sampling_steps=8,
    sampling_batch=50,
    pool_prompts=2_000,
    images_per_prompt=4,
    threshold=2.0,
    temperature=None,
    negative_share=1.0,
    regularisation_images=800,
    lora_rank=16,
    lora_lr=6e-3,
    lora_weight_decay=1e-2,
    lora_batch=32,
    lora_steps=400,
    lora_schedule="cosine",
    lora_shares=(0.2, 0.4, 0.4),
    caption_dropout=0.1,
    identifier_alone=0.9,
    evaluation_prompts=260,
)

full = Scale(
    name="full",
    seed=42,  # [2,V]
    groups=None,
    cache_activations=False,  # [ours]: HPD v1's would take 42 GB in float16
    image_blocks=10,  # of 24, ViT-L/14 [2]
    text_blocks=6,  # of 12 [2]
    classifier_lr=1.7e-5,  # [2]
    classifier_scale_lr=None,  # [ours]: nothing is said of another rate
    classifier_weight_decay=3.1e-3,  # [2]
    classifier_batch=5,  # prompts [2]
    classifier_epochs=1.0,  # [2]
    evaluate_every=500,  # [ours]
    guidance_scale=7.5,  # [2,V]
    sampling_steps=50,  # PNDM [2,V]
    sampling_batch=8,  # [ours]
    pool_prompts=100_000,  # DiffusionDB large_first_1m, groups of >= 4 after the blur filter [2,V]; count [ours]
    images_per_prompt=4,  # at least [2,V]
    threshold=2.0,  # "2/n" on the softmax of 100 x cosine [2,V]
    temperature=1.0,  # select_training_images.py takes the scores as they are [V]
    negative_share=0.5,  # "using all negative samples will lead to worse results" [V, align_sd issue 9]
    regularisation_images=200_000,  # the README says about 200k is enough [V]; the paper used 625k [1]
    lora_rank=32,  # [2]; the released script silently uses 4 [V]
    lora_lr=1e-5,  # constant [2,V]
    lora_weight_decay=1e-2,  # [2,V]
    lora_batch=40,  # [2,V]
    lora_steps=10_000,  # [2,V]
    lora_schedule="constant",  # [2,V]
    lora_shares=None,  # regularisation, preferred, non-preferred: as many as there are [V]
    caption_dropout=0.0,  # prompt_dropout of the released script [V]
    identifier_alone=0.0,  # [V]
    evaluation_prompts=100,  # of the user study [2]
)


rehearsal = replace(
    full,
    name="rehearsal",
    groups=200,
    image_blocks=1,
    text_blocks=1,
    classifier_batch=4,
    evaluate_every=20,
    sampling_steps=2,
    pool_prompts=8,
    regularisation_images=8,
    lora_rank=4,
    lora_batch=2,
    lora_steps=3,
    evaluation_prompts=4,
)
"""The full scale's files and code with a handful of everything: minutes that show whether days would go through."""


class Difference(NamedTuple):
    """One thing that the training here does otherwise than the released ``train_text_to_image_lora.py``, and why."""

    setting: str
    released: str
    ours: str
    reason: str

    def __str__(self) -> str:
        return f"{self.setting}: {self.released} there, {self.ours} here, for {self.reason}."


#: Read in the released script and its ``scripts/train_lora.sh``.
DIFFERENCES = (
    Difference("LoRA rank", "4 by default, silently", "32 unless --rank says otherwise", "32 is what the paper states"),
    Difference(
        "gradient clipping",
        "to the norm 1.0",
        "none",
        "at this rate AdamW's step hardly depends on the gradient's size, and what is not clipped is the same for any "
        "number of processes and micro-batches",
    ),
    Difference(
        "latents",
        "sampled from the encoder's distribution in every step",
        "its mean, encoded once",
        "the spread is far below the noise that is added, and encoding once saves most of the time",
    ),
    Difference(
        "timesteps",
        "drawn independently",
        "one in each of as many equal slices of the time axis as a step has images",
        "the expectation is the same and the loss varies less",
    ),
    Difference(
        "crop",
        "at a random place, after scaling the shorter side",
        "the centre, after the same scaling",
        "the latents are encoded once",
    ),
    Difference(
        "order", "shuffled anew in every pass", "drawn with replacement", "a resumed run then needs no place in a pass"
    ),
    Difference(
        "batch of 40", "in each process", "over all processes", "the result then does not depend on their number"
    ),
)


def active_scale(name: str | None = None) -> Scale:
    """The scale named by the argument, else by ``$HPS_SCALE``, else ``mini``.

    Raises ``ValueError`` for another name.

    >>> active_scale("mini").lora_rank
    16
    """
    chosen = name or os.environ.get("HPS_SCALE") or "mini"
    scales = {scale.name: scale for scale in (mini, full, rehearsal)}
    if chosen not in scales:
        raise ValueError(f"HPS_SCALE is {chosen!r}: use 'mini', 'full' or 'rehearsal'.")
    return scales[chosen]
