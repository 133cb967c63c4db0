"""Files that go to the service and come from it over connections that break."""

import base64
import hashlib
import io
import re
from collections.abc import Callable, Iterator
from uuid import UUID

import httpx2
import pytest

from bmi.api.intake import Upload
from bmi.client import ApiError, Client, DigestMismatch, Unreachable
from bmi.client import exports as exports_module
from bmi.client import uploads as uploads_module
from bmi.client.uploads import FilePieces, Pieces, StreamPieces

ID = UUID("01920000-0000-7000-8000-000000000001")
DATA = bytes(range(256)) * 200


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads_module, "_PAUSE", 0.0)
    monkeypatch.setattr(exports_module, "_PAUSE", 0.0)
    monkeypatch.setattr(uploads_module, "PIECE", 10_000)


def problem(status: int, code: str) -> httpx2.Response:
    body = {"type": "x", "title": "x", "status": status, "detail": "no", "code": code, "next_step": "-"}
    return httpx2.Response(status, json=body)


class Receiver:
    """A service that takes pieces, and what of them goes wrong."""

    def __init__(self) -> None:
        self.data = b""
        self.pieces = 0
        self.faults: dict[int, Callable[[bytes], httpx2.Response]] = {}
        """By the number of the piece."""

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "PATCH":
            self.pieces += 1
            piece = request.read()
            assert request.headers["content-type"] == "application/octet-stream"
            if fault := self.faults.get(self.pieces):
                return fault(piece)
            if int(request.url.params["offset"]) != len(self.data):
                return problem(409, "wrong-state")
            self.data += piece
        return httpx2.Response(200, json=self.upload().model_dump(mode="json"))

    def upload(self) -> Upload:
        when = "2026-01-01T00:00:00Z"
        given = {"id": ID, "project": None, "asked_by": "me", "size": None, "digest": None}
        return Upload.model_validate(
            given | {"received": len(self.data), "created_at": when, "touched_at": when}
        )

    def breaks_after(self, count: int) -> Callable[[bytes], httpx2.Response]:
        def fault(piece: bytes) -> httpx2.Response:
            self.data += piece[:count]
            raise httpx2.ReadError("gone")

        return fault


def send(receiver: Receiver, pieces: Pieces) -> list[int]:
    told: list[int] = []
    with Client("http://bmi", "t", transport=httpx2.MockTransport(receiver)) as bmi:
        bmi.uploads.send_all(receiver.upload(), pieces, told.append)
    return told


def kinds() -> list[Callable[[], Pieces]]:
    return [lambda: FilePieces(io.BytesIO(DATA)), lambda: StreamPieces(io.BytesIO(DATA), lambda piece: None)]


@pytest.mark.parametrize("pieces", kinds(), ids=["file", "stream"])
@pytest.mark.parametrize("came", [0, 1, 9_999, 10_000])
def test_a_piece_that_broke_off_is_gone_on_with(pieces: Callable[[], Pieces], came: int) -> None:
    receiver = Receiver()
    receiver.faults = {2: receiver.breaks_after(came), 4: receiver.breaks_after(came)}
    told = send(receiver, pieces())
    assert receiver.data == DATA
    assert told == sorted(told)
    assert told[-1] == len(DATA)


@pytest.mark.parametrize("pieces", kinds(), ids=["file", "stream"])
def test_another_connection_that_has_not_ended_is_waited_for(pieces: Callable[[], Pieces]) -> None:
    receiver = Receiver()
    receiver.faults = {2: lambda piece: problem(409, "in-use"), 3: lambda piece: problem(503, "unavailable")}
    send(receiver, pieces())
    assert receiver.data == DATA


def test_a_file_goes_on_where_it_was() -> None:
    receiver = Receiver()
    receiver.data = DATA[:33_333]
    send(receiver, FilePieces(io.BytesIO(DATA)))
    assert receiver.data == DATA


def test_what_does_not_pass_is_told_at_once() -> None:
    receiver = Receiver()
    receiver.faults = {2: lambda piece: problem(507, "storage-full")}
    with pytest.raises(ApiError, match="no"):
        send(receiver, FilePieces(io.BytesIO(DATA)))
    assert receiver.pieces == 2


def test_a_service_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads_module, "PATIENCE", 0.0)
    receiver = Receiver()
    receiver.faults = {n: receiver.breaks_after(0) for n in range(1, 9)}
    with pytest.raises(Unreachable):
        send(receiver, FilePieces(io.BytesIO(DATA)))


def test_a_stream_tells_of_each_byte_once() -> None:
    sha, receiver = hashlib.sha256(), Receiver()
    receiver.faults = {2: receiver.breaks_after(5), 3: receiver.breaks_after(5)}
    send(receiver, StreamPieces(io.BytesIO(DATA), sha.update))
    assert receiver.data == DATA
    assert sha.digest() == hashlib.sha256(DATA).digest()


class Giver:
    """A service that gives a file, over connections that break after some bytes."""

    def __init__(self, *breaks: int, sent: bytes = DATA) -> None:
        self.breaks = list(breaks)
        self.sent = sent
        self.asked: list[str | None] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request.headers.get("range"))
        found = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
        start = int(found[1]) if found else 0
        digest = base64.b64encode(hashlib.sha256(DATA).digest()).decode()
        headers = {
            "etag": '"1"',
            "repr-digest": f"sha-256=:{digest}:",
            "content-length": str(len(self.sent) - start),
        }
        return httpx2.Response(206 if start else 200, headers=headers, stream=_Stream(self._body(start)))

    def _body(self, start: int) -> Iterator[bytes]:
        if self.breaks:
            yield self.sent[start : start + self.breaks.pop(0)]
            raise httpx2.ReadError("gone")
        yield self.sent[start:]


class _Stream(httpx2.SyncByteStream):
    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces


def fetched(giver: Giver) -> bytes:
    out = io.BytesIO()
    with Client("http://bmi", "t", transport=httpx2.MockTransport(giver)) as bmi:
        bmi.exports.fetch(ID, lambda data: bool(out.write(data)), lambda done, total: None)
    return out.getvalue()


def test_a_file_is_fetched_over_connections_that_break() -> None:
    giver = Giver(1000, 0, 7)
    assert fetched(giver) == DATA
    assert giver.asked == [None, "bytes=1000-", "bytes=1000-", "bytes=1007-"]


def test_what_is_not_what_was_sent_is_not_used() -> None:
    with pytest.raises(DigestMismatch):
        fetched(Giver(sent=DATA[:-1] + b"!"))
    with pytest.raises(DigestMismatch):
        fetched(Giver(sent=DATA[:-1]))
