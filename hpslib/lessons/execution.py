"""Executes a notebook on a fresh kernel, with settings under which the same numbers come out everywhere.

``make course``, ``make notebooks`` and ``pytest --nbval`` (see ``conftest.py``) start every kernel with
:data:`KERNEL_ENVIRONMENT`.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hpslib.lessons.preflight import full_root
from hpslib.lessons.running import headings
from hpslib.lessons.scale import active_scale

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = ["KERNEL_ENVIRONMENT", "Execution", "execute", "read_notebook"]

# A sum split over threads is rounded differently for each number of threads, so the number is fixed: two, as on the
# smallest machine the course is meant for. MKL_DYNAMIC and OPENBLAS would otherwise still look at the cores there are.
KERNEL_ENVIRONMENT = {
    "OMP_NUM_THREADS": "2",
    "MKL_NUM_THREADS": "2",
    "MKL_DYNAMIC": "FALSE",
    "OPENBLAS_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONHASHSEED": "0",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
}


class Execution(NamedTuple):
    """A notebook with its outputs; ``fault`` is one sentence if a cell failed: those after it did not run then."""

    notebook: NotebookNode
    seconds: float
    peak_mib: float | None  #: the kernel's largest resident memory; ``None`` where /proc does not tell
    fault: str | None


def read_notebook(path: str | Path) -> NotebookNode:
    """Read a notebook as nbformat 4.5; cells without an id get ``cell-<number>``, not a random one.

    Raises ``FileNotFoundError`` when the file is absent, ``ValueError`` when it is no notebook of format 4.
    """
    import nbformat

    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["nbformat"] != 4:
            raise ValueError(f"it has format {content['nbformat']}")  # the reason in what is raised below
        for number, cell in enumerate(content["cells"]):
            cell.setdefault("id", f"cell-{number}")
        content["nbformat_minor"] = max(content["nbformat_minor"], 5)
        notebook = nbformat.reads(json.dumps(content), as_version=4)  # joins texts stored as lists of lines
        nbformat.validate(notebook)
    except (ValueError, KeyError, TypeError, nbformat.ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is not a notebook of format 4 ({reason}): save it anew from JupyterLab.") from error
    return notebook


def execute(
    path: str | Path,
    environment: Mapping[str, str] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Execution:
    """Execute a notebook on a fresh kernel, in its own folder; the file itself stays as it is.

    ``environment`` are further environment variables of the kernel; ``progress`` receives, before each cell, its number
    (from 0), how many there are, and the heading it stands under. A cell may take as long as it does: a slow machine
    has no limit to hit, and Ctrl-C stops the run. A failing cell raises nothing: ``fault`` names it, and its traceback
    is among the outputs. Raises what :func:`read_notebook` raises.
    """
    return _apart(_executed(Path(path), environment or {}, progress))


def _apart(work: Coroutine[Any, Any, Execution]) -> Execution:
    """Wait for ``work`` in an event loop of its own thread, where nbclient leaves the signals alone.

    So Ctrl-C reaches whoever waits: the work is cancelled, its kernel ends, and ``KeyboardInterrupt`` goes on.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        return asyncio.run_coroutine_threadsafe(work, loop).result()
    finally:
        asyncio.run_coroutine_threadsafe(_end_others(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end_others() -> None:
    """Cancel what is still going on in this loop, and wait for it."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _executed(
    path: Path, environment: Mapping[str, str], progress: Callable[[int, int, str], None] | None
) -> Execution:
    from nbclient import NotebookClient
    from nbclient.exceptions import CellControlSignal, CellExecutionError, DeadKernelError

    start, fault, peak, number = time.perf_counter(), None, None, 0
    notebook = read_notebook(path)
    for cell in notebook.cells:
        if cell.cell_type == "code":  # or cells after a failing one would keep what is stored
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook,
        timeout=None,
        startup_timeout=600,
        iopub_timeout=60,
        kernel_name="python3",
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],  # the kernel warns that it talks over TCP, here to itself
        resources={"metadata": {"path": str(path.resolve().parent)}},
    )
    env = {**os.environ, **environment}
    if active_scale(env.get("HPS_SCALE")).simulated:
        env = {**os.environ, **KERNEL_ENVIRONMENT, **environment}
    else:  # the real thing uses the whole machine, takes hours, and nobody compares its outputs text by text
        env["MPLBACKEND"] = KERNEL_ENVIRONMENT["MPLBACKEND"]
        if "HPSLIB_FULL" not in environment:  # absolute, for the kernel works in the notebooks' folder
            env["HPSLIB_FULL"] = str(full_root())
    async with client.async_setup_kernel(env=env):
        try:
            for number, (cell, heading) in enumerate(zip(notebook.cells, headings(notebook))):
                if progress is not None:
                    progress(number, len(notebook.cells), heading)
                await client.async_execute_cell(cell, number)
        except CellExecutionError as error:
            fault = f"{path.name}, cell {number} (from 0): {error.ename}: {' '.join(error.evalue.split())}"
        except (CellControlSignal, DeadKernelError) as error:
            if (task := asyncio.current_task()) and task.cancelling():  # nbclient takes that for a death as well
                manager: Any = client.km
                await manager.shutdown_kernel(now=True)
                raise asyncio.CancelledError from error
            fault = f"{path.name}, cell {number} (from 0): {str(error).splitlines()[0]}"
        peak = _peak_mib(getattr(client.km.provisioner, "pid", None)) if client.km else None
    return Execution(notebook, time.perf_counter() - start, peak, fault)


def _peak_mib(pid: int | None) -> float | None:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    kib = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(kib[0]) / 1024 if kib else None
