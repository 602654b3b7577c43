"""hpslib.data.pools.captioned: folders with captions, and downloads from a server that misbehaves in every way lists
meet."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import hpslib.data.pools.fetching
from hpslib.data.pools.captioned import read_captioned
from hpslib.data.pools.downloads import DownloadReport, download_images
from hpslib.data.pools.fetching import FetchError, fetch
from hpslib.data.preferences import load_images


def picture(colour: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (5, 4), (colour, 2, 3)).save(file, kind)
    return file.getvalue()


def put(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def refusal(action: Callable[[], Any], kind: type[Exception] = ValueError) -> str:
    with pytest.raises(kind) as error:
        action()
    text = str(error.value)
    assert "\n" not in text and not text.endswith(".")
    return text


# --- folders ----------------------------------------------------------------------------------------------------------


def test_text_files_beside_pictures_are_their_captions(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        "00001/b.jpg": picture(1, "JPEG"),
        "00001/b.txt": " a cat,\nünï \n",
        "00001/b.json": "{}",
    }
    files |= {"00000/z.PNG": picture(2), "00000/z.txt": "a dog", "a.webp": picture(3, "WEBP"), "a.txt": "\ufeffa fox"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = read_captioned(put(tmp_path, files))
    assert list(data.features) == ["id", "prompt", "images"]
    assert list(data["id"]) == ["00000/z.PNG", "00001/b.jpg", "a.webp"]
    assert list(data["prompt"]) == ["a dog", "a cat,\nünï", "a fox"]
    assert all(load_images(row, tmp_path)[0].size == (5, 4) for row in data)


def test_a_table_of_captions_takes_the_place_of_text_files(tmp_path: Path) -> None:
    table = 'file_name,text,source\nb.png,"a cat, red",x\nsub/a.png,a dog,y\n'
    put(tmp_path, {"metadata.csv": table, "b.png": picture(1), "sub/a.png": picture(2), "b.txt": "not this"})
    data = read_captioned(tmp_path)
    assert list(zip(data["id"], data["prompt"])) == [("b.png", "a cat, red"), ("sub/a.png", "a dog")]


@pytest.mark.parametrize("layout", ["files", "table"])
def test_what_has_no_partner_is_counted_in_one_warning(tmp_path: Path, layout: str) -> None:
    put(tmp_path, {f"{letter}.png": picture(1) for letter in "abc"} | {".hidden.png": picture(1), "failed.jsonl": "{}"})
    if layout == "files":
        put(tmp_path, {"a.txt": "a cat", "b.txt": " \n", "x.txt": "a dog", "y.txt": "a fox"})
    else:
        put(tmp_path, {"metadata.csv": "file_name,text\na.png,a cat\nb.png, \nx.png,a dog\ny.png,a fox\n"})
    with pytest.warns(UserWarning, match="2 of 3 pictures have no caption and 2 captions no picture") as caught:
        data = read_captioned(tmp_path)
    assert len(caught) == 1 and list(data["id"]) == ["a.png"]


def test_faults_of_a_folder(tmp_path: Path) -> None:
    assert "is no folder" in refusal(lambda: read_captioned(tmp_path / "no"), FileNotFoundError)
    put(tmp_path, {"a.png": picture(1)})
    assert "none of its 1 pictures has a caption" in refusal(lambda: read_captioned(tmp_path))
    put(tmp_path, {"a.txt": "ünï".encode("latin-1")})
    assert "a.txt is not readable as text" in refusal(lambda: read_captioned(tmp_path))
    for text, part in (
        ("file,text\n", "the column file_name is missing"),
        ("file_name,text\na.png,x\na.png,y\n", "line 3: 'a.png' had a caption before"),
        ("file_name,text\n../a.png,x\n", "line 2: the path '../a.png' has a '..'"),
        ("file_name,text\na.png,x,y\n", "line 2: it has 3 fields where the header has 2"),
        ("", "the column file_name, text is missing"),
    ):
        put(tmp_path, {"metadata.csv": text})
        assert part in refusal(lambda: read_captioned(tmp_path))


# --- downloads --------------------------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    daemon_threads = True
    asked: list[str]
    busy: int


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        action, _, rest = self.path.strip("/").partition("/")
        data = picture(int(rest or 0))
        if action == "good":
            self.answer(data, "image/png")
        elif action == "untyped":
            self.answer(data, None)
        elif action == "jpeg":
            self.answer(picture(int(rest), "JPEG"), "application/octet-stream")
        elif action == "page":
            self.answer(b"<html>gone</html>", "text/html; charset=utf-8")
        elif action == "lie":
            self.answer(b"<html>gone</html>", "image/png")
        elif action == "half":
            self.answer(data[: len(data) // 2], "image/png")
        elif action == "empty":
            self.answer(b"", "image/png")
        elif action == "short":
            self.answer(data, "image/png", len(data) + 10)
        elif action == "large":
            self.answer(data, "image/png", 20_000_001)
        elif action == "endless":
            self.answer(bytes(30_000), "image/png", None)
        elif action == "busy" and self.server.busy > 0:
            self.server.busy -= 1
            self.send_error(503)
        elif action == "busy":
            self.answer(data, "image/png")
        elif action == "slow":
            time.sleep(1.0)
        elif action == "drip":
            self.send_response(200)
            self.end_headers()
            for _ in range(20):
                self.wfile.write(b"x")
                time.sleep(0.1)
        elif action == "moved":
            self.send_response(302)
            self.send_header("Location", {"1": "/good/1", "2": "file:///etc/hostname", "3": "ftp://localhost/x"}[rest])
            self.end_headers()
        else:
            self.send_error(404)

    def answer(self, data: bytes, kind: str | None, length: int | None = -1) -> None:
        self.send_response(200)
        if kind:
            self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(len(data) if length == -1 else length))
        self.end_headers()
        self.wfile.write(data)

    def handle_one_request(self) -> None:
        with contextlib.suppress(OSError):  # the client hung up, as it should
            super().handle_one_request()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    hpslib.data.pools.fetching._opener.cache_clear()
    running = Server(("127.0.0.1", 0), Handler)
    running.asked, running.busy = [], 0
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    hpslib.data.pools.fetching._opener.cache_clear()


def address(server: Server, path: str) -> str:
    return f"http://127.0.0.1:{server.server_port}/{path}"


def listed(file: Path, urls: list[str | None], texts: list[str | None] | None = None, **columns: list[Any]) -> Path:
    texts = [f"caption {k}" for k in range(len(urls))] if texts is None else texts
    table = pa.table({"URL": pa.array(urls, pa.string()), "TEXT": pa.array(texts, pa.string()), **columns})
    pq.write_table(table, file)
    return file


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("none", "HTTP 404"),
        ("page", "no picture"),
        ("short", "cut off"),
        ("large", "too large"),
        ("empty", "empty"),
        ("slow", "timed out"),
        ("drip", "timed out"),
        ("moved/2", "HTTP 302"),
        ("moved/3", "unreachable"),
    ],
)
def test_why_a_file_cannot_be_fetched(server: Server, path: str, reason: str) -> None:
    start = time.monotonic()
    with pytest.raises(FetchError) as error:
        fetch(address(server, path), timeout=0.3, retries=0)
    assert str(error.value) == reason and time.monotonic() - start < 0.9


def test_addresses_that_are_none(tmp_path: Path) -> None:
    for url in ("", "ftp://localhost/a.png", f"file://{tmp_path}", "data:image/png;base64,xx", "http://a b/", "//x"):
        with pytest.raises(FetchError, match="no http address"):
            fetch(url, timeout=0.5, retries=0)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(FetchError, match="unreachable"):
            fetch(f"http://127.0.0.1:{unused.getsockname()[1]}/a.png", timeout=0.5, retries=0)


def test_redirections_untyped_answers_and_the_limit_without_a_length(server: Server) -> None:
    assert fetch(address(server, "moved/1")) == picture(1)
    assert fetch(address(server, "untyped/4")) == picture(4)
    assert len(fetch(address(server, "endless"), max_bytes=30_000)) == 30_000
    with pytest.raises(FetchError, match="too large"):
        fetch(address(server, "endless"), max_bytes=29_999)


def test_only_temporary_failures_are_tried_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(hpslib.data.pools.fetching.time, "sleep", pauses.append)
    server.busy = 2
    assert fetch(address(server, "busy/7"), retries=2) == picture(7)
    assert len(server.asked) == 3 and pauses == [0.2, 0.4]
    server.busy, server.asked = 5, []
    with pytest.raises(FetchError, match="HTTP 503"):
        fetch(address(server, "busy/7"), retries=1)
    assert len(server.asked) == 2
    server.asked = []
    with pytest.raises(FetchError, match="HTTP 404"):
        fetch(address(server, "none"), retries=5)
    assert len(server.asked) == 1


def test_a_list_becomes_a_folder_that_reads_back(server: Server, tmp_path: Path) -> None:
    paths = ["good/0", "none", "jpeg/2", "page", "lie", "half", "short", "large", "empty", "good/9", "good/10"]
    texts: list[str | None] = [f"caption {k}" for k in range(11)]
    texts[2], texts[9], texts[10] = "  ünï\r\ncat ", " ", None
    file = listed(tmp_path / "laion.parquet", [address(server, path) for path in paths], texts)
    seen: list[tuple[int, int | None]] = []
    report = download_images(
        file, tmp_path / "out", timeout=1.0, retries=0, workers=3, progress=lambda done, all: seen.append((done, all))
    )
    reasons = {"HTTP 404": 1, "no picture": 1, "no intact picture": 2, "cut off": 1, "too large": 1, "empty": 1}
    assert report == DownloadReport(done=2, failed={**reasons, "without a caption": 2})
    assert str(report).startswith("2 pictures downloaded, 9 failed (2 ") and "1 HTTP 404" in str(report)
    assert sorted(seen) == [(k, 11) for k in range(1, 12)]
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["00000000.png", "00000000.txt", "00000002.jpg", "00000002.txt", "failed.jsonl"]
    assert (tmp_path / "out/00000000.png").read_bytes() == picture(0)
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
    assert str(again) == ("1 picture downloaded, 1 was there already, 1 had failed before and was not tried again")
    assert download_images(file, out, retry_failed=True) == DownloadReport(done=1, already=2)
    assert download_images(file, out) == DownloadReport(already=3), "what is there counts, whatever failed.jsonl says"


def test_a_run_that_was_killed_goes_on(server: Server, tmp_path: Path) -> None:
    urls: list[str | None] = [address(server, f"good/{k}") for k in range(3)] + [address(server, "none")]
    file, out = listed(tmp_path / "l.parquet", urls), tmp_path / "out"
    half = {".00000000.png": picture(0)[:9], "00000001.txt": "caption 1", "failed.jsonl": '{"row": 2, "url'}
    put(out, dict(half))
    assert download_images(file, out) == DownloadReport(done=3, failed={"HTTP 404": 1})
    assert len(read_captioned(out)) == 3 and not list(out.glob(".*"))
    assert json.loads((out / "failed.jsonl").read_text().splitlines()[-1])["row"] == 3


def test_a_changed_picture_is_told_by_its_hash(server: Server, tmp_path: Path) -> None:
    good = hashlib.sha256(picture(0)).hexdigest()
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
        assert (tmp_path / f"out/{k:08d}.png").read_bytes() == picture(int(k))


def test_faults_of_a_list(server: Server, tmp_path: Path) -> None:
    file, out = listed(tmp_path / "l.parquet", [address(server, "good/0")]), tmp_path / "out"
    download_images(file, out)
    other = listed(tmp_path / "other.parquet", [address(server, "good/1")], ["another caption"])
    text = refusal(lambda: download_images(other, out))
    assert "00000000.txt does not hold the caption of" in text and "use another folder for another list" in text
    remedy = "name the columns of your list as url_column= and text_column="
    text = refusal(lambda: download_images(file, out, url_column="url"))
    assert f"{file}: the column url is missing, {remedy}" in text
    put(tmp_path, {"l.csv": "url,text\n"})
    assert "the column URL, TEXT is missing" in refusal(lambda: download_images(tmp_path / "l.csv", out))
    for name in ("no.csv", "no.parquet"):
        assert "does not exist" in refusal(lambda name=name: download_images(tmp_path / name, out), FileNotFoundError)
    file.write_bytes(file.read_bytes()[:-8])
    assert "is not readable as parquet" in refusal(lambda: download_images(file, out))
    for options in ({"workers": 0}, {"timeout": 0}, {"retries": -1}, {"limit": 0}):
        assert "use at least 1 worker" in refusal(lambda options=options: download_images(file, out, **options))
