"""Calls about uploads: files that are sent piece by piece, over as many connections as it takes."""

import time
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol
from uuid import UUID

from bmi.api.intake import Upload, UploadCreate
from bmi.client.errors import AnswerInvalid, ApiError, Unreachable
from bmi.client.transport import Transport

PIECE = 16 << 20  # bytes that are sent in one request; what a broken connection costs at the most
PATIENCE = 120.0  # seconds that the service may be away in the middle of a file

_PAUSE = 1.0  # seconds before a new try
_WRITING = 60.0  # seconds that the service may take to have a piece on its disk


class Pieces(Protocol):
    """Something that is read piece by piece, the last one again if need be."""

    def at(self, offset: int) -> bytes:
        """Return what begins at an offset; nothing at the end."""


class FilePieces:
    """A file that can be read from anywhere."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def at(self, offset: int) -> bytes:
        """Return what begins at an offset; nothing at the end."""
        self._file.seek(offset)
        return self._file.read(PIECE)


class StreamPieces:
    """A stream that is read only once: its last piece is kept until it has arrived."""

    def __init__(self, file: BinaryIO, read: Callable[[bytes], None]) -> None:
        """Say what to read.

        Args:
            file: The stream.
            read: Told of each piece, once.
        """
        self._file = file
        self._read = read
        self._begin = 0
        self._piece = b""

    def at(self, offset: int) -> bytes:
        """Return what begins at an offset; nothing at the end."""
        if offset >= self._begin + len(self._piece):
            self._begin += len(self._piece)
            self._piece = self._file.read(PIECE)
            self._read(self._piece)
        return self._piece[offset - self._begin :]


class Uploads:
    """Files on their way to becoming images."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, request: UploadCreate) -> Upload:
        """Announce a file."""
        body = self._transport.in_project(request)
        return self._transport.call("POST", ["uploads"], Upload, body=body)

    def list(self, *, limit: int | None = None) -> Iterator[Upload]:
        """Go through the uploads that are no images yet."""
        query = {"project": self._transport.project}
        return self._transport.items(["uploads"], Upload, query=query, limit=limit)

    def get(self, id: UUID) -> Upload:
        """Return an upload, with how much of it has arrived."""
        return self._transport.call("GET", ["uploads", id], Upload)

    def delete(self, id: UUID) -> None:
        """Remove an upload."""
        self._transport.done("DELETE", ["uploads", id])

    def send(self, id: UUID, offset: int, piece: bytes) -> Upload:
        """Send a piece of a file.

        Args:
            id: The upload.
            offset: Where it begins: what has arrived until now.
            piece: Its bytes.
        """
        query = {"offset": offset}
        return self._transport.call(
            "PATCH", ["uploads", id], Upload, body=piece, query=query, patience=_WRITING
        )

    def send_all(self, upload: Upload, pieces: Pieces, sent: Callable[[int], None]) -> Upload:
        """Send everything that has not arrived yet, and go on where a connection breaks.

        Args:
            upload: The upload, as last seen.
            pieces: What to send.
            sent: Told of the bytes that have arrived.

        Raises:
            Unreachable: The service was away for too long; what has arrived is kept.
            ApiError: It does not want it.
        """
        since: float | None = None
        while piece := pieces.at(upload.received):
            try:
                upload = self.send(upload.id, upload.received, piece)
                since = None
            except (Unreachable, ApiError, AnswerInvalid) as error:
                since = since or time.monotonic()
                if not _passes(error) or time.monotonic() - since > PATIENCE:
                    raise
                time.sleep(_PAUSE)
                upload = self._seen(upload)
            sent(upload.received)
        return upload

    def _seen(self, upload: Upload) -> Upload:
        try:
            return self.get(upload.id)
        except Unreachable:
            return upload


def _passes(error: Exception) -> bool:
    """Say whether a piece may be sent again: also where another one, that broke off, has to end first."""
    if isinstance(error, ApiError):
        return error.code in ("in-use", "wrong-state", "unavailable", "database-unavailable")
    return isinstance(error, Unreachable)
