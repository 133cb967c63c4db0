"""The driver `rbd` against a real Ceph whose daemons and clients die."""

import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from unittest.mock import patch
from uuid import UUID

import pytest
import rbd

from bmi.drivers import Outcome, Site
from bmi.drivers.storage import Kind, Volume
from bmi.drivers.storage.rbd import RbdStorage, claims, header, sweeping
from bmi.errors import BadRequest, ImageInvalid, SettingsInvalid, StorageError, StorageUnreachable
from bmi.ids import new_id
from bmi.lab.ceph import Ceph
from bmi.wait import wait_until
from tests.ceph_pools import TestPool, small_ceph

MIB = 1 << 20
SIZE = 24 * MIB
QUICK = {"connect_timeout": 2, "timeout": 3}  # seconds; Ceph is stopped on purpose here

Make = Callable[..., RbdStorage]


@pytest.fixture(scope="module")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    with small_ceph(tmp_path_factory.mktemp("ceph") / "c") as cluster:
        yield cluster


@pytest.fixture
def pool(ceph: Ceph) -> Iterator[TestPool]:
    pool = TestPool(ceph)
    yield pool
    pool.remove()


@pytest.fixture
def make(pool: TestPool, tmp_path: Path) -> Iterator[Make]:
    """Make drivers on the pool, and disconnect them in the end."""
    made: list[RbdStorage] = []

    def driver(**options: Any) -> RbdStorage:
        made.append(RbdStorage({**pool.options, **options}, Site(tmp_path / "state", "0badcafe")))
        return made[-1]

    yield driver
    for storage in made:
        storage.close()


@pytest.fixture
def store(make: Make) -> RbdStorage:
    storage = make()
    storage.prepare()
    return storage


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "golden.raw"
    path.write_bytes(os.urandom(8 * MIB).ljust(SIZE, b"\0"))
    return path


@pytest.fixture
def golden(store: RbdStorage, source: Path) -> UUID:
    id = new_id()
    store.import_image(id, source, ignore)
    return id


def ignore(done: int, total: int) -> None:
    """Take no notice of progress."""


def image(id: UUID) -> Volume:
    return Volume(Kind.IMAGE, id)


def disk(id: UUID) -> Volume:
    return Volume(Kind.DISK, id)


# Without librbd's cache: behind it, a write that failed late may still be answered as done, by the flush too.
_HOLDER = """
import sys, rados, rbd
conf, user, keyring, pool, name = sys.argv[1:6]
cluster = rados.Rados(rados_id=user, conffile=conf, conf={
    "keyring": keyring, "rados_osd_op_timeout": "20", "rbd_cache": "false"})
cluster.connect()
image = rbd.Image(cluster.open_ioctx(pool), name)
if sys.argv[6:] != ["idle"]:
    image.write(b"held", 0)
    image.flush()
print("holding", flush=True)
for line in sys.stdin:
    try:
        image.write(line.strip().encode(), 0)
        image.flush()
        print("written", flush=True)
    except rbd.Error as error:
        print(f"failed {error.errno}", flush=True)
"""


class Holder:
    """Another process that has an image open and writes to it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def write(self, word: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def held(pool: TestPool, name: str, *, idle: bool = False) -> Iterator[Holder]:
    """Let another process open an image, and write to it at once unless it is idle."""
    words = [sys.executable, "-c", _HOLDER, *pool.arguments, name, *(["idle"] if idle else [])]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "holding\n"
            yield Holder(process)
        finally:
            process.kill()


# --- preparing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"pool": ""}, {"pool": "a/b"}, {"timeout": 0}, {"keyring": "relative"}, {"size": 1}]
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match=next(iter(options))):
        RbdStorage({"pool": "p", **options}, Site(tmp_path, "0badcafe"))


def test_preparing_says_which_file_is_missing(make: Make, tmp_path: Path) -> None:
    for option in ("keyring", "conf"):
        missing = tmp_path / f"no-{option}"
        with pytest.raises(StorageError, match=str(missing)) as caught:
            make(**{option: str(missing)}).prepare()
        assert "ceph" in caught.value.next_step


def test_preparing_says_that_the_keyring_is_another_users(make: Make, pool: TestPool) -> None:
    with pytest.raises(StorageError, match=r"has no key of client\.somebody"):
        make(user="somebody", keyring=str(pool.keyring)).prepare()


def test_preparing_says_that_a_configuration_names_no_monitor(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "empty.conf"
    path.write_text("[global]\nfsid = 0\n")
    with pytest.raises(StorageError, match=f"{path} does not say where the monitors are"):
        make(conf=str(path)).prepare()


def test_preparing_says_that_the_key_is_wrong(make: Make, pool: TestPool, tmp_path: Path) -> None:
    path = tmp_path / "wrong.keyring"
    path.write_text(f"[client.{pool.name}]\n\tkey = AQBhPGRnAAAAABAAqqqqqqqqqqqqqqqqqqqqqg==\n")
    with pytest.raises(StorageError, match=f"do not let client.{pool.name} in") as caught:
        make(keyring=str(path)).prepare()
    assert str(path) in caught.value.message
    assert "qqqq" not in str(caught.value)


def test_preparing_says_that_there_is_no_pool(make: Make) -> None:
    with pytest.raises(StorageError, match="has no pool nowhere") as caught:
        make(pool="nowhere").prepare()
    assert "ceph osd pool create nowhere" in caught.value.next_step


def test_preparing_says_which_rights_are_missing(make: Make, pool: TestPool) -> None:
    keyring = pool.ceph.add_user(
        "reader", {"mon": "profile rbd", "osd": f"profile rbd-read-only pool={pool.name}"}
    )
    with pytest.raises(StorageError, match="may not make images") as caught:
        make(user="reader", keyring=str(keyring)).prepare()
    assert f"osd 'profile rbd pool={pool.name}'" in caught.value.next_step


def test_preparing_says_that_there_is_no_namespace(make: Make, pool: TestPool) -> None:
    with pytest.raises(StorageError, match="has no namespace blue"):
        make(namespace="blue").prepare()


def test_a_namespace_holds_volumes_but_exports_none(make: Make, pool: TestPool, source: Path) -> None:
    rbd.RBD().namespace_create(pool.pool, "blue")
    keyring = pool.ceph.add_user("blue", pool=pool.name, namespace="blue")
    store, id, made = make(namespace="blue", user="blue", keyring=str(keyring)), new_id(), new_id()
    store.prepare()

    store.import_image(id, source, ignore)
    store.clone(id, made)

    assert {info.volume for info in store.volumes()} == {image(id), disk(made)}
    assert pool.names() == set()
    with pytest.raises(StorageError, match="tgt cannot open namespaces"):
        store.backing(disk(made))
    store.remove(disk(made))
    store.remove(image(id))
    rbd.RBD().namespace_remove(pool.pool, "blue")


def test_preparing_gives_up_within_seconds_when_nothing_answers(make: Make, ceph: Ceph) -> None:
    for daemon, told in (("osd.0", "OSDs are up"), ("mon", ceph.mon_host)):
        ceph.stop(daemon)
        try:
            began = time.monotonic()
            with pytest.raises(StorageUnreachable, match=told) as caught:
                make(**QUICK).prepare()
            assert time.monotonic() - began < 15
            assert ceph.mon_host in caught.value.message
            assert caught.value.transient
        finally:
            ceph.start(daemon)


def test_what_the_cluster_says_of_its_health_is_passed_on(store: RbdStorage, ceph: Ceph) -> None:
    def found() -> dict[str, bool]:
        return {complaint.name: complaint.broken for complaint in store.complaints()}

    before = found()  # it has no manager, which some versions of Ceph call an error after a while
    assert not any(before.values())
    ceph.command("osd set", key="noout")
    ceph.command("osd set-full-ratio", ratio=0.5)  # less than what counts as nearly full
    try:
        wait_until(
            lambda: {"Ceph OSDMAP_FLAGS", "Ceph OSD_OUT_OF_ORDER_FULL"} <= found().keys(),
            deadline=20,
            what="Ceph to notice",
            next_step="",
        )
        assert found()["Ceph OSDMAP_FLAGS"] is False
        assert found()["Ceph OSD_OUT_OF_ORDER_FULL"] is True
    finally:
        ceph.command("osd set-full-ratio", ratio=0.95)
        ceph.command("osd unset", key="noout")
    wait_until(lambda: "Ceph OSDMAP_FLAGS" not in found(), deadline=20, what="Ceph to be well", next_step="")


def test_targets_get_a_configuration_of_their_own(
    store: RbdStorage, golden: UUID, pool: TestPool, tmp_path: Path
) -> None:
    made, seed = new_id(), new_id()
    store.clone(golden, made)
    store.write_seed(seed, b"x" * 512)

    backing = store.backing(disk(made))

    assert (backing.type, backing.path, backing.user) == ("rbd", f"{pool.name}/disk-{made}", pool.name)
    conf = Path(backing.conf)
    assert conf.is_relative_to(tmp_path / "state")
    assert conf.stat().st_mode & 0o077 == 0
    assert f"keyring = {pool.keyring}" in conf.read_text()
    assert store.backing(image(golden)).path == f"{pool.name}/image-{golden}@bmi"
    assert store.backing(Volume(Kind.SEED, seed)).path.startswith(f"{pool.name}/seed-{seed}@1-")


# --- rolling back, and dying at it -----------------------------------------------------------------------


def make_next(pool: TestPool, disk: UUID, image: UUID) -> None:
    """Make what a disk is to become, as one does who is about to put it in the disk's place."""
    rbd.RBD().clone(pool.pool, f"image-{image}", "bmi", pool.pool, f"next-{disk}", features=61)


def before_the_swap(pool: TestPool, disk: UUID) -> None:
    """Die when the next content is whole."""


def with_the_old_one_half_in_the_trash(pool: TestPool, disk: UUID) -> None:
    pool.pool.remove_object(f"rbd_id.disk-{disk}")


def with_the_old_one_in_the_trash(pool: TestPool, disk: UUID) -> None:
    rbd.RBD().trash_move(pool.pool, f"disk-{disk}", 0)


def with_the_new_name_half_given(pool: TestPool, disk: UUID) -> None:
    with_the_old_one_in_the_trash(pool, disk)
    pool.pool.write_full(f"rbd_id.disk-{disk}", pool.pool.read(f"rbd_id.next-{disk}"))


def with_both_halves_wrong(pool: TestPool, disk: UUID) -> None:
    with_the_old_one_half_in_the_trash(pool, disk)
    pool.pool.write_full(f"rbd_id.disk-{disk}", pool.pool.read(f"rbd_id.next-{disk}"))


def with_the_old_name_half_taken(pool: TestPool, disk: UUID) -> None:
    with_the_old_one_in_the_trash(pool, disk)
    id = pool.pool.read(f"rbd_id.next-{disk}")
    rbd.RBD().rename(pool.pool, f"next-{disk}", f"disk-{disk}")
    pool.pool.write_full(f"rbd_id.next-{disk}", id)


DEATHS = [
    before_the_swap,
    with_the_old_one_half_in_the_trash,
    with_the_old_one_in_the_trash,
    with_the_new_name_half_given,
    with_both_halves_wrong,
    with_the_old_name_half_taken,
]


@pytest.mark.parametrize("after", ["restart", "again", "removal"])
@pytest.mark.parametrize("died", DEATHS, ids=[each.__name__ for each in DEATHS])
def test_a_roll_back_that_stopped_anywhere_is_ended(
    store: RbdStorage,
    make: Make,
    golden: UUID,
    source: Path,
    pool: TestPool,
    died: Callable[[TestPool, UUID], None],
    after: str,
) -> None:
    made = new_id()
    store.clone(golden, made)
    with pool.image(f"disk-{made}") as opened:
        opened.write(b"mine", 0)
    make_next(pool, made, golden)
    died(pool, made)
    old, new = b"mine" + source.read_bytes()[4:], source.read_bytes()
    if died is not with_the_old_one_half_in_the_trash:  # only what is done next mends that
        assert store.find(disk(made)) is not None
        assert pool.content(f"disk-{made}") == (old if died is before_the_swap else new)

    if after == "restart":
        make().prepare()
        assert pool.content(f"disk-{made}") == (old if died is before_the_swap else new)
    elif after == "again":
        store.roll_back(made, golden)
        assert pool.content(f"disk-{made}") == new
    else:
        store.remove(disk(made))
        assert store.find(disk(made)) is None
    make().prepare()
    left = {f"image-{golden}"} | ({f"disk-{made}"} if after != "removal" else set())
    assert (pool.names(), pool.trash()) == (left, set())
    assert pool.id_objects() == left


def test_what_is_half_cloned_does_not_keep_a_disk_from_being_rolled_back(
    store: RbdStorage, golden: UUID, source: Path, pool: TestPool
) -> None:
    made = new_id()
    store.clone(golden, made)
    pool.pool.write_full(f"rbd_id.next-{made}", b"\x04\x00\x00\x00dead")

    store.roll_back(made, golden)

    assert pool.content(f"disk-{made}") == source.read_bytes()
    assert pool.id_objects() == {f"image-{golden}", f"disk-{made}"}


# --- removing, and dying at it ---------------------------------------------------------------------------


def in_the_trash(pool: TestPool, name: str) -> str:
    """Die when the image is in the trash, and return its id."""
    with pool.image(name, read_only=True) as opened:
        id = str(opened.id())
    rbd.RBD().trash_move(pool.pool, name, 0)
    return id


def announced_to_the_trash(pool: TestPool, name: str) -> None:
    """Die when the trash has been told of the image, which has lost nothing yet."""
    with pool.image(name, read_only=True) as opened:
        id = str(opened.id()).encode()
    # TrashImageSpec: by a user, the name, since when and until when, being moved.
    spec = struct.pack(f"<BI{len(name)}sIIIIB", 0, len(name), name.encode(), 0, 0, 0, 0, 1)
    told = struct.pack(f"<I{len(id)}sBBI", len(id), id, 2, 1, len(spec)) + spec
    status, _ = pool.pool.execute("rbd_trash", "rbd", "trash_add", told)
    assert status >= 0


def half_in_the_trash(pool: TestPool, name: str) -> None:
    """Die when the image has lost its name, and before the trash says that it is there."""
    id = in_the_trash(pool, name).encode()
    normal, moving = b"\0", b"\1"  # TrashImageState of Ceph's cls_rbd_types.h
    status, _ = pool.pool.execute(
        "rbd_trash", "rbd", "trash_state_set", struct.pack("<I", len(id)) + id + moving + normal
    )
    assert status >= 0


def half_removed(pool: TestPool, name: str) -> None:
    """Die when the image's header is gone, and before the trash forgets it."""
    pool.pool.remove_object(f"rbd_header.{in_the_trash(pool, name)}")


def half_unnamed(pool: TestPool, name: str) -> None:
    """Die when the image's name leads nowhere any more, and Ceph's directory still has it."""
    pool.pool.remove_object(f"rbd_id.{name}")


@pytest.mark.parametrize("after", ["restart", "again"])
@pytest.mark.parametrize(
    "died", [announced_to_the_trash, half_in_the_trash, in_the_trash, half_removed, half_unnamed]
)
def test_a_removal_that_stopped_anywhere_is_ended(
    store: RbdStorage,
    make: Make,
    golden: UUID,
    pool: TestPool,
    monkeypatch: pytest.MonkeyPatch,
    died: Callable[[TestPool, str], object],
    after: str,
) -> None:
    made, other = new_id(), new_id()
    store.clone(golden, other)
    store.clone(golden, made)
    died(pool, f"disk-{made}")

    if after == "restart":
        make().prepare()  # another one may be about it just now
        monkeypatch.setattr("bmi.drivers.storage.rbd.sweeping._OLD", timedelta(0))
        make().prepare()
    if after == "again" or died is announced_to_the_trash:
        assert store.remove(disk(made)) is Outcome.DONE

    assert store.remove(disk(made)) is Outcome.ALREADY
    left = {f"image-{golden}", f"disk-{other}"}
    assert (pool.names(), pool.trash(), pool.id_objects()) == (left, set(), left)


def test_sweeping_the_trash_spares_what_has_the_name_now(
    store: RbdStorage, make: Make, golden: UUID, pool: TestPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = new_id()
    store.clone(golden, made)
    half_in_the_trash(pool, f"disk-{made}")
    store.clone(golden, made)
    monkeypatch.setattr("bmi.drivers.storage.rbd.sweeping._OLD", timedelta(0))

    make().prepare()

    assert store.find(disk(made)) is not None
    assert (pool.names(), pool.trash()) == ({f"image-{golden}", f"disk-{made}"}, set())


def test_what_waits_for_its_clones_in_the_trash_is_removed_already(
    store: RbdStorage, golden: UUID, pool: TestPool
) -> None:
    store.clone(golden, new_id())
    store.remove(image(golden))

    assert store.remove(image(golden)) is Outcome.ALREADY
    assert pool.trash() == {f"image-{golden}"}


def side_by_side(*works: Callable[[], object]) -> None:
    """Do things at once; one that Ceph's library leaves waiting for ever fails the test, and does not stop it."""
    ended: SimpleQueue[BaseException | None] = SimpleQueue()

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            ended.put(error)
        else:
            ended.put(None)

    for work in works:
        threading.Thread(target=run, args=(work,), daemon=True).start()
    for _ in works:
        error = ended.get(timeout=60)
        if error is not None:
            raise error


def test_who_sweeps_and_who_removes_do_not_cut_each_other_off(
    store: RbdStorage, make: Make, golden: UUID, pool: TestPool
) -> None:
    other, stop = make(), threading.Event()

    def sweep() -> None:
        with other._connection.session("-") as session:
            while not stop.is_set():
                sweeping.sweep_trash(session)

    def remove() -> None:
        try:
            for _ in range(20):
                made = new_id()
                store.clone(golden, made)
                assert store.remove(disk(made)) is Outcome.DONE
        finally:
            stop.set()

    side_by_side(sweep, remove)

    assert (pool.names(), pool.trash()) == ({f"image-{golden}"}, set())


def test_of_two_who_remove_the_last_clones_one_removes_the_parent(
    store: RbdStorage, make: Make, golden: UUID, pool: TestPool
) -> None:
    other = make()
    for _ in range(10):
        first, parent, one, two = (new_id() for _ in range(4))
        store.clone(golden, first)
        store.snapshot(first, parent)
        store.remove(disk(first))
        store.clone(parent, one)
        store.clone(parent, two)
        store.remove(image(parent))
        assert pool.trash() == {f"disk-{first}", f"image-{parent}"}

        side_by_side(lambda: store.remove(disk(one)), lambda: other.remove(disk(two)))  # noqa: B023

        assert (pool.names(), pool.trash()) == ({f"image-{golden}"}, set())


def test_who_died_at_a_removal_is_not_waited_for_long(
    store: RbdStorage, make: Make, golden: UUID, pool: TestPool
) -> None:
    made = new_id()
    store.clone(golden, made)
    id = in_the_trash(pool, f"disk-{made}")
    pool.pool.lock_exclusive("rbd_trash", claims.lock_of(id), "of somebody who died", duration=claims.HELD)

    make().prepare()

    assert (pool.names(), pool.trash()) == ({f"image-{golden}"}, set())


def test_who_opens_a_disk_while_it_goes_does_not_keep_it(
    store: RbdStorage, golden: UUID, pool: TestPool
) -> None:
    made = new_id()
    store.clone(golden, made)
    with (
        held(pool, f"disk-{made}", idle=True),
        patch.object(header, "watched", return_value=False),  # as it was a moment before
    ):
        assert store.remove(disk(made)) is Outcome.DONE

    assert (pool.names(), pool.trash()) == ({f"image-{golden}"}, set())


# --- removing --------------------------------------------------------------------------------------------


def test_what_has_clones_goes_to_the_trash_and_then_for_good(
    store: RbdStorage, golden: UUID, pool: TestPool, source: Path
) -> None:
    made, frozen, last = new_id(), new_id(), new_id()
    store.clone(golden, made)
    store.snapshot(made, frozen)
    store.clone(frozen, last)

    for volume in (image(golden), disk(made), image(frozen)):
        assert store.remove(volume) is Outcome.DONE
    assert [info.volume for info in store.volumes()] == [disk(last)]
    assert pool.trash() == {f"image-{golden}", f"disk-{made}", f"image-{frozen}"}
    assert store.depth(disk(last)) == 3
    assert pool.content(f"disk-{last}") == source.read_bytes()

    store.remove(disk(last))
    assert (pool.names(), pool.trash()) == (set(), set())


def test_flattening_the_last_clone_empties_the_trash(store: RbdStorage, golden: UUID, pool: TestPool) -> None:
    made = new_id()
    store.clone(golden, made)
    store.remove(image(golden))

    store.flatten(disk(made), ignore)

    assert (pool.names(), pool.trash()) == ({f"disk-{made}"}, set())


def test_the_trash_of_others_is_left_alone(make: Make, store: RbdStorage, pool: TestPool) -> None:
    pool.make("theirs", bytes(MIB))
    rbd.RBD().trash_move(pool.pool, "theirs", 0)

    make().prepare()

    assert pool.trash() == {"theirs"}


@pytest.mark.parametrize("idle", [False, True])
@pytest.mark.parametrize("alive", [False, True])
def test_a_disk_that_a_client_has_open_goes_at_once(
    store: RbdStorage, golden: UUID, pool: TestPool, alive: bool, idle: bool
) -> None:
    made = new_id()
    store.clone(golden, made)
    with held(pool, f"disk-{made}", idle=idle) as holder:
        if not alive:
            holder.kill()
        assert pool.watchers(f"disk-{made}")
        began = time.monotonic()

        assert store.remove(disk(made)) is Outcome.DONE

    assert time.monotonic() - began < 5
    assert pool.names() == {f"image-{golden}"}


def test_an_image_is_known_without_being_opened(store: RbdStorage, golden: UUID, pool: TestPool) -> None:
    made, frozen = new_id(), new_id()
    store.clone(golden, made)
    with store._connection.session("-") as session:
        with pool.image(f"image-{golden}", read_only=True) as opened:
            parent = opened.id()
            assert header.read(session, f"image-{golden}") == header.Header(parent, None, 1, 0)
        with held(pool, f"disk-{made}"):
            store.snapshot(made, frozen)
            found = header.read(session, f"disk-{made}")
            assert found
            assert header.watched(session, found)
            with pool.image(f"disk-{made}", read_only=True) as opened:
                assert found == header.Header(opened.id(), parent, 1, 1)
        assert header.read(session, f"disk-{new_id()}") is None
        untouched = new_id()
        store.clone(golden, untouched)
        nobodys = header.read(session, f"disk-{untouched}")
        assert nobodys
        assert not header.watched(session, nobodys)


@pytest.mark.parametrize("answer", [b"", b"\x01", b"\xff" * 40])
def test_what_ceph_does_not_answer_as_expected_is_found_out_by_opening(
    store: RbdStorage, golden: UUID, pool: TestPool, answer: bytes
) -> None:
    made = new_id()
    store.clone(golden, made)
    with store._connection.session("-") as session, patch.object(session, "pool", Odd(session.pool, answer)):
        assert header.read(session, f"disk-{made}") is None
    with patch.object(header, "read", return_value=None):
        assert store.remove(disk(made)) is Outcome.DONE
    assert pool.names() == {f"image-{golden}"}


class Odd:
    """A pool whose OSDs speak another language."""

    def __init__(self, pool: Any, answer: bytes) -> None:
        self._pool, self._answer = pool, answer

    def execute(self, *_words: Any) -> tuple[int, bytes]:
        return len(self._answer), self._answer


def test_a_snapshot_leaves_nothing_on_the_disk_once_its_image_is_gone(
    store: RbdStorage, golden: UUID, pool: TestPool
) -> None:
    made, frozen = new_id(), new_id()
    store.clone(golden, made)
    store.snapshot(made, frozen)
    store.remove(image(frozen))

    with pool.image(f"disk-{made}") as opened:
        assert list(opened.list_snaps()) == []


# --- several clients -------------------------------------------------------------------------------------


def test_who_is_fenced_writes_no_more(store: RbdStorage, golden: UUID, pool: TestPool) -> None:
    made, other = new_id(), new_id()
    store.clone(golden, made)
    with held(pool, f"disk-{made}") as holder:
        assert holder.write("before") == "written"

        (address,) = store.fence(disk(made))

        assert address.startswith("127.0.0.1:0/")
        assert holder.write("after!") == "failed 108"
    with pool.image(f"disk-{made}") as opened:
        opened.write(b"ours", 0)
        opened.flush()
        assert opened.read(0, 6) == b"oursre"
    assert store.clone(golden, other) is Outcome.DONE


def test_a_disk_in_use_is_flattened_frozen_and_goes_on(
    store: RbdStorage, golden: UUID, pool: TestPool, source: Path
) -> None:
    made, frozen, told = new_id(), new_id(), list[tuple[int, int]]()
    store.clone(golden, made)
    with held(pool, f"disk-{made}") as holder:
        assert holder.write("before") == "written"

        store.snapshot(made, frozen)
        store.flatten(disk(made), lambda done, total: told.append((done, total)))

        assert holder.write("after!") == "written"
    assert told[-1] == (SIZE, SIZE)
    assert store.depth(disk(made)) == 0
    assert pool.content(f"disk-{made}") == b"after!" + source.read_bytes()[6:]
    with pool.image(f"image-{frozen}", "bmi", read_only=True) as opened:
        assert opened.read(0, SIZE) == b"before" + source.read_bytes()[6:]


def test_a_process_that_was_fenced_connects_again(make: Make, store: RbdStorage, golden: UUID) -> None:
    other = make()
    assert other.find(image(golden)) is not None
    with other._connection.session("the address") as session:
        address = session.cluster.get_addrs()
    with store._connection.session("fencing") as session:
        session.cluster.blocklist_add(address, 0)
        session.cluster.wait_for_latest_osdmap()

    with pytest.raises(StorageUnreachable):
        other.clone(golden, new_id())
    assert other.clone(golden, new_id()) is Outcome.DONE


def test_a_clone_that_was_not_grown_is_grown_by_the_next_call(store: RbdStorage, golden: UUID) -> None:
    made = new_id()
    store.clone(golden, made)  # what is there when a process dies before it comes to the size

    store.clone(golden, made, 2 * SIZE)

    info = store.find(disk(made))
    assert info is not None
    assert info.size == 2 * SIZE


def test_a_half_made_clone_is_nobodys_and_made_anew(
    make: Make, store: RbdStorage, golden: UUID, pool: TestPool, source: Path
) -> None:
    made = new_id()
    store.clone(golden, made)
    with pool.image(f"disk-{made}") as opened:
        opened.write(b"garbage", 0)
        opened.metadata_remove("bmi")  # the mark comes last

    assert store.find(disk(made)) is None
    assert disk(made) not in {info.volume for info in store.volumes()}
    assert store.clone(golden, made) is Outcome.DONE
    assert pool.content(f"disk-{made}") == source.read_bytes()

    with pool.image(f"disk-{made}") as opened:
        opened.metadata_remove("bmi")
    make().prepare()
    assert pool.names() == {f"image-{golden}"}


def test_an_image_whose_maker_died_in_its_last_step_is_nobodys_and_made_anew(
    make: Make, store: RbdStorage, golden: UUID, pool: TestPool, source: Path
) -> None:
    pool.half_made_snapshot(f"image-{golden}", "bmi")

    assert store.find(image(golden)) is None
    assert store.volumes() == []
    assert store.import_image(golden, source, ignore).size == SIZE
    assert pool.content(f"image-{golden}") == source.read_bytes()
    assert make().clone(golden, new_id()) is Outcome.DONE

    pool.half_made_snapshot(f"image-{golden}", "bmi")
    make().prepare()
    assert f"image-{golden}" not in pool.names()


@pytest.mark.parametrize("looker", ["making", "sweeping"])
def test_an_image_whose_maker_ends_well_while_somebody_looks_at_it_stays(
    make: Make,
    store: RbdStorage,
    golden: UUID,
    pool: TestPool,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    looker: str,
) -> None:
    name = f"image-{golden}"
    with pool.image(name) as opened:
        opened.remove_snap("bmi")
        before = opened.id()

    def ends_now(*_: object) -> set[str]:
        with pool.image(name) as opened, suppress(rbd.ImageExists):
            opened.create_snap("bmi")
        return set()

    # From here on it looks as if nobody had it open, and it is whole.
    monkeypatch.setattr(f"bmi.drivers.storage.rbd.{looker}.watchers", ends_now)
    monkeypatch.setattr("bmi.drivers.storage.rbd.making._GAP", 0)
    if looker == "sweeping":
        make().prepare()
    else:
        store.import_image(golden, source, ignore)

    with pool.image(name, "bmi", read_only=True) as opened:
        assert opened.id() == before  # it was not made anew


def test_a_snapshot_on_a_disk_that_a_dead_client_left_half_made_is_made_anew(
    store: RbdStorage, golden: UUID, pool: TestPool, source: Path
) -> None:
    made, frozen = new_id(), new_id()
    store.clone(golden, made)
    with pool.image(f"disk-{made}") as opened:
        opened.create_snap(f"image-{frozen}")
    pool.half_made_snapshot(f"disk-{made}", f"image-{frozen}")

    assert store.snapshot(made, frozen) is Outcome.DONE
    assert pool.content(f"image-{frozen}") == source.read_bytes()


def test_a_snapshot_of_a_seed_is_there_in_one_step(store: RbdStorage, pool: TestPool) -> None:
    """A half-made snapshot of an image is told by its object map that is not there; a seed has none."""
    seed = Volume(Kind.SEED, new_id())
    store.write_seed(seed.id, b"a" * 512)

    with pool.image(str(seed)) as opened:
        assert not opened.features() & rbd.RBD_FEATURE_OBJECT_MAP


def test_sweeping_spares_what_only_looks_like_ours(make: Make, pool: TestPool) -> None:
    name = str(disk(new_id()))
    pool.make(name, b"a disk of somebody else's".ljust(MIB))

    make().prepare()

    assert pool.names() == {name}


def test_sixteen_threads_clone_freeze_and_remove(store: RbdStorage, golden: UUID, pool: TestPool) -> None:
    def live(_: int) -> None:
        made, frozen, again = new_id(), new_id(), new_id()
        store.clone(golden, made)
        store.snapshot(made, frozen)
        store.clone(frozen, again, 2 * SIZE)
        for volume in (image(frozen), disk(made), disk(again)):
            assert store.remove(volume) is Outcome.DONE

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(live, range(32)))

    store.prepare()
    assert (pool.names(), pool.trash()) == ({f"image-{golden}"}, set())


# --- outages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("daemon", ["mon", "osd.0"])
def test_after_an_outage_the_same_driver_works_again(
    make: Make, ceph: Ceph, store: RbdStorage, golden: UUID, pool: TestPool, source: Path, daemon: str
) -> None:
    patient, made, frozen = make(**QUICK), new_id(), new_id()
    patient.clone(golden, made)
    ceph.stop(daemon)
    try:
        began = time.monotonic()
        with pytest.raises(StorageUnreachable, match=ceph.mon_host) as caught:
            patient.snapshot(made, frozen)
        assert time.monotonic() - began < 60
        assert caught.value.transient
    finally:
        ceph.start(daemon)

    wait_until(
        lambda: succeeds(lambda: patient.snapshot(made, frozen)),
        deadline=60,
        what="the snapshot after the outage",
        next_step="see why not",
    )
    assert {info.volume for info in patient.volumes()} == {image(golden), disk(made), image(frozen)}
    with pool.image(f"image-{frozen}", "bmi") as opened:
        assert opened.read(0, SIZE) == source.read_bytes()


def test_clones_go_on_through_a_short_outage(
    store: RbdStorage, ceph: Ceph, golden: UUID, pool: TestPool
) -> None:
    made, stop = list[UUID](), threading.Event()

    def clone() -> None:
        while not stop.is_set():
            id = new_id()
            assert store.clone(golden, id) is Outcome.DONE
            made.append(id)

    with ThreadPoolExecutor(1) as threads:
        work = threads.submit(clone)
        wait_until(lambda: made or work.done(), deadline=30, what="a clone", next_step="see why not")
        ceph.kill("osd.0")
        ceph.start("osd.0")
        before = len(made)
        wait_until(
            lambda: len(made) > before + 1 or work.done(), deadline=60, what="more", next_step="see why not"
        )
        stop.set()
        work.result()

    assert {info.volume for info in store.volumes()} == {image(golden), *map(disk, made)}


def succeeds(verb: Callable[[], object]) -> bool:
    try:
        verb()
    except StorageUnreachable:
        return False
    return True


# --- what is not BMI's -----------------------------------------------------------------------------------


def test_an_adopted_image_goes_its_own_way(store: RbdStorage, pool: TestPool) -> None:
    content, id, made = os.urandom(MIB), new_id(), new_id()
    pool.make("theirs", content)

    store.adopt(id, "theirs")
    with pool.image("theirs") as opened:
        opened.write(b"changed later", 0)
    store.clone(id, made)

    assert pool.content(f"disk-{made}") == content
    assert store.depth(image(id)) == 1
    with pytest.raises(rbd.ImageHasSnapshots):
        rbd.RBD().remove(pool.pool, "theirs")
    for volume in (disk(made), image(id)):
        store.remove(volume)
    assert pool.names() == {"theirs"}
    rbd.RBD().remove(pool.pool, "theirs")  # nothing holds it


def test_adopting_refuses_what_is_bmis_or_cannot_be_cloned(
    store: RbdStorage, golden: UUID, pool: TestPool
) -> None:
    rbd.RBD().create(pool.pool, "plain", MIB, old_format=False, features=0)
    with pytest.raises(BadRequest, match="BMI's own"):
        store.adopt(new_id(), f"image-{golden}")
    with pytest.raises(ImageInvalid, match="layering"):
        store.adopt(new_id(), "plain")
    with pool.image("plain") as opened:
        assert list(opened.list_snaps()) == []


# --- killed makers ---------------------------------------------------------------------------------------


_FREEZER = """
import sys
from pathlib import Path
from queue import SimpleQueue
from uuid import UUID
import json
from bmi.drivers import Site
from bmi.drivers.storage import Kind, Volume
from bmi.drivers.storage.rbd import RbdStorage
from bmi.ids import new_id
spec = json.loads(sys.argv[1])
store = RbdStorage(spec["options"], Site(Path(spec["state"]), "0badcafe"))
origin, make = UUID(spec["origin"]), getattr(store, spec["verb"])
print("working", flush=True)
while True:
    image = new_id()
    print(image, flush=True)
    make(origin, image)
"""


@pytest.mark.parametrize("verb", ["snapshot", "copy"])
def test_a_snapshot_or_copy_that_was_killed_anywhere_can_be_repeated(
    store: RbdStorage, golden: UUID, pool: TestPool, source: Path, tmp_path: Path, verb: str
) -> None:
    made = new_id()
    store.clone(golden, made)
    origin = made if verb == "snapshot" else golden
    for after in range(3, 7):
        spec = json.dumps(
            {"options": pool.options, "state": str(tmp_path / "state"), "origin": str(origin), "verb": verb}
        )
        with subprocess.Popen(
            [sys.executable, "-c", _FREEZER, spec], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            frozen = [process.stdout.readline().strip() for _ in range(after)][-1]
            process.send_signal(signal.SIGKILL)

        id = UUID(frozen)
        getattr(store, verb)(origin, id)

        with pool.image(f"image-{id}", "bmi", read_only=True) as opened:
            assert opened.read(0, SIZE) == source.read_bytes()
        store.remove(image(id))
