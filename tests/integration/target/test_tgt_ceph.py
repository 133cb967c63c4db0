"""tgt over images in a real Ceph: what nodes read and write, and what they meet when Ceph is away."""

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from bmi.drivers import Outcome
from bmi.drivers.storage import Backing
from bmi.drivers.target import Export, Lun, Portal
from bmi.drivers.target.tgt import TgtTarget
from bmi.errors import TargetError
from bmi.wait import wait_until
from tests.iscsi import MIB, make_export
from tests.legs import (
    Wire,
    disk,
    is_reachable,
    serve_again_when_it_ends,
    tgtd,
)
from tests.rbd_images import Images

ALREADY, DONE = Outcome.ALREADY, Outcome.DONE

LOCK_OF_THE_DEAD = 20  # seconds; a client that was killed keeps its lock for 25 to 30


# --- data ----------------------------------------------------------------------------------------------------


def test_what_was_imported_is_what_is_read_and_clones_keep_to_themselves(
    wire: Wire, target: TgtTarget, tmp_path: Path, ceph: Images
) -> None:
    content = random.Random(7).randbytes(24 * MIB)
    (tmp_path / "golden").write_bytes(content)
    golden = ceph.make(len(content))
    ceph.write(golden, content)
    ceph.freeze(golden)
    nodes = []
    for number in range(2):
        export = make_export(tmp_path, f"n{number}", images=ceph)
        export = replace(export, luns=(Lun(1, ceph.clone(golden)), export.luns[1]))
        portal = wire.portal(3260 + number)
        target.serve(portal, [export])
        nodes.append(wire.initiator(portal, export))
        assert "identical" in nodes[-1].compare(1, tmp_path / "golden")
    nodes[0].io(1, "write -P 0x5a 1M 1M", "flush")
    assert ceph.read(disk(nodes[0].export), MIB, MIB) == b"\x5a" * MIB
    assert "identical" in nodes[1].compare(1, tmp_path / "golden")
    assert ceph.read(golden, 0, len(content)) == content


def test_flushed_data_survives_the_death_of_the_server_and_its_lock_does_not(
    wire: Wire, target: TgtTarget, portal: Portal, export: Export
) -> None:
    target.serve(portal, [export])
    node = wire.initiator(portal, export)
    for number in range(2):
        with node.session(busy=True):
            node.io(1, f"write -P {number + 1} {number}M 8M", "flush")
            tgtd(target, portal).stop(kill=True)
        assert target.serve(portal, [export]) is DONE
        node.io(1, f"read -P {number + 1} {number}M 8M", "read -P 0 16M 1M")
        start = time.monotonic()
        with wire.connection(portal, export) as connection:
            connection.write(65536, b"x" * 512)
            connection.flush()
        assert time.monotonic() - start < LOCK_OF_THE_DEAD


def test_a_stopped_server_leaves_nothing_open(
    wire: Wire, target: TgtTarget, portal: Portal, export: Export, ceph: Images
) -> None:
    target.serve(portal, [export])
    wire.initiator(portal, export).io(1, "write -P 1 0 1M")
    assert target.stop(portal.id) is DONE
    assert ceph.watchers(disk(export)) == []
    assert ceph.read(disk(export), 0, MIB) == b"\x01" * MIB


# --- a hostile initiator ---------------------------------------------------------------------------------------

READS_OF_NOTHING = [
    bytes([operation, *bytes(length - 1)]) for operation, length in ((0x28, 10), (0xA8, 12), (0x88, 16))
]
"""READ(10), READ(12) and READ(16) of no blocks, which SCSI allows."""


def test_a_hostile_initiator_hurts_only_itself(
    wire: Wire, target: TgtTarget, portal: Portal, export: Export, tmp_path: Path, ceph: Images
) -> None:
    """Reads of nothing make librbd abort, and tgtd with it."""
    neighbour, beside = make_export(tmp_path, "b", images=ceph), wire.portal(3261)
    target.serve(beside, [neighbour])
    target.serve(portal, [export])
    ends = serve_again_when_it_ends(target, portal, export)
    undisturbed = tgtd(target, beside)
    with wire.initiator(beside, neighbour).session(busy=True) as busy:
        wait_until(lambda: target.sessions(beside.id), deadline=20, what="the neighbour", next_step="-")
        session = target.sessions(beside.id)
        for cdb in READS_OF_NOTHING:
            before, victim = len(ends), tgtd(target, portal)
            connection = wire.connection(portal, export)
            with ThreadPoolExecutor(1) as thread:  # libiscsi goes on trying, until its connection is closed
                sent = thread.submit(connection.abandon, cdb, 0)
                wait_until(lambda: not victim.alive(), deadline=20, what="the abort", next_step="-")  # noqa: B023
                sent.result(60)
            wait_until(lambda: len(ends) > before, deadline=10, what="on_exit", next_step="-")  # noqa: B023
            wait_until(
                lambda: is_reachable(wire.initiator(portal, export)),
                deadline=10,
                what="the export",
                next_step="-",
            )
        assert busy.poll() is None
        assert target.sessions(beside.id) == session
    assert tgtd(target, beside) == undisturbed
    assert set(ends) == {portal.id}
    assert list(target._server(portal.id).folder.glob("*core*")) == []


# --- what Ceph does ------------------------------------------------------------------------------------------


def without(ceph: Images, backing: str) -> Backing:
    found = ceph.backing("none")
    return {
        "image": found,
        "pool": replace(found, path="none/none"),
        "user": replace(found, user="nobody"),
        "snapshot": replace(found, path=f"{found.path}@none"),
        "configuration": replace(found, conf="/none.conf"),
    }[backing]


SAID = {
    "image": "image cannot be opened: No such file",
    "pool": "pool cannot be opened: No such file",
    "user": "no connection to Ceph",
    "snapshot": "image cannot be opened: No such file",
    "configuration": r"configuration /none\.conf cannot be read",
}


def test_an_image_that_cannot_be_opened_is_an_error_that_says_why(
    target: TgtTarget, portal: Portal, export: Export, ceph: Images
) -> None:
    for what, said in SAID.items():
        lost = replace(export, luns=(Lun(1, without(ceph, what)),))
        with pytest.raises(TargetError, match=said) as failed:
            target.serve(portal, [lost])
        assert failed.value.transient
        assert target.portals() == []  # each failure would cost tgtd threads for good
    assert target.serve(portal, [export]) is DONE
    with pytest.raises(TargetError, match="image cannot be opened"):
        lost = replace(
            export, iqn=f"{export.iqn}-2", username="user-2", luns=(Lun(1, without(ceph, "image")),)
        )
        target.serve(portal, [export, lost])
    assert [found.iqn for found in target.exports(portal.id)] == [export.iqn]


def test_without_a_monitor_io_goes_on_and_a_new_export_fails_soon(
    wire: Wire, target: TgtTarget, portal: Portal, export: Export, tmp_path: Path, ceph: Images
) -> None:
    late, beside = make_export(tmp_path, "b", images=ceph), wire.portal(3261)
    target.serve(portal, [export])
    with wire.connection(portal, export) as connection:
        connection.write(0, bytes(512))
        ceph.ceph.stop("mon")
        try:
            with ThreadPoolExecutor(1) as thread:
                served = thread.submit(target.serve, beside, [late])
                for block in range(200):
                    connection.write(block, b"x" * 512)
                    connection.flush()
                with pytest.raises(TargetError, match="no connection to Ceph") as failed:
                    served.result(30)
            assert failed.value.transient
            assert target.serve(portal, [export]) is ALREADY
        finally:
            ceph.ceph.start("mon")
        assert target.serve(beside, [late]) is DONE
    assert wire.initiator(beside, late).size(1) == MIB


def test_without_osds_io_waits_and_neither_files_nor_management_do(
    wire: Wire,
    make_target: Callable[..., TgtTarget],
    portal: Portal,
    export: Export,
    tmp_path: Path,
    ceph: Images,
) -> None:
    """A read or write that fails makes a node's file system read-only; one that waits does no harm."""
    target = make_target(answer_deadline=2)
    late, beside = make_export(tmp_path, "b", images=ceph), wire.portal(3261)
    files, apart = make_export(tmp_path, "c"), wire.portal(3262)
    target.serve(portal, [export])
    target.serve(apart, [files])
    with wire.connection(portal, export) as connection, ThreadPoolExecutor(1) as thread:
        connection.write(0, bytes(512))
        connection.flush()
        ceph.ceph.stop("osd.0")
        try:
            written = thread.submit(lambda: (connection.write(8, b"x" * 512), connection.flush()))
            with pytest.raises(TargetError, match="Ceph does not answer") as failed:
                target.serve(beside, [late])
            assert failed.value.transient
            assert set(target.portals()) == {portal.id, apart.id}
            wire.initiator(apart, files).io(1, "write -P 3 0 1M", "flush")
            assert [each.iqn for each in target.exports(portal.id)] == [export.iqn]
            assert target.serve(portal, [export]) is ALREADY
            assert not written.done()
        finally:
            ceph.ceph.start("osd.0")
        written.result(60)
        assert target.serve(beside, [late]) is DONE
    assert wire.initiator(beside, late).size(1) == MIB
    assert ceph.read(disk(export), 8 * 512, 512) == b"x" * 512


def test_a_server_that_died_while_ceph_does_not_answer_comes_back_with_ceph(
    wire: Wire, target: TgtTarget, portal: Portal, export: Export, ceph: Images
) -> None:
    target.serve(portal, [export])
    wire.initiator(portal, export).io(1, "write -P 9 0 1M", "flush")
    tgtd(target, portal).stop(kill=True)
    ceph.ceph.stop("osd.0")
    try:
        with pytest.raises(TargetError, match="Ceph does not answer") as failed:
            target.serve(portal, [export])
        assert failed.value.transient
        assert not is_reachable(wire.initiator(portal, export))
    finally:
        ceph.ceph.start("osd.0")
    assert target.serve(portal, [export]) is DONE
    wire.initiator(portal, export).io(1, "read -P 9 0 1M", "write -P 9 1M 1M", "flush")


def test_an_export_goes_even_while_ceph_does_not_answer(
    wire: Wire, make_target: Callable[..., TgtTarget], portal: Portal, export: Export, ceph: Images
) -> None:
    target = make_target(answer_deadline=2, remove_deadline=2)
    target.serve(portal, [export])
    with wire.connection(portal, export) as connection, ThreadPoolExecutor(1) as thread:
        connection.write(0, bytes(512))
        connection.flush()
        ceph.ceph.stop("osd.0")
        try:
            hangs = thread.submit(connection.abandon, bytes([0x28, 0, 0, 0, 0, 8, 0, 0, 8, 0]), 4096)
            removal = target.remove(portal.id, export.iqn)
            assert removal.outcome is DONE
            assert target.stop(portal.id) in (DONE, ALREADY)
            assert target._known() == []
            hangs.result(60)
        finally:
            ceph.ceph.start("osd.0")
    assert target.serve(portal, [export]) is DONE


def test_a_write_is_acknowledged_once_ceph_has_it(
    wire: Wire, target: TgtTarget, portal: Portal, export: Export, ceph: Images
) -> None:
    """A tgtd that dies must take nothing with it that its node takes for written: a later flush would not tell."""
    target.serve(portal, [export])
    with wire.connection(portal, export) as connection, ThreadPoolExecutor(1) as thread:
        connection.write(0, bytes(512))
        connection.flush()
        ceph.ceph.stop("osd.0")
        try:
            written = thread.submit(connection.write, 8, b"x" * 512)
            with pytest.raises(TimeoutError):
                written.result(2)
        finally:
            ceph.ceph.start("osd.0")
        written.result(60)
        tgtd(target, portal).stop(kill=True)
    assert ceph.read(disk(export), 8 * 512, 512) == b"x" * 512
