"""Do the readers stand what people bring? Spoil small valid inputs, one at a time, and count what becomes of them.

    python tests/tools/fuzz.py [--reader hpd_v1 pickapic ...] [--count 100] [--seed 0] [--show]

Every input is spoilt by its number and ``--seed`` alone: bytes are flipped, cut off or repeated, columns and values
change their type, grow huge, go missing or hold odd text. An input is *accepted*, refused by a *clean* error (a
``ValueError`` or ``OSError`` in one sentence, raised by the library itself), or ends in a *traceback* of another kind,
a crash or a *hang* of more than 20 seconds; the exit code is 1 where there is any of the last three.

A new target is one function in :data:`TARGETS`: it writes a valid input into an empty folder and returns the files that
are spoilt and what reads them.
"""

from __future__ import annotations

import argparse
import codecs
import copy
import importlib
import io
import json
import os
import random
import sys
import tempfile
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path += [str(path) for path in (ROOT, ROOT / "tests", ROOT / "tests/tools") if str(path) not in sys.path]
made = importlib.import_module("release_files")  # beside this folder: found only now
models = importlib.import_module("fuzz_models")

SECONDS = 20
KINDS = ("clean", "accepted", "traceback", "hang")


class Target(NamedTuple):
    """What is spoilt, and what reads it. ``read`` uses what it gets, as a user would."""

    files: list[Path]
    read: Callable[[], Any]


# --- valid inputs -----------------------------------------------------------------------------------------------------


def _prompts(ending: str) -> Callable[[Path], Target]:
    def make(folder: Path) -> Target:
        from hpslib.data.rows import read_prompts

        texts = ["a red cat", 'a "wild" dog', "a fox, oil", "a hen"]
        lines = {
            "txt": texts,
            "jsonl": [json.dumps(text) for text in texts],
            "json": [json.dumps(texts)],
            "csv": ["prompt,style", *(f'"{text.replace(chr(34), chr(34) * 2)}",x' for text in texts)],
            "tsv": ["prompt\tstyle", *(f"{text}\tx" for text in texts)],
        }
        file = folder / f"p.{ending}"
        file.write_text("\n".join(lines[ending]) + "\n")
        return Target([file], lambda: read_prompts(file))

    return make


def _images(kind: str) -> Callable[[Path], Target]:
    def make(folder: Path) -> Target:
        from hpslib.data.images.blur import is_blurry
        from hpslib.data.images.safe import image_extension, open_image

        rng, stream = np.random.default_rng(0), io.BytesIO()
        exif = Image.Exif()
        exif[0x0112], exif[0x010E] = 6, "a cat"
        options = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP", "TIFF") else {}
        mode = "P" if kind == "GIF" else "RGBA" if kind in ("PNG", "WEBP") else "RGB"
        image = Image.fromarray(rng.integers(0, 256, (9, 7, 4), dtype=np.uint8)).convert("RGB").convert(mode)
        image.save(stream, kind, **options)
        file = folder / "a.png"
        file.write_bytes(stream.getvalue())

        def read() -> None:
            is_blurry(open_image(file, where="a.png"))
            image_extension(file.read_bytes(), where="a.png")

        return Target([file], read)

    return make


def _looked_at(dataset: Any, root: Path) -> None:
    from hpslib.data.groups import flatten_groups
    from hpslib.data.preferences import validate

    list(dataset)
    if "human_preference" in dataset.column_names:
        validate(dataset)
    images, *_ = flatten_groups(dataset, root)
    images.names(range(len(images)))
    list(images)


def _hpd_v1(folder: Path) -> Target:
    from hpslib.data.releases.hpd_v1 import read_hpd

    rows = [
        {"id": k, "user_hash": "u", "contain_name": False, "note": "x", **made.pair(k), "human_preference": 1}
        for k in range(3)
    ]
    made.put(folder, *(f"{k}{letter}.jpg" for k in range(3) for letter in "ab"))
    file = made.annotate(folder / "preference_test.json", rows)
    return Target([file], lambda: _looked_at(read_hpd(file), folder))


def _packed(folder: Path) -> Target:
    from hpslib.data.releases.packed import read_packed, write_packed

    file = write_packed(made.packed_rows(np.random.default_rng(0)), folder / "a.parquet")
    return Target([file], lambda: _looked_at(read_packed(file), folder))


def _hpd_v2_train(folder: Path) -> Target:
    from hpslib.data.releases.hpd_v2 import read_hpd_v2_train

    made.put(folder, *(f"{k}{letter}.jpg" for k in range(3) for letter in "ab"))
    file = made.annotate(folder / "train.json", [made.pair(k) for k in range(3)])
    return Target([file], lambda: _looked_at(read_hpd_v2_train(file), folder))


def _hpd_v2_test(folder: Path) -> Target:
    from hpslib.data.raters import rater_matrix
    from hpslib.data.releases.hpd_v2 import read_hpd_v2_test

    made.put(folder, *(f"{k}_{j}.jpg" for k in range(2) for j in range(3)))
    file = made.annotate(folder / "test.json", [made.ranking(k, [1, 2, 3], [[1, 2, 3], [2, 1, 3]]) for k in range(2)])

    def read() -> None:
        data = read_hpd_v2_test(file)
        _looked_at(data, folder)
        rater_matrix(data)

    return Target([file], read)


def _hpd_v2_benchmark(folder: Path) -> Target:
    from hpslib.data.releases.hpd_v2 import read_hpd_v2_benchmark

    made.put(folder, *(f"images/{model}/photo/0000{k}.jpg" for model in ("a", "b") for k in range(2)))
    file = made.annotate(folder / "photo.json", ["a cat", "a dog"])
    return Target(
        [file],
        lambda: _looked_at(read_hpd_v2_benchmark(folder / "images", folder, styles=["photo"]), folder / "images"),
    )


def _imagereward_json(folder: Path) -> Target:
    from hpslib.data.releases.imagereward import read_imagereward

    rows = [made.reward(k, [1, 2, 2]) for k in range(2)]
    made.put(folder, *(name for row in rows for name in row["generations"]))
    file = made.annotate(folder / "test.json", rows)
    return Target([file], lambda: _looked_at(read_imagereward(file), folder))


def _imagereward_parquet(folder: Path) -> Target:
    from hpslib.data.releases.imagereward import read_imagereward

    made.put(folder, *(f"images/{k}.webp" for k in range(4)))
    columns = {"image_path": [f"images/{k}.webp" for k in range(4)], "prompt_id": ["1", "1", "2", "2"]}
    columns |= {"prompt": ["a", "a", "b", "b"], "rank": [1, 2, 2, 1]}
    file = folder / "metadata.parquet"
    pq.write_table(pa.table(columns), file)
    return Target([file], lambda: _looked_at(read_imagereward(file), folder))


def _pickapic(folder: Path) -> Target:
    from hpslib.data.releases.pickapic import read_pickapic

    columns: dict[str, Any] = {"caption": ["a", "b", "c"], "jpg_0": [made.image_file(k) for k in range(3)]}
    columns |= {
        "jpg_1": [made.image_file(k + 9) for k in range(3)],
        "label_0": [1.0, 0.5, 0.0],
        "label_1": [0.0, 0.5, 1.0],
    }
    columns |= {"has_label": [True] * 3, "ranking_id": [1, 2, 3], "user_id": [7, 7, 8]}
    columns |= {f"image_{k}_uid": ["x", "y", "z"] for k in (0, 1)} | {f"model_{k}": ["m"] * 3 for k in (0, 1)}
    file = folder / "a.parquet"
    pq.write_table(pa.table(columns), file)
    return Target([file], lambda: _looked_at(read_pickapic(file, cache_dir=folder / "cache"), folder))


def _table(folder: Path) -> Target:
    from hpslib.data.releases.table import read_table

    made.put(folder, "a.png", "b.png")
    file = folder / "v.csv"
    file.write_text("id,prompt,image,rank,user,model\n7,a cat,a.png,1,ann,x\n7,a cat,b.png,2,ann,y\n")
    return Target([file], lambda: _looked_at(read_table(file), folder))


def _pool(folder: Path) -> Target:
    from hpslib.data.pools.pool import read_pool, write_pool

    images = [made.image_file(k) for k in range(4)]
    file = write_pool(folder / "a.parquet", ["a", "a", "b", "b"], [1, 2, 3, 4], images, step=50, cfg=7.0)
    return Target([file], lambda: _looked_at(read_pool(file), folder))


def _diffusiondb(spoilt: str) -> Callable[[Path], Target]:
    def make(folder: Path) -> Target:
        from hpslib.data.pools.diffusiondb import read_diffusiondb

        with zipfile.ZipFile(folder / "part-000001.zip", "w") as file:
            for k in range(4):
                file.writestr(f"{k}.png", made.image_file(k))
        columns = {"image_name": [f"{k}.png" for k in range(4)], "prompt": ["a"] * 4, "part_id": [1] * 4}
        columns |= {"seed": [0, 1, 2, 3], "step": [50] * 4, "cfg": [7.0] * 4, "image_nsfw": [0.1] * 4}
        pq.write_table(pa.table(columns), folder / "metadata.parquet")

        def read() -> None:
            data, counts = read_diffusiondb(folder / "metadata.parquet", folder, parts=[1], min_group=2, max_nsfw=1.0)
            str(counts)
            _looked_at(data, folder)

        return Target([folder / spoilt], read)

    return make


def _captioned(table: bool) -> Callable[[Path], Target]:
    def make(folder: Path) -> Target:
        from hpslib.data.pools.captioned import read_captioned

        made.put(folder, "a.png", "sub/b.png")
        captions = {"metadata.csv": 'file_name,text\na.png,"a cat, red"\nsub/b.png,a dog\n'}
        made.put_files(folder, captions if table else {"a.txt": "a cat", "sub/b.txt": "a dog"})
        return Target([folder / name for name in (captions if table else ("a.txt", "a.png"))],
                      lambda: _looked_at(read_captioned(folder), folder))  # fmt: skip

    return make


def _downloads(ending: str) -> Callable[[Path], Target]:
    def make(folder: Path) -> Target:
        from hpslib.data.pools import downloads, fetching

        def nowhere(url: str, **options: Any) -> bytes:
            try:
                fetching._ascii(url)
            except ValueError:
                raise fetching.FetchError("no http address") from None
            return made.image_file(1)

        def read() -> None:
            with mock.patch.object(downloads, "fetch", nowhere):
                str(downloads.download_images(file, folder / "out", retries=0))

        columns = {"URL": ["http://a.example/1", "http://a.example/2"], "TEXT": ["a cat", "a dog"]}
        file = folder / f"list.{ending}"
        if ending == "csv":
            file.write_text("URL,TEXT\n" + "".join(f"{u},{t}\n" for u, t in zip(*columns.values())))
        else:
            pq.write_table(pa.table({**columns, "sha256": [None, "0" * 64]}), file)
        return Target([file], read)

    return make


def _checked(folder: Path) -> Target:
    from hpslib.data.images.check import check_images

    made.put(folder, "a.png", "b.png")
    with zipfile.ZipFile(folder / "c.zip", "w") as file:
        file.writestr("d.png", made.image_file(1))
    return Target([folder / "a.png", folder / "c.zip"], lambda: str(check_images(folder)))


#: Name -> what writes a valid input into an empty folder.
TARGETS: dict[str, Callable[[Path], Target]] = {
    **{f"prompts_{ending}": _prompts(ending) for ending in ("txt", "json", "jsonl", "csv", "tsv")},
    **{f"image_{kind.lower()}": _images(kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")},
    "hpd_v1": _hpd_v1,
    "packed": _packed,
    "hpd_v2_train": _hpd_v2_train,
    "hpd_v2_test": _hpd_v2_test,
    "hpd_v2_benchmark": _hpd_v2_benchmark,
    "imagereward_json": _imagereward_json,
    "imagereward_parquet": _imagereward_parquet,
    "pickapic": _pickapic,
    "table": _table,
    "pool": _pool,
    "diffusiondb": _diffusiondb("metadata.parquet"),
    "diffusiondb_zip": _diffusiondb("part-000001.zip"),
    "captioned": _captioned(table=False),
    "captioned_table": _captioned(table=True),
    "downloads_csv": _downloads("csv"),
    "downloads_parquet": _downloads("parquet"),
    "check_images": _checked,
    **models.TARGETS,  # weights, LoRA files, model folders, checkpoints, votes
}


# --- how they are spoilt ----------------------------------------------------------------------------------------------

ODD_TEXTS = ["", " ", "\0", "\ufeffa", "nan", "None", "a\u2028b", "a\rb", "../a.png", "/etc/hostname", "C:\\a.png", '"',
             "a" * 5000, "\u0301" * 50, "caf\u00e9", ".", "a/../../b.png", "v.csv/a.png", "1e999", "\x85"]  # fmt: skip
ODD_VALUES: list[Any] = [*ODD_TEXTS, None, True, False, 0, -1, 1.5, float("nan"), float("inf"), 2**31, 2**53 + 1, 2**63,
                         2**64, 10**30, -(2**63) - 1, [], {}, [[]], [1], ["a"], {"a": 1}, "\ud83d", [None]]  # fmt: skip


def spoil(file: Path, rng: random.Random) -> None:
    """Change the file a little, in a way that fits its ending or byte by byte."""
    ending = file.suffix.lower()
    fitting = {".json": _spoil_json, ".parquet": _spoil_parquet, ".csv": _spoil_text, ".tsv": _spoil_text}
    fitting |= {".txt": _spoil_text, ".jsonl": _spoil_text}
    if ending in fitting and rng.random() < 0.7:
        fitting[ending](file, rng)
    else:
        file.write_bytes(_spoil_bytes(file.read_bytes(), rng))


def _spoil_bytes(data: bytes, rng: random.Random) -> bytes:
    spoilt, place = bytearray(data), rng.randrange(max(1, len(data)))
    way = rng.randrange(6)
    if way == 0:
        return data[:place]
    if way == 1:
        spoilt[place : place + 8] = bytes(rng.randrange(256) for _ in range(8))
    elif way == 2:
        spoilt[place:place] = data[place : place + rng.randrange(1, 64)]
    elif way == 3:
        spoilt[place : place + 4] = rng.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"])
    elif way == 4:
        del spoilt[place : place + rng.randrange(1, 16)]
    else:
        for _ in range(rng.randrange(1, 9)):
            spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def _spoil_text(file: Path, rng: random.Random) -> None:
    text = file.read_bytes().decode()
    lines = text.split("\n")
    place, row = rng.randrange(len(text) + 1), rng.randrange(len(lines))
    way = rng.randrange(7)
    if way == 0:
        text = text[:place] + rng.choice(ODD_TEXTS) + text[place:]
    elif way == 1:
        text = "\n".join([*lines[:row], lines[row], *lines[row:]])
    elif way == 2:
        text = "\n".join(lines[:row] + lines[row + 1 :])
    elif way == 3:
        cut = "\t" if file.suffix == ".tsv" else ","
        fields = lines[row].split(cut)
        fields[rng.randrange(len(fields))] = rng.choice(ODD_TEXTS)
        lines[row] = cut.join(fields)
        text = "\n".join(lines)
    elif way == 4:
        text = text.replace("\n", rng.choice(["\r\n", "\r", "\n\n", "\u2028", "\x0b"]))
    elif way == 5:
        file.write_bytes(codecs.BOM_UTF8 + text.encode())
        return
    else:
        file.write_bytes(text.encode(rng.choice(["utf-16", "utf-16-le", "utf-32"])))
        return
    file.write_bytes(text.encode())


def _spoil_json(file: Path, rng: random.Random) -> None:
    content = json.loads(file.read_bytes())
    if rng.random() < 0.1:
        deep = rng.choice(["[" * 50_000, "[" * 50_000 + "]" * 50_000, '{"a":' * 50_000])
        file.write_text(rng.choice([deep, "", "null", "NaN", "[]", "{}", f"[{deep}]", "[" + "9" * 5000 + "]"]))
        return
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in items:
            places.append((node, key))
            walk(value)

    walk(content)
    for _ in range(rng.choice([1, 1, 1, 2])):
        holder, key = rng.choice(places)
        way = rng.randrange(5)
        if key not in (holder if isinstance(holder, dict) else range(len(holder))):
            continue  # the first change took it away
        if way == 0:
            del holder[key]
        elif way == 1 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif way == 2 and isinstance(holder, dict):
            holder[rng.choice(["images", "ranks", "models", "x", "\ud83d", ""])] = rng.choice(ODD_VALUES)
        else:
            holder[key] = rng.choice(ODD_VALUES)
    file.write_text(json.dumps(content))


def _spoil_parquet(file: Path, rng: random.Random) -> None:
    table = pq.read_table(file, partitioning=None)
    name = rng.choice(table.column_names)
    place, way = table.column_names.index(name), rng.randrange(7)
    rows = table.num_rows
    if way == 0:
        table = table.drop_columns([name])
    elif way == 1:
        table = table.append_column(name, table.column(name))
    elif way == 2:
        mask = pa.array([rng.random() < 0.5 for _ in range(rows)])
        values = [None if drop else value for value, drop in zip(table.column(name).to_pylist(), mask.to_pylist())]
        table = table.set_column(place, name, pa.array(values, table.column(name).type))
    elif way == 3:
        table = table.slice(0, 0)
    elif way == 4:
        raw = pa.array([rng.choice([b"a", b"\xff\xfe", b"\xed\xa0\x80"]) for _ in range(rows)])
        broken = pa.StringArray.from_buffers(rows, raw.buffers()[1], raw.buffers()[2])
        table = table.set_column(place, name, rng.choice([raw, broken]))
    else:
        table = table.set_column(place, name, _odd_column(rows, rng))
    pq.write_table(table, file)


def _odd_column(rows: int, rng: random.Random) -> pa.Array:
    values, kind = rng.choice(
        [
            ([1.5, float("nan"), 1e300, -0.0], pa.float64()),
            ([2**64 - 1, 2**63, 1, 0], pa.uint64()),
            ([-1, 0, 1, 2**40], pa.int64()),
            ([True, False, None], pa.bool_()),
            ([t for t in ODD_TEXTS if t], pa.string()),
            (["a", "b"], pa.large_string()),
            (["a", "b"], pa.dictionary(pa.int32(), pa.string())),
            ([b"\xff", b"", made.image_file(3)], pa.binary()),
            ([[1], [], None], pa.list_(pa.int64())),
            ([["a"], ["b", None]], pa.list_(pa.string())),
            ([{"bytes": b"x", "path": "a"}, None], pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ([0, 10**15], pa.timestamp("us")),
            ([0, 1], pa.date32()),
            ([None], pa.null()),
        ]
    )
    return pa.array([rng.choice(values) for _ in range(rows)], kind)


# --- counting ---------------------------------------------------------------------------------------------------------


def outcome(name: str, number: int, seed: int) -> tuple[str, str]:
    """``clean``, ``accepted`` or ``traceback``, and the error's text, of one spoilt input."""
    rng = random.Random(f"{seed} {name} {number}")
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="fuzz_") as place:
        target = TARGETS[name](Path(place))
        spoil(rng.choice(target.files), rng)
        try:
            target.read()
        except Exception as error:
            return ("clean" if is_clean(error) else "traceback"), f"{type(error).__name__}: {error}"
    return "accepted", ""


def is_clean(error: Exception) -> bool:
    """A plain ValueError or OSError that the library itself raised, in one line that ends with a remedy."""
    text, last = str(error), traceback.extract_tb(error.__traceback__)[-1].filename
    ours = type(error).__module__.startswith("hpslib.") and isinstance(error, ValueError | OSError)
    plain = ours or type(error) in (ValueError, OSError, FileNotFoundError, FileExistsError, PermissionError)
    sentence = "\n" not in text and ": " in text and text.endswith((".", "images='optional'"))
    return plain and sentence and Path(last).is_relative_to(ROOT / "hpslib") and len(text) < 2_000


def fuzz(name: str, count: int, seed: int, show: bool = False) -> Counter[str]:
    """Outcomes of so many inputs, in a process of their own, which a crash or a hang ends."""
    counts: Counter[str] = Counter()
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    for number in range(count):
        started = pool.submit(outcome, name, number, seed)
        try:
            kind, text = started.result(timeout=SECONDS if number else 3 * SECONDS)  # the first one imports
        except TimeoutError:
            kind, text = "hang", ""
        except BrokenProcessPool:
            kind, text = "traceback", "the process died"
        if kind == "hang" or text == "the process died":
            for process in list((pool._processes or {}).values()):
                process.kill()
            pool.shutdown(wait=False)
            pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        counts[kind] += 1
        if kind in ("traceback", "hang") or (show and text):
            print(f"  {name} {number}: {kind} {text[:300]!r}", flush=True)
    pool.shutdown()
    return counts


def main() -> None:
    """Print a line per reader."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--reader", nargs="+", choices=sorted(TARGETS), default=list(TARGETS))
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="print the clean errors too")
    chosen = parser.parse_args()
    failed = 0
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    print(f"{'reader':20} {'inputs':>9} {'clean':>9} {'accepted':>9} {'traceback':>9} {'hang':>9}")
    for name in chosen.reader:
        counts = fuzz(name, chosen.count, chosen.seed, chosen.show)
        failed += counts["traceback"] + counts["hang"]
        print(f"{name:20} {chosen.count:9} " + " ".join(f"{counts[kind]:9}" for kind in KINDS), flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
