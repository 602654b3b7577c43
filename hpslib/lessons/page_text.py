"""A lesson's Markdown as HTML for a page that holds several lessons: formulas, headings and links that fit there."""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Mapping
from typing import Any

from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from hpslib.lessons.formulas import formula_block, mathml

__all__ = ["LessonText", "slug"]

_BADGES = re.compile(r"^(\[!\[[^\]]*\]\([^)]*\)\]\([^)]*\)\s*)+$", re.M)  # lines of pictures that lie elsewhere


def slug(heading: str) -> str:
    """The anchor of a heading, as repositories' pages make it.

    >>> slug("Leaks, and the whole <em>audit</em>")
    'leaks-and-the-whole-audit'
    """
    words = re.sub(r"<[^>]*>", "", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", words).replace(" ", "-")


class LessonText(IPythonRenderer):
    """Writes one lesson, ``stem``, onto a page with the lessons ``others``.

    Its title becomes a heading of level 2, for the page has a title of its own, and no heading lies more than one level
    below the one before it. Links between lessons stay on the page.
    """

    def __init__(self, stem: str, others: Collection[str]) -> None:
        super().__init__(escape=False)
        self.stem, self.others = stem, others
        self._level = 1
        self._anchors: set[str] = set()

    def write(self, source: str, attachments: Mapping[str, Any] | None = None) -> str:
        """A cell's Markdown as HTML, badges left out; ``attachments`` are the pictures that the cell itself holds."""
        self.attachments = dict(attachments or {})
        return MarkdownWithMath(renderer=self).render(_BADGES.sub("", source))

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        self._level = min(level + 1, self._level + 1, 6)
        anchor = html.escape(f"{self.stem}--{slug(text)}")
        once = "" if anchor in self._anchors else f' id="{anchor}"'
        self._anchors.add(anchor)
        return f"<h{self._level}{once}>{text}</h{self._level}>\n"

    def link(self, text: str, url: str, title: str | None = None) -> str:
        place, _, anchor = url.partition("#")
        lesson = place.removesuffix(".ipynb") if place else self.stem
        if ":" not in url and lesson in {self.stem, *self.others}:
            url = f"#{lesson}--{anchor}" if anchor else f"#{lesson}"
        return super().link(text, url, title)

    def block_math(self, body: str) -> str:
        return formula_block(body)

    def inline_math(self, body: str) -> str:
        return mathml(body)

    def latex_environment(self, name: str, body: str) -> str:
        return formula_block(rf"\begin{{{name}}}{body}\end{{{name}}}")
