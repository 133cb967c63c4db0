"""What every storage driver must do. A further driver is one more `Bench` and one more word in `DRIVERS`."""

import json
import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import rbd

from bmi.drivers import Outcome, Site, load
from bmi.drivers.storage import Capacity, Kind, Storage, Volume
from bmi.errors import BadRequest, Cancelled, ImageInvalid, NotFound, StorageError, StorageFull
from bmi.ids import new_id
from bmi.lab.ceph import Ceph
from bmi.wait import wait_until
from tests.ceph_pools import TestPool

MIB = 1 << 20
BLOCK = 4096
SIZE = 40 * MIB
LARGE = 420 * MIB  # more than a bench's store takes
FAR = 24 * MIB  # where the source's second piece of data begins, beyond a hole

DRIVERS = ["local", "memory", "rbd"]


class Writer(ABC):
    """Another process that writes a block with its number, and the next, and never flushes."""

    @abstractmethod
    def write(self) -> int:
        """Let it write one more block and return how many it has written."""


class Bench(ABC):
    """A driver with a small store of its own, and ways to reach volumes as a node would."""

    name: str
    options: dict[str, Any]

    def __init__(self, tmp_path: Path) -> None:
        self.site = Site(tmp_path / "state", "0badcafe")

    def driver(self) -> Storage:
        """Return a new driver object on the same store."""
        made: Storage = load("storage", self.name, self.options, self.site)
        return made

    @abstractmethod
    def read(self, volume: Volume, offset: int, length: int) -> bytes: ...

    @abstractmethod
    def write(self, volume: Volume, offset: int, data: bytes) -> None: ...

    @abstractmethod
    def writer(self, volume: Volume) -> AbstractContextManager[Writer]: ...

    def bury(self, volume: Volume) -> None:  # noqa: B027 - files show it at once
        """Wait until the store knows that a process is dead that was making a volume."""

    @abstractmethod
    def lay_beside(self, name: str, content: bytes) -> None:
        """Put something into the store that is not BMI's."""

    @abstractmethod
    def read_beside(self, name: str) -> bytes: ...

    def close(self) -> None:  # noqa: B027 - files go with the test's folder
        """Remove the store."""

    def spec(self, **more: str) -> str:
        site = {"state": str(self.site.state_dir), "installation": self.site.installation}
        return json.dumps({"name": self.name, "options": self.options, **site, **more})


class FileBench(Bench):
    """Stores whose volumes are files of this host."""

    def _path(self, volume: Volume) -> Path:
        backing = self.driver_in_use.backing(volume)
        assert backing.type == "file"
        return Path(backing.path)

    driver_in_use: Storage

    def driver(self) -> Storage:
        self.driver_in_use = super().driver()
        return self.driver_in_use

    def read(self, volume: Volume, offset: int, length: int) -> bytes:
        with self._path(volume).open("rb") as file:
            return os.pread(file.fileno(), length, offset)

    def write(self, volume: Volume, offset: int, data: bytes) -> None:
        with self._path(volume).open("r+b") as file:
            assert os.pwrite(file.fileno(), data, offset) == len(data)
            os.fsync(file.fileno())

    @contextmanager
    def writer(self, volume: Volume) -> Iterator[Writer]:
        with child(_WRITER, str(self._path(volume)), str(BLOCK)) as process:
            yield ChildWriter(process)

    def lay_beside(self, name: str, content: bytes) -> None:
        (self._adopt / name).write_bytes(content)

    def read_beside(self, name: str) -> bytes:
        return (self._adopt / name).read_bytes()

    @property
    def _adopt(self) -> Path:
        return next(self.site.state_dir.parent.glob("*/**/adopt"))


class ChildWriter(Writer):
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def write(self) -> int:
        return int(ask(self._process, "next"))


class LocalBench(FileBench):
    name = "local"

    def __init__(self, tmp_path: Path) -> None:
        super().__init__(tmp_path)
        self.options = {"path": str(tmp_path / "store"), "pool_size": 400 * MIB, "reserve": 16 * MIB}


class MemoryBench(FileBench):
    name = "memory"
    options = {"capacity": 300 * MIB}


class RbdBench(Bench):
    """A pool of its own, with a quota and a user who may do nothing but use its images."""

    name = "rbd"

    def __init__(self, tmp_path: Path, ceph: Ceph) -> None:
        super().__init__(tmp_path)
        self._pool = TestPool(ceph, quota=300 * MIB)
        self.options = self._pool.options

    def read(self, volume: Volume, offset: int, length: int) -> bytes:
        with self._opened(volume) as image:
            return bytes(image.read(offset, min(length, image.size() - offset)))

    def write(self, volume: Volume, offset: int, data: bytes) -> None:
        with self._opened(volume) as image:
            try:
                image.write(data, offset)
                image.flush()
            except rbd.OSError as error:
                raise OSError(error.errno, str(error)) from error

    @contextmanager
    def writer(self, volume: Volume) -> Iterator[Writer]:
        with child(_RBD_WRITER, *self._pool.arguments, str(volume), str(BLOCK)) as process:
            yield ChildWriter(process)

    def bury(self, volume: Volume) -> None:
        self._pool.bury(str(volume))

    def lay_beside(self, name: str, content: bytes) -> None:
        self._pool.make(name, content)

    def read_beside(self, name: str) -> bytes:
        return self._pool.content(name)

    def close(self) -> None:
        self._pool.remove()

    @contextmanager
    def _opened(self, volume: Volume) -> Iterator[Any]:
        driver = self.driver()
        try:
            name = driver.backing(volume).path.removeprefix(f"{self._pool.name}/")
        finally:
            driver.close()
        with self._pool.image(*name.split("@")) as image:
            yield image


BENCHES = {"local": LocalBench, "memory": MemoryBench}

_RBD_WRITER = """
import sys, rados, rbd
conf, user, keyring, pool, name, block = *sys.argv[1:6], int(sys.argv[6])
cluster = rados.Rados(rados_id=user, conffile=conf, conf={"keyring": keyring})
cluster.connect()
image = rbd.Image(cluster.open_ioctx(pool), name)
for number, _ in enumerate(sys.stdin, start=1):
    image.write(number.to_bytes(8, "big") * (block // 8), (number - 1) * block)
    print(number, flush=True)
"""

_WRITER = """
import os, sys
file, block = os.open(sys.argv[1], os.O_RDWR), int(sys.argv[2])
for number, _ in enumerate(sys.stdin, start=1):
    os.pwrite(file, number.to_bytes(8, "big") * (block // 8), (number - 1) * block)
    print(number, flush=True)
"""

_MAKE_DRIVER = """
import json, sys
from pathlib import Path
from uuid import UUID
from bmi.drivers import Site, load
spec = json.loads(sys.argv[1])
driver = load("storage", spec["name"], spec["options"], Site(Path(spec["state"]), spec["installation"]))
driver.prepare()
"""

_IMPORTER = (
    _MAKE_DRIVER
    + """
def halt(done, total):
    print("halfway", flush=True)
    sys.stdin.read()
driver.import_image(UUID(spec["image"]), Path(spec["source"]), halt)
"""
)

_WORKER = (
    _MAKE_DRIVER
    + """
from bmi.drivers.storage import Kind, Volume
from bmi.ids import new_id
print("working", flush=True)
while True:
    disk, image, seed = new_id(), new_id(), new_id()
    driver.clone(UUID(spec["image"]), disk)
    driver.snapshot(disk, image)
    driver.write_seed(seed, b"a" * 65536)
    driver.write_seed(seed, b"b" * 65536)
    driver.remove(Volume(Kind.DISK, disk))
"""
)

_ROLLER = (
    _MAKE_DRIVER
    + """
disk, images = UUID(spec["disk"]), [UUID(word) for word in spec["images"].split()]
print("working", flush=True)
while True:
    for image in images:
        driver.roll_back(disk, image)
"""
)


@contextmanager
def child(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def listen(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ask(process: subprocess.Popen[str], line: str) -> str:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
    return listen(process)


def ignore(done: int, total: int) -> None:
    """Take no notice of an import's progress."""


def image(id: UUID) -> Volume:
    return Volume(Kind.IMAGE, id)


def disk(id: UUID) -> Volume:
    return Volume(Kind.DISK, id)


def seed(id: UUID) -> Volume:
    return Volume(Kind.SEED, id)


@pytest.fixture(params=DRIVERS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    if request.param == "rbd":
        made: Bench = RbdBench(tmp_path, request.getfixturevalue("ceph"))
    else:
        made = BENCHES[request.param](tmp_path)
    yield made
    made.close()


@pytest.fixture
def store(bench: Bench) -> Iterator[Storage]:
    driver = bench.driver()
    try:
        driver.prepare()
        yield driver
    finally:
        driver.close()
        driver.dismantle()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Raw file with two pieces of data and holes behind both."""
    path = tmp_path / "golden.raw"
    with path.open("wb") as file:
        file.truncate(SIZE)
        for offset in (0, FAR):
            file.seek(offset)
            file.write(os.urandom(4 * MIB))
    return path


@pytest.fixture
def golden(store: Storage, source: Path) -> UUID:
    id = new_id()
    store.import_image(id, source, ignore)
    return id


def fill(bench: Bench, store: Storage, golden: UUID) -> Volume:
    """Write to a disk until the store is full, and return the disk."""
    id = new_id()
    store.clone(golden, id, size=1 << 30)
    room = store.capacity().free
    for offset in range(SIZE, SIZE + LARGE, 4 * MIB):
        if store.capacity().free == 0:
            break
        with suppress(OSError):
            bench.write(disk(id), offset, os.urandom(4 * MIB))
        if offset - SIZE > room:
            until(lambda: store.capacity().free == 0, "the store to notice that it is full")
    return disk(id)


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for what a store notices or does in the background: XFS gives room back, Ceph counts it."""
    wait_until(condition, deadline=30, what=what, next_step="see why not")


def until_free(store: Storage, free: int) -> None:
    until(lambda: store.capacity().free >= free, f"{free} free bytes")


def makes_a_clone(store: Storage, golden: UUID) -> bool:
    try:
        return store.clone(golden, new_id()) is Outcome.DONE
    except StorageFull:
        return False


def room_of(store: Storage) -> Capacity:
    """Return the room, when the store knows it: Ceph does not at once."""

    def known() -> Capacity | None:
        try:
            return store.capacity()
        except StorageError:
            return None

    return wait_until(known, deadline=30, what="the room to be known", next_step="see why it is not")


def until_there_are(store: Storage, volumes: int) -> None:
    wait_until(
        lambda: len(list(store.volumes())) >= volumes,
        deadline=30,
        what=f"{volumes} volumes",
        next_step="see why nobody makes them",
    )


# --- images ----------------------------------------------------------------------------------------------


def test_import_is_exact_to_the_bit(bench: Bench, store: Storage, source: Path) -> None:
    id = new_id()

    info = store.import_image(id, source, ignore)

    assert (info.volume, info.size) == (image(id), SIZE)
    assert bench.read(image(id), 0, SIZE) == source.read_bytes()


def test_holes_stay_holes(store: Storage, source: Path) -> None:
    info = store.import_image(new_id(), source, ignore)

    assert 8 * MIB <= store.usage(info.volume).allocated < 10 * MIB


def test_an_image_of_nothing_but_a_hole(bench: Bench, store: Storage, tmp_path: Path) -> None:
    path, id = tmp_path / "hole.raw", new_id()
    with path.open("wb") as file:
        file.truncate(MIB)

    info = store.import_image(id, path, ignore)

    assert info.size == MIB
    assert store.usage(info.volume).allocated < MIB // 2
    assert bench.read(image(id), 0, MIB) == bytes(MIB)


def test_import_tells_its_progress(store: Storage, source: Path) -> None:
    told: list[tuple[int, int]] = []

    store.import_image(new_id(), source, lambda done, total: told.append((done, total)))

    assert told == sorted(told)
    assert told[-1] == (SIZE, SIZE)
    assert {total for _, total in told} == {SIZE}


def test_importing_again_leaves_the_image_alone(bench: Bench, store: Storage, source: Path) -> None:
    id = new_id()
    first = store.import_image(id, source, ignore)
    before = bench.read(image(id), 0, SIZE)
    source.unlink()

    assert store.import_image(id, source, ignore) == first
    assert bench.read(image(id), 0, SIZE) == before


@pytest.mark.parametrize("size", [0, 511, MIB + 1])
def test_a_file_with_the_size_of_no_disk_is_refused(store: Storage, tmp_path: Path, size: int) -> None:
    path = tmp_path / "odd.raw"
    path.write_bytes(bytes(size))

    with pytest.raises(ImageInvalid, match=str(path)):
        store.import_image(new_id(), path, ignore)
    assert list(store.volumes()) == []


def test_a_source_that_is_missing_or_no_plain_file_is_refused(store: Storage, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    for name in ("missing", "fifo", "."):
        with pytest.raises(ImageInvalid):
            store.import_image(new_id(), tmp_path / name, ignore)
    assert list(store.volumes()) == []


def test_an_import_that_is_called_off_leaves_nothing(store: Storage, source: Path) -> None:
    def call_off(done: int, total: int) -> None:
        raise Cancelled("somebody asked for it", next_step="nothing")

    free = room_of(store).free
    with pytest.raises(Cancelled):
        store.import_image(new_id(), source, call_off)

    assert list(store.volumes()) == []
    until_free(store, free - MIB)


# --- clones ----------------------------------------------------------------------------------------------


def test_a_clone_starts_as_the_image(bench: Bench, store: Storage, source: Path, golden: UUID) -> None:
    id = new_id()

    assert store.clone(golden, id) is Outcome.DONE

    assert bench.read(disk(id), 0, SIZE) == source.read_bytes()


def test_writes_to_a_clone_reach_neither_image_nor_other_clones(
    bench: Bench, store: Storage, source: Path, golden: UUID
) -> None:
    one, other = new_id(), new_id()
    store.clone(golden, one)
    store.clone(golden, other)

    bench.write(disk(one), 2 * MIB, b"x" * MIB)

    original = source.read_bytes()
    assert bench.read(disk(one), 0, SIZE) == original[: 2 * MIB] + b"x" * MIB + original[3 * MIB :]
    assert bench.read(image(golden), 0, SIZE) == original
    assert bench.read(disk(other), 0, SIZE) == original


def test_a_clone_can_be_larger(bench: Bench, store: Storage, source: Path, golden: UUID) -> None:
    id = new_id()

    store.clone(golden, id, size=2 * SIZE)

    info = store.find(disk(id))
    assert info is not None
    assert info.size == 2 * SIZE
    assert bench.read(disk(id), 0, 2 * SIZE) == source.read_bytes() + bytes(SIZE)
    bench.write(disk(id), 2 * SIZE - 4, b"last")
    assert bench.read(disk(id), 2 * SIZE - 4, 4) == b"last"


@pytest.mark.parametrize("size", [0, SIZE - 512, SIZE + 1])
def test_a_clone_of_a_size_that_cannot_be_is_refused(store: Storage, golden: UUID, size: int) -> None:
    with pytest.raises(BadRequest, match=str(SIZE)):
        store.clone(golden, new_id(), size=size)
    assert [info.volume for info in store.volumes()] == [image(golden)]


def test_cloning_again_leaves_the_disk_alone(bench: Bench, store: Storage, golden: UUID) -> None:
    id = new_id()
    store.clone(golden, id)
    bench.write(disk(id), 0, b"mine")

    assert store.clone(golden, id) is Outcome.ALREADY
    assert bench.read(disk(id), 0, 4) == b"mine"


def test_cloning_again_works_without_the_image(store: Storage, golden: UUID) -> None:
    id = new_id()
    store.clone(golden, id)
    store.remove(image(golden))

    assert store.clone(golden, id) is Outcome.ALREADY


def test_of_many_who_make_one_disk_at_once_one_does(store: Storage, golden: UUID) -> None:
    id = new_id()
    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(lambda _: store.clone(golden, id), range(24)))

    assert outcomes.count(Outcome.DONE) == 1
    assert outcomes.count(Outcome.ALREADY) == 23


# --- snapshots -------------------------------------------------------------------------------------------


def test_a_snapshot_is_the_disk_of_its_moment(bench: Bench, store: Storage, golden: UUID) -> None:
    id, frozen, again = new_id(), new_id(), new_id()
    store.clone(golden, id, size=2 * SIZE)
    bench.write(disk(id), SIZE, b"before")
    content = bench.read(disk(id), 0, 2 * SIZE)

    assert store.snapshot(id, frozen) is Outcome.DONE

    bench.write(disk(id), SIZE, b"after!")
    assert bench.read(image(frozen), 0, 2 * SIZE) == content
    store.clone(frozen, again)
    assert bench.read(disk(again), 0, 2 * SIZE) == content


def test_a_snapshot_of_a_disk_in_use_has_what_was_written_before(
    bench: Bench, store: Storage, golden: UUID
) -> None:
    id, frozen = new_id(), new_id()
    store.clone(golden, id)
    with bench.writer(disk(id)) as writer:
        written = max(writer.write() for _ in range(200))

        store.snapshot(id, frozen)

        content = bench.read(image(frozen), 0, SIZE)
        assert [number_at(content, index) for index in range(written)] == list(range(1, written + 1))
        for _ in range(200):
            writer.write()
        assert bench.read(image(frozen), 0, SIZE) == content
        assert number_at(bench.read(disk(id), 0, SIZE), written) == written + 1


def number_at(content: bytes, index: int) -> int:
    return int.from_bytes(content[index * BLOCK : index * BLOCK + 8], "big")


def test_a_snapshot_of_a_moment_ago_is_not_taken_again(bench: Bench, store: Storage, golden: UUID) -> None:
    id, frozen = new_id(), new_id()
    store.clone(golden, id)
    store.snapshot(id, frozen)
    content = bench.read(image(frozen), 0, SIZE)
    bench.write(disk(id), 0, b"later")

    assert store.snapshot(id, frozen) is Outcome.ALREADY
    assert bench.read(image(frozen), 0, SIZE) == content


# --- copies ----------------------------------------------------------------------------------------------


def test_a_copy_is_the_same_and_needs_its_source_no_more(
    bench: Bench, store: Storage, source: Path, golden: UUID
) -> None:
    twin, made = new_id(), new_id()

    assert store.copy(golden, twin) is Outcome.DONE
    assert store.copy(golden, twin) is Outcome.ALREADY

    if bench.name != "memory":
        assert store.usage(image(twin)).own < MIB  # nothing was copied
    assert store.depth(image(twin)) in (0, store.depth(image(golden)) + 1)
    assert {info.volume: info.size for info in store.volumes()} == {image(golden): SIZE, image(twin): SIZE}
    assert store.remove(image(golden)) is Outcome.DONE
    assert store.copy(golden, twin) is Outcome.ALREADY
    assert bench.read(image(twin), 0, SIZE) == source.read_bytes()
    store.clone(twin, made)
    bench.write(disk(made), 0, b"mine")
    store.flatten(image(twin), ignore)
    assert bench.read(image(twin), 0, SIZE) == source.read_bytes()


def test_a_source_outlives_its_copies(bench: Bench, store: Storage, source: Path, golden: UUID) -> None:
    first, second = new_id(), new_id()
    store.copy(golden, first)
    store.copy(first, second)

    store.remove(image(first))
    store.remove(image(second))

    assert [info.volume for info in store.volumes()] == [image(golden)]
    assert bench.read(image(golden), 0, SIZE) == source.read_bytes()
    store.copy(golden, first)
    assert bench.read(image(first), 0, SIZE) == source.read_bytes()


# --- seeds -----------------------------------------------------------------------------------------------


def test_a_seed_is_replaced_as_a_whole(bench: Bench, store: Storage) -> None:
    id = new_id()

    assert store.write_seed(id, b"a" * 4096) is Outcome.DONE
    assert store.write_seed(id, b"a" * 4096) is Outcome.ALREADY
    assert store.write_seed(id, b"b" * 2048) is Outcome.DONE

    info = store.find(seed(id))
    assert info is not None
    assert info.size == 2048
    assert bench.read(seed(id), 0, 4096) == b"b" * 2048
    assert [info.volume for info in store.volumes()] == [seed(id)]


def test_a_seed_has_whole_sectors(bench: Bench, store: Storage) -> None:
    id = new_id()

    store.write_seed(id, b"#cloud-config")

    assert bench.read(seed(id), 0, 4096) == b"#cloud-config" + bytes(512 - 13)
    assert store.write_seed(id, b"#cloud-config") is Outcome.ALREADY


def test_a_seed_of_nothing_is_refused(store: Storage) -> None:
    with pytest.raises(BadRequest):
        store.write_seed(new_id(), b"")


# --- what is there ---------------------------------------------------------------------------------------


def test_everything_that_exists_is_listed_and_found(store: Storage, golden: UUID) -> None:
    made, frozen, small = new_id(), new_id(), new_id()
    store.clone(golden, made, size=2 * SIZE)
    store.snapshot(made, frozen)
    store.write_seed(small, b"x" * 1024)

    sizes = {info.volume: info.size for info in store.volumes()}

    assert sizes == {image(golden): SIZE, disk(made): 2 * SIZE, image(frozen): 2 * SIZE, seed(small): 1024}
    assert {volume: store.find(volume) for volume in sizes} == {info.volume: info for info in store.volumes()}


def test_kinds_do_not_mix(store: Storage, golden: UUID) -> None:
    assert store.find(disk(golden)) is None
    assert store.remove(disk(golden)) is Outcome.ALREADY
    assert store.find(image(golden)) is not None


def test_what_is_missing_is_said_to_be(store: Storage) -> None:
    id = new_id()

    for verb in (
        lambda: store.clone(id, new_id()),
        lambda: store.snapshot(id, new_id()),
        lambda: store.copy(id, new_id()),
        lambda: store.backing(disk(id)),
    ):
        with pytest.raises(NotFound, match=str(id)):
            verb()
    assert store.find(image(id)) is None
    assert list(store.volumes()) == []


@pytest.mark.parametrize("kind", Kind)
def test_removing_twice(store: Storage, golden: UUID, kind: Kind) -> None:
    id = new_id()
    make: dict[Kind, Callable[[], object]] = {
        Kind.IMAGE: lambda: store.snapshot(golden_disk, id),
        Kind.DISK: lambda: store.clone(golden, id),
        Kind.SEED: lambda: store.write_seed(id, b"x" * 512),
    }
    golden_disk = new_id()
    store.clone(golden, golden_disk)
    make[kind]()

    assert store.remove(Volume(kind, id)) is Outcome.DONE
    assert store.find(Volume(kind, id)) is None
    assert store.remove(Volume(kind, id)) is Outcome.ALREADY
    assert {info.volume for info in store.volumes()} == {image(golden), disk(golden_disk)}


def test_clones_outlive_their_image(bench: Bench, store: Storage, source: Path, golden: UUID) -> None:
    id = new_id()
    store.clone(golden, id)

    assert store.remove(image(golden)) is Outcome.DONE

    assert store.find(image(golden)) is None
    assert bench.read(disk(id), 0, SIZE) == source.read_bytes()
    bench.write(disk(id), 0, b"still writable")
    assert bench.read(disk(id), 0, 14) == b"still writable"


# --- room ------------------------------------------------------------------------------------------------


def test_room_is_taken_and_given_back(store: Storage, source: Path) -> None:
    before, id = room_of(store), new_id()
    assert 0 < before.free <= before.total

    store.import_image(id, source, ignore)
    until(lambda: store.capacity().free <= before.free - 8 * MIB, "the room to be taken")
    assert store.capacity().total == pytest.approx(before.total, rel=0.01)

    store.remove(image(id))
    until_free(store, before.free - MIB)


def test_a_full_store_refuses_and_keeps_nothing(
    bench: Bench, store: Storage, golden: UUID, source: Path
) -> None:
    room_of(store)
    filler = fill(bench, store, golden)
    before = {info.volume for info in store.volumes()}

    for verb in (
        lambda: store.import_image(new_id(), source, ignore),
        lambda: store.clone(golden, new_id()),
        lambda: store.snapshot(filler.id, new_id()),
        lambda: store.copy(golden, new_id()),
        lambda: store.write_seed(new_id(), b"x" * 512),
    ):
        with pytest.raises(StorageFull, match="free") as caught:
            verb()
        assert caught.value.next_step
    assert {info.volume for info in store.volumes()} == before

    store.remove(filler)
    until_free(store, 32 * MIB)
    until(lambda: makes_a_clone(store, golden), "the store to take something again")


def test_an_import_that_does_not_fit_is_refused_before_it_begins(store: Storage, tmp_path: Path) -> None:
    path, told = tmp_path / "large.raw", list[int]()
    room_of(store)
    with path.open("wb") as file:
        for _ in range(0, LARGE, 4 * MIB):
            file.write(bytes(4 * MIB))

    with pytest.raises(StorageFull, match=str(LARGE)):
        store.import_image(new_id(), path, lambda done, total: told.append(done))
    assert told == []


# --- restarts and crashes --------------------------------------------------------------------------------


def test_a_restart_finds_everything(bench: Bench, store: Storage, golden: UUID, source: Path) -> None:
    made = new_id()
    store.clone(golden, made)
    before = set(store.volumes())
    store.close()

    again = bench.driver()
    again.prepare()

    assert set(again.volumes()) == before
    assert bench.read(disk(made), 0, SIZE) == source.read_bytes()


def test_a_reboot_keeps_everything(bench: Bench, store: Storage, golden: UUID, source: Path) -> None:
    before = set(store.volumes())
    store.dismantle()
    store.dismantle()

    again = bench.driver()
    again.prepare()
    again.prepare()

    assert set(again.volumes()) == before
    assert bench.read(image(golden), 0, SIZE) == source.read_bytes()


def test_an_import_that_was_killed_leaves_nothing_and_can_be_repeated(
    bench: Bench, store: Storage, source: Path
) -> None:
    id, free = new_id(), room_of(store).free
    with child(_IMPORTER, bench.spec(image=str(id), source=str(source))) as importer:
        assert listen(importer) == "halfway"
        again = bench.driver()
        again.prepare()  # another process that starts meanwhile takes nothing away
        importer.kill()
        importer.wait()

    assert store.find(image(id)) is None
    assert list(store.volumes()) == []
    bench.bury(image(id))
    again.prepare()
    until_free(store, free - MIB)
    store.import_image(id, source, ignore)
    assert bench.read(image(id), 0, SIZE) == source.read_bytes()


def test_an_import_goes_on_while_another_process_starts(bench: Bench, store: Storage, source: Path) -> None:
    id = new_id()
    with child(_IMPORTER, bench.spec(image=str(id), source=str(source))) as importer:
        assert listen(importer) == "halfway"
        bench.driver().prepare()
        importer.communicate(timeout=60)
        assert importer.returncode == 0

    assert bench.read(image(id), 0, SIZE) == source.read_bytes()


def test_a_worker_that_was_killed_leaves_only_whole_volumes(
    bench: Bench, store: Storage, golden: UUID, source: Path
) -> None:
    original = source.read_bytes()
    for round in range(3):
        with child(_WORKER, bench.spec(image=str(golden))) as worker:
            assert listen(worker) == "working"
            until_there_are(store, 4 * (round + 1))
            worker.kill()
            worker.wait()

        again = bench.driver()
        again.prepare()
        for info in again.volumes():
            content = bench.read(info.volume, 0, SIZE)
            if info.volume.kind is Kind.SEED:
                assert content in (b"a" * 65536, b"b" * 65536)
            else:
                assert content == original
            if info.volume.kind is Kind.DISK:
                assert again.clone(golden, info.volume.id) is Outcome.ALREADY


# --- rolling back and growing ----------------------------------------------------------------------------


def test_a_disk_that_is_rolled_back_is_the_image_again(
    bench: Bench, store: Storage, source: Path, golden: UUID
) -> None:
    id, frozen = new_id(), new_id()
    store.clone(golden, id)
    bench.write(disk(id), 0, b"kept")
    store.snapshot(id, frozen)
    bench.write(disk(id), 0, b"x" * MIB)

    assert store.roll_back(id, frozen) is Outcome.DONE

    assert bench.read(disk(id), 0, SIZE) == b"kept" + source.read_bytes()[4:]
    bench.write(disk(id), 0, b"more")
    assert bench.read(image(frozen), 0, 4) == b"kept"
    store.roll_back(id, golden)
    store.roll_back(id, golden)
    assert bench.read(disk(id), 0, SIZE) == source.read_bytes()
    assert {info.volume for info in store.volumes()} == {image(golden), image(frozen), disk(id)}


def test_a_disk_that_is_rolled_back_keeps_its_size_and_nothing_behind_the_image(
    bench: Bench, store: Storage, source: Path, golden: UUID
) -> None:
    id = new_id()
    store.clone(golden, id, size=2 * SIZE)
    bench.write(disk(id), SIZE, b"x" * MIB)

    store.roll_back(id, golden)

    assert store.find(disk(id)).size == 2 * SIZE  # type: ignore[union-attr]
    assert bench.read(disk(id), 0, 2 * SIZE) == source.read_bytes() + bytes(SIZE)


def test_a_disk_becomes_as_large_as_what_it_is_rolled_back_to(
    bench: Bench, store: Storage, golden: UUID
) -> None:
    id, large, frozen = new_id(), new_id(), new_id()
    store.clone(golden, id)
    store.clone(golden, large, size=2 * SIZE)
    bench.write(disk(large), 2 * SIZE - 4, b"last")
    store.snapshot(large, frozen)

    store.roll_back(id, frozen)

    assert bench.read(disk(id), 2 * SIZE - 4, 4) == b"last"


def test_what_was_made_of_a_disk_stays_when_it_is_rolled_back(
    bench: Bench, store: Storage, source: Path, golden: UUID
) -> None:
    id, frozen, again = new_id(), new_id(), new_id()
    store.clone(golden, id)
    bench.write(disk(id), 0, b"mine")
    store.snapshot(id, frozen)
    store.clone(frozen, again)

    store.roll_back(id, golden)
    store.remove(image(frozen))
    store.remove(disk(id))

    assert bench.read(disk(again), 0, SIZE) == b"mine" + source.read_bytes()[4:]


def test_who_has_a_disk_open_does_not_reach_it_any_more_when_it_was_rolled_back(
    bench: Bench, store: Storage, source: Path, golden: UUID
) -> None:
    id = new_id()
    store.clone(golden, id)
    with bench.writer(disk(id)) as writer:
        writer.write()
        store.roll_back(id, golden)
        with suppress(ValueError):  # it may have ended with an error instead of a number
            writer.write()

        assert bench.read(disk(id), 0, SIZE) == source.read_bytes()


def test_rolling_back_in_vain_changes_nothing(bench: Bench, store: Storage, golden: UUID) -> None:
    id, missing = new_id(), new_id()
    store.clone(golden, id)
    bench.write(disk(id), 0, b"mine")

    with pytest.raises(NotFound, match=str(missing)):
        store.roll_back(id, missing)
    with pytest.raises(NotFound, match=str(missing)):
        store.roll_back(missing, golden)

    assert bench.read(disk(id), 0, 4) == b"mine"
    assert {info.volume for info in store.volumes()} == {image(golden), disk(id)}


def test_whoever_dies_while_he_rolls_back_leaves_one_content_or_the_other(
    bench: Bench, store: Storage, golden: UUID, source: Path
) -> None:
    id, other, frozen = new_id(), new_id(), new_id()
    store.clone(golden, other)
    bench.write(disk(other), 0, b"theirs")
    store.snapshot(other, frozen)
    store.remove(disk(other))
    store.clone(golden, id)
    contents = [source.read_bytes(), b"theirs" + source.read_bytes()[6:]]
    for pause in (0.0, 0.013, 0.029, 0.041, 0.07):
        with child(_ROLLER, bench.spec(disk=str(id), images=f"{golden} {frozen}")) as roller:
            assert listen(roller) == "working"
            time.sleep(0.2 + pause)
            roller.kill()
            roller.wait()

        info = store.find(disk(id))
        assert info is not None
        assert info.size == SIZE
        assert bench.read(disk(id), 0, SIZE) in contents
        again = bench.driver()
        again.prepare()
        assert {each.volume for each in again.volumes()} == {image(golden), image(frozen), disk(id)}
        again.roll_back(id, golden)
        assert bench.read(disk(id), 0, SIZE) == contents[0]


def test_a_disk_grows_and_never_shrinks(bench: Bench, store: Storage, source: Path, golden: UUID) -> None:
    id = new_id()
    store.clone(golden, id)

    assert store.grow(id, 2 * SIZE) is Outcome.DONE
    assert store.grow(id, 2 * SIZE) is Outcome.ALREADY

    assert store.find(disk(id)).size == 2 * SIZE  # type: ignore[union-attr]
    assert bench.read(disk(id), 0, 2 * SIZE) == source.read_bytes() + bytes(SIZE)
    bench.write(disk(id), 2 * SIZE - 4, b"last")
    for size in (SIZE, 2 * SIZE - 512, 2 * SIZE + 1):
        with pytest.raises(BadRequest, match=str(size)):
            store.grow(id, size)
    with pytest.raises(NotFound):
        store.grow(golden, 2 * SIZE)
    assert bench.read(disk(id), 2 * SIZE - 4, 4) == b"last"


def test_a_disk_grows_while_somebody_writes_to_it(bench: Bench, store: Storage, golden: UUID) -> None:
    id = new_id()
    store.clone(golden, id)
    with bench.writer(disk(id)) as writer:
        writer.write()
        store.grow(id, 2 * SIZE)
        written = writer.write()
    bench.bury(disk(id))
    assert number_at(bench.read(disk(id), 0, SIZE), written - 1) == written
    assert store.find(disk(id)).size == 2 * SIZE  # type: ignore[union-attr]


# --- lineage, usage, export, adoption, fencing -----------------------------------------------------------


def test_a_flattened_disk_needs_nothing_and_is_the_same(
    bench: Bench, store: Storage, source: Path, golden: UUID
) -> None:
    id, told = new_id(), list[tuple[int, int]]()
    store.clone(golden, id)
    bench.write(disk(id), 0, b"mine")

    store.flatten(disk(id), lambda done, total: told.append((done, total)))

    assert told[-1] == (SIZE, SIZE)
    assert store.depth(disk(id)) == 0
    assert bench.read(disk(id), 0, SIZE) == b"mine" + source.read_bytes()[4:]
    assert store.flatten(disk(id), ignore) is Outcome.ALREADY


def test_a_flattened_image_needs_nothing_and_its_clones_stay_whole(
    bench: Bench, store: Storage, source: Path, golden: UUID
) -> None:
    made, frozen, again = new_id(), new_id(), new_id()
    store.clone(golden, made)
    store.snapshot(made, frozen)
    store.clone(frozen, again)
    before = store.depth(disk(again))

    store.flatten(image(frozen), ignore)

    assert store.depth(image(frozen)) == 0
    assert store.depth(disk(again)) <= before
    store.remove(disk(made))
    store.remove(image(golden))
    for volume in (image(frozen), disk(again)):
        assert bench.read(volume, 0, SIZE) == source.read_bytes()
    store.clone(frozen, new_id())


def test_flattening_that_is_called_off_does_no_harm(
    bench: Bench, store: Storage, source: Path, golden: UUID
) -> None:
    def call_off(done: int, total: int) -> None:
        raise Cancelled("somebody asked for it", next_step="nothing")

    id = new_id()
    store.clone(golden, id)
    with pytest.raises(Cancelled):
        store.flatten(disk(id), call_off)

    assert bench.read(disk(id), 0, SIZE) == source.read_bytes()
    store.flatten(disk(id), ignore)
    assert store.depth(disk(id)) == 0


def test_depth_grows_with_every_generation_or_not_at_all(store: Storage, golden: UUID) -> None:
    made, frozen = new_id(), new_id()
    store.clone(golden, made)
    store.snapshot(made, frozen)

    depths = [store.depth(volume) for volume in (image(golden), disk(made), image(frozen))]

    assert depths in ([0, 0, 0], [0, 1, 2])


def test_usage_counts_what_is_shared_apart(bench: Bench, store: Storage, golden: UUID) -> None:
    id = new_id()
    store.clone(golden, id)
    fresh = store.usage(disk(id))
    assert 8 * MIB <= fresh.allocated < 10 * MIB

    bench.write(disk(id), 12 * MIB, os.urandom(4 * MIB))

    written = store.usage(disk(id))
    assert fresh.own + 4 * MIB <= written.own < fresh.own + 5 * MIB
    assert written.shared == fresh.shared


def test_an_export_is_exact_and_sparse(store: Storage, source: Path, golden: UUID, tmp_path: Path) -> None:
    path, told = tmp_path / "out.raw", list[tuple[int, int]]()
    path.write_bytes(b"what was there before")

    store.export_image(golden, path, lambda done, total: told.append((done, total)))

    assert path.read_bytes() == source.read_bytes()
    assert path.stat().st_blocks * 512 < 10 * MIB
    assert told == sorted(told)
    assert told[-1] == (SIZE, SIZE)


def test_an_export_that_is_called_off_leaves_nothing(store: Storage, golden: UUID, tmp_path: Path) -> None:
    def call_off(done: int, total: int) -> None:
        raise Cancelled("somebody asked for it", next_step="nothing")

    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(Cancelled):
        store.export_image(golden, folder / "out.raw", call_off)
    assert list(folder.iterdir()) == []


def test_what_is_adopted_stays_its_owners(bench: Bench, store: Storage) -> None:
    id, made, content = new_id(), new_id(), os.urandom(MIB)
    bench.lay_beside("theirs", content)

    info = store.adopt(id, "theirs")

    assert (info.volume, info.size) == (image(id), MIB)
    assert store.adopt(id, "theirs") == info
    store.clone(id, made)
    bench.write(disk(made), 0, b"mine")
    assert bench.read(image(id), 0, MIB) == content
    store.remove(image(id))
    store.remove(disk(made))
    assert bench.read_beside("theirs") == content


def test_what_cannot_be_adopted_is_refused(bench: Bench, store: Storage, golden: UUID) -> None:
    bench.lay_beside("odd", bytes(513))

    for name, error in (("missing", NotFound), ("odd", ImageInvalid)):
        with pytest.raises(error, match=name):
            store.adopt(new_id(), name)
    with pytest.raises((BadRequest, NotFound), match=str(golden)):
        store.adopt(new_id(), str(image(golden)))
    assert [info.volume for info in store.volumes()] == [image(golden)]


def test_a_store_that_is_well_is_not_broken(store: Storage) -> None:
    assert [complaint for complaint in store.complaints() if complaint.broken] == []


def test_nobody_is_fenced_where_nobody_is(store: Storage, golden: UUID) -> None:
    id = new_id()
    store.clone(golden, id)

    assert store.fence(disk(id)) == ()


def test_of_what_is_missing_nothing_can_be_said(store: Storage, tmp_path: Path) -> None:
    id = new_id()

    for verb in (
        lambda: store.flatten(disk(id), ignore),
        lambda: store.depth(disk(id)),
        lambda: store.usage(disk(id)),
        lambda: store.export_image(id, tmp_path / "out.raw", ignore),
        lambda: store.fence(disk(id)),
    ):
        with pytest.raises(NotFound, match=str(id)):
            verb()
