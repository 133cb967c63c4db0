"""The lab's Ceph: that it comes and goes whole, and that its parts can fail one by one."""

import random
import select
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import rados
import rbd

from bmi import processes
from bmi.errors import CommandFailed, InUse, NotFound
from bmi.lab.ceph import Ceph, free_port
from bmi.run import run
from bmi.wait import wait_until

MIB = 1 << 20
OBJECT = b"what a node has written"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """A cluster for the tests that leave it as they found it; with every kind of daemon."""
    cluster = Ceph(tmp_path_factory.mktemp("ceph") / "c", port=free_port(), osds=2, mgr=True)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()
    assert daemons(cluster) == []


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Ceph]:
    """A cluster that was never up."""
    cluster = Ceph(tmp_path / "ceph", port=free_port())
    yield cluster
    cluster.down()
    assert daemons(cluster) == []


def daemons(cluster: Ceph) -> list[str]:
    """Name the programs whose command line speaks of the cluster's folder."""
    return sorted(
        found.info["name"]
        for found in psutil.process_iter(["name", "cmdline"])
        if str(cluster.folder) in " ".join(found.info["cmdline"] or ())
    )


def recorded(cluster: Ceph) -> dict[str, processes.Process | None]:
    names = ("mon", "osd.0", "osd.1", "mgr")
    return {name: processes.recorded(cluster.folder / f"{name}.json") for name in names}


@contextmanager
def opened(
    conf: Path, pool: str, user: str = "admin", namespace: str = "", patience: int = 20
) -> Iterator[Any]:
    """Open a pool as a user; calls fail when nothing answers for some seconds."""
    limits = ("client_mount_timeout", "rados_mon_op_timeout", "rados_osd_op_timeout")
    with (
        rados.Rados(rados_id=user, conffile=str(conf), conf=dict.fromkeys(limits, str(patience))) as cluster,
        cluster.open_ioctx(pool) as ioctx,
    ):
        ioctx.set_namespace(namespace)
        yield ioctx


def write(cluster: Ceph) -> None:
    """Write to many placement groups, so to every OSD."""
    with opened(cluster.conf, cluster.pool) as ioctx:
        for number in range(40):
            ioctx.write_full(f"o{number}", OBJECT + bytes([number]))


def assert_written(cluster: Ceph) -> None:
    with opened(cluster.conf, cluster.pool) as ioctx:
        for number in range(40):
            assert ioctx.read(f"o{number}") == OBJECT + bytes([number])


def test_up_makes_a_cluster_that_keeps_images(fresh: Ceph) -> None:
    assert not fresh.alive()

    fresh.up()

    assert fresh.alive()
    assert daemons(fresh) == ["ceph-mon", "ceph-osd"]
    with opened(fresh.conf, fresh.pool) as ioctx:
        rbd.RBD().create(ioctx, "image", 4 * MIB)
        with rbd.Image(ioctx, "image") as image:
            image.write(OBJECT, MIB)
            assert image.read(MIB, len(OBJECT)) == OBJECT
    assert run(["rbd", "--conf", fresh.conf, "ls", fresh.pool]).split() == ["image"]


def test_up_again_changes_nothing(shared: Ceph) -> None:
    write(shared)
    before = recorded(shared)
    assert None not in before.values()

    shared.up()
    subprocess.run(
        [sys.executable, "-c", _STARTER, shared.folder, str(_port(shared)), "2", "mgr"], check=True
    )

    assert recorded(shared) == before
    assert_written(shared)


@pytest.mark.parametrize("end", [Ceph.stop, Ceph.kill], ids=["SIGTERM", "SIGKILL"])
@pytest.mark.parametrize("name", ["mon", "osd.0", "osd.1", "mgr"])
def test_each_daemon_can_end_and_start_and_nothing_is_lost(shared: Ceph, name: str, end: Any) -> None:
    write(shared)
    before = recorded(shared)

    end(shared, name)
    assert not shared.alive()
    assert recorded(shared)[name] is None
    end(shared, name)  # gone already
    shared.start(name)

    assert shared.alive()
    after = recorded(shared)
    assert after.pop(name) not in (None, before.pop(name))
    assert after == before
    assert_written(shared)
    write(shared)


def test_a_started_manager_is_the_active_one(shared: Ceph) -> None:
    shared.kill("mgr")
    before = shared.command("mgr dump")["active_gid"]
    shared.start("mgr")
    dump = shared.command("mgr dump")
    assert dump["available"]
    assert dump["active_gid"] != before


def test_up_starts_what_was_killed(fresh: Ceph) -> None:
    fresh.up()
    write(fresh)
    for name in ("mon", "osd.0"):
        fresh.kill(name)

    fresh.up()

    assert fresh.alive()
    assert_written(fresh)


def test_without_its_osd_the_cluster_does_not_answer(fresh: Ceph) -> None:
    """The faults that tests make are faults that clients feel."""
    fresh.up()
    fresh.stop("osd.0")
    with opened(fresh.conf, fresh.pool, patience=1) as ioctx, pytest.raises(rados.TimedOut):
        ioctx.write_full("object", OBJECT)
    fresh.start("osd.0")
    write(fresh)


def test_a_daemon_that_it_does_not_have_is_named(shared: Ceph) -> None:
    for verb in (shared.start, shared.stop, shared.kill):
        with pytest.raises(NotFound, match=r"no daemon osd\.2; use one of: mon, mgr, osd\.0, osd\.1"):
            verb("osd.2")


def test_a_user_reaches_the_pool_that_it_was_made_for_and_no_other(shared: Ceph) -> None:
    shared.command("osd pool create", pool="other", pg_num=4)
    keyring = shared.add_user("tenant", pool=shared.pool)
    conf = shared.client_conf("tenant")

    assert stat.S_IMODE(keyring.stat().st_mode) == 0o600
    with opened(conf, shared.pool, "tenant") as ioctx:
        rbd.RBD().create(ioctx, "mine", 4 * MIB)
        rbd.RBD().remove(ioctx, "mine")
    with opened(conf, "other", "tenant") as ioctx, pytest.raises(rbd.PermissionError):
        rbd.RBD().create(ioctx, "foreign", 4 * MIB)
    with opened(conf, "other", "tenant") as ioctx, pytest.raises(rados.PermissionError):
        ioctx.write_full("object", OBJECT)
    with pytest.raises(CommandFailed, match="status 1"):
        run(["ceph", "--conf", conf, "--name", "client.tenant", "auth", "ls"])


def test_a_user_of_a_namespace_does_not_reach_the_rest_of_the_pool(shared: Ceph) -> None:
    with opened(shared.conf, shared.pool) as ioctx:
        rbd.RBD().namespace_create(ioctx, "red")
    shared.add_user("red", namespace="red")
    conf = shared.client_conf("red")

    with opened(conf, shared.pool, "red", namespace="red") as ioctx:
        rbd.RBD().create(ioctx, "mine", 4 * MIB)
    with opened(conf, shared.pool, "red") as ioctx, pytest.raises(rbd.PermissionError):
        rbd.RBD().create(ioctx, "foreign", 4 * MIB)


def test_a_user_made_again_keeps_its_key_and_gets_the_new_rights(shared: Ceph) -> None:
    key = shared.add_user("again").read_text().splitlines()[1]
    with opened(shared.client_conf("again"), shared.pool, "again") as ioctx:
        ioctx.write_full("by-again", OBJECT)

    keyring = shared.add_user("again", {"mon": "allow r", "osd": f"allow r pool={shared.pool}"})

    assert keyring.read_text().splitlines()[1] == key
    with opened(shared.client_conf("again"), shared.pool, "again") as ioctx:
        assert ioctx.read("by-again") == OBJECT
        with pytest.raises(rados.PermissionError):
            ioctx.write_full("by-again", b"")


def test_a_user_that_was_not_made_has_no_configuration(shared: Ceph) -> None:
    with pytest.raises(NotFound, match="no user nobody; add the user first"):
        shared.client_conf("nobody")


def test_a_quota_stops_writers(shared: Ceph) -> None:
    shared.command("osd pool create", pool="small", pg_num=4)
    shared.set_quota("small", 4 * MIB)
    with opened(shared.conf, "small", patience=1) as ioctx:

        def refused() -> bool:
            try:
                ioctx.write_full("object", bytes(8 * MIB))
            except rados.Error:
                return True
            return False

        wait_until(refused, deadline=60, what="the quota to be felt", next_step="look at the manager")
        shared.set_quota("small", 0)
        wait_until(
            lambda: not refused(), deadline=60, what="the quota to be gone", next_step="look at the manager"
        )
    with pytest.raises(NotFound, match="nowhere"):
        shared.set_quota("nowhere", 1)


def test_usage_counts_what_is_written(shared: Ceph) -> None:
    before = shared.usage()
    with opened(shared.conf, shared.pool) as ioctx:
        for number in range(4):
            ioctx.write_full(f"large{number}", random.Random(number).randbytes(8 * MIB))
    after = shared.usage()
    assert 32 * MIB <= after.disk - before.disk < 64 * MIB
    assert before.memory > 4 * 10 * MIB  # four daemons


def test_down_leaves_nothing(fresh: Ceph) -> None:
    fresh.up()
    fresh.down()
    assert daemons(fresh) == []
    assert not fresh.folder.exists()
    fresh.down()


def test_down_ends_no_client_and_removes_no_other_folder(fresh: Ceph) -> None:
    fresh.folder.mkdir()
    precious = fresh.folder / "precious"
    precious.write_text("data")
    words = [sys.executable, "-c", "import sys; sys.stdin.read()", "--conf", fresh.conf]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as client:
        with pytest.raises(NotFound, match="no Ceph of the lab"):
            fresh.down()
        client.communicate()  # it ends by itself
        assert client.returncode == 0
    assert precious.read_text() == "data"
    precious.unlink()


def test_a_cluster_taken_down_comes_up_empty(fresh: Ceph) -> None:
    fresh.up()
    write(fresh)
    fresh.down()
    fresh.up()
    with opened(fresh.conf, fresh.pool) as ioctx, pytest.raises(rados.ObjectNotFound):
        ioctx.read("o1")


def test_another_process_can_take_it_down(fresh: Ceph) -> None:
    subprocess.run([sys.executable, "-c", _STARTER, fresh.folder, str(_port(fresh)), "1", ""], check=True)
    assert fresh.alive()
    fresh.down()
    assert daemons(fresh) == []


def test_an_up_that_is_killed_anywhere_is_completed_or_taken_down(fresh: Ceph) -> None:
    chance = random.Random(1)
    for turn in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", _STARTER, fresh.folder, str(_port(fresh)), "1", ""],
            stdout=subprocess.PIPE,
            text=True,
        ) as starter:
            assert starter.stdout is not None
            assert starter.stdout.readline() == "starting\n"
            # It takes 1.3 s on an idle machine.
            select.select([], [], [], chance.uniform(0, 1.3))
            starter.kill()
        if turn % 2:
            fresh.up()
            assert daemons(fresh) == ["ceph-mon", "ceph-osd"]
            write(fresh)
            assert_written(fresh)
        fresh.down()
        assert daemons(fresh) == []
        assert not fresh.folder.exists()


def test_a_store_that_was_half_made_is_made_anew(fresh: Ceph) -> None:
    half = fresh.folder / "osd.0.part"
    with subprocess.Popen(
        [sys.executable, "-c", _STARTER, fresh.folder, str(_port(fresh)), "1", ""], stdout=subprocess.DEVNULL
    ) as starter:
        wait_until(half.exists, deadline=30, what="a half-made store", next_step="look at up()", poll=0.001)
        starter.kill()
    assert half.exists()

    fresh.up()

    assert not half.exists()
    write(fresh)
    assert_written(fresh)


def test_two_clusters_do_not_meet(fresh: Ceph, shared: Ceph) -> None:
    write(shared)
    fresh.up()
    with opened(fresh.conf, fresh.pool) as ioctx, pytest.raises(rados.ObjectNotFound):
        ioctx.read("o1")
    fresh.down()
    assert shared.alive()
    assert_written(shared)


def test_a_folder_with_a_long_name_will_do(tmp_path: Path) -> None:
    """A socket's path has 107 bytes at the most."""
    cluster = Ceph(tmp_path / ("x" * 120), port=free_port())
    try:
        cluster.up()
        cluster.add_user("tenant")
        run(["rbd", "--conf", cluster.client_conf("tenant"), "--id", "tenant", "ls", cluster.pool])
    finally:
        cluster.down()


def test_a_folder_that_has_a_cluster_of_another_shape_is_refused(shared: Ceph) -> None:
    with pytest.raises(InUse, match="another shape"):
        Ceph(shared.folder, port=_port(shared), osds=3).up()
    assert shared.alive()


def test_a_monitor_whose_port_is_taken_says_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        cluster = Ceph(tmp_path / "ceph", port=taken.getsockname()[1])
        try:
            with pytest.raises(
                CommandFailed, match=r"(?s)ceph-mon \(mon\) ended at once: .*Address already in use"
            ):
                cluster.up()
        finally:
            cluster.down()


def test_a_free_port_can_be_listened_on_and_is_none_of_the_kernels_choice() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    port = free_port()
    assert port < first
    with socket.create_server(("127.0.0.1", port)):
        assert free_port() != port


def _port(cluster: Ceph) -> int:
    return int(cluster.mon_host.rpartition(":")[2])


_STARTER = """
import sys
from pathlib import Path
from bmi.lab.ceph import Ceph
folder, port, osds, mgr = sys.argv[1:]
cluster = Ceph(Path(folder), port=int(port), osds=int(osds), mgr=bool(mgr))
print("starting", flush=True)
cluster.up()
"""
