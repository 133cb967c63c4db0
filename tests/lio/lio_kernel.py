"""What initiators get from the kernel's own target, and what it stands. Runs in the machine of `make lio`."""

import os
import random
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from uuid import UUID

import pytest

from bmi import netns
from bmi.drivers import Outcome, Site
from bmi.drivers.target import Export, Portal, Session
from bmi.drivers.target.lio import LioTarget
from bmi.drivers.target.lio_names import CONFIGFS, anchors, backstores
from bmi.errors import CommandFailed, PortTaken, TargetError
from bmi.ids import new_id
from bmi.run import run
from bmi.wait import wait_until
from tests.iscsi import MIB, WRONG, Initiator, free_portal, make_export
from tests.libiscsi import Connection, Refused

MARK = "0a1b2c3d"


def driver(folder: Path, **options: float) -> LioTarget:
    return LioTarget(options, Site(folder / "state", MARK))


@pytest.fixture
def target(tmp_path: Path) -> Iterator[LioTarget]:
    target = driver(tmp_path)
    yield target
    for portal in target.portals():
        target.stop(portal)
    target.close()
    assert left() == (set(), set())


def left() -> tuple[set[UUID], set[UUID]]:
    """Return the portals of which the kernel has anything."""
    return set(anchors(MARK)), {each.portal for each in backstores(MARK)}


@pytest.fixture
def portal() -> Portal:
    return free_portal()


@pytest.fixture
def export(tmp_path: Path) -> Export:
    return make_export(tmp_path, "a", size=16 * MIB)


@pytest.fixture
def node(target: LioTarget, portal: Portal, export: Export) -> Initiator:
    target.serve(portal, [export])
    return Initiator(portal, export)


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"bmi-{MARK}-{new_id().hex}"
    netns.create(name)
    yield name
    netns.delete(name)


def disk(export: Export) -> Path:
    return Path(export.luns[0].backing.path)


def seed(export: Export) -> Path:
    return Path(export.luns[1].backing.path)


# --- who gets in -------------------------------------------------------------------------------------------


def test_the_right_node_sees_its_disk_and_its_seed(node: Initiator) -> None:
    assert "Vendor:BMI" in node.inquire(1)
    assert node.size(1) == 16 * MIB
    assert node.size(2) == MIB


@pytest.mark.parametrize("what", WRONG)
def test_nobody_else_gets_in(portal: Portal, export: Export, node: Initiator, what: str) -> None:
    stranger = Initiator(portal, WRONG[what](export))
    with pytest.raises(CommandFailed, match=r"Failed to log in|Failed to connect"):
        stranger.inquire(1)
    assert "Vendor:BMI" in node.inquire(1)


@pytest.mark.parametrize("what", WRONG)
def test_discovery_tells_nobody_anything(portal: Portal, export: Export, node: Initiator, what: str) -> None:
    for initiator in (Initiator(portal, WRONG[what](export)), node):
        with pytest.raises(CommandFailed) as refused:
            initiator.luns()
        assert "Target:" not in str(refused.value)


def test_a_node_gets_its_own_disk_only(
    target: LioTarget, portal: Portal, export: Export, node: Initiator, tmp_path: Path
) -> None:
    neighbour = make_export(tmp_path, "b")
    target.serve(portal, [neighbour])
    assert Initiator(portal, neighbour).size(1) == MIB
    with pytest.raises(CommandFailed):
        Initiator(portal, replace(export, iqn=neighbour.iqn)).inquire(1)
    with pytest.raises(CommandFailed):
        Initiator(portal, replace(export, iqn=neighbour.iqn, initiator=neighbour.initiator)).inquire(1)


def test_portals_do_not_see_each_other(
    target: LioTarget, portal: Portal, export: Export, node: Initiator, tmp_path: Path
) -> None:
    elsewhere, other = free_portal(), make_export(tmp_path, "b")
    target.serve(elsewhere, [other])
    assert Initiator(elsewhere, other).size(1) == MIB
    with pytest.raises(CommandFailed):
        Initiator(elsewhere, export).inquire(1)
    with pytest.raises(CommandFailed):
        Initiator(portal, other).inquire(1)
    target.stop(elsewhere.id)
    assert node.size(1) == 16 * MIB


def test_nobody_logs_in_at_the_anchor(portal: Portal, export: Export, node: Initiator) -> None:
    (anchor,) = (CONFIGFS / "target" / "iscsi").glob(f"*:portal.{MARK}.{portal.id}")
    with pytest.raises(CommandFailed):
        Initiator(portal, replace(export, iqn=anchor.name)).inquire(1)


def test_a_changed_secret_counts_at_once(
    target: LioTarget, portal: Portal, export: Export, node: Initiator
) -> None:
    changed = replace(export, password="another-secret")
    assert target.serve(portal, [changed]) is Outcome.DONE
    assert Initiator(portal, changed).size(1) == 16 * MIB
    with pytest.raises(CommandFailed):
        node.inquire(1)


def test_one_name_is_served_once(
    target: LioTarget, portal: Portal, export: Export, node: Initiator, tmp_path: Path
) -> None:
    elsewhere, other = free_portal(), make_export(tmp_path, "b")
    with pytest.raises(TargetError, match="another portal"):
        target.serve(elsewhere, [export, other])
    assert [found.iqn for found in target.exports(elsewhere.id)] == [other.iqn]
    assert node.size(1) == 16 * MIB


def test_an_alias_cannot_pass_for_an_address(
    target: LioTarget, portal: Portal, export: Export, node: Initiator
) -> None:
    alias = "x\nLIO Session ID: 77   ISID: 0x1\n   Address 198.51.100.9 TCP  StatSN: 0x1"
    with Connection(portal, export, alias=alias):
        (session,) = target.sessions(portal.id)
    assert isinstance(session, Session)
    assert IPv4Address(session.address).is_loopback
    assert session.id & 0xFFFF_FFFF != 77


def test_removal_closes_every_session_of_a_name(
    target: LioTarget, portal: Portal, export: Export, node: Initiator
) -> None:
    with Connection(portal, export), Connection(portal, export):
        (session,) = target.sessions(portal.id)  # the kernel shows the newest
        assert connections(portal) == 2
        assert target.remove(portal.id, export.iqn).initiators == (session.initiator,)
        wait_until(lambda: connections(portal) == 0, deadline=20, what="their end", next_step="-")


def connections(portal: Portal) -> int:
    """Count who is connected to a portal."""
    words = [
        "ss",
        "-Htn",
        "state",
        "established",
        "src",
        str(portal.address),
        "sport",
        "=",
        f":{portal.port}",
    ]
    return len(run(words).splitlines())


# --- where it listens --------------------------------------------------------------------------------------


def test_an_address_is_taken_in_every_namespace(
    target: LioTarget, portal: Portal, export: Export, node: Initiator, namespace: str, tmp_path: Path
) -> None:
    """The kernel would lead who connects in one namespace to what is served in the other."""
    other = make_export(tmp_path, "b")
    with pytest.raises(PortTaken, match=str(portal)):
        target.serve(replace(portal, id=new_id(), namespace=namespace), [other])
    assert target.portals() == [portal.id]
    assert node.size(1) == 16 * MIB


def test_another_program_that_listens_is_found(target: LioTarget, portal: Portal, export: Export) -> None:
    with netns.socket_inside(None, 2, 1) as taken:  # type: ignore[arg-type]
        taken.bind((str(portal.address), portal.port))
        taken.listen()
        with pytest.raises(PortTaken, match="python"):
            target.serve(portal, [export])
        assert target.portals() == []
    assert target.serve(portal, [export]) is Outcome.DONE


def test_a_namespace_that_was_made_anew_is_listened_in(
    target: LioTarget, portal: Portal, export: Export, namespace: str
) -> None:
    inside = replace(portal, namespace=namespace)
    node = Initiator(inside, export)
    target.serve(inside, [export])
    assert node.size(1) == 16 * MIB
    netns.delete(namespace)
    netns.create(namespace)
    with pytest.raises(CommandFailed):
        node.size(1)
    assert target.serve(inside, [export]) is Outcome.DONE
    assert target.serve(inside, [export]) is Outcome.ALREADY
    assert node.size(1) == 16 * MIB


# --- data --------------------------------------------------------------------------------------------------


def test_what_is_written_is_in_the_file(export: Export, node: Initiator) -> None:
    node.io(1, "write -P 0x5a 4096 8192", "flush")
    with disk(export).open("rb") as file:
        assert file.read(4096) == bytes(4096)
        assert file.read(8192) == b"\x5a" * 8192
        assert file.read(4096) == bytes(4096)


def test_a_node_reads_exactly_the_file(export: Export, node: Initiator) -> None:
    content = random.Random(7).randbytes(16 * MIB)
    disk(export).write_bytes(content)
    assert "identical" in node.compare(1, disk(export))


def test_a_readonly_lun_refuses_writes(portal: Portal, export: Export, node: Initiator) -> None:
    seed(export).write_bytes(b"\x11" * MIB)
    with pytest.raises(CommandFailed, match="write protected"):  # what MODE SENSE tells
        node.io(2, "write -P 0x5a 0 4096")
    with (
        Connection(portal, export, lun=2) as connection,
        pytest.raises(Refused, match="WRITE_PROTECTED"),  # what WRITE is told
    ):
        connection.write(0, b"\x5a" * 512)
    assert seed(export).read_bytes() == b"\x11" * MIB


def opened_for_write_through(file: Path) -> bool:
    """Say whether the kernel's target writes a file with O_DSYNC; it says so itself."""
    (info,) = (each for each in (CONFIGFS / "target/core").glob("*/*/info") if str(file) in each.read_text())
    return "O_DSYNC" in info.read_text()


def test_a_write_is_answered_when_the_disk_has_it(portal: Portal, export: Export, node: Initiator) -> None:
    assert opened_for_write_through(disk(export))
    with Connection(portal, export) as connection:
        assert connection.write_cache() is False
        connection.write(0, b"\x5a" * 512)
    assert disk(export).read_bytes()[:512] == b"\x5a" * 512


def test_a_write_cache_is_announced_where_it_was_asked_for(
    portal: Portal, export: Export, node: Initiator, tmp_path: Path
) -> None:
    cached = driver(tmp_path, write_back=True)
    assert cached.serve(portal, [export]) is Outcome.DONE  # made anew
    assert cached.serve(portal, [export]) is Outcome.ALREADY
    assert not opened_for_write_through(disk(export))
    with Connection(portal, export) as connection:
        assert connection.write_cache() is True
        connection.write(0, b"\x5a" * 512, fua=True)
        connection.flush()


def test_a_disk_that_grew_is_served_in_its_new_size(
    target: LioTarget, portal: Portal, export: Export, node: Initiator
) -> None:
    os.truncate(disk(export), 24 * MIB)
    assert target.serve(portal, [export]) is Outcome.DONE
    assert target.serve(portal, [export]) is Outcome.ALREADY
    assert node.size(1) == 24 * MIB


def test_a_missing_file_is_named_and_not_made(target: LioTarget, portal: Portal, export: Export) -> None:
    disk(export).unlink()
    with pytest.raises(TargetError, match=r"a\.img is no file"):
        target.serve(portal, [export])
    assert not disk(export).exists()
    assert target.exports(portal.id) == []


def identity(node: Initiator, lun: int) -> str:
    return node.inquire(lun, "-e", "1", "-c", "128")


def test_every_lun_has_an_identity_that_stays(
    target: LioTarget, portal: Portal, export: Export, node: Initiator, tmp_path: Path
) -> None:
    other = make_export(tmp_path, "b")
    target.serve(portal, [other])
    luns = [(node, 1), (node, 2), (Initiator(portal, other), 1), (Initiator(portal, other), 2)]
    before = [identity(*lun) for lun in luns]
    assert len(set(before)) == 4
    target.stop(portal.id)
    changed = replace(export, password="another-secret")
    target.serve(portal, [changed, other])
    assert identity(Initiator(portal, changed), 1) == before[0]


@pytest.mark.parametrize(
    ("command", "cdb"),
    [
        ("EXTENDED COPY of nothing", bytes([0x83, *[0] * 15])),
        ("PERSISTENT RESERVE IN", bytes([0x5E, 0, 0, 0, 0, 0, 0, 1, 0, 0])),
        ("UNMAP of nothing", bytes([0x42, *[0] * 9])),
    ],
)
def test_what_nodes_do_not_need_is_off(
    portal: Portal, export: Export, node: Initiator, command: str, cdb: bytes
) -> None:
    """With what the kernel has switched on by itself, or UNMAP switched on, each of these succeeds."""
    with Connection(portal, export) as connection, pytest.raises(Refused, match="ILLEGAL_REQUEST"):
        connection.send(cdb, 256 if cdb[0] == 0x5E else 0)


# --- what it stands ----------------------------------------------------------------------------------------


def dying(at: int, call: Callable[[], object]) -> bool:
    """Do something in a process that dies before its n-th change of configfs; returns whether it lived."""
    child = os.fork()
    if child == 0:
        changes = 0

        def count(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal changes
            changing = event in ("os.mkdir", "os.rmdir", "os.symlink", "os.remove") or (
                event == "open" and "w" in str(arguments[1])
            )
            if changing and any(str(each).startswith(str(CONFIGFS)) for each in arguments[:2]):
                changes += 1
                if changes == at:
                    os._exit(9)

        sys.addaudithook(count)
        try:
            call()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def died_everywhere(call: Callable[[], object], check: Callable[[], None]) -> int:
    """Let something die before each of its changes, and check what comes after that; returns how many there are."""
    at = 1
    while not dying(at, call):
        check()
        at += 1
    return at - 1


@pytest.mark.timeout(900)
def test_a_serve_that_dies_anywhere_is_done_by_the_next_one(
    target: LioTarget, portal: Portal, export: Export, tmp_path: Path
) -> None:
    def serve() -> None:
        driver(tmp_path).serve(portal, [export])

    def check() -> None:
        again = driver(tmp_path)
        assert again.serve(portal, [export]) in Outcome
        assert again.serve(portal, [export]) is Outcome.ALREADY
        assert [found.iqn for found in again.exports(portal.id)] == [export.iqn]
        again.stop(portal.id)
        assert left() == (set(), set())

    assert died_everywhere(serve, check) > 30
    assert Initiator(portal, export).size(1) == 16 * MIB


@pytest.mark.timeout(900)
def test_a_stop_that_dies_anywhere_is_done_by_the_next_one(
    target: LioTarget, portal: Portal, export: Export, tmp_path: Path
) -> None:
    def stop() -> None:
        driver(tmp_path).stop(portal.id)

    def check() -> None:
        again = driver(tmp_path)
        assert again.stop(portal.id) in Outcome
        assert left() == (set(), set())
        again.serve(portal, [export])

    target.serve(portal, [export])
    assert died_everywhere(stop, check) > 10


@pytest.mark.timeout(900)
def test_a_removal_that_dies_anywhere_is_done_by_the_next_one(
    target: LioTarget, portal: Portal, export: Export, tmp_path: Path
) -> None:
    def remove() -> None:
        driver(tmp_path).remove(portal.id, export.iqn)

    def check() -> None:
        again = driver(tmp_path)
        again.remove(portal.id, export.iqn)
        assert left() == ({portal.id}, set())
        assert again.serve(portal, [export]) is Outcome.DONE
        assert Initiator(portal, export).size(1) == 16 * MIB

    target.serve(portal, [export])
    assert died_everywhere(remove, check) > 10


@contextmanager
def storage(folder: Path) -> Iterator[Path]:
    """Mount a file system of its own, which can be frozen."""
    image, where = folder / "storage.img", folder / "storage"
    image.touch()
    os.truncate(image, 64 * MIB)
    where.mkdir()
    run(["mke2fs", "-q", "-t", "ext4", image])
    run(["mount", "-o", "loop", image, where])
    try:
        yield where
    finally:
        run(["umount", where])


@contextmanager
def frozen(where: Path) -> Iterator[None]:
    """Let a file system answer to no write."""
    run(["fsfreeze", "--freeze", where])
    try:
        yield
    finally:
        run(["fsfreeze", "--unfreeze", where])


def test_storage_that_does_not_answer_keeps_nobody_waiting_for_ever(tmp_path: Path) -> None:
    target, portal, elsewhere = driver(tmp_path, answer_deadline=3), free_portal(), free_portal()
    with storage(tmp_path) as where:
        export, other = make_export(where, "a", size=16 * MIB), make_export(tmp_path, "b")
        target.serve(portal, [export])
        with Initiator(portal, export).session(readonly=False) as node:
            assert node.stdin is not None
            wait_until(lambda: target.sessions(portal.id), deadline=20, what="the log-in", next_step="-")
            with frozen(where):
                node.stdin.write("write 0 4096\n")
                node.stdin.flush()
                wait_until(waits_for_storage, deadline=20, what="the write", next_step="-")
                with pytest.raises(TargetError, match=re.escape(f"{portal.id} for 3 s")):
                    target.remove(portal.id, export.iqn)
                with pytest.raises(TargetError, match="has not answered"):  # not a second one at once
                    target.serve(portal, [export])
                assert target.serve(elsewhere, [other]) is Outcome.DONE
                assert Initiator(elsewhere, other).size(1) == MIB
        wait_until(lambda: removed(target, portal, export), deadline=30, what="its end", next_step="-")
        assert target.exports(portal.id) == []
        assert target.stop(portal.id) is Outcome.DONE
        target.stop(elsewhere.id)
    target.close()
    assert left() == (set(), set())


def waits_for_storage() -> bool:
    """Say whether anybody waits for a disk and cannot be interrupted (proc(5))."""
    states = (each.read_text().rpartition(")")[2].split()[0] for each in Path("/proc").glob("[0-9]*/stat"))
    return "D" in states


def removed(target: LioTarget, portal: Portal, export: Export) -> bool:
    try:
        target.remove(portal.id, export.iqn)
    except TargetError:
        return False
    return True
