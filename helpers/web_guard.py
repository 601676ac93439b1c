"""What a page that processes uploads must refuse and forget: foreign requests, old files, paths in messages."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
SWEEP_SECONDS = 15.0  # between looks for files that are too old
REFUSED = "refused: this address or origin is not that of the page; web.py --allowed_hosts NAME allows another name"

Scope = Mapping[str, Any]
App = Callable[..., Awaitable[None]]


class HostGuard:
    """An ASGI application in front of another that answers 403 where Host or Origin is not the page's own.

    A page anywhere in the web can send requests to a server on this machine: its browser says so in Origin. With DNS
    rebinding it can even give a name of its own to the server's address: the browser then sends that name as Host.

    Arguments:
        app: what serves the page.
        host: address that the server listens on.
        allowed: further names under which it may be reached.
    """

    def __init__(self, app: App, host: str, allowed: Sequence[str] = ()) -> None:
        self.app = app
        self._names = {name.lower().strip("[]") for name in (host, *allowed)} | LOOPBACK
        self._any_address = not is_loopback(host)
        if self._any_address:
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket") or self.allows(scope["headers"]):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": REFUSED.encode()})

    def allows(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        """Whether a request with these headers (names in lower case) is one of the page's own."""
        hosts, origins = (
            [value.decode("latin-1") for name, value in headers if name == key] for key in (b"host", b"origin")
        )
        if len(hosts) != 1 or len(origins) > 1 or not self._known(_split(f"//{hosts[0]}")[0]):
            return False
        return not origins or _split(origins[0], web=True) == _split(f"//{hosts[0]}")

    def _known(self, name: str) -> bool:
        if name in self._names:
            return True
        # Where other machines may connect, an address is fine: rebinding needs a name.
        return self._any_address and _is_address(name)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on an address."""
    return host.lower() == "localhost" or (_is_address(host) and ipaddress.ip_address(host.strip("[]")).is_loopback)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _split(address: str, *, web: bool = False) -> tuple[str, int | None]:
    """Name in lower case and port of an address; ("", None) where it has none, or none of the web (`null`, `file:`)."""
    try:
        parts = urlsplit(address)
        name, port = parts.hostname or "", parts.port
    except ValueError:
        return "", None
    if web and parts.scheme not in ("http", "https"):
        return "", None
    return name, port if port not in (80, 443) else None


class Uploads:
    """A private folder for what people upload and what is made of it, emptied as files grow old and at the end.

    Arguments:
        keep: seconds that files stay; those that are in use stay longer.
    """

    def __init__(self, keep: float) -> None:
        self.keep = keep
        self._folder = tempfile.TemporaryDirectory(prefix="efficientsed-web-", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        self._used: dict[Path, int] = {}
        self._lock = threading.Lock()
        self._end = threading.Event()

    def __enter__(self) -> Uploads:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._folder.cleanup()

    @contextlib.contextmanager
    def using(self, path: Path) -> Iterator[None]:
        """Keep a file, or all files in a folder, while the block runs; its time counts from the end of that."""
        with self._lock:
            self._used[path] = self._used.get(path, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                self._used[path] -= 1
                if not self._used[path]:
                    del self._used[path]
            with contextlib.suppress(OSError):
                os.utime(path)

    def sweep(self, now: float | None = None) -> list[Path]:
        """Remove files that are too old, and folders that are empty and as old; returns the files."""
        limit = (time.time() if now is None else now) - self.keep
        removed = []
        for folder, _, names in os.walk(self.folder, topdown=False):
            for path in (Path(folder, name) for name in names):
                if self._is_old(path, limit):
                    with contextlib.suppress(OSError):
                        path.unlink()
                        removed.append(path)
            if Path(folder) != self.folder and self._is_old(Path(folder), limit):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
        return removed

    def _is_old(self, path: Path, limit: float) -> bool:
        with self._lock:
            used = any(path == other or other in path.parents for other in self._used)
        try:
            return not used and path.lstat().st_mtime < limit
        except OSError:
            return False

    def _watch(self) -> None:
        while not self._end.wait(min(SWEEP_SECONDS, max(0.1, self.keep / 4))):
            self.sweep()


def without_folders(message: str, *paths: Path) -> str:
    """A message about files that names none of the folders they lie in."""
    for path in paths:
        for folder in {str(path.parent), str(path.parent.resolve())}:
            message = message.replace(folder + os.sep, "")
    return message
