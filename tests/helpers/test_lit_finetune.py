"""Where a fine-tuning starts, how long it takes, and how clips follow from frames."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import config
from config_finetune import FinetuneOptions
from data_util.own_data import OwnData, Recording, group_of
from data_util.own_windows import OwnWindows
from errors import UserError
from helpers import lit_finetune, optim
from helpers.lit_finetune import FinetuneModule, choose_start, pooled, splits_of
from models import create_model
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


KNOWN = {"street_part0.wav": "train", "street_part1.wav": "train", "park.wav": "val", "cafe.wav": "test"}
NEW = [f"new{i}.wav" for i in range(10)]


@pytest.mark.parametrize(
    ("names", "argv", "tested", "learnt"),
    [
        ([*KNOWN, "street_part2.wav"], (), ["cafe.wav"], 0),  # a piece of what was trained on
        (["street_part2.wav", "park_0-10.wav", "cafe_part2.wav"], (), ["cafe_part2.wav"], 0),
        (["cafe.wav", *NEW], (), ["cafe.wav", *NEW], 0),
        (NEW, (), NEW, 0),
        (NEW[:1], (), NEW[:1], 0),
        (["street_part2.wav", "cafe.wav"], ("--test_share=1",), ["street_part2.wav", "cafe.wav"], 1),
    ],
)
def test_evaluated_is_what_the_checkpoint_has_not_learnt(monkeypatch, tmp_path, names, argv, tested, learnt) -> None:
    monkeypatch.setattr(lit_finetune, "_splits_in", lambda checkpoint: KNOWN)
    data = OwnData([Recording(n, Path(n), 2.0, ((0.0, 1.0, "dog"),), group_of(n)) for n in names], ("dog",))
    (tmp_path / "x.ckpt").touch()
    argv = [f"--audio={tmp_path}", "--evaluate", f"--checkpoint={tmp_path}/x.ckpt", *argv]
    options = config.parse(FinetuneOptions, argv)
    splits = splits_of(data, options)
    assert [r.name for r in splits["test"]] == tested and sum(map(len, splits.values())) == len(names)
    assert bool(data.notes) == bool(learnt)
    assert all(note.startswith(f"{learnt} of the {len(tested)} test recordings") for note in data.notes)


@pytest.mark.parametrize("active", [2.0, 1.0])
def test_the_first_note_is_about_a_class_without_counterexamples(tmp_path, active: float) -> None:
    data = OwnData(
        [Recording(f"{i}", Path(f"{i}"), 2.0, ((0.0, active, "dog"),), f"{i}") for i in range(5)],
        ("dog",),
        notes=["another one"],
    )
    splits_of(data, config.parse(FinetuneOptions, [f"--audio={tmp_path}", f"--background={tmp_path}"]))
    assert data.notes[0].startswith("active all the time in all recordings: dog") == (active == 2.0)
    with pytest.raises(UserError, match="--background"):
        config.parse(FinetuneOptions, [f"--audio={tmp_path}", "--background=nowhere"]).check()


@pytest.mark.parametrize(
    ("argv", "trained"), [([], True), (["--backbone_frozen"], False), (["--frozen_epochs=1"], False)]
)
def test_a_frozen_backbone(tmp_path, argv: list[str], trained: bool) -> None:
    options = config.parse(FinetuneOptions, [f"--audio={tmp_path}", "--n_epochs=3", *argv])
    options.settle(8)
    assert options.frozen_epochs == {"--backbone_frozen": 3, "--frozen_epochs=1": 1}.get("".join(argv), 0)
    recordings = [Recording("a", tmp_path / "a", 2.0, ((0.0, 1.0, "dog"),), "a")]
    model = create_model("fmn04", labels=["dog"])
    module = FinetuneModule(model, options, OwnWindows(recordings, ["dog"], 2.0, 2.0), False, {})
    options.frozen_epochs = min(1, options.frozen_epochs)  # as after a resume with more epochs
    module.on_train_epoch_start()
    for part in model.model.modules():
        assert part.training == trained
    assert all(p.requires_grad == trained for p in model.model.parameters() if p.is_floating_point())
    assert model.strong_head.training and all(p.requires_grad for p in model.strong_head.parameters())
    in_optimizer = {
        id(p) for group in optim.parameter_groups(model, backbone_lr=1.0, seq_lr=1.0) for p in group["params"]
    }
    assert any(id(p) in in_optimizer for p in model.model.parameters()) == trained
