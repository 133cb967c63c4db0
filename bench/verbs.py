"""What the storage benchmark does to a store, whatever the store is."""

import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol
from uuid import UUID

from bmi.drivers.storage import Kind, Storage, Volume

MIB, GIB = 1 << 20, 1 << 30
_PIECE = 4 * MIB  # bytes of content that lie together


class Writer:
    """Another process that writes to a disk until it is asked how long its writes took."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def longest(self) -> float:
        """End it, and return the seconds that its longest write took."""
        said, _ = self._process.communicate(timeout=30)
        return float(said)


class Verbs(Protocol):
    """A store's verbs."""

    name: str
    on_ceph: bool

    def import_image(self, image: UUID, source: Path) -> None: ...

    def export_image(self, image: UUID, destination: Path) -> None: ...

    def clone(self, image: UUID, disk: UUID, size: int | None = None) -> None: ...

    def snapshot(self, disk: UUID, image: UUID) -> None: ...

    def copy(self, image: UUID, new_image: UUID) -> None: ...

    def flatten(self, disk: UUID) -> None: ...

    def remove_disk(self, disk: UUID) -> None: ...

    def remove_image(self, image: UUID) -> None: ...

    def writer(self, disk: UUID) -> AbstractContextManager[Writer]: ...

    def close(self) -> None: ...


class Driver:
    """The verbs of a storage driver of BMI."""

    def __init__(self, name: str, storage: Storage, *, on_ceph: bool) -> None:
        self.name = f"driver {name}"
        self.on_ceph = on_ceph
        self._storage = storage
        storage.prepare()

    def import_image(self, image: UUID, source: Path) -> None:
        self._storage.import_image(image, source, _ignore)

    def export_image(self, image: UUID, destination: Path) -> None:
        self._storage.export_image(image, destination, _ignore)

    def clone(self, image: UUID, disk: UUID, size: int | None = None) -> None:
        self._storage.clone(image, disk, size)

    def snapshot(self, disk: UUID, image: UUID) -> None:
        self._storage.snapshot(disk, image)

    def copy(self, image: UUID, new_image: UUID) -> None:
        self._storage.copy(image, new_image)

    def flatten(self, disk: UUID) -> None:
        self._storage.flatten(Volume(Kind.DISK, disk), _ignore)

    def remove_disk(self, disk: UUID) -> None:
        self._storage.remove(Volume(Kind.DISK, disk))

    def remove_image(self, image: UUID) -> None:
        self._storage.remove(Volume(Kind.IMAGE, image))

    def writer(self, disk: UUID) -> AbstractContextManager[Writer]:
        backing = self._storage.backing(Volume(Kind.DISK, disk))
        if backing.type == "file":
            return file_writer(backing.path)
        return rbd_writer(backing.conf, backing.user, backing.path)

    def close(self) -> None:
        self._storage.close()
        self._storage.dismantle()


def write_source(path: Path, size: int, content: int) -> None:
    """Write a sparse raw file: pieces of random content, spread evenly from its beginning to its end."""
    chance = random.Random(1)  # noqa: S311  # content that does not compress
    pieces = content // _PIECE
    with path.open("wb") as out:
        out.truncate(size)
        for number in range(pieces):
            out.seek(size // pieces * number)
            out.write(chance.randbytes(_PIECE))


def rbd_writer(conf: str | Path, user: str, path: str) -> AbstractContextManager[Writer]:
    """Write to an image of Ceph, named `pool/image`, through librbd."""
    return _writing([_OPEN_RBD, str(conf), user, *path.split("/")])


def file_writer(path: str) -> AbstractContextManager[Writer]:
    """Write to a file."""
    return _writing([_OPEN_FILE, path])


@contextmanager
def _writing(words: Sequence[str]) -> Iterator[Writer]:
    code, *arguments = words
    with subprocess.Popen(
        [sys.executable, "-c", code + _WRITE, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "writing\n"
            yield Writer(process)
        finally:
            process.kill()


def _ignore(done: int, total: int) -> None:
    pass


_OPEN_RBD = """
import sys, rados, rbd
conf, user, pool, name = sys.argv[1:]
cluster = rados.Rados(rados_id=user, conffile=conf)
cluster.connect()
image = rbd.Image(cluster.open_ioctx(pool), name)
def write(block, offset):
    image.write(block, offset)
    image.flush()
def close():
    image.close()
"""

_OPEN_FILE = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
def write(block, offset):
    os.pwrite(fd, block, offset)
    os.fdatasync(fd)
def close():
    os.close(fd)
"""

_WRITE = """
import random, select, sys, time
chance, block, longest, count = random.Random(1), bytes(4096), 0.0, 0
while not select.select([sys.stdin], [], [], 0)[0]:
    offset = chance.randrange(64 << 20) // 4096 * 4096
    begun = time.monotonic()
    write(block, offset)
    count += 1
    if count == 200:
        print("writing", flush=True)
    if count > 200:  # the first ones copy the image's objects
        longest = max(longest, time.monotonic() - begun)
close()
print(longest)
"""
