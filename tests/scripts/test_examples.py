"""The samples for torchrun and SLURM: a job that is sent again goes on with what there is of its run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import config

EXAMPLES = Path(__file__).parents[2] / "examples"


def command(script: str, tmp_path: Path) -> list[str]:
    """The options with which an example starts the training script, in place of which a stub writes them down."""
    stub = tmp_path / "bin" / {"torchrun.sh": "torchrun", "train.sbatch": "srun"}[script]
    stub.parent.mkdir(exist_ok=True)
    stub.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)
    slurm = {"SLURM_NNODES": "1", "SLURM_NTASKS_PER_NODE": "2", "SLURM_CPUS_PER_TASK": "1"}
    run = {"DATA": str(tmp_path), "NAME": "fmn10+tf", "OUT": str(tmp_path / "runs"), "GPUS": "2", **slurm}
    environment = {**os.environ, **run, "PATH": f"{stub.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", EXAMPLES / script], env=environment, capture_output=True, text=True, check=True)
    words = done.stdout.splitlines()
    return words[words.index("ex_audioset_strong.py") + 1 :]


@pytest.mark.parametrize("script", ["torchrun.sh", "train.sbatch"])
def test_a_job_that_is_sent_again_goes_on(script: str, tmp_path: Path) -> None:
    """A first job without a checkpoint leaves its folder, so the second writes another, which the third continues."""
    assert config.parse(config.StrongOptions, command(script, tmp_path)).resume is None
    others = ("fmn10+tf_other", "fmn10+tf-2heads")
    for folder, continued in (("fmn10+tf", False), *((other, False) for other in others), ("fmn10+tf-2", True)):
        (tmp_path / "runs" / folder).mkdir(parents=True)
        (tmp_path / "runs" / folder / "run.log").touch()
        if folder != "fmn10+tf":
            (tmp_path / "runs" / folder / "last.ckpt").touch()
        options = config.parse(config.StrongOptions, command(script, tmp_path))
        assert (options.resume is not None) == continued
        assert options.num_devices == 2 and options.experiment_name == "fmn10+tf"
