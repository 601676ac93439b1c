"""No option is dead: each field of a script's options is read by the script itself, in a short run."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest
import soundfile

import config
import ex_audioset_strong
import ex_audioset_strong_online_distillation as online
import ex_audioset_weak
from helpers import teacher
from models import create_model

SHORT = "--model_name=fmn04 --pretrained=scratch --num_workers=0 --logger=none --accelerator=cpu --n_epochs=1"
EVERYWHERE = (
    "--experiment_name=there --batch_size=6 --epoch_len=6 --overwrite --dir_p=0.5 --impulse_responses=FOLDER/responses"
)
STRONG = "--use_balanced_sampler --distillation_loss_weight=0.5 --pseudo_labels_file=FOLDER/frames.hdf"
TAGS = "--teacher_predictions=FOLDER/logits.npy --teacher_names=FOLDER/names.csv"
ONLINE = (
    "--use_balanced_sampler --strong_distillation_loss_weight=0.1 --pseudo_labels_file=FOLDER/frames.hdf "
    f"--weak_distillation_loss_weight=0.1 {TAGS}"
)
# not looking at what an option is for: these copy, check and write all of them
GENERIC = {"config", "command_line", "dataclasses"}


@pytest.fixture(scope="module")
def files(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what options name: teachers' logits and impulse responses."""
    folder = tmp_path_factory.mktemp("files")
    with h5py.File(tiny_dir / "balanced_train_segments_mp3.hdf") as file:
        names = file["audio_name"][:]
    with h5py.File(folder / "frames.hdf", "w") as file:
        file["filenames"] = names
        file["strong_logits"] = np.zeros((len(names), 447, 250), np.float16)
    np.save(folder / "logits.npy", np.zeros((len(names), 527), np.float32))
    rows = [f"{name.decode().removeprefix('Y').removesuffix('.mp3')},{row}" for row, name in enumerate(names)]
    (folder / "names.csv").write_text("\n".join(["name,row", *rows]) + "\n")
    (folder / "responses").mkdir()
    soundfile.write(folder / "responses" / "device.wav", np.eye(1, 100)[0], 16_000)
    return folder


def record(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the options that are read from now on, other than by what treats all options alike."""
    read: set[str] = set()
    parse = config.parse

    def parse_and_watch(cls: type, argv: Sequence[str]) -> Any:
        class Watched(cls):  # type: ignore[valid-type, misc]
            def __getattribute__(self, name: str) -> Any:
                if sys._getframe(1).f_globals["__name__"] not in GENERIC:
                    read.add(name)
                return super().__getattribute__(name)

        options = parse(cls, argv)
        options.__class__ = Watched
        return options

    monkeypatch.setattr(config, "parse", parse_and_watch)
    return read


@pytest.mark.parametrize(
    ("script", "cls", "runs"),
    [
        (ex_audioset_strong, config.StrongOptions, [STRONG]),
        (
            ex_audioset_weak,
            config.WeakOptions,
            [
                f"--distillation_loss_weight=0.5 {TAGS}",
                "--distillation_loss_weight=0.5 --teacher_model_name=fmn04 --teacher_pretrained=weak",
            ],
        ),
        (online, config.OnlineOptions, [ONLINE]),
    ],
)
def test_every_option_is_read(
    script: ModuleType,
    cls: type,
    runs: list[str],
    files: Path,
    tiny_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained = teacher.Teacher(create_model("fmn04", n_classes_weak=527))
    monkeypatch.setattr(teacher, "build_teacher", lambda *args, **kwargs: trained)  # no released weights at hand
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()  # only a folder that is in use needs --overwrite
    read = record(monkeypatch)
    for words in runs:
        argv = f"{SHORT} {EVERYWHERE} {words}".replace("FOLDER", str(files)).split()
        script.main([*argv, f"--data_dir={tiny_dir}", f"--output_dir={tmp_path}"])
    assert {f.name for f in dataclasses.fields(cls)} - read == set()
