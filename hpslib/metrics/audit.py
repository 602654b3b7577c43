"""What makes an accuracy on a preference set mean less than it seems: position bias, leaks, cut prompts, absent files.

Every trap looked for here is in the released test file of HPD v1 (Wu et al., ICCV 2023, section 3), where "always the
last image" is nearly as right as CLIP.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hpslib.data.columns import absent_images, group_sizes, loose_images
from hpslib.data.preferences import normalise_prompt, validate
from hpslib.metrics.agreement import chance_top1
from hpslib.metrics.intervals import Estimate
from hpslib.metrics.positions import position_bias

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Audit", "BlindGuess", "audit", "blind_guess", "shared_prompts"]


@dataclass(frozen=True)
class Audit:
    """What :func:`audit` found. ``str(audit)`` tells it in sentences, :meth:`to_dict` is ready for JSON.

    Positions count from 0; shares lie in [0, 1], those of positions with Wilson's 95 % interval. A field is None where
    the question was not asked (no ``other``, ``tokenizer`` or ``root``).
    """

    n_groups: int
    n_images: int
    group_sizes: dict[int, int]  #: {images in the group: number of groups}
    chance_top1: float  #: mean of 1/n: the accuracy of a blind guess
    position_counts: dict[int, list[int]]  #: {images in the group: [times position 0 was chosen, position 1, ...]}
    position_shares: dict[int, list[Estimate]]  #: the same as shares of the groups of that size
    position_p_values: dict[int, float]  #: chi-square against equal shares, per group size
    always_first: Estimate
    always_last: Estimate
    best_constant_position: int
    best_constant: Estimate  #: chosen with the answers in view, so slightly flattered
    n_raters: int
    max_groups_per_rater: int
    rater_unique_per_group: bool  #: True: the hash names the group, not a person; raters cannot be grouped
    repeated_prompt_groups: int  #: groups that share their normalised prompt with another group
    prompts_shared_with_other: int | None  #: groups whose normalised prompt is also in ``other``
    context_length: int
    prompts_over_context: int | None
    empty_prompts: int
    words_mean: float
    words_median: float
    words_max: int
    contain_name_share: float
    images_absent: int | None
    first_absent: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, numbers and None, all keys text; a share has ``hits`` and ``total`` beside it."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    def __str__(self) -> str:
        sizes = ", ".join(f"{count:,} of {n}" for n, count in self.group_sizes.items())
        lines = [
            f"{self.n_groups:,} groups with {self.n_images:,} images ({sizes}); a blind guess is right "
            f"{self.chance_top1:.1%} of the time.",
            *(
                f"In groups of {n}, positions 0 to {n - 1} were chosen {', '.join(f'{c:,}' for c in counts)} times "
                f"(chi-square p = {self.position_p_values[n]:.2g} against equal shares): "
                f"{'; '.join(share.percent() for share in self.position_shares[n])}."
                for n, counts in self.position_counts.items()
            ),
            f"Always the first image: {_sentence(self.always_first)}.",
            f"Always the last image: {_sentence(self.always_last)}.",
            f"Best constant position, {self.best_constant_position}: {_sentence(self.best_constant)}.",
            f"{self.n_raters:,} raters, at most {self.max_groups_per_rater:,} groups each."
            + (" Every group has a rater hash of its own: raters cannot be told apart." * self.rater_unique_per_group),
            f"{self.repeated_prompt_groups:,} groups share their prompt with another group.",
        ]
        if self.prompts_shared_with_other is not None:
            lines.append(f"{self.prompts_shared_with_other:,} groups have a prompt that the other set has too.")
        lines += [
            f"Prompts have {self.words_mean:.1f} words on average (median {self.words_median:g}, longest "
            f"{self.words_max:,}); {self.empty_prompts:,} are empty.",
            f"Prompts over {self.context_length} tokens were not counted: no tokenizer was given."
            if self.prompts_over_context is None
            else f"Prompts over {self.context_length} tokens, so cut off at the end: {self.prompts_over_context:,}.",
            f"{self.contain_name_share:.1%} of the groups are flagged as naming a person.",
        ]
        if self.images_absent is None:
            lines.append("Whether the image files are there was not checked: no root folder was given.")
        else:
            first = f", the first is {self.first_absent!r}" if self.images_absent else ""
            lines.append(f"{self.images_absent:,} of {self.n_images:,} images are absent{first}.")
        return "\n".join(lines)


def _share(hits: int, total: int) -> Estimate:
    from scipy.stats import binomtest

    interval = binomtest(hits, total).proportion_ci(confidence_level=0.95, method="wilson")
    return Estimate(hits / total, float(interval.low), float(interval.high), total, 0.95)


def _hits(share: Estimate) -> int:
    return round(share.value * share.n)


def _sentence(share: Estimate) -> str:
    hits = f"{_hits(share):,} of {share.n:,}"
    return f"{share.value:.1%} ({hits}; 95% interval {share.low:.1%} to {share.high:.1%})"


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate):
        ends = {"low": value.low, "high": value.high}
        return {"hits": _hits(value), "total": value.n, "share": value.value, **ends}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return {str(key): _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def audit(
    dataset: Dataset,
    other: Dataset | None = None,
    tokenizer: Callable[[str], Sequence[int]] | None = None,
    context_length: int = 77,
    root: str | Path | None = None,
) -> Audit:
    """Look for what makes an accuracy mean less than it seems: position bias, leaks, cut prompts, absent files.

    Args:
        dataset: the groups to look at; :func:`hpslib.data.preferences.validate` must accept them, except that prompts
            may be empty (counted).
        other: another split; counts the groups of ``dataset`` whose prompt it also holds.
        tokenizer: prompt -> its token ids, start and end included and *not* cut off or padded; with open_clip's
            ``clip = SimpleTokenizer()`` that is ``lambda text: [49406, *clip.encode(text), 49407]``.
        context_length: longest prompt the model reads, in tokens (CLIP: 77).
        root: folder of the annotation file, to look for image files; embedded images need none.

    Raises ``ValueError`` when the dataset is malformed, or the tokenizer does not return a flat list of whole numbers.
    """
    import numpy as np

    validate(dataset, allow_empty_prompts=True)
    n_groups, prompts, sizes = len(dataset), dataset["prompt"][:], group_sizes(dataset)
    choices = np.array(dataset["human_preference"][:])
    bias = position_bias(choices, sizes)
    position, position_hits = Counter(choices.tolist()).most_common(1)[0]
    groups_per_rater = Counter(dataset["user_hash"][:])
    keys = [normalise_prompt(prompt) for prompt in prompts]
    groups_per_prompt = Counter(keys)
    words = [len(prompt.split()) for prompt in prompts]
    loose = next(loose_images(dataset), None) is not None
    absent = None if loose and root is None else absent_images(dataset, root)
    return Audit(
        n_groups=n_groups,
        n_images=int(sizes.sum()),
        group_sizes={n: sum(chosen) for n, chosen in bias.counts.items()},
        chance_top1=float(np.mean(1 / sizes)),
        position_counts=bias.counts,
        position_shares={n: [_share(hits, sum(chosen)) for hits in chosen] for n, chosen in bias.counts.items()},
        position_p_values=bias.p_values,
        always_first=_share(int((choices == 0).sum()), n_groups),
        always_last=_share(int((choices == sizes - 1).sum()), n_groups),
        best_constant_position=position,
        best_constant=_share(position_hits, n_groups),
        n_raters=len(groups_per_rater),
        max_groups_per_rater=max(groups_per_rater.values()),
        rater_unique_per_group=len(groups_per_rater) == n_groups,
        repeated_prompt_groups=sum(groups_per_prompt[key] > 1 for key in keys),
        prompts_shared_with_other=None if other is None else shared_prompts(prompts, other["prompt"][:]),
        context_length=context_length,
        prompts_over_context=None
        if tokenizer is None
        else sum(_token_count(tokenizer, prompt) > context_length for prompt in prompts),
        empty_prompts=words.count(0),
        words_mean=float(np.mean(words)),
        words_median=float(np.median(words)),
        words_max=max(words),
        contain_name_share=float(np.mean(dataset["contain_name"][:])),
        images_absent=None if absent is None else len(absent),
        first_absent=absent[0][1] if absent else None,
    )


class BlindGuess(NamedTuple):
    """What somebody reaches who does not look: ``top1``, a share, and ``loss``, a cross-entropy in nats."""

    top1: float
    loss: float


def blind_guess(sizes: Sequence[int]) -> BlindGuess:
    """The mean of 1/n and of log n over groups of n images: the lines that a classifier has to beat.

    Raises ``ValueError`` as :func:`hpslib.metrics.agreement.chance_top1` does.

    >>> guess = blind_guess([2, 4])
    >>> guess.top1, round(guess.loss, 3)
    (0.375, 1.04)
    """
    return BlindGuess(chance_top1(sizes), sum(math.log(n) for n in sizes) / len(sizes))


def shared_prompts(prompts: Sequence[str], others: Sequence[str]) -> int:
    """How many of ``prompts`` are among ``others`` too, letter case and spaces apart
    (:func:`hpslib.data.preferences.normalise_prompt`).

    >>> shared_prompts(["A  cat", "a dog", "a cat"], ["a cat"])
    2
    """
    known = {normalise_prompt(prompt) for prompt in others}
    return sum(normalise_prompt(prompt) in known for prompt in prompts)


def _token_count(tokenizer: Callable[[str], Sequence[int]], prompt: str) -> int:
    """The number of tokens; refuses what common tokenizers return, padded or a dictionary: ``len`` would be wrong."""
    tokens = tokenizer(prompt)
    if not isinstance(tokens, list | tuple) or not all(isinstance(token, Integral) for token in tokens):
        raise ValueError(
            f"the tokenizer returned a {type(tokens).__name__}: pass a function that returns one prompt's token ids as "
            "a flat list of whole numbers, neither padded nor cut off."
        )
    return len(tokens)
