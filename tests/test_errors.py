"""The guard around a command line."""

from __future__ import annotations

import pytest

from errors import UserError, exit_on_user_error, one_line


def raising(error):
    @exit_on_user_error()
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("wrong\n  here"), 2, "error: wrong here"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_mistakes_and_interruptions_end_in_one_line(capsys, error, code, line):
    with pytest.raises(SystemExit) as stopped:
        raising(error)()
    assert stopped.value.code == code
    assert capsys.readouterr().err == f"{line}\n"


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        raising(ZeroDivisionError("ours"))()


def test_results_pass_through():
    @exit_on_user_error()
    def main(a, b=1):
        return a + b

    assert main(2, b=3) == 5


def test_the_message_of_a_loader_worker_is_found_in_its_traceback():
    text = (
        "Caught UserError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "x.py", line 1, in f\n    raise UserError("a: b")\nerrors.UserError: 3 of 9 clips: gone\n'
    )
    assert one_line(UserError(text)) == "3 of 9 clips: gone"
