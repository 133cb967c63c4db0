"""dnsmasq as nodes meet it: real exchanges between two namespaces."""

import os
import queue
import secrets
import shutil
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from uuid import UUID

import psutil
import pytest

from bmi import netns
from bmi.boot.dhcp_log import Kind
from bmi.boot.dnsmasq import Addressing, Dnsmasq
from bmi.drivers import Outcome
from bmi.errors import BadRequest, BootServiceError, PortTaken
from bmi.run import run
from tests.integration.dhcp_bench import Bench, dhcp_bench, host, mentioning
from tests.integration.dhcp_client import BIOS, IPXE, NAK, REQUEST, SYSTEM, UEFI, Options

LOADERS = Path("/usr/lib/ipxe")
UNKNOWN = "52:54:00:bb:bb:bb"
SILENCE = 0.3  # seconds; dnsmasq answers within some milliseconds

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: run as root")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with dhcp_bench(tmp_path) as bench:
        yield bench


# --- who gets what ---------------------------------------------------------------------------------------


def test_ipxe_is_sent_to_the_nodes_own_script(bench: Bench) -> None:
    assert bench.dnsmasq.serve(bench.leg, [host(1), host(2)]) is Outcome.DONE
    for node in (host(1), host(2)):
        answer = bench.client.boot(node.mac, IPXE)
        assert answer is not None
        assert answer.address == node.address
        assert answer.boot_file == node.script_url
        assert answer.hostname == node.hostname
        assert answer.options[1] == bytes([255, 255, 255, 0])


@pytest.mark.parametrize(("client", "loader"), [(BIOS, "undionly.kpxe"), (UEFI, "snponly.efi")])
def test_firmware_is_sent_to_the_loader_that_it_can_run(bench: Bench, client: Options, loader: str) -> None:
    bench.dnsmasq.serve(bench.leg, [host(1)])
    answer = bench.client.boot(host(1).mac, client)
    assert answer is not None
    assert answer.boot_file == loader
    assert answer.next_server == bench.leg.address.ip


def test_the_operating_system_gets_no_boot_file_no_route_and_no_dns(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [host(1)])
    answer = bench.client.boot(host(1).mac, SYSTEM)
    assert answer is not None
    assert answer.address == host(1).address
    assert not {3, 6, 67} & set(answer.options)


WITH_ROUTER = Addressing(router=IPv4Address("10.66.0.9"))


def test_a_gateway_is_handed_out_where_one_is_given(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [host(1)])
    assert bench.dnsmasq.serve(bench.leg, [host(1)], addressing=WITH_ROUTER) is Outcome.DONE
    answer = bench.client.boot(host(1).mac, SYSTEM)
    assert answer is not None
    assert answer.options[3] == IPv4Address("10.66.0.9").packed


def test_an_unknown_card_meets_silence_and_leaves_an_event(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [host(1)])
    assert bench.client.boot(UNKNOWN, IPXE, timeout=SILENCE) is None
    taken = {50: host(1).address.packed}
    assert bench.client.ask(UNKNOWN, REQUEST, taken, timeout=SILENCE) is None
    (event,) = bench.events(Kind.REFUSED)
    assert event.mac == UNKNOWN


def test_every_client_of_one_node_gets_the_same_address(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [host(1)])
    stages = [
        {**BIOS, 61: b"\0" + bytes(16), 97: b"\0" + bytes(16)},
        {**IPXE, 61: b"\1" + bytes.fromhex("525400660001")},
        {**SYSTEM, 61: b"\xff" + secrets.token_bytes(18)},
        SYSTEM,
    ]
    answers = [bench.client.boot(host(1).mac, stage) for stage in stages]
    assert [answer and answer.address for answer in answers] == [host(1).address] * len(stages)
    assert len(bench.dnsmasq.leases(bench.leg.network)) == 1


def test_a_node_that_asks_for_an_address_of_its_past_is_told_at_once(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [host(1)])
    answer = bench.client.ask(host(1).mac, REQUEST, {**SYSTEM, 50: IPv4Address("10.99.0.5").packed})
    assert answer is not None
    assert answer.kind == NAK
    assert [event.mac for event in bench.events(Kind.REFUSED)] == [host(1).mac]


# --- changes ---------------------------------------------------------------------------------------------


def test_a_new_token_is_told_without_a_restart(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [host(1), host(2)])
    before = bench.process()
    bench.client.boot(host(1).mac, IPXE)
    assert bench.dnsmasq.serve(bench.leg, [host(1, boot="second"), host(2)]) is Outcome.DONE
    answer = bench.client.boot(host(1).mac, IPXE)
    assert answer is not None
    assert answer.boot_file == host(1, boot="second").script_url
    assert bench.process() == before


def test_a_removed_host_meets_silence_and_its_lease_is_gone(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [host(1), host(2)])
    before = bench.process()
    for node in (host(1), host(2)):
        assert bench.client.boot(node.mac, SYSTEM) is not None
    assert bench.dnsmasq.serve(bench.leg, [host(1)]) is Outcome.DONE
    assert [lease.mac for lease in bench.dnsmasq.leases(bench.leg.network)] == [host(1).mac]
    assert bench.client.boot(host(2).mac, IPXE, timeout=SILENCE) is None
    again = {50: host(2).address.packed}
    assert bench.client.ask(host(2).mac, REQUEST, again, timeout=SILENCE) is None
    assert bench.process() == before


def test_a_lease_goes_away_also_when_dnsmasq_does_not_take_the_release(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [host(1), host(2)])
    for node in (host(1), host(2)):
        assert bench.client.boot(node.mac, SYSTEM) is not None
    run(["ip", "-n", bench.leg.namespace, "link", "set", "lo", "down"])  # releases are sent over it
    bench.dnsmasq.serve(bench.leg, [host(1)])
    assert [lease.mac for lease in bench.dnsmasq.leases(bench.leg.network)] == [host(1).mac]
    assert bench.client.boot(host(2).mac, IPXE, timeout=SILENCE) is None


def test_a_host_moves_to_another_address_and_another_gets_its_old_one(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [host(1)])
    assert bench.client.boot(host(1).mac, SYSTEM) is not None
    moved, heir = replace(host(1), address=host(9).address), replace(host(2), address=host(1).address)
    bench.dnsmasq.serve(bench.leg, [moved, heir])
    for node in (moved, heir):
        answer = bench.client.boot(node.mac, SYSTEM)
        assert answer is not None
        assert answer.address == node.address


def test_many_changes_do_not_wear_dnsmasq_out(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [])
    before = bench.process()
    for number in range(20):
        node = host(1, boot=f"token-{number}")
        bench.dnsmasq.serve(bench.leg, [node, host(2)] if number % 2 else [node])
        answer = bench.client.boot(node.mac, IPXE)
        assert answer is not None
        assert answer.boot_file == node.script_url
    assert bench.process() == before


def test_serving_the_same_again_changes_nothing(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [host(1), host(2)])
    bench.client.boot(host(1).mac, IPXE)
    before = bench.process()
    assert bench.dnsmasq.serve(bench.leg, [host(2), host(1)]) is Outcome.ALREADY
    assert bench.process() == before


# --- life and death --------------------------------------------------------------------------------------


def test_it_says_whether_it_answers_exactly_these(bench: Bench) -> None:
    first, second = host(1), host(2)
    assert not bench.dnsmasq.answers(bench.leg, [])
    bench.dnsmasq.serve(bench.leg, [first])
    assert bench.dnsmasq.answers(bench.leg, [first])
    assert not bench.dnsmasq.answers(bench.leg, [first, second])
    assert not bench.dnsmasq.answers(replace(bench.leg, interface="lo"), [first])
    bench.process().stop(kill=True)
    assert not bench.dnsmasq.answers(bench.leg, [first])


def test_hosts_that_somebody_changed_are_written_again(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [host(1)])
    (hosts,) = bench.run_dir.glob("*/*/hosts")
    hosts.write_text("")
    assert not bench.dnsmasq.answers(bench.leg, [host(1)])
    assert bench.dnsmasq.serve(bench.leg, [host(1)]) is Outcome.DONE
    assert bench.dnsmasq.answers(bench.leg, [host(1)])


def test_a_killed_dnsmasq_is_reported_and_comes_back_with_its_leases(bench: Bench) -> None:
    ended: queue.Queue[UUID] = queue.Queue()
    bench.dnsmasq.on_exit(ended.put)
    bench.dnsmasq.serve(bench.leg, [host(1)])
    assert bench.client.boot(host(1).mac, SYSTEM) is not None
    os.kill(bench.process().pid, signal.SIGKILL)
    assert ended.get(timeout=5) == bench.leg.network
    assert bench.dnsmasq.running() == []
    assert bench.dnsmasq.serve(bench.leg, [host(1)]) is Outcome.DONE
    assert [lease.address for lease in bench.dnsmasq.leases(bench.leg.network)] == [host(1).address]
    again = bench.client.ask(host(1).mac, REQUEST, {**SYSTEM, 50: host(1).address.packed})
    assert again is not None
    assert again.address == host(1).address


@pytest.mark.parametrize("adopted", [False, True])
def test_one_that_hangs_is_ended_and_reported(bench: Bench, adopted: bool) -> None:
    ended: queue.Queue[UUID] = queue.Queue()
    bench.dnsmasq.serve(bench.leg, [host(1)])
    watcher = bench.again(patience=1) if adopted else bench.dnsmasq
    watcher.on_exit(ended.put)
    assert not watcher.end_if_hung(bench.leg)
    hanging = bench.process()
    hanging.signal(signal.SIGSTOP)
    assert watcher.end_if_hung(bench.leg)
    assert ended.get(timeout=5) == bench.leg.network
    assert not hanging.alive()
    assert not watcher.end_if_hung(bench.leg)  # there is none
    assert watcher.serve(bench.leg, [host(1)]) is Outcome.DONE
    assert bench.client.boot(host(1).mac, IPXE) is not None
    assert ended.empty()


def test_one_on_a_leg_that_is_gone_does_not_count_as_hung(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [host(1)])
    before = bench.process()
    run(["ip", "-n", bench.leg.namespace, "address", "flush", "dev", "eth0"])
    assert not bench.dnsmasq.end_if_hung(bench.leg)
    assert before.alive()


def test_stopping_is_no_death_and_leaves_nothing(bench: Bench) -> None:
    ended: list[UUID] = []
    bench.dnsmasq.on_exit(ended.append)
    bench.dnsmasq.serve(bench.leg, [host(1)])
    process = bench.process()
    assert bench.dnsmasq.stop(bench.leg.network) is Outcome.DONE
    assert not process.alive()
    assert bench.dnsmasq.stop(bench.leg.network) is Outcome.ALREADY
    assert bench.dnsmasq.running() == []
    assert bench.dnsmasq.leases(bench.leg.network) == []
    assert not bench.kept.exists()
    assert list(bench.run_dir.rglob("*")) == []
    assert ended == []


def test_it_is_adopted_after_a_restart_of_bmi(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [host(1)])
    before = bench.process()
    adopted = bench.again()
    told = threading.Event()
    adopted.on_exit(lambda network: told.set())
    assert adopted.running() == [bench.leg.network]
    assert adopted.serve(bench.leg, [host(1)]) is Outcome.ALREADY
    assert adopted.serve(bench.leg, [host(2)]) is Outcome.DONE
    assert bench.process() == before
    assert bench.client.boot(host(2).mac, IPXE) is not None
    os.kill(before.pid, signal.SIGKILL)
    assert told.wait(5)


def test_one_that_was_started_but_not_recorded_is_replaced(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [host(1)])
    before = bench.process()
    (bench.kept / "dnsmasq.json").unlink()  # as after kill -9 between start and record
    assert bench.again().serve(bench.leg, [host(1)]) is Outcome.DONE
    assert not before.alive()
    assert bench.client.boot(host(1).mac, IPXE) is not None


def test_hosts_written_before_a_crash_are_told_afterwards(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [host(1)])
    (bench.run_dir / "0badcafe" / str(bench.leg.network) / "applied").unlink()
    assert bench.again().serve(bench.leg, [host(1)]) is Outcome.DONE
    assert bench.dnsmasq.serve(bench.leg, [host(1)]) is Outcome.ALREADY


def test_it_follows_a_leg_that_was_made_anew(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [host(1)])
    before = bench.process()
    leg, nodes = bench.leg, bench.client.namespace
    run(["ip", "-n", leg.namespace, "link", "delete", "eth0"])
    run(["ip", "link", "add", "eth0", "netns", leg.namespace, "type", "veth", "peer", "eth0", "netns", nodes])
    run(["ip", "-n", leg.namespace, "addr", "add", str(leg.address), "dev", "eth0"])
    run(["ip", "-n", leg.namespace, "link", "set", "eth0", "up"])
    run(["ip", "-n", nodes, "link", "set", "eth0", "up"])
    assert bench.dnsmasq.serve(leg, [host(1)]) is Outcome.DONE
    assert bench.process() != before
    assert bench.client.boot(host(1).mac, IPXE) is not None


def test_a_log_that_nobody_reads_does_not_fill_the_disk(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [host(1)])
    log = bench.kept / "dnsmasq.log"
    os.truncate(log, 65 << 20)  # takes no room: it is a hole
    assert bench.dnsmasq.serve(bench.leg, [host(1)]) is Outcome.ALREADY
    assert log.stat().st_size == 0
    assert bench.client.boot(host(1).mac, SYSTEM) is not None
    assert [event.mac for event in bench.events(Kind.ACK)] == [host(1).mac]


# --- TFTP ------------------------------------------------------------------------------------------------


def test_tftp_delivers_the_loader_and_leaves_an_event(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [host(1)])
    run(["ip", "-n", bench.client.namespace, "addr", "add", f"{host(1).address}/24", "dev", "eth0"])
    for name in ("undionly.kpxe", "snponly.efi"):
        assert _tftp(bench, name) == (LOADERS / name).read_bytes()
    sent = bench.events(Kind.SENT, count=2)
    assert [(event.address, event.detail) for event in sent] == [
        (host(1).address, "undionly.kpxe"),
        (host(1).address, "snponly.efi"),
    ]
    with pytest.raises(FileNotFoundError):
        _tftp(bench, "../../../etc/passwd")


# --- what goes wrong -------------------------------------------------------------------------------------


@pytest.mark.parametrize("reuse", [False, True])
def test_another_dhcp_server_on_the_leg_is_named(bench: Bench, reuse: bool) -> None:
    with netns.socket_inside(bench.leg.namespace, socket.AF_INET, socket.SOCK_DGRAM) as other:
        # With SO_REUSEPORT dnsmasq would start beside it, and the two would share the requests.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, reuse)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        other.bind(("", 67))
        with pytest.raises(PortTaken, match=f":67 in namespace {bench.leg.namespace}.*pid={os.getpid()}"):
            bench.dnsmasq.serve(bench.leg, [host(1)])
    assert bench.dnsmasq.running() == []
    assert bench.dnsmasq.serve(bench.leg, [host(1)]) is Outcome.DONE


def test_a_missing_loader_is_named_with_its_package(bench: Bench, tmp_path: Path) -> None:
    shutil.copy(LOADERS / "undionly.kpxe", tmp_path)
    dnsmasq = Dnsmasq(bench.site, run_dir=bench.run_dir, tftp_root=tmp_path)
    with pytest.raises(BootServiceError, match=r"snponly.efi is missing.*package ipxe"):
        dnsmasq.serve(bench.leg, [host(1)])
    assert not mentioning(bench.site.state_dir)


def test_a_loader_folder_that_dnsmasq_may_not_enter_is_reported(bench: Bench, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for name in ("undionly.kpxe", "snponly.efi"):
        shutil.copy(LOADERS / name, closed)
    dnsmasq = Dnsmasq(bench.site, run_dir=bench.run_dir, tftp_root=closed)
    with pytest.raises(BootServiceError, match=r"(?s)TFTP directory .*closed"):
        dnsmasq.serve(bench.leg, [host(1)])
    assert not mentioning(bench.site.state_dir)


def test_a_missing_interface_is_named(bench: Bench) -> None:
    with pytest.raises(BootServiceError, match="no interface eth7"):
        bench.dnsmasq.serve(replace(bench.leg, interface="eth7"), [host(1)])


def test_hosts_that_exclude_each_other_are_refused_and_the_old_ones_stay(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [host(1)])
    with pytest.raises(BadRequest, match="two nodes are to have the address"):
        bench.dnsmasq.serve(bench.leg, [host(1), replace(host(2), address=host(1).address)])
    assert bench.client.boot(host(1).mac, IPXE) is not None


def test_no_file_with_a_secret_can_be_read_by_others(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [host(1, boot="s3cret")])
    bench.client.boot(host(1).mac, IPXE)
    assert "s3cret" not in " ".join(psutil.Process(bench.process().pid).cmdline())
    for file in bench.run_dir.rglob("*"):
        assert file.is_dir() or file.stat().st_mode & 0o077 == 0, file
    assert bench.kept.stat().st_mode & 0o077 == 0
    assert psutil.Process(bench.process().pid).uids().real != 0


def _tftp(bench: Bench, name: str) -> bytes:
    """Fetch a file as a node does (RFC 1350)."""
    content = b""
    with netns.socket_inside(bench.client.namespace, socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.settimeout(5)
        wire.sendto(struct.pack("!H", 1) + name.encode() + b"\0octet\0", (str(bench.leg.address.ip), 69))
        while True:
            data, peer = wire.recvfrom(2048)
            code, number = struct.unpack("!HH", data[:4])
            if code == 5:
                raise FileNotFoundError(data[4:].decode(errors="replace"))
            content += data[4:]
            wire.sendto(struct.pack("!HH", 4, number), peer)
            if len(data) < 516:
                return content
