"""Formulas as MathML, which browsers draw without scripts, fonts or servers, and which screen readers can say."""

from __future__ import annotations

import html
import re
from xml.etree import ElementTree

from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml

__all__ = ["formula_block", "mathml"]


def mathml(formula: str, block: bool = False) -> str:
    """A formula in TeX as a ``<math>`` element, ``block`` for one that stands on lines of its own.

    One that docutils cannot read stays as its TeX, in a ``<code>`` element.

    >>> mathml("1/n").count("<m")
    4
    """
    try:
        text = tex2mathml(formula.strip(), as_block=block)
        ElementTree.fromstring(text)
    except (MathError, IndexError, AttributeError, ElementTree.ParseError):  # docutils trips over what is no formula
        return f"<code>{html.escape(formula.strip())}</code>"
    return re.sub(r"<mo([^>]*)>‖</mo>", r'<mo\1 stretchy="false">‖</mo>', text)  # else the left one grows alone


def formula_block(formula: str) -> str:
    """A formula of its own lines, in a frame that the keyboard can reach and move where the page is narrow."""
    return f'<div class="formula" tabindex="0" role="group" aria-label="Formula">{mathml(formula, block=True)}</div>'
