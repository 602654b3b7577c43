"""hpslib.scores.imagereward: rewards equal the authors' forward pass written out plainly; what does not fit is
refused."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fake_gpu import fake_gpu
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import functional

from hpslib.scores import imagereward
from hpslib.scores.imagereward import (
    MEAN,
    SIZES,
    STD,
    ImageReward,
    imagereward_scores,
    load_imagereward,
    truncated_prompts,
)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "the", "red", "blue", "cat", "moon", "two", ","]
SMALL = {  # towers of different widths with two and three heads, so that nothing can be mistaken for its neighbour
    "image size": 24, "patch size": 8, "vision width": 128, "vision hidden": 96, "vision layers": 2,
    "text width": 192, "text hidden": 160, "text layers": 3, "positions": 40, "vocabulary": len(WORDS) + 2,
}  # fmt: skip
HEAD = (32, 16, 8, 4, 1)
PROMPTS = ["a red cat", "the moon , two blue", "A red CAT", "a red cat", "two cat"]


def layout(sizes: dict[str, int], head: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The keys and shapes that the authors' classes give a model of these sizes."""
    width, hidden, patch = sizes["vision width"], sizes["vision hidden"], sizes["patch size"]
    linear = {
        "blip.visual_encoder.patch_embed.proj": (width, 3, patch, patch), "blip.vision_proj": (256, width),
        "blip.text_proj": (256, sizes["text width"]),
    }  # fmt: skip
    norms = {"blip.visual_encoder.norm": width, "blip.text_encoder.embeddings.LayerNorm": sizes["text width"]}
    for number in range(sizes["vision layers"]):
        block = f"blip.visual_encoder.blocks.{number}"
        norms |= {f"{block}.norm1": width, f"{block}.norm2": width}
        linear |= {f"{block}.attn.qkv": (3 * width, width), f"{block}.attn.proj": (width, width)}
        linear |= {f"{block}.mlp.fc1": (hidden, width), f"{block}.mlp.fc2": (width, hidden)}
    text, middle = sizes["text width"], sizes["text hidden"]
    for number in range(sizes["text layers"]):
        layer = f"blip.text_encoder.encoder.layer.{number}"
        for attention, source in (("attention", text), ("crossattention", width)):
            linear |= {
                f"{layer}.{attention}.self.query": (text, text),
                f"{layer}.{attention}.output.dense": (text, text),
            }
            linear |= {f"{layer}.{attention}.self.{part}": (text, source) for part in ("key", "value")}
            norms[f"{layer}.{attention}.output.LayerNorm"] = text
        linear |= {f"{layer}.intermediate.dense": (middle, text), f"{layer}.output.dense": (text, middle)}
        norms[f"{layer}.output.LayerNorm"] = text
    linear |= {
        f"mlp.layers.{place}": (rows, columns)
        for place, rows, columns in zip((0, 2, 4, 6, 7), head, (text, *head), strict=False)
    }
    patches = (sizes["image size"] // patch) ** 2
    shapes: dict[str, tuple[int, ...]] = {
        "blip.visual_encoder.cls_token": (1, 1, width),
        "blip.visual_encoder.pos_embed": (1, patches + 1, width),
        "blip.text_encoder.embeddings.word_embeddings.weight": (sizes["vocabulary"], text),
        "blip.text_encoder.embeddings.position_embeddings.weight": (sizes["positions"], text),
    }
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name, size in norms.items():
        shapes |= {f"{name}.weight": (size,), f"{name}.bias": (size,)}
    return shapes


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    found = {}
    for key, shape in layout(SMALL, HEAD).items():
        value = torch.randn(shape, generator=generator)
        if "norm" in key.lower():
            value = 0.2 * value + key.endswith("weight")  # ones and zeros would hide a forgotten bias
        elif any(part in key for part in ("cls_token", "pos_embed", "patch_embed", "_embeddings")):
            value = 3e-3 * value  # as small as an epsilon that is too large would show
        else:
            value = value / shape[1] ** 0.5 if len(shape) > 1 else 0.3 * value
        found[key] = value
    return found | {"blip.text_encoder.embeddings.position_ids": torch.arange(SMALL["positions"])[None]}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def checkpoint(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("imagereward") / "ImageReward.pt"
    torch.save(weights, path)
    return path


@pytest.fixture(scope="module")
def model(checkpoint: Path, bert: Path) -> ImageReward:
    return load_imagereward(checkpoint, bert, any_size=True)


@pytest.fixture
def images(rng: np.random.Generator) -> list[Image.Image]:
    shapes = [(24, 24, 3), (41, 57, 3), (60, 25, 3), (33, 31), (24, 90, 3)]
    return [Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]


# --- the authors' computation, in float64 -----------------------------------------------------------------------------


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    heads = query.shape[-1] // 64
    query, key, value = (x.unflatten(-1, (heads, 64)).transpose(1, 2) for x in (query, key, value))
    scores = query @ key.transpose(-1, -2) / 8
    if mask is not None:
        scores = scores + (1 - mask[:, None, None, :]) * -10000.0
    return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)


def reference_vision(weights: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """timm's vision transformer: pre-norm, epsilon 1e-6."""

    def part(name: str) -> tuple[Tensor, Tensor]:
        return tuple(weights[f"blip.visual_encoder.{name}.{kind}"].double() for kind in ("weight", "bias"))  # type: ignore[return-value]

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], *part(name), eps=1e-6)

    x = F.conv2d(pixels, *part("patch_embed.proj"), stride=SMALL["patch size"]).flatten(2).transpose(1, 2)
    first = weights["blip.visual_encoder.cls_token"].double().expand(len(x), -1, -1)
    x = torch.cat([first, x], dim=1) + weights["blip.visual_encoder.pos_embed"].double()
    for number in range(SMALL["vision layers"]):
        block = f"blocks.{number}"
        mixed = attend(*F.linear(norm(x, f"{block}.norm1"), *part(f"{block}.attn.qkv")).chunk(3, dim=-1))
        x = x + F.linear(mixed, *part(f"{block}.attn.proj"))
        inner = F.gelu(F.linear(norm(x, f"{block}.norm2"), *part(f"{block}.mlp.fc1")))
        x = x + F.linear(inner, *part(f"{block}.mlp.fc2"))
    return norm(x, "norm")


def reference_text(weights: dict[str, Tensor], ids: Tensor, mask: Tensor, seen: Tensor) -> Tensor:
    """BERT with cross-attention between self-attention and the inner layer: post-norm, epsilon 1e-12, not causal."""

    def part(name: str) -> tuple[Tensor, Tensor]:
        return tuple(weights[f"blip.text_encoder.{name}.{kind}"].double() for kind in ("weight", "bias"))  # type: ignore[return-value]

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], *part(name), eps=1e-12)

    embeddings = "blip.text_encoder.embeddings"
    x = weights[f"{embeddings}.word_embeddings.weight"].double()[ids]
    x = x + weights[f"{embeddings}.position_embeddings.weight"].double()[: ids.shape[1]]
    x = norm(x, "embeddings.LayerNorm")
    for number in range(SMALL["text layers"]):
        layer = f"encoder.layer.{number}"
        for name, source, hidden in (("attention", None, mask), ("crossattention", seen, None)):
            query, key, value = (
                F.linear(x if source is None or kind == "query" else source, *part(f"{layer}.{name}.self.{kind}"))
                for kind in ("query", "key", "value")
            )
            mixed = F.linear(attend(query, key, value, hidden), *part(f"{layer}.{name}.output.dense"))
            x = norm(x + mixed, f"{layer}.{name}.output.LayerNorm")
        inner = F.gelu(F.linear(x, *part(f"{layer}.intermediate.dense")))
        x = norm(x + F.linear(inner, *part(f"{layer}.output.dense")), f"{layer}.output.LayerNorm")
    return x


def reference(weights: dict[str, Tensor], images: list[Image.Image], prompts: list[str]) -> np.ndarray:
    pixels = []
    for image in images:
        small = functional.resize(image, SMALL["image size"], functional.InterpolationMode.BICUBIC)
        small = functional.center_crop(small, [SMALL["image size"]] * 2).convert("RGB")
        normalised = functional.normalize(
            functional.to_tensor(small), [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
        )
        pixels.append(normalised.double())
    ids = torch.zeros(len(prompts), 35, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        words = ["[CLS]", *prompt.lower().split()[:33], "[SEP]"]  # [CLS] stays: score() puts no [ENC] there
        ids[row, : len(words)] = torch.tensor([WORDS.index(word) for word in words])
    seen = reference_vision(weights, torch.stack(pixels))
    x = reference_text(weights, ids, (ids != 0).double(), seen)[:, 0]
    for place in (0, 2, 4, 6, 7):
        x = F.linear(x, weights[f"mlp.layers.{place}.weight"].double(), weights[f"mlp.layers.{place}.bias"].double())
    return ((x[:, 0] - 0.16717362830052426) / 1.0333394966054072).numpy()


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_rewards_are_those_of_the_authors_forward_pass(
    model: ImageReward, weights: dict[str, Tensor], images: list[Image.Image], batch_size: int
) -> None:
    rewards = imagereward_scores(model, images, PROMPTS, batch_size)
    wanted = reference(weights, images, PROMPTS)
    assert rewards.shape == (5,) and rewards.dtype == np.float64
    np.testing.assert_allclose(rewards, wanted, atol=1e-5, rtol=0)
    assert wanted.std() > 0.01, "or a constant would pass"


def test_the_reward_depends_on_the_image_and_on_the_prompt(model: ImageReward, images: list[Image.Image]) -> None:
    one, other = imagereward_scores(model, images[:2], ["a red cat"] * 2)
    assert abs(one - other) > 1e-3
    asked = ["a red cat", "a blue cat", "A Red cat"]
    one, other, same = (imagereward_scores(model, images[:1], [prompt])[0] for prompt in asked)
    assert abs(one - other) > 1e-3 and one == same


def test_each_distinct_prompt_is_tokenised_once(model: ImageReward, images: list[Image.Image]) -> None:
    asked: list[list[str]] = []

    def tokenizer(prompts: list[str], **how: Any) -> Any:
        asked.append(prompts)
        return model.tokenizer(prompts, **how)

    imagereward_scores(replace(model, tokenizer=tokenizer), images, PROMPTS, batch_size=2)
    assert asked == [["a red cat", "the moon , two blue", "A red CAT", "two cat"]]


def test_prompts_of_more_than_35_tokens_are_cut_and_counted(
    model: ImageReward, weights: dict[str, Tensor], images: list[Image.Image]
) -> None:
    fits, long = "moon " * 33, "moon " * 33 + "cat"
    assert truncated_prompts(model, ["a red cat", fits, long, "a, " * 17]) == [2, 3], "a comma is a token of its own"
    assert truncated_prompts(model, []) == []
    asked = [fits, long, "moon " * 32]  # one by one: in a batch, rows of equal content may differ in their last bits
    rewards = [imagereward_scores(model, images[:1], [prompt])[0] for prompt in asked]
    assert rewards[0] == rewards[1] != rewards[2]
    np.testing.assert_allclose(rewards[1], reference(weights, images[:1], [long])[0], atol=1e-5)


def test_the_collapsed_head_is_the_layer_stack_in_eval_mode(model: ImageReward, weights: dict[str, Tensor]) -> None:
    stack = nn.Sequential(
        nn.Linear(192, 32), nn.Dropout(0.2), nn.Linear(32, 16), nn.Dropout(0.2), nn.Linear(16, 8), nn.Dropout(0.1),
        nn.Linear(8, 4), nn.Linear(4, 1),
    ).eval()  # fmt: skip
    stack.load_state_dict({k.removeprefix("mlp.layers."): v for k, v in weights.items() if k.startswith("mlp.")})
    states = torch.randn(50, 192, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = stack(states)[:, 0]
    torch.testing.assert_close((states.double() @ model.head_weight + model.head_bias).float(), wanted)


def test_constants_are_those_of_the_release() -> None:
    assert (MEAN, STD) == (0.16717362830052426, 1.0333394966054072)


# --- loading ----------------------------------------------------------------------------------------------------------


def test_a_loaded_model_is_complete_frozen_and_drawn_from_no_generator(checkpoint: Path, bert: Path) -> None:
    state = torch.get_rng_state()
    model = load_imagereward(checkpoint, bert, any_size=True)
    assert torch.equal(torch.get_rng_state(), state)
    for tower in (model.vision, model.text):
        assert not tower.training and not any(p.requires_grad for p in tower.parameters())
        assert {t.device.type for t in [*tower.parameters(), *tower.buffers()]} == {"cpu"}
    assert model.device.type == "cpu" and model.image_size == 24
    ids = model.tokenizer.convert_tokens_to_ids(["[DEC]", "[ENC]"])
    assert ids == [len(WORDS), len(WORDS) + 1], "behind the vocabulary, in the authors' order"


def test_half_precision_files_are_read_as_float32(
    weights: dict[str, Tensor], bert: Path, tmp_path: Path, images: list[Image.Image]
) -> None:
    half = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    torch.save(half, tmp_path / "half.pt")
    model = load_imagereward(tmp_path / "half.pt", bert, any_size=True)
    assert {p.dtype for p in [*model.vision.parameters(), *model.text.parameters()]} == {torch.float32}
    np.testing.assert_allclose(imagereward_scores(model, images, PROMPTS), reference(half, images, PROMPTS), atol=1e-5)


def true_size(**more: Tensor) -> dict[str, Tensor]:
    """The released model's keys and shapes, its towers without data."""
    shapes = layout(SIZES, (1024, 128, 64, 16, 1))
    found = {key: torch.empty(shape, device="meta") for key, shape in shapes.items() if not key.startswith("mlp.")}
    return found | {key: torch.zeros(shape) for key, shape in shapes.items() if key.startswith("mlp.")} | more


def test_the_released_layout_is_taken_as_it_is(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = true_size()
    assert abs(4 * sum(value.numel() for value in weights.values()) - 1.79e9) < 0.01e9, "bytes of the released file"
    fillers = [f"word{number}" for number in range(30522 - len(WORDS))]
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDS, *fillers]) + "\n", encoding="utf-8")
    monkeypatch.setattr(imagereward, "read_state_dict", lambda path: weights)
    model = load_imagereward(checkpoint, tmp_path, device="meta")
    used = [*model.vision.parameters(), *model.text.parameters()]
    assert len(used) + 10 + 4 == len(weights), "the head and BLIP's two projections are the rest"
    assert model.image_size == 224 and model.head_weight.shape == (768,)
    assert model.vision.config.num_attention_heads == 16 and model.text.config.num_attention_heads == 12
    assert model.vision.config.layer_norm_eps == 1e-6 and model.text.config.layer_norm_eps == 1e-12


def test_another_size_is_refused_unless_asked_for(checkpoint: Path, bert: Path) -> None:
    with pytest.raises(ValueError) as caught:
        load_imagereward(checkpoint, bert)
    assert str(caught.value) == (
        f"{checkpoint} is not ViT-L/16 and BERT-base, it has image size 24 instead of 224, patch size 8 instead of 16, "
        "vision width 128 instead of 1024, vision hidden 96 instead of 4096, vision layers 2 instead of 24, "
        "text width 192 instead of 768, text hidden 160 instead of 3072, text layers 3 instead of 12, "
        f"positions 40 instead of 512, vocabulary {len(WORDS) + 2} instead of 30524: name the released file."
    )


def test_files_that_do_not_fit(weights: dict[str, Tensor], bert: Path, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"

    def refused(changed: dict[str, Tensor]) -> str:
        torch.save(changed, path)
        with pytest.raises(ValueError) as caught:
            load_imagereward(path, bert, any_size=True)
        return str(caught.value).removeprefix(f"{path}")

    def without(*keys: str) -> dict[str, Tensor]:
        return {key: value for key, value in weights.items() if key not in keys}

    assert refused({"visual.proj": torch.ones(2, 2)}) == (
        " is no ImageReward model, since it has no blip.visual_encoder.patch_embed.proj.weight: name the file "
        "ImageReward.pt."
    )
    qkv = "blip.visual_encoder.blocks.1.attn.qkv.bias"
    assert refused(without(qkv)) == (
        f" is no ImageReward model, 1 keys missing, 0 unexpected, 0 of another shape (first: {qkv}): name the file "
        "ImageReward.pt."
    )
    extra = {"blip.text_encoder.pooler.dense.weight": torch.ones(2), "mlp.layers.9.bias": torch.ones(1)}
    assert "0 keys missing, 2 unexpected, 0 of another shape (first: blip.text_encoder.pooler" in refused(
        weights | extra
    )
    cross = "blip.text_encoder.encoder.layer.2.crossattention.self.key.weight"
    assert f"0 unexpected, 1 of another shape (first: {cross})" in refused({**weights, cross: torch.ones(192, 192)})
    assert "1 keys missing, 0 unexpected, 0 of another shape (first: mlp.layers.7.weight)" in refused(
        without("mlp.layers.7.weight")
    )
    assert "2 of another shape (first: mlp.layers.7.weight)" in refused(
        {**weights, "mlp.layers.7.weight": torch.ones(2, 4), "mlp.layers.7.bias": torch.ones(2)}
    )
    words = "blip.text_encoder.embeddings.word_embeddings.weight"
    assert refused({**weights, words: torch.ones(30, 100)}) == (
        f"the text width of 100 in {path} cannot be split into heads of 64: name the file ImageReward.pt."
    )
    assert "holds NaN or infinity" in refused({**weights, qkv: weights[qkv] * float("nan")})
    assert "cannot be read as weights" in refused({**weights, "code": Path("x")}), "nothing in a pickle is run"  # type: ignore[dict-item]
    with pytest.raises(FileNotFoundError, match=r"absent\.pt does not exist"):
        load_imagereward(tmp_path / "absent.pt", bert)


def test_tokenizers_that_do_not_fit(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r" holds no tokenizer\.json and no vocab\.txt: give a local folder of b"
    ):
        load_imagereward(checkpoint, tmp_path, any_size=True)
    with pytest.raises(FileNotFoundError, match=r"^bert-base-uncased holds no tokenizer\.json"):
        load_imagereward(checkpoint, "bert-base-uncased", any_size=True)  # a name is not looked up anywhere
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDS, "one", "more"]) + "\n", encoding="utf-8")
    count = len(WORDS) + 2
    with pytest.raises(ValueError) as caught:
        load_imagereward(checkpoint, tmp_path, any_size=True)
    assert str(caught.value) == (
        f"the model knows {count} tokens but the tokenizer in {tmp_path} has {count + 2} ([DEC] and [ENC] among them): "
        "give the folder of bert-base-uncased."
    )
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r" cannot be read as a tokenizer \(.*\): fetch bert-base-uncased again\.$"):
        load_imagereward(checkpoint, tmp_path, any_size=True)


def test_inputs_that_cannot_be_scored(model: ImageReward, images: list[Image.Image]) -> None:
    with pytest.raises(ValueError, match=r"^there are 5 images but 1 prompts: hand over one prompt for each image\.$"):
        imagereward_scores(model, images, ["a red cat"])
    with pytest.raises(ValueError, match=r"^there are no images to score: hand over at least one\.$"):
        imagereward_scores(model, [], [])
    with pytest.raises(ValueError, match=r"^the prompt of image 1 \(from 0\) is empty \(2 in all\): give a text"):
        imagereward_scores(model, images[:3], ["a red cat", " ", ""])


def test_rewards_on_a_gpu(model: ImageReward, images: list[Image.Image]) -> None:
    """Devices and types, not values: see tests/fake_gpu.py."""
    other = copy.deepcopy(model)
    with fake_gpu():
        for tower in (other.vision, other.text):
            tower.to("cuda:0")
        assert other.device == torch.device("cuda:0")
        assert imagereward_scores(other, images, PROMPTS, batch_size=2).shape == (5,)
