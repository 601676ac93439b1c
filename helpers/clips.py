"""Detected events as audio files of their own."""

from __future__ import annotations

import re
from pathlib import Path

from data_util.audio_file import AudioFile
from data_util.audio_output import write_audio
from helpers.events import EventTable
from helpers.outputs import OutputFolder, seconds


def safe_name(text: str) -> str:
    """Text that is a file name on every system: letters, digits, `-` and `_`."""
    return re.sub(r"[^\w-]+", "_", text, flags=re.ASCII).strip("_")[:60] or "event"


def cut_clips(folder: OutputFolder, source: str, stem: str, table: EventTable, channel: int | None) -> list[Path]:
    """Write each event of a table as a WAV file in the rate and channels of its source.

    Arguments:
        folder: where to.
        source: audio file.
        stem: the names start with it: STEM/00012.480-00013.960_Dog.wav.
        table: events of the source.
        channel: write this one only; None: all.
    """
    written = []
    with AudioFile(Path(source)) as file:
        kind, rate = file.wav_subtype, file.sample_rate
        for event in table:
            begin = round(event.onset * rate)
            samples = file.read(begin / rate, max(1, round(event.offset * rate) - begin) / rate)
            if channel is not None:
                samples = samples[:, channel : channel + 1]
            times = f"{seconds(event.onset):0>9}-{seconds(event.offset):0>9}"
            name = f"{stem}/{times}_{safe_name(event.label)}.wav"
            written.append(
                folder.write(name, lambda path, s=samples, r=rate: write_audio(path, s, r, subtype=kind))  # type: ignore[misc]
            )
    return written
