"""Storage: images, their copy-on-write clones, and the small seed volumes beside them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol
from uuid import UUID

from bmi.drivers import Outcome


class Kind(StrEnum):
    """What a volume holds."""

    IMAGE = "image"
    DISK = "disk"
    SEED = "seed"


@dataclass(frozen=True)
class Volume:
    """One volume of the store; backends name it after its id, never after a user's word."""

    kind: Kind
    id: UUID

    def __str__(self) -> str:
        return f"{self.kind}-{self.id}"


@dataclass(frozen=True)
class VolumeInfo:
    """A volume that really exists."""

    volume: Volume
    size: int
    """Bytes that a node sees."""


@dataclass(frozen=True)
class Usage:
    """What a volume takes in the store, in bytes; holes take nothing."""

    own: int
    """What would become free if it were removed."""
    shared: int
    """What it has in common with others, and that stays."""

    @property
    def allocated(self) -> int:
        """Everything that it holds."""
        return self.own + self.shared


@dataclass(frozen=True)
class Capacity:
    """Room in the store, in bytes."""

    total: int
    free: int
    """What may be used; what the driver keeps in reserve is not counted. At 0 the store is full."""


@dataclass(frozen=True)
class Backing:
    """What a target driver needs to serve a volume."""

    type: str
    """`file`: `path` is a plain file on this host. `rbd`: it is `pool/image` or `pool/image@snapshot` in Ceph."""
    path: str
    conf: str = ""
    """`rbd`: Ceph configuration file, which also names the keyring and the time limits."""
    user: str = ""
    """`rbd`: CephX user, without `client.`."""


@dataclass(frozen=True)
class Complaint:
    """What a store says is wrong with itself."""

    name: str
    message: str
    broken: bool
    """Whether it is broken; else it only warns."""


Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""


class Storage(Protocol):
    """What every storage driver can do.

    Every verb can be called again after it was interrupted anywhere, and then ends as if it had run once.
    All raise `StorageError`; those that need room raise `StorageFull`.
    """

    shared: bool
    """Whether other hosts can reach the same volumes."""

    def prepare(self) -> None:
        """Make the store ready: mount, connect. Called at start; safe to repeat."""

    def import_image(self, image: UUID, source: Path, progress: Progress) -> VolumeInfo:
        """Take a raw file in as an image; holes stay holes. An image that is there already stays as it is.

        Args:
            image: Id of the image to make.
            source: The file; it must not change meanwhile.
            progress: Called now and then, at the end with all bytes done. What it raises ends the import.

        Raises:
            ImageInvalid: The source cannot be read, is empty or is not made of whole sectors of 512 bytes.
        """

    def clone(self, image: UUID, disk: UUID, size: int | None = None) -> Outcome:
        """Make a disk that starts as the image's content, without copying it.

        Args:
            image: The image.
            disk: Id of the disk to make.
            size: Bytes of the disk, at least the image's and a multiple of 512; the image's own if None.

        Raises:
            NotFound: The store has no such image.
            BadRequest: The size is too small or no multiple of 512.
        """

    def snapshot(self, disk: UUID, image: UUID) -> Outcome:
        """Freeze a disk's content of this moment as an image, without copying it; the disk may be in use.

        Raises:
            NotFound: The store has no such disk.
        """

    def copy(self, image: UUID, new_image: UUID) -> Outcome:
        """Make another image of an image's content, without copying it. Each can be removed without the other.

        Args:
            image: The image.
            new_image: Id of the image to make.

        Raises:
            NotFound: The store has no such image.
        """

    def adopt(self, image: UUID, name: str) -> VolumeInfo:
        """Make an image of a content that lies in the store already and is not BMI's, without copying it.

        What is adopted stays where it is and remains its owner's. An image that is there already stays as it is.

        Args:
            image: Id of the image to make.
            name: How the store calls the content. `rbd`: an RBD image in the same pool. Files: one in the
                store's folder `adopt`.

        Raises:
            NotFound: There is nothing of that name.
            BadRequest: The name belongs to a volume of BMI, or cannot be one.
            ImageInvalid: It cannot be an image, or not without a copy.
        """

    def export_image(self, image: UUID, destination: Path, progress: Progress) -> None:
        """Write an image into a raw file, which appears whole or not at all; what is zero becomes holes.

        Args:
            image: The image.
            destination: The file; one that is there is replaced.
            progress: Called now and then, at the end with all bytes done. What it raises ends the export.

        Raises:
            NotFound: The store has no such image.
        """

    def flatten(self, volume: Volume, progress: Progress) -> Outcome:
        """Make a volume independent of what it was cloned from, by copying what it has in common with it.

        It may be in use meanwhile.

        Args:
            volume: An image or a disk.
            progress: Called now and then. What it raises ends it; what was copied until then does no harm.

        Raises:
            NotFound: The store has no such volume.
        """

    def roll_back(self, disk: UUID, image: UUID) -> Outcome:
        """Make a disk what an image is, without copying it; what was on the disk is gone.

        The disk keeps its size where it is the larger one; what is beyond the image reads as zeros. Whoever dies
        meanwhile leaves the old content or the new one, whole, under the disk's name. Whoever still has the disk
        open is cut off, or writes into what is gone.

        A second call does it again: have it done only while nobody uses the disk.

        Args:
            disk: The disk.
            image: What it becomes; not necessarily what it was cloned from.

        Raises:
            NotFound: The store has no such disk, or no such image.
        """

    def grow(self, disk: UUID, size: int) -> Outcome:
        """Make a disk larger; what is new reads as zeros.

        It may be exported meanwhile. But a target tells initiators the size that a disk had when the export was
        made: a node sees the new one only after the export was made anew.

        Args:
            disk: The disk.
            size: Bytes, at least as many as it has, and a multiple of 512.

        Raises:
            NotFound: The store has no such disk.
            BadRequest: The size is too small or no multiple of 512.
        """

    def depth(self, volume: Volume) -> int:
        """Say how many volumes, one behind the other, a volume needs to be read.

        Each one makes reading slower, and Ceph's kernel client gives up beyond 16.

        Raises:
            NotFound: The store has no such volume.
        """

    def usage(self, volume: Volume) -> Usage:
        """Say what a volume takes.

        Raises:
            NotFound: The store has no such volume.
        """

    def fence(self, volume: Volume) -> tuple[str, ...]:
        """Cut off everybody else who has a volume open, for one who takes over from a host that may be dead.

        When it returns, nothing that they write arrives any more. Where volumes are files of one host, there
        is nobody else.

        Returns:
            Who was cut off, in the store's own words.

        Raises:
            NotFound: The store has no such volume.
        """

    def write_seed(self, seed: UUID, content: bytes) -> Outcome:
        """Make a small read-only volume with this content, replacing what it held before.

        The content is padded with zeros to whole sectors of 512 bytes. An export that serves the seed goes on
        serving what the seed held when it was exported.

        Raises:
            BadRequest: There is no content.
        """

    def remove(self, volume: Volume) -> Outcome:
        """Remove a volume. Images that others were cloned from can go: the clones stay whole."""

    def find(self, volume: Volume) -> VolumeInfo | None:
        """Say what a volume is like, or None if it does not exist."""

    def volumes(self) -> Iterable[VolumeInfo]:
        """List every volume that really exists, half-made ones left out."""

    def capacity(self) -> Capacity:
        """Say how much room there is; storage across a network may say it some seconds late."""

    def complaints(self) -> Iterable[Complaint]:
        """Say what the store itself finds wrong with it; nothing where it does not look after itself."""

    def backing(self, volume: Volume) -> Backing:
        """Say how a target driver on this host reaches a volume.

        Raises:
            NotFound: The store has no such volume.
        """

    def close(self) -> None:
        """Let go of connections. What is stored and mounted stays."""

    def dismantle(self) -> None:
        """Undo what `prepare` did to the host (mounts, loop devices). What is stored stays.

        Raises:
            InUse: Something on this host still uses volumes.
        """
