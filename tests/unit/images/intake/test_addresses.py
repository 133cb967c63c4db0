import socket
from ipaddress import ip_address, ip_network

import pytest

from bmi.errors import FetchFailed, FetchRefused
from bmi.images.intake.addresses import is_allowed, resolve


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::5db8:d822"]
)
def test_public_addresses_are_allowed(address: str) -> None:
    assert is_allowed(ip_address(address), ())


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.20.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "fec0::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "2002:7f00:1::1",
        "2002:a00:1::1",
    ],
)
def test_others_are_not(address: str) -> None:
    assert not is_allowed(ip_address(address), ())


def test_the_site_may_allow_a_network_of_its_own() -> None:
    allowed = [ip_network("10.9.0.0/16")]
    assert is_allowed(ip_address("10.9.3.4"), allowed)
    assert is_allowed(ip_address("::ffff:10.9.3.4"), allowed)
    assert not is_allowed(ip_address("10.8.3.4"), allowed)


def test_a_name_with_one_bad_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(0, 0, 0, "", ("93.184.216.34", 80)), (0, 0, 0, "", ("127.0.0.1", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    with pytest.raises(FetchRefused, match="not public"):
        resolve("rebound.example", 80, ())
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found[:1])
    assert resolve("fine.example", 80, ()) == "93.184.216.34"


def test_a_name_without_address_may_get_one_later() -> None:
    with pytest.raises(FetchFailed, match="has no address") as failure:
        resolve("no-such-host.invalid", 80, ())
    assert failure.value.transient
