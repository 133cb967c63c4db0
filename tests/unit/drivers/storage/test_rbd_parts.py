"""The parts of the driver `rbd` that need no Ceph."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bmi.drivers.storage import Complaint, Kind, Volume
from bmi.drivers.storage.rbd import conf
from bmi.drivers.storage.rbd.health import complaints
from bmi.drivers.storage.rbd.names import seed_number, seed_snapshot, volume_named
from bmi.drivers.storage.rbd.options import RbdOptions
from bmi.drivers.storage.rbd.stream import pieces
from bmi.drivers.storage.rbd.turns import Turns
from bmi.errors import StorageError
from bmi.ids import new_id

KIB = 1 << 10


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
