"""Calls about exports: images that are written into files, and fetched."""

import base64
import hashlib
import re
import time
from collections.abc import Callable
from typing import TypeAlias
from uuid import UUID

import httpx2

from bmi.api.intake import ImageExport
from bmi.api.operations import Operation
from bmi.client.errors import AnswerInvalid, ClientError, Unreachable
from bmi.client.transport import Transport

PATIENCE = 120.0  # seconds that the service may be away in the middle of a file

_PAUSE = 1.0  # seconds before a new try

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""


class DigestMismatch(ClientError):
    """What was fetched is not what the service sent."""

    def __init__(self) -> None:
        super().__init__(
            "what was fetched has not the digest that the service told",
            next_step="export it again; if that repeats, look at the memory and the network of both hosts",
        )


class Exports:
    """Images in files, kept by the service for some time."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def start(self, image: str | UUID, request: ImageExport) -> Operation:
        """Start writing an image into a file; what the operation's id stands for can then be fetched."""
        query = {"project": self._transport.project}
        path = ["images", image, "export"]
        return self._transport.call("POST", path, Operation, body=request, query=query)

    def remove(self, id: UUID) -> None:
        """Remove an export before its time."""
        self._transport.done("DELETE", ["exports", id])

    def fetch(self, id: UUID, write: Callable[[bytes], None], progress: Progress) -> None:
        """Fetch an export, and go on where a connection breaks.

        Args:
            id: The operation that made it.
            write: Takes its bytes, in their order.
            progress: Told of the bytes that have come.

        Raises:
            DigestMismatch: What came is not what was sent; do not use it.
            Unreachable: The service was away for too long.
        """
        sha, done, version, wanted = hashlib.sha256(), 0, "", b""
        since: float | None = None
        while True:
            headers = {"Range": f"bytes={done}-", "If-Range": version} if done else {}
            try:
                with self._transport.stream(["exports", id], headers) as answer:
                    total = done + int(answer.headers.get("content-length", 0))
                    if not done:
                        version, wanted = answer.headers.get("etag", ""), _digest(answer)
                    elif answer.status_code != httpx2.codes.PARTIAL_CONTENT:
                        raise AnswerInvalid(self._transport.url, "the file changed while it was fetched")
                    for chunk in answer.iter_raw():
                        sha.update(chunk)
                        write(chunk)
                        done, since = done + len(chunk), None
                        progress(done, total)
                break
            except Unreachable:
                since = since or time.monotonic()
                if time.monotonic() - since > PATIENCE:
                    raise
                time.sleep(_PAUSE)
        if sha.digest() != wanted:
            raise DigestMismatch


def _digest(answer: httpx2.Response) -> bytes:
    """Return the digest of the whole file, which is told as RFC 9530 wants it."""
    found = re.search(r"sha-256=:([A-Za-z0-9+/=]+):", answer.headers.get("repr-digest", ""))
    return base64.b64decode(found[1]) if found else b""
