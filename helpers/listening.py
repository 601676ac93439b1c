"""Running a detector over one audio, many of them, or a stream, and saying on the screen what happens."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import signals
from errors import UserError, describe
from helpers.audio_reader import SAMPLE_RATE
from helpers.detection import CLASS_THRESHOLDS, Detection
from helpers.detector import Detector, Failure
from helpers.event_files import Contents, best_tags
from helpers.events import FRAME_RATE
from helpers.inputs import SUMMARY
from helpers.joined import COUNTS_FILE, EVENTS_FILE, JoinedEvents
from helpers.journal import Journal
from helpers.outputs import format_table
from helpers.pipeline import Job
from helpers.progress import Progress, clock
from helpers.results import N_TAGS, ResultWriter, Summary
from helpers.streaming import clock_time
from json_text import json_text
from printable import printable

if TYPE_CHECKING:
    from helpers.streaming import EventStream, StreamEvent

PRINTED_ROWS = 60  # per threshold on the screen; the files hold all
PRINTED_FAILURES = 20
SUMMARY_FILE = f"{SUMMARY}.csv"
EXIT_BAD_FILES = 3
# Trouble with the name or place of one file; any other, such as a full disk, would meet the next file, too.
_OF_ONE_FILE = {errno.EACCES, errno.EPERM, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL}


def listen_to_one(detector: Detector, writer: ResultWriter, job: Job) -> int:
    """One audio: its events on the screen and in files. A bad file is a mistake like any other (UserError)."""
    _refuse_foreign_files(writer, [job])
    progress = Progress({job.key: _size(job)})
    results = detector.detect_many([job], make_sink=writer.sink, on_window=_reporter(progress))
    try:
        _, result = next(results)
        if isinstance(result, Failure):
            raise result.error
    except BaseException:
        writer.close()
        raise
    finally:
        progress.clear()
    print_notes(result.name, result.notes)
    for name, table in result.tables.items():
        above = "the thresholds of their classes" if name == CLASS_THRESHOLDS else name
        print(f"\n{printable(result.name)} ({result.duration:.2f} s): {len(table)} events above {above}")
        print(format_table(table, PRINTED_ROWS))
    if writer.tags:
        tags = best_tags(detector.tag_names(result), result.tags, N_TAGS)
        print("\ntags: " + ", ".join(f"{printable(name.label)} {probability:.2f}" for name, probability in tags))
    written = [str(path) for path in [*writer.write(job, result), *writer.end()]]
    more = f" and {len(written) - N_TAGS} more" if len(written) > N_TAGS else ""
    print("\nwritten: " + printable(", ".join(written[:N_TAGS])) + more)
    return 0


def listen_to_many(
    detector: Detector,
    writer: ResultWriter,
    jobs: Sequence[Job],
    journal: Journal,
    joined: JoinedEvents,
    *,
    n_threads: int = 2,
    skip_existing: bool = False,
) -> int:
    """Many audios: progress on the way, a table of all at the end, bad files listed there.

    Arguments:
        journal: notes what is done.
        joined: takes the events of all.
        n_threads: that read audio.
        skip_existing: leave out jobs that are done according to the journal.
    Returns:
        The exit code: 0, or 3 where files could not be read.
    """
    summary = Summary(writer.thresholds)
    todo = _skip_done(journal, joined, jobs, summary) if skip_existing else list(jobs)
    summary.rows.update({str(job.key): [] for job in todo if str(job.key) not in summary.rows})
    _refuse_foreign_files(writer, todo)
    writer.folder.check(SUMMARY_FILE)
    joined.check()
    progress = Progress({job.key: _size(job) for job in todo})
    results = detector.detect_many(todo, n_threads=n_threads, make_sink=writer.sink, on_window=_reporter(progress))
    with signals.telling(lambda: _how_to_resume(writer, summary, len(jobs))):
        try:
            for job, result in results:
                stem = str(job.key)
                taken, files = _write(writer, job, result)
                summary.add(stem, taken)
                if isinstance(taken, Detection):
                    joined.add(stem, Contents(job.clip, taken, [], job.recording))
                    journal.add(stem, summary.rows[stem], files)
                progress.finished(job.key, taken.duration if isinstance(taken, Detection) else 0.0)
        finally:
            progress.clear()
            writer.close()
            for page in writer.end():
                print(printable(f"report: {page}"))
            writer.folder.write(SUMMARY_FILE, summary.write)
            joined.write([stem for stem, row in summary.rows.items() if row], writer.thresholds[-1])
    return _report(summary, progress, writer.folder.path)


@dataclass(frozen=True)
class StreamLines:
    """How the onsets and offsets of a stream look on the screen.

    Arguments:
        filename: what the stream is called in JSON.
        channel: counted from 0; None: the mean of all.
        as_json: lines of JSON in place of text.
        started: the moment of its first sample, for the time of day; None: without it.
    """

    filename: str = "stream"
    channel: int | None = None
    as_json: bool = False
    started: datetime | None = None

    def line(self, event: StreamEvent) -> str:
        """An onset or offset as text, or as the JSON that docs/detection.md describes."""
        if self.as_json:
            return json_text(event.to_dict(self.filename, self.channel, self.started))
        moment = "" if self.started is None else f"{clock_time(self.started, event.time)}  "
        about = f"{printable(event.label)}  (above {_above(event)}, {event.mean_score:.2f})"
        return f"{moment}{event.time:10.3f}  {event.kind:<6}  {about}"


def _above(event: StreamEvent) -> str:
    return f"{event.threshold:g}" if event.threshold_name == CLASS_THRESHOLDS else event.threshold_name


def listen_to_stream(stream: EventStream, blocks: Iterable[np.ndarray], lines: StreamLines) -> int:
    """Samples at 16 kHz as they come: each onset and offset on a line once it is certain, until the end or Ctrl-C."""
    known = f"events are known at most {stream.latency:.2f} s after the sound passes their threshold"
    print(f"listening; {known}", file=sys.stderr, flush=True)
    try:
        try:
            for block in blocks:
                for i in range(0, len(block), SAMPLE_RATE):
                    _show(stream.push(block[i : i + SAMPLE_RATE]), lines)
        except KeyboardInterrupt:
            pass
        finally:  # also where the audio breaks off
            _show(stream.finish(), lines)
    except BrokenPipeError:  # whoever read the events has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def print_notes(name: str, notes: Sequence[str]) -> None:
    """What is odd about an audio, on standard error."""
    for note in notes:
        print(printable(f"{name}: {note}"), file=sys.stderr)


def _show(events: Sequence[StreamEvent], lines: StreamLines) -> None:
    for event in events:
        print(lines.line(event), flush=True)


def _how_to_resume(writer: ResultWriter, summary: Summary, n_jobs: int) -> str:
    done = f"{summary.n_done + summary.n_skipped} of {n_jobs} files are done in {writer.folder.path}"
    if writer.report is not None:
        return f"{done}; run the same command again, as --report needs all of them"
    return f"{done}; the same command with --skip_existing resumes"


def _refuse_foreign_files(writer: ResultWriter, jobs: Sequence[Job]) -> None:
    """Find foreign files in the place of results before the work, not after it."""
    for job in jobs:
        for name in writer.names(str(job.key)):
            writer.folder.check(name)


def _skip_done(journal: Journal, joined: JoinedEvents, jobs: Sequence[Job], summary: Summary) -> list[Job]:
    """The jobs that are not done; the rows of the others go into the summary."""
    done, todo, not_joined = journal.done(), [], 0
    for job in jobs:
        stem = str(job.key)
        summary.rows[stem] = []  # keeps the order
        if stem in done and done[stem][0] == job.name:  # another folder may have had a file of that stem
            summary.skip(stem, done[stem])
            not_joined += stem not in joined
        else:
            todo.append(job)
    if not_joined:  # an earlier version, which had no such tables, has finished them
        lack = f"{EVENTS_FILE} and {COUNTS_FILE} lack {not_joined} files that an earlier version has finished"
        print(f"{lack}; to have all, run without --skip_existing", file=sys.stderr)
    return todo


def _reporter(progress: Progress) -> Callable[[Job, int], None]:
    return lambda job, frame: progress.heard(job.key, frame / FRAME_RATE)


def _size(job: Job) -> int:
    path = Path(job.name)
    return path.stat().st_size if path.is_file() else 0


def _write(writer: ResultWriter, job: Job, result: Detection | Failure) -> tuple[Detection | Failure, list[Path]]:
    """Write the files of one audio; one whose results cannot be written is a bad file like any other."""
    if isinstance(result, Detection):
        try:
            return result, writer.write(job, result)
        except UserError as error:
            result = Failure(job.name, error)
        except OSError as error:
            if error.errno not in _OF_ONE_FILE:
                raise
            result = Failure(job.name, UserError(f"its results cannot be written: {describe(error)}"))
    writer.discard(job)
    return result, []


def _report(summary: Summary, progress: Progress, out: Path) -> int:
    """What has been done, and which files could not be read; returns the exit code."""
    skipped = f", {summary.n_skipped} skipped" if summary.n_skipped else ""
    audio, elapsed = clock(summary.seconds), clock(progress.elapsed)
    print(f"{summary.n_done} files{skipped}, {audio} of audio in {elapsed} ({progress.speed:.1f} x real time)")
    for label, count in summary.classes.most_common(N_TAGS):
        print(f"  {count:>8}  {printable(label)}")
    if rest := summary.classes.most_common()[N_TAGS:]:
        print(f"  {sum(count for _, count in rest):>8}  of {len(rest)} more class{'es'[: 2 * (len(rest) > 1)]}")
    where = printable(str(out))
    print(f"written: {where}; one row per file in {SUMMARY_FILE}, all events in {EVENTS_FILE}, counts in {COUNTS_FILE}")
    _list("files are odd, and were processed", summary.notes, out)
    _list("files could not be read", summary.failures, out)
    return EXIT_BAD_FILES if summary.failures else 0


def _list(what: str, files: Sequence[tuple[str, str]], out: Path) -> None:
    """Name files and what is wrong with them, the first ones of many."""
    if not files:
        return
    print(f"{len(files)} {what}:", file=sys.stderr)
    for name, why in files[:PRINTED_FAILURES]:
        told = f"'{name}'" in why or f" {name}:" in f" {why}"  # most errors name their file
        print(printable(f"  {why}" if told else f"  {name}: {why}"), file=sys.stderr)
    if len(files) > PRINTED_FAILURES:
        print(f"  and {len(files) - PRINTED_FAILURES} more: see {printable(str(out / SUMMARY_FILE))}", file=sys.stderr)
