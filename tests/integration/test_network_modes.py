"""What the cards on a network are told, as the network is set: real exchanges with dnsmasq, DHCP and DNS."""

import json
import os
import secrets
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from bmi.boot.dhcp_log import Kind
from bmi.boot.dnsmasq import Addressing, DhcpMode, Dnsmasq, NodeName
from bmi.boot.neighbours import card_of
from bmi.drivers import Outcome
from bmi.errors import BadRequest
from bmi.netns import socket_inside
from bmi.rights import OWN
from bmi.run import run
from bmi.wait import wait_until
from tests.integration.dhcp_bench import Bench, dhcp_bench, host
from tests.integration.dhcp_client import BIOS, IPXE, SYSTEM, UEFI, DhcpClient

STRANGER = "52:54:00:bb:bb:bb"
SILENCE = 0.5  # seconds
PING = 6.0  # seconds; dnsmasq looks for 3 s whether somebody has an address of a range before it offers it
RANGE = (IPv4Address("10.66.0.100"), IPv4Address("10.66.0.101"))
NO_ERROR, NO_NAME, REFUSED = 0, 3, 5  # RFC 1035, 4.1.1
SCRIPT = "http://10.66.0.254:8080/boot/script.ipxe"
ZONE = "blue.bmi.internal"

FULL = Addressing(DhcpMode.FULL, dynamic=RANGE)
PROXY = Addressing(DhcpMode.PROXY, script_url=SCRIPT)
NAMED = Addressing(dns=True, zone=ZONE)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: run as root")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with dhcp_bench(tmp_path) as bench:
        yield bench


# --- full ------------------------------------------------------------------------------------------------


def test_a_stranger_gets_an_address_of_the_range_and_nothing_to_boot(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [host(1)], addressing=FULL)
    for kind in (SYSTEM, BIOS, IPXE):
        answer = bench.client.boot(STRANGER, kind, timeout=PING)
        assert answer is not None
        assert RANGE[0] <= answer.address <= RANGE[1]
        assert answer.boot_file is None
        assert not answer.file
    known = bench.client.boot(host(1).mac, IPXE)
    assert known is not None
    assert (known.address, known.boot_file) == (host(1).address, host(1).script_url)


def test_a_strangers_lease_stays_while_nodes_come_and_go(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [host(1)], addressing=FULL)
    answer = bench.client.boot(STRANGER, SYSTEM, timeout=PING)
    assert answer is not None
    bench.client.boot(host(1).mac, SYSTEM)
    assert bench.dnsmasq.serve(bench.leg, [host(2)], addressing=FULL) is Outcome.DONE
    assert [lease.mac for lease in bench.dnsmasq.leases(bench.leg.network)] == [STRANGER]
    assert bench.dnsmasq.serve(bench.leg, [host(2)], addressing=FULL) is Outcome.ALREADY
    # What the network is told no longer has room for him.
    bench.dnsmasq.serve(bench.leg, [host(2)])
    assert bench.dnsmasq.leases(bench.leg.network) == []
    assert bench.client.boot(STRANGER, SYSTEM, timeout=SILENCE) is None


def test_a_stranger_who_becomes_a_node_gets_the_nodes_address(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [], addressing=FULL)
    answer = bench.client.boot(host(1).mac, SYSTEM, timeout=PING)
    assert answer is not None
    assert RANGE[0] <= answer.address <= RANGE[1]
    bench.dnsmasq.serve(bench.leg, [host(1)], addressing=FULL)
    assert bench.dnsmasq.leases(bench.leg.network) == []
    answer = bench.client.boot(host(1).mac, SYSTEM)
    assert answer is not None
    assert answer.address == host(1).address


def test_a_card_that_another_gateway_answers_meets_silence(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [], addressing=replace(FULL, strangers=(host(2).mac,)))
    assert bench.client.boot(host(2).mac, SYSTEM, timeout=PING) is None


# --- proxy and off ---------------------------------------------------------------------------------------


def test_a_proxy_says_what_to_boot_and_gives_no_address(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [host(1)], addressing=PROXY)
    for kind, file in ((BIOS, "undionly.kpxe"), (IPXE, SCRIPT)):
        offer = bench.client.ask(host(1).mac, 1, {**kind, 97: b"\0" + bytes(16)})
        assert offer is not None
        assert (offer.address, offer.file) == (IPv4Address(0), file)
        assert offer.options[60] == b"PXEClient"
    assert bench.dnsmasq.leases(bench.leg.network) == []


def test_a_proxy_is_silent_to_strangers_and_to_who_wants_just_an_address(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [host(1)], addressing=PROXY)
    assert bench.client.ask(STRANGER, 1, {**BIOS, 97: b"\0" + bytes(16)}, timeout=SILENCE) is None
    assert bench.client.ask(host(1).mac, 1, SYSTEM, timeout=SILENCE) is None


def test_off_is_silence_and_its_hosts_may_change(bench: Bench) -> None:
    off = Addressing(DhcpMode.OFF)
    assert bench.dnsmasq.serve(bench.leg, [host(1)], addressing=off) is Outcome.DONE
    for kind in (SYSTEM, IPXE, BIOS, UEFI):
        assert bench.client.ask(host(1).mac, 1, kind, timeout=SILENCE) is None
    assert not run(["ss", "-Huln", "sport = :67"], namespace=bench.leg.namespace)
    assert bench.dnsmasq.serve(bench.leg, [host(1), host(2)], addressing=off) is Outcome.DONE
    assert bench.dnsmasq.answers(bench.leg, [host(1), host(2)], addressing=off)
    # It is there all the same, for what asks by TFTP.
    assert not bench.dnsmasq.end_if_hung(bench.leg)
    assert bench.dnsmasq.serve(bench.leg, [host(1)]) is Outcome.DONE
    assert bench.client.boot(host(1).mac, SYSTEM) is not None


def test_leases_are_kept_where_the_settings_say(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "leases"
    dnsmasq = Dnsmasq(bench.site, run_dir=bench.run_dir, leases=folder)
    dnsmasq.serve(bench.leg, [host(1)])
    assert bench.client.boot(host(1).mac, SYSTEM) is not None
    assert [lease.mac for lease in dnsmasq.leases(bench.leg.network)] == [host(1).mac]
    wait_until(
        lambda: any(event.kind is Kind.ACK for event in dnsmasq.events(bench.leg.network)),
        deadline=5,
        what="the acknowledgement in the log",
        next_step="",
    )
    kept, shown = (folder / f"{bench.leg.network}.{kind}" for kind in ("leases", "status"))
    assert host(1).mac in kept.read_text()
    (row,) = json.loads(shown.read_text())
    assert (row["mac-address"], row["ip-address"]) == (host(1).mac, str(host(1).address))
    # They outlive dnsmasq and what is in memory, as a reboot ends both.
    bench.process().stop(kill=True)
    shutil.rmtree(bench.run_dir)
    dnsmasq.serve(bench.leg, [host(1)])
    assert [lease.mac for lease in dnsmasq.leases(bench.leg.network)] == [host(1).mac]
    dnsmasq.stop(bench.leg.network)
    assert list(folder.iterdir()) == []


def test_the_kernel_tells_whose_card_an_address_is(bench: Bench) -> None:
    _give_address(bench)
    run(["ping", "-c1", "-W2", "10.66.0.254"], namespace=bench.client.namespace)
    shown = json.loads(run(["ip", "-n", bench.client.namespace, "-json", "link", "show", "eth0"]))
    assert card_of(OWN, bench.leg, IPv4Address("10.66.0.77")) == shown[0]["address"]
    assert card_of(OWN, bench.leg, IPv4Address("10.66.0.78")) is None


# --- what is told ----------------------------------------------------------------------------------------


def test_mtu_domain_servers_router_and_lease_are_told(bench: Bench) -> None:
    told = Addressing(
        router=IPv4Address("10.66.0.9"),
        dns_servers=(IPv4Address("10.66.0.2"), IPv4Address("192.0.2.53")),
        zone=ZONE,
        mtu=9000,
        lease=600,
    )
    bench.dnsmasq.serve(bench.leg, [host(1)], addressing=told)
    answer = bench.client.boot(host(1).mac, SYSTEM)
    assert answer is not None
    assert answer.options[3] == told.router.packed if told.router else False
    assert answer.options[6] == told.dns_servers[0].packed + told.dns_servers[1].packed
    assert answer.text(15) == ZONE
    assert struct.unpack("!H", answer.options[26]) == (9000,)
    assert struct.unpack("!I", answer.options[51]) == (600,)
    assert not run(["ss", "-Hln", "sport = :53"], namespace=bench.leg.namespace)


def test_a_change_of_what_is_told_takes_effect_at_once(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [host(1)])
    assert not bench.dnsmasq.answers(bench.leg, [host(1)], addressing=Addressing(mtu=1400))
    assert bench.dnsmasq.serve(bench.leg, [host(1)], addressing=Addressing(mtu=1400)) is Outcome.DONE
    answer = bench.client.boot(host(1).mac, SYSTEM)
    assert answer is not None
    assert struct.unpack("!H", answer.options[26]) == (1400,)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (Addressing(mtu=575), "no MTU"),
        (Addressing(mtu=9217), "no MTU"),
        (Addressing(lease=60), "no lease"),
        (Addressing(dynamic=(IPv4Address("10.66.0.9"), IPv4Address("10.66.1.1"))), "no address of"),
        (Addressing(dynamic=(IPv4Address("10.66.0.9"), IPv4Address("10.66.0.8"))), "is empty"),
        (Addressing(router=IPv4Address("10.66.0.255")), "no address of"),
        (Addressing(zone="a\ndhcp-script=/bin/sh"), "no host name"),
        (Addressing(dns=True), "need a domain"),
        (Addressing(dns_servers=(IPv4Address("10.66.0.254"),)), "ask itself"),
        (Addressing(strangers=("52:54:00:66:00:01,10.66.0.1",)), "no MAC address"),
        (Addressing(script_url="http://x/\nuser=root"), "cannot be given"),
    ],
)
def test_what_cannot_be_told_is_refused_before_anything_is_done(
    bench: Bench, bad: Addressing, said: str
) -> None:
    with pytest.raises(BadRequest, match=said):
        bench.dnsmasq.serve(bench.leg, [host(1)], addressing=bad)
    assert bench.dnsmasq.running() == []


def test_a_name_cannot_become_a_line(bench: Bench) -> None:
    with pytest.raises(BadRequest, match="no host name"):
        names = [NodeName("n1\n10.0.0.1 mirror", host(1).address)]
        bench.dnsmasq.serve(bench.leg, [], addressing=NAMED, names=names)


# --- names -----------------------------------------------------------------------------------------------


def test_nodes_are_found_by_name_and_by_address(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [host(1)], addressing=NAMED, names=[named(1), named(2)])
    _give_address(bench)
    answer = bench.client.boot(host(1).mac, SYSTEM)
    assert answer is not None
    assert answer.options[6] == bench.leg.address.ip.packed
    assert answer.text(15) == ZONE
    assert ask(bench.client, f"n1.{ZONE}") == (NO_ERROR, host(1).address.packed)
    assert ask(bench.client, f"N2.{ZONE}") == (NO_ERROR, host(2).address.packed)
    code, pointer = ask(bench.client, "1.0.66.10.in-addr.arpa", kind=12)
    assert (code, pointer) == (NO_ERROR, b"\x02n1\x04blue\x03bmi\x08internal\0")
    # A node that comes is known without a restart, one that went is forgotten.
    before = bench.process()
    bench.dnsmasq.serve(bench.leg, [host(1)], addressing=NAMED, names=[named(1), named(3)])
    assert ask(bench.client, f"n3.{ZONE}") == (NO_ERROR, host(3).address.packed)
    assert ask(bench.client, f"n2.{ZONE}")[0] == NO_NAME
    assert bench.process() == before


def test_other_names_are_refused_where_the_network_has_no_servers(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [], addressing=NAMED, names=[named(1)])
    _give_address(bench)
    for name in ("example.org", "localhost.example", socket.gethostname() + ".example"):
        assert ask(bench.client, name)[0] == REFUSED
    # What stands in this host's own files is nobody's business there.
    assert ask(bench.client, "5.0.66.10.in-addr.arpa", kind=12)[0] == NO_NAME


def test_off_is_off_also_for_names(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [host(1)], names=[named(1)])
    _give_address(bench)
    with pytest.raises(ConnectionRefusedError):
        ask(bench.client, f"n1.{ZONE}")


@pytest.mark.parametrize("outside", [False, True], ids=["on the network", "behind the router"])
def test_other_names_are_asked_of_the_networks_servers(bench: Bench, outside: bool) -> None:
    router = IPv4Address("10.66.0.9")
    server = IPv4Address("192.0.2.53") if outside else router
    told = replace(NAMED, router=router, dns_servers=(server,))
    _give_address(bench, f"{router}/24")
    if outside:
        run(["ip", "-n", bench.client.namespace, "addr", "add", f"{server}/32", "dev", "lo"])
        run(["ip", "-n", bench.client.namespace, "link", "set", "lo", "up"])
    bench.dnsmasq.serve(bench.leg, [], addressing=told, names=[named(1)])
    with _upstream(bench, server):
        assert ask(bench.client, "public.example.org") == (NO_ERROR, IPv4Address("93.184.215.14").packed)
        # An answer that would lead a node to a private address is none (DNS rebinding).
        assert ask(bench.client, "rebound.example.org")[1] is None
        # The nodes' own names are never asked for elsewhere.
        assert ask(bench.client, f"public.{ZONE}")[0] == NO_NAME
    routes = run(["ip", "route", "show", "proto", "187"], namespace=bench.leg.namespace)
    assert (str(server) in routes) is outside
    # A leg leads nowhere else, and not there any more when nobody is to be asked.
    assert not run(["ip", "route", "show", "default"], namespace=bench.leg.namespace)
    bench.dnsmasq.serve(bench.leg, [], addressing=NAMED, names=[named(1)])
    assert not run(["ip", "route", "show", "proto", "187"], namespace=bench.leg.namespace)


def named(number: int) -> NodeName:
    return NodeName(f"n{number}.{ZONE}", host(number).address)


def _give_address(bench: Bench, address: str = "10.66.0.77/24") -> None:
    run(["ip", "-n", bench.client.namespace, "addr", "add", address, "dev", "eth0"])


@contextmanager
def _upstream(bench: Bench, address: IPv4Address) -> Iterator[None]:
    """Run a DNS server of the site, at the nodes' end of the wire."""
    namespace = bench.client.namespace
    words = [
        "dnsmasq --keep-in-foreground --no-hosts --no-resolv --user=root --bind-interfaces --conf-file=/dev/null",
        f"--pid-file= --listen-address={address}",
        "--host-record=public.example.org,93.184.215.14 --host-record=rebound.example.org,10.66.0.254",
    ]
    process = subprocess.Popen(["ip", "netns", "exec", namespace, *" ".join(words).split()])
    try:
        wait_until(
            lambda: bool(run(["ss", "-Huln", "sport = :53"], namespace=namespace)),
            deadline=5,
            what="the site's DNS server to listen",
            next_step="",
        )
        yield
    finally:
        process.kill()
        process.wait()


def ask(client: DhcpClient, name: str, *, kind: int = 1) -> tuple[int, bytes | None]:
    """Ask the gateway for a name, as RFC 1035 has it; returns the code of the answer, and its first record."""
    labels = b"".join(bytes([len(word)]) + word.encode() for word in name.split("."))
    question = labels + struct.pack("!BHH", 0, kind, 1)
    query = secrets.token_bytes(2) + struct.pack("!HHHHH", 0x0100, 1, 0, 0, 0) + question
    with socket_inside(client.namespace, socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.settimeout(3)
        wire.connect(("10.66.0.254", 53))
        wire.send(query)
        answer = wire.recv(4096)
    assert answer[:2] == query[:2]
    flags, _, count = struct.unpack("!HHH", answer[2:8])
    record = answer[12 + len(question) :]
    if not count:
        return flags & 15, None
    # The name is a pointer of two bytes; then type, class, time to live and length.
    (length,) = struct.unpack("!H", record[10:12])
    return flags & 15, record[12 : 12 + length]
