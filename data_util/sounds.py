"""Sounds that can be made truthfully from their definition: tones, signals of telephones, alarms, clicks, noise.

Each function takes a random generator and a number of samples at 32 kHz and returns at most that many: a pattern of
bursts ends with its last whole burst, so that the sound ends where the array ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

RATE = 32_000  # Hz
_FADE = 0.005  # s, keeps switched tones free of clicks

Generator = Callable[[np.random.Generator, int], np.ndarray]


@dataclass(frozen=True)
class Sound:
    """A class with the function that makes it, how long it lasts (s) and how loud it is (dBFS, RMS).

    Attributes:
        mid: machine id in the vocabulary of AudioSet Strong.
        make: (random generator, samples) -> waveform of any level.
        seconds: shortest and longest duration.
        level: lowest and highest level.
    """

    mid: str
    make: Generator
    seconds: tuple[float, float] = (2.0, 6.0)
    level: tuple[float, float] = (-24.0, -12.0)


def _time(n: int) -> np.ndarray:
    return np.arange(n) / RATE


def _tones(n: int, *frequencies: float) -> np.ndarray:
    return np.sum([np.sin(2 * np.pi * f * _time(n)) for f in frequencies], axis=0)


def _square(phase: np.ndarray, n_harmonics: int = 4) -> np.ndarray:
    """Odd harmonics of a phase in cycles; band-limited, where a hard square wave would alias."""
    return np.sum([np.sin(2 * np.pi * k * phase) / k for k in range(1, 2 * n_harmonics, 2)], axis=0)


def _bursts(audio: np.ndarray, spans: list[tuple[float, float]]) -> np.ndarray:
    """Let audio through in these spans (s) only, with short fades; cut after the last span that fits whole."""
    whole = [(round(a * RATE), round(b * RATE)) for a, b in spans if round(b * RATE) <= len(audio)]
    envelope = np.zeros(whole[-1][1] if whole else len(audio))
    fade = np.sin(np.linspace(0, np.pi / 2, round(_FADE * RATE))) ** 2
    for first, stop in whole:
        envelope[first:stop] = 1.0
        envelope[first : first + len(fade)] = fade
        envelope[stop - len(fade) : stop] = fade[::-1]
    return audio[: len(envelope)] * (envelope if whole else 1.0)


def _cadence(audio: np.ndarray, on: float, off: float) -> np.ndarray:
    """Switch audio on and off regularly (seconds each)."""
    count = int(len(audio) / RATE / (on + off)) + 1
    return _bursts(audio, [(k * (on + off), k * (on + off) + on) for k in range(count)])


def _strikes(n: int, times: np.ndarray, strike: Callable[[int], np.ndarray]) -> np.ndarray:
    """Put the k-th strike at the k-th time (s); they may overlap."""
    audio = np.zeros(n)
    for k, first in enumerate(np.round(times * RATE).astype(int)):
        piece = strike(k)[: n - first]
        audio[first : first + len(piece)] += piece
    return audio


def _damped(frequency: float, decay: float, seconds: float) -> np.ndarray:
    t = _time(round(seconds * RATE))
    return np.sin(2 * np.pi * frequency * t) * np.exp(-t / decay)


def _earpiece(audio: np.ndarray) -> np.ndarray:
    """A small loudspeaker driven hard: adds the harmonics and differences that real telephone tones have."""
    return np.tanh(3.0 * audio)


def noise(rng: np.random.Generator, n: int) -> np.ndarray:
    """White noise, or pink noise (power falls by 3 dB per octave)."""
    white = rng.standard_normal(n)
    if rng.random() < 0.5:
        return white
    frequency = np.fft.rfftfreq(n, 1 / RATE)
    return np.fft.irfft(np.fft.rfft(white) / np.sqrt(np.maximum(frequency, 30.0)), n)


def chirp_tone(rng: np.random.Generator, n: int) -> np.ndarray:
    """Exponential upward sweeps through four octaves, one after the other."""
    seconds, low = rng.uniform(0.3, 0.6), rng.uniform(300, 400)
    octaves = 4.0 * np.mod(_time(n) / seconds, 1.0)
    audio = np.sin(2 * np.pi * np.cumsum(low * 2**octaves) / RATE)
    return _cadence(audio, seconds - 0.01, 0.01)


def beep(rng: np.random.Generator, n: int) -> np.ndarray:
    """A quick regular row of short pure tones near 3 kHz, as small devices give them."""
    return _cadence(_tones(n, rng.uniform(2900, 3300)), rng.uniform(0.1, 0.16), rng.uniform(0.05, 0.08))


def reversing_beeps(rng: np.random.Generator, n: int) -> np.ndarray:
    """The warning of a reversing lorry: a harsh tone of 1.2 kHz, switched about twice a second."""
    return _cadence(_square(rng.uniform(1150, 1300) * _time(n)), rng.uniform(0.25, 0.35), rng.uniform(0.12, 0.16))


def dial_tone(rng: np.random.Generator, n: int) -> np.ndarray:
    """350 Hz and 440 Hz without a break (North America), in a telephone's earpiece."""
    return _earpiece(_tones(n, 350, 440))


def busy_signal(rng: np.random.Generator, n: int) -> np.ndarray:
    """480 Hz and 620 Hz, a quarter of a second on, a quarter off (fast busy, North America), in an earpiece."""
    return _cadence(_earpiece(_tones(n, 480, 620)), 0.25, 0.25)


def dtmf(rng: np.random.Generator, n: int) -> np.ndarray:
    """Random digits on a push-button telephone: one of four low and one of four high tones each (ITU-T Q.23)."""
    on, off = rng.uniform(0.12, 0.2), rng.uniform(0.05, 0.1)
    period = round((on + off) * RATE)
    digits = [
        _tones(period, rng.choice([697, 770, 852, 941]), rng.choice([1209, 1336, 1477, 1633]))
        for _ in range(n // period + 1)
    ]
    return _cadence(np.concatenate(digits)[:n], on, off)


def mains_hum(rng: np.random.Generator, n: int) -> np.ndarray:
    """50 Hz or 60 Hz with its harmonics, the even ones strong, as a transformer hums."""
    base, t = rng.choice([50.0, 60.0]), _time(n)
    gains = [(1.0 if k % 2 == 0 else 0.4) * k**-0.7 * rng.uniform(0.6, 1.0) for k in range(1, 13)]
    return np.sum([g * np.sin(2 * np.pi * base * k * t + k) for k, g in enumerate(gains, start=1)], axis=0)


def buzzer(rng: np.random.Generator, n: int) -> np.ndarray:
    """A sawtooth of 150 Hz to 260 Hz, all harmonics up to 6 kHz."""
    base, t = rng.uniform(150, 260), _time(n)
    return np.sum([np.sin(2 * np.pi * base * k * t) / k**0.6 for k in range(1, int(6000 / base))], axis=0)


def siren(rng: np.random.Generator, n: int) -> np.ndarray:
    """The yelp of a siren: up and down between about 500 Hz and 1.5 kHz twice a second, with harmonics."""
    middle, period = rng.uniform(800, 1000), rng.uniform(0.4, 0.7)
    frequency = middle * 2 ** (0.75 * np.sin(2 * np.pi * (_time(n) / period + rng.random())))
    phase = np.cumsum(frequency) / RATE
    return np.sum([np.sin(2 * np.pi * k * phase) / k for k in (1, 2, 3)], axis=0)


def alarm_clock(rng: np.random.Generator, n: int) -> np.ndarray:
    """Groups of four quick harsh beeps above 2 kHz."""
    audio = _square(rng.uniform(2000, 2500) * _time(n), 3)
    on, group = rng.uniform(0.05, 0.07), rng.uniform(0.65, 0.85)
    starts = [k * group + 2 * i * on for k in range(int(n / RATE / group) + 1) for i in range(4)]
    return _bursts(audio, [(start, start + on) for start in starts])


def clicking(rng: np.random.Generator, n: int) -> np.ndarray:
    """Short broadband clicks at irregular intervals, about ten per second."""
    gaps = rng.uniform(0.04, 0.16, size=int(n / RATE / 0.04) + 1)
    times = np.concatenate([[0.0], np.cumsum(gaps)])
    times = times[times < n / RATE - 0.02]
    envelope = np.exp(-_time(round(0.02 * RATE)) / 0.003)
    audio = _strikes(n, times, lambda k: rng.standard_normal(len(envelope)) * envelope)
    return audio[: round((times[-1] + 0.02) * RATE)]


def hiss(rng: np.random.Generator, n: int) -> np.ndarray:
    """Noise above 4 kHz, as escaping steam or air makes it."""
    spectrum = np.fft.rfft(rng.standard_normal(n))
    frequency = np.fft.rfftfreq(n, 1 / RATE)
    return np.fft.irfft(spectrum / (1 + (4000 / np.maximum(frequency, 1.0)) ** 12), n)


def pulse(rng: np.random.Generator, n: int) -> np.ndarray:
    """A regular row of dull pulses, twelve to eighteen per second."""
    interval, frequency = 1 / rng.uniform(12, 18), rng.uniform(180, 300)
    times = np.arange(0, n / RATE - 0.04, interval)
    thump = _damped(frequency, 0.008, 0.04)
    return _strikes(n, times, lambda k: thump)[: round((times[-1] + 0.04) * RATE)]


SOUNDS: tuple[Sound, ...] = (
    Sound("/m/0chx_", noise, level=(-28.0, -18.0)),
    Sound("/m/07rjwbb", hiss, level=(-30.0, -20.0)),
    Sound("/m/0hdsk", chirp_tone),
    Sound("/m/02fs_r", beep),
    Sound("/m/02rhddq", reversing_beeps),
    Sound("/m/015jpf", dial_tone),
    Sound("/m/01z47d", busy_signal),
    Sound("/m/02c8p", dtmf),
    Sound("/m/06xkwv", mains_hum, level=(-22.0, -10.0)),
    Sound("/m/030rvx", buzzer),
    Sound("/m/03kmc9", siren),
    Sound("/m/046dlr", alarm_clock),
    Sound("/m/07qc9xj", clicking, level=(-30.0, -22.0)),
    Sound("/m/07pt_g0", pulse, level=(-24.0, -14.0)),
)
