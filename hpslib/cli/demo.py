"""``hpslib demo``: a page to open and to show around."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from hpslib.cli.support import one_sentence

__all__ = ["demo"]


def demo(
    page: Annotated[Path, typer.Argument(help="The file to write.")] = Path("hpslib-demo.html"),
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = True,
) -> None:
    """Write one page of HTML with the before/after pictures and a vote that you can hold against the scores.

    The page holds everything it shows; it needs no network.

    Example: hpslib demo --no-open
    """
    from hpslib.lessons.demo import write_demo

    with one_sentence():
        place = write_demo(page)
    typer.echo(f"wrote {place}")
    if open_page and not webbrowser.open(place.as_uri()):
        typer.echo("no browser could be opened: open the file yourself.", err=True)
