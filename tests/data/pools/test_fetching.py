"""hpslib.data.pools.fetching: what is fetched, what is refused and why, and what is tried again."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from bad_server import Server, address, server
from release_files import image_file

import hpslib.data.pools.fetching
from hpslib.data.pools.fetching import FetchError, fetch

__all__ = ["server"]  # a fixture


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("none", "HTTP 404"),
        ("page", "no image"),
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
    assert fetch(address(server, "moved/1")) == image_file(1)
    assert fetch(address(server, "untyped/4")) == image_file(4)
    assert len(fetch(address(server, "endless"), max_bytes=30_000)) == 30_000
    with pytest.raises(FetchError, match="too large"):
        fetch(address(server, "endless"), max_bytes=29_999)


def test_only_temporary_failures_are_tried_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    clock = SimpleNamespace(sleep=pauses.append, monotonic=time.monotonic)  # the server's threads sleep by the real one
    monkeypatch.setattr(hpslib.data.pools.fetching, "time", clock)
    server.busy = 2
    assert fetch(address(server, "busy/7"), retries=2) == image_file(7)
    assert len(server.asked) == 3 and pauses == [0.2, 0.4]
    server.busy, server.asked = 5, []
    with pytest.raises(FetchError, match="HTTP 503"):
        fetch(address(server, "busy/7"), retries=1)
    assert len(server.asked) == 2
    server.asked = []
    with pytest.raises(FetchError, match="HTTP 404"):
        fetch(address(server, "none"), retries=5)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("http://a.example/b.png?x=1&y=%20#top", "http://a.example/b.png?x=1&y=%20"),
        (" http://a.example/caf\u00e9/ro t.png\n", "http://a.example/caf%C3%A9/ro%20t.png"),
        ("http://a.example/caf%C3%A9.png?q=\u732b", "http://a.example/caf%C3%A9.png?q=%E7%8C%AB"),
        ("https://b\u00fccher.example:8080/a", "https://xn--bcher-kva.example:8080/a"),
        ("http://me:word@b\u00fccher.example/a", "http://me:word@xn--bcher-kva.example/a"),
    ],
)
def test_addresses_are_sent_in_ascii(url: str, sent: str) -> None:
    assert hpslib.data.pools.fetching._ascii(url) == sent


def test_an_address_with_other_letters_is_fetched(server: Server) -> None:
    assert fetch(" " + address(server, "good/5") + "#caf\u00e9 \u732b") == image_file(5)
    with pytest.raises(FetchError, match="no http address"):
        fetch("http://" + "\u00fc" * 100 + ".example/", retries=0)
