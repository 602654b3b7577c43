"""hpslib.runs.distributed: however a batch is dealt out, the step is the same; decoding ahead changes nothing but the
time."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from forks import Forks

from hpslib.runs.distributed import (
    ahead,
    fast_dtype,
    gathered,
    local_accelerator,
    micro_batches,
    restore_scaler,
    scaler_state,
)

RUN = """
import sys
from pathlib import Path

import numpy as np, torch
from accelerate import Accelerator
from PIL import Image

from hpslib.adaptation.lora import add_lora, remove_lora
from hpslib.adaptation.training import train_lora
from hpslib.classifier.training import train_classifier
from hpslib.scores.clip import load_clip
from hpslib.adaptation.examples import encode_examples
from hpslib.adaptation.sampling import load_pipeline
from hpslib.classifier.trunk import stream_trunk

sd, clip_folder, out, *ways = sys.argv[1:]
accelerator = Accelerator(cpu=True)
rng = np.random.default_rng(0)
clip = load_clip(clip_folder)
sizes = [3, 2, 4, 3, 3, 2, 4]
images = [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(sum(sizes))]
trunk = stream_trunk(clip, images, [f"text {k}" for k in range(7)], sizes, [k % 2 for k in range(7)],
                     image_blocks=1, text_blocks=1)
pipe = load_pipeline(sd)
pixels = rng.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
captions = ["a cat", "Weird image. a dog", "a red cat", "a dog", "a", "b"]
examples = encode_examples(pipe, pixels, captions, keep_states=False, cache=Path(out) / "latents",
                           accelerator=accelerator)
for rows in map(int, ways):
    more = {"micro_batch": rows or None, "gradient_checkpointing": rows > 0 or None, "accelerator": accelerator}
    trained = train_classifier(clip, trunk, trunk, epochs=4, batch_size=5, lr=1e-3, weight_decay=0.01,
                               evaluate_every=3, seed=1, **more)
    lora = add_lora(pipe, rank=2, seed=0)
    losses = train_lora(pipe, lora, examples, steps=4, batch_size=5, lr=0.01, weight_decay=0.01, caption_dropout=0.2,
                        **more)
    made = {"classifier losses": torch.tensor(trained.losses), "validation": torch.tensor(trained.validation),
            "lora losses": torch.tensor(losses), **{f"lora {k}": p.detach().clone() for k, p in enumerate(lora)}}
    made |= {name: p.detach() for name, p in trained.clip.model.named_parameters()}
    torch.save({"processes": accelerator.num_processes, **made}, f"{out}/{rows}.{accelerator.process_index}")
    remove_lora(pipe)
"""


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def test_two_processes_and_micro_batches_give_the_result_of_one_process(
    tmp_path: Path, pipeline_folder: Path, tiny_clip_folder: Path, forks: Forks
) -> None:
    """Two gloo processes that know of each other as torch's launcher tells them, which ``tests/cli`` really starts."""
    environment = {"ACCELERATE_USE_CPU": "true"}
    pair = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    for name, ways, told in (
        ("one", ["0"], [{}]),
        ("two", ["0", "2"], [{**pair, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]),
    ):
        (tmp_path / name).mkdir()
        given = (pipeline_folder, tiny_clip_folder, tmp_path / name, *ways)
        running = [forks.start(RUN, *given, **environment, **mine) for mine in told]
        for process in running:
            assert process.wait() == 0, process.err.read_text()[-3000:]
    one, two, parts, second = (
        torch.load(tmp_path / name, weights_only=True) for name in ("one/0.0", "two/0.0", "two/2.0", "two/0.1")
    )
    assert [made.pop("processes") for made in (one, two, parts)] == [1, 2, 2]
    for key, expected in one.items():
        keep = slice(None)
        if key.endswith("in_proj_bias"):  # a bias of all keys moves no softmax: its gradient is rounding, and AdamW
            keep = [k for k in range(96) if not 32 <= k < 64]  # makes whole steps of that
        for made in (two, parts):
            torch.testing.assert_close(
                made[key][keep] if expected.ndim else made[key],
                expected[keep] if expected.ndim else expected,
                atol=2e-5, rtol=1e-4, msg=lambda m, k=key: f"{k}: {m}",
            )  # fmt: skip
        assert torch.equal(second[key], two[key]), "both processes hold the same weights"


def process(index: int, count: int) -> Any:
    return SimpleNamespace(process_index=index, num_processes=count, device=torch.device("cpu"))


@pytest.mark.parametrize(
    "count, processes, size, parts", [(5, 1, 5, 1), (5, 2, None, 1), (40, 4, 1, 10), (40, 4, 4, 3), (7, 3, 2, 2)]
)
def test_every_row_is_dealt_out_exactly_once(count: int, processes: int, size: int | None, parts: int) -> None:
    batch = torch.arange(100, 100 + count)
    dealt = [micro_batches(batch, process(k, processes), size) for k in range(processes)]
    assert max(map(len, dealt)) == parts and max(len(part) for share in dealt for part in share) <= (size or count)
    assert min(len(part) for share in dealt for part in share) >= 1
    assert sorted(torch.cat([part for share in dealt for part in share]).tolist()) == batch.tolist()


def test_a_batch_too_small_for_its_processes_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^a batch of 3 cannot be dealt out to 4 processes in parts of 2: make batch_size larger"
    ):
        micro_batches(torch.arange(3), process(0, 4), 2)
    with pytest.raises(ValueError, match=r"1 process in parts of 0: make batch_size larger, and parts of at least one"):
        micro_batches(torch.arange(3), process(0, 1), 0)


@pytest.mark.parametrize("count, processes", [(7, 2), (8, 2), (5, 4), (3, 1)])
def test_shares_come_back_in_order(count: int, processes: int) -> None:
    rows = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    longest = -(-count // processes)
    padded = torch.zeros(processes, longest, 3)
    for k in range(processes):
        padded[k, : len(rows[k::processes])] = rows[k::processes]
    for k in range(processes):
        here = process(k, processes)
        here.gather = lambda own, k=k: (
            torch.testing.assert_close(own, padded[k]) or padded.reshape(processes * longest, 3)
        )
        assert torch.equal(gathered(rows[k::processes], count, here), rows)


def test_a_notebook_may_change_its_mind_about_the_device() -> None:
    first = local_accelerator("cpu")
    assert first.num_processes == 1 and first.device.type == "cpu" and first.mixed_precision == "no"
    assert local_accelerator("cpu").device.type == "cpu"


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_ahead_keeps_order_and_raises_at_the_item(depth: int) -> None:
    def make(number: int) -> int:
        if number == 7:
            raise ValueError("seven")
        return number * number

    assert list(ahead(make, range(6), depth)) == [0, 1, 4, 9, 16, 25]
    seen = []
    with pytest.raises(ValueError, match="seven"):
        for value in ahead(make, range(9), depth):
            seen.append(value)
    assert seen == [k * k for k in range(7)]


def test_ahead_works_while_the_reader_is_busy() -> None:
    made: list[int] = []
    second = threading.Event()

    def make(number: int) -> int:
        made.append(number)
        if number == 1:
            second.set()
        return number

    reader = ahead(make, range(5))
    assert next(reader) == 0
    assert second.wait(5), "the next item is made while this one is being used"
    reader.close()
    assert len(made) < 5, "and no more than was asked for"


def test_the_scaling_of_float16_goes_through_a_checkpoint(tmp_path: Path) -> None:
    used, fresh = (SimpleNamespace(scaler=torch.amp.GradScaler("cpu", init_scale=4.0)) for _ in range(2))
    weight = torch.nn.Parameter(torch.ones(1))
    step = torch.optim.SGD([weight], lr=0.1)
    used.scaler.scale(weight.sum() * torch.inf).backward()  # an overflow: the step is left out, the scale halved
    used.scaler.step(step)
    used.scaler.update()
    assert used.scaler.get_scale() == 2.0 and weight.item() == 1.0
    torch.save({"scaler": scaler_state(used)}, tmp_path / "c.pt")
    restore_scaler(fresh, torch.load(tmp_path / "c.pt", weights_only=True))
    assert fresh.scaler.get_scale() == 2.0
    unscaled = SimpleNamespace(scaler=None)
    assert scaler_state(unscaled) is None
    restore_scaler(unscaled, {"scaler": scaler_state(used)})
    restore_scaler(fresh, {})  # a checkpoint of a run that scaled nothing
    assert fresh.scaler.get_scale() == 2.0


def test_another_gpu_than_the_first_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^cuda:1 is not the first GPU: choose one with CUDA_VISIBLE_DEVICES"):
        local_accelerator("cuda:1")


def test_the_fast_type_is_what_the_gpu_computes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fast_dtype("cpu") == torch.float32
    for native, wanted in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native)
        assert fast_dtype("cuda:0") == wanted
