"""The HEAR API, by the checks of hear-validator 2021.0.6 (which itself needs TensorFlow) and of the specification.

What the validator checks, in its order: `load_model` exists, works with and without a file, and returns a
torch.nn.Module; `sample_rate` is a known one; both embedding sizes are whole numbers; timestamp embeddings are float32
[sounds, stamps, size]; their stamps are [sounds, stamps], regular to 1 ms and at most 50 ms apart, begin within the
first interval, and end within the last one but not after the audio; scene embeddings are float32 [sounds, size].
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import hear_api
import models
from errors import UserError
from models.checkpoints import METADATA_KEY
from tests.equality import assert_different_outputs, assert_equal_outputs
from tests.golden_recipe import calibrated_model, wave
from tests.models.tiny_transformers import make_tiny

KNOWN_RATES = (16_000, 22_050, 32_000, 44_100, 48_000)
MODELS = [("fmn04", None), ("fmn04", "gru"), ("BEATs", None), ("ATST-F", None), ("M2D", None)]


@pytest.fixture(scope="module", params=MODELS, ids=str)
def embedder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[hear_api.Embedder]:
    """A model that has been through a checkpoint file."""
    name, sequence = request.param
    path = tmp_path_factory.mktemp("hear") / "best.ckpt"
    with pytest.MonkeyPatch.context() as monkeypatch:
        make_tiny(monkeypatch)
        model = calibrated_model(models.create_model(name, seq_model_type=sequence, seq_model_dim=32))
        torch.save({"state_dict": model.state_dict(), METADATA_KEY: model.metadata()}, path)
        yield hear_api.load_model(str(path))


def noise(n_sounds: int, seconds: float, seed: int = 0) -> torch.Tensor:
    return torch.rand(n_sounds, int(seconds * 16_000), generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_checks_of_the_validator(embedder: hear_api.Embedder) -> None:
    assert inspect.signature(hear_api.load_model).parameters["model_file_path"].default is not inspect.Parameter.empty
    assert isinstance(embedder, torch.nn.Module)
    assert embedder.sample_rate in KNOWN_RATES
    assert type(embedder.scene_embedding_size) is int and type(embedder.timestamp_embedding_size) is int
    for seconds in (1.07, 1.98, 4.0, 1.09, 2.0):  # the validator's, and two more
        embeddings, stamps = hear_api.get_timestamp_embeddings(noise(2, seconds), embedder)
        assert embeddings.dtype == stamps.dtype == torch.float32
        assert embeddings.shape == (2, stamps.shape[1], embedder.timestamp_embedding_size)
        steps = np.diff(stamps.numpy())
        assert steps.max() <= 50 and np.abs(steps - steps.mean()).max() <= 1
        assert 0 < float(stamps.min()) <= steps.mean()
        assert 1000 * seconds - steps.mean() <= float(stamps.max()) <= 1000 * seconds
    scenes = hear_api.get_scene_embeddings(noise(4, 2.74), embedder)
    assert scenes.dtype == torch.float32 and scenes.shape == (4, embedder.scene_embedding_size)


@pytest.mark.parametrize("n_samples", [0, 300, 641, 16_123])
def test_any_length(embedder: hear_api.Embedder, n_samples: int) -> None:
    audio = wave(2, 16_123)[:, :n_samples]
    embeddings, stamps = hear_api.get_timestamp_embeddings(audio, embedder)
    scenes = hear_api.get_scene_embeddings(audio, embedder)
    assert embeddings.shape[1] == stamps.shape[1] == max(1, round(n_samples / 640))
    assert embeddings.isfinite().all() and scenes.isfinite().all()
    assert embeddings.device == audio.device and not embeddings.requires_grad


def test_deterministic_and_untouched_by_other_clips(
    embedder: hear_api.Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = wave(3, 24_000)
    together, _ = hear_api.get_timestamp_embeddings(audio, embedder)
    assert torch.equal(together, hear_api.get_timestamp_embeddings(audio, embedder)[0])
    tolerance = 1e-5 * float(together.abs().max())
    assert_different_outputs(together[0], together[1], tolerance)
    alone, _ = hear_api.get_timestamp_embeddings(audio[1:2], embedder)
    torch.testing.assert_close(together[1:2], alone, atol=tolerance, rtol=1e-5)
    beside_noise, _ = hear_api.get_timestamp_embeddings(torch.cat([audio[1:2], noise(1, 1.5) * 100]), embedder)
    torch.testing.assert_close(beside_noise[:1], alone, atol=tolerance, rtol=1e-5)
    monkeypatch.setattr(hear_api, "PASS_SAMPLES", 24_000)  # one clip at a time
    torch.testing.assert_close(hear_api.get_timestamp_embeddings(audio, embedder)[0], together, atol=1e-4, rtol=1e-4)


def test_embeddings_are_what_the_heads_see(embedder: hear_api.Embedder) -> None:
    model, audio = embedder.detector, wave(2, 32_000)

    def logits(audio: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return model(model.mel_forward(audio))

    def from_embeddings(audio: torch.Tensor) -> tuple[torch.Tensor, ...]:
        frames, _ = hear_api.get_timestamp_embeddings(audio, embedder)
        scenes = hear_api.get_scene_embeddings(audio, embedder)
        return model.strong_head(frames), model.weak_head(scenes[:, None])

    assert_equal_outputs(from_embeddings, logits, audio, audio.flip(0), 2e-5, relative=True)


def test_files_and_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = calibrated_model(models.create_model("fmn04", n_classes_weak=527))
    path = tmp_path / "fmn04_weak.pt"
    torch.save({f"net.{key}": value for key, value in model.state_dict().items()}, path)  # as it is released
    found = hear_api.load_model(str(path)).detector
    mel = model.mel_forward(wave(2, 32_000))
    assert_equal_outputs(found.embed, model.embed, mel, mel.flip(0), 0)
    wanted = []
    monkeypatch.setattr("models.checkpoints.fetch", lambda card: wanted.append(card.name) or path)
    hear_api.load_model("fmn04_weak")
    monkeypatch.setattr(hear_api, "DEFAULT_MODEL", "fmn04_weak")
    hear_api.load_model()
    assert wanted == ["fmn04_weak", "fmn04_weak"]
    with pytest.raises(UserError, match=r"no_such\.pt"):
        hear_api.load_model(str(tmp_path / "no_such.pt"))


def test_wrong_shape() -> None:
    embedder = hear_api.Embedder(models.create_model("fmn04"))
    with pytest.raises(ValueError, match=r"n_sounds, n_samples"):
        embedder(torch.zeros(16_000))
