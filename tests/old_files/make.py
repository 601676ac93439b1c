"""Makes `old_files.tar.xz`, `expected.json` and `command_lines.json`: files that users of commit 3df6b54 may have.

Run it with the code of that commit, in another checkout, one thread:

    git worktree add ../base 3df6b54
    OMP_NUM_THREADS=1 python tests/old_files/make.py ../base /tmp/old

The first argument is the checkout whose code writes the files, the second an empty folder to write them in. The
archive is never made again with newer code: it would then no longer say what old files are like.

How each file of the archive was made (`fmn01`, the smallest backbone; paths from the folder of work):

| file | made by |
| --- | --- |
| `audio/*.wav`, `labels/*` | `_recordings` here: tones, and labels that fit them |
| `data/*_mp3.hdf` | `python -m data_util.pack`; `data/*.tsv`, `data/eval_durations.csv` are copies of the labels |
| `runs/strong/` | `ex_audioset_strong.py`, 1 epoch with `--ema`, to its end |
| `runs/stopped/` | `ex_audioset_strong.py`, stopped by SIGINT in the middle of its second epoch of two |
| `runs/own/` | `ex_finetune.py`, two own classes, from `runs/strong/best.ckpt` |
| `teacher.hdf` | `make_pseudo_labels.py`; its logits then rounded and held, so that they compress |
| `compact.hdf` | `python -m data_util.pseudo_labels compact teacher.hdf compact.hdf` |
| `eval.hdf` | `make_pseudo_labels.py --split=eval`, then logits that fit the labels in part |
| `scores.hdf`, `scores/*.tsv` | `python -m helpers.psds --scores eval.hdf --save_hdf5 ... --save_tsv ...` |
| `half_done/` | `inference.py` over `audio/`, killed when it wrote the results of its third file |
| `export/*.onnx` | `export.py --format onnx` of `runs/strong/best.ckpt` |
| `configs/*.yaml` | `config.write_yaml` of the options of each `ex_*` script |

Trained weights do not compress. In checkpoints, `_compressible` replaces all large tensors by values that repeat;
names, shapes and all else stay as the old code wrote them. Then the old code evaluates, resumes and so on with copies
of these files, and what it gave is `expected.json` (scores: `expected.npz`).
"""

from __future__ import annotations

import csv
import importlib
import io
import itertools
import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import recipe
import use

HERE = Path(__file__).resolve().parent
PLAIN = ["--num_workers=0", "--logger=none", "--accelerator=cpu", "--precision=32-true"]
SMALL = [*PLAIN, "--batch_size=1", "--accumulate_grad_batches=1", "--check_val_every_n_epoch=1", "--mel_jitter"]
STRONG = ["--data_dir=data", "--checkpoint=start.pt", f"--model_name={recipe.MODEL}", *SMALL, "--max_lr=1e-3"]
CLASSES = {"/m/0gvgw0": 500, "/m/07q2z82": 2000}  # two classes of AudioSet Strong as tones
LABELS = dict(zip(CLASSES, ("low", "high"), strict=True))  # what the own annotations call them
NAMES = [f"tone{i:07d}" for i in range(6)]  # as long as YouTube's ids
N_TRAIN = 4
# Stops the script when it has two steps of its second epoch behind it.
STOPPER = """
import os, signal, sys, runpy
sys.path.insert(0, {root!r})
from helpers.lit_module import SEDModule
def on_train_batch_end(self, outputs, batch, batch_idx):
    if self.trainer.current_epoch == 1 and batch_idx == 1:
        os.kill(os.getpid(), signal.SIGINT)
SEDModule.on_train_batch_end = on_train_batch_end
sys.argv = {argv!r}
runpy.run_path(os.path.join({root!r}, sys.argv[0]), run_name="__main__")
"""
# Dies without a word when the third file is to be noted as done.
KILLER = """
import os, sys, runpy
sys.path.insert(0, {root!r})
from helpers.journal import Journal
add = Journal.add
def dying(self, stem, row, files):
    if stem == {stem!r}:
        os._exit(9)
    add(self, stem, row, files)
Journal.add = dying
sys.argv = {argv!r}
runpy.run_path(os.path.join({root!r}, sys.argv[0]), run_name="__main__")
"""
# Gives the fine-tuned checkpoint, whose weights are others now, thresholds that its scores cross.
DECISIONS = """
from pathlib import Path
import numpy as np
from helpers.detector import Detector
from helpers.tuning import Tuning, store_tuning
file = Path("runs/own/best.ckpt")
detector = Detector(checkpoint=file)
files = sorted(Path("audio").glob("*.wav"))
scores = np.concatenate([detector.detect(path, keep_scores=True).scores for path in files], 1)
store_tuning(file, Tuning(tuple(np.round((scores.max(1) + scores.min(1)) / 2, 3).tolist()), (5, 7)))
"""
HALF_DONE = ["--checkpoint=runs/own/best.ckpt", "--audio_file=audio", "--out=half_done", "--skip_existing"]
HALF_DONE += ["--format", "tsv", "json", "--num_readers=1"]


def _recordings() -> None:
    """Six recordings of 2 s: `tone0000000.wav` ... with one or two tones each, and their labels in every form."""
    import soundfile

    for folder in ("audio", "labels", "data"):
        Path(folder).mkdir()
    mids = list(CLASSES)
    rows, own = [], []
    for i, name in enumerate(NAMES):
        events = [(0.2 + 0.1 * i, 0.9 + 0.1 * i, mids[i % 2]), (1.5, 1.9, mids[(i + 1) % 2])][: 2 if i % 3 else 1]
        audio = recipe.tones([(a, b, CLASSES[mid]) for a, b, mid in events], 2.0)
        soundfile.write(f"audio/{name}.wav", audio, recipe.RATE, subtype="PCM_16")
        rows.append([(f"{name}_0", f"{a:.1f}", f"{b:.1f}", mid) for a, b, mid in events])
        split = ("train", "train", "train", "val", "val", "test")[i]
        own += [
            (f"{name}.wav", f"{a:.1f}", f"{b:.1f}", "low" if mid == mids[0] else "high", split) for a, b, mid in events
        ]
    header = ("segment_id", "start_time_seconds", "end_time_seconds", "label")
    _table("labels/audioset_train_strong.tsv", "\t", [header, *itertools.chain(*rows[:N_TRAIN])])
    _table("labels/audioset_eval_strong.tsv", "\t", [header, *itertools.chain(*rows[N_TRAIN:])])
    _table("labels/eval_durations.csv", ",", [(f"Y{name}", "2.0") for name in NAMES[N_TRAIN:]])
    _table("labels/events.csv", ",", [("filename", "onset", "offset", "label", "split"), *own])
    for name in ("audioset_train_strong.tsv", "audioset_eval_strong.tsv", "eval_durations.csv"):
        shutil.copy(f"labels/{name}", f"data/{name}")


def _table(path: str, delimiter: str, rows: list[Any]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows(rows)


class Maker:
    """Runs commands of a checkout; the working folder is where the files go."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, command: str, *words: str) -> None:
        """Run a script or module in a process of its own."""
        program = [str(self.root / command)] if command.endswith(".py") else ["-m", command]
        subprocess.run([sys.executable, *program, *words], check=True, env=self._env())

    def run_text(self, text: str, argv: list[str], code: int, **values: str) -> None:
        """Run one of the programs above; it must end with that code."""
        program = text.format(root=str(self.root), argv=argv, **values)
        done = subprocess.run([sys.executable, "-c", program], env=self._env())
        assert done.returncode == code, done.returncode

    def _env(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.root), "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}

    def make(self) -> None:
        """Everything of the table above."""
        _recordings()
        for split, name in (("train", "balanced_train"), ("eval", "eval")):
            labels = f"--labels=labels/audioset_{split}_strong.tsv"
            self.run("data_util.pack", "--audio=audio", labels, f"--out=data/{name}_segments_mp3.hdf", "--workers=1")
        self._start()
        self.run("ex_audioset_strong.py", *STRONG, "--n_epochs=1", "--ema=0.5", "--experiment_name=strong")
        stopped = ["ex_audioset_strong.py", *STRONG, "--n_epochs=2", "--experiment_name=stopped"]
        self.run_text(STOPPER, stopped, 130)
        for file in (*Path("runs/strong").glob("*.ckpt"), *Path("runs/stopped").glob("*.ckpt")):
            _compressible(file)
        own = ["--audio=audio", "--events=labels/events.csv", "--n_epochs=1", "--n_bootstrap=100"]
        own += ["--experiment_name=own", "--checkpoint=runs/strong/best.ckpt", f"--model_name={recipe.MODEL}"]
        self.run("ex_finetune.py", *own, *PLAIN, "--batch_size=8")
        for file in Path("runs/own").glob("*.ckpt"):
            _compressible(file)
        subprocess.run([sys.executable, "-c", DECISIONS], check=True, env=self._env())
        self._pseudo_labels()
        self.run_text(KILLER, ["inference.py", *HALF_DONE], 9, stem=NAMES[2])
        export = ["--checkpoint=runs/strong/best.ckpt", "--format", "onnx", "--out=export"]
        self.run("export.py", *export, f"--audio_file=audio/{NAMES[0]}.wav")
        _compressible_tables(Path(f"export/{recipe.MODEL}.onnx"))
        sys.path.insert(0, str(self.root))
        _configs()

    def _start(self) -> None:
        """Weights to start from, as a plain state dict."""
        program = f"import models, torch; torch.save(models.create_model('{recipe.MODEL}').state_dict(), 'start.pt')"
        subprocess.run([sys.executable, "-c", program], check=True, env=self._env())
        _compressible(Path("start.pt"))

    def _pseudo_labels(self) -> None:
        import h5py

        words = ["--data_dir=data", "--teachers=runs/strong/best.ckpt", "--batch_size=2", "--num_workers=0"]
        for split, name in (("train", "teacher.hdf"), ("eval", "eval.hdf")):
            self.run("make_pseudo_labels.py", *words, "--accelerator=cpu", f"--split={split}", f"--out={name}")
        with h5py.File("teacher.hdf", "r+") as file:
            logits = file["strong_logits"][:].astype(np.float32)
            file["strong_logits"][:] = np.repeat(np.round(2 * logits[:, :, ::50] - 4) / 2, 50, axis=2)
        with h5py.File("eval.hdf", "r+") as file:
            file["strong_logits"][:] = _fitting_logits(file["strong_logits"].shape)
        self.run("data_util.pseudo_labels", "compact", "teacher.hdf", "compact.hdf", "--workers=1")
        self.run("helpers.psds", *PSDS, "--scores=eval.hdf", "--save_hdf5=scores.hdf", "--save_tsv=scores")


PSDS = ["--ground_truth=labels/audioset_eval_strong.tsv", "--durations=labels/eval_durations.csv"]


def _fitting_logits(shape: tuple[int, ...]) -> np.ndarray:
    """Logits of the evaluation clips: true events with ragged ends, and false ones between their scores."""
    logits = np.full(shape, -6.0, np.float32)
    logits[:, :, 5:9] = np.linspace(-3, 1, shape[1], dtype=np.float32).round(1)[None, :, None]
    logits[:, :2] = -6.0
    logits[0, 1, 15:32], logits[1, 1, 0:10], logits[1, 1, 38:47] = 2.0, 1.0, -1.0  # found, false, found later
    logits[0, 0, 38:47], logits[0, 0, 5:12], logits[1, 0, 17:35] = 1.5, 0.5, -2.0
    return logits


def _compressible(file: Path) -> None:
    """Give the large tensors of a checkpoint values that repeat; its names, shapes and types stay."""
    import torch

    content = torch.load(file, map_location="cpu", weights_only=True)

    def changed(value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, torch.Tensor):
            if value.ndim == 0 or value.numel() < 32 or not value.is_floating_point():
                return value
            is_state = "optimizer_states" not in path
            return torch.from_numpy(recipe.pattern(path[-1], tuple(value.shape), is_state))
        if isinstance(value, dict):
            for key in value:
                value[key] = changed(value[key], (*path, str(key)))
        if isinstance(value, list):
            value[:] = [changed(item, (*path, str(i))) for i, item in enumerate(value)]
        return value

    torch.save(changed(content, ()), file)


def _compressible_tables(file: Path) -> None:
    """Round the tables of the Fourier transform and the mel filters in an exported network to 8 significant bits."""
    import onnx

    network = onnx.load(str(file))
    for table in network.graph.initializer:
        if ".mel." in table.name and table.data_type == onnx.TensorProto.FLOAT:
            values = np.frombuffer(table.raw_data, np.uint32)
            table.raw_data = (values & np.uint32(0xFFFF0000)).tobytes()
    onnx.save(network, str(file))


def _configs() -> None:
    """The options of each experiment, some of them changed, as a run writes them; and what they are."""
    folder = Path("configs")
    folder.mkdir()
    options = {}
    shared = {"seed": 7, "ema": 0.25, "num_workers": 3, "logger": "csv", "seq_model_type": "gru", "seq_model_dim": 96}
    loud = {"mixstyle_p": 0.2, "freq_warp_p": 0.1, "wavmix_p": 0.25, "mel_jitter": False, "bn_momentum": 0.05}
    teacher = {"teacher_predictions": "configs/logits.npy", "teacher_names": "configs/names.csv"}
    for name in ("logits.npy", "names.csv", "labels.hdf", "teacher.ckpt"):
        (folder / name).touch()
    distilled = {"pseudo_labels_file": "configs/labels.hdf", "distillation_loss_weight": 0.9}
    strong = {"data_dir": "data", **distilled, "use_balanced_sampler": True}
    online = {"data_dir": "data", "online_distillation_strong_ratio": 0.4, "as_weak_mixup_alpha": 0.2}
    weak = {"data_dir": "data", **teacher, "distillation_loss_weight": 0.8}
    office = {"task_path": "data", "threshold": 0.4, "lr_decay": 0.95}
    own = {"audio": "audio", "events": "labels/events.csv", "group_column": "split", "patience": 3}
    rows: dict[str, tuple[str, str, dict[str, Any]]] = {
        "ex_audioset_strong": ("config", "StrongOptions", strong),
        "ex_audioset_strong_online_distillation": ("config", "OnlineOptions", online),
        "ex_audioset_weak": ("config", "WeakOptions", weak),
        "ex_dcase2016task2": ("config_downstream", "DcaseOptions", office),
        "ex_downstream": ("config_clipwise", "DownstreamOptions", {"task": "esc50", "data_dir": "data", "fold": "2"}),
        "ex_finetune": ("config_finetune", "FinetuneOptions", own),
    }
    import config

    for script, (module, name, values) in rows.items():
        cls = getattr(importlib.import_module(module), name)
        known = set(cls.__dataclass_fields__)
        values = {**{k: v for k, v in {**shared, **loud}.items() if k in known}, **values}
        built = config.build(cls, values)
        config.write_yaml(built, folder / f"{script}.yaml")
        options[script] = config.as_dict(built)
    (folder / "options.json").write_text(json.dumps(options, indent=1, sort_keys=True), encoding="utf-8")


# ---- packing, and what the old code makes of its files --------------------------------------------------------

LEFT_OUT = {".png", ".html", ".pt", "runs/own/last.ckpt"}  # nobody reads them back, or like another one


def pack(archive: Path) -> None:
    """A tar of the working folder; with the times of change in nanoseconds, which the journal of an inference holds."""
    tar = io.BytesIO()
    files = [path for path in Path().rglob("*") if path.is_file() and not LEFT_OUT & {path.suffix, path.as_posix()}]
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT) as file:
        for path in sorted(files, key=lambda path: (path.suffix, path)):
            about = tarfile.TarInfo(path.as_posix())
            about.size, about.pax_headers = path.stat().st_size, {use.MOMENT: str(path.stat().st_mtime_ns)}
            with path.open("rb") as content:
                file.addfile(about, content)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 26}]
    archive.write_bytes(lzma.compress(tar.getvalue(), filters=filters))


def main(code: Path, work: Path) -> None:
    """Make the files in `work`, pack them, and note what the old code gets out of a copy of them."""
    work.mkdir(parents=True)
    os.chdir(work)
    Maker(code).make()
    pack(HERE / "old_files.tar.xz")
    note(code, work.with_name(f"{work.name}-used"))


def note(code: Path, work: Path) -> None:
    """Write `expected.json`, `expected.npz` and `command_lines.json`: what the code gets out of the archive."""
    use.unpack(HERE / "old_files.tar.xz", work)
    os.chdir(work)
    sys.path.insert(0, str(code))
    commands = {command: recipe.command_line(code, command) for command in (*recipe.SCRIPTS, *recipe.MODULES)}
    (HERE / "command_lines.json").write_text(_one_option_a_line(commands), encoding="utf-8")
    figures, arrays = use.all_figures(code)
    (HERE / "expected.json").write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    np.savez_compressed(HERE / "expected.npz", **arrays)


def _one_option_a_line(commands: dict[str, dict[str, Any]]) -> str:
    """JSON of the command lines in which differences are easy to see."""
    blocks = []
    for command, options in sorted(commands.items()):
        rows = [f"  {json.dumps(name)}: {json.dumps(about, sort_keys=True)}" for name, about in sorted(options.items())]
        blocks.append(f" {json.dumps(command)}: {{\n" + ",\n".join(rows) + "\n }")
    return "{\n" + ",\n".join(blocks) + "\n}\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
