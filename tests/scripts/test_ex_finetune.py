"""Fine-tuning from a folder and a table to a checkpoint that inference understands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

import config
import ex_finetune
import inference
from config_finetune import FinetuneOptions
from data_util.own_data import read_own_data
from data_util.synthetic_layouts import LayoutRequest, make_layout
from models import load_model
from models.checkpoints import read_checkpoint

SHORT = ["--batch_size=4", "--num_workers=0", "--accelerator=cpu", "--n_bootstrap=100"]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "data"
    make_layout(folder, LayoutRequest("own", train=12, eval=2, seconds=1.5))
    return folder


@pytest.fixture(scope="module")
def run(own: Path) -> Path:
    """The folder of a run of two short epochs from scratch, told nothing but the two paths and to be short."""
    here = ["--audio", str(own / "audio"), "--events", str(own / "events.csv"), "--output_dir", str(own.parent)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("config_finetune.SCRATCH_EPOCH_STEPS", 3)
        patch.setattr("helpers.lit_finetune.fetch", no_network)
        patch.setattr("helpers.lit_finetune._on_disk", lambda options: None)
        ex_finetune.main([*here, *SHORT, "--n_epochs=2"])
    return own.parent / "finetune"


def no_network(card):
    from errors import UserError

    raise UserError(f"cannot download '{card.name}'")


def test_without_network_it_starts_from_scratch_and_says_so(run: Path) -> None:
    log = (run / "run.log").read_text()
    options = yaml.safe_load((run / "config.yaml").read_text())
    assert options["model_name"] == "fmn04" and options["pretrained"] == "scratch" and options["frozen_epochs"] == 0
    assert "cannot download 'fmn10_strong'; starting fmn04 from scratch" in log
    assert "12 recordings" in log and "beeps" in log


def test_the_checkpoint_holds_all_that_inference_needs(run: Path, own: Path, tmp_path: Path, capsys) -> None:
    metadata = read_checkpoint(run / "best.ckpt")[1]
    assert metadata["labels"] == ["beeps", "hiss", "siren"] and metadata["sample_rate"] == 16_000
    assert len(metadata["class_thresholds"]) == len(metadata["class_median_windows"]) == 3
    assert load_model(run / "best.ckpt").labels == ("beeps", "hiss", "siren")
    file = next((own / "heldout" / "audio").iterdir())
    inference.main([f"--checkpoint={run / 'best.ckpt'}", f"--audio_file={file}", f"--out={tmp_path}", "--format=json"])
    written = json.loads((tmp_path / f"{file.stem}.json").read_text())
    assert list(written["events"]) == ["class"]
    for event in written["events"]["class"]:
        c = metadata["labels"].index(event["label"])
        assert event["threshold"] == round(metadata["class_thresholds"][c], 4)


def test_the_report_is_about_recordings_that_training_has_not_seen(run: Path, own: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    data = read_own_data(own / "audio", own / "events.csv")
    names = [name for split in report["splits"].values() for name in split]
    assert sorted(names) == sorted(r.name for r in data.recordings) and report["scored"] == "test"
    assert report["recordings"] == len(report["splits"]["test"]) > 0
    assert [row["label"] for row in report["classes"]] == list(data.labels)
    true = sum(len(r.events) for r in data.recordings if r.name in report["splits"]["test"])
    assert sum(row["events"] for row in report["classes"]) == true
    page = (run / "report.html").read_text()
    assert "<svg" in page and all(label in page for label in data.labels)


def test_evaluate_finds_the_same_figures(run: Path, own: Path, tmp_path: Path) -> None:
    here = ["--audio", str(own / "audio"), "--events", str(own / "events.csv"), "--output_dir", str(tmp_path)]
    ex_finetune.main([*here, *SHORT, "--evaluate", f"--checkpoint={run / 'best.ckpt'}"])
    before, after = (json.loads((f / "report.json").read_text()) for f in (run, tmp_path / "finetune"))
    assert before["classes"] == after["classes"] and before["splits"] == after["splits"]
    everything = [*here, *SHORT, "--evaluate", f"--checkpoint={run / 'best.ckpt'}", "--test_share=1"]
    ex_finetune.main([*everything, "--experiment_name=all"])
    assert json.loads((tmp_path / "all" / "report.json").read_text())["recordings"] == 12


def test_evaluate_tests_nothing_that_was_learnt(run: Path, own: Path, tmp_path: Path, capsys) -> None:
    """Whatever seed and shares are asked for; recordings that have come since are tested."""
    audio = shutil.copytree(own / "audio", tmp_path / "audio")
    table = tmp_path / "events.csv"
    (new,) = (shutil.copy(f, audio / f"new{f.suffix}") for f in [next((own / "heldout" / "audio").iterdir())])
    table.write_text((own / "events.csv").read_text() + f"{Path(new).name},0.1,0.9,siren\n")
    here = ["--audio", str(audio), "--events", str(table), "--output_dir", str(tmp_path), *SHORT, "--overwrite"]
    evaluate = [*here, "--evaluate", f"--checkpoint={run / 'best.ckpt'}"]
    before = json.loads((run / "report.json").read_text())["splits"]
    ex_finetune.main([*evaluate, "--seed=7", "--test_share=0.5"])
    after = json.loads((tmp_path / "finetune" / "report.json").read_text())
    assert after["splits"] == {**before, "test": sorted([*before["test"], Path(new).name])}
    assert not any("bear names" in note for note in after["notes"])
    ex_finetune.main([*evaluate, "--test_share=1"])
    notes = json.loads((tmp_path / "finetune" / "report.json").read_text())["notes"]
    learnt = len(before["train"] + before["val"])
    assert any(note.startswith(f"{learnt} of the 13 test recordings bear names") for note in notes)
    keep = {Path(name).name for name in before["train"]}
    rows = (own / "events.csv").read_text().splitlines()
    table.write_text("\n".join(rows[:1] + [row for row in rows if row.split(",")[0] in keep]) + "\n")
    with pytest.raises(SystemExit):
        ex_finetune.main(evaluate)
    assert "was trained on all recordings with events" in capsys.readouterr().err


def test_from_scratch_the_backbone_always_learns() -> None:
    """Also where the weights that were to be kept frozen could not be had."""
    options = config.parse(FinetuneOptions, ["--resume", "--frozen_epochs=5"])
    options.pretrained = "scratch"
    options.settle(100)
    assert options.frozen_epochs == 0


def test_a_frozen_backbone_stays_as_it_is_and_the_heads_learn(run: Path, own: Path, tmp_path: Path) -> None:
    here = ["--audio", str(own / "audio"), "--events", str(own / "events.csv"), "--output_dir", str(tmp_path)]
    start = run / "best.ckpt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("config_finetune.EPOCH_STEPS", 3)
        ex_finetune.main([*here, *SHORT, f"--checkpoint={start}", "--n_epochs=1", "--frozen_epochs=1"])
    before, after = load_model(start).state_dict(), load_model(tmp_path / "finetune" / "best.ckpt").state_dict()
    moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert moved == {"strong_head", "weak_head"}


def test_a_run_goes_on_where_it_stopped(run: Path, own: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "finetune")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("config_finetune.SCRATCH_EPOCH_STEPS", 3)
        ex_finetune.main([f"--resume={copy}", "--n_epochs=3"])
    rows = (copy / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "0", "1", "2"]
    assert "class_thresholds" in read_checkpoint(copy / "best.ckpt")[1]


def test_a_run_goes_on_where_its_recordings_are_now(run: Path, own: Path, tmp_path: Path, capsys) -> None:
    copy = shutil.copytree(run, tmp_path / "finetune")
    place = shutil.copytree(own, tmp_path / "new")
    saved = yaml.safe_load((copy / "config.yaml").read_text())
    assert saved["audio"] == str(own / "audio")
    gone = {"audio": str(tmp_path / "old" / "audio"), "events": str(tmp_path / "old" / "events.csv")}
    (copy / "config.yaml").write_text(yaml.safe_dump({**saved, **gone}))
    resume = [f"--resume={copy}", "--n_epochs=3"]
    for named in ([], [f"--audio={place / 'audio'}"]):  # both have moved
        with pytest.raises(SystemExit) as stop:
            ex_finetune.main([*resume, *named])
        error = capsys.readouterr().err
        assert (
            stop.value.code == 2
            and "old" in error
            and "got a path that does not exist" in error
            and error.count("\n") == 1
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("config_finetune.SCRATCH_EPOCH_STEPS", 3)
        ex_finetune.main([*resume, f"--audio={place / 'audio'}", f"--events={place / 'events.csv'}"])
    rows = (copy / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "0", "1", "2"]
    assert yaml.safe_load((copy / "config.yaml").read_text())["audio"] == str(place / "audio")
    with pytest.raises(SystemExit):  # what is no place still cannot change
        ex_finetune.main([*resume[:1], "--n_epochs=4", f"--audio={place / 'audio'}", "--seed=9"])
    assert "--seed is 9: the run has" in capsys.readouterr().err


def test_a_folder_per_class(own: Path, tmp_path: Path) -> None:
    for recording in read_own_data(own / "audio", own / "events.csv").recordings:
        for label in {event[2] for event in recording.events[:1]}:
            (tmp_path / "clips" / label).mkdir(parents=True, exist_ok=True)
            shutil.copy(recording.path, tmp_path / "clips" / label)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("config_finetune.SCRATCH_EPOCH_STEPS", 3)
        start = ["--pretrained=scratch", "--model_name=fmn04", "--n_epochs=1"]
        ex_finetune.main(["--audio", str(tmp_path / "clips"), "--output_dir", str(tmp_path), *start, *SHORT])
    report = json.loads((tmp_path / "finetune" / "report.json").read_text())
    assert report["clip_labels"] and sum(row["events"] for row in report["classes"]) == report["recordings"]


BAD = [
    ([], "--audio is missing"),
    (["--audio=nowhere"], "--audio is nowhere: expected a folder, got a path that does not exist"),
    (["--audio={own}/audio", "--events=no.csv"], "--events is no.csv: expected a file, got a path that does not exist"),
    (["--audio={own}/audio", "--group_column=x"], "--group_column is x: it is a column of --events"),
    (["--audio={own}/audio", "--val_share=0.5", "--test_share=0.5"], "--test_share is 0.5: with --val_share 0.5"),
    (["--audio={own}/audio", "--evaluate"], "--evaluate needs --checkpoint"),
    (["--audio={own}/audio", "--num_devices=2"], "--num_devices is 2"),
    (["--audio={own}/audio", "--median_window=10001"], "--median_window is 10001"),
    (["--audio={own}/audio", "--pretrained=scratch", "--frozen_epochs=2"], "--frozen_epochs is 2: from scratch"),
    (["--audio={own}/audio", "--events={own}/events.csv", "--group_column=site"], "--group_column is site: "),
    (["--audio={own}/audio", "--events={own}/events.csv", "--model_name=fmn99"], "fmn99"),
    (["--audio={own}/audio"], "nothing says what is heard"),
    (["--audio={own}/audio", "--audoi=x"], "unknown option '--audoi'; did you mean --audio"),
]


@pytest.mark.parametrize(("argv", "message"), BAD)
def test_mistakes_are_one_line(argv: list[str], message: str, own: Path, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        ex_finetune.main([word.format(own=own) for word in argv] + [f"--output_dir={tmp_path}"])
    assert end.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]


def test_a_checkpoint_with_other_classes_is_refused(run: Path, own: Path, tmp_path: Path, capsys) -> None:
    table = tmp_path / "events.csv"
    table.write_text((own / "events.csv").read_text().replace("siren", "owl"))
    here = ["--audio", str(own / "audio"), "--events", str(table), "--output_dir", str(tmp_path)]
    with pytest.raises(SystemExit):
        ex_finetune.main([*here, "--evaluate", f"--checkpoint={run / 'best.ckpt'}"])
    assert "does not know owl; its classes: beeps, hiss, siren" in capsys.readouterr().err
