"""Scores of heads that nobody trained are never shown as if they meant something."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ex_audioset_strong
import inference
from errors import UserError
from helpers.backends import load_torch_model
from helpers.teacher import build_teacher
from models import SEDModel, create_model, load_model
from models.checkpoints import METADATA_KEY

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = str(ROOT / "test_files" / "example.wav")


def save(model: SEDModel, path: Path, *, own: bool, trained: str = "") -> Path:
    """A released file, or a checkpoint of our own in which `trained` heads are."""
    content = dict(model.state_dict())
    if own:
        untrained = sorted(model.untrained - {trained, "seq_model"})
        content = {"state_dict": content, METADATA_KEY: {**model.metadata(), "untrained": untrained}}
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("source", "target", "untrained"),
    [
        ({}, {}, set()),
        ({"n_classes_strong": 527}, {}, {"strong_head", "weak_head"}),
        ({"n_classes_weak": 527}, {}, {"weak_head"}),
        ({}, {"seq_model_type": "gru", "seq_model_dim": 128}, {"seq_model", "strong_head", "weak_head"}),
    ],
    ids=["the same", "other classes", "another weak head", "a new sequence model"],
)
def test_what_a_file_lacks_is_known(tmp_path: Path, source: dict, target: dict, untrained: set[str]) -> None:
    path = save(create_model("fmn04", **source), tmp_path / "released.pt", own=False)
    model = create_model("fmn04", checkpoint=path, **target)
    assert model.untrained == untrained
    if "strong_head" not in untrained:
        assert load_torch_model("fmn04", checkpoint=path, **target)
        return
    with pytest.raises(UserError, match="no trained"):
        load_torch_model("fmn04", checkpoint=path, **target)
    with pytest.raises(UserError, match="no trained strong head"):
        build_teacher("fmn04", head="strong_head", checkpoint=path, **target)


def test_a_checkpoint_says_which_heads_were_trained(tmp_path: Path) -> None:
    path = save(create_model("fmn04"), tmp_path / "own.ckpt", own=True, trained="strong_head")
    assert load_model(path).untrained == {"weak_head"}
    assert create_model("fmn04", checkpoint=path).untrained == {"weak_head"}
    build_teacher(None, head="strong_head", checkpoint=path)
    with pytest.raises(UserError, match="no trained weak head"):
        build_teacher(None, head="weak_head", checkpoint=path)


def test_scripts_refuse(tmp_path: Path, tiny_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tagger = save(create_model("fmn04", n_classes_strong=527), tmp_path / "tagger.pt", own=False)
    detector = save(create_model("fmn04"), tmp_path / "own.ckpt", own=True, trained="strong_head")
    here = [f"--audio_file={EXAMPLE}", f"--out={tmp_path / 'out'}"]
    place = [f"--data_dir={tiny_dir}", f"--output_dir={tmp_path / 'runs'}", "--logger=none", "--num_workers=0"]
    for main, argv, words in (
        (inference.main, [*here, "--model_name=fmn04", f"--checkpoint={tagger}"], "no trained strong head"),
        (
            inference.main,
            [*here, "--model_name=fmn04", f"--checkpoint={tagger}"],
            "ex_finetune.py --model_name fmn04 --ch",
        ),
        (
            inference.main,
            [*here, "--model_name=fmn06", f"--checkpoint={tagger}"],
            "its weights are of fmn04: --model_name=fmn04",
        ),
        (inference.main, [*here, f"--checkpoint={detector}", "--tags"], "--tags is True"),
        (inference.main, [*here, f"--checkpoint={detector}", "--model_name=fmn10"], "--model_name is fmn10"),
        (ex_audioset_strong.main, [*place, "--model_name=fmn04", f"--checkpoint={tagger}", "--evaluate"], "no trained"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(argv)
        lines = capsys.readouterr().err.strip().splitlines()
        assert stop.value.code == 2 and words in lines[-1], lines
    assert not (tmp_path / "out").exists() and not list((tmp_path / "runs").glob("*/metrics.json"))
    inference.main([*here, f"--checkpoint={detector}", "--model_name=fmn04"])


def test_an_unknown_teacher_is_refused_by_its_option() -> None:
    with pytest.raises(UserError, match=r"--teacher_model_name 'BEAT'.*did you mean BEATs"):
        build_teacher("BEAT", head="strong_head", pretrained="strong")
