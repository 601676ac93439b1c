"""Windows over audio of any length, and scores blended where the windows overlap; memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

SAMPLES_PER_FRAME = 640  # 16,000 samples per second / 25 frames per second
# Audio shorter than a window: measured on pieces of 1 to 4 s, the network hears more when they are not filled up with
# silence. Few different lengths let batches fill, and spare runtimes that prepare for each length.
SHORT_STEP, SHORTEST = 5, 25  # frames


@dataclass(frozen=True)
class WindowPlan:
    """How windows lie over the audio.

    Arguments:
        window: length of a window, frames.
        overlap: frames shared by neighbouring windows, 0 <= overlap < window. With 0 the windows stand side by
            side and the last one is zero-padded; otherwise the last one is moved back to end with the audio.
        samples_per_frame: samples that one frame stands for.
        pad_short: fill audio that is shorter than a window with zeros, which the published form does and which some
            networks need; otherwise its window is as long as the audio (up to `SHORT_STEP` frames more).
    """

    window: int = 250
    overlap: int = 50
    samples_per_frame: int = SAMPLES_PER_FRAME
    pad_short: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.window:
            raise ValueError(f"overlap must be in [0, window): overlap {self.overlap}, window {self.window} frames")

    @property
    def hop(self) -> int:
        """Frames from one window to the next."""
        return self.window - self.overlap

    @property
    def window_samples(self) -> int:
        """Samples in a window."""
        return self.window * self.samples_per_frame

    def only_window(self, n_frames: int) -> int:
        """Frames of the only window of an audio of `n_frames` frames, at most those of a window."""
        if self.pad_short or self.overlap == 0:
            return self.window
        return min(self.window, max(SHORTEST, -(-n_frames // SHORT_STEP) * SHORT_STEP))

    def count_frames(self, n_samples: int) -> int:
        """Frames of an audio of `n_samples` samples; the last one may be cut short by the end."""
        return -(-n_samples // self.samples_per_frame)


class WindowSplitter:
    """Cut audio that arrives in pieces of any size into windows.

    `push` and `finish` yield (first frame, samples [window_samples]); only the last window of the audio can hold
    zeros at its end, and only a window that is alone can be shorter.
    """

    def __init__(self, plan: WindowPlan) -> None:
        self.plan = plan
        self.n_samples = 0
        self._next = 0  # first frame of the next window
        self._kept = np.empty(0, np.float32)  # the newest samples, up to one window before the next one

    def push(self, samples: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Take samples [n]; yield the windows that are now complete."""
        plan = self.plan
        self.n_samples += len(samples)
        kept = np.concatenate([self._kept, samples])
        while True:
            begin = len(kept) - self.n_samples + self._next * plan.samples_per_frame
            # The window is held back until audio after it is known: the last one is cut by `finish`.
            if begin + plan.window_samples >= len(kept):
                break
            yield self._next, kept[begin : begin + plan.window_samples]
            self._next += plan.hop
        # `finish` may need a window that ends with the audio, so one window of the past is enough.
        self._kept = kept[-plan.window_samples - plan.samples_per_frame :].copy()

    def finish(self) -> Iterator[tuple[int, np.ndarray]]:
        """End the audio here; yield the last window. Nothing comes out of empty audio."""
        plan = self.plan
        n_frames = plan.count_frames(self.n_samples)
        if n_frames == 0:
            return
        start = self._next if plan.overlap == 0 else max(0, n_frames - plan.window)
        begin = len(self._kept) - self.n_samples + start * plan.samples_per_frame
        length = plan.window if start > 0 else plan.only_window(n_frames)
        window = np.zeros(length * plan.samples_per_frame, np.float32)
        tail = self._kept[begin:]
        window[: len(tail)] = tail
        yield start, window


def blend_weights(plan: WindowPlan) -> np.ndarray:
    """Weight of each frame of a window, float32 [window]: straight ramps over the overlap on both sides.

    A window knows little about what surrounds its first and last frames, so these count least.
    """
    ramp = np.arange(1, plan.overlap + 1) / (plan.overlap + 1)
    weights = np.ones(plan.window)
    weights[: plan.overlap] = np.minimum(weights[: plan.overlap], ramp)
    weights[plan.window - plan.overlap :] = np.minimum(weights[plan.window - plan.overlap :], ramp[::-1])
    return weights.astype(np.float32)


class ScoreBlender:
    """Average the scores of overlapping windows, weighted by `blend_weights`, in order of their start.

    Holds the scores of one window at most: frames before the newest window's start are final.
    """

    def __init__(self, plan: WindowPlan) -> None:
        self.plan = plan
        self._weights = blend_weights(plan)
        self._start = 0  # first frame that is held
        self._sum: np.ndarray | None = None  # [C, held frames]
        self._weight: np.ndarray = np.zeros(0, np.float32)

    def add(self, start: int, scores: np.ndarray) -> np.ndarray:
        """Take the scores [C, frames] of the window that starts at frame `start`.

        Returns: the final scores [C, t] of the frames before `start` that have not been returned yet.
        """
        if self._sum is None:
            self._sum = np.zeros((len(scores), 0), np.float32)
        n_frames = scores.shape[1]
        n_new = start - self._start + n_frames - len(self._weight)
        total = np.pad(self._sum, ((0, 0), (0, n_new)))
        weight = np.pad(self._weight, (0, n_new))
        total[:, start - self._start :] += scores * self._weights[:n_frames]
        weight[start - self._start :] += self._weights[:n_frames]
        done = start - self._start
        block = total[:, :done] / weight[:done]
        self._sum, self._weight, self._start = total[:, done:], weight[done:], start
        return block

    def finish(self, n_frames: int) -> np.ndarray:
        """The remaining scores [C, t] of an audio of `n_frames` frames."""
        if self._sum is None:
            return np.zeros((0, 0), np.float32)
        keep = n_frames - self._start
        return self._sum[:, :keep] / self._weight[:keep]


class RunningFilter:
    """Apply a filter along time to scores that arrive in blocks, as if they had come at once.

    Arguments:
        function: scores [C, T] -> [C, T]; frame t may depend on the frames t - reach ... t + reach.
        reach: frames.
    """

    def __init__(self, function, reach: int) -> None:  # type: ignore[no-untyped-def]
        self.function, self.reach = function, reach
        self._kept: np.ndarray | None = None
        self._ready = 0  # leading frames of `_kept` that have been returned

    def push(self, scores: np.ndarray) -> np.ndarray:
        """Take the next scores [C, t]; return the filtered frames that later ones cannot change."""
        if self.reach == 0:
            return self.function(scores)
        kept = scores if self._kept is None else np.concatenate([self._kept, scores], axis=1)
        stop = kept.shape[1] - self.reach
        if stop <= self._ready:
            self._kept = kept
            return scores[:, :0]
        block = self.function(kept)[:, self._ready : stop]
        # The filter mirrors frames at the edges of what it gets: of the past, twice its reach is kept, so that the
        # mirrored ones have no say; and it is never shorter than the reach when the audio ends.
        first = max(0, stop - 2 * self.reach)
        self._kept, self._ready = kept[:, first:], stop - first
        return block

    def finish(self) -> np.ndarray:
        """The remaining frames."""
        if self._kept is None:
            return np.zeros((0, 0), np.float32)
        return self.function(self._kept)[:, self._ready :]
