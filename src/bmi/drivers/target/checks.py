"""What every target driver asks of a portal and its exports before it touches anything.

tgtd takes its orders as `key=value,key=value` text, firmware takes names over DHCP: a value with a comma or a
space in it would end up as another order. So only what is known to be harmless is let through.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from pathlib import Path

from bmi.drivers.target import Export, Lun, Portal
from bmi.errors import BadRequest, TargetError

# RFC 7143 4.2.7: up to 223 bytes; the characters are those that tgtd takes in a target's name.
_ISCSI_NAME = re.compile(r"(iqn|eui|naa)\.[A-Za-z0-9:.-]{1,219}")
_USERNAME = re.compile(r"[A-Za-z0-9:._-]{1,64}")
_SECRET = re.compile(r"[!-+\--~]{12,16}")  # visible ASCII without the comma
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_PATH = re.compile(r"/[^,\x00-\x1f\x7f]{0,1022}")
_RBD_PATH = re.compile(r"[A-Za-z0-9._-]{1,64}/[A-Za-z0-9._-]{1,96}(@[A-Za-z0-9._-]{1,96})?")
_CEPH_CONF = re.compile(r"/[^,;\x00-\x1f\x7f]{0,1022}")
_CEPH_USER = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SECTOR = 512  # bytes; what is after the last whole one would be left out
_LUNS = range(1, 256)  # what SAM's flat addressing of one byte can name; 0 is the controller


def check_portal(portal: Portal) -> None:
    """Refuse a portal that no server could listen on.

    Raises:
        BadRequest: Its port or namespace has a value that cannot be used.
    """
    if not 1 <= portal.port <= 65535:
        raise _refusal(f"portal {portal}", f"{portal.port} is no TCP port")
    if portal.namespace is not None and not _NAMESPACE.fullmatch(portal.namespace):
        raise _refusal(f"portal {portal}", f"{portal.namespace!r} is no name of a network namespace")
    if portal.peer is not None and portal.namespace is None:
        raise _refusal(f"portal {portal}", "a peer of its own takes a network namespace of its own")


def check_exports(exports: Sequence[Export]) -> None:
    """Refuse exports that cannot be served as they are, or not beside each other.

    Raises:
        BadRequest: A value cannot be used, or two exports share a name that must be their own.
    """
    for export in exports:
        _check_export(export)
    for what, names in (("name", [e.iqn for e in exports]), ("username", [e.username for e in exports])):
        for name in _repeated(names):
            raise _refusal("exports of a portal", f"two have the {what} {name}")


def fingerprint(export: Export) -> str:
    """Return 32 hexadecimal digits that differ between two exports that differ in anything, secret included.

    Made for a server to carry, so that a changed secret, which cannot be read back, is noticed. A CHAP secret
    of 12 random characters cannot be found from it by trying.
    """
    luns = [(lun.number, *astuple(lun.backing), lun.readonly) for lun in export.luns]
    content = json.dumps([export.iqn, export.initiator, export.username, export.password, sorted(luns)])
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def serial(export: Export, lun: Lun) -> str:
    """Return a logical unit's serial number: the same after every restart, another one for every other unit.

    32 hexadecimal digits, which targets also turn into the unit's NAA identifier.
    """
    return hashlib.blake2b(f"{export.iqn} {lun.number}".encode(), digest_size=16).hexdigest()


def file_problem(who: str, path: Path) -> TargetError | None:
    """Say what keeps a file from being served.

    Args:
        who: The logical unit, in words.
        path: The file.
    """
    if not path.is_file():
        return TargetError(f"{who}: {path} is no file", next_step="look whether the storage is mounted")
    size = path.stat().st_size
    if not size or size % _SECTOR:
        return TargetError(
            f"{who}: {path} has {size} bytes, which are no whole sectors of {_SECTOR}",
            next_step="make the volume again in whole sectors",
        )
    return None


def _check_export(export: Export) -> None:
    who = f"export {export.iqn!r}"
    if not _ISCSI_NAME.fullmatch(export.iqn):
        raise _refusal(who, "this is no iSCSI name")
    if not _ISCSI_NAME.fullmatch(export.initiator):
        raise _refusal(who, f"{export.initiator!r} is no iSCSI name of an initiator")
    if not _USERNAME.fullmatch(export.username):
        raise _refusal(who, f"{export.username!r} cannot be a CHAP name")
    if not _SECRET.fullmatch(export.password):
        raise _refusal(who, "its CHAP secret is not 12 to 16 visible ASCII characters without a comma")
    if not export.luns:
        raise _refusal(who, "it has no LUN")
    for number in _repeated(lun.number for lun in export.luns):
        raise _refusal(who, f"it has two LUNs {number}")
    for lun in export.luns:
        _check_lun(who, lun)


def _check_lun(who: str, lun: Lun) -> None:
    if lun.number not in _LUNS:
        raise _refusal(who, f"LUN {lun.number} is not one of {_LUNS.start} to {_LUNS.stop - 1}")
    backing, where = lun.backing, f"LUN {lun.number}"
    if backing.type == "file":
        if not _PATH.fullmatch(backing.path):
            raise _refusal(who, f"the backing path {backing.path!r} of {where} is not absolute or not plain")
    elif backing.type == "rbd":
        if not _RBD_PATH.fullmatch(backing.path):
            raise _refusal(
                who, f"the backing {backing.path!r} of {where} is no pool/image or pool/image@snapshot"
            )
        if not _CEPH_CONF.fullmatch(backing.conf):
            raise _refusal(who, f"Ceph's configuration {backing.conf!r} of {where} is no plain absolute path")
        if not _CEPH_USER.fullmatch(backing.user):
            raise _refusal(who, f"{backing.user!r} of {where} cannot be a CephX user")
    else:
        raise _refusal(who, f"{where} has a backing of type {backing.type!r}, neither a file nor rbd")


def _repeated(values: Iterable[object]) -> list[object]:
    return [value for value, times in Counter(values).items() if times > 1]


def _refusal(who: str, cause: str) -> BadRequest:
    return BadRequest(f"{who} cannot be served: {cause}", next_step="correct the value")
