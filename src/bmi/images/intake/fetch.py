"""Files from the web: http and https, public addresses only, within limits; a broken connection is gone on with."""

import contextlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from bmi.errors import FetchFailed, FetchRefused
from bmi.images.intake.addresses import Network, resolve
from bmi.images.intake.digest import Progress
from bmi.images.intake.space import Room, part_of, write_at

_REDIRECTS = 5
_BREAKS = 8  # connections that break without having brought anything, until it is given up
_PAUSE = 1.0  # seconds before a new connection
_SYNC = 64 << 20  # bytes between two looks at the room
_TIMEOUT = httpx2.Timeout(30.0, connect=10.0)  # seconds without a byte


@dataclass(frozen=True)
class Bounds:
    """What may be fetched."""

    bytes: int
    """Of the file."""
    seconds: float
    """In all."""
    room: Room
    """Looked at meanwhile."""
    networks: Sequence[Network] = ()
    """Networks that URLs may lead to although they are not public."""


def shown(url: str) -> str:
    """Return a URL as it may be shown and logged: what follows a question mark is often a key."""
    return url.partition("?")[0].partition("#")[0]


def checked(url: str) -> httpx2.URL:
    """Return a URL that can be fetched from.

    Raises:
        FetchRefused: It is no URL, not http or https, or has a password in it.
    """
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, UnicodeError) as error:
        raise FetchRefused("that is no URL", next_step="write it as https://HOST/PATH") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise FetchRefused(
            f"{shown(url)} is not a URL of http or https", next_step="write it as https://HOST/PATH"
        )
    if parsed.userinfo:
        raise FetchRefused(
            "the URL has a user or a password in it, which would be stored",
            next_step="download the file yourself, and upload it",
        )
    return parsed.copy_with(fragment=None)


def fetch(url: str, destination: Path, bounds: Bounds, progress: Progress) -> int:
    """Fetch a file, and return how many bytes it has. It appears whole or not at all.

    Args:
        url: Where it is.
        destination: The file; one that is there is replaced.
        bounds: What may be fetched.
        progress: Told of the bytes that have arrived; what it raises ends the work.

    Raises:
        FetchRefused: It may not be fetched, or the server says that there is nothing.
        FetchFailed: The server does not answer, or breaks off again and again.
        StorageFull: There is no room for it.
    """
    part = part_of(destination)
    file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with httpx2.Client(timeout=_TIMEOUT, trust_env=False, follow_redirects=False) as http:
            size = _Download(http, checked(url), file, bounds, progress).whole()
        os.fsync(file)
    finally:
        os.close(file)
    part.replace(destination)
    return size


@dataclass
class _Download:
    """One file on its way, over one connection after the other."""

    http: httpx2.Client
    url: httpx2.URL
    file: int
    bounds: Bounds
    progress: Progress
    received: int = 0
    total: int | None = None
    version: str | None = None
    """What tells whether the file on the server is still the same; no going on without it."""
    end: float = field(init=False)

    def __post_init__(self) -> None:
        self.end = time.monotonic() + self.bounds.seconds

    def whole(self) -> int:
        """Fetch everything."""
        breaks = 0
        while True:
            before = self.received
            try:
                with self._answer() as answer:
                    self._take(answer)
                return self.received
            except httpx2.TransportError as error:
                breaks = 0 if self.received > before else breaks + 1
                if breaks >= _BREAKS or (breaks and before == 0):
                    raise FetchFailed(
                        f"{shown(str(self.url))} does not give the file: {_cause(error)}",
                        next_step="check that the server can be reached from the service, and try again",
                    ) from error
            self._look()
            time.sleep(_PAUSE)

    @contextlib.contextmanager
    def _answer(self) -> Iterator[httpx2.Response]:
        """Ask, at the end of all redirects, for what is still missing."""
        url = self.url
        for _ in range(_REDIRECTS + 1):
            with contextlib.closing(self._sent(url)) as answer:
                if not answer.is_redirect:
                    self._begin(answer)
                    yield answer
                    return
                url = _following(url, answer)
        raise FetchRefused(
            f"{shown(str(self.url))} redirects more than {_REDIRECTS} times",
            next_step="give the URL at the end of them",
        )

    def _sent(self, url: httpx2.URL) -> httpx2.Response:
        """Ask the address that was looked at, by the name that the server knows itself by."""
        port = url.port or (443 if url.scheme == "https" else 80)
        address = resolve(url.host, port, self.bounds.networks)
        headers = {"Host": url.netloc.decode("ascii"), "Accept-Encoding": "identity"}
        if self.received and self.version:
            headers |= {"Range": f"bytes={self.received}-", "If-Range": self.version}
        request = self.http.build_request(
            "GET", url.copy_with(host=address), headers=headers, extensions={"sni_hostname": url.host}
        )
        return self.http.send(request, stream=True)

    def _begin(self, answer: httpx2.Response) -> None:
        """Look at what the server is about to send, and where it goes."""
        if answer.status_code >= 500:
            raise FetchFailed(f"{self._said(answer)}", next_step="try again later")
        if answer.status_code not in (200, 206):
            raise FetchRefused(self._said(answer), next_step="check the URL; it must need no log-in")
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise FetchRefused(
                f"{shown(str(self.url))} is sent in an encoding that was not asked for",
                next_step="download the file yourself, and upload it",
            )
        if answer.status_code == 206:
            self._require_rest(answer)
        else:
            self._start_over(answer)
        if self.total is not None and self.total > self.bounds.bytes:
            self._refuse_size(self.total)
        self.bounds.room.require((self.total or 0) - self.received)

    def _start_over(self, answer: httpx2.Response) -> None:
        os.ftruncate(self.file, 0)
        length = answer.headers.get("content-length", "")
        self.received, self.total = 0, int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None
        etag = answer.headers.get("etag", "")
        self.version = etag if etag.startswith('"') else answer.headers.get("last-modified")

    def _require_rest(self, answer: httpx2.Response) -> None:
        found = re.fullmatch(
            r"bytes ([0-9]{1,18})-[0-9]+/([0-9]+|\*)", answer.headers.get("content-range", "")
        )
        if not self.received or found is None or int(found[1]) != self.received:
            raise FetchRefused(
                f"{shown(str(self.url))} sends another part than was asked for",
                next_step="download the file yourself, and upload it",
            )

    def _take(self, answer: httpx2.Response) -> None:
        unseen = 0
        for chunk in answer.iter_raw():
            if self.received + len(chunk) > self.bounds.bytes:
                self._refuse_size(self.received + len(chunk))
            write_at(self.file, chunk, self.received)
            self.received += len(chunk)
            unseen += len(chunk)
            if unseen >= _SYNC:
                os.fdatasync(self.file)
                self.bounds.room.require()
                unseen = 0
            self._look()
        if self.total is not None and self.received != self.total:
            raise httpx2.RemoteProtocolError(f"{self.received} of {self.total} bytes came")

    def _look(self) -> None:
        """Tell how far it is, and stop when it takes too long."""
        self.progress(self.received, self.total or self.received + 1)
        if time.monotonic() > self.end:
            raise FetchRefused(
                f"{shown(str(self.url))} took longer than {self.bounds.seconds:g} s",
                next_step="fetch it from a faster server, or ask the admin to raise intake.deadline",
            )

    def _refuse_size(self, size: int) -> None:
        raise FetchRefused(
            f"{shown(str(self.url))} has {size} bytes or more, and {self.bounds.bytes} are allowed",
            next_step="make the image smaller, or ask the admin to raise intake.max_size",
        )

    def _said(self, answer: httpx2.Response) -> str:
        return f"{shown(str(self.url))} answers {answer.status_code} {answer.reason_phrase}".strip()


def _following(url: httpx2.URL, answer: httpx2.Response) -> httpx2.URL:
    """Return where a redirect leads; each one is checked as the first URL was."""
    try:
        following = url.join(answer.headers["location"])
    except (httpx2.InvalidURL, UnicodeError, KeyError) as error:
        raise FetchRefused(f"{shown(str(url))} redirects to nowhere", next_step="check the URL") from error
    if url.scheme == "https" and following.scheme != "https":
        raise FetchRefused(
            f"{shown(str(url))} redirects from https to something weaker", next_step="give another URL"
        )
    return checked(str(following))


def _cause(error: Exception) -> str:
    return re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
