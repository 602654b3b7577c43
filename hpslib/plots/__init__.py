"""The figures of the course: Axes in, Axes out, and beside every ``plot_x`` a ``say_x`` with the figure's numbers.

The sentence is what a screen reader reads, what a strict notebook comparison checks (images are never compared), and
what survives where figures do not. No figure tells anything by colour alone: frames come with a star, series with
markers, line styles or hatches. Positions of images count from 0, as in the annotation files.

``ax=None`` makes a new figure of fitting size; ``ax.figure.savefig(...)`` keeps it.
"""

from hpslib.plots.charts import (
    plot_accuracy,
    plot_flaw_effects,
    plot_positions,
    plot_selection,
    say_accuracy,
    say_flaw_effects,
    say_positions,
    say_selection,
    theme,
)
from hpslib.plots.curves import (
    plot_data_scaling,
    plot_learning_curve,
    plot_margins,
    plot_scores,
    say_data_scaling,
    say_learning_curve,
    say_margins,
    say_scores,
)
from hpslib.plots.grids import plot_before_after, plot_groups, plot_images, say_before_after, say_groups, say_images

__all__ = [
    "plot_accuracy",
    "plot_before_after",
    "plot_data_scaling",
    "plot_flaw_effects",
    "plot_groups",
    "plot_images",
    "plot_learning_curve",
    "plot_margins",
    "plot_positions",
    "plot_scores",
    "plot_selection",
    "say_accuracy",
    "say_before_after",
    "say_data_scaling",
    "say_flaw_effects",
    "say_groups",
    "say_images",
    "say_learning_curve",
    "say_margins",
    "say_positions",
    "say_scores",
    "say_selection",
    "theme",
]
