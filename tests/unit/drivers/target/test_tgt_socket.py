"""Against a listener that answers as no tgtd would; tests/integration speak to a real one."""

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bmi.drivers.target.tgt_socket import Code, Refused, TgtSocket
from bmi.errors import TargetError

Answer = Callable[[socket.socket], None]


@pytest.fixture
def listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], TgtSocket]]:
    monkeypatch.chdir(tmp_path)
    threads: list[threading.Thread] = []

    def start(answer: Answer) -> TgtSocket:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("m.0")
        listener.listen()

        def serve() -> None:
            with listener, listener.accept()[0] as connection:
                if connection.recv(1 << 16):
                    answer(connection)

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return TgtSocket(tmp_path, 0.3)

    yield start
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_nobody_listens(tmp_path: Path) -> None:
    assert TgtSocket(tmp_path, 1).pid() is None
    assert TgtSocket(tmp_path / "none", 1).pid() is None
    with pytest.raises(TargetError):
        TgtSocket(tmp_path, 1).portals()


def test_who_listens(listen: Callable[[Answer], TgtSocket]) -> None:
    requests = []

    def answer(connection: socket.socket) -> None:
        requests.append(connection)
        connection.sendall(struct.pack("=II", 0, 8))

    assert listen(answer).pid() == os.getpid()
    assert requests  # tgtd keeps a connection for good that was closed without one


def test_who_listens_and_does_not_answer(listen: Callable[[Answer], TgtSocket]) -> None:
    assert listen(lambda _: time.sleep(0.5)).pid() == os.getpid()


def test_a_refusal_says_what_and_why_but_no_secret(listen: Callable[[Answer], TgtSocket]) -> None:
    tgtd = listen(lambda connection: connection.sendall(struct.pack("=II", Code.USER_EXISTS, 8)))
    with pytest.raises(Refused, match="make account bob: user exists") as refused:
        tgtd.new_account("bob", "a-very-secret-one")
    assert refused.value.tgtd_code == Code.USER_EXISTS
    assert "a-very-secret-one" not in str(refused.value)


def test_an_unknown_code_is_a_refusal_too(listen: Callable[[Answer], TgtSocket]) -> None:
    with pytest.raises(Refused, match="99"):
        listen(lambda connection: connection.sendall(struct.pack("=II", 99, 8))).portals()


def test_an_answer_that_breaks_off(listen: Callable[[Answer], TgtSocket]) -> None:
    with pytest.raises(TargetError, match="before the answer was complete"):
        listen(lambda connection: connection.sendall(struct.pack("=II", 0, 100) + b"Portal")).portals()


def test_an_answer_in_pieces(listen: Callable[[Answer], TgtSocket]) -> None:
    text = b"Portal: 192.0.2.1:3260,1\n\0"

    def answer(connection: socket.socket) -> None:
        for byte in struct.pack("=II", 0, 8 + len(text)) + text:
            connection.sendall(bytes([byte]))

    assert listen(answer).portals() == ["192.0.2.1:3260"]


def test_an_answer_that_trickles_ends_at_the_deadline(listen: Callable[[Answer], TgtSocket]) -> None:
    done = threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.sendall(struct.pack("=II", 0, 1000))
        while not done.wait(0.05):
            connection.sendall(b"x")

    tgtd = listen(answer)
    start = time.monotonic()
    try:
        with pytest.raises(TargetError, match=r"nothing within 0\.3 s"):
            tgtd.portals()
    finally:
        done.set()
    assert 0.25 < time.monotonic() - start < 5
