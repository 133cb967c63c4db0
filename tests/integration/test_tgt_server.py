"""tgtd's process: started, found again, crashed in every way, and ended."""

import errno
import os
import random
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import psutil
import pytest

from bmi import processes
from bmi.drivers import Outcome, Site
from bmi.drivers.storage import Backing
from bmi.drivers.target import Export, Lun, Portal, Removal
from bmi.drivers.target.tgt import TgtTarget
from bmi.drivers.target.tgt_server import TgtServer
from bmi.drivers.target.tgt_socket import TgtSocket
from bmi.errors import BadRequest, PortTaken, TargetError
from bmi.processes import Process
from bmi.run import run
from bmi.wait import wait_until
from tests.iscsi import Initiator, free_portal, make_export
from tests.killed_bmi import serve_until_killed
from tests.libiscsi import Connection

ALREADY, DONE = Outcome.ALREADY, Outcome.DONE


@pytest.fixture
def make_target(tmp_path: Path) -> Iterator[Callable[..., TgtTarget]]:
    made: list[TgtTarget] = []

    def make(**options: Any) -> TgtTarget:
        made.append(TgtTarget(options, Site(tmp_path / "state", "0a1b2c3d")))
        return made[-1]

    yield make
    for target in made:
        for portal in target.portals():
            target.stop(portal)
        target.close()


@pytest.fixture
def target(make_target: Callable[..., TgtTarget]) -> TgtTarget:
    return make_target()


@pytest.fixture
def portal() -> Portal:
    return free_portal()


@pytest.fixture
def export(tmp_path: Path) -> Export:
    return make_export(tmp_path, "a")


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"bmit-{secrets.token_hex(4)}"
    run(["ip", "netns", "add", name])
    try:
        yield name
    finally:
        run(["ip", "netns", "delete", name])


def server(target: TgtTarget, portal: Portal) -> TgtServer:
    return target._server(portal.id)


def process(target: TgtTarget, portal: Portal) -> Process:
    found = server(target, portal).process()
    assert found is not None
    return found


# --- where it listens ------------------------------------------------------------------------------------


def test_a_foreign_listener_is_named_and_nothing_is_left(
    target: TgtTarget, portal: Portal, export: Export, tmp_path: Path
) -> None:
    with socket.socket() as listener:
        listener.bind((str(portal.address), portal.port))
        listener.listen()
        with pytest.raises(PortTaken) as taken:
            target.serve(portal, [export])
    assert f"{portal.address}:{portal.port}" in taken.value.message
    assert f"(process {os.getpid()})" in taken.value.message
    assert list((tmp_path / "state" / "target").iterdir()) == []
    assert not [found for found in psutil.process_iter() if is_server_in(found, tmp_path)]
    assert target.serve(portal, [export]) is DONE


def is_server_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.name() == "tgtd" and str(folder) in process.cwd()
    except psutil.Error:
        return False


def test_an_address_that_the_host_does_not_have(target: TgtTarget, portal: Portal, export: Export) -> None:
    with pytest.raises(TargetError, match="Cannot assign requested address"):
        target.serve(replace(portal, address=IPv4Address("192.0.2.77")), [export])
    assert target.portals() == []


def test_a_server_moves_only_if_it_can(target: TgtTarget, portal: Portal, export: Export) -> None:
    target.serve(portal, [export])
    with socket.socket() as listener:
        listener.bind((str(portal.address), 0))
        listener.listen()
        with pytest.raises(PortTaken):
            target.serve(replace(portal, port=listener.getsockname()[1]), [export])
    assert Initiator(portal, export).inquire(1)


def test_it_listens_nowhere_else(target: TgtTarget, portal: Portal, export: Export) -> None:
    target.serve(portal, [export])
    listening = [
        c for c in psutil.Process(process(target, portal).pid).net_connections() if c.status == "LISTEN"
    ]
    assert [connection.laddr for connection in listening] == [(str(portal.address), portal.port)]


def test_a_namespace_that_is_not_there(target: TgtTarget, portal: Portal, export: Export) -> None:
    with pytest.raises(TargetError, match="nowhere"):
        target.serve(replace(portal, namespace="bmit-nowhere"), [export])
    assert target.portals() == []


def test_a_server_in_a_lost_namespace_is_replaced(target: TgtTarget, namespace: str, export: Export) -> None:
    """A namespace that was removed lives on with the server in it, and nobody can reach it any more."""
    inside = replace(free_portal(), address=IPv4Address("127.0.0.1"), port=3260, namespace=namespace)
    exits: list[object] = []
    target.on_exit(exits.append)
    run(["ip", "-n", namespace, "link", "set", "lo", "up"])
    target.serve(inside, [export])
    run(["ip", "netns", "delete", namespace])
    run(["ip", "netns", "add", namespace])
    run(["ip", "-n", namespace, "link", "set", "lo", "up"])
    assert target.serve(inside, [export]) is DONE
    assert target.serve(inside, [export]) is ALREADY
    assert Initiator(inside, export).inquire(1)
    assert exits == []


def test_a_state_folder_with_a_long_name(tmp_path: Path, portal: Portal, export: Export) -> None:
    """A socket's path has 107 bytes at the most."""
    target = TgtTarget({}, Site(tmp_path / ("long" * 40), "0a1b2c3d"))
    try:
        assert target.serve(portal, [export]) is DONE
        assert Initiator(portal, export).inquire(1)
    finally:
        assert target.stop(portal.id) is DONE


def test_only_its_owner_can_speak_to_it(target: TgtTarget, portal: Portal) -> None:
    target.serve(portal, [])
    assert server(target, portal).folder.stat().st_mode & 0o077 == 0


# --- what a crash of BMI leaves --------------------------------------------------------------------------


def test_a_server_that_was_not_filled_yet_is_found_and_filled(
    target: TgtTarget, portal: Portal, export: Export
) -> None:
    server(target, portal).folder.mkdir(mode=0o700, parents=True)
    started = server(target, portal).start(None, threads=4)
    assert target.serve(portal, [export]) is DONE
    assert process(target, portal) == started
    assert Initiator(portal, export).inquire(1)


def test_a_server_without_a_record_is_found(
    make_target: Callable[..., TgtTarget], portal: Portal, export: Export
) -> None:
    target = make_target()
    target.serve(portal, [export])
    running = process(target, portal)
    (server(target, portal).folder / "process.json").unlink()
    again = make_target()
    assert again.serve(portal, [export]) is ALREADY
    assert process(again, portal) == running
    again.stop(portal.id)
    assert not running.alive()


def test_a_half_made_export_is_not_listed_and_made_anew(
    target: TgtTarget, portal: Portal, export: Export, tmp_path: Path
) -> None:
    other = make_export(tmp_path, "b")
    target.serve(portal, [other])
    tgtd = server(target, portal).tgtd
    tgtd.new_target(77, export.iqn)
    tgtd.new_lun(77, 1, other.luns[0].backing)
    tgtd.new_account(export.username, "an-old-secret")
    assert [found.iqn for found in target.exports(portal.id)] == [other.iqn]
    assert target.serve(portal, [export]) is DONE
    assert target.serve(portal, [export, other]) is ALREADY
    assert Initiator(portal, export).size(1) == 1 << 20


def test_what_nobody_wants_any_more_is_cleared_away(
    target: TgtTarget, portal: Portal, export: Export
) -> None:
    target.serve(portal, [export])
    tgtd = server(target, portal).tgtd
    tgtd.new_target(77, "iqn.2026-01.org.example:half")
    tgtd.new_account("left", "left-by-a-crash")
    target.serve(portal, [export])
    assert set(tgtd.target_ids()) == {export.iqn}
    assert tgtd.accounts() == {export.username, "bmi-discovery"}


def test_an_interrupted_removal_goes_on(target: TgtTarget, portal: Portal, export: Export) -> None:
    target.serve(portal, [export])
    tgtd = server(target, portal).tgtd
    with Connection(portal, export):
        tgtd.disallow(tgtd.target_ids()[export.iqn], export.initiator)
        assert target.exports(portal.id) == []
        removal = target.remove(portal.id, export.iqn)
    assert removal.outcome is DONE
    assert removal.initiators == (export.initiator,)
    assert tgtd.target_ids() == {}
    assert tgtd.accounts() == {"bmi-discovery"}


def test_bmi_can_be_killed_anywhere(
    make_target: Callable[..., TgtTarget], portal: Portal, tmp_path: Path
) -> None:
    exports = [make_export(tmp_path, f"n{number}") for number in range(20)]
    for _ in range(10):
        serve_until_killed(tmp_path / "state", portal, exports, random.uniform(0.005, 0.15))
        target = make_target()
        target.serve(portal, exports)
        assert target.serve(portal, exports) is ALREADY
        assert len(target.exports(portal.id)) == len(exports)
        assert Initiator(portal, random.choice(exports)).inquire(1)
        if random.random() < 0.5:
            target.stop(portal.id)


def test_a_tgtd_that_a_dead_bmi_had_just_started_is_replaced(
    make_target: Callable[..., TgtTarget], portal: Portal, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no record, and answers only when the next BMI's own has begun to start."""
    target = make_target()
    target.serve(portal, [])
    first = process(target, portal)
    server = target._server(portal.id)
    server._record.unlink()
    pid, start, seen = TgtSocket.pid, processes.start, threading.Event()
    monkeypatch.setattr(TgtSocket, "pid", lambda self: pid(self) if seen.is_set() else None)

    def start_late(*args: Any, **kwargs: Any) -> Process:
        try:
            return start(*args, **kwargs)
        finally:
            seen.set()

    monkeypatch.setattr(processes, "start", start_late)
    assert target.serve(portal, [export]) is DONE
    assert not first.alive()
    assert Initiator(portal, export).inquire(1)
    assert target.serve(portal, [export]) is ALREADY


# --- what a crash of tgtd, or its hanging, does ----------------------------------------------------------


def test_a_server_that_hangs_is_an_error_in_time_and_serving_replaces_it(
    make_target: Callable[..., TgtTarget], portal: Portal, export: Export
) -> None:
    target = make_target(answer_deadline=0.3)
    exits: list[object] = []
    target.on_exit(exits.append)
    target.serve(portal, [export])
    hanging = process(target, portal)
    hanging.signal(signal.SIGSTOP)
    with pytest.raises(TargetError, match=r"nothing within 0\.3 s"):
        target.exports(portal.id)
    assert target.serve(portal, [export]) is DONE
    assert not hanging.alive()
    assert Initiator(portal, export).inquire(1)
    assert exits == []
    process(target, portal).signal(signal.SIGSTOP)
    assert target.stop(portal.id) is DONE


def test_a_removal_that_a_session_holds_up_is_forced_and_names_it(
    make_target: Callable[..., TgtTarget], portal: Portal, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = make_target(remove_deadline=0.3)
    monkeypatch.setattr(TgtSocket, "close_connection", lambda *_: None)
    target.serve(portal, [export])
    with Connection(portal, export):
        removal = target.remove(portal.id, export.iqn)
    assert removal == Removal(DONE, (export.initiator,), forced=True)
    assert target.portals() == []


def test_an_export_goes_even_if_the_server_hangs(
    make_target: Callable[..., TgtTarget], portal: Portal, export: Export
) -> None:
    target = make_target(answer_deadline=0.3)
    exits: list[object] = []
    target.on_exit(exits.append)
    target.serve(portal, [export])
    hanging = process(target, portal)
    hanging.signal(signal.SIGSTOP)
    removal = target.remove(portal.id, export.iqn)
    assert (removal.outcome, removal.forced) == (DONE, True)
    assert not hanging.alive()
    assert target.portals() == []
    assert target.serve(portal, [export]) is DONE
    assert exits == []


def test_serve_right_after_a_crash(target: TgtTarget, portal: Portal, export: Export) -> None:
    """Threads of a killed process hold its sockets for a moment longer."""
    for _ in range(10):
        target.serve(portal, [export])
        process(target, portal).stop(kill=True)
        assert target.serve(portal, [export]) is DONE
        assert Initiator(portal, export).inquire(1)


def test_stop_and_serve_by_turns(target: TgtTarget, portal: Portal, export: Export) -> None:
    for _ in range(10):
        assert target.serve(portal, [export]) is DONE
        assert target.stop(portal.id) is DONE


def test_removal_under_load(target: TgtTarget, portal: Portal, export: Export) -> None:
    for _ in range(10):
        target.serve(portal, [export])
        with Initiator(portal, export).session(busy=True):
            wait_until(lambda: target.sessions(portal.id), deadline=20, what="a log-in", next_step="-")
            removal = target.remove(portal.id, export.iqn)
        assert removal.initiators == (export.initiator,)
        assert not removal.forced


def test_to_be_asked_again_and_again_costs_a_server_nothing(
    target: TgtTarget, portal: Portal, export: Export
) -> None:
    """tgtd would keep a connection for good that was closed without a request, and never rest again."""
    target.serve(portal, [export])
    running = psutil.Process(process(target, portal).pid)
    # Data that do not come all at once leave errno at EAGAIN, where no success takes it away.
    Initiator(portal, export).io(1, *["write 0 1M"] * 20)
    (server(target, portal).folder / "process.json").unlink()  # now it has to be looked for each time
    with Initiator(portal, export).session():
        wait_until(lambda: target.sessions(portal.id), deadline=20, what="a log-in", next_step="-")
        before = running.num_fds()
        for _ in range(50):
            assert target.sessions(portal.id)
            assert target.portals() == [portal.id]
            assert not target.end_if_hung(portal.id)
        assert running.num_fds() <= before + 1  # the last connection may still be closing


def test_a_full_queue_of_requests_is_no_error(target: TgtTarget, portal: Portal, export: Export) -> None:
    """tgtd takes some connections into its queue; a busy one must not turn the next away."""
    target.serve(portal, [export])
    running = process(target, portal)
    running.signal(signal.SIGSTOP)
    with ExitStack() as stack, ThreadPoolExecutor(1) as thread:
        full = False
        while not full:
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            full = waiting.connect_ex(f"/proc/{running.pid}/cwd/m.0") == errno.EAGAIN
        asked = thread.submit(target.exports, portal.id)
        with pytest.raises(TimeoutError):
            asked.result(0.3)
        running.signal(signal.SIGCONT)
        assert [found.iqn for found in asked.result(10)] == [export.iqn]


# --- what cannot be served -------------------------------------------------------------------------------


def test_one_lost_volume_does_not_keep_the_others_out(
    target: TgtTarget, portal: Portal, export: Export, tmp_path: Path
) -> None:
    lost = replace(make_export(tmp_path, "b"), luns=(Lun(1, Backing("file", str(tmp_path / "lost.img"))),))
    with pytest.raises(TargetError, match=r"lost\.img is no file"):
        target.serve(portal, [lost, export])
    assert [found.iqn for found in target.exports(portal.id)] == [export.iqn]
    assert Initiator(portal, export).inquire(1)
    (tmp_path / "lost.img").write_bytes(bytes(4096))
    assert target.serve(portal, [lost, export]) is DONE


@pytest.mark.parametrize("size", [0, 700])
def test_a_volume_that_is_no_whole_sectors(
    target: TgtTarget, portal: Portal, export: Export, size: int
) -> None:
    os.truncate(export.luns[0].backing.path, size)
    with pytest.raises(TargetError, match=f"has {size} bytes"):
        target.serve(portal, [export])
    assert target.exports(portal.id) == []


def test_a_volume_that_is_no_file(target: TgtTarget, portal: Portal, export: Export) -> None:
    device = replace(export, luns=(Lun(1, Backing("nbd", "/dev/nbd0")),))
    with pytest.raises(BadRequest, match="'nbd'"):
        target.serve(portal, [device])


# --- what a node could try -------------------------------------------------------------------------------


def test_an_initiators_alias_cannot_change_what_is_listed(
    target: TgtTarget, portal: Portal, export: Export, tmp_path: Path
) -> None:
    """tgtd prints it among its own lines, line breaks included."""
    other = make_export(tmp_path, "b")
    target.serve(portal, [export, other])
    before = set(target.exports(portal.id))
    for number in (1, *server(target, portal).tgtd.target_ids().values()):
        forged = (
            f"x\nTarget {number}: {export.iqn}\n    LUN information:\n        LUN: none\n"
            "    Account information:\n        root\n    ACL information:\n        iqn.evil:node\n"
        )
        for alias in (forged, "A" * 980, forged.ljust(980, "A")):
            with Connection(portal, export, alias=alias):
                assert set(target.exports(portal.id)) == before
                assert [session.initiator for session in target.sessions(portal.id)] == [export.initiator]
                assert target.serve(portal, [export, other]) is ALREADY


def test_failed_log_ins_cannot_fill_the_disk(target: TgtTarget, portal: Portal, export: Export) -> None:
    target.serve(portal, [export])
    log = server(target, portal).folder / "tgtd.log"
    with log.open("ab") as file:
        file.write(b"x" * (1 << 21))
    target.serve(portal, [export])
    assert log.stat().st_size < 1 << 20
    target.remove(portal.id, export.iqn)
    target.serve(portal, [export])
    assert "rdwr" in log.read_text()  # tgtd goes on at the new end
