"""Draw the pictures of docs/augmentations.md: `python docs/make_augmentation_pictures.py [FOLDER]`."""

from __future__ import annotations

import io
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import matplotlib  # noqa: E402

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch import Tensor  # noqa: E402

from helpers import augment as aug  # noqa: E402
from helpers.augment import Batch, Draw, ImpulseResponses  # noqa: E402
from models.mel import LogMel  # noqa: E402

RATE, SECONDS, FRAMES = 16_000, 10.0, 250
CLASSES = ["beeps", "siren", "noise bursts", "low hum"]
COLOURS = ["tab:cyan", "tab:orange", "tab:green", "tab:pink"]


def scene() -> tuple[Tensor, Tensor]:
    """Synthesise two clips of two classes each: waveforms [2, N] and labels [2, 4, 250]."""
    rng = np.random.default_rng(1)
    t = np.arange(int(RATE * SECONDS)) / RATE
    sounds = [
        np.sin(2 * np.pi * 1800 * t) * 0.3,
        np.sin(2 * np.pi * (900 * t - 400 / (2 * np.pi * 0.7) * np.cos(2 * np.pi * 0.7 * t))) * 0.3,
        rng.standard_normal(len(t)) * 0.1,
        sum(np.sin(2 * np.pi * 100 * k * t) / k for k in range(1, 12)) * 0.1,
    ]
    events = [
        (0, 0, [(0.5, 0.9), (1.3, 1.7), (2.1, 2.5), (7.6, 8.0), (8.4, 8.8)]),
        (0, 1, [(3.2, 6.8)]),
        (1, 2, [(1.0, 1.8), (4.0, 4.6), (6.4, 7.4)]),
        (1, 3, [(2.6, 9.0)]),
    ]
    audio = rng.standard_normal((2, len(t))) * np.array([[0.003], [0.012]])
    labels = np.zeros((2, len(CLASSES), FRAMES))
    for clip, number, spans in events:
        for onset, offset in spans:
            fade = np.clip(np.minimum(t - onset, offset - t) / 0.02, 0, 1)  # 20 ms in and out
            audio[clip] += sounds[number] * fade
            labels[clip, number, int(onset * 25) : int(np.ceil(offset * 25))] = 1
    return torch.from_numpy(audio).float(), torch.from_numpy(labels).float()


def telephone_response() -> ImpulseResponses:
    """The impulse response of a small loudspeaker: 500 to 3000 Hz with a resonance at 2 kHz."""
    frequency = np.fft.rfftfreq(512, 1 / RATE)
    gain = 1 / (1 + (500 / np.maximum(frequency, 1)) ** 4) / (1 + (frequency / 3000) ** 8)
    gain *= 1 + 2 * np.exp(-(((frequency - 2000) / 200) ** 2))
    response = np.roll(np.fft.irfft(gain), 256)
    kernel = torch.from_numpy(response / np.linalg.norm(response)).float()[None]
    return ImpulseResponses(kernel, kernel.abs().argmax(1))


def draws() -> dict[str, Draw]:
    """One clearly visible draw of every augmentation; waveform augmentations come first."""

    def generator(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    size, mel = (2, int(RATE * SECONDS)), (2, 128)
    return {
        "device_response": aug.draw_device_response(2, 1.0, telephone_response(), generator(0)),
        "gain": aug.draw_gain(2, 12, generator(2)),
        "roll": aug.draw_roll(*size, RATE, generator(6)),
        "wavmix": aug.draw_wavmix(2, 1.0, generator(2)),
        "frame_shift": aug.draw_frame_shift(2, 1000, 0.125, generator(6)),
        "freq_mask": aug.draw_freq_mask(*mel, 48, generator(0)),
        "spec_time_mask": aug.draw_spec_time_mask(2, 1000, 400, generator(0)),
        "mixup": aug.draw_mixup(2, 1.0, generator(24), alpha=2.0),
        "mixstyle": aug.draw_mixstyle(2, 1.0, generator(4)),
        "freq_mixstyle": aug.draw_mixstyle(2, 1.0, generator(1), folded=False),
        "time_mask": aug.draw_time_mask(2, FRAMES, 0.3, generator(1)),
        "filter_augment": aug.draw_filter_augment(*mel, 1.0, generator(9)),
        "freq_warp": aug.draw_freq_warp(*mel, 1.0, generator(0)),
    }


WAVEFORM = ("device_response", "gain", "roll", "wavmix")


def draw_picture(panels: dict[str, tuple[Tensor, Tensor]], file: Path) -> None:
    """Save log-mels [128, frames] with label strips [4, 250] beneath, side by side, by their titles."""
    figure, axes = plt.subplots(
        2, len(panels), figsize=(4 * len(panels), 3.2), height_ratios=[3, 1], layout="constrained", squeeze=False
    )
    for (top, bottom), (title, (mel, labels)) in zip(axes.T, panels.items(), strict=True):
        top.imshow(mel, origin="lower", aspect="auto", cmap="magma", vmin=-1.2, vmax=1.2, extent=(0, SECONDS, 0, 128))
        top.set_title(title, fontsize=9)
        top.set_xticks([])
        for number, colour in enumerate(COLOURS):
            strip = labels[number].numpy()
            time = np.arange(FRAMES) / 25
            bottom.fill_between(time, number, number + 0.85 * strip, step="post", color=colour, linewidth=0)
        bottom.set(xlim=(0, SECONDS), ylim=(0, len(CLASSES)), xlabel="time, s")
        bottom.set_yticks(np.arange(len(CLASSES)) + 0.4, CLASSES, fontsize=7)
    for top, bottom in axes.T[1:]:
        top.set_yticks([])
        bottom.set_yticks([])
    axes[0, 0].set_ylabel("mel bin")
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=70)
    plt.close(figure)
    Image.open(buffer).convert("RGB").quantize(192).save(file, optimize=True)


def main(folder: Path) -> None:
    """Write one picture per augmentation to the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    log_mel = LogMel()
    audio, labels = scene()
    mel = log_mel(audio)
    for name, draw in draws().items():
        on_waveform = name in WAVEFORM
        done = aug.apply(Batch(audio if on_waveform else mel, labels), [draw])
        after = log_mel(done.x) if on_waveform else done.x
        assert done.strong is not None
        panels = {"clip": (mel[0, 0], labels[0])}
        if hasattr(draw, "partner"):
            panels["partner"] = (mel[1, 0], labels[1])
        panels[name.replace("_", " ")] = (after[0, 0], done.strong[0])
        draw_picture(panels, folder / f"{name}.png")
    moved = log_mel(audio, *aug.draw_mel_range(torch.Generator().manual_seed(6)))
    draw_picture({"clip": (mel[0, 0], labels[0]), "mel jitter": (moved[0, 0], labels[0])}, folder / "mel_jitter.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "augmentations")
