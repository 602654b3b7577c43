"""hpslib.runs.memory: as many rows at once as there is room for, and never an answer that depends on it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hpslib.runs import memory
from hpslib.runs.memory import ENOUGH, ON_CPU, fitting_rows, optimizer_bytes, rows_and_checkpointing

CPU: Any = SimpleNamespace(device=torch.device("cpu"), num_processes=1)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An accelerator on a GPU of 1,000 bytes that keeps nothing itself: trials say when they run out of memory."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=1_000))
    monkeypatch.setattr(torch, "empty", lambda size, **more: held.append(size))
    held: list[int] = []
    return SimpleNamespace(device=torch.device("cuda:0"), num_processes=1, held=held)


def out_of_memory(rows: int) -> None:
    raise torch.cuda.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {rows} GiB")


@pytest.mark.parametrize(("room", "fitting"), [(100, 40), (40, 40), (39, 20), (7, 5), (3, 3), (2, 2), (1, 1), (0, 0)])
def test_a_gpu_gets_all_rows_or_half_of_them_and_so_on(card: Any, room: int, fitting: int) -> None:
    tried: list[int] = []

    def trial(rows: int) -> None:
        tried.append(rows)
        if rows > room:
            out_of_memory(rows)

    assert fitting_rows(trial, 40, card, reserve=7) == fitting
    assert tried == [rows for rows in (40, 20, 10, 5, 3, 2, 1) if rows >= max(fitting, 1)]
    assert card.held == [57] * len(tried), "a twentieth of the card and the reserve are kept free"


def test_other_errors_are_not_taken_for_a_full_memory(card: Any) -> None:
    def trial(rows: int) -> None:
        raise RuntimeError("the loss is no number")

    with pytest.raises(RuntimeError, match="the loss is no number"):
        fitting_rows(trial, 40, card)


def test_all_processes_take_the_smallest_number(card: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "tensor", lambda rows, device: np.array(rows))
    card.num_processes, card.gather = 3, lambda mine: np.append(mine, [4, 9])
    assert fitting_rows(lambda rows: None, 8, card) == 4
    assert fitting_rows(lambda rows: None, 3, card) == 3


def test_a_cpu_takes_its_rows_without_a_trial() -> None:
    assert fitting_rows(out_of_memory, 40, CPU) == 40
    for most, at_once in ((5, 5), (ON_CPU, ON_CPU), (40, 20), (128, ON_CPU), (ON_CPU + 1, ON_CPU // 2 + 1)):
        assert rows_and_checkpointing(lambda again, rows: out_of_memory(rows), most, CPU) == (at_once, False)
    assert rows_and_checkpointing(lambda again, rows: out_of_memory(rows), 128, CPU, rows=100) == (100, False)
    assert rows_and_checkpointing(lambda again, rows: out_of_memory(rows), 40, CPU, rows=3) == (3, False)


def test_activations_are_kept_where_enough_rows_fit_so(card: Any) -> None:
    def room(kept: int, again: int) -> Any:
        return lambda computed_again, rows: rows <= (again if computed_again else kept) or out_of_memory(rows)

    assert rows_and_checkpointing(room(40, 99), 40, card) == (40, False)
    assert rows_and_checkpointing(room(ENOUGH + 4, 99), 40, card) == (20, False)
    assert rows_and_checkpointing(room(ENOUGH - 1, 99), 40, card) == (40, True)
    assert rows_and_checkpointing(room(8, 99), 8, card) == (8, False), "all of a small batch"
    assert rows_and_checkpointing(room(0, 3), 40, card) == (3, True)
    assert rows_and_checkpointing(room(0, 99), 40, card, rows=7) == (7, True)
    assert rows_and_checkpointing(room(7, 99), 40, card, rows=7) == (7, False)
    assert rows_and_checkpointing(room(20, 99), 40, card, rows=40) == (40, True), "40 kept would not fit"
    assert rows_and_checkpointing(room(6, 99), 40, card, checkpointing=False) == (5, False)
    assert rows_and_checkpointing(room(0, 0), 40, card, rows=99, checkpointing=True) == (40, True), "as it was told"
    with pytest.raises(RuntimeError, match=r"^not even one image at a time fits into the memory: use a device"):
        rows_and_checkpointing(room(0, 0), 40, card)
    with pytest.raises(ValueError, match=r"^micro_batch is 0: give a number from 1, or None"):
        rows_and_checkpointing(room(0, 0), 40, card, rows=0)


def test_the_optimiser_keeps_two_moments_and_the_exchange_a_copy() -> None:
    assert optimizer_bytes([torch.nn.Parameter(torch.zeros(5, 2))]) == 3 * 10 * 4
    assert memory.ENOUGH >= 8
