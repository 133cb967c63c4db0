"""The calls of librbd that no storage driver on Ceph can do without: what the driver `rbd` is compared with.

It checks nothing, survives nothing, and leaves a mess when it is interrupted.
"""

from contextlib import AbstractContextManager
from pathlib import Path
from uuid import UUID

import rados
import rbd

from bench.verbs import Writer, rbd_writer
from bmi.run import run

_SNAPSHOT = "frozen"
_TRANSFER_DEADLINE = 300.0  # seconds


class Librbd:
    """Images and clones by bare calls, in the whole pool."""

    name = "bare librbd"
    on_ceph = True

    def __init__(self, conf: Path, user: str, pool: str) -> None:
        self._conf, self._user, self._pool = conf, user, pool
        self._cluster = rados.Rados(rados_id=user, conffile=str(conf))
        self._cluster.connect()
        self._ioctx = self._cluster.open_ioctx(pool)
        self._rbd = rbd.RBD()
        self._trash: dict[str, str] = {}  # ids of removed disks by the images that were made of them

    def import_image(self, image: UUID, source: Path) -> None:
        self._command("import", str(source), f"{self._pool}/{_name(image)}")
        with rbd.Image(self._ioctx, _name(image)) as opened:
            opened.create_snap(_SNAPSHOT)

    def export_image(self, image: UUID, destination: Path) -> None:
        self._command("export", f"{self._pool}/{_name(image)}@{_SNAPSHOT}", str(destination))

    def clone(self, image: UUID, disk: UUID, size: int | None = None) -> None:
        self._rbd.clone(self._ioctx, _name(image), _SNAPSHOT, self._ioctx, _name(disk))
        if size is not None:
            with rbd.Image(self._ioctx, _name(disk)) as opened:
                opened.resize(size)

    def snapshot(self, disk: UUID, image: UUID) -> None:
        with rbd.Image(self._ioctx, _name(disk)) as opened:
            opened.create_snap(_name(image))
        self._rbd.clone(self._ioctx, _name(disk), _name(image), self._ioctx, _name(image))
        with rbd.Image(self._ioctx, _name(image)) as opened:
            opened.create_snap(_SNAPSHOT)

    def copy(self, image: UUID, new_image: UUID) -> None:
        self.clone(image, new_image)
        with rbd.Image(self._ioctx, _name(new_image)) as opened:
            opened.create_snap(_SNAPSHOT)

    def flatten(self, disk: UUID) -> None:
        with rbd.Image(self._ioctx, _name(disk)) as opened:
            opened.flatten()

    def remove_disk(self, disk: UUID) -> None:
        try:
            self._rbd.remove(self._ioctx, _name(disk))
        except rbd.ImageHasSnapshots:  # of images that were made of it
            with rbd.Image(self._ioctx, _name(disk)) as opened:
                for snapshot in list(opened.list_snaps()):
                    opened.remove_snap(snapshot["name"])
                children = list(opened.list_children2())
                id = opened.id()
            if children:
                self._rbd.trash_move(self._ioctx, _name(disk))
                self._trash.update({child["image"]: id for child in children})
            else:
                self._rbd.remove(self._ioctx, _name(disk))

    def remove_image(self, image: UUID) -> None:
        with rbd.Image(self._ioctx, _name(image)) as opened:
            opened.remove_snap(_SNAPSHOT)
        self._rbd.remove(self._ioctx, _name(image))
        if trashed := self._trash.pop(_name(image), None):
            self._rbd.trash_remove(self._ioctx, trashed)

    def writer(self, disk: UUID) -> AbstractContextManager[Writer]:
        return rbd_writer(self._conf, self._user, f"{self._pool}/{_name(disk)}")

    def close(self) -> None:
        self._ioctx.close()
        self._cluster.shutdown()

    def _command(self, *words: str) -> None:
        who = ("--conf", self._conf, "--id", self._user, "--no-progress")
        run(["rbd", *who, *words], timeout=_TRANSFER_DEADLINE)


def _name(volume: UUID) -> str:
    return f"bare-{volume}"
