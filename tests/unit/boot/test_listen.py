"""The servers on loopback, and in namespaces where this may make some; clients are plain sockets."""

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from uuid import UUID

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from bmi import netns
from bmi.boot.listen import Limits, NodeHttp
from bmi.drivers import Outcome
from bmi.errors import BootServiceError, LegError, PortTaken
from bmi.ids import new_id

HOME = "127.0.0.1"
QUICK = Limits(
    body=1000,
    head_seconds=0.3,
    connection_seconds=0.8,
    connections=6,
    connections_per_node=4,
    grace_seconds=1,
)


def app_for(network: UUID) -> ASGIApp:
    async def hello(request: Request) -> PlainTextResponse:
        body = await request.body()
        return PlainTextResponse(f"{network} {request.client.host if request.client else ''} {len(body)}")

    async def endless(request: Request) -> PlainTextResponse:
        await asyncio.Event().wait()
        return PlainTextResponse("never")

    return Starlette(
        routes=[Route("/hello/{token}", hello, methods=["GET", "POST"]), Route("/endless", endless)]
    )


@pytest.fixture
def http() -> Iterator[NodeHttp]:
    http = NodeHttp(app_for, limits=QUICK)
    yield http
    http.close()


@pytest.fixture
def port() -> int:
    with socket.create_server((HOME, 0)) as taken:
        number: int = taken.getsockname()[1]
        return number


def ask(
    port: int,
    request: bytes = b"GET /hello/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    *,
    address: str = HOME,
) -> bytes:
    with socket.create_connection((address, port), timeout=5) as wire:
        wire.sendall(request)
        return read(wire)


def read(wire: socket.socket) -> bytes:
    """Read until the server closes; a reset is the end, too."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while block := wire.recv(65536):
            data += block
    return data


# --- serving ---------------------------------------------------------------------------------------------


def test_each_network_has_its_own_application(http: NodeHttp, port: int) -> None:
    first, second = new_id(), new_id()
    assert http.serve(first, None, IPv4Address(HOME), port) is Outcome.DONE
    assert http.serve(second, None, "127.0.0.2", port) is Outcome.DONE
    assert str(first).encode() in ask(port)
    assert str(second).encode() in ask(port, address="127.0.0.2")
    assert set(http.serving()) == {first, second}


def test_serving_again_leaves_connections_alone(http: NodeHttp, port: int) -> None:
    network = new_id()
    http.serve(network, None, HOME, port)
    with socket.create_connection((HOME, port), timeout=5) as wire:
        wire.sendall(b"GET /hello/x HTTP/1.1\r\nhost: x\r\n\r\n")
        assert wire.recv(12) == b"HTTP/1.1 200"
        assert http.serve(network, None, HOME, port) is Outcome.ALREADY
        wire.sendall(b"GET /hello/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert read(wire).count(b"HTTP/1.1 200") == 1


def test_a_server_moves_to_another_address(http: NodeHttp, port: int) -> None:
    network = new_id()
    http.serve(network, None, HOME, port)
    assert http.serve(network, None, "127.0.0.2", port) is Outcome.DONE
    assert ask(port, address="127.0.0.2").startswith(b"HTTP/1.1 200")
    with pytest.raises(ConnectionRefusedError):
        ask(port)


def test_after_stop_the_port_is_free(http: NodeHttp, port: int) -> None:
    network = new_id()
    http.serve(network, None, HOME, port)
    ask(port)
    assert http.stop(network) is Outcome.DONE
    assert http.stop(network) is Outcome.ALREADY
    assert http.serving() == []
    with pytest.raises(ConnectionRefusedError):
        ask(port)
    with socket.create_server((HOME, port)):
        pass


def test_stop_does_not_wait_for_a_request_without_end(http: NodeHttp, port: int) -> None:
    network = new_id()
    http.serve(network, None, HOME, port)
    with socket.create_connection((HOME, port), timeout=5) as wire:
        wire.sendall(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n")
        before = time.monotonic()
        http.stop(network)
        assert time.monotonic() - before < 4
        read(wire)


def test_close_ends_the_thread_and_can_be_repeated(port: int) -> None:
    http = NodeHttp(app_for)
    http.close()
    http.serve(new_id(), None, HOME, port)
    http.close()
    http.close()
    assert "node-http" not in [thread.name for thread in threading.enumerate()]
    assert http.serving() == []


def test_many_threads_may_serve_and_stop(http: NodeHttp, port: int) -> None:
    networks = [new_id() for _ in range(6)]
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(2):
                http.serve(networks[number], None, f"127.0.0.{10 + number}", port)
                http.stop(networks[number])
            http.serve(networks[number], None, f"127.0.0.{10 + number}", port)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert set(http.serving()) == set(networks)


# --- what goes wrong -------------------------------------------------------------------------------------


def test_an_address_in_use_is_named(http: NodeHttp) -> None:
    with socket.create_server((HOME, 0)) as other:
        number = other.getsockname()[1]
        with pytest.raises(PortTaken, match=f"{HOME}:{number}"):
            http.serve(new_id(), None, HOME, number)
    assert http.serving() == []


def test_an_address_that_the_host_does_not_have_is_named(http: NodeHttp, port: int) -> None:
    with pytest.raises(BootServiceError, match=r"192\.0\.2\.1"):
        http.serve(new_id(), None, "192.0.2.1", port)


def test_a_namespace_that_is_not_there_is_named(http: NodeHttp, port: int) -> None:
    with pytest.raises(LegError, match="no-such-namespace"):
        http.serve(new_id(), "no-such-namespace", HOME, port)


# --- hostile nodes ---------------------------------------------------------------------------------------


@pytest.fixture
def served(http: NodeHttp, port: int) -> int:
    http.serve(new_id(), None, HOME, port)
    return port


def test_a_body_up_to_the_limit_is_taken(served: int) -> None:
    head = b"POST /hello/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 1000\r\n\r\n"
    assert ask(served, head + bytes(1000)).endswith(b" 1000")


@pytest.mark.parametrize("announced", [True, False])
def test_a_larger_body_is_refused(served: int, announced: bool) -> None:
    length = b"content-length: 1001" if announced else b"transfer-encoding: chunked"
    body = bytes(1001) if announced else b"3e9\r\n" + bytes(1001) + b"\r\n0\r\n\r\n"
    answer = ask(
        served, b"POST /hello/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + length + b"\r\n\r\n" + body
    )
    assert answer.startswith(b"HTTP/1.1 413")


def test_endless_headers_are_refused(served: int) -> None:
    answer = ask(served, b"GET /hello/x HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 20000)
    assert answer.startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("words", [b"", b"GET /hello/x HTTP/1.1\r\nhost: x\r\n"])
def test_a_head_that_never_ends_is_cut_off(served: int, words: bytes) -> None:
    before = time.monotonic()
    assert ask(served, words) == b""
    assert time.monotonic() - before < 3


def test_a_body_that_never_ends_is_cut_off(served: int) -> None:
    before = time.monotonic()
    ask(served, b"POST /hello/x HTTP/1.1\r\nhost: x\r\ncontent-length: 900\r\n\r\nabc")
    assert time.monotonic() - before < 3


def test_one_node_does_not_take_the_place_of_others(served: int) -> None:
    with contextlib.ExitStack() as open_ones:
        greedy = [
            open_ones.enter_context(socket.create_connection((HOME, served), timeout=5)) for _ in range(10)
        ]
        assert [read(wire) for wire in greedy[4:]] == [b""] * 6  # at once, long before their time is over
        other = socket.create_connection((HOME, served), timeout=5, source_address=("127.0.0.9", 0))
        with other:
            other.sendall(b"GET /hello/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert b" 127.0.0.9 " in read(other)
    assert ask(served).startswith(b"HTTP/1.1 200")


def test_a_node_cannot_name_itself_another(served: int) -> None:
    request = b"GET /hello/x HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 10.0.0.9\r\nconnection: close\r\n\r\n"
    answer = ask(served, request)
    assert b" 127.0.0.1 " in answer


def test_no_token_is_logged(served: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        ask(served, b"GET /hello/s3cret HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        ask(served, b"GET /hello/s3cret HTTP/9.9 nonsense\r\n\r\n")
    assert "s3cret" not in caplog.text


# --- namespaces ------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: run as root")
def test_a_server_can_be_reached_in_its_namespace_only(http: NodeHttp, port: int) -> None:
    name, network = f"bt-{secrets.token_hex(3)}", new_id()
    try:
        netns.create(name)
        http.serve(network, name, HOME, port)
        with netns.socket_inside(name, socket.AF_INET, socket.SOCK_STREAM) as wire:
            wire.settimeout(5)
            wire.connect((HOME, port))
            wire.sendall(b"GET /hello/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert str(network).encode() in read(wire)
        with pytest.raises(ConnectionRefusedError):
            ask(port)
        netns.delete(name)
        netns.create(name)
        assert http.serve(network, name, HOME, port) is Outcome.DONE  # the old one was in another namespace
    finally:
        netns.delete(name)
