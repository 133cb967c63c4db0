"""The verbs of a store that keeps every volume in a file of its own.

    <root>/image/<id>.raw    readable only, never written again
    <root>/disk/<id>.raw
    <root>/seed/<id>.iso     readable only, replaced as a whole
    <root>/adopt/            raw files that people put there to be adopted

Names come from ids alone. A file appears under its name when it is whole and on the disk, see `draft`.
"""

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from bmi.drivers import Outcome
from bmi.drivers.storage import Backing, Capacity, Complaint, Kind, Progress, Usage, Volume, VolumeInfo
from bmi.drivers.storage.draft import Draft, sweep, sync_folder
from bmi.drivers.storage.source import SECTOR, opened_source, require_growth
from bmi.drivers.storage.sparse import copy_data, data_ranges
from bmi.errors import BadRequest, ImageInvalid, NotFound, StorageError, StorageFull

STAT_BLOCK = 512  # bytes; the unit of st_blocks, stat(2), whatever the file system's own is

ADOPT = "adopt"
"""Folder in which people put raw files that are to become images without a copy."""

_SUFFIX = {Kind.IMAGE: ".raw", Kind.DISK: ".raw", Kind.SEED: ".iso"}
_MODE = {Kind.IMAGE: 0o400, Kind.DISK: 0o600, Kind.SEED: 0o400}
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_MAKE_ROOM = "remove images and disks that nobody needs, or give the storage more room"


@dataclass(frozen=True)
class Room:
    """Room on the file system that fills up first."""

    path: Path
    """A place on it, for the reader of an error."""
    total: int
    """Bytes."""
    free: int
    """Bytes that may be used, the reserve left out."""
    reserve: int
    """Bytes that stay free."""


class FileStorage(ABC):
    """A store of files; drivers say where they lie and how one becomes a copy of another."""

    shared = False

    @property
    @abstractmethod
    def _root(self) -> Path:
        """Folder of the store."""

    @abstractmethod
    def _room(self) -> Room:
        """Say how much room there is."""

    @abstractmethod
    def _duplicate(self, source: int, destination: int) -> None:
        """Make an empty file a copy of another, both given as descriptors."""

    @abstractmethod
    def _take_in(self, source: int, destination: int) -> bool:
        """Try to make an empty file share the blocks of a file from outside, and say if that worked."""

    @abstractmethod
    def _share(self, source: int, destination: int) -> None:
        """Make an empty file the same as one in the store, without a copy where that can be."""

    @abstractmethod
    def _shared(self, file: int) -> int:
        """Say how many bytes of a file other files have too."""

    def import_image(self, image: UUID, source: Path, progress: Progress) -> VolumeInfo:
        """Take a raw file in as an image, see `Storage`."""
        volume = Volume(Kind.IMAGE, image)
        with self._failures(f"{volume} could not be imported"):
            if found := self._find_durable(volume):
                return found
            with opened_source(source) as file, self._draft(volume) as draft:
                self._fill(draft.fd, file, source, progress)
                draft.publish(_name(volume), _MODE[volume.kind])
            return self._info(volume)

    def clone(self, image: UUID, disk: UUID, size: int | None = None) -> Outcome:
        """Make a disk of an image, see `Storage`."""
        volume = Volume(Kind.DISK, disk)
        with self._failures(f"{volume} could not be made"):
            return self._copy(Volume(Kind.IMAGE, image), volume, size)

    def snapshot(self, disk: UUID, image: UUID) -> Outcome:
        """Make an image of a disk, see `Storage`."""
        volume = Volume(Kind.IMAGE, image)
        with self._failures(f"{volume} could not be made"):
            return self._copy(Volume(Kind.DISK, disk), volume, None)

    def copy(self, image: UUID, new_image: UUID) -> Outcome:
        """Make an image of an image, see `Storage`."""
        volume = Volume(Kind.IMAGE, new_image)
        with self._failures(f"{volume} could not be made"):
            return self._copy(Volume(Kind.IMAGE, image), volume, None)

    def adopt(self, image: UUID, name: str) -> VolumeInfo:
        """Make an image of a raw file in the folder `adopt`, see `Storage`."""
        volume, path = Volume(Kind.IMAGE, image), self._root / ADOPT / name
        if Path(name).name != name:
            raise BadRequest(f"{name!r} is no file name", next_step=f"put the file into {path.parent}")
        with self._failures(f"{path} could not be adopted"):
            if found := self._find_durable(volume):
                return found
            if not path.exists():
                raise NotFound(f"there is no {path}", next_step="put the raw file there")
            with opened_source(path) as file, self._draft(volume) as draft:
                os.fdatasync(file)
                self._require_room(0, f"{path} could not be adopted")
                self._share(file, draft.fd)
                draft.publish(_name(volume), _MODE[volume.kind])
            return self._info(volume)

    def export_image(self, image: UUID, destination: Path, progress: Progress) -> None:
        """Write an image into a raw file, see `Storage`."""
        volume = Volume(Kind.IMAGE, image)
        with (
            self._failures(f"{volume} could not be exported"),
            self._opened(volume) as source,
            Draft(destination.parent) as draft,
        ):
            size = os.fstat(source).st_size
            os.ftruncate(draft.fd, size)
            copy_data(source, draft.fd, lambda offset: progress(offset, size))
            progress(size, size)
            draft.replace(destination.name, 0o600)

    def flatten(self, volume: Volume, progress: Progress) -> Outcome:
        """Do nothing: a file depends on no other one, see `Storage`."""
        size = self._require(volume).size
        progress(size, size)
        return Outcome.ALREADY

    def roll_back(self, disk: UUID, image: UUID) -> Outcome:
        """Put a copy of an image in the place of a disk's file, see `Storage`.

        Who has the old file open goes on with it; it has no name any more.
        """
        volume, source = Volume(Kind.DISK, disk), Volume(Kind.IMAGE, image)
        with self._failures(f"{volume} could not be rolled back"):
            size = self._require(volume).size
            with self._opened(source) as original, self._draft(volume) as draft:
                self._require_room(0, f"{volume} could not be rolled back")
                self._duplicate(original, draft.fd)
                os.ftruncate(draft.fd, max(size, os.fstat(original).st_size))
                draft.replace(_name(volume), _MODE[volume.kind])
            return Outcome.DONE

    def grow(self, disk: UUID, size: int) -> Outcome:
        """Lengthen a disk's file by a hole, see `Storage`."""
        volume = Volume(Kind.DISK, disk)
        with self._failures(f"{volume} could not be made larger"):
            before = self._require(volume).size
            require_growth(volume, before, size)
            with self._path(volume).open("r+b") as file:
                if size > before:
                    file.truncate(size)
                os.fsync(file.fileno())
            return Outcome.ALREADY if size == before else Outcome.DONE

    def depth(self, volume: Volume) -> int:
        """Say that a file depends on no other one, see `Storage`."""
        self._require(volume)
        return 0

    def usage(self, volume: Volume) -> Usage:
        """Say what a volume takes, see `Storage`."""
        with self._failures(f"{volume} could not be measured"), self._opened(volume) as file:
            shared = self._shared(file)
            return Usage(own=max(0, os.fstat(file).st_blocks * STAT_BLOCK - shared), shared=shared)

    def fence(self, volume: Volume) -> tuple[str, ...]:
        """Cut off nobody: a file is used on this host alone, see `Storage`."""
        self._require(volume)
        return ()

    def write_seed(self, seed: UUID, content: bytes) -> Outcome:
        """Write a seed, see `Storage`."""
        volume = Volume(Kind.SEED, seed)
        if not content:
            raise BadRequest(f"{volume} would be empty", next_step="give it the content of a file system")
        padded = content.ljust(-(-len(content) // SECTOR) * SECTOR, b"\0")
        with self._failures(f"{volume} could not be written"):
            if self._find_durable(volume) and self._path(volume).read_bytes() == padded:
                return Outcome.ALREADY
            self._require_room(len(padded), f"{volume} could not be written")
            with self._draft(volume) as draft:
                with open(draft.fd, "wb", closefd=False) as file:
                    file.write(padded)
                draft.replace(_name(volume), _MODE[volume.kind])
            return Outcome.DONE

    def remove(self, volume: Volume) -> Outcome:
        """Remove a volume, see `Storage`."""
        with self._failures(f"{volume} could not be removed"):
            outcome = Outcome.DONE
            try:
                self._path(volume).unlink()
            except FileNotFoundError:
                self._require_folder(volume.kind)
                outcome = Outcome.ALREADY
            sync_folder(self._folder(volume.kind))
            return outcome

    def find(self, volume: Volume) -> VolumeInfo | None:
        """Look at a volume, see `Storage`."""
        with self._failures(f"{volume} could not be looked at"):
            try:
                return self._info(volume)
            except FileNotFoundError:
                self._require_folder(volume.kind)
                return None

    def volumes(self) -> Iterable[VolumeInfo]:
        """List the volumes, see `Storage`."""
        with self._failures("the volumes could not be listed"):
            return [info for kind in Kind for info in self._listed(kind)]

    def capacity(self) -> Capacity:
        """Say how much room there is, see `Storage`."""
        with self._failures("the room could not be measured"):
            room = self._room()
            return Capacity(room.total, room.free)

    def complaints(self) -> Iterable[Complaint]:
        """Say nothing: a file system does not look after itself, see `Storage`."""
        return ()

    def backing(self, volume: Volume) -> Backing:
        """Give the path of a volume's file, see `Storage`."""
        self._require(volume)
        return Backing("file", str(self._path(volume)))

    def close(self) -> None:  # noqa: B027 - no connection is held, in no driver
        """Do nothing: no connection is held."""

    def _lay_out(self) -> None:
        """Make the folders, and remove what makers that died left there."""
        for kind in Kind:
            folder = self._folder(kind)
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            sweep(folder)
        (self._root / ADOPT).mkdir(mode=0o700, exist_ok=True)

    def _fill(self, draft: int, source: int, path: Path, progress: Progress) -> None:
        size = os.fstat(source).st_size
        failure = f"{path} could not be taken in"
        if self._take_in(source, draft):
            progress(size, size)
            return
        self._require_room(sum(end - start for start, end in data_ranges(source)), failure)
        os.ftruncate(draft, size)

        def copied(offset: int) -> None:
            # Written out chunk by chunk: until then the file systems do not tell what is left of them.
            os.fdatasync(draft)
            self._require_room(0, failure)
            progress(offset, size)

        try:
            copy_data(source, draft, copied)
        except EOFError as error:
            raise ImageInvalid(
                f"{path} changed while it was read: it {error}",
                next_step="import it when nobody writes to it",
            ) from error
        progress(size, size)

    def _copy(self, source: Volume, volume: Volume, size: int | None) -> Outcome:
        if self._find_durable(volume):
            return Outcome.ALREADY
        with self._opened(source) as original, self._draft(volume) as draft:
            length = os.fstat(original).st_size
            wanted = length if size is None else size
            if wanted < length or wanted % SECTOR:
                raise BadRequest(
                    f"{volume} cannot have {wanted} bytes: {source} has {length}",
                    next_step=f"ask for at least that much, in multiples of {SECTOR}",
                )
            self._require_room(0, f"{volume} could not be made")
            self._duplicate(original, draft.fd)
            os.ftruncate(draft.fd, wanted)
            return draft.publish(_name(volume), _MODE[volume.kind])

    def _require_room(self, needed: int, failure: str) -> None:
        room = self._room()
        if room.free <= needed:
            takes = f"it takes {needed} bytes, and " if needed else ""
            raise StorageFull(f"{failure}: {takes}{_left(room)}", next_step=_MAKE_ROOM)

    def _find_durable(self, volume: Volume) -> VolumeInfo | None:
        """Look for a volume, and make sure that it outlives a power cut even if its maker died too early."""
        found = self.find(volume)
        if found is not None:
            sync_folder(self._folder(volume.kind))
        return found

    def _info(self, volume: Volume) -> VolumeInfo:
        return _described(volume, self._path(volume).stat())

    def _listed(self, kind: Kind) -> Iterator[VolumeInfo]:
        for path in self._folder(kind).iterdir():
            if (volume := _volume(kind, path.name)) and (info := self.find(volume)):
                yield info

    @contextmanager
    def _opened(self, volume: Volume) -> Iterator[int]:
        try:
            fd = os.open(self._path(volume), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            self._require_folder(volume.kind)
            raise _missing(volume) from error
        try:
            yield fd
        finally:
            os.close(fd)

    def _draft(self, volume: Volume) -> Draft:
        return Draft(self._folder(volume.kind))

    def _require(self, volume: Volume) -> VolumeInfo:
        found = self.find(volume)
        if found is None:
            raise _missing(volume)
        return found

    def _require_folder(self, kind: Kind) -> None:
        """Tell a missing volume from a missing store: on an empty mount point all would seem to be gone."""
        if not self._folder(kind).is_dir():
            raise StorageError(
                f"there is no storage at {self._root}: it is not mounted, or was never prepared",
                next_step="restart the service, it prepares its storage when it starts",
            )

    def _folder(self, kind: Kind) -> Path:
        return self._root / kind

    def _path(self, volume: Volume) -> Path:
        return self._folder(volume.kind) / _name(volume)

    @contextmanager
    def _failures(self, failure: str) -> Iterator[None]:
        """Turn what the operating system reports into errors that say what to do."""
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                room = self._room()
                raise StorageFull(
                    f"{failure}: {error.strerror}, {_left(room)}", next_step=_MAKE_ROOM
                ) from error
            raise StorageError(
                f"{failure}: {error}",
                next_step="look at the file system and at the kernel's messages (dmesg)",
            ) from error


def _name(volume: Volume) -> str:
    return f"{volume.id}{_SUFFIX[volume.kind]}"


def _volume(kind: Kind, name: str) -> Volume | None:
    """Return the volume that a file holds, None for files that are not named after an id."""
    try:
        volume = Volume(kind, UUID(name.removesuffix(_SUFFIX[kind])))
    except ValueError:
        return None
    return volume if _name(volume) == name else None


def _described(volume: Volume, status: os.stat_result) -> VolumeInfo:
    return VolumeInfo(volume, size=status.st_size)


def _left(room: Room) -> str:
    return f"{room.path} has {room.free} bytes free beside {room.reserve} in reserve"


def _missing(volume: Volume) -> NotFound:
    return NotFound(
        f"there is no {volume} in the storage", next_step="list what is there and name one of those"
    )
