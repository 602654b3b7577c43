from __future__ import annotations

import dataclasses
import doctest

import pytest

import hpslib.lessons.scale as module
from hpslib.lessons.scale import DIFFERENCES, Scale, active_scale, full, mini, rehearsal


def test_full_holds_the_papers_numbers() -> None:
    assert (full.image_blocks, full.text_blocks, full.classifier_lr) == (10, 6, 1.7e-5)
    assert (full.classifier_weight_decay, full.classifier_batch, full.classifier_epochs) == (3.1e-3, 5, 1.0)
    assert (full.lora_rank, full.lora_steps, full.lora_batch, full.lora_lr) == (32, 10_000, 40, 1e-5)
    assert (full.sampling_steps, full.guidance_scale, full.threshold) == (50, 7.5, 2.0)


def test_the_environment_names_the_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HPS_SCALE", raising=False)
    assert active_scale() is mini
    monkeypatch.setenv("HPS_SCALE", "full")
    assert active_scale() is full
    assert active_scale("mini") is mini  # the argument wins
    monkeypatch.setenv("HPS_SCALE", "")
    assert active_scale() is mini


def test_an_unknown_scale_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPS_SCALE", "huge")
    with pytest.raises(ValueError, match="HPS_SCALE is 'huge': use 'mini', 'full' or 'rehearsal'"):
        active_scale()


def test_the_rule_s_temperature_and_the_seed_are_the_paper_s_at_the_full_scale() -> None:
    assert (full.seed, rehearsal.seed, mini.seed) == (42, 42, 0)
    assert full.softmax_temperature(37.0) == rehearsal.softmax_temperature(37.0) == 1.0
    assert mini.softmax_temperature(20.0) == 5.0, "the miniature classifier's logits are 20 x cosine"


def test_where_training_differs_from_the_released_script_is_listed() -> None:
    told = {difference.setting: str(difference) for difference in DIFFERENCES}
    assert {"gradient clipping", "latents", "timesteps", "crop", "LoRA rank"} <= set(told)
    assert told["crop"].startswith("crop: at a random place, after scaling the shorter side there, the centre, ")
    assert all(text.endswith(".") and ", for " in text for text in told.values())


def test_doctests() -> None:
    assert doctest.testmod(module).failed == 0


def test_a_scale_cannot_be_changed_by_accident() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        mini.lora_rank = 1  # type: ignore[misc]


@pytest.mark.parametrize("scale", [mini, full, rehearsal], ids=lambda scale: scale.name)
def test_every_number_makes_sense(scale: Scale) -> None:
    for field in dataclasses.fields(scale):
        if field.name not in (
            "name",
            "seed",
            "temperature",
            "caption_dropout",
            "identifier_alone",
            "text_blocks",
            "lora_schedule",
            "lora_shares",
            "classifier_scale_lr",
            "groups",
            "cache_activations",
        ):
            assert getattr(scale, field.name) > 0, field.name
    assert scale.text_blocks >= 0 and (scale.lora_shares is None or sum(scale.lora_shares) == pytest.approx(1))
    assert 0 <= scale.identifier_alone <= 1 and scale.lora_schedule in ("constant", "cosine")
    assert scale.classifier_scale_lr is None or scale.classifier_scale_lr >= scale.classifier_lr
    assert 0 <= scale.caption_dropout < 1 and scale.threshold > 1 and scale.images_per_prompt >= 2


def test_a_rehearsal_is_the_full_scale_with_less_of_it() -> None:
    assert not rehearsal.simulated and not full.simulated and mini.simulated
    same = ("classifier_lr", "lora_lr", "guidance_scale", "threshold", "negative_share", "lora_schedule")
    assert all(getattr(rehearsal, name) == getattr(full, name) for name in same)
    assert active_scale("rehearsal") is rehearsal and full.lora_rank == 32 and full.lora_batch == 40
