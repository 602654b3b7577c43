"""Figures of many numbers: distributions of scores, margins within prompts, learning curves, growth with the data.

What all figures have in common is said in :mod:`hpslib.plots`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter, StrMethodFormatter

from hpslib.metrics.agreement import top1_credit
from hpslib.metrics.intervals import Estimate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "legend_above",
    "new_axes",
    "plot_data_scaling",
    "plot_learning_curve",
    "plot_margins",
    "plot_scores",
    "say_data_scaling",
    "say_learning_curve",
    "say_margins",
    "say_scores",
]

BLUE, ORANGE, GREEN = "#0173b2", "#de8f05", "#029e73"  #: the first three of seaborn's "colorblind"
GREY = "#5a5a5a"


def legend_above(ax: Axes) -> None:
    """Above the axes, where it covers no data."""
    if ax.get_legend_handles_labels()[1]:
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=9)


def new_axes(width: float, height: float) -> Axes:
    """Axes in a figure of this size in inches."""
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


# --- scores of chosen and rejected images ----------------------------------------------------------------------------


def plot_scores(scores: Sequence[ArrayLike], choices: ArrayLike, xlabel: str = "score", ax: Axes | None = None) -> Axes:
    """Distributions of the scores of chosen and of rejected images, with their means.

    They overlap widely, because prompts differ more than images of one prompt do; :func:`plot_margins` removes the
    prompt. Groups with a score that is not finite are left out and counted by :func:`say_scores`. Raises ``ValueError``
    when no group is left.
    """
    chosen, rejected, _ = _chosen_and_rejected(scores, choices)
    ax = ax or new_axes(6, 3.4)
    bins = np.histogram_bin_edges(np.concatenate([chosen, rejected]), 30)
    shared: dict[str, Any] = {"bins": bins, "density": True}
    ax.hist(rejected, color=GREY, histtype="stepfilled", alpha=0.25, hatch="..", label="rejected", **shared)
    ax.hist(chosen, color=BLUE, histtype="step", linewidth=2, label="chosen", **shared)
    ax.axvline(rejected.mean(), color=GREY, linestyle=":", linewidth=2, label="mean of rejected")
    ax.axvline(chosen.mean(), color=BLUE, linestyle="--", linewidth=2, label="mean of chosen")
    ax.set(xlabel=xlabel, ylabel="density")
    legend_above(ax)
    return ax


def say_scores(scores: Sequence[ArrayLike], choices: ArrayLike) -> str:
    """Means and standard deviations of both.

    >>> say_scores([[1.0, 0.0], [2.0, 3.0]], [0, 1])
    'Mean score: chosen 2.00 (sd 1.00, 2 images), rejected 1.00 (sd 1.00, 2 images).'
    """
    chosen, rejected, left_out = _chosen_and_rejected(scores, choices)
    named = {"chosen": chosen, "rejected": rejected}
    parts = [f"{name} {v.mean():.2f} (sd {v.std():.2f}, {len(v):,} images)" for name, v in named.items()]
    return f"Mean score: {', '.join(parts)}{_left_out(left_out)}."


def plot_margins(
    scores: Sequence[ArrayLike],
    choices: ArrayLike,
    xlabel: str = "score of the chosen - best of the others",
    ax: Axes | None = None,
) -> Axes:
    """Within each prompt: by how much the chosen image's score exceeds the best other; right of 0 the scorer is right.

    The share right of 0 (ties shared) is the top-1 accuracy. Groups with a score that is not finite are left out
    and counted by :func:`say_margins`. Raises ``ValueError`` when no group is left.
    """
    margins, _, _ = _margins(scores, choices)
    ax = ax or new_axes(6, 3.4)
    width = max(np.ptp(margins), 1e-12) / 30
    first, last = np.floor(margins.min() / width), np.ceil(margins.max() / width)
    bins = width * np.arange(first, last + 2)  # an edge at 0, so no bar mixes right and wrong
    ax.hist(margins[margins < 0], bins, color=ORANGE, hatch="xx", edgecolor="white", label="another image above it")
    ax.hist(margins[margins >= 0], bins, color=BLUE, edgecolor="white", label="chosen image on top")
    ax.axvline(0, color="black")
    ax.axvline(np.median(margins), color="black", linestyle=":", label="median")
    ax.set(xlabel=xlabel, ylabel="groups")
    legend_above(ax)
    return ax


def say_margins(scores: Sequence[ArrayLike], choices: ArrayLike) -> str:
    """Median margin and the share of groups whose chosen image is on top.

    >>> say_margins([[1.0, 0.0], [2.0, 3.5], [1.0, 4.0]], [0, 1, 0])
    'The chosen image scores highest in 66.7 % of 3 groups; the median margin to the best other is +1.00.'
    """
    margins, credit, left_out = _margins(scores, choices)
    return (
        f"The chosen image scores highest in {100 * credit.mean():.1f} % of {len(margins):,} groups; the median margin "
        f"to the best other is {np.median(margins):+.2f}{_left_out(left_out)}."
    )


def _known(scores: Sequence[ArrayLike], choices: ArrayLike) -> tuple[list[np.ndarray], np.ndarray, int]:
    top1_credit(scores, choices)  # refuses malformed groups with their number
    groups = [np.asarray(group, dtype=np.float64) for group in scores]
    keep = [bool(np.isfinite(group).all()) for group in groups]
    if not any(keep):
        raise ValueError(
            "every group holds a score that is not finite: give at least one whose scores are all numbers."
        )
    return [g for g, ok in zip(groups, keep) if ok], np.asarray(choices)[keep], keep.count(False)


def _chosen_and_rejected(scores: Sequence[ArrayLike], choices: ArrayLike) -> tuple[np.ndarray, np.ndarray, int]:
    groups, chosen, left_out = _known(scores, choices)
    others = np.concatenate([np.delete(group, k) for group, k in zip(groups, chosen)])
    return np.array([group[k] for group, k in zip(groups, chosen)]), others, left_out


def _margins(scores: Sequence[ArrayLike], choices: ArrayLike) -> tuple[np.ndarray, np.ndarray, int]:
    groups, chosen, left_out = _known(scores, choices)
    margins = np.array([group[k] - np.delete(group, k).max() for group, k in zip(groups, chosen)])
    return margins, top1_credit(groups, chosen), left_out


def _left_out(count: int) -> str:
    return f"; {count} groups with a score that is not finite are left out" if count else ""


# --- learning --------------------------------------------------------------------------------------------------------


def plot_learning_curve(
    losses: Sequence[float],
    validation: Sequence[Sequence[float]],
    best_step: int | None = None,
    window: int = 25,
    ax: Axes | None = None,
) -> Axes:
    """Training loss of every step (pale) with its running mean over ``window`` steps, and the validation loss.

    Takes the fields of :class:`hpslib.classifier.training.Trained`: ``validation`` holds (step, loss, ...) from step 1
    on, ``best_step`` is the step whose weights were kept. Raises ``ValueError`` when there is no loss or ``window`` is
    below 1.
    """
    steps, smooth = np.arange(1, len(losses) + 1), _running_mean(losses, window)
    ax = ax or new_axes(6, 3.4)
    ax.plot(steps, losses, color=BLUE, alpha=0.25, linewidth=0.8)
    ax.plot(
        steps[window - 1 :], smooth[window - 1 :], color=BLUE, linewidth=2, label=f"training, mean of {window} steps"
    )
    if len(validation):
        at, values = [row[0] for row in validation], [row[1] for row in validation]
        ax.plot(at, values, color=ORANGE, marker="o", linestyle="--", label="validation")
    if best_step is not None:
        ax.axvline(best_step, color="black", linestyle=":", label=f"kept, step {best_step}")
    ax.set(xlabel="step", ylabel="loss")
    low, high = np.quantile(losses, [0.02, 0.98])
    shown = [low, high, *smooth[window - 1 :], *(row[1] for row in validation)]
    pad = 0.08 * (max(shown) - min(shown)) or 0.1
    ax.set_ylim(min(shown) - pad, max(shown) + pad)  # a single wild batch must not flatten the curve
    legend_above(ax)
    return ax


def say_learning_curve(
    losses: Sequence[float], validation: Sequence[Sequence[float]], best_step: int | None = None, window: int = 25
) -> str:
    """First and last level of the training loss, first and lowest validation loss.

    >>> say_learning_curve([1.4, 1.2, 1.0, 0.8], [(2, 1.31), (4, 1.26)], best_step=4, window=2)
    'Training loss from 1.30 to 0.90 (means of 2) in 4 steps; validation loss from 1.31 to 1.26 (step 4), step 4 kept.'
    """
    smooth = _running_mean(losses, window)
    first, last = smooth[min(window, len(smooth)) - 1], smooth[-1]
    text = f"Training loss from {first:.2f} to {last:.2f} (means of {window}) in {len(losses)} steps"
    if len(validation):
        lowest = min(validation, key=lambda row: row[1])
        text += f"; validation loss from {validation[0][1]:.2f} to {lowest[1]:.2f} (step {lowest[0]})"
    return text + (f", step {best_step} kept." if best_step is not None else ".")


def _running_mean(values: Sequence[float], window: int) -> np.ndarray:
    """Mean of the last ``window`` values (of fewer at the start)."""
    if len(values) == 0 or window < 1:
        raise ValueError(f"there are {len(values)} losses and a window of {window}: give at least one of each.")
    total = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=np.float64))])
    end = np.arange(1, len(total))
    start = np.maximum(end - window, 0)
    return (total[end] - total[start]) / (end - start)


def plot_data_scaling(
    counts: Sequence[int],
    estimates: Sequence[Estimate],
    lines: Mapping[str, float] | None = None,
    xlabel: str = "choices in the training set",
    ylabel: str = "top-1 accuracy",
    ax: Axes | None = None,
) -> Axes:
    """Accuracy against the number of choices (logarithmic), its interval as a band; ``lines`` are named levels.

    Raises ``ValueError`` unless there is one estimate per count and the counts are above 0.
    """
    _check_scaling(counts, estimates)
    ax = ax or new_axes(6.5, 3.6)
    values = [e.value for e in estimates]
    ax.fill_between(counts, [e.low for e in estimates], [e.high for e in estimates], color=BLUE, alpha=0.2)
    ax.plot(
        counts, values, color=BLUE, marker="o", linewidth=2, label=f"{estimates[0].confidence:.0%} interval as band"
    )
    styles = ["--", ":", "-.", (0, (5, 1)), (0, (1, 3))]
    for k, (name, level) in enumerate((lines or {}).items()):
        colour = ["black", ORANGE, GREEN][k % 3]
        ax.axhline(level, color=colour, linestyle=styles[k % 5], label=f"{name}, {100 * level:.1f} %")
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(list(counts)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.yaxis.set_major_formatter(PercentFormatter(1, 0))
    ax.set(xlabel=xlabel, ylabel=ylabel)
    legend_above(ax)
    return ax


def say_data_scaling(
    counts: Sequence[int],
    estimates: Sequence[Estimate],
    lines: Mapping[str, float] | None = None,
    decimals: int = 1,
) -> str:
    """Each count with its estimate, then the named levels.

    >>> say_data_scaling([100], [Estimate(0.3, 0.25, 0.35, 500, 0.95)], {"chance": 0.25})
    'From 100 choices 30.0 % [25.0, 35.0]; chance 25.0 %.'
    """
    _check_scaling(counts, estimates)
    parts = [f"from {count:,} choices {e.percent(decimals)}" for count, e in zip(counts, estimates)]
    levels = [f"; {name} {100 * level:.{decimals}f} %" for name, level in (lines or {}).items()]
    text = ", ".join(parts) + "".join(levels) + "."
    return text[0].upper() + text[1:]


def _check_scaling(counts: Sequence[int], estimates: Sequence[Estimate]) -> None:
    if len(counts) == 0 or len(counts) != len(estimates) or min(counts) <= 0:
        raise ValueError(f"{len(counts)} counts and {len(estimates)} estimates: give one each, all counts above 0.")
