"""Charts of estimates and counts: positions, accuracies, effects of flaws, what a selection took; and their theme.

What all figures have in common is said in :mod:`hpslib.plots`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import seaborn as sns
from matplotlib.ticker import PercentFormatter

from hpslib.metrics.intervals import Estimate, wilson_interval
from hpslib.plots.curves import BLUE, ORANGE, legend_above, new_axes
from hpslib.plots.grids import FONT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from hpslib.adaptation.selection import Selection

__all__ = [
    "plot_accuracy",
    "plot_flaw_effects",
    "plot_positions",
    "plot_selection",
    "say_accuracy",
    "say_flaw_effects",
    "say_positions",
    "say_selection",
    "theme",
]

SKY = "#56b4e9"  # light enough for black whiskers


def theme() -> None:
    """Set the look of all figures: white grid, the colour-blind safe palette, matplotlib's own font, 100 dpi."""
    sns.set_theme(style="whitegrid", palette="colorblind", font=FONT, rc={"figure.dpi": 100, "axes.titlesize": 11})


# --- choices and accuracy --------------------------------------------------------------------------------------------


def plot_positions(counts: Sequence[int], ax: Axes | None = None) -> Axes:
    """How often each position was chosen in groups of ``len(counts)`` images: shares, Wilson intervals, chance line.

    ``counts`` is one entry of ``Audit.position_counts``. Raises ``ValueError`` on fewer than two positions or no
    choice.
    """
    estimates, ax = _shares(counts), ax or new_axes(5.5, 3.4)
    places = np.arange(len(counts))
    ax.bar(places, [e.value for e in estimates], color=SKY, width=0.6)
    _whiskers(ax, places, estimates, upright=True)
    ax.axhline(1 / len(counts), color="black", linestyle="--", label=f"chance, 1/{len(counts)}")
    for place, estimate in zip(places, estimates):
        ax.annotate(f"{100 * estimate.value:.1f} %", (place, 0), (0, 4), textcoords="offset points", ha="center")
    ax.set(xticks=places, xlabel="position in the group, from 0", ylabel="share of choices")
    ax.set_ylim(0, max(e.high for e in estimates) * 1.15)
    ax.yaxis.set_major_formatter(PercentFormatter(1, 0))
    ax.grid(axis="x", visible=False)
    legend_above(ax)
    return ax


def say_positions(counts: Sequence[int]) -> str:
    """The shares with their intervals.

    >>> say_positions([20, 30, 50])
    'Of 100 choices among 3 images, position 0 got 20.0 % [13.3, 28.9], position 1 got 30.0 % [21.9, 39.6], \
position 2 got 50.0 % [40.4, 59.6]; chance is 33.3 %.'
    """
    shares = ", ".join(f"position {k} got {e.percent()}" for k, e in enumerate(_shares(counts)))
    return f"Of {sum(counts):,} choices among {len(counts)} images, {shares}; chance is {100 / len(counts):.1f} %."


def _shares(counts: Sequence[int]) -> list[Estimate]:
    if len(counts) < 2 or sum(counts) == 0:
        raise ValueError(f"the counts {list(counts)} hold no choice between positions: give two or more, one above 0.")
    return [wilson_interval(count, sum(counts)) for count in counts]


def plot_accuracy(
    estimates: Mapping[str, Estimate],
    chance: float | None = None,
    quoted: Mapping[str, float] | None = None,
    quoted_chance: float | None = None,
    xlabel: str = "top-1 accuracy",
    ax: Axes | None = None,
) -> Axes:
    """Horizontal bars with intervals, in the order given, beside the line of chance; their numbers in a column.

    ``quoted`` holds the paper's number for some of the names (a share, like the estimates). It was measured on other
    data, so it gets a column of its own and no place on our axis. With ``chance`` and ``quoted_chance`` each number is
    followed by its distance to chance in points, which is what can be compared. Serves win rates too, with
    ``chance=0.5``. Raises ``ValueError`` on no estimate or a quoted name that has no bar.
    """
    _check_quoted(estimates, quoted)
    ax = ax or new_axes(6.5 + (1.2 if quoted else 0), 0.9 + 0.45 * len(estimates))
    places = np.arange(len(estimates))
    values = list(estimates.values())
    ax.barh(places, [e.value for e in values], color=SKY, height=0.55)
    _whiskers(ax, places, values)
    if chance is not None:
        ax.axvline(chance, color="black", linestyle="--", label=f"chance, {100 * chance:.1f} %")
    ax.set_xlim(0, min(max([*(e.high for e in values), chance or 0]) * 1.05, 1.02))
    ax.xaxis.set_major_formatter(PercentFormatter(1, 0))
    _name_rows(ax, list(estimates), xlabel)
    legend_above(ax)
    beside = "" if chance is None else "\n(over chance)"
    _column(ax, 8, f"ours{beside}", [_over(e.value, chance) for e in values])
    if quoted:
        beside = "" if quoted_chance is None else "\n(over its chance)"
        numbers = [_over(quoted[name], quoted_chance) if name in quoted else "" for name in estimates]
        _column(ax, 96, f"paper, quoted{beside}", numbers)
    return ax


def _over(value: float, chance: float | None) -> str:
    return f"{100 * value:.1f} %" + ("" if chance is None else f" ({100 * (value - chance):+.1f})")


def _column(ax: Axes, points: float, title: str, texts: Sequence[str]) -> None:
    """A column of text ``points`` right of the axes, one line a row and its title above."""
    for row, text in enumerate(texts):
        place, across = (1, row), ax.get_yaxis_transform()
        ax.annotate(text, place, (points, 0), across, textcoords="offset points", va="center", fontsize=9)
    style: dict[str, Any] = {"va": "bottom", "fontsize": 8, "color": "0.3"}
    ax.annotate(title, (1, 1), (points, 2), "axes fraction", textcoords="offset points", **style)


def say_accuracy(
    estimates: Mapping[str, Estimate],
    chance: float | None = None,
    quoted: Mapping[str, float] | None = None,
    quoted_chance: float | None = None,
    decimals: int = 1,
) -> str:
    """Each name with its estimate, interval and quoted number; ``decimals`` of a percent (0 for trained models).

    >>> say_accuracy({"HPS": Estimate(0.435, 0.421, 0.449, 5000, 0.95)}, chance=0.26, quoted={"HPS": 0.435})
    'HPS 43.5 % [42.1, 44.9] (quoted from the paper: 43.5 %); chance 26.0 %.'
    """
    _check_quoted(estimates, quoted)
    parts = []
    for name, estimate in estimates.items():
        note = f" (quoted from the paper: {100 * quoted[name]:.1f} %)" if quoted and name in quoted else ""
        parts.append(f"{name} {estimate.percent(decimals)}{note}")
    if chance is not None:
        theirs = "" if quoted_chance is None else f" (quoted from the paper: {100 * quoted_chance:.1f} %)"
        parts.append(f"chance {100 * chance:.{decimals}f} %{theirs}")
    return "; ".join(parts) + "."


def _check_quoted(estimates: Mapping[str, Estimate], quoted: Mapping[str, float] | None) -> None:
    if not estimates:
        raise ValueError("there is no estimate to show: give at least one name with its Estimate.")
    unknown = [name for name in quoted or {} if name not in estimates]
    if unknown:
        raise ValueError(f"the quoted {unknown[0]!r} has no bar: use one of the names {', '.join(estimates)}.")


# --- what the classifier learned --------------------------------------------------------------------------------------


def plot_flaw_effects(
    effects: Mapping[str, Estimate], xlabel: str = "change of the score by the flaw", ax: Axes | None = None
) -> Axes:
    """What a scorer looks at: mean change of its score per flaw, with intervals, strongest on top.

    Filled markers: the interval excludes 0; hollow ones: it does not. Raises ``ValueError`` when there is no effect.
    """
    ordered = dict(sorted(effects.items(), key=lambda item: item[1].value))
    return _intervals(ordered, 0.0, xlabel, ax)


def say_flaw_effects(effects: Mapping[str, Estimate]) -> str:
    """The effects, strongest first, and whether each interval excludes 0.

    >>> say_flaw_effects({"eyes": Estimate(-0.5, -0.7, -0.3, 90, 0.95), "mouth": Estimate(0.1, -0.1, 0.3, 90, 0.95)})
    'eyes -0.50 [-0.70, -0.30]; mouth 0.10 [-0.10, 0.30] (interval includes 0).'
    """
    return _say_intervals(dict(sorted(effects.items(), key=lambda item: item[1].value)), 0.0)


# --- adaptation ------------------------------------------------------------------------------------------------------


def plot_selection(selection: Selection, ax: Axes | None = None) -> Axes:
    """What the 2/n rule took from the pool: images of each kind, and groups that gave nothing."""
    counts = _selection_counts(selection)
    ax = ax or new_axes(6.5, 2.4)
    bars = ax.barh(list(counts), list(counts.values()), color=[BLUE, ORANGE, "#b5b5b5", "#b5b5b5"], height=0.6)
    for bar, hatch, count in zip(bars, ("", "xx", "..", "//"), counts.values()):
        bar.set(hatch=hatch, edgecolor="white")
        place = (count, bar.get_y() + bar.get_height() / 2)
        ax.annotate(f"{count:,}", place, (4, 0), textcoords="offset points", va="center")
    ax.set_xlim(0, max(1, *counts.values()) * 1.12)
    _name_rows(ax, list(counts), f"of {selection.groups:,} groups")
    return ax


def say_selection(selection: Selection) -> str:
    """The counts as :class:`hpslib.adaptation.selection.Selection` says them."""
    return str(selection)


def _selection_counts(selection: Selection) -> dict[str, int]:
    return {
        "preferred images": len(selection.preferred),
        "non-preferred images": len(selection.non_preferred),
        "groups with neither": selection.neither,
        "groups too small": selection.too_small,
    }


# --- shared ----------------------------------------------------------------------------------------------------------


def _intervals(estimates: Mapping[str, Estimate], reference: float, xlabel: str, ax: Axes | None) -> Axes:
    """Points with intervals around a reference line; hollow where the interval includes the reference."""
    if not estimates:
        raise ValueError("there is no estimate to show: give at least one name with its Estimate.")
    ax = ax or new_axes(6.5, 1.1 + 0.36 * len(estimates))
    values, places = list(estimates.values()), np.arange(len(estimates))
    ax.axvline(reference, color="black", linestyle="--", linewidth=1.2)
    _whiskers(ax, places, values, colour=BLUE)
    for place, e in zip(places, values):
        face = "white" if e.low <= reference <= e.high else BLUE
        ax.plot([e.value], [place], marker="o", markersize=8, color=BLUE, markerfacecolor=face, markeredgewidth=2)
    _name_rows(ax, list(estimates), f"{xlabel}\n(hollow marker: the interval includes {reference:g})")
    ax.set_ylim(len(estimates) - 0.5, -0.5)
    return ax


def _say_intervals(estimates: Mapping[str, Estimate], reference: float) -> str:
    parts = [
        f"{name} {e}" + (f" (interval includes {reference:g})" if e.low <= reference <= e.high else "")
        for name, e in estimates.items()
    ]
    return "; ".join(parts) + "."


def _whiskers(
    ax: Axes, places: np.ndarray, estimates: Sequence[Estimate], upright: bool = False, colour: str = "black"
) -> None:
    # Lines, not errorbar: a percentile interval need not hold its estimate, and errorbar refuses negative lengths.
    ends = np.array([[e.low for e in estimates], [e.high for e in estimates]])
    style: dict[str, Any] = {"colors": colour, "linewidth": 2, "zorder": 3}
    if upright:
        ax.vlines(places, ends[0], ends[1], **style)
    else:
        ax.hlines(places, ends[0], ends[1], **style)
    for end in ends:
        across = (places, end) if upright else (end, places)
        ax.plot(*across, linestyle="none", marker="_" if upright else "|", color=colour, markersize=8, zorder=3)


def _name_rows(ax: Axes, names: Sequence[str], xlabel: str) -> None:
    ax.set_yticks(np.arange(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlabel(xlabel)
    ax.grid(axis="y", visible=False)
