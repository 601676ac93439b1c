"""The deliberate faults fit the code as it is, and a few of them are really caught (all: `make faults`)."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.deliberate_faults import FAULTS, ROOT, Fault


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_every_fault_fits_the_code(fault: Fault) -> None:
    """Its piece of code is there once, the changed file is still Python, and its tests exist."""
    code = (ROOT / fault.path).read_text(encoding="utf-8")
    changed = fault.applied(code)
    assert changed != code
    compile(changed, fault.path, "exec")
    for node in fault.tests:
        path, _, name = node.partition("::")
        assert f"def {name.partition('[')[0]}" in (ROOT / path).read_text(encoding="utf-8"), node


def test_there_are_enough_and_their_names_tell_them_apart() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 24


def test_code_that_moved_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 places in x"):
        Fault("none", "x.py", "old", "new", ()).applied("neither")
    with pytest.raises(ValueError, match="2 places"):
        Fault("two", "x.py", "old", "new", ()).applied("old old")


@pytest.mark.slow
def test_three_faults_are_caught() -> None:
    """A front end, a label and an event fault, each by running its tests on a faulty copy."""
    names = ["mel fmax", "touching events", "threshold >="]
    command = [sys.executable, str(ROOT / "tests" / "deliberate_faults.py"), "--only", *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["faults"], summary["caught"], summary["survivors"]) == (3, 3, [])
