"""The parts of the driver `rbd` that need no Ceph."""

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from bmi.drivers.storage import Complaint, Kind, Volume
from bmi.drivers.storage.rbd import conf, room
from bmi.drivers.storage.rbd.health import complaints
from bmi.drivers.storage.rbd.names import seed_number, seed_snapshot, volume_named
from bmi.drivers.storage.rbd.options import RbdOptions
from bmi.drivers.storage.rbd.room import Gauge
from bmi.drivers.storage.rbd.session import Session
from bmi.drivers.storage.rbd.stream import pieces
from bmi.drivers.storage.rbd.turns import Turns
from bmi.errors import StorageError, StorageFull
from bmi.ids import new_id

KIB, GIB = 1 << 10, 1 << 30


@pytest.mark.parametrize("kind", Kind)
def test_a_volume_is_known_by_its_name(kind: Kind) -> None:
    volume = Volume(kind, new_id())
    assert volume_named(str(volume)) == volume


def test_names_of_others_are_nobodys() -> None:
    id = new_id()
    for name in (
        f"vm-{id}",
        str(id),
        f"disk-{str(id).upper()}",
        f"disk-{id.hex}",
        f"disk-{id}-1",
        "disk-",
        "",
    ):
        assert volume_named(name) is None


def test_the_contents_of_a_seed_are_counted() -> None:
    first, second = seed_snapshot(9, b"a"), seed_snapshot(10, b"b")
    assert max(first, second, key=seed_number) == second
    assert seed_snapshot(9, b"a") == first != seed_snapshot(9, b"b")
    assert [seed_number(name) for name in ("bmi", "", "x-1", "7")] == [0, 0, 0, 0]


def test_only_what_is_not_zero_is_sent() -> None:
    data = bytearray(1024 * KIB + 100)
    data[70 * KIB] = data[130 * KIB] = data[-1] = 1

    found = list(pieces(bytes(data)))

    assert [(offset, len(piece)) for offset, piece in found] == [
        (64 * KIB, 128 * KIB),
        (1024 * KIB, 100),
    ]
    assert list(pieces(bytes(300 * KIB))) == list(pieces(b"")) == []
    noise = os.urandom(200 * KIB)
    assert list(pieces(noise)) == [(0, noise)]


@pytest.mark.parametrize("line", ["mon_host = 10.0.0.1", "mon host=10.0.0.1", "  MON-HOST : 10.0.0.1"])
def test_the_monitors_are_found_however_they_are_written(line: str, tmp_path: Path) -> None:
    path = tmp_path / "ceph.conf"
    path.write_text(f"# comment\n[global]\n\tfsid = x\n{line}\n[client]\nlog_file =\n")
    assert conf.monitors(path) == "10.0.0.1"


def test_what_bmi_needs_stands_behind_what_the_cluster_says(tmp_path: Path) -> None:
    path, file = tmp_path / "ceph.conf", tmp_path / "state" / "ceph.conf"
    path.write_text("[global]\nmon_host = 10.0.0.1\n[client.bmi]\nkeyring = /elsewhere")
    options = RbdOptions(pool="p", conf=path, keyring=tmp_path / "key", io_timeout=7)

    conf.write(options, file)

    before, _, after = file.read_text().partition("\n[client.bmi]\nkeyring = /elsewhere\n")
    assert "mon_host = 10.0.0.1" in before
    assert f"[client.bmi]\nkeyring = {tmp_path}/key\n" in after
    assert "rados_osd_op_timeout = 7\n" in after
    assert "rbd_cache_policy = writethrough\n" in after  # or a killed target loses what it acknowledged
    assert list(file.parent.iterdir()) == [file]


def test_a_configuration_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ceph.conf"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(StorageError, match=str(path)):
        conf.read(path)


def test_turns_are_taken_on_one_thing_and_not_on_another() -> None:
    turns, inside, most = Turns(), dict[str, int](), dict[str, int]()
    guard, both = threading.Lock(), threading.Barrier(2)

    def work(key: str) -> None:
        with turns.of(key):
            with guard:
                inside[key] = inside.get(key, 0) + 1
                most[key] = max(most.get(key, 0), inside[key])
            both.wait(timeout=10)  # somebody with the other key has to be inside at the same time
            with guard:
                inside[key] -= 1

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, ["a", "b"] * 8))
    assert most == {"a": 1, "b": 1}
    assert turns._locks == {}


def check(severity: str, message: str, **more: object) -> dict[str, object]:
    return {"severity": severity, "summary": {"message": message, "count": 1}, "detail": [], **more}


def test_only_what_is_broken_and_about_no_manager_is_more_than_a_warning() -> None:
    """The form is that of `ceph health detail --format json` of Ceph 16."""
    checks = {
        "MGR_DOWN": check("HEALTH_ERR", "no active mgr", muted=False),
        "OSD_FULL": check("HEALTH_ERR", "1 full osd(s)", muted=False),
        "OSD_DOWN": check("HEALTH_WARN", "1 osds down", muted=False),
        "POOL_NO_REDUNDANCY": check("HEALTH_WARN", "1 pool(s) have no replicas configured", muted=True),
    }
    assert complaints({"status": "HEALTH_ERR", "checks": checks, "mutes": []}) == [
        Complaint("Ceph MGR_DOWN", "no active mgr", broken=False),
        Complaint("Ceph OSD_DOWN", "1 osds down", broken=False),
        Complaint("Ceph OSD_FULL", "1 full osd(s)", broken=True),
    ]


class Monitors:
    """A session whose monitors answer, or fail, when they are let."""

    def __init__(self, free: int | Exception) -> None:
        self.free = free
        self.asked = 0
        self.first, self.answer = threading.Event(), threading.Event()

    def mon(self, prefix: str, **_: str) -> dict[str, Any]:
        self.asked += 1
        self.first.set()
        assert self.answer.wait(20)
        if isinstance(self.free, Exception):
            raise self.free
        stats = {"stored": GIB, "max_avail": self.free, "quota_bytes": 0}
        return {"pools": [{"name": "bmi", "stats": stats}]}


@pytest.mark.parametrize("free", [1 << 40, OSError("silent")], ids=["answer", "silence"])
def test_one_asks_for_the_room_for_all_who_want_to_know(
    free: int | Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    gauge, monitors = Gauge(RbdOptions(pool="bmi")), Monitors(free)
    waiting = threading.Semaphore(0)

    class Told(Future[Any]):
        def result(self, timeout: float | None = None) -> Any:
            waiting.release()
            return super().result(timeout)

    monkeypatch.setattr(room, "Future", Told)
    with ThreadPoolExecutor(4) as threads:
        all_ = [threads.submit(gauge.require, cast("Session", monitors), 0, "it") for _ in range(4)]
        assert monitors.first.wait(20)
        for _ in range(3):  # all others wait for the first one's answer
            assert waiting.acquire(timeout=20)
        monitors.answer.set()
        errors = [each.exception(20) for each in all_]
    assert monitors.asked == 1
    assert {type(error) for error in errors} == {OSError if isinstance(free, Exception) else type(None)}


def test_the_room_is_asked_for_again_where_it_may_be_gone_by_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monitors = Monitors(40 * GIB)
    monitors.answer.set()
    gauge = Gauge(RbdOptions(pool="bmi"))

    def asked_at(time: float, needed: int = 0) -> int:
        monkeypatch.setattr(room.time, "monotonic", lambda: time)
        gauge.require(cast("Session", monitors), needed, "it")
        return monitors.asked

    assert [asked_at(time) for time in (100.0, 105.0, 111.0, 112.0)] == [1, 1, 2, 2]
    assert asked_at(114.0, 39 * GIB) == 3  # nearly all of it, and four of them may go in a second
    monitors.free = GIB
    with pytest.raises(StorageFull, match="it takes"):
        asked_at(150.0, 2 * GIB)
