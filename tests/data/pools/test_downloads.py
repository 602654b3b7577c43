"""hpslib.data.pools.downloads: a list becomes a folder, a stopped run goes on, and every failure is noted."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_server import Server, address, server
from full_disk import no_room
from release_files import image_file, put_files, refusal

from hpslib.data.pools.captioned import read_captioned
from hpslib.data.pools.downloads import DownloadReport, download_images

__all__ = ["server"]  # a fixture


def listed(file: Path, urls: list[str | None], texts: list[str | None] | None = None, **columns: list[Any]) -> Path:
    texts = [f"caption {k}" for k in range(len(urls))] if texts is None else texts
    table = pa.table({"URL": pa.array(urls, pa.string()), "TEXT": pa.array(texts, pa.string()), **columns})
    pq.write_table(table, file)
    return file


def test_a_list_becomes_a_folder_that_reads_back(server: Server, tmp_path: Path) -> None:
    paths = ["good/0", "none", "jpeg/2", "page", "lie", "half", "short", "large", "empty", "good/9", "good/10"]
    texts: list[str | None] = [f"caption {k}" for k in range(11)]
    texts[2], texts[9], texts[10] = "  ünï\r\ncat ", " ", None
    file = listed(tmp_path / "laion.parquet", [address(server, path) for path in paths], texts)
    seen: list[tuple[int, int | None]] = []
    report = download_images(
        file, tmp_path / "out", timeout=1.0, retries=0, workers=3, progress=lambda done, all: seen.append((done, all))
    )
    reasons = {"HTTP 404": 1, "no image": 1, "no intact image": 2, "cut off": 1, "too large": 1, "empty": 1}
    assert report == DownloadReport(done=2, failed={**reasons, "without a caption": 2})
    assert str(report).startswith("2 images downloaded, 9 failed (2 ") and "1 HTTP 404" in str(report)
    assert sorted(seen) == [(k, 11) for k in range(1, 12)]
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["00000000.png", "00000000.txt", "00000002.jpg", "00000002.txt", "failed.jsonl"]
    assert (tmp_path / "out/00000000.png").read_bytes() == image_file(0)
    data = read_captioned(tmp_path / "out")
    assert list(data["prompt"]) == ["caption 0", "ünï\r\ncat"]
    noted = [json.loads(line) for line in (tmp_path / "out/failed.jsonl").read_text().splitlines()]
    assert sorted(one["row"] for one in noted) == [1, 3, 4, 5, 6, 7, 8, 9, 10]
    assert {"row": 1, "url": address(server, "none"), "reason": "HTTP 404"} in noted


def test_a_second_run_fetches_only_what_is_new(server: Server, tmp_path: Path) -> None:
    urls: list[str | None] = [address(server, path) for path in ("good/0", "busy/1", "good/2")]
    file, out = listed(tmp_path / "l.parquet", urls), tmp_path / "out"
    server.busy = 1
    assert download_images(file, out, limit=2, retries=0) == DownloadReport(done=1, failed={"HTTP 503": 1})
    server.asked = []
    again = download_images(file, out, retries=0)
    assert again == DownloadReport(done=1, already=1, given_up=1) and server.asked == ["/good/2"]
    assert str(again) == ("1 image downloaded, 1 was there already, 1 had failed before and was not tried again")
    assert download_images(file, out, retry_failed=True) == DownloadReport(done=1, already=2)
    assert download_images(file, out) == DownloadReport(already=3), "what is there counts, whatever failed.jsonl says"


def test_a_run_that_was_killed_goes_on(server: Server, tmp_path: Path) -> None:
    urls: list[str | None] = [address(server, f"good/{k}") for k in range(3)] + [address(server, "none")]
    file, out = listed(tmp_path / "l.parquet", urls), tmp_path / "out"
    half = {
        ".00000000.png.1a2b3c4d.partial": image_file(0)[:9],
        "00000001.txt": "caption 1",
        "failed.jsonl": '{"row": 2, "url',
    }
    put_files(out, dict(half))
    assert download_images(file, out) == DownloadReport(done=3, failed={"HTTP 404": 1})
    assert len(read_captioned(out)) == 3, "what a killed run left half-written is hidden and does not count"
    assert [path.name for path in out.glob(".*")] == [".00000000.png.1a2b3c4d.partial"]
    assert json.loads((out / "failed.jsonl").read_text().splitlines()[-1])["row"] == 3


def test_a_changed_image_is_told_by_its_hash(server: Server, tmp_path: Path) -> None:
    good = hashlib.sha256(image_file(0)).hexdigest()
    urls: list[str | None] = [address(server, "good/0")] * 3
    file = listed(tmp_path / "l.parquet", urls, sha256=[good.upper(), "0" * 64, None])
    assert download_images(file, tmp_path / "out").failed == {"changed since the list was made": 1}
    assert sorted(path.stem for path in (tmp_path / "out").glob("*.png")) == ["00000000", "00000002"]


def test_a_csv_list_with_other_columns(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([["link", "words"], [address(server, "good/5"), 'a "cat", red']])
    seen: list[tuple[int, int | None]] = []
    report = download_images(
        file, tmp_path / "out", url_column="link", text_column="words", progress=lambda k, n: seen.append((k, n))
    )
    assert report.done == 1 and seen == [(1, None)]
    assert read_captioned(tmp_path / "out")["prompt"][0] == 'a "cat", red'


def test_many_rows_go_through_few_workers(server: Server, tmp_path: Path, rng: np.random.Generator) -> None:
    urls: list[str | None] = [address(server, f"good/{k % 200}") for k in range(60)]
    report = download_images(listed(tmp_path / "l.parquet", urls), tmp_path / "out", workers=2)
    assert report == DownloadReport(done=60)
    for k in rng.integers(0, 60, 5):
        assert (tmp_path / f"out/{k:08d}.png").read_bytes() == image_file(int(k))


def test_faults_of_a_list(server: Server, tmp_path: Path) -> None:
    file, out = listed(tmp_path / "l.parquet", [address(server, "good/0")]), tmp_path / "out"
    download_images(file, out)
    other = listed(tmp_path / "other.parquet", [address(server, "good/1")], ["another caption"])
    text = refusal(lambda: download_images(other, out))
    assert "00000000.txt does not hold the caption of" in text and ": use another folder for another list." in text
    remedy = "name the columns of your list as url_column= and text_column="
    text = refusal(lambda: download_images(file, out, url_column="url"))
    assert f"{file} lacks the column url: {remedy}." in text
    put_files(tmp_path, {"l.csv": "url,text\n"})
    assert "lacks the column URL, TEXT: name the columns" in refusal(lambda: download_images(tmp_path / "l.csv", out))
    for name in ("no.csv", "no.parquet"):
        assert "does not exist" in refusal(lambda name=name: download_images(tmp_path / name, out), FileNotFoundError)
    file.write_bytes(file.read_bytes()[:-8])
    assert "is not readable as parquet" in refusal(lambda: download_images(file, out))
    for options in ({"workers": 0}, {"timeout": 0}, {"retries": -1}, {"limit": 0}):
        assert "use at least 1 worker" in refusal(lambda options=options: download_images(file, out, **options))


def test_a_full_disk_is_said_and_leaves_no_half_image(server: Server, tmp_path: Path) -> None:
    file, out = listed(tmp_path / "l.parquet", [address(server, "good/0")], ["a" * 50]), tmp_path / "out"
    with no_room(60):
        text = refusal(lambda: download_images(file, out, workers=1), OSError)
    assert text.startswith(f"{out / '00000000.png'} cannot be written (") and text.endswith("choose another place.")
    assert [path.name for path in out.iterdir()] == ["00000000.txt"]
    assert download_images(file, out) == DownloadReport(done=1)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"URL": [1]}, "the column 'URL' of the type int64 where text was expected"),
        ({"TEXT": [float("nan")]}, "the column 'TEXT' of the type double where text was expected"),
        ({"sha256": ["abc"]}, "has the sha256 'abc', which is no hash of 64 digits"),
    ],
)
def test_a_list_of_another_shape_is_named(tmp_path: Path, changes: dict, part: str) -> None:
    pq.write_table(pa.table({"URL": ["http://127.0.0.1:9/"], "TEXT": ["a"], **changes}), tmp_path / "l.parquet")
    assert part in refusal(lambda: download_images(tmp_path / "l.parquet", tmp_path / "out", retries=0))


def test_a_hash_may_be_bytes(server: Server, tmp_path: Path) -> None:
    digests = [hashlib.sha256(image_file(k)).digest() for k in (0, 9)]
    urls = [address(server, "good/0"), address(server, "good/1")]
    pq.write_table(pa.table({"URL": urls, "TEXT": ["a", "b"], "sha256": digests}), tmp_path / "l.parquet")
    report = download_images(tmp_path / "l.parquet", tmp_path / "out")
    assert report.done == 1 and report.failed == {"changed since the list was made": 1}
