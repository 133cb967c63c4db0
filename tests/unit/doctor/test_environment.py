"""Who listens where, as ss(8) tells it."""

import os
import socket
from ipaddress import IPv4Address
from typing import Any

import pytest

from bmi import rights
from bmi.doctor import environment
from bmi.doctor.environment import Listener, listeners, takes
from bmi.doctor.sheet import Sheet
from bmi.rights import OWN

SHOWN = """\
LISTEN 0 4096  127.0.0.1:6230  0.0.0.0:*  users:(("bmi",pid=10,fd=7))
LISTEN 0 511         [::]:6230     [::]:*  users:(("nginx",pid=12,fd=8),("nginx",pid=11,fd=8))
LISTEN 0 1     10.0.0.1%eth0:6230  0.0.0.0:*
LISTEN 0 1              *:6230        *:*  users:(("java",pid=13,fd=1))
"""


def test_what_ss_shows_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rights, "run", lambda *_, **__: SHOWN)
    found = listeners(OWN, "ns", 6230)
    assert found == [
        Listener("127.0.0.1", "bmi", 10),
        Listener("::", "nginx", 12),
        Listener("10.0.0.1", "", 0),
        Listener("*", "java", 13),
    ]
    assert [str(one) for one in found[1:3]] == ["nginx (process 12)", "a program"]
    assert [takes(one, IPv4Address("10.0.0.1")) for one in found] == [False, True, True, True]


def test_a_real_listener_is_seen() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        assert listeners(OWN, None, listener.getsockname()[1]) == []
        listener.listen()
        (found,) = listeners(OWN, None, listener.getsockname()[1])
    assert (found.address, found.pid) == ("127.0.0.1", os.getpid())


@pytest.mark.parametrize(
    ("own", "other", "shared"),
    [
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", "0.0.0.0", False),  # the more exact one is given the requests
        ("127.0.0.1", "127.0.0.1", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("::", "10.0.0.5", True),
    ],
)
def test_a_port_is_shared_where_requests_for_the_api_reach_another(
    settings: Any, monkeypatch: pytest.MonkeyPatch, own: str, other: str, shared: bool
) -> None:
    found = [Listener(own, "bmi", os.getpid()), Listener(other, "nginx", 1)]
    monkeypatch.setattr(environment, "listeners", lambda *_: found)
    sheet = Sheet()
    parts: Any = type("Parts", (), {"settings": settings})
    environment._api_port(parts, sheet)
    assert [one.code for one in sheet.findings] == ["port-taken"] * shared
