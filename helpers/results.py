"""Everything that is written for one audio, and the table of a run over many."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from atomic import naming
from errors import UserError
from helpers.audio_reader import read_blocks
from helpers.cells import safe_cells
from helpers.classes import ClassName
from helpers.clips import cut_clips
from helpers.detection import Detection, ScoreSink
from helpers.event_files import FORMATS, Contents, best_tags, field, file_names, write_events
from helpers.outputs import OutputFolder, TrueEvents, TrueEventsOf
from helpers.pipeline import Job
from helpers.report import CurveStore, ReportPages
from helpers.score_files import SCORE_FORMATS, ScoreFile

if TYPE_CHECKING:
    from helpers.detector import Detector, Failure

N_TAGS = 10
ALL_FORMATS = (*FORMATS, *SCORE_FORMATS)


@dataclass
class ResultWriter:
    """Writes what was asked for, file by file.

    Arguments:
        folder: where to.
        formats: of `ALL_FORMATS`.
        detector: what finds the events.
        tags: list the most probable tags as well.
        plot: draw a picture.
        clips: folder for the events as audio files (those at the highest threshold), or None.
        true_events: annotations to draw, by the name of their audio, or None.
        report: pages to add each audio to, or None.
    """

    folder: OutputFolder
    formats: Sequence[str]
    detector: Detector
    tags: bool = False
    plot: bool = False
    clips: OutputFolder | None = None
    true_events: TrueEventsOf | None = None
    report: ReportPages | None = None

    def __post_init__(self) -> None:
        self._open: dict[Job, tuple[ExitStack, list[ScoreFile]]] = {}
        self._failed: dict[Job, Exception] = {}
        self._curves: dict[Job, CurveStore] = {}
        self.thresholds = list(self.detector.decoding.thresholds)

    def names(self, stem: str) -> list[str]:
        """The files that an audio will get."""
        names = [n for f in self.formats if f in FORMATS for n in file_names(f, stem, self.thresholds)]
        names += [SCORE_FORMATS[f][0].format(stem) for f in self.formats if f in SCORE_FORMATS]
        names += [f"{stem}.tags.tsv"] if self.tags else []
        return names + ([f"{stem}.png"] if self.plot else [])

    def sink(self, job: Job) -> ScoreSink | None:
        """Open the score files of a job; gives what takes its scores. What goes wrong here, `write` raises."""
        wanted = [SCORE_FORMATS[f] for f in self.formats if f in SCORE_FORMATS]
        if not wanted and self.report is None:
            return None
        curves = CurveStore(len(self.detector.classes))
        self._curves[job] = curves
        try:
            with ExitStack() as stack:
                paths = [self.folder.path / name.format(job.key) for name, _ in wanted]
                parts = [stack.enter_context(self.folder.staged(name.format(job.key))) for name, _ in wanted]
                files = [make(part, self.detector.classes) for part, (_, make) in zip(parts, wanted, strict=True)]
                self._open[job] = stack.pop_all(), files
        except (UserError, OSError) as error:
            self._failed[job] = error
            return None

        def take(scores: np.ndarray) -> None:
            for file, part, path in zip(files, parts, paths, strict=True):
                with naming(part, path):
                    file.add(scores)
            if self.report is not None:
                curves.add(scores)

        return take

    def discard(self, job: Job) -> None:
        """Drop the score files of a job that failed."""
        self._curves.pop(job, None)
        self._failed.pop(job, None)
        if job in self._open:
            stack, files = self._open.pop(job)
            for file in files:
                with suppress(OSError):  # a full disk, perhaps
                    file.close(0.0)
            stack.__exit__(InterruptedError, InterruptedError(), None)  # as `staged` ends when its block fails

    def close(self) -> None:
        """Drop what an interrupted run left open."""
        for job in list(self._open):
            self.discard(job)

    def end(self) -> list[Path]:
        """Finish what spans all jobs: the report; returns its pages."""
        if self.report is None:
            return []
        self.report.close()
        return self.report.written

    def write(self, job: Job, detection: Detection) -> list[Path]:
        """Write all files of a job; returns them."""
        if job in self._failed:
            raise self._failed.pop(job)
        stem = str(job.key)
        tags = best_tags(self.detector.tag_names(detection), detection.tags, len(detection.tags)) if self.tags else []
        contents = Contents(job.clip, detection, tags[:N_TAGS], job.recording)
        if job in self._open:
            stack, files = self._open.pop(job)
            with stack:
                for file in files:
                    file.close(detection.duration)
        written = [self.folder.path / SCORE_FORMATS[f][0].format(stem) for f in self.formats if f in SCORE_FORMATS]
        for name in self.formats:
            if name in FORMATS:
                written += write_events(self.folder, name, stem, contents)
        if self.tags:
            written.append(self.folder.write_text(f"{stem}.tags.tsv", _tag_table(tags)))
        if self.plot:
            written.append(self._plot(job, detection))
        curves = self._curves.pop(job, None)
        if self.report is not None and curves is not None:
            true = self._true_events(job, detection)
            self.report.add(job.source, detection, curves, tags[:N_TAGS], true, job.clip)
        if self.clips is not None:
            table = list(detection.tables.values())[-1]
            written += cut_clips(self.clips, detection.name, stem, table, detection.channel)
        return written

    def _plot(self, job: Job, detection: Detection) -> Path:
        from helpers.plots import log_mel, plot_events

        spectrogram = log_mel(read_blocks(job.source, job.channel), detection.duration)
        true = self._true_events(job, detection)
        tables = [(f"score above {name}", table) for name, table in detection.tables.items()]
        return self.folder.write(
            f"{job.key}.png", lambda path: plot_events(path, spectrogram, detection.duration, tables, true, job.clip)
        )

    def _true_events(self, job: Job, detection: Detection) -> TrueEvents | None:
        if self.true_events is None:
            return None
        names_by_mid = {name.mid: name.label for name in detection.classes if name.mid}
        return self.true_events.get(job.clip, TrueEvents([], [], [])).named(names_by_mid)


def _tag_table(tags: Sequence[tuple[ClassName, float]]) -> str:
    rows = [f"{field(name.label)}\t{field(name.mid)}\t{p:.4f}\n" for name, p in tags]
    return "".join(["label\tmid\tprobability\n", *rows])


class Summary:
    """One row per audio, for the table of a run; small, so that runs of any number of files fit."""

    def __init__(self, thresholds: Sequence[str]) -> None:
        self.thresholds = list(thresholds)
        self.rows: dict[str, list[str]] = {}
        self.failures: list[tuple[str, str]] = []
        self.notes: list[tuple[str, str]] = []
        self.classes: Counter[str] = Counter()
        self.seconds = 0.0
        self.n_done = self.n_skipped = 0

    @property
    def columns(self) -> list[str]:
        """Header of the table; `results` is what the names of an audio's files begin with."""
        return [
            "file",
            "results",
            "status",
            "seconds",
            *(f"events_above_{t}" for t in self.thresholds),
            "most",
            "error",
        ]

    def add(self, stem: str, result: Detection | Failure) -> None:
        """Take the result of one audio."""
        if not isinstance(result, Detection):
            self.failures.append((result.name, str(result.error)))
            blanks = [""] * (len(self.thresholds) + 2)
            self.rows[stem] = [result.name, stem, "failed", *blanks, str(result.error)]
            return
        strictest = list(result.tables.values())[-1]
        counts = Counter(result.classes[c].label for c in strictest.cls.tolist())
        self.classes += counts
        self.seconds += result.duration
        self.n_done += 1
        most = counts.most_common(1)[0][0] if counts else ""
        numbers = [str(len(table)) for table in result.tables.values()]
        status = "cut off" if any("cut off" in note for note in result.notes) else "done"
        if result.notes:
            self.notes.append((result.name, "; ".join(result.notes)))
        self.rows[stem] = [result.name, stem, status, f"{result.duration:.3f}", *numbers, most, "; ".join(result.notes)]

    def skip(self, stem: str, row: list[str]) -> None:
        """Take the row of an audio that an earlier run has finished."""
        self.n_skipped += 1
        self.rows[stem] = row

    def write(self, path: Path) -> None:
        """Write the table as CSV, in the order in which the rows were begun."""
        # The names of failed files may be no Unicode.
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(self.columns)
            writer.writerows(
                safe_cells(row) for row in self.rows.values() if row
            )  # an interrupted run has not got to all
