"""Loading speed on one core: this project's data set against the plain way of loading the same files.

    python benchmarks/data_loading.py [--quick]

Both load batches of strongly labelled clips (10 s, 32 kHz MP3 in HDF5, 8 events, dense pseudo labels) in one process
and one thread, ours with the memory settings of our loader processes. The plain way is that of published training
code, written anew: decode, windowed-sinc resampling in PyTorch, events merged and encoded through pandas, teacher
logits read and turned into probabilities clip by clip.
Then: start-up on 100,000 labelled clips, in a process of its own. The last line is one JSON object.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import math
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import h5py
import numpy as np
import pandas as pd
import soundfile
import soxr
import torch
from timing import machine, seconds
from torch.utils.data import DataLoader, Dataset

from data_util import audio, label_cache
from data_util.audioset import AudioSetStrong
from data_util.hdf5_dataset import PackedRows
from data_util.label_files import STRONG_COLUMNS
from data_util.labels import encode_events, load_vocabulary
from data_util.pack_clip import encode_mp3
from data_util.processes import keep_freed_memory
from data_util.pseudo_labels import compact, compact_error
from data_util.synthetic import make_audio, make_ytid
from json_text import json_text

N_EVENTS = 8
STARTUP_EVENTS = 9  # per clip, about the mean of the published training set
STARTUP_MIDS = 447


def write_clips(folder: Path, n_clips: int) -> None:
    """A data folder with real audio and dense pseudo labels."""
    ytids = [make_ytid(0, "train", i) for i in range(n_clips)]
    rows = []
    with h5py.File(folder / "balanced_train_segments_mp3.hdf", "w") as file:
        packed = PackedRows(file, [f"Y{ytid}" for ytid in ytids])
        for row, ytid in enumerate(ytids):
            wave, events = make_audio(np.random.default_rng(row), n_events=N_EVENTS)
            packed.write(row, encode_mp3(wave), np.zeros(66, np.uint8))
            rows += [f"{ytid}_0\t{a}\t{b}\t{mid}\n" for a, b, mid in events]
    write_table(folder, rows)
    rng = np.random.default_rng(0)
    with h5py.File(folder / "dense.h5", "w") as file:
        file.create_dataset("filenames", data=np.array([ytid.encode() for ytid in ytids]))
        logits = file.create_dataset("strong_logits", (n_clips, 447, 250), np.float16)
        for row in range(n_clips):
            x = np.repeat(rng.normal(-9, 1.5, (447, 1)), 250, axis=1) + 0.3 * rng.normal(size=(447, 250))
            for c in rng.choice(447, 40, replace=False):
                first = rng.integers(0, 200)
                x[c, first : first + rng.integers(10, 150)] += rng.uniform(3, 11)
            logits[row] = x


def write_table(folder: Path, rows: list[str]) -> None:
    """The strong TSV of a data folder."""
    with (folder / "audioset_train_strong.tsv").open("w") as table:
        table.write("\t".join(STRONG_COLUMNS) + "\n")
        table.writelines(rows)


class PlainDataset(Dataset):
    """The same samples, loaded the plain way."""

    def __init__(self, folder: Path) -> None:
        table = pd.read_csv(folder / "audioset_train_strong.tsv", sep="\t")
        table["clip"] = "Y" + table["segment_id"].str.rsplit("_", n=1).str[0]
        self.events = {clip: frame.reset_index(drop=True) for clip, frame in table.groupby("clip")}
        self.audio = h5py.File(folder / "balanced_train_segments_mp3.hdf")
        self.names = [name.decode().removesuffix(".mp3") for name in self.audio["audio_name"][:]]
        self.pseudo = h5py.File(folder / "dense.h5")
        self.row_of = {f"Y{name.decode()}": row for row, name in enumerate(self.pseudo["filenames"][:])}
        self.class_of = load_vocabulary("strong").index_by_mid

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict:
        name = self.names[index]
        return {
            "audio": self.waveform(index),
            "strong": self.encode(self.merge(name)),
            "pseudo": self.teacher(name),
            "clip_id": name,
        }

    def waveform(self, index: int) -> torch.Tensor:
        """Decode, resample, pad."""
        decoded = audio.decode_channels(self.audio["mp3"][index])
        samples, rate = decoded.audio, decoded.sample_rate
        wave = sinc_resample(torch.from_numpy(samples[:, 0]), rate, 16_000)
        return torch.nn.functional.pad(wave, (0, max(0, 160_000 - len(wave))))[:160_000]

    def merge(self, name: str) -> pd.DataFrame:
        """Merge overlapping events of a class: one data frame per class, put together at the end."""
        events = self.events[name]
        frames = []
        for label in events["label"].unique():
            rows = events[events["label"] == label].sort_values("start_time_seconds").reset_index(drop=True)
            spans: list[list[float]] = []
            for _, row in rows.iterrows():
                if spans and row["start_time_seconds"] <= spans[-1][1]:
                    spans[-1][1] = max(spans[-1][1], row["end_time_seconds"])
                else:
                    spans.append([row["start_time_seconds"], row["end_time_seconds"]])
            frames.append(pd.DataFrame(spans, columns=["onset", "offset"]).assign(label=label))
        return pd.concat(frames, ignore_index=True)

    def encode(self, events: pd.DataFrame) -> torch.Tensor:
        """Rows of a data frame onto the label grid."""
        target = np.zeros((447, 250), np.float32)
        for _, row in events.iterrows():
            first, stop = math.floor(25 * row["onset"]), math.ceil(25 * row["offset"])
            target[self.class_of[row["label"]], first:stop] = 1
        return torch.from_numpy(target)

    def teacher(self, name: str) -> torch.Tensor:
        """Teacher probabilities."""
        logits = torch.from_numpy(self.pseudo["strong_logits"][self.row_of[name]])
        return torch.sigmoid(logits.float())


def sinc_resample(wave: torch.Tensor, rate: int, target: int, width: int = 6, beta: float = 14.77) -> torch.Tensor:
    """Resampling by a Kaiser-windowed sinc as a strided convolution."""
    gcd = math.gcd(rate, target)
    old, new = rate // gcd, target // gcd
    cutoff = min(old, new) * 0.99
    half = math.ceil(width * old / cutoff)
    t = torch.arange(-half, half + old, dtype=torch.float64)[None] / old - torch.arange(new)[:, None] / new
    t = (t * cutoff).clamp(-width, width)
    window = torch.special.i0(beta * torch.sqrt(1 - (t / width) ** 2)) / torch.special.i0(torch.tensor(beta))
    kernel = (torch.sinc(t) * window * cutoff / old).float()[:, None]
    padded = torch.nn.functional.pad(wave[None, None], (half, half + old))
    length = math.ceil(new * len(wave) / old)
    return torch.nn.functional.conv1d(padded, kernel, stride=old).transpose(1, 2).reshape(-1)[:length]


def every(function: Callable[[int], object], n: int) -> Callable[[], object]:
    """`function(i)` for i = 0 .. n - 1."""

    def loop() -> None:
        for i in range(n):
            function(i)

    return loop


def pass_seconds(dataset: Dataset, batch_size: int, prepare: Callable[[], object]) -> float:
    """Seconds of the second pass of a loader, in a process of its own, which `prepare` sets up as a loader's worker."""

    def measure(answer: Connection) -> None:
        prepare()
        loader = DataLoader(dataset, batch_size)
        for _ in range(2):
            start = time.perf_counter()
            for _batch in loader:
                pass
        answer.send(time.perf_counter() - start)

    context = multiprocessing.get_context("fork")
    mine, other = context.Pipe()
    process = context.Process(target=measure, args=(other,))
    process.start()
    result = mine.recv()
    process.join()
    return result


def passes(ways: dict[str, tuple[Dataset, Callable[[], object]]], batch_size: int, repeats: int) -> dict[str, float]:
    """Shortest of `repeats` passes of each way, taken in turn."""
    rounds = [
        {name: pass_seconds(data, batch_size, prepare) for name, (data, prepare) in ways.items()}
        for _ in range(repeats)
    ]
    return {name: min(times[name] for times in rounds) for name in ways}


def check_equal(ours: AudioSetStrong, plain: PlainDataset) -> None:
    """The two must load the same thing, or the comparison means nothing."""
    for index in range(4):
        a, b = ours[index], plain[index]
        assert a["clip_id"] == b["clip_id"] and torch.equal(a["strong"].float(), b["strong"])
        torch.testing.assert_close(torch.sigmoid(a["pseudo_logits"].float()), b["pseudo"])
        inner = slice(1000, 159_000)
        error = (a["audio"][inner] - b["audio"][inner]).square().mean() / a["audio"][inner].square().mean()
        assert error < 0.05, "different audio"


def speed(folder: Path, n_clips: int, batch_size: int, repeats: int) -> dict[str, float]:
    """Milliseconds per clip of both ways, and of their parts."""
    write_clips(folder, n_clips)
    compact(folder / "dense.h5", folder / "compact.h5")
    ours = AudioSetStrong(folder, pseudo_labels=folder / "dense.h5")
    small = AudioSetStrong(folder, pseudo_labels=folder / "compact.h5")
    plain = PlainDataset(folder)
    check_equal(ours, plain)
    assert ours.pseudo_labels is not None and small.pseudo_labels is not None
    decoded = audio.decode_channels(ours.mp3(0))
    wave, rate = decoded.audio, decoded.sample_rate
    mono = np.ascontiguousarray(wave[:, 0])
    merged = [plain.merge(name) for name in plain.names]
    parts: dict[str, Callable[[], object]] = {
        "ours_decode": every(lambda i: audio.decode_channels(ours.mp3(i)), n_clips),
        "ours_resample": every(lambda i: soxr.resample(mono, rate, 16_000), n_clips),
        "ours_labels": every(lambda i: encode_events(*ours.events.of(i), n_classes=447), n_clips),
        "ours_pseudo_dense": every(ours.pseudo_labels.read, n_clips),
        "ours_pseudo_compact": every(small.pseudo_labels.read, n_clips),
        "plain_audio": every(plain.waveform, n_clips),
        "plain_merge": every(lambda i: plain.merge(plain.names[i]), n_clips),
        "plain_encode": every(lambda i: plain.encode(merged[i]), n_clips),
        "plain_pseudo": every(lambda i: plain.teacher(plain.names[i]), n_clips),
    }
    ways: dict[str, tuple[Dataset, Callable[[], object]]] = {
        "ours": (ours, keep_freed_memory),
        "ours_compact": (small, keep_freed_memory),
        "plain": (plain, lambda: None),
    }
    times = passes(ways, batch_size, repeats) | seconds(parts, repeats)
    figures = {f"{name}_ms": s / n_clips * 1000 for name, s in times.items()}
    error = compact_error(ours.pseudo_labels, small.pseudo_labels)
    figures |= {f"compact_{name}_error": value for name, value in asdict(error).items()}
    figures["compact_kb_per_clip"] = (folder / "compact.h5").stat().st_size / n_clips / 1000
    figures["mp3_kb_per_clip"] = float(np.mean([len(ours.mp3(i)) for i in range(n_clips)])) / 1000
    return figures


STARTUP = """
import sys, time
from pathlib import Path
from benchmarks.peak_memory import peak_rss
start = time.perf_counter()
from data_util import label_cache
from data_util.audioset import AudioSetStrong
from data_util.samplers import BalancedSampler, strong_weights
from json_text import json_text
imported = time.perf_counter()
label_cache.CACHE_DIR = Path(sys.argv[1]) / "cache"
dataset = AudioSetStrong(sys.argv[1], pseudo_labels=sys.argv[1] + "/compact.h5")
sampler = BalancedSampler(strong_weights(dataset.events), 1000)
next(iter(sampler))
done = time.perf_counter()
peak = peak_rss() / 1e9
print(json_text({"clips": len(dataset), "import_s": imported - start, "s": done - imported, "peak_gb": peak}))
"""


def startup(folder: Path, n_clips: int) -> dict[str, float]:
    """Seconds and memory until the first draw on many clips; first without, then with the cached labels."""
    rng = np.random.default_rng(0)
    ytids = [make_ytid(0, "startup", i) for i in range(n_clips)]
    names = np.array([f"Y{ytid}.mp3".encode() for ytid in ytids], "S20")
    with h5py.File(folder / "balanced_train_segments_mp3.hdf", "w") as file:
        file.create_dataset("audio_name", data=names)
        file.create_dataset("mp3", (n_clips,), h5py.vlen_dtype(np.uint8))  # audio is not touched at the start
        file.create_dataset("target", (n_clips, 66), np.uint8)
    with h5py.File(folder / "compact.h5", "w") as file:
        file.create_dataset("filenames", data=names)
        packed = file.create_dataset("packed_logits", (n_clips,), h5py.vlen_dtype(np.uint8))
        packed.attrs["shape"] = (447, 250)
    mids = load_vocabulary("strong").mids
    onset = rng.uniform(0, 9, n_clips * STARTUP_EVENTS).round(3)
    label = rng.integers(0, STARTUP_MIDS, len(onset))
    rows = [
        f"{ytids[i // STARTUP_EVENTS]}_30000\t{a:.3f}\t{a + 0.8:.3f}\t{mids[c]}\n"
        for i, (a, c) in enumerate(zip(onset.tolist(), label.tolist(), strict=True))
    ]
    write_table(folder, rows)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    runs = []
    for _ in range(2):
        command = [sys.executable, "-c", STARTUP, str(folder)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        runs.append(json.loads(result.stdout))
    return {
        "startup_clips": runs[0]["clips"],
        "startup_import_s": runs[1]["import_s"],
        "startup_first_s": runs[0]["s"],
        "startup_cached_s": runs[1]["s"],
        "startup_peak_gb": max(run["peak_gb"] for run in runs),
    }


def main() -> None:
    """Run the comparison and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3, help="passes over the clips; the fastest counts")
    parser.add_argument("--startup_clips", type=int, default=100_000)
    parser.add_argument("--gpu_clips_per_s", type=float, help="training speed of a GPU: how many cores feed it?")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    args = parser.parse_args()
    if args.quick:
        args.clips, args.batch_size, args.repeats, args.startup_clips = 16, 8, 1, 2000
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        label_cache.CACHE_DIR = Path(folder) / "cache"
        figures = speed(Path(folder), args.clips, args.batch_size, args.repeats)
    with tempfile.TemporaryDirectory() as folder:
        figures |= startup(Path(folder), args.startup_clips)
    figures["speedup"] = figures["plain_ms"] / figures["ours_ms"]
    figures["clips_per_s_per_core"] = 1000 / figures["ours_ms"]
    if args.gpu_clips_per_s:
        figures["cores_for_the_gpu"] = args.gpu_clips_per_s / figures["clips_per_s_per_core"]
    setting = machine() | {"soundfile": soundfile.__version__, "soxr": soxr.__version__}
    setting |= {"clips": args.clips, "batch_size": args.batch_size, "repeats": args.repeats}
    print(", ".join(f"{name} {value}" for name, value in setting.items()))
    for name, value in figures.items():
        print(f"{name:>24}  {value:,.4g}")
    print(json_text({"benchmark": "data_loading", **setting, **{k: round(v, 4) for k, v in figures.items()}}))


if __name__ == "__main__":
    main()
