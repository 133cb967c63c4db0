"""The forwarder between a leg, in which only the tenant is, and the host, where Ceph is."""

import errno
import random
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from uuid import UUID

import psutil
import pytest

from bmi.drivers import Outcome
from bmi.drivers.target import Export, Portal, tgt_forwarder_control
from bmi.drivers.target.tgt import TgtTarget
from bmi.errors import BadRequest, CommandFailed, TargetError
from bmi.netns import call_inside
from bmi.run import run
from bmi.wait import wait_until
from tests.iscsi import MIB, Initiator, make_export
from tests.killed_bmi import serve_until_killed
from tests.legs import (
    LEG,
    NODE,
    STRANGER,
    Wire,
    forwarder,
    serve_again_when_it_ends,
    tgtd,
)
from tests.libiscsi import Refused
from tests.rbd_images import Images

ALREADY, DONE = Outcome.ALREADY, Outcome.DONE

NOBODY = "127.127.127.127"


# --- who gets in ---------------------------------------------------------------------------------------------


def test_a_node_reaches_its_images_and_is_seen_with_its_own_address(
    wire: Wire, target: TgtTarget, portal: Portal, export: Export
) -> None:
    target.serve(portal, [export])
    node = wire.initiator(portal, export)
    assert (node.size(1), node.size(2)) == (64 * MIB, MIB)
    with wire.connection(portal, export):
        (session,) = target.sessions(portal.id)
        assert (session.iqn, session.initiator, session.address) == (export.iqn, export.initiator, NODE)
    with wire.connection(portal, export, lun=2) as seed, pytest.raises(Refused, match="WRITE_PROTECTED"):
        seed.write(0, bytes(512))


WRONG: dict[str, Callable[[Export], Export]] = {
    "secret": lambda export: replace(export, password="wrong-secret-1"),
    "CHAP name": lambda export: replace(export, username="user-b"),
    "initiator name": lambda export: replace(export, initiator="iqn.2026-01.org.example:node-b"),
    "no CHAP": lambda export: replace(export, username="", password=""),
}


def test_nobody_else_gets_in(wire: Wire, target: TgtTarget, portal: Portal, export: Export) -> None:
    target.serve(portal, [export])
    for wrong in WRONG.values():
        with pytest.raises(CommandFailed, match=r"Authentication failure|Target not found"):
            wire.initiator(portal, wrong(export)).inquire(1)
    for anybody in (export, *(wrong(export) for wrong in WRONG.values())):
        with pytest.raises(CommandFailed, match="Authentication failure") as refused:
            wire.initiator(portal, anybody).luns()
        assert "Target:" not in str(refused.value)


def test_a_node_meets_a_process_without_rights_and_nothing_of_the_host(
    wire: Wire, target: TgtTarget, portal: Portal, export: Export
) -> None:
    target.serve(portal, [export])
    listening = run(["ss", "-Hltn"], namespace=wire.leg).splitlines()
    assert [line.split()[3] for line in listening] == [str(portal)]
    found = psutil.Process(forwarder(target, portal).pid)
    assert 0 not in found.uids()
    assert Path(f"/proc/{found.pid}/root").resolve() != Path("/")
    addresses = {
        each.laddr.ip for each in psutil.Process(tgtd(target, portal).pid).net_connections() if not each.raddr
    }
    assert addresses == {NOBODY}


def connect(wire: Wire, portal: Portal, source: str) -> socket.socket:
    """Connect from one of the nodes' addresses, or be refused."""
    made = call_inside(wire.nodes, lambda: socket.socket(socket.AF_INET))
    made.bind((source, 0))
    made.settimeout(10)
    with suppress(ConnectionError):
        made.connect((str(portal.address), portal.port))
    made.setblocking(False)
    return made


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_a_flood_of_connections_shuts_nobody_out(
    wire: Wire, target: TgtTarget, portal: Portal, export: Export, tmp_path: Path, ceph: Images
) -> None:
    neighbour, beside = make_export(tmp_path, "b", images=ceph), wire.portal(3261)
    target.serve(beside, [neighbour])
    target.serve(portal, [export])
    with ExitStack() as stack:
        flood = [stack.enter_context(connect(wire, portal, STRANGER)) for _ in range(400)]
        for connection in flood:
            with suppress(ConnectionError):
                connection.send(b"\0")
        wait_until(
            lambda: sum(map(is_closed, flood)) >= 384, deadline=20, what="the limit to hold", next_step="-"
        )
        assert wire.initiator(portal, export).size(1) == 64 * MIB
        assert wire.initiator(beside, neighbour).size(1) == MIB
        assert not target.end_if_hung(portal.id)
        # Those who say nothing are sent away before tgtd hears of them.
        silent = stack.enter_context(connect(wire, beside, STRANGER))
        wait_until(lambda: is_closed(silent), deadline=30, what="the silent one to be closed", next_step="-")


# --- processes ---------------------------------------------------------------------------------------------


def test_sessions_come_back_when_the_forwarder_was_killed(
    wire: Wire, target: TgtTarget, portal: Portal, export: Export
) -> None:
    target.serve(portal, [export])
    serve_again_when_it_ends(target, portal, export)
    served_by, led_by = tgtd(target, portal), forwarder(target, portal)
    with wire.initiator(portal, export).session(busy=True) as busy:
        wait_until(lambda: target.sessions(portal.id), deadline=20, what="the log-in", next_step="-")
        (before,) = target.sessions(portal.id)
        led_by.stop(kill=True)
        wait_until(
            lambda: [each for each in target.sessions(portal.id) if each.id != before.id],
            deadline=30,
            what="the initiator to come back",
            next_step="-",
        )
        assert busy.poll() is None
    assert tgtd(target, portal) == served_by
    assert forwarder(target, portal) != led_by


@pytest.mark.parametrize("found_running", [False, True])
def test_a_forwarder_that_hangs_is_replaced_and_its_tgtd_goes_on(
    wire: Wire, make_target: Callable[..., TgtTarget], portal: Portal, export: Export, found_running: bool
) -> None:
    first = make_target(answer_deadline=1)
    first.serve(portal, [export])
    target = make_target(answer_deadline=1) if found_running else first
    ended = serve_again_when_it_ends(target, portal, export)
    served_by, led_by = tgtd(target, portal), forwarder(target, portal)
    with wire.initiator(portal, export).session(busy=True) as busy:
        wait_until(lambda: target.sessions(portal.id), deadline=20, what="the log-in", next_step="-")
        assert not target.end_if_hung(portal.id)
        led_by.signal(signal.SIGSTOP)

        assert target.end_if_hung(portal.id)

        wait_until(
            lambda: target.exports(portal.id), deadline=20, what="another one to be started", next_step="-"
        )
        assert busy.poll() is None
    assert ended == [portal.id]
    assert tgtd(target, portal) == served_by
    assert forwarder(target, portal) != led_by
    assert wire.initiator(portal, export).size(1) == 64 * MIB
    assert not target.end_if_hung(portal.id)
    target.close()  # what the other one stops is not to be served again


def test_one_who_asks_a_busy_forwarder_waits_for_his_turn(
    target: TgtTarget, portal: Portal, export: Export
) -> None:
    target.serve(portal, [export])
    led_by = forwarder(target, portal)
    led_by.signal(signal.SIGSTOP)
    folder = target._server(portal.id).folder
    with ExitStack() as stack, ThreadPoolExecutor(1) as thread:
        path = stack.enter_context(tgt_forwarder_control._short(folder))
        full = False
        while not full:
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            full = waiting.connect_ex(path) == errno.EAGAIN
        asked = thread.submit(target.end_if_hung, portal.id)
        with pytest.raises(TimeoutError):
            asked.result(0.3)
        led_by.signal(signal.SIGCONT)
        assert asked.result(10) is False
    assert forwarder(target, portal) == led_by


def test_a_restarted_bmi_finds_both_processes_and_ends_both(
    wire: Wire, make_target: Callable[..., TgtTarget], portal: Portal, export: Export
) -> None:
    first = make_target()
    first.serve(portal, [export])
    processes = (tgtd(first, portal), forwarder(first, portal))
    first.close()
    again = make_target()
    ends: list[UUID] = []
    again.on_exit(ends.append)
    assert again.portals() == [portal.id]
    assert again.serve(portal, [export]) is ALREADY
    assert (tgtd(again, portal), forwarder(again, portal)) == processes
    processes[1].stop(kill=True)
    wait_until(lambda: ends == [portal.id], deadline=10, what="on_exit", next_step="-")
    assert again.exports(portal.id) == []
    assert again.portals() == [portal.id]  # its tgtd is left, for somebody to end or to use
    assert again.serve(portal, [export]) is DONE
    led_by = forwarder(again, portal)
    assert again.stop(portal.id) is DONE
    assert not processes[0].alive()
    assert not led_by.alive()
    assert ends == [portal.id]


def test_a_forwarder_without_a_record_is_ended(
    wire: Wire, make_target: Callable[..., TgtTarget], portal: Portal, export: Export
) -> None:
    """BMI was killed right after it had started it."""
    target = make_target()
    for end in (lambda: target.serve(portal, [export]), lambda: target.stop(portal.id)):
        target.serve(portal, [export])
        left = forwarder(target, portal)
        (target._server(portal.id).folder / "forwarder.json").unlink()
        assert end() is DONE
        assert not left.alive()


def test_bmi_can_be_killed_anywhere(
    wire: Wire, make_target: Callable[..., TgtTarget], portal: Portal, export: Export, tmp_path: Path
) -> None:
    for _ in range(8):
        serve_until_killed(tmp_path / "state", portal, [export], random.uniform(0.01, 0.4))
        target = make_target()
        target.serve(portal, [export])
        assert target.serve(portal, [export]) is ALREADY
        assert wire.initiator(portal, export).size(1) == 64 * MIB
        if random.random() < 0.5:
            target.stop(portal.id)
            assert leftovers(tmp_path) == []


def leftovers(folder: Path) -> list[psutil.Process]:
    """Return the servers and forwarders of any portal whose files are in a folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if (
                process.name() in ("tgtd", "haproxy")
                and str(folder) in f"{process.cwd()} {process.cmdline()}"
            ):
                found.append(process)
    return found


def test_a_forwarder_from_a_lost_namespace_is_replaced(
    wire: Wire, target: TgtTarget, portal: Portal, export: Export
) -> None:
    target.serve(portal, [export])
    ends: list[UUID] = []
    target.on_exit(ends.append)
    run(["ip", "netns", "delete", wire.leg])
    run(["ip", "netns", "add", wire.leg])
    run(["ip", "-n", wire.leg, "link", "set", "lo", "up"])
    run(["ip", "-n", wire.leg, "address", "add", f"{LEG}/32", "dev", "lo"])
    served_by = tgtd(target, portal)
    assert target.serve(portal, [export]) is DONE
    assert target.serve(portal, [export]) is ALREADY
    assert Initiator(portal, export).size(1) == 64 * MIB
    assert tgtd(target, portal) == served_by
    assert ends == []


def test_what_cannot_be_forwarded_is_said(
    wire: Wire, target: TgtTarget, portal: Portal, export: Export
) -> None:
    with pytest.raises(TargetError, match="nowhere"):
        target.serve(replace(portal, namespace="bmit-nowhere"), [export])
    with pytest.raises(TargetError, match="Cannot assign requested address"):
        target.serve(replace(portal, address=IPv4Address("192.0.2.77")), [export])
    assert target._known() == []


def test_files_that_are_served_inside_the_namespace_are_not_lost_to_ceph(
    wire: Wire, target: TgtTarget, portal: Portal, export: Export, tmp_path: Path
) -> None:
    files = make_export(tmp_path, "b")
    target.serve(portal, [files])
    with pytest.raises(BadRequest, match="where Ceph cannot be reached"):
        target.serve(portal, [export])
    assert [found.iqn for found in target.exports(portal.id)] == [files.iqn]
    assert target.serve(portal, [export, files]) is DONE
    assert wire.initiator(portal, files).size(1) == MIB
    assert target.serve(portal, [files]) is ALREADY
