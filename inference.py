"""Find sound events in audio files: print them, write them in the formats of other tools, draw them.

Example: python inference.py --model_name=fmn10 --seq_model_type=tf --audio_file test_files/example.wav --plot
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from config import ModelOptions, option, parse, refuse
from errors import UserError, exit_on_user_error
from helpers.audio_pipe import RawFormat, open_pipe
from helpers.audio_reader import Source, count_channels, read_blocks
from helpers.backends import PRECISIONS
from helpers.detection import Detection, DetectionOptions, detection_options
from helpers.detector import Detector, Failure
from helpers.event_files import best_tags
from helpers.inputs import STDIN, AudioInput, find_audio
from helpers.outputs import OutputFolder, format_table, read_true_events
from helpers.pipeline import Job
from helpers.progress import Progress, clock
from helpers.results import ALL_FORMATS, N_TAGS, ResultWriter, Summary

PRINTED_ROWS = 60  # per threshold on the screen; the files hold all
PRINTED_FAILURES = 20
EXIT_BAD_FILES = 3


@dataclass
class DeviceOptions(ModelOptions):
    """Model and device."""

    pretrained: str = option("strong", "released weights: strong, advanced-kd-weak-strong, scratch or a card's name")
    checkpoint: Path | None = option(None, "weights file; one of our own training names its model itself")
    list_models: bool = option(False, "show what can be loaded, and end")
    cuda: bool = option(False, "the same as --device cuda")
    device: str | None = option(None, "cpu, cuda, cuda:1, mps, ... (default: cpu)")
    precision: str = option("32-true", "arithmetic of the network", choices=PRECISIONS)


@dataclass
class InputOptions:
    """Audio."""

    audio_file: list[str] | None = option(
        None, "files, folders, patterns such as 'a/**/*.flac', or - for standard input; any length, rate and format"
    )
    audio_list: str | None = option(None, "text file with one of these per line")
    channels: str = option("mix", "what to listen to in files with several", choices=("mix", "first", "each"))
    raw: str | None = option(None, "layout of raw samples on standard input: RATE:CHANNELS:ENCODING, e.g. 16000:1:s16")
    num_readers: int = option(2, "threads that read and resample beside the network", low=1)


@dataclass
class OutputOptions:
    """Results."""

    out: Path = option(Path("detections"), "folder that they are written to")
    format: list[str] = option(["tsv"], "formats of the events and frame scores, one or several", choices=ALL_FORMATS)
    overwrite: bool = option(False, "replace even files that this program did not write, or that were changed since")
    skip_existing: bool = option(False, "leave out audio whose results are there: goes on with an interrupted run")
    tags: bool = option(False, "list the most probable tags of the whole audio, too (weak head)")
    plot: bool = option(False, "draw spectrogram and events to NAME.png")
    true_events: Path | None = option(None, "TSV of annotated events to draw beside the detected ones")
    clips: Path | None = option(None, "folder for the events at the highest threshold as audio files")


@dataclass
class InferenceOptions(OutputOptions, DetectionOptions, InputOptions, DeviceOptions):
    """Find sound events in audio: print them, write them in the formats of other tools, draw them."""

    def check(self) -> None:
        """Raise UserError where options contradict each other."""
        DetectionOptions.check(self)
        if self.cuda and self.device is not None and not self.device.startswith("cuda"):
            refuse("device", self.device, "contradicts --cuda; give one of them")
        if self.list_models:
            return
        if not self.audio_file and self.audio_list is None:
            raise UserError("--audio_file is missing: name the audio to listen to")
        if self.raw is not None:
            RawFormat.parse(self.raw)
        if STDIN in (self.audio_file or ()) and (self.plot or self.clips):
            raise UserError("--plot and --clips read the audio twice, which standard input cannot: save it first")


@exit_on_user_error()
def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = parse(InferenceOptions, argv)
    if options.list_models:
        return _list_models()
    inputs = find_audio(options.audio_file or [], options.audio_list)
    if len(inputs) == 1 and inputs[0].path != STDIN:
        next(read_blocks(inputs[0].path))  # its mistakes show before a model is loaded
    if options.true_events:
        read_true_events(options.true_events, inputs[0].path, {})
    detector = _make_detector(options)
    writer = ResultWriter(
        OutputFolder(options.out, overwrite=options.overwrite),
        list(dict.fromkeys(options.format)),
        detector,
        tags=options.tags,
        plot=options.plot,
        clips=OutputFolder(options.clips, overwrite=options.overwrite) if options.clips else None,
        true_events=options.true_events,
    )
    if len(inputs) == 1 and options.channels != "each":
        return _run_one(options, inputs[0], detector, writer)
    return _run_many(options, inputs, detector, writer)


def _list_models() -> int:
    import models

    print("\n".join(models.list_models()))
    return 0


def _make_detector(options: InferenceOptions) -> Detector:
    return Detector(
        options.model_name,
        checkpoint=options.checkpoint,
        seq_model_type=options.seq_model_type,
        seq_model_dim=options.seq_model_dim,
        pretrained=options.pretrained,
        device=options.device or ("cuda" if options.cuda else "cpu"),
        precision=options.precision,
        **detection_options(options),
    )


def _jobs_of(options: InferenceOptions, audio: AudioInput) -> Iterator[Job]:
    """One job, or one for each channel."""
    source: Source = audio.path
    if audio.path == STDIN:
        source = open_pipe(sys.stdin.buffer, RawFormat.parse(options.raw) if options.raw else None)
    if options.channels == "each" and audio.path != STDIN:
        try:
            n_channels = count_channels(audio.path)
        except UserError:
            n_channels = 1  # the reader meets the same error, where it is dealt with
        for channel in range(n_channels):
            yield Job(source, channel, f"{audio.stem}.ch{channel + 1}")
    else:
        yield Job(source, 0 if options.channels == "first" else None, audio.stem)


def _run_one(options: InferenceOptions, audio: AudioInput, detector: Detector, writer: ResultWriter) -> int:
    """One audio: its events on the screen; a bad file is a mistake like any other."""
    job = next(iter(_jobs_of(options, audio)))
    _check_outputs(writer, [job])
    _, result = next(detector.detect_many([job], make_sink=writer.sink))
    if isinstance(result, Failure):
        writer.discard(job, result.error)
        raise result.error
    for name, table in result.tables.items():
        above = "the thresholds of the classes" if name == "class" else name
        print(f"\n{result.name} ({result.duration:.2f} s): {len(table)} events above {above}")
        print(format_table(table, PRINTED_ROWS))
    if options.tags:
        tags = best_tags(detector.tag_names(result), result.tags, N_TAGS)
        print("\ntags: " + ", ".join(f"{name.label} {probability:.2f}" for name, probability in tags))
    written = writer.write(job, result)
    print("\nwritten: " + ", ".join(str(path) for path in written[:PRINTED_ROWS]))
    return 0


def _check_outputs(writer: ResultWriter, jobs: list[Job]) -> None:
    """Find foreign files in the place of results before the work, not after it."""
    for job in jobs:
        for name in writer.names(str(job.key)):
            writer.folder.check(name)


def _run_many(options: InferenceOptions, inputs: list[AudioInput], detector: Detector, writer: ResultWriter) -> int:
    """Many audios: progress on the way, a table of all at the end, bad files listed there."""
    summary = Summary(writer.thresholds)
    earlier = summary.read(options.out / "summary.csv") if options.skip_existing else {}
    jobs, sizes = [], {}
    for audio in inputs:
        for job in _jobs_of(options, audio):
            if options.skip_existing and all((options.out / name).exists() for name in writer.names(str(job.key))):
                summary.skip(str(job.key), job.name, earlier)
                continue
            jobs.append(job)
            sizes[job.key] = Path(audio.path).stat().st_size if Path(audio.path).is_file() else 0
            summary.rows[str(job.key)] = []  # keeps the order of the inputs
    _check_outputs(writer, jobs)
    writer.folder.check("summary.csv")
    progress = Progress(sizes)
    frames_per_second = 25.0
    try:
        for job, result in detector.detect_many(
            jobs,
            n_threads=options.num_readers,
            make_sink=writer.sink,
            on_window=lambda job, frame: progress.heard(job.key, frame / frames_per_second),
        ):
            _take(job, result, writer, summary, progress)
    finally:
        progress.clear()
        writer.folder.write("summary.csv", summary.write)
    return _report(summary, progress, options.out)


def _take(job: Job, result: Detection | Failure, writer: ResultWriter, summary: Summary, progress: Progress) -> None:
    """Write the files of one audio; one whose results cannot be written is a bad file like any other."""
    if isinstance(result, Detection):
        try:
            writer.write(job, result)
        except UserError as error:
            result = Failure(job.name, error)
    if isinstance(result, Failure):
        writer.discard(job, result.error)
    summary.add(str(job.key), result)
    progress.finished(job.key, result.duration if isinstance(result, Detection) else 0.0)


def _report(summary: Summary, progress: Progress, out: Path) -> int:
    """What has been done, and which files could not be read; returns the exit code."""
    skipped = f", {summary.n_skipped} skipped" if summary.n_skipped else ""
    audio, elapsed = clock(summary.seconds), clock(progress.elapsed)
    print(f"{summary.n_done} files{skipped}, {audio} of audio in {elapsed} ({progress.speed:.1f} x real time)")
    for label, count in summary.classes.most_common(N_TAGS):
        print(f"  {count:>8}  {label}")
    print(f"written: {out}, all files in {out / 'summary.csv'}")
    if not summary.failures:
        return 0
    print(f"{len(summary.failures)} files could not be read:", file=sys.stderr)
    for name, why in summary.failures[:PRINTED_FAILURES]:
        print(f"  {name}: {why}", file=sys.stderr)
    if len(summary.failures) > PRINTED_FAILURES:
        print(f"  and {len(summary.failures) - PRINTED_FAILURES} more: see {out / 'summary.csv'}", file=sys.stderr)
    return EXIT_BAD_FILES


if __name__ == "__main__":
    sys.exit(main())
