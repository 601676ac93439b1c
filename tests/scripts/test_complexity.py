"""The command line of complexity.py: table, files, refusals."""

from __future__ import annotations

import csv
import json

import pytest

import complexity
from helpers.complexity_plot import plot
from helpers.complexity_report import Row, Throughput, all_models, as_csv, as_json, markdown, row


def test_one_model_as_table_csv_and_json(tmp_path, capsys) -> None:
    files = [f"--csv={tmp_path / 'cost.csv'}", f"--json={tmp_path / 'cost.json'}"]
    complexity.main(["--model_name=fmn04", "--seq_model_type=tf", "--seq_model_dim=104", *files])
    table = capsys.readouterr().out.splitlines()
    assert table[0].startswith("| model | parameters |")
    assert "| fmn04+tf:104 | 912,048 |" in table[2] and "| 0.294 |" in table[2] and "| 40.10 |" in table[2]
    (line,) = csv.DictReader((tmp_path / "cost.csv").open())
    (model,) = json.loads((tmp_path / "cost.json").read_text())["models"]
    for figures in (line, model):
        assert int(figures["parameters"]) == 912_048
        assert int(figures["macs"]) == sum(int(figures[f"macs_{part}"]) for part in ("backbone", "sequence", "heads"))
        assert figures["receptive_field_mel_frames"] == "clip"


def test_throughput(capsys) -> None:
    arguments = ["--model_name=fmn01", "--throughput", "--optimize", "--batch_size", "1", "2"]
    complexity.main([*arguments, "--precision", "32-true", "bf16-mixed"])
    header = capsys.readouterr().out.splitlines()[0]
    for setting in ("cpu, batch 1, 32-true, optimized", "cpu, batch 2, bf16-mixed, optimized"):
        assert f"clips/s ({setting})" in header and f"RTF ({setting})" in header


def test_real_time_factor_is_time_per_audio() -> None:
    assert Throughput("cpu", 1, "32-true", clips_per_second=2.0).real_time_factor == pytest.approx(0.05)


def test_all_models_are_all() -> None:
    names = [f"{b}+{t}:{d}" if t else b for b, t, d in all_models()]
    assert len(names) == len(set(names))
    assert {"BEATs", "fmn30", "fmn40", "fmn10+gru:1024", "fmn04+hybrid:104", "fmn10+mamba:256"} <= set(names)


def test_picture_of_cost_and_performance(tmp_path) -> None:
    rows = [row(model) for model in (("fmn04", None, None), ("fmn04", "tf", 104), ("BEATs", None, None))]
    for r in rows:
        r.throughput.append(Throughput("cpu", 1, "32-true", 10.0))
    plot(rows, tmp_path / "cost", "svg")
    picture = (tmp_path / "cost").read_text()
    for label in ("fmn04:104", "BEATs", "clips per second (cpu, batch 1, 32-true)", "MACs for 10 s"):
        assert f"<!-- {label} -->" in picture


def test_columns_that_nothing_fills_are_left_out() -> None:
    cost = row(("fmn01", None, None))
    assert "PSDS1" not in markdown([cost]) and "DeepSpeed" not in markdown([cost])
    with_count = Row("fmn01", None, None, cost.cost, deepspeed_macs=37_000_000)
    assert "| 0.037 |" in markdown([with_count])
    assert "37000000" in as_csv([with_count]) and '"macs_by_deepspeed": 37000000' in as_json([with_count], {})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seq_model_type=attn", "--seq_model_dim=100"], ["100", "attn", "multiple of 8", "96 or 104"]),
        (["--model_name=fmn11"], ["fmn11", "fmn10"]),
        (["--plot=cost.gif"], ["--plot", "cost.gif", ".png"]),
        (["--batch_size=0", "--throughput"], ["--batch_size", "0", "at least 1"]),
        (["--throughput", "--optimize", "--precision=16-mixed"], ["--precision", "16-mixed"]),
        (["--throughput", "--device=foo"], ["foo", "cpu"]),
        (["--device=cpu"], ["--device", "--throughput"]),
        (["--batch_size=4"], ["--batch_size", "--throughput"]),
        (["--csv=."], ["--csv", "folder"]),
        (["--json=/dev/null/cost.json"], ["--json", "/dev/null", "folder is meant"]),
        (["--csv=" + "n" * 300], ["--csv", "too long"]),
        (["--plot=cost.png", "--model_name=fmn01"], ["--plot", "PSDS1"]),
    ],
)
def test_mistakes_end_in_one_line(arguments: list[str], words: list[str], capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        complexity.main(arguments)
    assert end.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert all(word in message for word in words), message
    assert not list(tmp_path.iterdir())


def test_files_are_not_overwritten_unasked(tmp_path, capsys) -> None:
    path = tmp_path / "cost.csv"
    path.write_text("mine")
    with pytest.raises(SystemExit):
        complexity.main(["--model_name=fmn01", f"--csv={path}"])
    assert path.read_text() == "mine" and "--overwrite" in capsys.readouterr().err
    complexity.main(["--model_name=fmn01", f"--csv={path}", "--overwrite"])
    assert "fmn01" in path.read_text()
