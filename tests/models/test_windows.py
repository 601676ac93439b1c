"""25 frames per second for audio of any length: times, seams, equality with the network's own 10 s."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from models import create_model
from models.registry import resample_frames
from models.transformers.vit_blocks import TransformerBackbone
from models.windows import window_starts, windowed_embedding
from tests.equality import assert_equal_outputs
from tests.golden_recipe import CONSTANTS, fill, wave
from tests.models.tiny_transformers import NAMES, make_tiny, tiny

FRAMES = {16_000: 25, 48_000: 75, 100_000: 157, 159_999: 250, 160_000: 250, 163_000: 255, 320_000: 500, 500_000: 782}


class Clock(TransformerBackbone):
    """Tells, in each token, the last mel frame of the patch that the token belongs to."""

    pad_value = 0.0
    embed_dim = 1

    def __init__(self, patch: int, tokens_per_patch: int, window: int, edge: int) -> None:
        super().__init__()
        self.patch_frames, self.tokens_per_patch = patch, tokens_per_patch  # type: ignore[misc]
        self.window_frames, self.edge_samples = window, edge  # type: ignore[misc]
        self.seen: list[tuple[int, ...]] = []

    def forward(self, mel: Tensor) -> Tensor:
        self.seen.append(tuple(mel.shape))
        patches = mel[:, 0, 0].unfold(1, self.patch_frames, self.patch_frames).amax(-1)
        return patches.repeat_interleave(self.tokens_per_patch, 1).unsqueeze(2)


CLOCKS = {  # patch, tokens per patch, window and edge of the five
    "BEATs": (16, 8, 998, 240),
    "ASIT": (16, 8, 998, 240),
    "M2D": (16, 1, 1001, -160),
    "ATST-F": (4, 1, 1001, -160),
    "fpasst": (4, 1, 1000, 0),
}


def test_clocks_are_like_the_five() -> None:
    for name, (patch, _, window, edge) in CLOCKS.items():
        backbone = tiny(name)
        assert (backbone.patch_frames, backbone.window_frames, backbone.edge_samples) == (patch, window, edge)


def read_clock(clock: Clock, n_frames: int, **options: int) -> Tensor:
    mel = torch.arange(n_frames, dtype=torch.float32).expand(2, 1, 3, n_frames)
    result = windowed_embedding(clock, mel, clock.window_frames, **options)
    assert torch.equal(result[0], result[1])
    return result[0, :, 0]


@pytest.mark.parametrize("name", CLOCKS)
@pytest.mark.parametrize("n_frames", [16, 20, 98, 111, 113, 500, 985])
def test_short_audio_is_not_stretched(name: str, n_frames: int) -> None:
    """Frame i is that of the audio at i * 40 ms, to the end."""
    clock = Clock(*CLOCKS[name])
    times = read_clock(clock, n_frames)
    patch = clock.patch_frames
    frames = torch.arange(len(times))
    if name == "M2D":  # one token for 160 ms is interpolated between the centres of the patches
        expected = (4.0 * frames + 9).clamp(15, n_frames - 1)
        inner = slice(0, max(1, len(times) - 10))  # the last patch is not full
        torch.testing.assert_close(times[inner], expected[inner])
        assert abs(float(times[-1]) - (4 * len(times) + 5)) <= patch
    else:
        expected = frames * 4 // patch * patch + patch - 1
        assert torch.equal(times, expected.clamp_max(n_frames - 1).float())


@pytest.mark.parametrize("name", CLOCKS)
@pytest.mark.parametrize("n_frames", [998, 1003, 1011, 1500, 1998, 2345, 6000])
def test_long_audio_keeps_its_times(name: str, n_frames: int) -> None:
    clock = Clock(*CLOCKS[name])
    times = read_clock(clock, n_frames)
    assert len(times) == clock.target_frames(n_frames)
    end = torch.arange(len(times)) * 4 + clock.patch_frames / 2 + 1.5  # of the patch, on average
    # 62 patches of 9.92 s are stretched to 10 s, as published: up to 80 ms
    slack = clock.patch_frames / 2 + (8 if clock.patch_frames == 16 else 2) + 4
    assert float((times - end).abs().max()) <= slack
    assert (times.diff() >= -0.5).all()


@pytest.mark.parametrize("n_frames", [998, 999, 1001, 1002, 1799, 1800, 3000, 36_001])
def test_windows_cover_everything_and_overlap(n_frames: int) -> None:
    starts = window_starts(n_frames, 998, 250, 50)
    assert starts[0] == 0
    assert n_frames - 3 <= starts[-1] + 998 <= n_frames
    assert all(start % 4 == 0 for start in starts)
    assert all(b - a <= 800 for a, b in itertools.pairwise(starts))
    assert len(set(starts)) == len(starts)


def test_memory_bound_does_not_change_the_result() -> None:
    clock = Clock(*CLOCKS["BEATs"])
    few = read_clock(clock, 6000, windows_per_pass=3)
    assert max(shape[0] for shape in clock.seen) == 3
    assert {shape[-1] for shape in clock.seen} == {998}
    assert torch.equal(few, read_clock(Clock(*CLOCKS["BEATs"]), 6000))


class Numbered(Clock):
    """Each window says its own number."""

    def forward(self, mel: Tensor) -> Tensor:
        first = mel[:, 0, 0, 0] > 0
        return first.float()[:, None, None].expand(-1, 250, 1)


def test_neighbours_are_cross_faded() -> None:
    """From the first window to the second the weight moves steadily, over the overlap and nowhere else."""
    times = read_clock(Numbered(*CLOCKS["BEATs"]), 998 + 800)
    assert len(times) == 450
    assert not times[:200].any()
    assert (times[250:] == 1).all()
    seam = times[200:250]
    assert (seam.diff() > 0).all()
    torch.testing.assert_close(seam + seam.flip(0), torch.ones(50))


@pytest.mark.parametrize("name", NAMES)
def test_ten_seconds_are_what_the_network_gives(name: str) -> None:
    backbone = fill(tiny(name), CONSTANTS)
    mel = backbone.mel_forward(wave(2))
    assert_equal_outputs(backbone.embed, lambda mel: resample_frames(backbone(mel), 250), mel, mel.flip(0), 1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_frames_follow_the_audio(name: str) -> None:
    backbone = tiny(name)
    for n_samples, frames in FRAMES.items():
        with torch.no_grad():
            embedding = backbone.embed(backbone.mel_forward(torch.zeros(1, n_samples)))
        assert embedding.shape == (1, frames, backbone.embed_dim), n_samples


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n_samples", [1, 400, 1000, 2799])
def test_a_few_milliseconds(name: str, n_samples: int) -> None:
    backbone = tiny(name)
    with torch.no_grad():
        embedding = backbone.embed(backbone.mel_forward(wave(1, n_samples)))
    assert 1 <= embedding.shape[1] <= 5
    assert embedding.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n_samples", [20_000, 250_000])
def test_batch_mates_do_not_matter(name: str, n_samples: int) -> None:
    backbone = fill(tiny(name), CONSTANTS)
    clips = wave(2, n_samples)
    clips[1] *= 0.01

    def together(clips: Tensor) -> Tensor:
        return backbone.embed(backbone.mel_forward(clips))

    def alone(clips: Tensor) -> Tensor:
        return torch.cat([together(clip[None]) for clip in clips])

    assert_equal_outputs(together, alone, clips, clips.flip(0), 1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_pass_the_windows(name: str) -> None:
    backbone = tiny(name)
    embedding = backbone.embed(backbone.mel_forward(wave(1, 200_000)))
    embedding[:, -1].square().sum().backward()
    assert all(p.grad is not None for key, p in backbone.named_parameters() if not backbone.is_unused(key))


@pytest.mark.parametrize("name", NAMES)
def test_detector(name: str, monkeypatch) -> None:
    """Heads and a sequence model run over the joined frames of all windows."""
    make_tiny(monkeypatch)
    model = create_model(name, seq_model_type="gru", seq_model_dim=16, n_classes_strong=5)
    with torch.no_grad():
        strong, weak = model(model.mel_forward(wave(2, 240_000)))
    assert strong.shape == (2, 5, 375)
    assert weak.shape == (2, 5)
