"""Where a fine-tuning starts, how long it takes, and how clips follow from frames."""

from __future__ import annotations

import pytest
import torch

import config
from config_finetune import FinetuneOptions
from errors import UserError
from helpers import lit_finetune
from helpers.lit_finetune import choose_start, pooled
from models.cards import cards


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and a folder in the place of resources/."""

    def fetch(card):
        raise UserError(f"cannot download '{card.name}'")

    monkeypatch.setattr(lit_finetune, "fetch", fetch)
    monkeypatch.setattr(lit_finetune, "RESOURCES", tmp_path)
    return tmp_path


def start(tmp_path, *argv: str) -> FinetuneOptions:
    options = config.parse(FinetuneOptions, [f"--audio={tmp_path}", *argv])
    notes = choose_start(options)
    assert bool(notes) == (options.pretrained != "strong")
    return options


def test_weights_that_can_be_had_are_taken(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(lit_finetune, "fetch", lambda card: None)
    options = start(tmp_path)
    assert (options.model_name, options.pretrained) == ("fmn10", "strong")


def test_from_scratch_where_there_is_nothing(offline) -> None:
    options = config.parse(FinetuneOptions, [f"--audio={offline}"])
    (note,) = choose_start(options)
    assert (options.model_name, options.pretrained) == ("fmn04", "scratch")
    assert note.startswith("cannot download 'fmn10_strong'; starting fmn04 from scratch")
    assert start(offline, "--model_name=fmn06").model_name == "fmn06"


def test_other_released_weights_on_this_machine(offline) -> None:
    for name in ("fmn20_strong", "fmn06_strong", "fmn10_weak"):
        (offline / cards()[name].file_name).touch()
    options = start(offline)
    assert (options.model_name, options.pretrained) == ("fmn10", "fmn10_weak")
    options = start(offline, "--model_name=fmn04")
    assert (options.model_name, options.pretrained) == ("fmn04", "scratch")


def test_what_the_user_says_is_not_changed(offline) -> None:
    assert start(offline, "--pretrained=strong").pretrained == "strong"
    with pytest.raises(UserError, match="fmn99"):
        start(offline, "--model_name=fmn99")


@pytest.mark.parametrize(("n", "batch"), [(3, 3), (36, 8), (255, 8), (256, 16), (512, 32), (100_000, 64)])
def test_the_size_of_the_data_chooses_batches_and_epochs(tmp_path, n: int, batch: int) -> None:
    options = config.parse(FinetuneOptions, [f"--audio={tmp_path}"])
    options.settle(n)
    assert options.batch_size == batch and options.frozen_epochs == 2
    assert options.windows_per_epoch(n) == max(n, 20 * batch)
    scratch = config.parse(FinetuneOptions, [f"--audio={tmp_path}", "--pretrained=scratch", "--max_lr=1e-4"])
    scratch.settle(n)
    assert (scratch.frozen_epochs, scratch.lr_decay, scratch.max_lr) == (0, 0.0, 1e-4)


def test_clips_from_frames_equal_the_formula() -> None:
    logits = torch.randn(3, 4, 50)
    p = torch.sigmoid(logits)
    expected = torch.stack([torch.stack([(f * f).sum() / f.sum() for f in clip]) for clip in p])
    torch.testing.assert_close(pooled(logits).sigmoid(), expected)
    quiet = pooled(torch.full((1, 1, 10), -100.0, requires_grad=True))
    assert quiet.isfinite().all()
