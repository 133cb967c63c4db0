"""The verbs of the driver `rbd`."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from bmi.drivers import Outcome, Site, parse_options
from bmi.drivers.storage import Backing, Capacity, Complaint, Kind, Progress, Usage, Volume, VolumeInfo
from bmi.drivers.storage.draft import Draft
from bmi.drivers.storage.rbd import (
    fencing,
    freezing,
    health,
    importing,
    lineage,
    making,
    preflight,
    removal,
    seeds,
    stream,
    swap,
    sweeping,
)
from bmi.drivers.storage.rbd.bindings import rbd
from bmi.drivers.storage.rbd.failures import missing
from bmi.drivers.storage.rbd.names import FROZEN, volume_named
from bmi.drivers.storage.rbd.options import RbdOptions
from bmi.drivers.storage.rbd.room import Gauge
from bmi.drivers.storage.rbd.session import Connection, Session
from bmi.drivers.storage.rbd.turns import Turns
from bmi.drivers.storage.rbd.whole import size_of, sizes, snapshot_to_read
from bmi.drivers.storage.source import SECTOR, opened_source, require_growth
from bmi.drivers.storage.sparse import data_ranges
from bmi.errors import BadRequest, NotFound, StorageError

log = logging.getLogger(__name__)

_SIDE_BY_SIDE = 16  # requests at once; more make nothing faster


class RbdStorage:
    """Images, disks and seeds as RBD images of one pool."""

    shared = True

    def __init__(self, options: Mapping[str, Any], site: Site) -> None:
        self._options = parse_options(RbdOptions, options, driver="rbd")
        self._mark = site.installation
        self._conf = site.state_dir.absolute() / "storage-rbd" / "ceph.conf"
        self._connection = Connection(self._options, self._conf)
        self._gauge = Gauge(self._options)
        self._turns = Turns()
        self._image_sizes: dict[UUID, int] = {}

    def prepare(self) -> None:
        """Find out whether the pool can be used, and remove what dead processes left half-made."""
        with self._connection.failures("the storage could not be prepared"):
            session = preflight.open_checked(self._options, self._conf)
            try:
                preflight.check(self._options, session)
            finally:
                session.close()
        if self._options.namespace:
            log.warning("volumes in the namespace %s cannot be exported by tgt", self._options.place)
        with self._connection.session("the storage could not be swept") as session:
            swap.settle_all(session)
            for volume in _listed(session):
                with self._turns.of(volume):
                    sweeping.sweep(session, volume)
            sweeping.sweep_trash(session)

    def import_image(self, image: UUID, source: Path, progress: Progress) -> VolumeInfo:
        """Take a raw file in as an image, see `Storage`."""
        volume = Volume(Kind.IMAGE, image)
        with self._turn(volume, f"{volume} could not be imported") as session:
            if (size := size_of(session, volume)) is not None:
                return VolumeInfo(volume, size)
            with opened_source(source) as file:
                size = os.fstat(file).st_size
                needed = sum(end - start for start, end in data_ranges(file))
                self._gauge.require(session, needed, f"{source} could not be taken in")
                importing.import_file(session, volume, file, source, progress, mark=self._mark)
            return VolumeInfo(volume, size)

    def clone(self, image: UUID, disk: UUID, size: int | None = None) -> Outcome:
        """Make a disk of an image, see `Storage`.

        A disk that is smaller than asked for is made larger: an earlier call was interrupted.
        """
        volume, source = Volume(Kind.DISK, disk), Volume(Kind.IMAGE, image)
        with self._turn(volume, f"{volume} could not be made") as session:
            try:
                length = None if size is None else self._image_size(session, source)
                if length is not None:
                    _require_clone_size(volume, source, length, size)
                self._gauge.require(session, 0, f"{volume} could not be made")
                made = making.clone(session, str(source), FROZEN, volume)
            except rbd.ImageNotFound:
                if size_of(session, volume) is None:
                    raise missing(source) from None
                made = False
            if size is not None and (not made or size != length):
                _grow(session, volume, size)
            return Outcome.DONE if made else Outcome.ALREADY

    def snapshot(self, disk: UUID, image: UUID) -> Outcome:
        """Make an image of a disk, see `Storage`."""
        volume, source = Volume(Kind.IMAGE, image), Volume(Kind.DISK, disk)
        with self._turn(volume, f"{volume} could not be made") as session:
            if size_of(session, volume) is not None:
                return Outcome.ALREADY
            self._gauge.require(session, 0, f"{volume} could not be made")
            return freezing.freeze_disk(session, source, volume)

    def copy(self, image: UUID, new_image: UUID) -> Outcome:
        """Make an image of an image, see `Storage`: a clone that is frozen at once."""
        volume, source = Volume(Kind.IMAGE, new_image), Volume(Kind.IMAGE, image)
        with self._turn(volume, f"{volume} could not be made") as session:
            if size_of(session, volume) is not None:
                return Outcome.ALREADY
            self._gauge.require(session, 0, f"{volume} could not be made")
            return freezing.freeze_image(session, source, volume)

    def adopt(self, image: UUID, name: str) -> VolumeInfo:
        """Make an image of an RBD image that is not BMI's, see `Storage`.

        It stays where it is, under its name, and can be used on. What BMI got is its content of this moment.
        """
        volume = Volume(Kind.IMAGE, image)
        if volume_named(name):
            raise BadRequest(f"{name} is BMI's own", next_step="name an image that BMI did not make")
        with self._turn(volume, f"{name} could not be adopted") as session:
            if (size := size_of(session, volume)) is None:
                try:
                    size = freezing.freeze_foreign(session, name, volume, mark=self._mark)
                except rbd.ImageNotFound:
                    raise NotFound(
                        f"there is no image {name} in pool {self._options.place}",
                        next_step=f"list what is there: rbd ls {self._options.place}",
                    ) from None
            return VolumeInfo(volume, size)

    def write_seed(self, seed: UUID, content: bytes) -> Outcome:
        """Write a seed, see `Storage`."""
        volume = Volume(Kind.SEED, seed)
        if not content:
            raise BadRequest(f"{volume} would be empty", next_step="give it the content of a file system")
        padded = content.ljust(-(-len(content) // SECTOR) * SECTOR, b"\0")
        with self._turn(volume, f"{volume} could not be written") as session:
            if seeds.holds(session, volume, padded):
                return Outcome.ALREADY
            self._gauge.require(session, 0, f"{volume} could not be written")
            seeds.write(session, volume, padded, mark=self._mark)
            return Outcome.DONE

    def remove(self, volume: Volume) -> Outcome:
        """Remove a volume, see `Storage`."""
        with self._turn(volume, f"{volume} could not be removed") as session:
            self._image_sizes.pop(volume.id, None)
            if volume.kind is Kind.DISK:
                swap.settle(session, volume)
            return Outcome.DONE if removal.remove(session, volume) else Outcome.ALREADY

    def find(self, volume: Volume) -> VolumeInfo | None:
        """Look for a volume, see `Storage`."""
        with self._connection.session(f"{volume} could not be looked for") as session:
            size = size_of(session, volume)
            return None if size is None else VolumeInfo(volume, size)

    def volumes(self) -> list[VolumeInfo]:
        """List the volumes, see `Storage`."""
        with self._connection.session("the volumes could not be listed") as session:
            found = sizes(session, _listed(session), _SIDE_BY_SIDE)
            return [VolumeInfo(volume, size) for volume, size in found]

    def capacity(self) -> Capacity:
        """Say how much room there is, see `Storage`."""
        with self._connection.session("the room could not be measured") as session:
            room = self._gauge.room(session)
        if room is None:
            raise StorageError(
                f"Ceph does not say how full pool {self._options.pool} is",
                next_step="start a manager in the cluster (ceph-mgr); it counts what is used",
            )
        return Capacity(room.total, room.free)

    def complaints(self) -> list[Complaint]:
        """Return the checks of the cluster's health that fail, see `Storage`."""
        with self._connection.session("the health of Ceph could not be read") as session:
            return health.complaints(session.mon("health", detail="detail"))

    def usage(self, volume: Volume) -> Usage:
        """Say what a volume takes, see `Storage`."""
        with self._reading(volume, "could not be measured") as (session, snapshot):
            return lineage.usage(session, str(volume), snapshot)

    def depth(self, volume: Volume) -> int:
        """Say how many volumes a volume depends on, see `Storage`."""
        with self._reading(volume, "could not be traced back") as (session, snapshot):
            return lineage.depth(session, str(volume), snapshot)

    def flatten(self, volume: Volume, progress: Progress) -> Outcome:
        """Make a volume independent, see `Storage`."""
        with self._reading(volume, "could not be made independent") as (session, _):
            with session.image(str(volume), read_only=False) as image:
                parent = removal.parent_id(image)
                if parent is None:
                    return Outcome.ALREADY
                lineage.flatten(image, progress)
            removal.purge(session, parent)
            return Outcome.DONE

    def roll_back(self, disk: UUID, image: UUID) -> Outcome:
        """Put a clone of an image in the place of a disk, see `Storage`."""
        volume, source = Volume(Kind.DISK, disk), Volume(Kind.IMAGE, image)
        with self._turn(volume, f"{volume} could not be rolled back") as session:
            swap.settle(session, volume)
            if (size := size_of(session, volume)) is None:
                raise missing(volume)
            if size_of(session, source) is None:
                raise missing(source)
            self._gauge.require(session, 0, f"{volume} could not be rolled back")
            swap.roll_back(session, volume, source, size)
            return Outcome.DONE

    def grow(self, disk: UUID, size: int) -> Outcome:
        """Make a disk larger, see `Storage`."""
        volume = Volume(Kind.DISK, disk)
        with self._turn(volume, f"{volume} could not be made larger") as session:
            before = size_of(session, volume)
            if before is None:
                raise missing(volume)
            require_growth(volume, before, size)
            _grow(session, volume, size)
            return Outcome.ALREADY if size == before else Outcome.DONE

    def export_image(self, image: UUID, destination: Path, progress: Progress) -> None:
        """Write an image into a raw file, see `Storage`."""
        volume = Volume(Kind.IMAGE, image)
        with (
            self._reading(volume, "could not be exported") as (session, snapshot),
            session.image(str(volume), snapshot=snapshot) as opened,
            Draft(destination.parent) as draft,
        ):
            size = opened.size()
            os.ftruncate(draft.fd, size)
            stream.drain(opened, draft.fd, lambda offset: progress(offset, size))
            progress(size, size)
            draft.replace(destination.name, 0o600)

    def backing(self, volume: Volume) -> Backing:
        """Name the RBD image of a volume, see `Storage`."""
        if self._options.namespace:
            raise StorageError(
                f"{volume} is in the namespace {self._options.place}, and tgt cannot open namespaces",
                next_step="give BMI a pool of its own, and leave the option namespace out",
            )
        with self._reading(volume, "could not be found") as (session, snapshot):
            if volume.kind is not Kind.SEED and size_of(session, volume) is None:
                raise missing(volume)
        path = f"{self._options.pool}/{volume}" + (f"@{snapshot}" if snapshot else "")
        return Backing("rbd", path, conf=str(self._conf), user=self._options.user)

    def fence(self, volume: Volume) -> tuple[str, ...]:
        """Cut off every other client that has a volume open, see `Storage`."""
        with self._reading(volume, "could not be fenced") as (session, _):
            return fencing.fence(session, str(volume))

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()

    def dismantle(self) -> None:
        """Do nothing: nothing of the host is touched."""

    def _image_size(self, session: Session, image: Volume) -> int:
        """Return an image's size, which never changes."""
        size = self._image_sizes.get(image.id) or size_of(session, image)
        if size is None:
            raise rbd.ImageNotFound(f"no {image}")
        self._image_sizes[image.id] = size
        return size

    @contextmanager
    def _turn(self, volume: Volume, what: str) -> Iterator[Session]:
        """Keep this process's other threads from the volume while it is made or removed."""
        with self._turns.of(volume), self._connection.session(what) as session:
            yield session

    @contextmanager
    def _reading(self, volume: Volume, what: str) -> Iterator[tuple[Session, str | None]]:
        """Give the snapshot in which a volume's content lies."""
        with self._connection.session(f"{volume} {what}") as session:
            try:
                yield session, snapshot_to_read(session, volume)
            except rbd.ImageNotFound:
                raise missing(volume) from None


def _listed(session: Session) -> list[Volume]:
    return [volume for each in session.rbd.list2(session.pool) if (volume := volume_named(each["name"]))]


def _require_clone_size(volume: Volume, source: Volume, length: int, size: int | None) -> None:
    if size is not None and (size < length or size % SECTOR):
        raise BadRequest(
            f"{volume} cannot have {size} bytes: {source} has {length}",
            next_step=f"ask for at least that much, in multiples of {SECTOR}",
        )


def _grow(session: Session, volume: Volume, size: int) -> None:
    with session.image(str(volume), read_only=False) as image:
        if image.size() < size:
            image.resize(size)
