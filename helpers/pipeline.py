"""Reading many audios in threads while the network computes."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from errors import UserError
from helpers.audio_reader import Source, read_blocks, source_name
from helpers.chunking import WindowPlan, WindowSplitter
from helpers.inputs import AudioInput


@dataclass(frozen=True)
class Place:
    """Which job of a list this is, counted from 0, and how many the list has."""

    number: int
    n_jobs: int


@dataclass(frozen=True, eq=False)
class Job:
    """One audio to listen to.

    Arguments:
        source: a file, samples in memory, or a pipe.
        channel: counted from 0; None: the mean of all.
        strict: refuse audio whose end is missing.
        key: whatever the caller wants to know it by.
        audio: the names of its file, where it has any.
        place: in the list of a whole run (`in_one_list`), which lets it share batches with others of the list; None:
            its batches are its own.
    """

    source: Source
    channel: int | None = None
    key: object = None
    audio: AudioInput | None = None
    strict: bool = False
    place: Place | None = None

    @property
    def name(self) -> str:
        """Name of the file, or of what is none."""
        return source_name(self.source)

    @property
    def clip(self) -> str:
        """Name of the audio in results: the path below the folder that was given, as bytes that are UTF-8."""
        if self.audio is None or not self.audio.name:
            return Path(self.name).name
        return os.fsencode(self.audio.name).decode(errors="replace")

    @property
    def recording(self) -> str:
        """The same without its ending where that keeps it apart from other audio of the run."""
        return self.audio.stem if self.audio is not None else Path(self.name).stem


def in_one_list(jobs: Sequence[Job]) -> list[Job]:
    """The jobs of a whole run, each with its place, so that they share batches.

    A run that does only some of them takes these from the list of all: then they get the same scores.
    """
    return [replace(job, place=Place(number, len(jobs))) for number, job in enumerate(jobs)]


@dataclass(frozen=True, eq=False)
class Window:
    """A window of a job: its first frame and its samples."""

    job: Job
    start: int
    samples: np.ndarray


@dataclass(frozen=True)
class End:
    """The end of a job: how many samples it had and what is odd about it, or why it could not be read."""

    job: Job
    n_samples: int = 0
    error: UserError | None = None
    notes: tuple[str, ...] = ()


def read_job(job: Job, plan: WindowPlan) -> Iterator[Window | End]:
    """The windows of a job in order, then its end; a file that cannot be read ends with its error."""
    splitter = WindowSplitter(plan)
    notes: list[str] = []
    try:
        for block in read_blocks(job.source, job.channel, notes=notes, strict=job.strict):
            for start, samples in splitter.push(block):
                yield Window(job, start, samples)
        if splitter.n_samples == 0:
            raise UserError(f"'{job.name}' holds no samples")
        for start, samples in splitter.finish():
            yield Window(job, start, samples)
    except UserError as error:
        yield End(job, error=error)
        return
    yield End(job, splitter.n_samples, notes=tuple(notes))


class _StoppedError(Exception):
    """The caller does not want any more."""


class _Dealer:
    """Deals jobs to readers in turn, so that each gets the same ones in every run; made for several threads."""

    def __init__(self, jobs: Iterable[Job], n_readers: int) -> None:
        self._jobs, self._lock = enumerate(jobs), threading.Lock()
        self._dealt: list[deque[Job]] = [deque() for _ in range(n_readers)]

    def next(self, reader: int) -> Job | None:
        """The next job of a reader, or None after the last one."""
        with self._lock:
            while not self._dealt[reader]:
                number, job = next(self._jobs, (0, None))
                if job is None:
                    return None
                self._dealt[number % len(self._dealt)].append(job)
            return self._dealt[reader].popleft()


_Queue = queue.Queue[Window | End | BaseException | None]


def read_jobs(jobs: Iterable[Job], plan: WindowPlan, *, n_threads: int = 1, depth: int = 16) -> Iterator[Window | End]:
    """Windows and ends of many jobs, read by threads that run `depth` windows ahead at most.

    The windows of one job come in order and before its end; those of `n_threads` jobs are mixed, one of each in turn:
    the order is the same in every run, however long reading takes.
    """
    dealer = _Dealer(jobs, n_threads)
    items: list[_Queue] = [queue.Queue(max(1, depth // n_threads)) for _ in range(n_threads)]
    stop = threading.Event()

    def put(reader: int, item: Window | End | BaseException | None) -> None:
        while not stop.is_set():
            try:
                return items[reader].put(item, timeout=0.1)
            except queue.Full:
                continue
        raise _StoppedError

    def work(reader: int) -> None:
        try:
            while (job := dealer.next(reader)) is not None:
                for item in read_job(job, plan):
                    put(reader, item)
            put(reader, None)
        except _StoppedError:
            pass
        except BaseException as error:  # a defect of ours must not leave the caller waiting
            with contextlib.suppress(_StoppedError):
                put(reader, error)

    for reader in range(n_threads):
        threading.Thread(target=work, args=(reader,), daemon=True).start()
    running = deque(items)
    try:
        while running:
            item = running[0].get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                running.popleft()
                continue
            running.rotate(-1)
            yield item
    finally:
        stop.set()
