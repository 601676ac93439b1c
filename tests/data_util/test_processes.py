"""Worker processes: results in order, deaths that cost one item, Ctrl-C that is not theirs."""

from __future__ import annotations

import os
import signal

import pytest
from torch.utils.data import DataLoader

from data_util.processes import leave_interrupts, map_in_processes


def square(number: int) -> int:
    if number in (5, 17):
        os._exit(1)
    return number**2


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_and_a_death_costs_one_item(workers: int) -> None:
    found = list(map_in_processes(square, range(20), workers, lambda number: -number))
    assert found == [-n if n in (5, 17) else n**2 for n in range(20)]
    assert list(map_in_processes(square, [], workers, lambda number: -number)) == []


class Handlers:
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> bool:
        return signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_loaders_leave_ctrl_c_to_the_main_process() -> None:
    assert next(iter(DataLoader(Handlers(), num_workers=1, worker_init_fn=leave_interrupts))).tolist() == [True]  # type: ignore[arg-type]
