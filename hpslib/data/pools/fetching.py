"""Fetch one file from the web that nobody vouches for: http and https only, limited in size and time."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from functools import lru_cache

from hpslib import __version__

__all__ = ["MAX_BYTES", "FetchError", "fetch"]

#: Largest file that is fetched: 20 MB.
MAX_BYTES = 20_000_000

_BUSY = {408, 429, 500, 502, 503, 504}
_TEMPORARY = ("timed out", "cut off", "unreachable")


class FetchError(Exception):
    """Why a file could not be fetched, in a few words that can be counted."""


def fetch(url: str, *, timeout: float = 20.0, retries: int = 2, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes at an address.

    Args:
        url: http or https, with any letters (they are percent-encoded, the host by IDNA); redirections to anything else
            are not followed.
        timeout: seconds to wait for an answer, and again for the whole body.
        retries: further attempts after a time-out, a broken connection or a busy server, with growing pauses.
        max_bytes: more is not read.

    Raises :class:`FetchError`, whose text is one of "no http address", "HTTP 404" (or another number), "timed out",
    "unreachable", "cut off", "no image" (a page of text, by its type), "too large" and "empty".
    """
    for attempt in range(retries + 1):
        try:
            return _attempt(url, timeout, max_bytes)
        except FetchError as error:
            code = str(error).removeprefix("HTTP ")
            temporary = str(error) in _TEMPORARY or (code.isdigit() and int(code) in _BUSY)
            if attempt == retries or not temporary:
                raise
            time.sleep(min(0.2 * 2**attempt, 5.0))
    raise AssertionError("unreachable")


def _ascii(url: str) -> str:
    """The address as it is sent: letters beyond ASCII, blanks and the like percent-encoded, such a host by IDNA."""
    parts = urllib.parse.urlsplit(url.strip())
    host, place = parts.netloc, parts.netloc.rpartition("@")[2]
    if not host.isascii():
        name, colon, port = place.partition(":")
        host = f"{host[: len(host) - len(place)]}{name.encode('idna').decode()}{colon}{port}"
    safe = "!#$%&'()*+,/:;=?@[]~"  # what may stand in an address, the percent sign of what is encoded already included
    path, query = (urllib.parse.quote(part, safe=safe, errors="replace") for part in (parts.path, parts.query))
    return urllib.parse.urlunsplit((parts.scheme, host, path, query, ""))


def _attempt(url: str, timeout: float, max_bytes: int) -> bytes:
    if not url.strip().lower().startswith(("http://", "https://")):
        raise FetchError("no http address")
    try:
        request = urllib.request.Request(_ascii(url), headers={"User-Agent": f"hpslib/{__version__}"})
        with _opener().open(request, timeout=timeout) as answer:
            return _body(answer, time.monotonic() + timeout, max_bytes)
    except urllib.error.HTTPError as error:
        error.close()
        raise FetchError(f"HTTP {error.code}") from error
    except TimeoutError as error:
        raise FetchError("timed out") from error
    except urllib.error.URLError as error:
        raise FetchError("timed out" if isinstance(error.reason, TimeoutError) else "unreachable") from error
    except http.client.IncompleteRead as error:
        raise FetchError("cut off") from error
    except (ValueError, http.client.InvalidURL) as error:  # a bad port, a control character, no possible host name
        raise FetchError("no http address") from error
    except (OSError, http.client.HTTPException) as error:
        raise FetchError("unreachable") from error


@lru_cache(maxsize=1)
def _opener() -> urllib.request.OpenerDirector:
    """Not urllib's default one, which also opens files, ftp and data addresses, by redirection too."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener


def _body(answer: http.client.HTTPResponse, deadline: float, max_bytes: int) -> bytes:
    kind = (answer.headers["Content-Type"] or "").split("/")[0].strip().lower()
    if kind in ("text", "audio", "video", "multipart"):  # others say image/..., application/octet-stream or nothing
        raise FetchError("no image")
    length = answer.length  # None where the server does not say
    if length is not None and length > max_bytes:
        raise FetchError("too large")
    chunks, size = [], 0
    while chunk := answer.read1(65_536):  # read would wait for a slow server until all have come
        chunks.append(chunk)
        size += len(chunk)
        if size > max_bytes:
            raise FetchError("too large")
        if time.monotonic() > deadline:
            raise FetchError("timed out")
    if length is not None and size < length:
        raise FetchError("cut off")
    if size == 0:
        raise FetchError("empty")
    return b"".join(chunks)
