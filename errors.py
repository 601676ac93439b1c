"""The one exception that a user's mistake ends in, and the guards that turn mistakes into one line."""

from __future__ import annotations

import csv
import errno
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import locks
import signals
from printable import PrintableFormatter, printable

EXIT_USER_ERROR = 2
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE

# The mistakes that people make with files, and what to do about them; others have the system's words.
_WORDS = {
    errno.EACCES: "no permission; change its permissions, or name another",
    errno.EPERM: "no permission; change its permissions, or name another",
    errno.EROFS: "this place is read-only; name another",
    errno.ENOENT: "expected a file or folder, got a path that does not exist; check its spelling",
    errno.EISDIR: "it is a folder; name a file",
    errno.ENOTDIR: "a file stands where a folder is meant",
    errno.EEXIST: "it exists; name another",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.ENOSPC: "the disk is full; make room, or name another place",
    errno.EDQUOT: "the quota is used up; make room, or name another place",
    errno.EFBIG: "the file is larger than this disk or its limit allows (ulimit -f); name another place",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n), or use fewer processes",
}


class UserError(ValueError):
    """A mistake of the user, worded in one line: what was wrong, where, and what to do.

    Scripts print it without a traceback and exit with code 2.
    """


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Turn a user's mistake, trouble with a file, Ctrl-C or SIGTERM into one line on stderr and an exit code.

    A context manager or decorator. When whoever read our output has had enough (`| head`), the program ends in silence.
    Signals: see `signals.caught`; a second one ends the program at once. Locks (`locks.hold`) are released.

    Raises:
        SystemExit: with code 2 after `UserError`, `OSError` and where memory ran out; 130 after `KeyboardInterrupt`
            (143 if SIGTERM caused it), 141 after a closed pipe.

    Example:
        ``@exit_on_user_error()`` above ``def main(argv=None) -> None``.
    """
    if logging.lastResort is not None:  # what writes warnings where a script sets up no log
        logging.lastResort.setFormatter(PrintableFormatter())
    with locks.scope(), signals.caught():
        try:
            yield
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter flushes stdout once more
            raise SystemExit(EXIT_BROKEN_PIPE) from None
        except (UserError, OSError) as error:
            print(f"error: {printable(one_line(error))}", file=sys.stderr)
            raise SystemExit(EXIT_USER_ERROR) from None
        except (MemoryError, RuntimeError) as error:
            if signals.received() and "DataLoader worker" in str(error):  # a signal met it before it could ignore it
                _end_interrupted(KeyboardInterrupt())
            if not _lacks_memory(error):
                raise
            advice = f"use smaller batches, windows or models ({one_line(error)})"
            print(f"error: not enough memory; {printable(advice)}", file=sys.stderr)
            raise SystemExit(EXIT_USER_ERROR) from None
        except (KeyboardInterrupt, SystemExit) as stop:
            if cause := signals.interruption(stop):
                _end_interrupted(cause)
            raise


def _end_interrupted(stop: KeyboardInterrupt) -> NoReturn:
    print(signals.exit_line(stop), file=sys.stderr)
    raise SystemExit(signals.exit_code()) from None


def _lacks_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on the host or a device; torch has no common type for that."""
    return isinstance(error, MemoryError) or "out of memory" in str(error) or "allocate memory" in str(error)


@contextmanager
def reading(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Turn what goes wrong while a file is read into a `UserError`.

    Args:
        path: the file.
        what: it, in words, for the message: "cannot read WHAT PATH: ...".

    Raises:
        UserError: the file is missing, may not be read or is a folder; a table or text is not UTF-8 or not CSV.
    """
    try:
        yield
    except OSError as error:
        error.filename = os.fspath(path)
        raise UserError(f"cannot read {what} {describe(error)}") from None
    except UnicodeDecodeError:
        raise UserError(f"cannot read {what} {os.fspath(path)}: it is not UTF-8 text; save it as UTF-8") from None
    except csv.Error as error:
        raise UserError(
            f"cannot read {what} {os.fspath(path)}: expected a table of text, got: {error}; save it as CSV or TSV"
        ) from None


def wrong_path(kind: str, path: str | os.PathLike[str]) -> str:
    """Why a path is not what is needed, a "file" or a "folder": what was expected, what is there, what to do."""
    if not os.path.exists(path):
        return f"expected a {kind}, got a path that does not exist; check its spelling"
    if os.path.isdir(path):
        return f"expected a {kind}, got a folder; name a file in it"
    return f"expected a {kind}, got a file; name the folder that holds it"


def describe(error: OSError) -> str:
    """Trouble with a file in words: which one, what is wrong, what to do."""
    name = error.filename2 or error.filename
    where = f"{os.fsdecode(name)}: " if isinstance(name, (str, bytes)) else ""
    words = error.strerror or str(error) or type(error).__name__
    return where + _WORDS.get(error.errno or 0, f"{words[:1].lower()}{words[1:]}")


def one_line(error: BaseException) -> str:
    """Message of an error in one line, also where a data loader's worker wrapped it in its traceback."""
    text = str(error)
    if "Original Traceback" in text:  # torch re-raises a worker's error with the traceback as its message
        text = text.rpartition(f"{type(error).__name__}: ")[2]
    elif isinstance(error, OSError):
        text = describe(error)
    return " ".join(text.split())
