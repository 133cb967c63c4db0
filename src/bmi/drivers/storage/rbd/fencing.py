"""Cuts off the other clients that have an image open."""

from collections.abc import Iterable
from typing import Any

from bmi.drivers.storage.rbd.session import Session
from bmi.wait import wait_until

_DEADLINE = 10.0  # seconds until the OSDs have taken note; well under one where they answer


def fence(session: Session, name: str) -> tuple[str, ...]:
    """Cut off every other client that has an image open, dead or alive, and wait until none has.

    Ceph lets nothing of such a client through any more, neither to this image nor to others. A BMI that this
    happens to connects again; a target has to be started again.

    Returns:
        The addresses that were cut off.

    Raises:
        DeadlineExceeded: The OSDs do not take note.
    """
    with session.image(name) as image:
        addresses = _others(session, image)
        cut_off(session, image, addresses)
    return addresses


def cut_off(session: Session, image: Any, addresses: Iterable[str]) -> None:
    """Cut clients off, and wait until no other client than this one has an open image open for writing.

    Raises:
        DeadlineExceeded: The OSDs do not take note.
    """
    for address in addresses:
        session.cluster.blocklist_add(address, 0)  # for as long as Ceph keeps such entries: an hour
    session.cluster.wait_for_latest_osdmap()
    wait_until(
        lambda: not watchers(session, image),
        deadline=_DEADLINE,
        what="Ceph to cut off those who have an image open",
        next_step="look whether its OSDs answer: ceph status",
    )


def watchers(session: Session, image: Any) -> set[str]:
    """Return the addresses of other clients that have an open image open for writing.

    One that died counts for half a minute more.
    """
    return {each["addr"] for each in image.watchers_list() if each["id"] != session.client}


def _others(session: Session, image: Any) -> tuple[str, ...]:
    # One whose watch ran out may still hold the lock, and have writes on their way.
    locked = image.list_lockers()
    holders = {
        address
        for client, _, address in (locked["lockers"] if locked else ())
        if client != f"client.{session.client}"
    }
    return tuple(sorted(watchers(session, image) | holders))
