"""Pools of a test's own, on one small Ceph for the whole session."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import rados
import rbd

from bmi.lab.ceph import Ceph, free_port
from bmi.wait import wait_until

WATCH_TIMEOUT = 10  # seconds until a client's death is known; 30 by default. Living ones report every 5 s


@contextmanager
def small_ceph(folder: Path, **shape: Any) -> Iterator[Ceph]:
    """Give a cluster, and take it down in the end."""
    cluster = Ceph(folder, port=free_port(), **shape)
    try:
        cluster.up()
        cluster.command("config set", who="osd", name="osd_client_watch_timeout", value=str(WATCH_TIMEOUT))
        yield cluster
    finally:
        cluster.down()


class TestPool:
    """A pool with a user who may do nothing but use its images, and ways around BMI to what is in it."""

    __test__ = False

    def __init__(self, ceph: Ceph, *, quota: int = 0) -> None:
        self.ceph = ceph
        self.name = f"p{uuid4().hex[:12]}"
        ceph.command("osd pool create", pool=self.name, pg_num=8)
        self._cluster = rados.Rados(rados_id="admin", conffile=str(ceph.conf))
        self._cluster.connect()
        self._cluster.wait_for_latest_osdmap()
        self.pool = self._cluster.open_ioctx(self.name)
        self.pool.set_osdmap_full_try()
        rbd.RBD().pool_init(self.pool, True)
        if quota:
            ceph.set_quota(self.name, quota)
        self.keyring = ceph.add_user(self.name, pool=self.name)

    @property
    def options(self) -> dict[str, Any]:
        """Options of the driver `rbd`."""
        return {
            "pool": self.name,
            "user": self.name,
            "keyring": str(self.keyring),
            "conf": str(self.ceph.conf),
        }

    @property
    def arguments(self) -> tuple[str, str, str, str]:
        """Configuration, user, keyring and pool, for a program of a test."""
        return str(self.ceph.conf), self.name, str(self.keyring), self.name

    @contextmanager
    def image(self, name: str, snapshot: str | None = None, *, read_only: bool = False) -> Iterator[Any]:
        with rbd.Image(self.pool, name, snapshot=snapshot, read_only=read_only) as image:
            yield image

    def make(self, name: str, content: bytes) -> None:
        """Make an image that is not BMI's."""
        rbd.RBD().create(self.pool, name, len(content), old_format=False, features=61)
        with self.image(name) as image:
            image.write(content, 0)
            image.flush()

    def half_made_snapshot(self, name: str, snapshot: str) -> None:
        """Leave a snapshot as a client does that dies before it has made its object map."""
        with self.image(name) as image:
            number = next(each["id"] for each in image.list_snaps() if each["name"] == snapshot)
            object_map = f"rbd_object_map.{image.id()}.{number:016x}"
        self.pool.remove_object(object_map)

    def content(self, name: str) -> bytes:
        with self.image(name, read_only=True) as image:
            return bytes(image.read(0, image.size()))

    def names(self) -> set[str]:
        return set(rbd.RBD().list(self.pool))

    def id_objects(self) -> set[str]:
        """Return the names for which Ceph keeps an image's id, whatever its directory says."""
        found = (each.key for each in self.pool.list_objects())
        return {key.removeprefix("rbd_id.") for key in found if key.startswith("rbd_id.")}

    def trash(self) -> set[str]:
        return {entry["name"] for entry in rbd.RBD().trash_list(self.pool)}

    def watchers(self, name: str) -> list[str]:
        with self.image(name, read_only=True) as image:
            return [each["addr"] for each in image.watchers_list()]

    def bury(self, name: str) -> None:
        """Wait until nobody is known to have an image open."""
        wait_until(
            lambda: not self.watchers(name),
            deadline=4 * WATCH_TIMEOUT,
            what=f"the clients of {name} to be known dead",
            next_step="see who has it open",
        )

    def remove(self) -> None:
        self.pool.close()
        self._cluster.shutdown()
        self.ceph.command(
            "osd pool delete", pool=self.name, pool2=self.name, yes_i_really_really_mean_it=True
        )
