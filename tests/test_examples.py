"""Every ``>>>`` example in a docstring of the library runs and gives what it says; and all of them are quick."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hpslib"


def with_examples() -> list[str]:
    """The modules that show any, by their full names."""
    paths = [p for p in sorted(PACKAGE.rglob("*.py")) if re.search(r"^\s*>>> ", p.read_text(encoding="utf-8"), re.M)]
    names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in paths]
    return [name.removesuffix(".__init__") for name in names]


@pytest.mark.parametrize("name", with_examples())
def test_examples_give_what_they_say(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = importlib.import_module(name)
    monkeypatch.chdir(tmp_path)  # an example that needs a file of the project would fail for whoever copies it
    result = doctest.testmod(module)
    assert result.attempted, (
        f"{name} has examples that doctest does not find: begin them with >>> on a line of their own."
    )
    assert result.failed == 0
