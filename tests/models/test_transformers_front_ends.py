"""Facts about the five front ends that golden numbers hardly see: filters, windows, silence, short clips, batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from models import create_model
from models.mel import kaldi_mel_bank
from models.transformers.atst_frame import AtstMel, htk_mel_bank
from models.transformers.kaldi import KaldiFbank, hanning_window, povey_window
from models.transformers.m2d import M2DMel, fourier_kernels, slaney_mel_bank
from tests.golden_recipe import wave
from tests.models.tiny_transformers import NAMES, make_tiny, tiny


def spans(filter_: torch.Tensor) -> tuple[int, int]:
    """First and last bin with a weight."""
    bins = filter_.nonzero().flatten()
    return int(bins[0]), int(bins[-1])


def test_kaldi_bank_of_beats_and_asit() -> None:
    bank = kaldi_mel_bank(20.0, 8000.0)
    assert bank.shape == (128, 257)
    assert float(bank.sum()) == pytest.approx(252.610, abs=1e-3)
    assert spans(bank[0]) == (1, 1)
    assert float(bank[0, 1]) == pytest.approx(0.80264, abs=1e-5)
    assert not bank[3].any()
    for row, peak in ((1, 0.0309668), (5, 0.0483987), (7, 0.0474595)):
        assert float(bank[row].max()) == pytest.approx(peak, abs=1e-5)
    np.testing.assert_allclose(bank[64, 57:61], [0.0523506, 0.700285, 0.659791, 0.0276799], atol=1e-5)
    assert spans(bank[64]) == (57, 60)
    assert spans(bank[127]) == (246, 255)
    for row, peak, at in ((10, 0.827913, 6), (40, 0.5228556, 28), (70, 0.7691954, 68)):
        assert (float(bank[row].max()), int(bank[row].argmax())) == (pytest.approx(peak, abs=1e-6), at)


def test_kaldi_bank_of_fpasst() -> None:
    bank = kaldi_mel_bank(0.0, 7000.0)
    assert float(bank.sum()) == pytest.approx(221.19673, abs=1e-4)
    assert not bank[0].any()
    assert (bank[1:].amax(1) > 0).all()
    for row, peak, at in ((10, 0.8391652, 5), (40, 0.5525669, 26), (70, 0.721085, 61)):
        assert (float(bank[row].max()), int(bank[row].argmax())) == (pytest.approx(peak, abs=1e-6), at)


def test_povey_window() -> None:
    window = povey_window()
    assert float(window.sum()) == pytest.approx(212.147, abs=1e-3)
    np.testing.assert_allclose(window[[1, 100, 199, 200]], [0.000265151, 0.556641, 0.999987, 0.999987], atol=1e-6)


def test_slaney_bank_and_kernels() -> None:
    bank = slaney_mel_bank()
    assert bank.shape == (80, 201)
    assert float(bank.sum()) == pytest.approx(2.0006985, abs=1e-6)
    np.testing.assert_allclose(bank[0, 2:4], [0.022368604, 0.0024186817], rtol=1e-6)
    assert spans(bank[0]) == (2, 3)
    for row, peak, at in ((10, 0.0177314, 11), (40, 0.01360263, 44), (70, 0.00474105, 137)):
        assert (float(bank[row].max()), int(bank[row].argmax())) == (pytest.approx(peak, abs=1e-7), at)
    wsin, wcos = fourier_kernels()
    assert float(wcos[3, 0, 5]) == pytest.approx(0.00149874599, rel=1e-6)
    assert float(wsin[3, 0, 5]) == pytest.approx(0.000359817088, rel=1e-6)


def test_m2d_front_end_equals_its_kernels() -> None:
    """The transform agrees with the convolution whose kernels the state dict carries."""
    front_end = M2DMel()
    x = torch.nn.functional.pad(wave(1, 16_000), (200, 200), mode="reflect")
    frames = x.unfold(-1, 400, 160)
    real, imag = (frames @ kernel[:, 0].T for kernel in (front_end.stft.wcos, front_end.stft.wsin))
    mel = (real.square() + imag.square()) @ front_end.mel_basis.T
    expected = ((mel + 2.0**-23).log() + 7.1) / 4.2
    torch.testing.assert_close(front_end(wave(1, 16_000))[:, 0], expected.transpose(1, 2), atol=1e-4, rtol=0)


def test_htk_bank() -> None:
    bank = htk_mel_bank()
    assert bank.shape == (513, 64)
    assert float(bank.sum()) == pytest.approx(484.497, abs=1e-3)
    np.testing.assert_allclose(bank[4:8, 0], [0.0869202, 0.630172, 0.832901, 0.309459], atol=1e-5)
    assert spans(bank[:, 0]) == (4, 7)
    assert spans(bank[:, 63]) == (461, 499)
    assert float(bank[:, 63].max()) == pytest.approx(0.980999, abs=1e-5)
    assert (bank.amax(0) > 0).all()
    window = AtstMel().mel_transform.spectrogram.window
    assert float(window.sum()) == pytest.approx(512.0, abs=1e-3)
    np.testing.assert_allclose(window[[0, 1, 512, 1023]], [0, 9.41236e-6, 1, 9.41236e-6], atol=1e-8)


@pytest.mark.parametrize("gain_and_centring", [(2.0**15, False), (1.0, True)])
def test_fbank_equals_a_slow_one(gain_and_centring: tuple[float, bool]) -> None:
    """Frame by frame and filter by filter in float64."""
    gain, centre = gain_and_centring
    window = povey_window() if gain > 1 else hanning_window()
    x = wave(1, 4000)
    result = KaldiFbank(window, 15.0, 13.0, gain, centre)(x)[0, 0]
    samples = x[0].double().numpy() * gain
    samples = samples - samples.mean() * centre
    assert result.shape == (128, 1 + (4000 - 400) // 160)
    bank = kaldi_mel_bank(20.0, 8000.0).double().numpy()
    for t in range(result.shape[1]):
        frame = samples[160 * t : 160 * t + 400]
        frame = frame - frame.mean()
        emphasised = [frame[0] * 0.03] + [frame[i] - 0.97 * frame[i - 1] for i in range(1, 400)]
        power = np.abs(np.fft.rfft(np.array(emphasised) * window.double().numpy(), 512)) ** 2
        column = [(math.log(max(float(weights @ power), 2.0**-23)) - 15.0) / 13.0 for weights in bank]
        np.testing.assert_allclose(result[:, t], column, atol=1e-4)


SILENCE = {"BEATs": -2.39169, "ASIT": -1.27759, "fpasst": -2.32362, "M2D": -2.10533, "ATST-F": -0.545037}
CONSTANT_ROW = {"BEATs": 3, "ASIT": 3, "fpasst": 0}  # filters that fall between two bins


@pytest.mark.parametrize("name", NAMES)
def test_silence(name: str) -> None:
    backbone = tiny(name)
    silence = backbone.mel_forward(torch.zeros(2, 8000))
    torch.testing.assert_close(silence, torch.full_like(silence, SILENCE[name]), atol=1e-5, rtol=0)
    if name in CONSTANT_ROW:
        row = backbone.mel_forward(wave(1, 8000))[0, 0, CONSTANT_ROW[name]]
        torch.testing.assert_close(row, torch.full_like(row, SILENCE[name]), atol=1e-5, rtol=0)
    if name != "M2D":  # which pads with zeros, as published
        assert backbone.pad_value == pytest.approx(SILENCE[name], abs=1e-5)


FRAMES = {  # of the mel, for these numbers of samples
    "BEATs": {400: 1, 2800: 16, 16_000: 98, 80_000: 498, 160_000: 998, 165_000: 1029, 320_000: 1998},
    "ASIT": {2800: 16, 3200: 18, 94_960: 592, 95_119: 592, 95_120: 593, 159_840: 997, 160_080: 999, 320_000: 1998},
    "fpasst": {400: 3, 16_000: 100, 159_840: 999, 159_999: 1000, 160_000: 1000, 160_080: 1001, 320_000: 2000},
    "M2D": {400: 3, 16_000: 101, 80_000: 501, 159_840: 1000, 160_000: 1001, 320_000: 2001, 320_160: 2002},
    "ATST-F": {513: 4, 16_000: 101, 80_000: 501, 159_999: 1000, 160_000: 1001, 160_479: 1003, 160_480: 1004},
}


@pytest.mark.parametrize("name", NAMES)
def test_frames_of_the_mel(name: str) -> None:
    backbone = tiny(name)
    for n_samples, frames in FRAMES[name].items():
        assert backbone.mel_forward(torch.zeros(1, n_samples)).shape[-1] == frames, n_samples


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n_samples", [1, 100, 399])
def test_very_short_clips_are_filled_up(name: str, n_samples: int) -> None:
    mel = tiny(name).mel_forward(wave(1, n_samples))
    assert mel.shape[-1] >= 1
    assert mel.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_clips_of_a_batch_do_not_influence_each_other(name: str) -> None:
    backbone = tiny(name)
    clips = wave(2, 24_000)
    clips[1] *= 1e-4
    together = backbone.mel_forward(clips)
    for i in range(2):
        torch.testing.assert_close(together[i : i + 1], backbone.mel_forward(clips[i : i + 1]), atol=1e-5, rtol=0)


def test_published_coupling_of_a_batch() -> None:
    """ATST-F's floor 80 dB below the loudest cell: of the batch by option, of the clip by default."""
    clips = wave(2)
    clips[1] *= 1e-4
    joint, own = AtstMel(batch_top_db=True)(clips), AtstMel()(clips)
    assert float(joint[0].mean()) == pytest.approx(0.442475, abs=1e-6)
    assert float(joint[1].mean()) == pytest.approx(-0.404402, abs=1e-6)
    assert float(joint[1].min()) == pytest.approx(-0.404402, abs=1e-6)
    assert float(own[1].mean()) == pytest.approx(-0.541945, abs=1e-6)
    assert float(own[1].min()) == pytest.approx(-0.545037, abs=1e-6)
    torch.testing.assert_close(joint[0], own[0])
    clips[1] *= 100
    joint, own = AtstMel(batch_top_db=True)(clips)[1], AtstMel()(clips)[1]
    assert [float(joint.mean()), float(own.mean())] == pytest.approx([-0.172697, -0.172717], abs=1e-6)
    assert float((joint - own).abs().max()) == pytest.approx(0.0837, abs=1e-4)


def test_published_coupling_can_be_switched_on_in_a_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    make_tiny(monkeypatch)
    clips = wave(2) * torch.tensor([[1.0], [1e-4]])
    model = create_model("ATST-F")
    model.model.atst_mel.batch_top_db = True
    torch.testing.assert_close(model.mel_forward(clips), AtstMel(batch_top_db=True)(clips))


@pytest.mark.parametrize("name", NAMES)
def test_always_float32_without_gradient(name: str) -> None:
    backbone = tiny(name).train()
    clips = wave(1, 16_000).requires_grad_()
    expected = backbone.mel_forward(clips)
    with torch.autocast("cpu", torch.bfloat16):
        mel = backbone.mel_forward(clips)
    assert mel.dtype == torch.float32
    assert not mel.requires_grad
    torch.testing.assert_close(mel, expected, atol=0, rtol=0)


def test_moved_filters_of_fpasst_leave_the_evaluation_alone() -> None:
    backbone = tiny("fpasst")
    clips = wave(1, 16_000)
    before = backbone.mel_forward(clips)
    moved = backbone.mel_forward(clips, fmin=9.0, fmax=6001.0)
    assert float((moved - before).abs().max()) > 0.1
    torch.testing.assert_close(backbone.mel_forward(clips), before, atol=0, rtol=0)
