from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from uuid import UUID

import pytest

from bmi.boot.dhcp_conf import BootHost, check_hosts, hosts_text, options_text
from bmi.drivers.leg import Leg
from bmi.errors import BadRequest

LEG = Leg(UUID(int=1), 101, IPv4Interface("10.66.0.254/24"), "ns", "eth0")
HOST = BootHost(
    UUID(int=2), "52:54:00:66:00:01", IPv4Address("10.66.0.1"), "node-1", "http://10.66.0.254:8080/boot/t0ken"
)


def test_usable_hosts_pass() -> None:
    check_hosts(LEG, [HOST, replace(HOST, mac="52:54:00:66:00:02", address=IPv4Address("10.66.0.2"))])


@pytest.mark.parametrize(
    "bad",
    [
        {"mac": "52:54:00:66:00"},
        {"mac": "52:54:00:66:00:*"},
        {"mac": "52:54:00:66:00:01,ignore"},
        {"mac": "52:54:00:66:00:01\n"},
        {"hostname": 'a"b'},
        {"hostname": "a\ndhcp-script=/bin/sh"},
        {"hostname": "a,ignore"},
        {"script_url": "http://x/\nlog-facility=/etc/passwd"},
        {"script_url": 'http://x/"'},
        {"script_url": "http://x/\\"},
        {"script_url": "http://x/${net0/mac}"},
        {"script_url": "http://x/ a"},
        {"script_url": "ftp://x/"},
        {"script_url": "http://x/" + "a" * 250},
        {"address": IPv4Address("10.67.0.1")},
        {"address": IPv4Address("10.66.0.0")},
        {"address": IPv4Address("10.66.0.255")},
        {"address": IPv4Address("10.66.0.254")},
    ],
)
def test_no_value_becomes_a_directive(bad: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        check_hosts(LEG, [replace(HOST, **bad)])  # type: ignore[arg-type]


def test_two_hosts_cannot_share_a_card_or_an_address() -> None:
    other = replace(HOST, address=IPv4Address("10.66.0.2"), mac=HOST.mac.upper())
    with pytest.raises(BadRequest, match="the card"):
        check_hosts(LEG, [HOST, other])
    with pytest.raises(BadRequest, match="the address"):
        check_hosts(LEG, [HOST, replace(HOST, mac="52:54:00:66:00:02")])


def test_texts_do_not_depend_on_the_order_or_the_case() -> None:
    other = replace(HOST, address=IPv4Address("10.66.0.2"), mac="52:54:00:AA:00:02")
    same = replace(other, mac=other.mac.lower())
    assert hosts_text([HOST, other]) == hosts_text([same, HOST])
    assert options_text([HOST, other]) == options_text([same, HOST])


def test_a_url_in_an_error_does_not_show_its_secret() -> None:
    with pytest.raises(BadRequest) as error:
        check_hosts(LEG, [replace(HOST, script_url="http://x/s3cret token")])
    assert "s3cret" not in str(error.value)
    assert "t0ken" not in repr(HOST)
