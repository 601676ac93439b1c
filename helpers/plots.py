"""Pictures of what was heard: log-mel spectrogram above, events as lanes beneath, one time axis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from helpers.audio_reader import SAMPLE_RATE
from helpers.events import EventTable
from helpers.outputs import TrueEvents
from printable import printable

N_FFT, HOP, N_MELS = 1024, 160, 128
MAX_COLUMNS = 2000  # of the spectrogram: more than any screen shows
DYNAMIC_RANGE = 80.0  # dB below the loudest cell
QUIETEST = DYNAMIC_RANGE - 100.0  # dB, what the loudest cell counts as at least, so that digital silence is dark
MAX_LANES = 24
# Okabe and Ito's palette: told apart with every kind of colour vision. Detected events come in shades of one blue.
TRUE_COLOUR, TRUE_EDGE = "#E69F00", "#7A5200"
DETECTED_SHADES = {1: ("#2171B2",), 2: ("#9ECAE1", "#08519C"), 3: ("#C6DBEF", "#6BAED6", "#08519C")}
TICKS_HZ = (100, 250, 500, 1000, 2000, 4000, 8000)


def hz_to_mel(hz: np.ndarray | float) -> np.ndarray:
    """Mel of a frequency in Hz (Kaldi's formula)."""
    return 1127.0 * np.log1p(np.asarray(hz) / 700.0)


def mel_bank(n_mels: int = N_MELS, n_fft: int = N_FFT, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Triangular mel filters over the whole band, float32 [n_mels, n_fft // 2 + 1]."""
    edges = np.linspace(0, hz_to_mel(sample_rate / 2), n_mels + 2)[:, None]
    mel = hz_to_mel(np.linspace(0, sample_rate / 2, n_fft // 2 + 1))
    rising, falling = (mel - edges[:-2]) / (edges[1:-1] - edges[:-2]), (edges[2:] - mel) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def log_mel(blocks: Iterable[np.ndarray], duration: float, max_columns: int = MAX_COLUMNS) -> np.ndarray:
    """Spectrogram for looking at, in dB below its loudest cell, float32 [N_MELS, columns] in [-80, 0].

    Arguments:
        blocks: the samples at 16 kHz, in pieces (memory stays bounded for hours of audio).
        duration: of all of them, seconds.
        max_columns: frames are averaged in power until there are no more columns than this.
    """
    n_frames = max(1, int(np.ceil(duration * SAMPLE_RATE / HOP)))
    n_columns = min(n_frames, max_columns)
    power, count = np.zeros((N_MELS, n_columns), np.float64), np.zeros(n_columns)
    window, bank = np.hanning(N_FFT).astype(np.float32), mel_bank()
    kept: np.ndarray = np.zeros(N_FFT // 2, np.float32)
    first = 0
    for block in _with_silence_after(blocks):
        kept = np.concatenate([kept, block])
        n_new = max(0, (len(kept) - N_FFT) // HOP + 1)
        if n_new == 0:
            continue
        frames = np.lib.stride_tricks.sliding_window_view(kept, N_FFT)[: n_new * HOP : HOP] * window
        mel = bank @ (np.abs(np.fft.rfft(frames, axis=1)) ** 2).T
        column = np.minimum((first + np.arange(n_new)) * n_columns // n_frames, n_columns - 1)
        starts = np.flatnonzero(np.diff(column, prepend=-1))
        power[:, column[starts]] += np.add.reduceat(mel, starts, axis=1)
        count[column[starts]] += np.diff(np.append(starts, n_new))
        kept, first = kept[n_new * HOP :], first + n_new
    decibel = 10 * np.log10(power / np.maximum(count, 1) + 1e-10)
    loudest = max(decibel.max(), QUIETEST)
    return np.clip(decibel - loudest, -DYNAMIC_RANGE, 0).astype(np.float32)


def _with_silence_after(blocks: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    for block in blocks:
        for i in range(0, len(block), 10 * SAMPLE_RATE):  # the frames of 10 s take 4 MB
            yield block[i : i + 10 * SAMPLE_RATE]
    yield np.zeros(N_FFT // 2, np.float32)


def plot_events(
    path: Path,
    spectrogram: np.ndarray,
    duration: float,
    tables: Sequence[tuple[str, EventTable]],
    true_events: TrueEvents | None = None,
    title: str = "",
) -> None:
    """Draw the spectrogram and, on the same time axis, one lane per class with its events.

    Arguments:
        path: picture to write; the ending chooses the format.
        spectrogram: of `log_mel`.
        duration: seconds.
        tables: (legend text, events) from the lowest threshold to the highest, drawn over each other.
        true_events: drawn above the detected ones of their class.
        title: usually the file name.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lanes, n_left_out = choose_lanes([table for _, table in tables], true_events)
    lane_inches = 0.34 * max(1, len(lanes)) + 0.5
    figure = Figure(figsize=(12, 3.2 + lane_inches), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3.0, lane_inches])
    _draw_spectrogram(top, spectrogram, duration)
    _draw_lanes(bottom, lanes, tables, true_events)
    _write_title(figure, printable(title))
    if n_left_out:
        bottom.annotate(
            f"and {n_left_out} more classes", (0, 0), (0, -38), "axes fraction", "offset points", fontsize=8
        )
    bottom.set_xlim(0, duration)
    bottom.set_xlabel("time (s)")
    figure.savefig(path)


def choose_lanes(tables: Sequence[EventTable], true_events: TrueEvents | None) -> tuple[list[str], int]:
    """Labels to draw, by first onset, and how many are left out: true ones first, then the longest and surest."""
    weight: dict[str, float] = {}
    onset: dict[str, float] = {}
    for table in tables:
        for event in table:
            weight[event.label] = weight.get(event.label, 0) + (event.offset - event.onset) * event.mean_score
            onset[event.label] = min(onset.get(event.label, event.onset), event.onset)
    if true_events is not None:
        for start, label in zip(true_events.onset, true_events.label, strict=True):
            weight[label] = float("inf")
            onset[label] = min(onset.get(label, start), start)
    kept = sorted(weight, key=lambda label: -weight[label])[:MAX_LANES]
    return sorted(kept, key=lambda label: (onset[label], label)), len(weight) - len(kept)


def _write_title(figure, title: str) -> None:  # type: ignore[no-untyped-def]
    """Left of the legend; of a title that would reach it the beginning and the end, which tell files apart."""
    (legend,) = figure.legends
    text = figure.suptitle("", fontsize=12, x=0.01, ha="left")
    room = 0.96 * figure.bbox.width - legend.get_window_extent().width
    for kept in range(len(title), 1, -1):
        short = title if kept == len(title) else f"{title[: kept // 2]}…{title[len(title) - (kept - kept // 2) :]}"
        text.set_text(short.replace("$", r"\$"))
        if text.get_window_extent().width <= room:
            break


def _draw_spectrogram(axes, spectrogram: np.ndarray, duration: float) -> None:  # type: ignore[no-untyped-def]
    highest = float(hz_to_mel(SAMPLE_RATE / 2))
    image = axes.imshow(
        spectrogram,
        origin="lower",
        aspect="auto",
        extent=(0, duration, 0, highest),
        cmap="magma",
        vmin=-DYNAMIC_RANGE,
        vmax=0,
        interpolation="nearest",
    )
    axes.set_yticks(hz_to_mel(np.array(TICKS_HZ)), [f"{hz / 1000:g}" for hz in TICKS_HZ])
    axes.set_ylabel("frequency (kHz)")
    axes.figure.colorbar(image, ax=axes, pad=0.01, aspect=18).set_label("level (dB)")


def _draw_lanes(  # type: ignore[no-untyped-def]
    axes, lanes: list[str], tables: Sequence[tuple[str, EventTable]], true_events: TrueEvents | None
) -> None:
    row = {label: i for i, label in enumerate(lanes)}
    both = true_events is not None
    top, height = (0.02, 0.4) if both else (-0.34, 0.68)
    shades = DETECTED_SHADES[min(max(len(tables), 1), 3)]
    for i, (legend, table) in enumerate(tables):
        shade = shades[min(i, 2)]
        for label in lanes:
            spans = [(e.onset, e.offset - e.onset) for e in table if e.label == label]
            axes.broken_barh(spans, (row[label] + top, height), facecolors=shade, linewidth=0)
        axes.barh(0, 0, color=shade, label=legend)
    if true_events is not None:
        for onset, offset, label in zip(true_events.onset, true_events.offset, true_events.label, strict=True):
            if label in row:
                place = ([(onset, offset - onset)], (row[label] - 0.42, 0.4))
                axes.broken_barh(*place, facecolors=TRUE_COLOUR, edgecolors=TRUE_EDGE, hatch="///", linewidth=0.6)
        axes.barh(0, 0, color=TRUE_COLOUR, edgecolor=TRUE_EDGE, hatch="///", label="true")
    shown = map(printable, lanes)
    names = [label if len(label) <= 34 else label[:33] + "…" for label in shown]
    axes.set_yticks(range(len(lanes)), [name.replace("$", r"\$") for name in names])
    axes.set_ylim(max(len(lanes), 1) - 0.5, -0.5)
    axes.hlines(np.arange(len(lanes) + 1) - 0.5, 0, 1, transform=axes.get_yaxis_transform(), color="#d9d9d9", lw=0.6)
    axes.grid(axis="x", color="#d9d9d9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if not lanes:
        axes.text(0.5, 0.5, "no events", transform=axes.transAxes, ha="center", va="center", color="#555555")
    handles, legends = axes.get_legend_handles_labels()
    axes.figure.legend(handles, legends, loc="outside upper right", ncols=len(handles), frameon=False, fontsize=9)
