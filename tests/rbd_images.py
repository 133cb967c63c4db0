"""A real Ceph for tests, with images in it, and what a target needs to open them."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rados
import rbd

from bmi.drivers.storage import Backing
from bmi.lab.ceph import Ceph, free_port

USER = "bmi"
_CHUNK = 4 << 20  # bytes
_FEATURES = 61  # layering, exclusive lock, object map, fast diff, deep flatten
_FROZEN = "frozen"  # name of the snapshot that clones are made of

# A target must hear soon that Ceph is away when it opens an image. There is no limit for reads and writes, so that
# they wait until Ceph is back; and writes are acknowledged when Ceph has them: docs/decisions/008.
_OPTIONS = "client_mount_timeout = 5\nrados_mon_op_timeout = 5\nrbd_cache_policy = writethrough\n"


class Images:
    """The images of one cluster."""

    def __init__(self, ceph: Ceph) -> None:
        self.ceph = ceph
        ceph.add_user(USER)
        self.conf = ceph.folder / "target.conf"
        self.conf.write_text(ceph.client_conf(USER).read_text() + _OPTIONS)

    def make(self, size: int) -> Backing:
        """Make an image of zeros."""
        # A name of its own each time: an image cannot be removed until its killed tgtd is forgotten, after 30 s.
        name = secrets.token_hex(8)
        with self.pool() as pool:
            rbd.RBD().create(pool, name, size)
        return self.backing(name)

    def write(self, backing: Backing, content: bytes, offset: int = 0) -> None:
        """Write into an image that nobody has open."""
        with self.pool() as pool, rbd.Image(pool, _name(backing)) as image:
            for start in range(0, len(content), _CHUNK):
                image.write(content[start : start + _CHUNK], offset + start)

    def read(self, backing: Backing, offset: int, length: int) -> bytes:
        """Read from an image, beside whoever has it open."""
        with self.pool() as pool, rbd.Image(pool, _name(backing), read_only=True) as image:
            data: bytes = image.read(offset, length)
            return data

    def watchers(self, backing: Backing) -> list[str]:
        """Return the addresses of those who have an image open."""
        with self.pool() as pool, rbd.Image(pool, _name(backing), read_only=True) as image:
            return [watcher["addr"] for watcher in image.watchers_list()]

    def freeze(self, backing: Backing) -> None:
        """Make an image one that clones can be made of."""
        with self.pool() as pool, rbd.Image(pool, _name(backing)) as image:
            image.create_snap(_FROZEN)

    def clone(self, parent: Backing) -> Backing:
        """Make a clone of a frozen image."""
        name = secrets.token_hex(8)
        with self.pool() as pool:
            rbd.RBD().clone(pool, _name(parent), _FROZEN, pool, name, features=_FEATURES)
        return self.backing(name)

    def backing(self, name: str) -> Backing:
        """Say how a target reaches an image."""
        return Backing("rbd", f"{self.ceph.pool}/{name}", conf=str(self.conf), user=USER)

    @contextmanager
    def pool(self) -> Iterator[Any]:
        """Give the open pool."""
        cluster = rados.Rados(conffile=str(self.conf), rados_id=USER)
        cluster.connect()
        try:
            with cluster.open_ioctx(self.ceph.pool) as pool:
                yield pool
        finally:
            cluster.shutdown()


@contextmanager
def images(folder: Path) -> Iterator[Images]:
    """Bring up a Ceph for as long as it is needed."""
    ceph = Ceph(folder, port=free_port())
    try:
        ceph.up()
        yield Images(ceph)
    finally:
        ceph.down()


def _name(backing: Backing) -> str:
    return backing.path.rpartition("/")[2]
