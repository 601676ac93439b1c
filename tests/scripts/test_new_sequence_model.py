"""A new sequence model is one new file: what CONTRIBUTING.md says, done in a copy of the project."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

import config
from models import create_model, sequence_model_names

ROOT = Path(__file__).resolve().parents[2]
LSTM = """
from torch import nn

from models.registry import register_sequence_model
from models.sequence.stack import SequenceModel


class Lstm(nn.Module):
    def __init__(self, in_dim, dim):
        super().__init__()
        self.lstm = nn.LSTM(in_dim, dim, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0]


@register_sequence_model("lstm")
def lstm(in_dim: int, dim: int) -> SequenceModel:
    return SequenceModel(Lstm(in_dim, dim), out_dim=dim, causal=True)
"""
FOURIER = LSTM.replace("self.lstm(x)[0]", "__import__('torch').fft.fft(self.lstm(x)[0], dim=1).real").replace(
    '"lstm"', '"fourier"'
)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    for name in ("models", "helpers", "data_util"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.glob("*.py"):
        shutil.copy(path, folder)
    (folder / "resources").symlink_to(ROOT / "resources")
    (folder / "models" / "sequence" / "lstm.py").write_text(LSTM)
    (folder / "models" / "sequence" / "fourier.py").write_text(FOURIER)
    return folder


def figures(project: Path, name: str, table: Path) -> tuple[dict[str, str], str]:
    command = [sys.executable, "complexity.py", "--model_name=fmn04", f"--seq_model_type={name}", "--seq_model_dim=64"]
    done = subprocess.run([*command, f"--csv={table}"], cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with table.open(newline="") as file:
        return next(csv.DictReader(file)), done.stderr


def test_the_command_line_knows_it_and_its_cost_is_counted(project, tmp_path):
    found, _ = figures(project, "lstm", tmp_path / "lstm.csv")
    embed_dim = create_model("fmn04").model.embed_dim
    weights = sum(p.numel() for n, p in nn.LSTM(embed_dim, 64).named_parameters() if "weight" in n)
    assert int(found["macs_sequence"]) == int(found["macs_recurrence"]) == 250 * weights
    assert found["receptive_field_mel_frames"] == "clip"


def test_a_cost_that_nobody_has_counted_is_unknown(project, tmp_path):
    found, said = figures(project, "fourier", tmp_path / "fourier.csv")
    assert found["macs"] == found["macs_sequence"] == "unknown" and int(found["macs_backbone"]) > 10**8
    assert "unknown MACs" in said and "fft" in said


def test_the_options_know_what_is_registered():
    assert set(config.sequence_models()) == set(sequence_model_names())
