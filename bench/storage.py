"""What the storage drivers cost beside what they are made of, on a Ceph of their own. One JSON object a line.

make bench PART=storage

Every measurement of the driver `rbd` stands beside the calls of librbd that it cannot do without, in the same
pool layout, as the same user. Rounds of both take turns, so that other work on the machine hits both alike:
compare the ratios, not the times.
"""

import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from bench.librbd import Librbd
from bench.output import emit, report
from bench.verbs import GIB, Driver, Verbs, write_source
from bmi.drivers import Site, load
from bmi.ids import new_id
from bmi.lab.ceph import Ceph, free_port

USER = "bench"
CROWD = 200  # clones
THREADS = 16
SIZE, CONTENT = 8 * GIB, GIB
LARGE = 80 * GIB

Times = dict[str, float]
"""Seconds by what they were spent on."""
Spent = dict[str, dict[str, list[float]]]
"""Seconds of each round by what they were spent on, and by the store's name."""


@dataclass
class Store:
    """One way to keep images, with the golden image that everything is cloned from."""

    verbs: Verbs
    source: Path
    golden: UUID = field(default_factory=new_id)


def main() -> int:
    """Run all measurements."""
    folder = Path(tempfile.mkdtemp(prefix="bmi-bench-"))
    try:
        with ExitStack() as stack:
            stores = set_up(folder, stack)
            for store in stores:
                store.verbs.import_image(store.golden, store.source)
            rbd = [store for store in stores if store.verbs.on_ceph]
            compare(stores, one_by_one, rounds=15)
            compare(stores, larger_disk, rounds=7)
            compare(stores, while_written_to, rounds=5)
            measure_one_after_another(stores)
            compare(stores, at_once, rounds=5)
            measure_transfer(stores)
            compare(rbd, flatten, rounds=3)
    finally:
        shutil.rmtree(folder)
    return 0


def set_up(folder: Path, stack: ExitStack) -> list[Store]:
    """Bring up a Ceph and open every store; what is first in the list is what others are compared with."""
    source = folder / "source.raw"
    write_source(source, SIZE, CONTENT)
    ceph = Ceph(folder / "ceph", port=free_port())
    stack.callback(ceph.down)
    ceph.up()
    keyring, conf = ceph.add_user(USER), ceph.client_conf(USER)
    bare = Librbd(conf, USER, ceph.pool)
    stack.callback(bare.close)
    options = {"conf": str(conf), "user": USER, "keyring": str(keyring), "pool": ceph.pool}
    driver = Driver("rbd", load("storage", "rbd", options, Site(folder / "rbd", "0badcafe")), on_ceph=True)
    stack.callback(driver.close)
    local = Driver("local", load("storage", "local", {}, Site(folder / "local", "0badcafe")), on_ceph=False)
    stack.callback(local.close)
    return [Store(verbs, source) for verbs in (bare, driver, local)]


def compare(stores: Sequence[Store], measure: Callable[[Store], Times], *, rounds: int) -> Spent:
    """Let stores take turns, print the median for each, and how each on Ceph compares with the first."""
    spent = take_turns(stores, measure, rounds)
    for what, by_store in spent.items():
        for name, values in by_store.items():
            report(f"{what}: {name}", values, "s")
        report_ratios(stores, what, by_store)
    return spent


def take_turns(stores: Sequence[Store], measure: Callable[[Store], Times], rounds: int) -> Spent:
    spent: Spent = defaultdict(lambda: defaultdict(list))
    for turn in range(rounds):
        # Each of those on Ceph is first as often as the other one: the first pays for what is still written.
        on_ceph = [store for store in stores if store.verbs.on_ceph]
        others = [store for store in stores if not store.verbs.on_ceph]
        for store in [*(on_ceph if turn % 2 else reversed(on_ceph)), *others]:
            for what, seconds in measure(store).items():
                spent[what][store.verbs.name].append(seconds)
    return spent


def report_ratios(stores: Sequence[Store], what: str, by_store: dict[str, list[float]]) -> None:
    """Print the median of the rounds' ratios: what disturbs the machine hits neighbours in time alike."""
    first = stores[0].verbs.name
    for store in stores[1:]:
        name = store.verbs.name
        if store.verbs.on_ceph:
            ratios = [mine / its for mine, its in zip(by_store[name], by_store[first], strict=True)]
            emit(f"{what}: {name} to {first}", statistics.median(ratios), "ratio")


def measure_one_after_another(stores: Sequence[Store]) -> None:
    """Print the time for many clones, and for as many removes; stores take turns at each single one."""
    disks: dict[str, list[UUID]] = defaultdict(list)

    def clone(store: Store) -> Times:
        disk = new_id()
        with timed(times := Times(), f"{CROWD} clones one after another"):
            store.verbs.clone(store.golden, disk)
        disks[store.verbs.name].append(disk)
        return times

    def remove(store: Store) -> Times:
        with timed(times := Times(), f"{CROWD} removes one after another"):
            store.verbs.remove_disk(disks[store.verbs.name].pop())
        return times

    for measure in (clone, remove):
        for what, by_store in take_turns(stores, measure, CROWD).items():
            sums = {name: [sum(values)] for name, values in by_store.items()}
            for name, values in sums.items():
                report(f"{what}: {name}", values, "s")
            report_ratios(stores, what, sums)


def one_by_one(store: Store) -> Times:
    """The life of one disk and of the image made of it."""
    verbs, times = store.verbs, Times()
    disk, image, derived = (new_id() for _ in range(3))
    with timed(times, "clone"):
        verbs.clone(store.golden, disk)
    with timed(times, "snapshot"):
        verbs.snapshot(disk, image)
    with timed(times, "image from an image"):
        verbs.copy(image, derived)
    with timed(times, "remove an image"):
        verbs.remove_image(derived)
    with timed(times, "remove an image that an image was made of"):
        verbs.remove_image(image)
    with timed(times, "remove a disk that an image was made of"):
        verbs.remove_disk(disk)
    # Snapshots have costs that a driver can pay when they are made or when they go.
    times["all of these together"] = sum(times.values())
    return times


def larger_disk(store: Store) -> Times:
    """A disk of ten times the image's size."""
    verbs, times = store.verbs, Times()
    disk = new_id()
    with timed(times, "clone with ten times the size"):
        verbs.clone(store.golden, disk, LARGE)
    with timed(times, "remove a disk of ten times the size"):
        verbs.remove_disk(disk)
    return times


def while_written_to(store: Store) -> Times:
    """Snapshot of a disk to which another process writes blocks as fast as it can, each of them flushed."""
    verbs, times = store.verbs, Times()
    disk, image = new_id(), new_id()
    verbs.clone(store.golden, disk)
    with verbs.writer(disk) as writer:
        with timed(times, "snapshot of a disk that is written to"):
            verbs.snapshot(disk, image)
        times["longest write meanwhile"] = writer.longest()
    verbs.remove_image(image)
    verbs.remove_disk(disk)
    return times


def at_once(store: Store) -> Times:
    """Many clones by several threads, and their removes."""
    verbs, times = store.verbs, Times()
    disks = [new_id() for _ in range(CROWD)]
    with ThreadPoolExecutor(THREADS) as pool:
        with timed(times, f"{CROWD} clones by {THREADS} threads"):
            list(pool.map(lambda disk: verbs.clone(store.golden, disk), disks))
        with timed(times, f"{CROWD} removes by {THREADS} threads"):
            list(pool.map(verbs.remove_disk, disks))
    return times


def measure_transfer(stores: Sequence[Store]) -> None:
    for what, by_store in compare(stores, transfer, rounds=3).items():
        for name, values in by_store.items():
            emit(f"{what}: {name}", CONTENT / 1e6 / statistics.median(values), "MB/s")


def transfer(store: Store) -> Times:
    """Images in and out of the store."""
    verbs, times = store.verbs, Times()
    image = new_id()
    destination = store.source.with_name("exported.raw")
    with timed(times, "import of 8 GiB with 1 GiB of content"):
        verbs.import_image(image, store.source)
    with timed(times, "export of the same"):
        verbs.export_image(image, destination)
    destination.unlink()
    verbs.remove_image(image)
    return times


def flatten(store: Store) -> Times:
    """A clone made independent of its image."""
    verbs, times = store.verbs, Times()
    disk = new_id()
    verbs.clone(store.golden, disk)
    with timed(times, "flatten a clone of 1 GiB of content"):
        verbs.flatten(disk)
    verbs.remove_disk(disk)
    return times


@contextmanager
def timed(times: Times, what: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    times[what] = time.monotonic() - begun


if __name__ == "__main__":
    sys.exit(main())
