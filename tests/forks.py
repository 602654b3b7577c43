"""Processes of their own that need not load torch first, which takes longer than most of what they are started for.

One process loads the libraries and does nothing else; every other is a fork of it, so it begins as a newly started one
does when its imports are done, and may be killed. What is said about imports themselves, or needs a launcher, is tested
in processes that are really started.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple


class Forks:
    """Starts processes that run a piece of code; what they print lies in ``folder``."""

    def __init__(self, server: subprocess.Popen[str], folder: Path) -> None:
        self._server, self._folder, self._count = server, folder, 0

    def ask(self, **what: Any) -> Any:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(what) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def start(self, code: str, *arguments: object, out: Path | None = None, **environment: str) -> Fork:
        """``code`` as a script with these arguments; ``out`` takes both what it prints and its errors."""
        self._count += 1
        said, faults = (out or self._folder / f"{self._count}.{kind}" for kind in ("out", "err"))
        argv = ["fork", *(str(argument) for argument in arguments)]
        pid = self.ask(code=code, argv=argv, out=str(said), err=str(faults), env=environment)
        return Fork(self, pid, said, faults)


class Fork(NamedTuple):
    """One of them; ``out`` and ``err`` are the files it writes to."""

    forks: Forks
    pid: int
    out: Path
    err: Path

    def poll(self) -> int | None:
        """Its exit code as ``subprocess`` gives it, or ``None`` while it runs."""
        return self.forks.ask(pid=self.pid, seconds=0)

    def wait(self, seconds: float = 300) -> int:
        code = self.forks.ask(pid=self.pid, seconds=seconds)
        if code is None:
            self.kill()
            raise TimeoutError(f"it still ran after {seconds} s: {self.err.read_text()[-2000:]}")
        return code

    def kill(self) -> int:
        os.kill(self.pid, signal.SIGKILL)
        return self.forks.ask(pid=self.pid, seconds=60)


@contextmanager
def forking(folder: Path) -> Iterator[Forks]:
    """The process that loads the libraries, with one thread, until the end of the block."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, __file__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Forks(server, folder)
    finally:
        server.communicate(timeout=60)


# --- the other side ---------------------------------------------------------------------------------------------------


def _load() -> None:
    import accelerate  # noqa: F401
    import datasets  # noqa: F401
    import open_clip  # noqa: F401
    import torch  # noqa: F401
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel  # noqa: F401
    from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401


def _begin(code: str, argv: list[str], out: str, err: str, env: dict[str, str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    status: Any = 1
    try:
        for number, place in enumerate((os.devnull, out, err)):
            how = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND
            os.dup2(os.open(place, how), number)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
        os.environ.update(env)
        sys.argv = argv
        exec(compile(code, argv[0], "exec"), {"__name__": "__main__"})
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


_ENDED: dict[int, int] = {}


def _ended(pid: int, seconds: float) -> int | None:
    deadline = time.monotonic() + seconds
    while pid not in _ENDED:
        there, status = os.waitpid(pid, os.WNOHANG)
        if there:
            _ENDED[pid] = os.waitstatus_to_exitcode(status)
        elif time.monotonic() >= deadline:
            return None
        else:
            time.sleep(0.01)
    return _ENDED[pid]


def _serve() -> None:
    _load()
    begun = []
    for line in sys.stdin:
        asked = json.loads(line)
        answer = _begin(**asked) if "code" in asked else _ended(**asked)
        begun += [answer] if "code" in asked else []
        print(json.dumps(answer), flush=True)
    for pid in begun:  # nothing outlives the tests, whatever failed between
        if _ended(pid, 0) is None:
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    _serve()
