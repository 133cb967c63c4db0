"""The locks that a killed server leaves on images in Ceph.

Who writes to an image holds its lock. A client that was killed holds it until Ceph has heard nothing of it for half
a minute, and whoever comes next waits with its first write as long. So it is written down which clients of Ceph a
server is, and when it had to be replaced their locks are broken; Ceph refuses writes of theirs from then on.
"""

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from bmi.drivers.storage import Backing
from bmi.drivers.target import Export
from bmi.errors import TargetError

_LIMITS = ("client_mount_timeout", "rados_mon_op_timeout", "rados_osd_op_timeout")
_DEADLINE = 3  # seconds for each; some milliseconds where Ceph is well


log = logging.getLogger(__name__)


class CephSilent(TargetError):
    """Ceph did not answer in time."""


class CephLocks:
    """What is known of the clients of Ceph that one portal's server is.

    Args:
        folder: The portal's own folder.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "ceph-clients.json"

    def know(self, exports: Sequence[Export]) -> bool:
        """Say whether it is written down who has the images of these exports open."""
        return self._known().keys() >= {backing.path for backing in _written(exports)}

    def remember(self, exports: Sequence[Export]) -> None:
        """Write down who has the images of these exports open: a server that has just opened them.

        Another part of BMI that happens to look at an image is written down as well. That does no harm unless it
        also holds the lock at the moment at which the server is replaced.
        """
        known = self._known()
        for backing in _written(exports):
            try:
                with _opened(backing) as image:
                    known[backing.path] = [watcher["addr"] for watcher in image.watchers_list()]
            except TargetError as error:  # no reason to keep a node from its disk
                log.warning("the lock on %s could not be broken later: %s", backing.path, error)
        self._write(known)

    def break_left(self, exports: Sequence[Export]) -> None:
        """Break the locks of those who were remembered, and forget them; none of them may run any more.

        Raises:
            CephSilent: Ceph does not answer.
        """
        known = self._known()
        for backing in _written(exports):
            if addresses := known.pop(backing.path, None):
                try:
                    _break(backing, addresses)
                except CephSilent:
                    raise
                except TargetError as error:  # who opens the image next will say what is wrong with it
                    log.warning("the lock on %s was not broken: %s", backing.path, error)
                self._write(known)

    def _write(self, known: Mapping[str, list[str]]) -> None:
        partial = self._file.with_suffix(".part")
        partial.write_text(json.dumps(known))
        partial.rename(self._file)

    def _known(self) -> dict[str, list[str]]:
        try:
            known: dict[str, list[str]] = json.loads(self._file.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return known


def _break(backing: Backing, addresses: Collection[str]) -> None:
    with _opened(backing) as image:
        # A dictionary, or an empty list where nobody holds the lock.
        lockers = (image.list_lockers() or {"lockers": []})["lockers"]
        for client, cookie, address in lockers:
            if address in addresses:
                image.break_lock(client, cookie)


def _written(exports: Sequence[Export]) -> list[Backing]:
    luns = [lun for export in exports for lun in export.luns]
    return [lun.backing for lun in luns if lun.backing.type == "rbd" and not lun.readonly]


@contextmanager
def _opened(backing: Backing) -> Iterator[Any]:
    """Give an image, opened without taking its lock or being among those who have it open."""
    rados, rbd = _bindings("rados"), _bindings("rbd")
    pool, _, name = backing.path.partition("/")
    image, _, snapshot = name.partition("@")
    try:
        # Its own limits: a target waits for Ceph as long as it takes, whoever asks for a target does not.
        cluster = rados.Rados(
            conffile=backing.conf, rados_id=backing.user, conf=dict.fromkeys(_LIMITS, str(_DEADLINE))
        )
        with (
            cluster,
            cluster.open_ioctx(pool) as ioctx,
            rbd.Image(ioctx, image, snapshot=snapshot or None, read_only=True) as opened,
        ):
            yield opened
    except (rados.TimedOut, rbd.Timeout) as error:
        raise CephSilent(
            f"Ceph does not answer within {_DEADLINE} s about the image {backing.path}",
            next_step="look at ceph health detail, then serve the portal anew",
        ) from error
    except (rados.Error, rbd.Error) as error:
        raise TargetError(
            f"the image {backing.path} in Ceph cannot be looked at: {error}",
            next_step=f"try the same: rbd --conf {backing.conf} --id {backing.user} status {backing.path}",
        ) from error


def _bindings(name: str) -> ModuleType:
    try:
        return __import__(name)
    except ImportError as error:
        raise TargetError(
            f"Ceph's Python bindings ({name}) are missing",
            next_step=f"install the Debian package python3-{name} and run scripts/setup again",
        ) from error
