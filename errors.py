"""The one exception that a user's mistake ends in, and the guard that turns it into one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class UserError(ValueError):
    """A mistake of the user, worded in one line: what was wrong, where, and what to do.

    Scripts print it without a traceback and exit with code 2.
    """


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Turn a user's mistake or Ctrl-C into one line on stderr and an exit code; context manager or decorator.

    Raises:
        SystemExit: with code 2 after a `UserError`, 130 after `KeyboardInterrupt`.

    Example:
        ``@exit_on_user_error()`` above ``def main(argv=None) -> None``.
    """
    try:
        yield
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED) from None


def one_line(error: BaseException) -> str:
    """Message of an error in one line, also where a data loader's worker wrapped it in its traceback."""
    text = str(error)
    if "Original Traceback" in text:  # torch re-raises a worker's error with the traceback as its message
        text = text.rpartition(f"{type(error).__name__}: ")[2]
    return " ".join(text.split())
