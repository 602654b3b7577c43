"""A web server that misbehaves in every way that lists of addresses meet."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from release_files import image_file

import hpslib.data.pools.fetching


class Server(ThreadingHTTPServer):
    daemon_threads = True
    asked: list[str]
    busy: int


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        action, _, rest = self.path.strip("/").partition("/")
        data = image_file(int(rest or 0))
        if action == "good":
            self.answer(data, "image/png")
        elif action == "untyped":
            self.answer(data, None)
        elif action == "jpeg":
            self.answer(image_file(int(rest), "JPEG"), "application/octet-stream")
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
