"""What the bindings report, as errors that say what to do."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from bmi.drivers.storage import Volume
from bmi.drivers.storage.rbd.bindings import rados, rbd
from bmi.errors import NotFound, StorageError, StorageFull, StorageUnreachable

MAKE_ROOM = "remove images and disks that nobody needs, or give the pool more room"

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_REFUSED = frozenset({errno.EPERM, errno.EACCES})
# A snapshot that the monitor does not confirm ends as EROFS; one that was fenced off meets ESHUTDOWN.
_NO_ANSWER = frozenset({errno.ETIMEDOUT, errno.ESHUTDOWN, errno.EROFS, errno.ENOTCONN})

ERRORS = (rados.Error, rbd.Error)


@contextmanager
def failures(what: str, *, user: str, place: str, cluster: str, timeout: int) -> Iterator[None]:
    """Turn the bindings' errors into BMI's.

    Args:
        what: What failed, as in `disk-1 could not be made`.
        user: The CephX user.
        place: Pool and namespace.
        cluster: The monitors' addresses.
        timeout: Seconds that a request may take.
    """
    try:
        yield
    except ERRORS as error:
        number = getattr(error, "errno", None)
        if number in FULL:
            raise StorageFull(
                f"{what}: pool {place} has no bytes free ({error})", next_step=MAKE_ROOM
            ) from error
        if number in _NO_ANSWER:
            raise unreachable(what, cluster=cluster, timeout=timeout, cause=error) from error
        if number in _REFUSED:
            raise StorageError(
                f"{what}: Ceph refuses it to client.{user} in {place} ({error})",
                next_step=f"give the user its rights: {rights(user, place)}",
            ) from error
        raise StorageError(
            f"{what}: {error}", next_step="look at the cluster (ceph status) and at its logs"
        ) from error


def unreachable(
    what: str, *, cluster: str, timeout: int, cause: BaseException | None = None
) -> StorageUnreachable:
    """Return the error for a cluster that does not answer."""
    said = f" ({cause})" if cause else ""
    return StorageUnreachable(
        f"{what}: Ceph at {cluster} did not answer within {timeout} s{said}",
        next_step="look whether its monitors and OSDs run and can be reached from here: ceph status",
    )


def missing(volume: Volume) -> NotFound:
    """Return the error for a volume that does not exist."""
    return NotFound(
        f"there is no {volume} in the storage", next_step="list what is there and name one of those"
    )


def rights(user: str, place: str) -> str:
    """Return the command that gives a user the least rights that work."""
    pool, _, namespace = place.partition("/")
    where = f"pool={pool}" + (f" namespace={namespace}" if namespace else "")
    return f"ceph auth caps client.{user} mon 'profile rbd' osd 'profile rbd {where}'"
