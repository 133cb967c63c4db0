"""tgtd's management socket: the protocol that tgtadm speaks, spoken without starting a process for each
request.

One request a connection: a fixed header (`struct tgtadm_req` in usr/tgtadm.h of tgt 1.0.85), then text of the
form `key=value,key=value` that ends with a NUL byte; the answer is a code, a length and text. tgtd answers
only a caller of its own user and group.
"""

import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from pathlib import Path

from bmi.drivers.storage import Backing
from bmi.drivers.target import tgt_listing
from bmi.drivers.target.tgt_listing import Connection, ListedTarget
from bmi.errors import TargetError

NAME = "m"
"""Value of TGT_IPC_SOCKET, relative to the folder that tgtd is started in."""
_FILE = f"{NAME}.0"  # tgtd appends its control port

BSTYPES = {"file": "rdwr", "rbd": "rbd"}
"""What tgtd calls the types of backings."""

_HEADER = struct.Struct("=II64sIiQQIIIIII")
_ANSWER = struct.Struct("=II")
_CREDENTIALS = struct.Struct("=iII")  # struct ucred of unix(7): pid, uid, gid
_TIMEVAL = struct.Struct("@ll")  # struct timeval: seconds, microseconds
_EVERYTHING = -1  # tid of a request that is about all targets, or about discovery


class _Mode(IntEnum):
    SYSTEM = 0
    TARGET = 1
    DEVICE = 2
    PORTAL = 3
    DRIVER = 4
    CONNECTION = 6
    ACCOUNT = 7


class _Op(IntEnum):
    NEW = 0
    DELETE = 1
    SHOW = 2
    BIND = 3
    UNBIND = 4
    UPDATE = 5


class Code(IntEnum):
    """What tgtd answers (`enum tgtadm_errno` in usr/tgtadm_error.h), as far as a caller cares."""

    NO_TARGET = 4
    NO_LUN = 5
    NO_SESSION = 6
    NO_CONNECTION = 7
    TARGET_EXISTS = 9
    ACL_EXISTS = 12
    NO_ACL = 13
    USER_EXISTS = 14
    NO_USER = 15
    INVALID = 17
    TARGET_ACTIVE = 19
    LUN_ACTIVE = 20


class Refused(TargetError):
    """tgtd answered a request with an error code."""

    def __init__(self, what: str, code: int) -> None:
        known = Code(code).name.lower().replace("_", " ") if code in set(Code) else "error"
        super().__init__(f"tgtd refused to {what}: {known} ({code})", next_step="look into its log")
        self.tgtd_code = code


class Unanswered(TargetError):
    """tgtd did not answer a request in time."""


class TgtSocket:
    """The management socket of one tgtd. Every call raises `Unanswered` if tgtd does not answer in time.

    Args:
        folder: Where the socket is.
        deadline: Seconds for each call; tgtd's one event loop answers in a millisecond unless it hangs.
    """

    def __init__(self, folder: Path, deadline: float) -> None:
        self._folder = folder
        self._deadline = deadline

    def pid(self) -> int | None:
        """Say which process listens on the socket, or None if none does.

        It is asked for something as well. A connection that is closed without a request tgtd takes for one that has
        nothing to say yet, if the last thing that it did otherwise was to wait (usr/mgmt.c looks at errno after a
        read of no bytes): it keeps the descriptor and reads it again and again, for good.
        """
        end = time.monotonic() + self._deadline
        try:
            with self._connected(end) as connection:
                credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
                with suppress(BlockingIOError):  # it hangs
                    _exchange(connection, _request(_Mode.DRIVER, _Op.SHOW), end)
        except (FileNotFoundError, ConnectionError):
            return None
        except OSError as error:
            raise self._unanswered(error) from error
        pid: int = _CREDENTIALS.unpack(credentials)[0]
        return pid

    # --- what is there -----------------------------------------------------------------------------------

    def target_ids(self) -> dict[str, int]:
        """Return the ids of all targets by name."""
        return tgt_listing.target_ids(self._call("list targets", _Mode.DRIVER, _Op.SHOW))

    def targets(self) -> list[ListedTarget]:
        """Return all targets with what belongs to them."""
        ids = self.target_ids()
        text = self._call("show targets", _Mode.TARGET, _Op.SHOW, tid=_EVERYTHING)
        return tgt_listing.targets(text, ids)

    def connections(self, tid: int) -> list[Connection]:
        """Return who is logged in at a target."""
        return tgt_listing.connections(
            self._call("show connections", _Mode.CONNECTION, _Op.SHOW, tid=tid),
        )

    def accounts(self) -> set[str]:
        """Return the names of all accounts, bound or not."""
        return tgt_listing.accounts(self._call("show accounts", _Mode.ACCOUNT, _Op.SHOW))

    def portals(self) -> list[str]:
        """Return the addresses that tgtd listens on, as `ADDRESS:PORT`."""
        return tgt_listing.portals(self._call("show portals", _Mode.PORTAL, _Op.SHOW))

    # --- targets -----------------------------------------------------------------------------------------

    def new_target(self, tid: int, name: str) -> None:
        """Make a target that lets nobody in yet."""
        self._call(f"make target {name}", _Mode.TARGET, _Op.NEW, tid=tid, text=f"targetname={name}")

    def delete_target(self, tid: int) -> None:
        """Remove a target that nobody is logged in at, with its LUNs and ACL."""
        self._call(f"delete target {tid}", _Mode.TARGET, _Op.DELETE, tid=tid)

    def set_key(self, tid: int, key: str, value: str) -> None:
        """Choose what a target offers for a key in the log-in negotiation (RFC 7143 13)."""
        self._call(f"set {key}", _Mode.TARGET, _Op.UPDATE, tid=tid, text=f"{key}={value}")

    def allow(self, tid: int, initiator: str) -> None:
        """Let an initiator see a target and log in."""
        self._call(f"let {initiator} in", _Mode.TARGET, _Op.BIND, tid=tid, text=f"initiator-name={initiator}")

    def disallow(self, tid: int, initiator: str) -> None:
        """Refuse new log-ins of an initiator; those that are there stay."""
        self._call(
            f"shut {initiator} out", _Mode.TARGET, _Op.UNBIND, tid=tid, text=f"initiator-name={initiator}"
        )

    def close_connection(self, tid: int, connection: Connection) -> None:
        """Close an initiator's connection."""
        self._call(
            f"close the connection of {connection.initiator}",
            _Mode.CONNECTION,
            _Op.DELETE,
            tid=tid,
            sid=connection.session,
            cid=connection.number,
        )

    # --- logical units -----------------------------------------------------------------------------------

    def new_lun(self, tid: int, lun: int, backing: Backing) -> None:
        """Add a logical unit.

        A file is flushed to the disk when the initiator asks, an image in Ceph out of librbd's cache. While an
        image is opened tgtd does nothing else, for as long as the limits in Ceph's configuration allow.
        """
        text = f"path={backing.path},bstype={BSTYPES[backing.type]}"
        if backing.type == "rbd":
            text += f",bsopts=conf={backing.conf};id={backing.user}"
        self._call(f"add LUN {lun} on {backing.path}", _Mode.DEVICE, _Op.NEW, tid=tid, lun=lun, text=text)

    def set_lun(self, tid: int, lun: int, **parameters: str) -> None:
        """Set parameters of a logical unit, such as `scsi_sn` or `readonly`."""
        text = ",".join(f"{key}={value}" for key, value in parameters.items())
        self._call(f"set LUN {lun}", _Mode.DEVICE, _Op.UPDATE, tid=tid, lun=lun, text=text)

    # --- accounts ----------------------------------------------------------------------------------------

    def new_account(self, user: str, password: str) -> None:
        """Make a CHAP account."""
        text = f"user={user},password={password}"
        self._call(f"make account {user}", _Mode.ACCOUNT, _Op.NEW, text=text)

    def bind_account(self, user: str, tid: int) -> None:
        """Ask for this account's secret at a target."""
        self._call(f"bind account {user}", _Mode.ACCOUNT, _Op.BIND, tid=tid, text=f"user={user}")

    def bind_discovery_account(self, user: str) -> None:
        """Ask for this account's secret in discovery sessions.

        Never bind more than a few: the array behind is static, and tgtd frees it when it grows beyond 16.
        """
        self.bind_account(user, _EVERYTHING)

    def delete_account(self, user: str) -> None:
        """Remove an account. A target that has it lets initiators in without a secret from then on."""
        self._call(f"delete account {user}", _Mode.ACCOUNT, _Op.DELETE, text=f"user={user}")

    # --- portals -----------------------------------------------------------------------------------------

    def new_portal(self, address: str) -> None:
        """Listen on `ADDRESS:PORT`. tgtd answers INVALID whatever the reason; it stands in its log."""
        self._call(f"listen on {address}", _Mode.PORTAL, _Op.NEW, text=f"portal={address}")

    def delete_portal(self, address: str) -> None:
        """Listen no longer on `ADDRESS:PORT`, as `portals` gives it. Sessions stay."""
        self._call(f"leave {address}", _Mode.PORTAL, _Op.DELETE, text=f"portal={address}")

    # --- the wire ----------------------------------------------------------------------------------------

    def _call(
        self,
        what: str,
        mode: _Mode,
        op: _Op,
        *,
        tid: int = 0,
        sid: int = 0,
        lun: int = 0,
        cid: int = 0,
        text: str = "",
    ) -> str:
        """Send a request and return the text of the answer. `what` stands in errors; the text never does."""
        request = _request(mode, op, tid=tid, sid=sid, lun=lun, cid=cid, text=text)
        end = time.monotonic() + self._deadline
        try:
            with self._connected(end) as connection:
                code, answer = _exchange(connection, request, end)
        except OSError as error:
            raise self._unanswered(error) from error
        if code:
            raise Refused(what, code)
        return os.fsdecode(answer.rstrip(b"\0"))

    @contextmanager
    def _connected(self, end: float) -> Iterator[socket.socket]:
        # A socket's address has 107 bytes (unix(7)) and a state folder may be longer than that: go by an open
        # folder, whose name under /proc is always short.
        folder = os.open(self._folder, os.O_PATH | os.O_DIRECTORY)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                # The kernel's own time limit, not settimeout: with that, a full queue of tgtd is an error at
                # once.
                _limit(connection, socket.SO_SNDTIMEO, end)
                connection.connect(f"/proc/self/fd/{folder}/{_FILE}")
                yield connection
        finally:
            os.close(folder)

    def _unanswered(self, error: OSError) -> Unanswered:
        cause = f"nothing within {self._deadline:g} s" if isinstance(error, BlockingIOError) else str(error)
        return Unanswered(
            f"the tgtd of portal {self._folder.name} does not answer: {cause}",
            next_step="try again; if it hangs, stop the portal and serve it anew",
        )


def _request(
    mode: _Mode, op: _Op, *, tid: int = 0, sid: int = 0, lun: int = 0, cid: int = 0, text: str = ""
) -> bytes:
    body = os.fsencode(text) + b"\0" if text else b""
    length = _HEADER.size + len(body)
    return _HEADER.pack(mode, op, b"iscsi", length, tid, sid, lun, cid, 0, 0, 0, 0, 0) + body


def _exchange(connection: socket.socket, request: bytes, end: float) -> tuple[int, bytes]:
    """Send a request, and return the code and the text of the answer."""
    connection.sendall(request)
    code, size = _ANSWER.unpack(_receive(connection, _ANSWER.size, end))
    return code, b"" if code else _receive(connection, size - _ANSWER.size, end)


def _receive(connection: socket.socket, size: int, end: float) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        _limit(connection, socket.SO_RCVTIMEO, end)
        part = connection.recv(min(size - len(parts), 1 << 16))
        if not part:
            raise ConnectionResetError("it closed the connection before the answer was complete")
        parts += part
    return bytes(parts)


def _limit(connection: socket.socket, option: int, end: float) -> None:
    """Let the kernel end a call on a socket with EAGAIN once the deadline has passed."""
    left = end - time.monotonic()
    if left <= 0:
        raise BlockingIOError
    connection.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(int(left), int(left % 1 * 1e6) or 1))
