"""Who is logged in at an export of the kernel's target."""

import re
from pathlib import Path

from bmi.drivers.target import Session

_ID = re.compile(r"^LIO Session ID: (\d+) ", re.MULTILINE)
_ADDRESS = re.compile(r"^ +Address (\S+) ", re.MULTILINE)


def sessions(tpg: Path, iqn: str) -> list[Session]:
    """List an export's sessions: the newest of its initiator, which is all that the kernel shows."""
    return [session for acl in (tpg / "acls").iterdir() if acl.is_dir() and (session := _session(acl, iqn))]


def parse(info: str) -> tuple[int, str] | None:
    """Return a session's number and its initiator's address, from what the kernel says of an initiator.

    The initiator's alias is part of it, whatever text the initiator chose, with line breaks. It comes before what
    is looked for: so the last number is the kernel's own, and so is the address that follows that.

    Returns:
        None if nobody is logged in.
    """
    numbers = list(_ID.finditer(info))
    if not numbers:
        return None
    address = _ADDRESS.search(info, numbers[-1].end())
    return int(numbers[-1][1]), address[1] if address else ""


def _session(acl: Path, iqn: str) -> Session | None:
    found = parse((acl / "info").read_text(errors="replace"))
    if found is None:
        return None
    number, address = found
    return Session(iqn, acl.name, address, _made(acl) << 32 | number)


def _made(acl: Path) -> int:
    """Return when an export was made, in hundredths of a second: it counts its sessions from 1."""
    times = sorted(acl.glob("lun_*/statistics/scsi_auth_intr/creation_time"))
    return int(times[0].read_text()) if times else 0
