"""What holds for every augmentation: same seed same result, p = 0 changes nothing, labels and pseudo labels agree."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from errors import UserError
from helpers.augment import (
    AugmentOptions,
    Batch,
    ImpulseResponses,
    apply,
    apply_signal,
    augment_mel,
    augment_waveform,
    draw_mel,
    draw_waveform,
)

WAVEFORM: dict[str, Any] = {"dir_p": 1.0, "gain_db": 6, "roll_seconds": 0.125, "wavmix_p": 1.0}
MEL: dict[str, Any] = {
    "frame_shift_range": 0.125,
    "freq_mask_bins": 16,
    "time_mask_frames": 80,
    "mixup_p": 1.0,
    "mixstyle_p": 1.0,
    "freq_mixstyle_p": 1.0,
    "max_time_mask_size": 0.3,
    "filter_augment_p": 1.0,
    "freq_warp_p": 1.0,
}
EACH = [*WAVEFORM, *MEL]
RESPONSES = ImpulseResponses(torch.nn.functional.normalize(torch.randn(3, 40), dim=1), torch.tensor([0, 5, 9]))


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_batch(mel: bool, n_clips: int = 4) -> Batch:
    g = seeded(1)
    shape = (n_clips, 1, 32, 200) if mel else (n_clips, 32_000)
    return Batch(
        torch.randn(shape, generator=g),
        strong=(torch.rand(n_clips, 6, 50, generator=g) < 0.3).float(),
        pseudo=torch.rand(n_clips, 6, 50, generator=g),
        has_pseudo=torch.rand(n_clips, generator=g) < 0.7,
        weak=(torch.rand(n_clips, 9, generator=g) < 0.3).float(),
        weak_pseudo=torch.rand(n_clips, 9, generator=g),
        weak_known=torch.rand(n_clips, generator=g) < 0.7,
    )


def augment(batch: Batch, options: AugmentOptions, generator: torch.Generator) -> Batch:
    if batch.x.dim() == 2:
        return augment_waveform(batch, options, generator, responses=RESPONSES)
    return augment_mel(batch, options, generator)


def run(options: dict[str, Any], *, mel: bool, seed: int = 3, n_clips: int = 4, **changes: Any) -> Batch:
    batch = dataclasses.replace(make_batch(mel, n_clips), **changes)
    return augment(batch, AugmentOptions(**options), seeded(seed))


@pytest.mark.parametrize("mel", [False, True])
def test_nothing_asked_for_changes_and_draws_nothing(mel: bool) -> None:
    batch, generator = make_batch(mel), seeded()
    before = generator.get_state()
    after = augment(batch, AugmentOptions(), generator)
    assert after.x is batch.x and after.strong is batch.strong
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("per_clip", [False, True])
def test_every_augmentation_changes_the_signal_and_is_repeatable(name: str, per_clip: bool) -> None:
    options = {name: {**WAVEFORM, **MEL}[name], "per_clip": per_clip}
    original, mel = make_batch(name in MEL).x, name in MEL
    first, again = run(options, mel=mel), run(options, mel=mel)
    other = run(options, mel=mel, seed=4)
    assert first.x.shape == original.shape and first.x.isfinite().all()
    for field in dataclasses.fields(Batch):
        a, b = getattr(first, field.name), getattr(again, field.name)
        assert (a is None and b is None) or torch.equal(a, b)
    assert not torch.equal(first.x, other.x)
    assert not torch.equal(first.x, original)


@pytest.mark.parametrize("name", [n for n in EACH if n.endswith("_p")])
def test_a_tiny_probability_leaves_clips_bit_for_bit(name: str) -> None:
    for per_clip in (False, True):
        changed = run({name: 1e-9, "per_clip": per_clip}, mel=name in MEL)
        original = make_batch(name in MEL)
        assert torch.equal(changed.x, original.x)
        assert torch.equal(changed.strong, original.strong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["wavmix_p", "mixup_p", "mixstyle_p", "filter_augment_p", "freq_warp_p"])
def test_per_clip_coins_pick_some_clips(name: str) -> None:
    mel = name in MEL
    changed = run({name: 0.5, "per_clip": True}, mel=mel, n_clips=32).x != make_batch(mel, 32).x
    assert 4 < changed.flatten(1).any(1).sum() < 28


@pytest.mark.parametrize("mel", [False, True])
@pytest.mark.parametrize("per_clip", [False, True])
def test_pseudo_labels_take_the_way_of_the_labels(mel: bool, per_clip: bool) -> None:
    strong = make_batch(mel).strong
    options = {**(MEL if mel else WAVEFORM), "per_clip": per_clip}
    done = run(options, mel=mel, pseudo=strong, has_pseudo=None)
    assert not torch.equal(done.strong, strong)  # type: ignore[arg-type]
    assert torch.equal(done.strong, done.pseudo)  # type: ignore[arg-type]
    for targets in (done.strong, done.weak, done.weak_pseudo):
        assert targets is not None and targets.min() >= 0 and targets.max() <= 1


def test_labels_follow_the_sound() -> None:
    """A tone whose mel is its own label map stays under its labels through shift, mask and mixup."""
    labels = (torch.rand(8, 1, 50, generator=seeded(5)) < 0.4).float()
    mel = labels.repeat_interleave(4, -1)[:, :, None].expand(8, 1, 32, 200).contiguous()
    options = AugmentOptions(frame_shift_range=0.2, mixup_p=1.0, max_time_mask_size=0.4, per_clip=True)
    done = augment_mel(Batch(mel, strong=labels), options, seeded())
    assert done.strong is not None
    # shifts by mel frames that are no multiple of 4 leave up to two mel frames of difference at each edge
    inside = done.x[:, 0, 0].view(8, 50, 4)
    steady = (inside == inside[..., :1]).all(-1)
    assert steady.float().mean() > 0.3
    middle = done.x[:, 0, 0, 2::4]
    assert (middle - done.strong[:, 0]).abs()[steady].max() < 1e-6


def test_pipeline_keeps_the_published_order() -> None:
    everything = AugmentOptions(**WAVEFORM, **MEL)
    waveform = draw_waveform(everything, 4, 32_000, seeded(), responses=RESPONSES)
    assert [type(d).__name__ for d in waveform] == ["DeviceResponse", "Gain", "Shift", "Wavmix"]
    mel = draw_mel(everything, (4, 1, 32, 200), 50, seeded())
    names = ["Shift", "FreqMask", "TimeMask", "Mixup", "Mixstyle", "Mixstyle", "TimeMask", "Filter", "FreqWarp"]
    assert [type(d).__name__ for d in mel] == names


def test_teacher_gets_the_same_draws() -> None:
    options = AugmentOptions(**MEL, per_clip=True)
    batch = make_batch(True)
    draws = draw_mel(options, batch.x.shape, 50, seeded())
    assert torch.equal(apply_signal(batch.x, draws), apply(batch, draws).x)
    assert apply_signal(torch.randn(4, 1, 64, 99), draws).shape == (4, 1, 64, 99)


def test_global_random_states_are_not_touched() -> None:
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    run({**MEL, "per_clip": True}, mel=True)
    run(WAVEFORM, mel=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()  # type: ignore[index]


class CountOperations(TorchDispatchMode):
    """Counts every tensor operation that runs inside."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mel", [False, True])
def test_work_is_vectorised(mel: bool) -> None:
    """The number of tensor operations does not depend on the number of clips."""
    counts = []
    for n_clips in (2, 16):
        batch = make_batch(mel, n_clips)
        with CountOperations() as operations:
            augment(batch, AugmentOptions(**(MEL if mel else WAVEFORM), per_clip=True), seeded())
        counts.append(operations.count)
    assert counts[0] == counts[1] > 10


def test_a_single_clip_works() -> None:
    for mel, options in ((False, WAVEFORM), (True, MEL)):
        assert run({**options, "per_clip": True}, mel=mel, n_clips=1).x.isfinite().all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("wavmix_p", 1.5),
        ("mixup_p", -0.1),
        ("freq_warp_p", float("nan")),
        ("frame_shift_range", 2.0),
        ("mixup_alpha", 0.0),
        ("max_time_mask_size", 0.05),
        ("gain_db", 1.5),
        ("gain_db", -1),
        ("roll_seconds", -1.0),
        ("freq_mask_bins", -1),
        ("time_mask_frames", -1),
    ],
)
def test_bad_options_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"{name} is {value}"):
        AugmentOptions(**{name: value})


def test_missing_impulse_responses_are_refused() -> None:
    with pytest.raises(UserError, match="dir_p"):
        draw_waveform(AugmentOptions(dir_p=0.5), 4, 1000, seeded())


@pytest.mark.cuda
@pytest.mark.parametrize("mel", [False, True])
def test_gpu_gives_what_the_cpu_gives(mel: bool) -> None:
    options = AugmentOptions(**(MEL if mel else WAVEFORM), per_clip=True)
    batch = make_batch(mel)
    values = {f.name: getattr(batch, f.name).cuda() for f in dataclasses.fields(Batch)}
    on_gpu = augment(Batch(**values), options, seeded())
    on_cpu = augment(batch, options, seeded())
    for field in dataclasses.fields(Batch):
        a, b = getattr(on_gpu, field.name), getattr(on_cpu, field.name)
        if b is not None:
            torch.testing.assert_close(a.cpu(), b, rtol=1e-4, atol=1e-4)
