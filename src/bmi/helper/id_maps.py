"""Users and groups of user namespaces (user_namespaces(7)), for whoever may not set them by himself.

A service that can gain no rights cannot use newuidmap(1), which is root's by a bit on its file. This does the same:
into the namespace of a process of the service's user go ids that subuid(5) and subgid(5) give to that user, and his
own.
"""

import fcntl
import os
import pwd
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bmi.errors import BadRequest, NotAllowed

_NS_GET_PARENT = 0xB702  # <linux/nsfs.h>; see ioctl_ns(2)
_NS_GET_OWNER_UID = 0xB704
_OWN = Path("/proc/self/ns/user")
_RANGES = 16  # at the most, in one map


class Ids(StrEnum):
    """Whose ids are mapped."""

    USERS = "uid"
    GROUPS = "gid"


@dataclass(frozen=True)
class IdRange:
    """Ids of a namespace, and what they are outside of it."""

    inside: int
    outside: int
    count: int


class IdMaps:
    """Sets the maps of one user's namespaces."""

    def __init__(self, user: int) -> None:
        self._user = user

    def write(self, pid: int, ids: Ids, ranges: Sequence[IdRange]) -> None:
        """Set a map of a process's user namespace, which the kernel allows once.

        Args:
            pid: The process.
            ids: Which map.
            ranges: What goes in.

        Raises:
            NotAllowed: The namespace, or an id, is not the user's.
            BadRequest: There is no such process, or the kernel does not take it.
        """
        self._require_given(ids, ranges)
        try:
            # All by this descriptor: the kernel may give the process's number to another one at any moment.
            process = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _impossible(pid, error) from error
        try:
            self._require_own_namespace(process, pid)
            file = os.open(f"{ids}_map", os.O_WRONLY | os.O_CLOEXEC, dir_fd=process)
            try:
                lines = (f"{each.inside} {each.outside} {each.count}\n" for each in ranges)
                os.write(file, "".join(lines).encode())
            finally:
                os.close(file)
        except OSError as error:
            raise _impossible(pid, error) from error
        finally:
            os.close(process)

    def _require_given(self, ids: Ids, ranges: Sequence[IdRange]) -> None:
        others = _given(ids, self._user)
        given = [*others, _himself(ids, self._user)]
        if not 0 < len(ranges) <= _RANGES:
            raise BadRequest(f"a map of {len(ranges)} ranges", next_step=f"give 1 to {_RANGES}")
        for each in ranges:
            wanted = range(each.outside, each.outside + each.count)
            if each.count < 1 or not any(wanted.start in part and wanted[-1] in part for part in given):
                raise NotAllowed(
                    f"{ids}s {each.outside} to {each.outside + each.count - 1} are not given to user {self._user}",
                    next_step=f"give them to him: /etc/sub{ids}, usermod --add-sub{ids}s",
                )
        if ids is Ids.GROUPS and not any(each.outside in part for each in ranges for part in others):
            # With his own group alone he could drop groups that keep him from files (CVE-2018-7169).
            raise NotAllowed(
                f"a map of user {self._user}'s own group alone",
                next_step="map it by yourself, without setgroups",
            )

    def _require_own_namespace(self, process: int, pid: int) -> None:
        space = os.open("ns/user", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)
        try:
            if os.fstat(space).st_ino == _OWN.stat().st_ino:
                raise NotAllowed(
                    f"process {pid} has no user namespace", next_step="report this as a bug of BMI"
                )
            owner = bytearray(4)
            fcntl.ioctl(space, _NS_GET_OWNER_UID, owner)
            parent = fcntl.ioctl(space, _NS_GET_PARENT)
            try:
                outermost = os.fstat(parent).st_ino == _OWN.stat().st_ino
            finally:
                os.close(parent)
        finally:
            os.close(space)
        if int.from_bytes(owner, "little") != self._user or not outermost:
            raise NotAllowed(
                f"the user namespace of process {pid} is not one of user {self._user}",
                next_step="report this as a bug of BMI",
            )


def _himself(ids: Ids, user: int) -> range:
    if ids is Ids.GROUPS:
        with suppress(KeyError):  # a number without a name has the group of the same number
            user = pwd.getpwuid(user).pw_gid
    return range(user, user + 1)


def _given(ids: Ids, user: int) -> list[range]:
    """Read what the host gives to a user: lines of his name or number, the first id, how many."""
    names, lines = {str(user)}, []
    with suppress(KeyError):  # a number without a name
        names.add(pwd.getpwuid(user).pw_name)
    with suppress(FileNotFoundError):
        lines = Path(f"/etc/sub{ids}").read_text().splitlines()
    found = []
    for line in lines:
        name, _, numbers = line.partition(":")
        first, _, count = numbers.partition(":")
        if name in names and first.isdecimal() and count.isdecimal():
            found.append(range(int(first), int(first) + int(count)))
    return found


def _impossible(pid: int, error: OSError) -> BadRequest:
    return BadRequest(
        f"the ids of process {pid} cannot be set: {error.strerror}",
        next_step="see what became of the process",
    )
