"""What ``hpslib train`` says of a classifier, in its output and in the model card.

Numbers stand beside what they mean nothing without: a blind guess, an interval, and how many prompts of a test were
trained on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hpslib.classifier.training import Trained

__all__ = ["Report", "training_report"]

# What the card calls the numbers of :func:`hpslib.metrics.comparison.agreement_with`; shares are printed in percent.
_SHARES = {"top1": "test top-1", "pairwise_macro": "test pairs, macro", "pairwise_micro": "test pairs, micro"}
_CORRELATIONS = {
    "kendall_within": "test Kendall's tau within a prompt",
    "kendall_corpus": "test Kendall's tau over all images",
    "spearman_corpus": "test Spearman's rho over all images",
}


@dataclass(frozen=True)
class Report:
    """``numbers`` for JSON, ``lines`` and ``warnings`` for people, ``metrics`` (name -> text) for the model card."""

    numbers: dict[str, Any]
    lines: list[str]
    warnings: list[str]
    metrics: dict[str, str]

    def with_test(self, agreement: tuple[dict[str, Any], list[str]], groups: int) -> Report:
        """The same with what :func:`hpslib.metrics.comparison.agreement_with` says of a test of so many groups."""
        measured, lines = agreement
        rows = {}
        for key, value in measured.items():
            if key in _SHARES:
                chance = measured["chance"] if key == "top1" else 0.5
                rows[f"{_SHARES[key]}, {groups:,} groups"] = _beside(_interval(value, percent=True), _percent(chance))
            elif key in _CORRELATIONS:
                rows[f"{_CORRELATIONS[key]}, {groups:,} groups"] = _interval(value)
        if measured.get("tied_groups"):
            rows["test groups whose best images are tied"] = f"{measured['tied_groups']:,}, in pairs only"
        named = [f"Test: {line}" for line in lines]
        return replace(
            self, numbers=self.numbers | measured, lines=self.lines + named, metrics={**self.metrics, **rows}
        )

    def card(self, name: str, groups: int, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of :func:`hpslib.scores.pretrained.save_pretrained`."""
        summary = f"Trained on {groups:,} choices of {name}."
        return {
            "title": "Preference classifier",
            "summary": "\n\n".join([summary, *(f"**{warning}**" for warning in self.warnings)]),
            "settings": {key: value for key, value in settings.items() if value is not None},
            "metrics": self.metrics,
        }


def training_report(trained: Trained, parts: Mapping[str, Any], test: Any | None, cut: int, tied: int) -> Report:
    """What is to be said of the kept step, before any test: validation beside a blind guess, shared prompts, cuts.

    ``parts`` are the sets "train" and "validation", ``test`` the set that is only tested on; ``cut`` prompts were cut
    off and ``tied`` groups left out.
    """
    from hpslib.metrics.audit import blind_guess
    from hpslib.metrics.intervals import wilson_interval

    step, loss, top1 = min(trained.validation, key=lambda row: row[1])
    sizes = {name: [len(images) for images in part["images"]] for name, part in parts.items()}
    groups = {name: len(part) for name, part in sizes.items()}
    guess, share = blind_guess(sizes["validation"]), wilson_interval(top1 * groups["validation"], groups["validation"])
    numbers: dict[str, Any] = {"steps": len(trained.losses), "kept_step": step, "validation_loss": loss}
    numbers |= {"validation_top1": top1, "validation_top1_interval": [share.low, share.high]}
    numbers |= {"blind_guess": {"top1": guess.top1, "loss": guess.loss}, "groups": groups, "prompts_cut_off": cut}
    lines = [
        f"{len(trained.losses):,} steps; kept step {step:,}: validation loss {loss:.3f}, top-1 {share.percent()}.",
        f"A blind guess on these {groups['validation']:,} groups has loss {guess.loss:.3f} and top-1 "
        f"{_percent(guess.top1)}.",
    ]
    if cut:
        lines.append(f"{cut:,} prompts are longer than the text tower reads and were cut off.")
    if tied:
        lines.append(f"{tied:,} groups whose best images are tied were left out.")
    shared, warnings = _shared(parts, test)
    rows = {
        f"validation top-1, {groups['validation']:,} groups": _beside(share.percent(), _percent(guess.top1)),
        f"validation loss, {groups['validation']:,} groups": _beside(f"{loss:.3f}", f"{guess.loss:.3f}"),
    }
    if loss >= guess.loss:
        warnings.append("On validation the classifier is no better than a blind guess, by its loss.")
    return Report(numbers | shared, lines, warnings, rows)


def _shared(parts: Mapping[str, Any], test: Any | None) -> tuple[dict[str, int], list[str]]:
    """Prompts that are asked about again after they were learned from, or chosen by: numbers and warnings."""
    from hpslib.metrics.audit import shared_prompts

    prompts = {name: list(part["prompt"]) for name, part in parts.items()}
    if test is not None:
        prompts["test"] = list(test["prompt"])
    numbers, warnings = {}, []
    for asked, known in (("validation", "train"), ("test", "train"), ("test", "validation")):
        if asked not in prompts:
            continue
        count, total = shared_prompts(prompts[asked], prompts[known]), len(prompts[asked])
        numbers[f"{asked}_shared_with_{known}"] = count
        if count:
            use = "was trained on" if known == "train" else "decided which step was kept"
            warnings.append(
                f"Warning: {count:,} of {total:,} {asked} groups have a prompt that {use}, so that their numbers say "
                "nothing about new prompts."
            )
    return numbers, warnings


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(numbers: Sequence[float], percent: bool = False) -> str:
    """Value, low and high as :class:`hpslib.metrics.intervals.Estimate` prints them: ``40.9 % [29.4, 52.0]``."""
    from hpslib.metrics.intervals import Estimate

    value, low, high = (math.nan if number is None else number for number in numbers)
    estimate = Estimate(value, low, high, n=0, confidence=0.95)
    return estimate.percent() if percent else str(estimate)


def _beside(value: str, guess: str) -> str:
    return f"{value}; a blind guess {guess}"
