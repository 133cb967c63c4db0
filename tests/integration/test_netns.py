import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from bmi import netns
from bmi.errors import CommandFailed, LegError
from bmi.run import run

OWN = os.stat("/proc/self/ns/net").st_ino


def own_namespace() -> int:
    """Number of the network namespace that the calling thread is in."""
    return os.stat("/proc/thread-self/ns/net").st_ino


@pytest.fixture
def name() -> Iterator[str]:
    name = f"tns-{uuid4().hex[:8]}"
    yield name
    netns.delete(name)
    assert not netns.exists(name)


@pytest.fixture
def namespace(name: str) -> str:
    netns.create(name)
    return name


def test_create_makes_a_namespace_with_loopback_up(name: str) -> None:
    assert not netns.exists(name)

    netns.create(name)

    assert netns.exists(name)
    assert name in netns.names()
    with netns.socket_inside(name, socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with netns.socket_inside(name, socket.AF_INET, socket.SOCK_STREAM) as client:
            client.settimeout(5)
            client.connect(server.getsockname())


def test_create_again_keeps_what_is_inside(namespace: str) -> None:
    run(["ip", "-n", namespace, "link", "add", "v0", "type", "veth", "peer", "name", "v1"])
    run(["ip", "-n", namespace, "link", "set", "lo", "down"])

    netns.create(namespace)

    assert netns.interfaces(namespace) == {"lo", "v0", "v1"}
    assert "LOOPBACK,UP" in run(["ip", "-n", namespace, "link", "show", "lo"])


def test_create_mends_a_name_that_was_left_without_a_namespace(name: str) -> None:
    Path("/run/netns", name).touch()
    assert not netns.exists(name)
    assert name not in netns.names()

    netns.create(name)

    assert netns.exists(name)


def test_create_works_for_two_at_once(name: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(netns.create, [name] * 4))
    assert netns.exists(name)


def test_delete_says_whether_there_was_one(name: str) -> None:
    netns.create(name)
    assert netns.delete(name)
    assert not netns.exists(name)
    assert not netns.delete(name)


def test_delete_removes_a_name_without_a_namespace(name: str) -> None:
    Path("/run/netns", name).touch()
    assert netns.delete(name)
    assert not Path("/run/netns", name).exists()


def test_delete_works_while_a_process_is_inside(namespace: str) -> None:
    with subprocess.Popen(["ip", "netns", "exec", namespace, "cat"], stdin=subprocess.PIPE) as process:
        assert netns.delete(namespace)
        assert process.stdin is not None
        process.stdin.close()


def test_a_name_the_kernel_refuses_is_an_error() -> None:
    with pytest.raises(CommandFailed):
        netns.create("no/such")


def test_a_socket_belongs_to_its_namespace_and_the_process_stays_where_it_is(namespace: str) -> None:
    with netns.socket_inside(namespace, socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = server.getsockname()

        assert own_namespace() == OWN
        with socket.socket() as outside:
            assert outside.connect_ex(address) != 0
        with netns.socket_inside(namespace, socket.AF_INET, socket.SOCK_STREAM) as inside:
            inside.settimeout(5)
            inside.connect(address)
            connection, _ = server.accept()
            with connection:
                inside.sendall(b"hello")
                assert connection.recv(5) == b"hello"


def test_a_socket_without_a_namespace_is_in_the_caller_s() -> None:
    with netns.socket_inside(None, socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with socket.create_connection(server.getsockname(), timeout=5):
            pass


def test_many_threads_make_sockets_in_different_namespaces(name: str) -> None:
    names = [f"{name}-{number}" for number in range(4)]
    try:
        for each in names:
            netns.create(each)
            run(["ip", "-n", each, "link", "add", each[-14:], "type", "veth", "peer", "name", "v1"])

        def look(number: int) -> None:
            each = names[number % len(names)]
            assert netns.interfaces(each) == {"lo", "v1", each[-14:]}
            assert own_namespace() == OWN

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(look, range(80)))
    finally:
        for each in names:
            netns.delete(each)


def test_no_thread_and_no_descriptor_stays_behind(namespace: str) -> None:
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        netns.socket_inside(namespace, socket.AF_INET, socket.SOCK_DGRAM).close()
        with pytest.raises(LegError):
            netns.socket_inside("tns-no-such", socket.AF_INET, socket.SOCK_DGRAM)
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_missing_namespace_is_named() -> None:
    with pytest.raises(LegError, match="tns-no-such"):
        netns.interfaces("tns-no-such")


def test_what_the_call_raises_reaches_the_caller(namespace: str) -> None:
    with pytest.raises(ZeroDivisionError):
        netns.call_inside(namespace, lambda: 1 // 0)
    assert own_namespace() == OWN


def test_sysctls_are_those_of_the_namespace(namespace: str) -> None:
    parameter = "ipv4/ip_default_ttl"
    outside = Path("/proc/sys/net", parameter).read_text()

    netns.write_sysctls(namespace, {parameter: "99", "ipv4/no_such_parameter": "1"})

    assert netns.call_inside(namespace, Path("/proc/sys/net", parameter).read_text) == "99\n"
    assert Path("/proc/sys/net", parameter).read_text() == outside


def test_the_mtu_is_that_of_the_namespaces_interface(namespace: str) -> None:
    run(["ip", "-n", namespace, "link", "set", "lo", "mtu", "1234"])
    assert netns.mtu(namespace, "lo") == 1234
    assert netns.mtu(None, "lo") != 1234
    with pytest.raises(OSError, match="No such device"):
        netns.mtu(namespace, "eth99")
