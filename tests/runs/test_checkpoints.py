"""hpslib.runs.checkpoints: a checkpoint is whole or the one before; a run killed at any step ends as an undisturbed one
does."""

from __future__ import annotations

import pickle
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from forks import Forks
from full_disk import no_room

from hpslib.runs.checkpoints import continue_from, load_checkpoint, save_checkpoint

RUN = """
import os, signal, sys
import numpy as np, torch
from pathlib import Path

what, source, folder, kill_at = sys.argv[1:]
torch.set_num_threads(1)
rng = np.random.default_rng(0)


def progress(done, total):
    if done == int(kill_at):
        os.kill(os.getpid(), signal.SIGKILL)


if what == "lora":
    from hpslib.adaptation.examples import encode_examples
    from hpslib.adaptation.lora import add_lora, remove_lora
    from hpslib.adaptation.sampling import load_pipeline
    from hpslib.adaptation.training import train_lora

    pipe = load_pipeline(source)
    pixels = rng.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    examples = encode_examples(pipe, pixels, ["a cat", "Weird image. a dog", "a red cat", "a dog", "a", "b"])

    def train(checkpoint):
        parameters = add_lora(pipe, rank=2, seed=0)
        losses = train_lora(pipe, parameters, examples, steps=11, batch_size=3, lr=0.02, schedule="cosine",
                            caption_dropout=0.1, identifier_alone=0.9, **how(checkpoint))
        weights = {str(k): p.detach().clone() for k, p in enumerate(parameters)}
        remove_lora(pipe)
        return {"losses": losses, "weights": weights}
else:
    from PIL import Image

    from hpslib.classifier.training import train_classifier
    from hpslib.classifier.trunk import cache_trunk
    from hpslib.scores.clip import load_clip

    clip = load_clip(source)
    images = [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(24)]
    trunk = cache_trunk(clip, images, [f"text {k}" for k in range(8)], [3] * 8, [k % 3 for k in range(8)],
                        image_blocks=1, text_blocks=1)

    def train(checkpoint):
        trained = train_classifier(clip, trunk, trunk, epochs=4, batch_size=3, lr=3e-3, scale_lr=0.1, warmup=2,
                                   evaluate_every=2, **how(checkpoint))
        weights = dict(trained.clip.model.state_dict(), history=torch.tensor(trained.validation))
        return {"losses": trained.losses, "weights": dict(weights, best=torch.tensor(trained.best_step))}


def how(checkpoint):
    path = Path(folder) / f"{what}-{checkpoint}.ckpt"
    return {"weight_decay": 0.01, "seed": 5, "checkpoint": path, "save_every": 3, "progress": progress}


killed = train("killed")
torch.save({"killed": killed, "whole": train("whole")}, Path(folder) / f"{what}.pt")
"""


def test_killed_at_random_steps_and_resumed_is_never_killed_bit_by_bit(
    tmp_path: Path, pipeline_folder: Path, tiny_clip_folder: Path, forks: Forks
) -> None:
    """Each round is a process of its own that leaves only what lies on the disk; both trainings run side by side."""
    sources = {"lora": pipeline_folder, "classifier": tiny_clip_folder}
    first, second = sorted(np.random.default_rng(7).choice(np.arange(1, 11), size=2, replace=False).tolist())
    for kill_at in (first, second, 0):
        running = {what: forks.start(RUN, what, source, tmp_path, kill_at) for what, source in sources.items()}
        for what, process in running.items():
            assert process.wait() == (-signal.SIGKILL if kill_at else 0), process.err.read_text()
            assert (tmp_path / f"{what}.pt").exists() == (kill_at == 0)
    for what in sources:
        ends = torch.load(tmp_path / f"{what}.pt", weights_only=True)
        killed, whole = ends["killed"], ends["whole"]
        assert killed["losses"] == whole["losses"] and len(whole["losses"]) == 11
        assert killed["weights"].keys() == whole["weights"].keys()
        assert all(torch.equal(value, whole["weights"][key]) for key, value in killed["weights"].items())


def test_a_finished_run_trains_no_further(tmp_path: Path, tiny_clip, noise_images) -> None:
    from hpslib.classifier.training import train_classifier
    from hpslib.classifier.trunk import cache_trunk

    trunk = cache_trunk(tiny_clip, noise_images, [f"t {k}" for k in range(8)], [3] * 8, [0] * 8,
                        image_blocks=1, text_blocks=1)  # fmt: skip
    how = {"epochs": 3, "batch_size": 8, "lr": 1e-3, "weight_decay": 0.0, "checkpoint": tmp_path / "run.ckpt"}
    steps: list[int] = []
    first = train_classifier(tiny_clip, trunk, trunk, **how, progress=lambda done, total: steps.append(done))
    again = train_classifier(tiny_clip, trunk, trunk, **how, progress=lambda done, total: steps.append(done))
    assert steps == [1, 2, 3] and again.losses == first.losses and again.validation == first.validation
    weights = again.clip.model.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in first.clip.model.state_dict().items())


def test_a_checkpoint_is_whole_or_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    assert load_checkpoint(path) is None
    save_checkpoint(path, step=3, model={"w": torch.ones(2)})
    with pytest.raises((pickle.PicklingError, AttributeError)):
        save_checkpoint(path, step=4, model=lambda: None)
    saved = load_checkpoint(path)
    assert saved is not None and saved["step"] == 3 and torch.equal(saved["model"]["w"], torch.ones(2))
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_and_the_last_checkpoint_stays(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    save_checkpoint(path, step=3)
    with no_room(10_000), pytest.raises(OSError, match=r"run\.ckpt cannot be written .*: make room"):
        save_checkpoint(path, step=4, model=torch.ones(100_000))
    assert load_checkpoint(path) == {"step": 3} and [file.name for file in tmp_path.iterdir()] == ["run.ckpt"]


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path, values = tmp_path / "run.ckpt", torch.arange(5000.0)
    save_checkpoint(path, settings={"lr": 1.0}, values=values)
    whole, places = path.read_bytes(), random.Random(1)
    refused = 0
    for _ in range(60):
        data = bytearray(whole)
        data[places.randrange(len(data))] ^= 1 << places.randrange(8)
        path.write_bytes(data)
        try:
            saved = continue_from(path, {"lr": 1.0})
        except ValueError as error:
            assert str(error).startswith(f"{path} is no checkpoint of a run (") and "delete it to start" in str(error)
            refused += 1
        else:
            assert saved is not None and torch.equal(saved["values"], values), "a bit of the padding"
    assert refused > 40


@pytest.mark.parametrize("content", [[1, 2], {"settings": 3}, {"step": 1}])
def test_what_is_no_checkpoint_of_ours_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "run.ckpt")
    with pytest.raises(ValueError, match=r"run\.ckpt is no checkpoint of a run \(it .*: delete it to start anew"):
        continue_from(tmp_path / "run.ckpt", {"lr": 1.0})


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"step": Trap()}, tmp_path / "run.ckpt")
    with pytest.raises(ValueError, match=r"run\.ckpt is no checkpoint of a run .*: delete it to start anew"):
        load_checkpoint(tmp_path / "run.ckpt")
    assert not (tmp_path / "ran").exists()


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    assert continue_from(None, {}) is None and continue_from(path, {"lr": 1.0}) is None
    save_checkpoint(path, settings={"lr": 1.0, "seed": 0}, losses=[2.0])
    saved = continue_from(path, {"lr": 1.0, "seed": 0})
    assert saved is not None and saved["losses"] == [2.0]
    with pytest.raises(
        ValueError, match=r"was made with lr 1\.0, but now it is 0\.5: use the same settings, or delete"
    ):
        continue_from(path, {"lr": 0.5, "seed": 0})
    with pytest.raises(ValueError, match="was made with rank None, but now it is 4"):
        continue_from(path, {"lr": 1.0, "seed": 0, "rank": 4})


def test_a_loss_that_is_no_number_leaves_the_checkpoint(tmp_path: Path, tiny_clip, noise_images) -> None:
    from hpslib.classifier.training import train_classifier
    from hpslib.classifier.trunk import cache_trunk

    trunk = cache_trunk(tiny_clip, noise_images, [f"t {k}" for k in range(8)], [3] * 8, [0] * 8,
                        image_blocks=1, text_blocks=1)  # fmt: skip
    steps = []

    def breaks(logits: torch.Tensor, choices: torch.Tensor) -> torch.Tensor:
        steps.append(len(logits))
        loss = torch.nn.functional.cross_entropy(logits, choices)
        return loss * (torch.nan if len(steps) == 4 else 1.0)

    path = tmp_path / "run.ckpt"
    with pytest.raises(RuntimeError, match="the loss is nan at step 3"):
        train_classifier(tiny_clip, trunk, trunk, epochs=8, batch_size=8, lr=1e-3, weight_decay=0.0, loss=breaks,
                         checkpoint=path, save_every=2)  # fmt: skip
    saved = load_checkpoint(path)
    assert saved is not None and len(saved["losses"]) == 2
    assert all(torch.isfinite(value).all() for value in saved["tuned"].values())


def test_a_checkpoint_goes_on_with_its_own_model_and_images_only(tmp_path: Path, tiny_pipe, tiny_clip, noise_images):
    from hpslib.adaptation.examples import encode_examples
    from hpslib.adaptation.lora import add_lora, remove_lora
    from hpslib.adaptation.training import train_lora
    from hpslib.classifier.training import train_classifier
    from hpslib.classifier.trunk import cache_trunk, stream_trunk

    def lora(seed: int = 0, images: int = 0) -> None:
        with torch.no_grad():
            tiny_pipe.unet.conv_in.bias += seed
        pixels = np.random.default_rng(images).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
        examples = encode_examples(tiny_pipe, pixels, list("abcd"))
        try:
            train_lora(tiny_pipe, add_lora(tiny_pipe, rank=2, seed=0), examples, steps=2, batch_size=2, lr=1e-3,
                       weight_decay=0.0, checkpoint=tmp_path / "lora.ckpt")  # fmt: skip
        finally:
            remove_lora(tiny_pipe)

    lora()
    lora()
    with pytest.raises(ValueError, match=r"lora\.ckpt was made with images '"):
        lora(images=1)
    with pytest.raises(ValueError, match=r"lora\.ckpt was made with base '"):
        lora(seed=1)

    def classifier(make=stream_trunk, images=noise_images, **changes) -> None:
        trunk = make(tiny_clip, images, [f"t {k}" for k in range(8)], [3] * 8, [0] * 8, image_blocks=1, text_blocks=1)
        train_classifier(tiny_clip, trunk, trunk, epochs=1, batch_size=4, lr=1e-3, weight_decay=0.0,
                         checkpoint=tmp_path / "classifier.ckpt", **changes)  # fmt: skip

    def other_loss(logits: torch.Tensor, choices: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits, choices)

    classifier()
    classifier()
    for what, change in (("images", {"images": noise_images[::-1]}), ("images", {"make": cache_trunk}),
                         ("loss", {"loss": other_loss})):  # fmt: skip
        with pytest.raises(ValueError, match=rf"classifier\.ckpt was made with {what} "):
            classifier(**change)


def test_no_checkpoint_holds_weights_that_give_no_loss(tmp_path: Path, tiny_pipe, tiny_clip, noise_images) -> None:
    """The step after them fails: what is on the disk is from before them, or nothing."""
    from hpslib.adaptation.examples import encode_examples
    from hpslib.adaptation.lora import add_lora
    from hpslib.adaptation.training import train_lora
    from hpslib.classifier.training import train_classifier
    from hpslib.classifier.trunk import stream_trunk

    examples = encode_examples(tiny_pipe, np.zeros((4, 16, 16, 3), dtype=np.uint8), list("abcd"))
    how = {"lr": 1e30, "weight_decay": 0.0, "save_every": 1}
    with pytest.raises(RuntimeError, match="the loss is nan at step 1"):
        train_lora(tiny_pipe, add_lora(tiny_pipe, rank=2, seed=0), examples, steps=3, batch_size=2,
                   checkpoint=tmp_path / "lora.ckpt", **how)  # fmt: skip
    trunk = stream_trunk(tiny_clip, noise_images, [f"t {k}" for k in range(8)], [3] * 8, [0] * 8, image_blocks=1,
                         text_blocks=1)  # fmt: skip
    with pytest.raises(RuntimeError, match="the loss is nan at step 1"):
        train_classifier(tiny_clip, trunk, trunk, epochs=3, batch_size=4, checkpoint=tmp_path / "clip.ckpt", **how)
    with pytest.raises(RuntimeError, match=r"the last step made weights that are no numbers: lower lr \(it is inf\)"):
        train_lora(tiny_pipe, add_lora(tiny_pipe, rank=2, seed=0, name="b"), examples, steps=1, batch_size=2,
                   checkpoint=tmp_path / "last.ckpt", **(how | {"lr": float("inf")}))  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_equal_checkpoints_are_equal_byte_by_byte(tmp_path: Path) -> None:
    for name in ("one.ckpt", "two.ckpt"):
        save_checkpoint(tmp_path / name, step=3, weight=torch.arange(5.0))
    assert (tmp_path / "one.ckpt").read_bytes() == (tmp_path / "two.ckpt").read_bytes()
