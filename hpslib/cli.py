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

__all__ = ["app", "audit", "convert", "score"]

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


@app.command()
def convert(
    kind: Annotated[str, typer.Argument(help="What the file is: clip, hps_v1, hps_v2 (also v2.1) or pickscore.")],
    file: Annotated[Path, typer.Argument(help="The checkpoint as downloaded (.pth, .pt, .bin or .safetensors).")],
    folder: Annotated[Path, typer.Argument(help="Where the safetensors folder goes.")],
) -> None:
    """Turn a released checkpoint into a safetensors folder with its provenance; refuses what does not fit its kind.

    Example: hpslib convert hps_v1 hpc.pth hps_v1/
    """
    from hpslib.checkpoints import convert_checkpoint

    with _one_sentence():
        typer.echo(f"wrote {convert_checkpoint(kind, file, folder)}")


@app.command()
def score(
    kind: Annotated[str, typer.Argument(help="What the checkpoint is: clip, hps_v1, hps_v2 (also v2.1) or pickscore.")],
    checkpoint: Annotated[Path, typer.Argument(help="The checkpoint file.")],
    groups: Annotated[
        Path, typer.Argument(help="An HPD v1 JSON file, its images beside it, or a packed parquet file.")
    ],
    output: Annotated[Path, typer.Argument(help="Parquet file to write: id, image (from 0), score.")],
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one forward pass.")] = 64,
) -> None:
    """Score every image of a preference set and hold the scores against its choices.

    Example: hpslib score hps_v1 hpc.pth hpd_v1/preference_test.json scores.parquet --device cuda
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from tqdm.auto import tqdm

    from hpslib.agreement import chance_top1, top1_accuracy
    from hpslib.scorers import load_scorer, score_groups
    from hpslib.clip import truncated_prompts
    from hpslib.sources import read_hpd

    with _one_sentence():
        dataset = read_hpd(groups)
        scorer = load_scorer(kind, checkpoint, device)
        with tqdm(total=len(dataset), unit="group", leave=False) as bar:
            scores = score_groups(
                scorer, dataset, groups.parent, batch_size, lambda done, total: bar.update(done - bar.n)
            )
        sizes = [len(values) for values in scores]
        ids = [name for name, size in zip(dataset["id"], sizes, strict=True) for _ in range(size)]
        places = [place for size in sizes for place in range(size)]
        flat = [float(value) for values in scores for value in values]
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = output.with_name(f".{output.name}")
        pq.write_table(pa.table({"id": ids, "image": places, "score": flat}), partial)
        partial.replace(output)
        cut = len(truncated_prompts(scorer.clip, dataset["prompt"]))
        accuracy = top1_accuracy(scores, dataset["human_preference"], dataset["prompt"])
    typer.echo(f"wrote {output}: {len(flat):,} images in {len(sizes):,} groups; {cut:,} prompts were cut off.")
    typer.echo(f"Top-1 {accuracy.percent()}, chance {100 * chance_top1(sizes):.1f} %.")
