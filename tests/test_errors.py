"""The guards around command lines and files."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from atomic import check_writable, replacing, unfinished
from errors import UserError, describe, exit_on_user_error, one_line, reading, wrong_path
from printable import printable

ROOT = Path(__file__).parents[1]


def raising(error):
    @exit_on_user_error()
    def main():
        raise error

    return main


def os_error(number: int, *names: str) -> OSError:
    return OSError(number, os.strerror(number), *names)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("wrong\n  here"), 2, "error: wrong here"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            os_error(errno.EACCES, "a.tsv"),
            2,
            "error: a.tsv: no permission; change its permissions, or name another",
        ),
        (os_error(errno.ENXIO, "dev"), 2, "error: dev: no such device or address"),
        (MemoryError("1 TB"), 2, "error: not enough memory; use smaller batches, windows or models (1 TB)"),
        (
            RuntimeError("CUDA out of memory."),
            2,
            "error: not enough memory; use smaller batches, windows or models (CUDA out of memory.)",
        ),
        (OSError("h5py's own\nwords"), 2, "error: h5py's own words"),
    ],
)
def test_mistakes_and_interruptions_end_in_one_line(capsys, error, code, line):
    with pytest.raises(SystemExit) as stopped:
        raising(error)()
    assert stopped.value.code == code
    assert capsys.readouterr().err == f"{line}\n"


def test_real_mistakes_with_files_say_what_to_do(tmp_path):
    (tmp_path / "file").touch()
    for path, words in [
        (tmp_path, "name a file"),
        (tmp_path / "none", "does not exist"),
        (tmp_path / ("n" * 300), "too long"),
        (tmp_path / "file" / "below", "a file stands where a folder is meant"),
    ]:
        with pytest.raises(OSError) as error:
            path.read_text()
        assert describe(error.value).startswith(f"{path}: ") and words in describe(error.value)


def test_a_wrong_path_says_what_was_expected_what_is_there_and_what_to_do(tmp_path):
    file, gone = tmp_path / "file", tmp_path / "gone"
    file.touch()
    assert wrong_path("folder", gone) == "expected a folder, got a path that does not exist; check its spelling"
    assert wrong_path("file", gone) == "expected a file, got a path that does not exist; check its spelling"
    assert wrong_path("file", tmp_path) == "expected a file, got a folder; name a file in it"
    assert wrong_path("folder", file) == "expected a folder, got a file; name the folder that holds it"


def test_a_reader_that_has_had_enough_ends_the_program_in_silence():
    code = "from errors import exit_on_user_error\nwith exit_on_user_error():\n  for i in range(99999): print(i)"
    shell = f"{sys.executable} -c '{code}' | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (141, "0\n", "")


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        raising(ZeroDivisionError("ours"))()


def test_results_pass_through():
    @exit_on_user_error()
    def main(a, b=1):
        return a + b

    assert main(2, b=3) == 5


@pytest.mark.parametrize(
    ("kind", "last", "words"),
    [
        (UserError, "errors.UserError: 3 of 9 clips: gone", "3 of 9 clips: gone"),
        (FileNotFoundError, "FileNotFoundError: [Errno 2] no file: 'x'", "[Errno 2] no file: 'x'"),
    ],
)
def test_the_message_of_a_loader_worker_is_found_in_its_traceback(kind, last, words):
    text = (
        f"Caught {kind.__name__} in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        f'  File "x.py", line 1, in f\n    raise UserError("a: b")\n{last}\n'
    )
    assert one_line(kind(text)) == words


def test_what_cannot_be_written_is_known_before_writing(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    check_writable(tmp_path / "file")
    check_writable(tmp_path / "new" / "folders" / "file")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file"]
    for path, kind in [
        (tmp_path, IsADirectoryError),
        (tmp_path / "file" / "below", NotADirectoryError),
        (tmp_path / ("n" * 300), OSError),
    ]:
        with pytest.raises(kind):
            check_writable(path)
        with pytest.raises(OSError), replacing(path) as part:
            part.touch()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # tests may run as root
    with pytest.raises(PermissionError, match=str(tmp_path)):
        check_writable(tmp_path / "file")


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "does not exist"), ("folder", "is a folder"), (b"caf\xe9", "not UTF-8"), (b"\xff\xfea\0", "not UTF-8")],
)
def test_reading_words_what_goes_wrong(tmp_path, content, words):
    path = tmp_path / "list.tsv"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"cannot read the list {path}: .*{words}"), reading(path, "the list"):
        path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Türglocke, ding-dong 🐕", "Türglocke, ding-dong 🐕"),
        ("a\x1b[31mred\x1b]0;title\x07", "a\\x1b[31mred\\x1b]0;title\\x07"),
        ("two\nlines\r\u2028", "two\\nlines\\r\\u2028"),
        ("c1 \x9b2J", "c1 \\x9b2J"),
        ("gpj.\u202egnos", "gpj.\\u202egnos"),
        ("half \udc80", "half \\udc80"),
        ("می‌خواهم", "می‌خواهم"),  # a joiner is part of the word
    ],
)
def test_what_a_terminal_would_obey_is_shown(text, shown):
    assert printable(text) == shown and printable(shown) == shown
    assert printable("a\tb", keep="\t") == "a\tb"


def test_an_error_shows_what_a_terminal_would_obey(capsys):
    with pytest.raises(SystemExit):
        raising(UserError("unknown class 'a\x1b[2Jb'"))()
    assert capsys.readouterr().err == "error: unknown class 'a\\x1b[2Jb'\n"


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such question")
def test_what_a_killed_process_has_left_is_removed_by_the_next_run(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    running = os.getppid()
    left = [f".a.txt.{dead.pid}.part", f".a.part{dead.pid}.tsv"]
    kept = [f".a.txt.{running}.part", f".b.txt.{dead.pid}.part", f"a.txt.{dead.pid}.part", ".a.txt.x1.part"]
    for name in [*left, *kept]:
        (tmp_path / name).write_text("half")
    with replacing(tmp_path / "a.txt") as part:
        part.write_text("whole")
    with unfinished(tmp_path / f".a.part{os.getpid()}.tsv"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "a.txt"])
