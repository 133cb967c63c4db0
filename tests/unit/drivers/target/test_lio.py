"""What the lio driver refuses before it asks the kernel, and how it asks; the rest needs the kernel: tests/lio."""

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from uuid import UUID

import pytest

from bmi.drivers import Site
from bmi.drivers.storage import Backing
from bmi.drivers.target import Export, Lun, Portal
from bmi.drivers.target.lio import LioTarget
from bmi.drivers.target.lio_kernel import Asked, fabric
from bmi.drivers.target.lio_watch import Watch
from bmi.errors import BadRequest, TargetError
from bmi.ids import new_id

EXPORT = Export(
    iqn="iqn.2026-01.org.example:disk-1",
    initiator="iqn.2026-01.org.example:node-1",
    username="user-1",
    password="a-secret-of-16.!",
    luns=(Lun(1, Backing("file", "/data/disk")), Lun(2, Backing("file", "/data/seed"), readonly=True)),
)
PORTAL = Portal(new_id(), IPv4Address("127.0.0.1"), 3260)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[LioTarget]:
    target = LioTarget({}, Site(tmp_path, "0a1b2c3d"))
    yield target
    target.close()


def on(backing: Backing) -> Export:
    return replace(EXPORT, luns=(Lun(1, backing),))


REFUSED = {
    "image in Ceph": on(Backing("rbd", "pool/image", conf="/etc/ceph/ceph.conf", user="bmi")),
    "path that the kernel cuts off": on(Backing("file", "/" + "a" * 255)),
    "capital letters": replace(EXPORT, iqn="iqn.2026-01.org.example:Disk-1"),
    "capital letters of an initiator": replace(EXPORT, initiator="iqn.2026-01.org.example:Node-1"),
    "name of one part": replace(EXPORT, iqn="iqn.2026-01.example:disk"),
    "name that leaves no room": replace(EXPORT, iqn=f"iqn.2026-01.org.example:{'a' * 190}"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_the_kernel_would_serve_wrongly_is_refused(target: LioTarget, what: str) -> None:
    with pytest.raises(BadRequest) as refused:
        target.serve(PORTAL, [REFUSED[what]])
    assert REFUSED[what].iqn in refused.value.message
    assert refused.value.next_step


def test_who_is_not_root_is_told_so(target: LioTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(TargetError, match="root"):
        fabric()
    with pytest.raises(TargetError, match="root"):
        target.serve(PORTAL, [EXPORT])


def test_where_nothing_is_served_nothing_is_listed(target: LioTarget) -> None:
    assert target.portals() == []
    assert target.exports(PORTAL.id) == []
    assert target.sessions(PORTAL.id) == []
    assert not target.end_if_hung(PORTAL.id)


# --- asking the kernel -------------------------------------------------------------------------------------


def test_an_answer_and_an_error_come_back() -> None:
    asked = Asked(10)
    assert asked(PORTAL.id, lambda: 7) == 7
    with pytest.raises(KeyError):
        asked(PORTAL.id, lambda: {}["a"])
    assert asked(PORTAL.id, lambda: 8) == 8


def test_a_kernel_that_hangs_keeps_nobody_waiting() -> None:
    asked, answer = Asked(0.05), threading.Event()
    try:
        with pytest.raises(TargetError, match=str(PORTAL.id)):
            asked(PORTAL.id, answer.wait)
        with pytest.raises(TargetError, match=str(PORTAL.id)):  # one at a time, or both would change the same
            asked(PORTAL.id, lambda: 7)
    finally:
        answer.set()
    for thread in threading.enumerate():
        if thread.name == f"lio-{PORTAL.id}":
            thread.join()
    asked._deadline = 60
    assert asked(PORTAL.id, lambda: 7) == 7  # what hung has ended


def test_one_portal_that_hangs_does_not_hold_up_another() -> None:
    asked, answer = Asked(5), threading.Event()
    held = threading.Thread(target=asked, args=(PORTAL.id, answer.wait))
    held.start()
    try:
        assert asked(new_id(), lambda: 7) == 7
        assert held.is_alive()
    finally:
        answer.set()
        held.join()


# --- watching ----------------------------------------------------------------------------------------------


def test_a_portal_that_goes_away_is_told_of_once() -> None:
    old, new, stopped = new_id(), new_id(), new_id()
    present = {old, stopped}
    watch = Watch(lambda: set(present))
    told: list[UUID] = []
    both = threading.Event()

    def tell(portal: UUID) -> None:
        told.append(portal)
        if len(told) == 2:
            both.set()

    present.add(new)
    watch.expect(new)
    watch.forgive(stopped)
    present.clear()
    watch.on_exit(tell)
    assert both.wait(20)
    watch.close()
    assert sorted(told) == sorted([old, new])
