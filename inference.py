"""Find sound events in audio files: prints them and writes them as TSV, a picture on request.

Example: python inference.py --model_name=fmn10 --seq_model_type=tf --audio_file=test_files/example.wav --plot
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from config import ModelOptions, option, parse, refuse
from errors import UserError, exit_on_user_error
from helpers.audio_reader import read_blocks
from helpers.backends import PRECISIONS
from helpers.detector import Detection, DetectionOptions, Detector, detection_options
from helpers.outputs import OutputFolder, dcase_tsv, format_table, read_true_events

PRINTED_ROWS = 60  # per threshold on the screen; the files hold all


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

    audio_file: Path | None = option(None, "audio of any length, rate and format that libsndfile reads")


@dataclass
class OutputOptions:
    """Results."""

    out: Path = option(Path("detections"), "folder that they are written to")
    overwrite: bool = option(False, "replace even files that this program did not write, or that were changed since")
    plot: bool = option(False, "draw spectrogram and events to NAME.png")
    true_events: Path | None = option(None, "TSV of annotated events to draw beside the detected ones")


@dataclass
class InferenceOptions(OutputOptions, DetectionOptions, InputOptions, DeviceOptions):
    """Find sound events in audio: print them, write them as TSV, draw them."""

    def check(self) -> None:
        """Raise UserError where options contradict each other."""
        DetectionOptions.check(self)
        if self.cuda and self.device is not None and not self.device.startswith("cuda"):
            refuse("device", self.device, "contradicts --cuda; give one of them")
        if self.audio_file is None and not self.list_models:
            raise UserError("--audio_file is missing: name the audio to listen to")


@exit_on_user_error()
def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = parse(InferenceOptions, argv)
    if options.list_models:
        return _list_models()
    assert options.audio_file is not None
    folder, names = _plan_outputs(options, options.audio_file)
    _check_inputs(options, options.audio_file)
    detector = _make_detector(options)
    detection = detector.detect(options.audio_file)
    _print_events(detection)
    written = [
        folder.write_text(name, dcase_tsv([(options.audio_file.name, event) for event in table]))
        for name, table in zip(names, detection.tables, strict=False)
    ]
    if options.plot:
        written.append(_plot(options, detection, detector, folder, names[-1]))
    print("written: " + ", ".join(str(path) for path in written))
    return 0


def _list_models() -> int:
    import models

    print("\n".join(models.list_models()))
    return 0


def _plan_outputs(options: InferenceOptions, audio: Path) -> tuple[OutputFolder, list[str]]:
    """The folder and the names of the files; a foreign file in their place is found now, not after the work."""
    folder = OutputFolder(options.out, overwrite=options.overwrite)
    thresholds = options.detection_thresholds
    names = [f"{audio.stem}.tsv"] if len(thresholds) == 1 else [f"{audio.stem}.above{t:g}.tsv" for t in thresholds]
    names += [f"{audio.stem}.png"] if options.plot else []
    for name in names:
        folder.check(name)
    return folder, names


def _check_inputs(options: InferenceOptions, audio: Path) -> None:
    """Read the first block of the audio and the annotations, so that mistakes show before a model is loaded."""
    next(read_blocks(audio))
    if options.true_events:
        read_true_events(options.true_events, audio.name, {})


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


def _print_events(detection: Detection) -> None:
    for threshold, table in zip(detection.thresholds, detection.tables, strict=True):
        print(f"\n{detection.name} ({detection.duration:.2f} s): {len(table)} events above {threshold:g}")
        print(format_table(table, PRINTED_ROWS))
    print()


def _plot(options: InferenceOptions, detection: Detection, detector: Detector, folder: OutputFolder, name: str) -> Path:
    from helpers.plots import log_mel, plot_events

    assert options.audio_file is not None
    audio = options.audio_file
    spectrogram = log_mel(read_blocks(audio), detection.duration)
    mids = {entry.mid: entry.label for entry in detector.classes if entry.mid}
    true = read_true_events(options.true_events, audio.name, mids) if options.true_events else None
    legends = [f"score above {threshold:g}" for threshold in detection.thresholds]
    tables = list(zip(legends, detection.tables, strict=True))
    return folder.write(name, lambda p: plot_events(p, spectrogram, detection.duration, tables, true, audio.name))


if __name__ == "__main__":
    sys.exit(main())
