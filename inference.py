"""Find sound events in audio files: print them, write them in the formats of other tools, draw them.

Example: python inference.py --model_name=fmn10 --seq_model_type=tf --audio_file test_files/example.wav --plot
"""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import locks
from config import ModelOptions, as_dict, check_output, option, parse, refuse
from errors import UserError, exit_on_user_error
from helpers.annotations import read_annotations
from helpers.audio_pipe import PipedAudio, RawFormat, ReadAhead, open_pipe
from helpers.audio_reader import count_channels, read_blocks, source_name
from helpers.backends import BACKENDS, PRECISIONS
from helpers.detection import DetectionOptions, detection_options
from helpers.detector import Detector
from helpers.inputs import STDIN, AudioInput, find_audio
from helpers.joined import JoinedEvents
from helpers.journal import Journal
from helpers.listening import StreamLines, listen_to_many, listen_to_one, listen_to_stream, print_notes
from helpers.outputs import OutputFolder, TrueEventsOf, checksum
from helpers.pipeline import Job, in_one_list
from helpers.report import ReportPages
from helpers.results import ALL_FORMATS, ResultWriter
from helpers.runtimes import ENDINGS
from json_text import json_text
from printable import printable

# Options that a stream has no use for ...
_FILES_ONLY = {
    *("audio_file", "audio_list", "num_readers", "overlap", "batch_size", "top_k", "out", "overwrite", "skip_existing"),
    *("tags", "plot", "report", "true_events", "clips"),
}
# ... and those that do not decide what the results of an audio are.
_NOT_OF_RESULTS = {
    *("audio_file", "audio_list", "num_readers", "batch_size", "cuda", "device", "out", "overwrite", "skip_existing"),
}
# Options that earlier versions did not have: at their defaults they leave the digest as it was, so that folders of
# those versions are resumed. Every new option that decides results belongs here.
_LATER_OPTIONS = ("strict", "stream_clock", "thresholds")


@dataclass
class DeviceOptions(ModelOptions):
    """Model and device."""

    pretrained: str = option("strong", "released weights: strong, advanced-kd-weak-strong, scratch or a card's name")
    checkpoint: Path | None = option(
        None, "weights of our own training (names its model itself), released ones, or a file of export.py"
    )
    list_models: bool = option(False, "show what can be loaded, and end")
    cuda: bool = option(False, "the same as --device cuda")
    device: str | None = option(None, "cpu, cuda, cuda:1, mps, ... (default: cpu)")
    backend: str | None = option(None, "runtime (default: what the checkpoint is for, else torch)", choices=BACKENDS)
    precision: str = option("32-true", "arithmetic of the network", choices=PRECISIONS)


@dataclass
class InputOptions:
    """Audio."""

    audio_file: list[str] | None = option(
        None, "files, folders, patterns such as 'a/**/*.flac', or - for standard input; any length, rate and format"
    )
    audio_list: str | None = option(
        None, "text file with one of these per line; lines that begin with # are comments, unless a file has that name"
    )
    channels: str = option(
        "mix", "process the mean of all channels, the first one, or each by itself", choices=("mix", "first", "each")
    )
    strict: bool = option(False, "refuse files whose end is missing (default: process what is there)")
    raw: str | None = option(None, "layout of raw samples on standard input: RATE:CHANNELS:ENCODING, e.g. 16000:1:s16")
    num_readers: int = option(2, "threads that read and resample beside the network", low=1)


@dataclass
class StreamOptions:
    """Streams."""

    stream: str | None = option(
        None,
        "print onsets and offsets while the audio comes, as text, or as JSON with --format jsonl: - for standard input "
        "(WAV, or see --raw), or a file",
    )
    stream_hop: float = option(1.0, "seconds of audio between calls of the network", low=0.04)
    stream_lookahead: float = option(1.0, "seconds of audio that must follow a frame before it is scored", low=0)
    stream_clock: bool = option(False, "add the time of day (UTC) to each line; for live audio on standard input")


@dataclass
class OutputOptions:
    """Results."""

    out: Path = option(Path("detections"), "folder that they are written to")
    format: list[str] = option(
        ["tsv"],
        "formats of the events and frame scores, one or several; a stream takes jsonl alone",
        choices=ALL_FORMATS,
    )
    overwrite: bool = option(False, "replace even files that this program did not write, or that were changed since")
    skip_existing: bool = option(False, "leave out audio that is done: goes on with an interrupted run")
    tags: bool = option(False, "list the most probable tags of the whole audio, too (weak head)")
    plot: bool = option(False, "draw spectrogram and events to NAME.png")
    report: bool = option(False, "one web page to hear, see and filter the events: NAME.html, or report.html for many")
    true_events: Path | None = option(
        None, "annotated events to draw beside the detected ones, in any format that ex_finetune.py reads"
    )
    clips: Path | None = option(None, "folder for the events at the highest threshold as audio files")


@dataclass
class InferenceOptions(OutputOptions, StreamOptions, DetectionOptions, InputOptions, DeviceOptions):
    """Find sound events in audio: print them, write them in the formats of other tools, draw them."""

    def check(self) -> None:
        """Raise UserError where options contradict each other."""
        DetectionOptions.check(self)
        if self.cuda and self.device is not None and not self.device.startswith("cuda"):
            refuse("device", self.device, "contradicts --cuda; give one of them")
        if self.raw is not None:
            RawFormat.parse(self.raw)
        if self.list_models:
            return
        if self.stream is None:
            self._check_files()
        else:
            self._check_stream(self.stream)

    def _check_stream(self, source: str) -> None:
        if useless := sorted(self.given & _FILES_ONLY):
            raise UserError(f"--stream prints the events of one stream as they come: without --{', --'.join(useless)}")
        if "format" in self.given and set(self.format) != {"jsonl"}:
            refuse("format", " ".join(self.format), "--stream prints lines of text, or of JSON with jsonl")
        if self.channels == "each":
            refuse("channels", self.channels, "a stream is heard as a mix, or its first channel")
        if self.stream_clock and source != STDIN:
            refuse("stream_clock", True, "a file says nothing of the time of day: it is for --stream -")
        if self.raw is not None and source != STDIN:
            refuse("raw", self.raw, "only standard input has raw samples: --stream -")

    def _check_files(self) -> None:
        for name in ("out", "clips"):
            if getattr(self, name) is not None:
                check_output(name, getattr(self, name), folder=True)
        if not self.audio_file and self.audio_list is None:
            raise UserError("--audio_file is missing: name the audio to listen to")
        if useless := sorted(self.given & {"stream_hop", "stream_lookahead", "stream_clock"}):
            raise UserError(f"--{useless[0]} is for streams: give it with --stream, or leave it out")
        if self.true_events is not None and not (self.plot or self.report):
            refuse("true_events", self.true_events, "nothing draws them; add --plot or --report")
        if self.report and self.skip_existing:
            raise UserError("--report is one page about all audio, and --skip_existing hears only the rest: drop one")

    def check_inputs(self, inputs: Sequence[AudioInput]) -> None:
        """Raise UserError where options do not go with the audio that was found."""
        if not any(audio.path == STDIN for audio in inputs):
            if self.raw is not None:
                refuse("raw", self.raw, "only standard input has raw samples: --audio_file -")
        elif self.plot or self.clips or self.report or self.channels == "each":
            raise UserError(
                "--plot, --clips, --report and --channels each read audio several times, which a pipe cannot: save it"
            )


@exit_on_user_error()
def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = parse(InferenceOptions, argv)
    if options.list_models:
        return _list_models()
    if options.stream is not None:
        return _stream(options)
    inputs = find_audio(options.audio_file or [], options.audio_list)
    options.check_inputs(inputs)
    if len(inputs) == 1 and inputs[0].path != STDIN:
        next(read_blocks(inputs[0].path))  # its mistakes show before a model is loaded
    true_events = _true_events(options, inputs)
    for folder in filter(None, (options.out, options.clips)):
        locks.hold(folder, folder=True)
    detector = _make_detector(options)
    alone = len(inputs) == 1 and options.channels != "each" and not options.skip_existing
    if options.tags and not detector.backend.has_tags:
        refuse("tags", True, "no loss has trained the weak head of these weights, so its tags would be noise")
    writer = _make_writer(options, detector, inputs[0].stem if alone else "report", true_events)
    if alone:
        return listen_to_one(detector, writer, _jobs_of(options, inputs[0])[0])
    jobs = in_one_list([job for audio in inputs for job in _jobs_of(options, audio)])
    settings = _settings(options)
    journal, joined = Journal(options.out, settings), JoinedEvents(writer.folder, settings)
    return listen_to_many(
        detector, writer, jobs, journal, joined, n_threads=options.num_readers, skip_existing=options.skip_existing
    )


def _settings(options: InferenceOptions) -> str:
    """A digest of all that decides what the results of an audio are."""
    values = {name: value for name, value in as_dict(options).items() if name not in _NOT_OF_RESULTS}
    for f in fields(options):
        if f.name in _LATER_OPTIONS and getattr(options, f.name) == f.default:
            del values[f.name]
    numbers, by_class = options.split_thresholds()
    if numbers and not by_class:
        values["detection_thresholds"] = list(map(float, options.detection_thresholds or []))  # text came later, too
    files = (options.checkpoint, options.true_events, options.thresholds)
    named = [file for file in files if file is not None]
    weights = [file.with_suffix(".bin") for file in named if file.suffix == ".xml"]
    values["files"] = [checksum(file) for file in [*named, *weights] if file.is_file()]
    return hashlib.sha256(json_text(values, ensure_ascii=True, sort_keys=True).encode()).hexdigest()


def _list_models() -> int:
    from helpers.model_table import listing

    print(listing())
    return 0


def _check_names(options: InferenceOptions) -> None:
    """Raise UserError where the options say that a checkpoint holds another model than it does."""
    names = options.given & {"model_name", "seq_model_type", "seq_model_dim"}
    if not names or options.checkpoint is None:
        return
    if options.checkpoint.suffix.lower() in ENDINGS:
        name = min(names)
        refuse(name, getattr(options, name), f"{options.checkpoint} is an exported model; leave the option out")
    from models.checkpoints import read_checkpoint

    metadata = read_checkpoint(options.checkpoint)[1]
    for name in sorted(names & metadata.keys()):
        if getattr(options, name) != metadata[name]:
            refuse(name, getattr(options, name), f"{options.checkpoint} holds {metadata[name]}; leave the option out")


def _make_detector(options: InferenceOptions) -> Detector:
    _check_names(options)
    return Detector(
        options.model_name,
        checkpoint=options.checkpoint,
        seq_model_type=options.seq_model_type,
        seq_model_dim=options.seq_model_dim,
        pretrained=options.pretrained,
        device=options.device or ("cuda" if options.cuda else "cpu"),
        precision=options.precision,
        backend=options.backend,
        **detection_options(options),
    )


def _true_events(options: InferenceOptions, inputs: Sequence[AudioInput]) -> TrueEventsOf | None:
    """The annotations of the audio, by its name."""
    if options.true_events is None:
        return None
    found = read_annotations(options.true_events, {audio.name: audio.path for audio in inputs})
    if not found:
        print(printable(f"true events '{options.true_events}': none is of this audio"), file=sys.stderr)
    return found


def _make_writer(
    options: InferenceOptions, detector: Detector, report_name: str, true_events: TrueEventsOf | None
) -> ResultWriter:
    folder = OutputFolder(options.out, overwrite=options.overwrite)
    clips = OutputFolder(options.clips, overwrite=options.overwrite) if options.clips else None
    for place in (folder, clips):
        if place is not None:
            place.require_ledger()
    return ResultWriter(
        folder,
        list(dict.fromkeys(options.format)),
        detector,
        tags=options.tags,
        plot=options.plot,
        clips=clips,
        true_events=true_events,
        report=ReportPages(folder, report_name, detector.decoding, detector.backend.name) if options.report else None,
    )


def _jobs_of(options: InferenceOptions, audio: AudioInput) -> list[Job]:
    """One job, or one for each channel."""
    source = _pipe(options) if audio.path == STDIN else audio.path
    if options.channels == "each":
        try:
            n_channels = count_channels(audio.path)
        except UserError:
            n_channels = 1  # the reader meets the same error, where it is dealt with
        stems = [f"{audio.stem}.ch{channel + 1}" for channel in range(n_channels)]
        return [Job(source, channel, stem, audio, options.strict) for channel, stem in enumerate(stems)]
    return [Job(source, 0 if options.channels == "first" else None, audio.stem, audio, options.strict)]


def _pipe(options: InferenceOptions, file: BinaryIO | ReadAhead | None = None) -> PipedAudio:
    """Standard input, or what reads ahead of it."""
    return open_pipe(sys.stdin.buffer if file is None else file, RawFormat.parse(options.raw) if options.raw else None)


def _stream(options: InferenceOptions) -> int:
    started: datetime | None = None
    source: PipedAudio | str = str(options.stream)
    if options.stream == STDIN:
        ahead = ReadAhead(sys.stdin.buffer)  # a microphone does not wait until the model is loaded
        source = _pipe(options, ahead)
    notes: list[str] = []
    channel = 0 if options.channels == "first" else None
    blocks = read_blocks(source, channel, notes=notes, strict=options.strict)
    first = next(blocks, None)  # its mistakes show before a model is loaded
    if first is None:
        raise UserError(f"'{source_name(source)}' holds no samples: expected audio of at least one frame of 40 ms")
    if options.stream_clock and isinstance(source, PipedAudio):
        started = ahead.began(source.bytes_per_second)
    lines = StreamLines(Path(source_name(source)).name, channel, "jsonl" in options.format, started)
    stream = _make_detector(options).stream(hop=options.stream_hop, lookahead=options.stream_lookahead)
    code = listen_to_stream(stream, itertools.chain([first], blocks), lines)
    print_notes(source_name(source), notes)
    return code


if __name__ == "__main__":
    sys.exit(main())
