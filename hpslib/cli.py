"""``hpslib`` on the command line: the functions of the notebooks, for people who left the notebook.

A command is a function with ``@app.command()``: it reads, calls one function of the library and prints. Imports of the
library stand inside the commands, so that ``hpslib --help`` answers at once. A command that cannot do its work says why
in one sentence on stderr and ends with exit code 2.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app", "audit"]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_show_locals=False)


@app.callback()
def _hpslib() -> None:
    """Human Preference Score: read, audit and use preferences for text-to-image models."""
    # Without a callback typer would drop the name of a command as long as there is only one.


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Turn the library's errors into one line on stderr and exit code 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


@app.command()
def audit(
    file: Annotated[Path, typer.Argument(help="An HPD v1 JSON file or a packed parquet file.")],
    other: Annotated[Path | None, typer.Option(help="Another split: count the prompts both have.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Look for position bias, repeated and shared prompts, and absent images. The images are not needed."""
    from hpslib.audit import audit as audit_dataset
    from hpslib.sources import read_hpd

    with _one_sentence(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # absent images: the audit says it itself
        dataset = read_hpd(file, images="optional")
        found = audit_dataset(dataset, other and read_hpd(other, images="optional"), root=file.parent)
    typer.echo(json.dumps(found.to_dict(), indent=2) if as_json else str(found))
