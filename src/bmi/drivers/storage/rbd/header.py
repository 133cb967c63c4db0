"""Reads what Ceph keeps about an image without opening it, and mends one thing that librbd leaves.

To open an image takes a dozen requests, and as many again for the image that it was cloned from; these are four.
The OSDs' own classes answer them (methods `get_id`, `get_snapcontext` and `parent_get` of the class `rbd`,
`get_info` of the class `lock`), in Ceph's encoding, which carries versions. Where an answer is not as expected
there is none, and callers open the image.
"""

import struct
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from bmi.drivers.storage.rbd.bindings import rados
from bmi.drivers.storage.rbd.session import Session

ID_OBJECT = "rbd_id."
"""Begins the name of the object in which Ceph keeps the id of the image of a name; `rbd_directory` has both too."""

_HEADER_OBJECT = "rbd_header."
_TRASH_OBJECT = "rbd_trash"
_NORMAL, _MOVING = b"\0", b"\1"
"""States of what is in the trash (TrashImageState, cls_rbd_types.h): it is there; it is being put there."""
_LOCK = b"rbd_lock"  # the lock of whoever writes
_CHANGED = "\1\1\4\0\0\0\3\0\0\0"
"""What watchers are told: NotifyMessage of librbd (WatchNotifyTypes.h), version 1, four bytes: HEADER_UPDATE, 3."""

_ANSWER = 1000  # milliseconds in which a living watcher has answered
_DEADLINE = 10.0  # seconds
_VERSIONED = struct.Struct("<BBI")  # version, least version of a reader, length
_COUNT = struct.Struct("<I")
_POOL = struct.Struct("<q")
_SNAPSHOTS = struct.Struct("<QI")  # the newest one's number, how many there are
_UNREADABLE = (rados.Error, struct.error, UnicodeDecodeError)


@dataclass(frozen=True)
class Header:
    """What an image's header says."""

    id: str
    parent: str | None
    """Ceph's id of the image that it was cloned from."""
    snapshots: int
    lockers: int
    """How many clients hold the lock for writing, dead ones too."""


def read(session: Session, name: str) -> Header | None:
    """Read an image's header; None if it cannot be read, or the image does not exist."""
    try:
        id, _ = _string(_ask(session, f"{ID_OBJECT}{name}", "rbd", "get_id"), 0)
    except _UNREADABLE:
        return None
    return read_by_id(session, id)


def read_by_id(session: Session, id: str) -> Header | None:
    """Read the header of an image of which Ceph's id is known, as of one in the trash; see `read`."""
    header = f"{_HEADER_OBJECT}{id}"
    try:
        _, snapshots = _SNAPSHOTS.unpack_from(_ask(session, header, "rbd", "get_snapcontext"))
        parent = _parent(_ask(session, header, "rbd", "parent_get"))
        asked = _encoded(_LOCK)
        lock = _ask(session, header, "lock", "get_info", _VERSIONED.pack(1, 1, len(asked)) + asked)
        (lockers,) = _COUNT.unpack_from(lock, _VERSIONED.size)
    except _UNREADABLE:
        return None
    return Header(id, parent, snapshots, lockers)


def watched(session: Session, header: Header) -> bool:
    """Say whether anybody has an image open for writing, also one who died less than half a minute ago.

    OSDs do not list watchers to these bindings. So all who watch are told that the header may have changed: who
    lives looks at it again, which does no harm, and answers; who died does not. Where nobody watches, nobody is
    waited for.
    """
    answers: SimpleQueue[bool] = SimpleQueue()

    def answered(_completion: Any, status: int, acks: list[Any] | None, silent: list[Any] | None) -> None:
        answers.put(status < 0 or bool(acks or silent))

    session.pool.aio_notify(f"{_HEADER_OBJECT}{header.id}", answered, _CHANGED, timeout_ms=_ANSWER)
    try:
        return answers.get(timeout=_DEADLINE)
    except Empty:
        return True  # Ceph itself is silent, as the next request will say


def end_move(session: Session, id: str) -> None:
    """Say of an image that it is in the trash if somebody died who was about to put it there.

    librbd itself goes by the image's name here, and another image may have got that since.

    Args:
        session: The session.
        id: Ceph's id of the image, which has no name any more.
    """
    asked = _encoded(id.encode()) + _NORMAL + _MOVING  # what it becomes, and what it must have been
    session.pool.execute(_TRASH_OBJECT, "rbd", "trash_state_set", asked)


def _ask(session: Session, key: str, cls: str, method: str, asked: bytes = b"") -> bytes:
    status, answer = session.pool.execute(key, cls, method, asked)
    if status < 0:
        raise rados.OSError(f"{cls}.{method} of {key}", errno=-status)
    return bytes(answer)


def _parent(spec: bytes) -> str | None:
    """Read a parent: its pool, that pool's namespace, its id; the pool is -1 where there is no parent."""
    (pool,) = _POOL.unpack_from(spec, _VERSIONED.size)
    if pool < 0:
        return None
    _, at = _string(spec, _VERSIONED.size + _POOL.size)
    return _string(spec, at)[0]


def _encoded(text: bytes) -> bytes:
    return _COUNT.pack(len(text)) + text


def _string(data: Any, at: int) -> tuple[str, int]:
    """Read a string, and say where it ends."""
    (length,) = _COUNT.unpack_from(data, at)
    begin = at + _COUNT.size
    if len(data) < begin + length:
        raise struct.error("too short")
    return data[begin : begin + length].decode(), begin + length
