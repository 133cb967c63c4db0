import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from bmi.drivers import Site
from bmi.drivers.storage import Kind, Volume
from bmi.drivers.storage.local import LocalStorage
from bmi.errors import InUse, SettingsInvalid, StorageError, StorageFull
from bmi.ids import new_id
from bmi.run import run

MIB = 1 << 20
POOL_SIZE = 400 * MIB

Make = Callable[..., LocalStorage]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Make drivers, and dismantle them in the end."""
    made: list[LocalStorage] = []

    def driver(**options: Any) -> LocalStorage:
        made.append(LocalStorage({"pool_size": POOL_SIZE, **options}, Site(tmp_path / "state", "0badcafe")))
        return made[-1]

    try:
        yield driver
    finally:
        for storage in made:
            storage.dismantle()


@pytest.fixture
def store(make: Make) -> LocalStorage:
    storage = make(reserve=0)
    storage.prepare()
    return storage


@pytest.fixture
def golden(store: LocalStorage, tmp_path: Path) -> UUID:
    id = new_id()
    store.import_image(id, raw(tmp_path / "golden.raw", 4 * MIB), ignore)
    return id


def raw(path: Path, size: int) -> Path:
    path.write_bytes(os.urandom(size))
    return path


def ignore(done: int, total: int) -> None:
    """Take no notice of an import's progress."""


def path_of(store: LocalStorage, kind: Kind, id: UUID) -> Path:
    return Path(store.backing(Volume(kind, id)).path)


def fill(path: Path) -> None:
    """Write to a file until nothing goes in any more."""
    with path.open("ab", buffering=0) as file:
        for size in (MIB, 4096, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue


# --- options and places ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"pool_size": "200M"}, {"pool_size": "much"}, {"reserve": -1}, {"folder": "/x"}]
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match=next(iter(options))):
        LocalStorage(options, Site(tmp_path, "0badcafe"))


def test_it_lives_in_the_state_folder_with_names_made_of_ids(
    store: LocalStorage, golden: UUID, tmp_path: Path
) -> None:
    root, disk, seed = tmp_path / "state" / "storage" / "pool", new_id(), new_id()
    store.clone(golden, disk)
    store.write_seed(seed, b"x" * 512)

    assert path_of(store, Kind.IMAGE, golden) == root / "image" / f"{golden}.raw"
    assert path_of(store, Kind.DISK, disk) == root / "disk" / f"{disk}.raw"
    assert path_of(store, Kind.SEED, seed) == root / "seed" / f"{seed}.iso"


def test_only_a_disk_is_writable_and_only_its_owner_sees_anything(store: LocalStorage, golden: UUID) -> None:
    disk, frozen, seed = new_id(), new_id(), new_id()
    store.clone(golden, disk)
    store.snapshot(disk, frozen)
    store.write_seed(seed, b"x" * 512)

    modes = {
        mode_of(path_of(store, kind, id))
        for kind, id in ((Kind.IMAGE, golden), (Kind.IMAGE, frozen), (Kind.SEED, seed))
    }
    assert modes == {0o400}
    assert mode_of(path_of(store, Kind.DISK, disk)) == 0o600
    assert {mode_of(path_of(store, Kind.DISK, disk).parent)} == {0o700}


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_folder_with_reflinks_needs_no_pool(xfs: Path, make: Make, tmp_path: Path) -> None:
    store, id = make(path=xfs / "store", pool_size=0), new_id()
    store.prepare()
    store.import_image(id, raw(tmp_path / "golden.raw", MIB), ignore)

    assert path_of(store, Kind.IMAGE, id) == xfs / "store" / "image" / f"{id}.raw"
    assert not (xfs / "store" / "pool.xfs").exists()


def test_a_pool_can_be_forbidden(small: Path, make: Make) -> None:
    with pytest.raises(StorageError, match=str(small)):
        make(path=small, pool_size=0).prepare()
    assert list(small.iterdir()) == []


def test_a_pool_is_not_larger_than_what_is_free_unless_asked_for(make: Make, tmp_path: Path) -> None:
    store = make(pool_size=None)
    status = os.statvfs(tmp_path)

    store.prepare()

    size = (tmp_path / "state" / "storage" / "pool.xfs").stat().st_size
    assert 300 * MIB <= size <= min(200 * 10**9, status.f_bavail * status.f_frsize)


def test_no_pool_is_made_where_none_fits(small: Path, make: Make) -> None:
    with pytest.raises(StorageFull, match=str(small)):
        make(path=small, pool_size=None).prepare()


def test_files_with_other_names_are_no_volumes(store: LocalStorage, golden: UUID) -> None:
    folder = path_of(store, Kind.IMAGE, golden).parent
    for name in ("notes.txt", f"{new_id()}.iso", str(new_id()), f"{new_id().hex}.raw", ".draft-x"):
        (folder / name).write_bytes(bytes(512))

    assert [info.volume.id for info in store.volumes()] == [golden]


# --- a store that is not there ---------------------------------------------------------------------------


def test_nothing_works_before_it_is_prepared(make: Make) -> None:
    store = make()

    for verb in (
        store.volumes,
        lambda: store.find(Volume(Kind.DISK, new_id())),
        lambda: store.remove(Volume(Kind.DISK, new_id())),
    ):
        with pytest.raises(StorageError, match="prepare"):
            verb()


def test_a_store_that_was_unmounted_is_not_taken_for_an_empty_one(
    store: LocalStorage, golden: UUID, tmp_path: Path
) -> None:
    run(["umount", tmp_path / "state" / "storage" / "pool"])

    for verb in (
        store.volumes,
        lambda: store.find(Volume(Kind.IMAGE, golden)),
        lambda: store.remove(Volume(Kind.IMAGE, golden)),
        lambda: store.clone(golden, new_id()),
    ):
        with pytest.raises(StorageError):
            verb()

    store.prepare()
    assert store.find(Volume(Kind.IMAGE, golden)) is not None


def test_a_store_in_use_is_not_dismantled(store: LocalStorage, golden: UUID) -> None:
    with path_of(store, Kind.IMAGE, golden).open("rb"), pytest.raises(InUse):
        store.dismantle()

    assert store.find(Volume(Kind.IMAGE, golden)) is not None


# --- room ------------------------------------------------------------------------------------------------


def test_the_reserve_is_not_free(make: Make) -> None:
    without = make(reserve=0)
    without.prepare()

    kept = without.capacity().free - make_prepared(make, reserve="100MiB").capacity().free

    assert kept == 100 * MIB


def test_a_small_store_keeps_a_small_reserve(make: Make) -> None:
    without = make(reserve=0)
    without.prepare()

    kept = without.capacity().free - make_prepared(make).capacity().free

    assert 0 < kept <= POOL_SIZE / 20


def make_prepared(make: Make, **options: Any) -> LocalStorage:
    store = make(**options)
    store.prepare()
    return store


def test_a_pool_is_full_when_the_file_system_beneath_is(small: Path, make: Make, tmp_path: Path) -> None:
    store = make(path=small, pool_size="2GiB", reserve=16 * MIB)
    store.prepare()
    status = os.statvfs(small)

    capacity = store.capacity()

    assert capacity.free == status.f_bavail * status.f_frsize - 16 * MIB
    assert capacity.total < 200 * MIB
    with pytest.raises(StorageFull, match=f"{small} has"):
        store.import_image(new_id(), raw(tmp_path / "large.raw", 150 * MIB), ignore)
    assert list(store.volumes()) == []


def test_when_it_fills_up_in_the_middle_of_an_import_nothing_stays(
    store: LocalStorage, golden: UUID, tmp_path: Path
) -> None:
    filler = new_id()
    store.clone(golden, filler, size=8 * MIB)
    source = raw(tmp_path / "large.raw", 64 * MIB)

    with pytest.raises(StorageFull, match=r"state/storage"):
        store.import_image(new_id(), source, lambda done, total: fill(path_of(store, Kind.DISK, filler)))

    assert {info.volume.id for info in store.volumes()} == {golden, filler}
    assert len(list(path_of(store, Kind.IMAGE, golden).parent.iterdir())) == 1


def test_an_import_stops_where_others_leave_no_more_than_the_reserve(make: Make, tmp_path: Path) -> None:
    store, golden, filler = make_prepared(make, reserve=100 * MIB), new_id(), new_id()
    store.import_image(golden, raw(tmp_path / "golden.raw", MIB), ignore)
    store.clone(golden, filler, size=POOL_SIZE)  # XFS reserves more than is written behind a file's end
    path, told = path_of(store, Kind.DISK, filler), list[int]()

    def others_write(done: int, total: int) -> None:
        told.append(done)
        with path.open("r+b") as file:
            while store.capacity().free:
                file.write(os.urandom(4 * MIB))
                os.fsync(file.fileno())

    with pytest.raises(StorageFull, match="reserve"):
        store.import_image(new_id(), raw(tmp_path / "large.raw", 64 * MIB), others_write)

    assert len(told) == 1
    assert {info.volume.id for info in store.volumes()} == {golden, filler}


def test_the_kernels_no_is_understood(
    store: LocalStorage, golden: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the look at what is free, as when others fill the store at the same moment."""
    filler = new_id()
    store.clone(golden, filler)
    monkeypatch.setattr(LocalStorage, "_require_room", lambda *_: None)
    fill(path_of(store, Kind.DISK, filler))

    with pytest.raises(StorageFull, match="No space left on device"):
        store.write_seed(new_id(), bytes(8 * MIB))

    assert {info.volume.id for info in store.volumes()} == {golden, filler}
    assert list((path_of(store, Kind.IMAGE, golden).parents[1] / "seed").iterdir()) == []


def test_a_full_store_starts_and_can_be_cleared(store: LocalStorage, golden: UUID, make: Make) -> None:
    filler = new_id()
    store.clone(golden, filler)
    fill(path_of(store, Kind.DISK, filler))
    store.dismantle()

    again = make()
    again.prepare()

    assert again.capacity().free == 0
    again.remove(Volume(Kind.DISK, filler))
    assert [info.volume.id for info in again.volumes()] == [golden]


# --- copies ----------------------------------------------------------------------------------------------


def test_a_file_of_the_same_file_system_is_taken_in_without_copying(xfs: Path, make: Make) -> None:
    store, id, told = make(path=xfs / "store"), new_id(), list[tuple[int, int]]()
    store.prepare()
    source = raw(xfs / "golden.raw", 64 * MIB)
    with source.open("rb") as file:
        os.fsync(file.fileno())
    free = store.capacity().free

    store.import_image(id, source, lambda done, total: told.append((done, total)))

    assert told == [(64 * MIB, 64 * MIB)]
    assert store.capacity().free > free - MIB
    content = source.read_bytes()
    source.write_bytes(bytes(64 * MIB))
    assert path_of(store, Kind.IMAGE, id).read_bytes() == content


def test_clones_and_snapshots_take_no_room(store: LocalStorage, tmp_path: Path) -> None:
    golden = new_id()
    store.import_image(golden, raw(tmp_path / "golden.raw", 64 * MIB), ignore)
    free = store.capacity().free

    for _ in range(10):
        disk = new_id()
        store.clone(golden, disk)
        store.snapshot(disk, new_id())

    assert store.capacity().free > free - 4 * MIB


_PAIRS = """
import os, sys
file = os.open(sys.argv[1], os.O_RDWR)
print("writing", flush=True)
number = 0
while True:
    number += 1
    for offset in (3 << 20, 0):
        os.pwrite(file, number.to_bytes(8, "big"), offset)
"""


def test_a_snapshot_shows_one_moment_of_a_disk_that_is_written_to(store: LocalStorage, golden: UUID) -> None:
    """The writer writes each number to the far place first: at no moment is the near one ahead of it."""
    disk = new_id()
    store.clone(golden, disk)
    path = path_of(store, Kind.DISK, disk)
    for offset in (0, 3 * MIB):
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(bytes(8))
    writer = subprocess.Popen([sys.executable, "-c", _PAIRS, path], stdout=subprocess.PIPE, text=True)
    with writer:
        try:
            assert writer.stdout is not None
            writer.stdout.readline()
            pairs = [numbers_of(store, disk) for _ in range(100)]
        finally:
            writer.kill()

    assert all(near <= far <= near + 1 for near, far in pairs)
    assert pairs[-1] > pairs[0]


def numbers_of(store: LocalStorage, disk: UUID) -> tuple[int, int]:
    frozen = new_id()
    store.snapshot(disk, frozen)
    with path_of(store, Kind.IMAGE, frozen).open("rb") as file:
        near, far = (os.pread(file.fileno(), 8, offset) for offset in (0, 3 * MIB))
    store.remove(Volume(Kind.IMAGE, frozen))
    return int.from_bytes(near, "big"), int.from_bytes(far, "big")
