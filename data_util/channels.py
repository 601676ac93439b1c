"""From several channels to one."""

from __future__ import annotations

import numpy as np

CHANNELS = ("mix", "first")  # words of --channels where each recording gives one clip
_CANCELLED = 0.05  # energy of a mix, as a share of what independent channels would give, below which they cancel


class ChannelMixer:
    """Make mono of blocks of one recording: one channel, or the mean of all.

    Where the channels cancel each other out in the mean (a cable with one inverted side), the loudest one is taken from
    there on, and `note` says so.
    """

    def __init__(self, channel: int | None = None) -> None:
        """Args: the channel to take, counted from 0; None for the mean."""
        self._channel = channel
        self._energies: np.ndarray | None = None  # of the channels so far
        self._mixed = 0.0  # energy of their mean so far
        self.note: str | None = None

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """[n, channels] -> [n]; IndexError for a channel that is not there."""
        n_channels = block.shape[1]
        if n_channels == 1 and not self._channel:
            return block[:, 0]
        if self._channel is not None:
            return block[:, self._channel]
        mono = block.mean(axis=1)
        energies = np.einsum("nc,nc->c", block, block, dtype=np.float64)
        self._energies = energies if self._energies is None else self._energies + energies
        self._mixed += float(np.dot(mono, mono))
        independent = float(self._energies.sum()) / n_channels**2
        if self._mixed >= _CANCELLED * independent:
            return mono
        self._channel = int(self._energies.argmax())
        self.note = f"its channels cancel each other out when mixed: channel {self._channel + 1} is taken"
        return block[:, self._channel]


def to_mono(audio: np.ndarray, channel: int | None = None) -> np.ndarray:
    """One recording [n, channels] as mono [n]; see `ChannelMixer`."""
    return ChannelMixer(channel)(audio)
