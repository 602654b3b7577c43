"""The map of the paper says what the lessons print, letter by letter, and its signs follow from its numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from stored_lessons import printed

from hpslib.lessons import scale

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "paper_map.md").read_text(encoding="utf-8")
LINK = re.compile(r"\[(\d) · [^\]]+\]\(\.\./notebooks/([\w.]+)#([\w-]+)\)")


def tables(text: str) -> list[dict[str, str]]:
    """The rows of all tables of a Markdown text, as {column: cell}."""
    rows, header = [], []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            header = []
        elif not header:
            header = cells
        elif not set(line) <= set("|- "):
            rows.append(dict(zip(header, cells, strict=True)))
    return rows


MEASURED = [row for row in tables(TEXT) if "Ours" in row]
FORMULAS = [row for row in tables(TEXT) if "In the library" in row]
SETTINGS = [row for row in tables(TEXT) if "Name" in row]
NUMBER = r"[+-]?\d[\d,.]*(?:e-?\d+)?"


def verdict(row: dict[str, str]) -> str:
    """What *Same sign?* must say, from the quoted sign and our interval (or our sentence)."""
    ours = re.findall(r"`([^`]+)`", row["Ours"])
    interval = re.fullmatch(rf"({NUMBER})(?: %)? \[({NUMBER}), ({NUMBER})\]", ours[0])
    if interval:
        low, high = float(interval[2]), float(interval[3])
        half = 50.0 if row["Ours"].endswith("against one half") else 0.0
        against = float(ours[1].removesuffix(" %")) if len(ours) > 1 else half
        direction = (low > against) - (high < against)
    elif ours[0].endswith((" falls", " rises")):
        direction = 1 if ours[0].endswith(" rises") else -1
    elif "does not change" in ours[0]:
        direction = 0
    else:
        return "–"
    quoted = {"+": 1, "-": -1}[row["Quoted"][0]]
    return {quoted: "yes", 0: "not settled", -quoted: "no"}[direction]


def test_the_map_has_all_three_parts() -> None:
    assert len(MEASURED) >= 20 and len(FORMULAS) >= 5 and len(SETTINGS) >= 10


@pytest.mark.parametrize("row", MEASURED, ids=lambda row: row["In the paper"][:50])
def test_our_figures_stand_in_the_stored_outputs(row: dict[str, str]) -> None:
    _, notebook, anchor = LINK.fullmatch(row["Where"]).groups()
    assert anchor in printed(notebook), f"{notebook} has no heading '{anchor}'."
    text = " ".join(printed(notebook)[anchor].split())
    ours = re.findall(r"`([^`]+)`", row["Ours"])
    assert ours
    for figure in ours:
        found = re.search(rf"(?<![\w.,+-]){re.escape(figure)}(?!\w|\.\d)", text)
        assert found, f"{notebook}, {anchor}: {figure!r} is not printed there: run make notebooks, or mend the map."


@pytest.mark.parametrize("row", MEASURED, ids=lambda row: row["In the paper"][:50])
def test_the_sign_follows_from_the_numbers(row: dict[str, str]) -> None:
    assert row["Same sign?"] == verdict(row)
    assert row["Read in"] in {"R", "2", "1"}


@pytest.mark.parametrize(
    "quoted, ours, expected",
    [
        ("+1", "`2 % [1, 3]`", "yes"),
        ("+1", "`2 % [1, 3]` against `2 %`", "not settled"),
        ("+1", "`2 % [1, 3]` against `4 %`", "no"),
        ("+1", "`62 % [51, 73]` against one half", "yes"),
        ("-0.4", "`-0.5 [-1e-1, -0.01]`", "yes"),
        ("-0.4", "`FID falls`", "yes"),
        ("+0.4", "`FID falls`", "no"),
        ("+0.4", "`FID does not change measurably`", "not settled"),
        ("5,000", "`800`", "–"),
    ],
)
def test_the_rule_of_signs(quoted: str, ours: str, expected: str) -> None:
    assert verdict({"Quoted": quoted, "Ours": ours}) == expected


@pytest.mark.parametrize("row", FORMULAS, ids=lambda row: row["In the library"])
def test_formulas_are_where_the_map_says(row: dict[str, str]) -> None:
    _, notebook, anchor = LINK.fullmatch(row["In the lesson"]).groups()
    assert anchor in printed(notebook)
    module = row["In the library"].strip("`")
    assert (DOCS.parent / module.replace(".", "/")).with_suffix(".py").is_file()


@pytest.mark.parametrize("row", SETTINGS, ids=lambda row: row["Name"])
def test_settings_are_those_of_the_scales(row: dict[str, str]) -> None:
    name = row["Name"].strip("`")
    for which in (scale.mini, scale.full):
        written = float(re.match(NUMBER, row[f"`{which.name}`"])[0].replace(",", ""))
        assert written == getattr(which, name), f"{name} of {which.name} is {getattr(which, name)}: mend the map."
