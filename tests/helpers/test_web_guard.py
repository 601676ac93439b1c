"""Which requests are the page's own, which files are old, and messages without folders."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.web_guard import HostGuard, Uploads, is_loopback, without_folders


def allowed(guard: HostGuard, host: str | None, origin: str | None = None) -> bool:
    headers = [(b"host", host.encode())] if host is not None else []
    return guard.allows([*headers, *([(b"origin", origin.encode())] if origin is not None else [])])


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860", "box.lan:80"])
def test_own_names_are_allowed(host: str) -> None:
    guard = HostGuard(None, "127.0.0.1", ["Box.lan"])  # type: ignore[arg-type]
    assert allowed(guard, host) and allowed(guard, host, f"http://{host}")


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("evil.example", None),
        ("evil.example:7860", "http://evil.example:7860"),
        ("127.0.0.1.evil.example", None),
        ("10.1.2.3:7860", None),  # only this machine can connect, which does not call itself so
        ("127.0.0.1:7860", "http://evil.example"),
        ("127.0.0.1:7860", "null"),
        ("127.0.0.1:7860", "file://127.0.0.1:7860"),
        ("127.0.0.1:7860", "http://127.0.0.1:9999"),
        ("127.0.0.1:7860", "http://localhost:7860"),
        ("127.0.0.1:7860", "http://127.0.0.1:7860@evil.example"),
        ("127.0.0.1:port", None),
        ("[::1", None),
        ("", None),
        (None, None),
    ],
)
def test_foreign_requests_are_refused(host: str | None, origin: str | None) -> None:
    assert not allowed(HostGuard(None, "127.0.0.1"), host, origin)  # type: ignore[arg-type]


def test_two_hosts_are_refused() -> None:
    guard = HostGuard(None, "127.0.0.1")  # type: ignore[arg-type]
    assert not guard.allows([(b"host", b"127.0.0.1"), (b"host", b"evil.example")])


def test_where_others_may_connect_addresses_are_allowed_and_names_are_not() -> None:
    guard = HostGuard(None, "0.0.0.0")  # type: ignore[arg-type]
    assert allowed(guard, "10.1.2.3:7860", "http://10.1.2.3:7860") and allowed(guard, "[fe80::1]:7860")
    assert not allowed(guard, "evil.example:7860") and not allowed(guard, "10.1.2.3:7860", "http://10.1.2.4:7860")
    assert [is_loopback(host) for host in ("localhost", "127.0.0.1", "::1", "0.0.0.0", "10.0.0.1", "a.lan")] == [
        *[True] * 3,
        *[False] * 3,
    ]


@pytest.mark.parametrize("kind", ["http", "websocket", "lifespan"])
def test_the_application_is_not_asked_for_foreign_requests(kind: str) -> None:
    asked: list[str] = []
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["type"])

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    guard = HostGuard(app, "127.0.0.1")
    asyncio.run(guard({"type": kind, "headers": [(b"host", b"evil.example")]}, None, send))
    assert asked == (["lifespan"] if kind == "lifespan" else [])
    assert sent[:1] and sent[0].get("status", 1008) in (403, 1008) if kind != "lifespan" else not sent
    asyncio.run(guard({"type": kind, "headers": [(b"host", b"localhost")]}, None, send))
    assert asked[-1:] == [kind]


def test_old_files_go_and_those_in_use_stay(tmp_path: Path) -> None:
    uploads = Uploads(60)
    for name in ("a/old.wav", "b/used.wav", "c/part/in_folder.csv", "d/new.wav"):
        file = uploads.folder / name
        file.parent.mkdir(parents=True)
        file.write_text("x")
        if "new" not in name:
            for path in (file, *file.parents):
                if uploads.folder in path.parents:
                    os.utime(path, (1, 1))
    with uploads.using(uploads.folder / "b" / "used.wav"), uploads.using(uploads.folder / "c"):
        assert [path.name for path in uploads.sweep()] == ["old.wav"]
    assert not uploads.sweep(now=time.time() + 30)[1:]  # time counts from the end of the use
    assert (uploads.folder / "b" / "used.wav").exists()
    uploads.sweep(now=time.time() + 90)
    uploads.sweep(now=time.time() + 180)
    assert list(uploads.folder.iterdir()) == []
    uploads.__exit__()
    assert not uploads.folder.exists()


def test_files_are_removed_while_the_page_is_open() -> None:
    with Uploads(0.2) as uploads:
        (uploads.folder / "a.wav").write_text("x")
        end = time.monotonic() + 10
        while (uploads.folder / "a.wav").exists():
            assert time.monotonic() < end
            time.sleep(0.05)


def test_messages_name_files_without_their_folders(tmp_path: Path) -> None:
    file = tmp_path / "x" / "a.wav"
    assert without_folders(f"'{file}' cannot be read", file) == "'a.wav' cannot be read"
    assert without_folders("b.wav is empty", file) == "b.wav is empty"
