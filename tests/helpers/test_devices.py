"""How processes on one CPU share its cores."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import config
from helpers import devices


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("device", "n_devices", "n_cores", "threads", "left"),
    [
        ("cpu", 2, 8, 8, 4),
        ("cpu", 2, 8, 3, 3),  # fewer than its share, as OMP_NUM_THREADS asks for
        ("cpu", 4, 2, 2, 1),
        ("cpu", 1, 2, 4, 4),  # a single process keeps what it was given
        ("cuda", 2, 8, 8, 8),
    ],
)
def test_processes_on_one_cpu_have_a_share_of_its_cores_each(
    device: str, n_devices: int, n_cores: int, threads: int, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "n_cores", lambda: n_cores)
    torch.set_num_threads(threads)
    devices.share_cores(config.RunOptions(num_devices=n_devices), device)
    assert torch.get_num_threads() == left
