"""What the helper can be asked for: the list, and that arguments and answers come through as they are."""

import socket
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Interface
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from bmi.boot.dhcp_log import BootEvent, Kind
from bmi.boot.dnsmasq import Addressing, BootHost, DhcpMode, Dnsmasq, Lease, NodeName
from bmi.drivers import Outcome
from bmi.drivers.leg import Leg, Legs
from bmi.drivers.switch import PortState, PortVlans, Switch
from bmi.errors import AddressTaken, BmiError, LegError
from bmi.helper.client import HelpedDnsmasq, HelpedLegs, HelpedRights, HelpedSwitch, _raised
from bmi.helper.id_maps import IdRange, Ids
from bmi.helper.service import _described
from bmi.helper.verbs import VERBS
from bmi.helper.wire import Broken, receive, send
from bmi.rights import Rights

NETWORK = UUID("01a21f29-4c73-719a-a889-abf054025f87")
LEG = Leg(
    NETWORK,
    101,
    IPv4Interface("10.66.0.254/24"),
    f"bmi-0a1b2c3d-{NETWORK.hex}",
    "eth0",
    frozenset({IPv4Interface("10.66.0.253/24")}),
)
HOST = BootHost(
    UUID(int=1), "52:54:00:00:00:01", IPv4Address("10.66.0.1"), "node-1", "http://10.66.0.254/secret"
)
NODE = IPv4Address("10.66.0.1")
ADDRESSING = Addressing(
    DhcpMode.FULL,
    dynamic=(IPv4Address("10.66.0.100"), IPv4Address("10.66.0.199")),
    strangers=("52:54:00:00:00:02",),
    dns=True,
    dns_servers=(IPv4Address("192.0.2.1"),),
    zone="blue.bmi.internal",
    mtu=9000,
)
TIME = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

CALLS: dict[str, dict[str, Any]] = {
    "legs.up": {"network": NETWORK, "vlan": 101, "address": LEG.address, "also": list(LEG.also), "lease": 14},
    "legs.renew": {"lease": None},
    "legs.down": {"network": NETWORK},
    "legs.legs": {},
    "legs.mtus": {"network": NETWORK},
    "switch.configure": {"port": "p1", "vlans": PortVlans(101, frozenset({201, 202}))},
    "switch.port": {"port": "p1"},
    "switch.ports": {},
    "switch.heard_at": {"mac": "52:54:00:00:00:01"},
    "dnsmasq.serve": {
        "leg": LEG,
        "hosts": [HOST],
        "addressing": ADDRESSING,
        "names": [NodeName("n1.blue.bmi.internal", NODE)],
    },
    "dnsmasq.stop": {"network": NETWORK},
    "dnsmasq.end_if_hung": {"leg": LEG},
    "dnsmasq.answers": {"leg": LEG, "hosts": [], "addressing": Addressing(), "names": []},
    "dnsmasq.running": {},
    "dnsmasq.leases": {"network": NETWORK},
    "dnsmasq.events": {"network": NETWORK, "again": True},
    "ids.write": {"pid": 7, "ids": Ids.USERS, "ranges": [IdRange(0, 100000, 65536), IdRange(65536, 995, 1)]},
    "rights.socket_inside": {
        "namespace": LEG.namespace,
        "family": socket.AF_INET,
        "type": socket.SOCK_STREAM,
    },
    "rights.dhcp_sockets": {"namespace": LEG.namespace, "interface": "eth0"},
    "rights.let_in": {"namespace": LEG.namespace, "port": 3260, "peer": NODE},
    "rights.tcp_table": {"namespace": LEG.namespace},
    "rights.listening": {"namespace": LEG.namespace, "port": 69, "udp": True},
}
ANSWERS: dict[str, Any] = {
    "legs.up": LEG,
    "legs.legs": [LEG, replace(LEG, complete=False, also=frozenset())],
    "legs.mtus": {"eth0": 1500},
    "legs.down": Outcome.ALREADY,
    "legs.renew": None,
    "switch.port": PortState("p1", PortVlans(tagged=frozenset({7})), None),
    "dnsmasq.running": [NETWORK],
    "dnsmasq.leases": [Lease(HOST.mac, NODE, TIME)],
    "dnsmasq.events": [
        BootEvent(Kind.ACK, HOST.mac, NODE, "iPXE", TIME),
        BootEvent(Kind.SENT, None, NODE, "x", TIME),
    ],
    "rights.let_in": True,
}


def test_every_verb_has_an_example_here() -> None:
    assert VERBS.keys() == CALLS.keys()


@pytest.mark.parametrize("name", VERBS)
def test_arguments_come_through(name: str) -> None:
    verb = VERBS[name]
    assert verb.unpack(verb.pack(CALLS[name])) == CALLS[name]


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_come_through(name: str) -> None:
    returns = VERBS[name].returns
    assert returns is not None
    assert returns.validate_python(returns.dump_python(ANSWERS[name], mode="json")) == ANSWERS[name]


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("legs.up", {"vlan": "many"}),
        ("legs.up", {"address": "10.0.0.0/99"}),
        ("legs.up", {"network": "../x"}),
        ("legs.down", {"network": None}),
        ("legs.legs", {"more": 1}),
        ("rights.let_in", {"port": "3260 ; flush ruleset"}),
        ("rights.let_in", {"peer": "10.0.0.1 . 22"}),
        ("switch.configure", {"vlans": {"native": "1"}, "port": 1}),
    ],
)
def test_other_arguments_are_refused(name: str, changed: dict[str, Any]) -> None:
    verb = VERBS[name]
    with pytest.raises(ValidationError):
        verb.unpack(verb.pack(CALLS[name]) | changed)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(HelpedLegs, Legs), (HelpedSwitch, Switch), (HelpedDnsmasq, Dnsmasq), (HelpedRights, Rights)],
)
def test_what_stands_for_something_has_all_of_it(ours: type, theirs: type) -> None:
    def public(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_") and callable(getattr(kind, name))}

    assert public(theirs) <= public(ours)


def test_an_error_comes_through_as_what_a_caller_knows() -> None:
    class Own(AddressTaken):
        """What only the driver knows."""

    for error in (LegError("leg a", next_step="b"), Own("c", next_step="d")):
        again = _raised(_described(error))
        assert isinstance(again, BmiError)
        assert (again.message, again.next_step) == (error.message, error.next_step)
    assert type(again) is AddressTaken
    again = _raised(_described(OSError(19, "No such device")))
    assert isinstance(again, OSError)
    assert again.errno == 19


def test_a_fault_is_not_told_in_detail(caplog: pytest.LogCaptureFixture) -> None:
    told = _described(ValueError("a secret"))
    assert "a secret" not in str(told)
    assert "ValueError" in told["message"]
    assert "a secret" in caplog.text


def test_messages_and_sockets_go_over_a_socket() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket() as given:
        send(ours, {"a": "ü" * 10000}, [given])
        message, sockets = receive(theirs)
        assert message == {"a": "ü" * 10000}
        assert len(sockets) == 1
        sockets[0].close()
        ours.close()
        with pytest.raises(Broken):
            receive(theirs)
