"""How an export is put together in the kernel's target, how it is seen there, and how it is taken apart.

Reading is reading files of configfs. Changing is rtslib's, which knows the order in which the kernel takes things.

An export is enabled last and disabled first. So one that is not is half-made or half-removed, and nobody can log in
at it: it can be cleared away at any time.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from rtslib_fb import (
    LUN,
    TPG,
    FabricModule,
    FileIOStorageObject,
    MappedLUN,
    NetworkPortal,
    NodeACL,
    RTSLibError,
    Target,
)

from bmi.drivers.storage import Backing
from bmi.drivers.target import Export, Lun
from bmi.drivers.target.checks import file_problem, serial
from bmi.drivers.target.lio_kernel import told, unless_gone
from bmi.drivers.target.lio_names import LONGEST_IQN, Backstore, backstore, backstores, free_index, tpg
from bmi.drivers.target.lio_session import sessions
from bmi.errors import BadRequest, TargetError

_VENDOR = "BMI"

# What the kernel offers at log-in. Its defaults make sequential writes wait for an invitation for each 64 KiB. The
# initiator's own limits still hold, the smaller value of the two counts.
_NEGOTIATION = {
    "AuthMethod": "CHAP",
    "MaxConnections": "1",
    "MaxRecvDataSegmentLength": "1048576",  # bytes
    "MaxXmitDataSegmentLength": "1048576",  # bytes
    "FirstBurstLength": "1048576",  # bytes
    "MaxBurstLength": "4194304",  # bytes
    "InitialR2T": "No",
    "ImmediateData": "Yes",
    "MaxOutstandingR2T": "8",
}

_CLOSED = {"authentication": 1, "generate_node_acls": 0, "cache_dynamic_acls": 0, "demo_mode_discovery": 0}
"""Only the initiator that has an ACL is let in, and only with its secret; all of these are defaults of some kernels
and not of others."""

LONGEST_PATH = 255
"""Bytes of a file's path that the kernel keeps (FD_MAX_DEV_NAME): it would open, and make, what a longer one begins
with."""

_NO_EXTRAS = {"emulate_3pc": 0, "emulate_pr": 0, "emulate_tpu": 0}
"""Switched off: third-party copies, which name other disks of this host (CVE-2020-28374); persistent reservations,
which outlive an initiator; UNMAP, as with tgt."""

_FILE = re.compile(r" File: (.*)  Size: (\d+)  Mode: ")


@dataclass(frozen=True)
class ListedLun:
    """A logical unit as it is in the kernel."""

    path: str
    size: int
    """Bytes."""
    readonly: bool
    write_back: bool


@dataclass(frozen=True)
class ListedExport:
    """An export as it is in the kernel."""

    iqn: str
    enabled: bool
    initiators: tuple[str, ...]
    username: str
    password: str = field(repr=False)
    luns: dict[int, ListedLun]

    def as_export(self) -> Export:
        """Return what initiators can log in at, without what is not told: the secret."""
        return Export(
            self.iqn,
            self.initiators[0] if self.initiators else "",
            self.username,
            password="",
            luns=tuple(
                Lun(number, Backing("file", lun.path), lun.readonly)
                for number, lun in sorted(self.luns.items())
            ),
        )


def check_names(export: Export) -> None:
    """Refuse names that the kernel's target would know by another text.

    Raises:
        BadRequest: One is such.
    """
    for name in (export.iqn, export.initiator):
        try:
            normal, _ = FabricModule("iscsi").to_normalized_wwn(name)
        except RTSLibError:
            normal = None
        if normal != name:
            raise BadRequest(
                f"export {export.iqn} cannot be served: rtslib does not take the name {name}",
                next_step="use small letters and two parts after the date, as in iqn.2026-01.org.example:disk",
            )
    if len(export.iqn) > LONGEST_IQN:
        raise BadRequest(
            f"export {export.iqn} cannot be served: its name has more than {LONGEST_IQN} characters",
            next_step="use a shorter prefix (setting boot.iqn_prefix)",
        )


def pieces(mark: str, portal: UUID) -> dict[str, list[Backstore]]:
    """Return what an installation has of a portal's exports, whole ones and others, by their names."""
    found: dict[str, list[Backstore]] = defaultdict(list)
    for each in backstores(mark):
        if each.portal == portal:
            found[each.iqn].append(each)
    return dict(found)


def listed(iqns: Iterable[str]) -> list[ListedExport]:
    """Return the exports of these names that are there."""
    found = []
    for iqn in iqns:
        with unless_gone():
            found.append(_listed(iqn))
    return found


def same(found: ListedExport, export: Export, *, write_back: bool) -> bool:
    """Say whether an export is there as it should be, apart from its being enabled. Its disks may have grown."""
    wanted = {
        lun.number: ListedLun(lun.backing.path, size, lun.readonly, write_back)
        for lun in export.luns
        if (size := _size(lun)) is not None
    }
    return (
        found.luns == wanted
        and len(wanted) == len(export.luns)
        and found.initiators == (export.initiator,)
        and (found.username, found.password) == (export.username, export.password)
    )


def make(fabric: FabricModule, mark: str, portal: UUID, export: Export, *, write_back: bool) -> None:
    """Make an export. Initiators reach it when its portal is opened for it.

    Raises:
        TargetError: A file is not what it should be, or the kernel does not take it.
    """
    for lun in export.luns:
        if problem := file_problem(f"LUN {lun.number} of {export.iqn}", Path(lun.backing.path)):
            raise problem
    if tpg(export.iqn).parent.exists():
        raise TargetError(
            f"{export.iqn} is served on another portal of this host, or by another program",
            next_step="remove it there: the kernel has one target of a name",
        )
    with told(f"export {export.iqn}"):
        behind = {lun.number: _make_backstore(mark, portal, export, lun, write_back) for lun in export.luns}
        group = TPG(Target(fabric, export.iqn, "create"), 1, "create")
        for key, number in _CLOSED.items():
            group.set_attribute(key, number)
        for key, text in _NEGOTIATION.items():
            group.set_parameter(key, text)
        for number, storage in behind.items():
            LUN(group, number, storage)
        _let_in(group, export)
    with told(f"export {export.iqn} to be read back"):
        found = _listed(export.iqn)
    if not same(found, export, write_back=write_back):
        raise TargetError(
            f"the kernel made {export.iqn} other than it was told: {found}",
            next_step="look whether its files changed meanwhile, and into dmesg",
        )
    with told(f"export {export.iqn} to be enabled"):
        group.enable = True


def take_apart(fabric: FabricModule, iqn: str, behind: Sequence[Backstore], seen: set[str]) -> None:
    """Remove an export with its sessions, or what there is of one.

    Args:
        fabric: The kernel's iSCSI target.
        iqn: Its name.
        behind: Its backstores.
        seen: Gets the initiators that were logged in, also when it fails.

    Raises:
        TargetError: The kernel does not let go of it.
    """
    with told(f"the end of {iqn}"):
        folder = tpg(iqn)
        if folder.is_dir():
            close(iqn, keep=None)  # nobody comes in while the ones inside are counted
            seen |= {session.initiator for session in sessions(folder, iqn)}
        if folder.parent.is_dir():
            Target(fabric, iqn, "lookup").delete()
        for each in behind:
            FileIOStorageObject(each.folder.name, index=each.index).delete()


def close(iqn: str, *, keep: str | None) -> bool:
    """Take a target away from the addresses that it is reached at, but for one; returns whether there were any."""
    others = [found.name for found in (tpg(iqn) / "np").iterdir() if found.name != keep]
    for name in others:
        address, _, port = name.rpartition(":")
        group = TPG(Target(FabricModule("iscsi"), iqn, "lookup"), 1, "lookup")
        NetworkPortal(group, address, int(port), "lookup").delete()
    return bool(others)


# --- making -----------------------------------------------------------------------------------------------


def _make_backstore(
    mark: str, portal: UUID, export: Export, lun: Lun, write_back: bool
) -> FileIOStorageObject:
    name = backstore(mark, portal, export.iqn, lun.number)
    storage = FileIOStorageObject(
        name,
        lun.backing.path,
        _size(lun),
        wwn=serial(export, lun),
        write_back=write_back,
        index=free_index(name),
    )
    for key, value in _NO_EXTRAS.items():
        storage.set_attribute(key, value)
    Path(storage.path, "wwn", "vendor_id").write_text(_VENDOR)
    return storage


def _let_in(group: TPG, export: Export) -> None:
    acl = NodeACL(group, export.initiator, "create")
    acl.chap_userid = export.username
    acl.chap_password = export.password
    acl.set_attribute("nopin_timeout", 0)  # iPXE takes a NOP-In for an error
    for lun in export.luns:
        MappedLUN(acl, lun.number, lun.number, write_protect=lun.readonly)


# --- what is there ----------------------------------------------------------------------------------------


def _listed(iqn: str) -> ListedExport:
    folder = tpg(iqn)
    acls = sorted((folder / "acls").iterdir())
    mapped = sorted(acls[0].glob("lun_*")) if acls else []
    return ListedExport(
        iqn,
        enabled=_read(folder / "enable") == "1",
        initiators=tuple(acl.name for acl in acls),
        username=_read(acls[0] / "auth" / "userid") if acls else "",
        password=_read(acls[0] / "auth" / "password") if acls else "",
        luns={int(lun.name.rpartition("_")[2]): found for lun in mapped if (found := _listed_lun(lun))},
    )


def _listed_lun(mapped: Path) -> ListedLun | None:
    """Return a LUN as an initiator sees it; None if it is half-made, and leads nowhere."""
    unit = _led_to(mapped)
    storage = unit and _led_to(unit)
    if storage is None:
        return None
    file = _FILE.search((storage / "info").read_text())
    return ListedLun(
        path=file[1] if file else "",
        size=int(file[2]) if file else 0,
        readonly=_read(mapped / "write_protect") == "1",
        write_back=_read(storage / "attrib" / "emulate_write_cache") == "1",
    )


def _led_to(folder: Path) -> Path | None:
    """Return what the one link in a folder leads to: an initiator's LUN to the target's, that to its backstore."""
    return next((link.resolve() for link in folder.iterdir() if link.is_symlink()), None)


def _read(file: Path) -> str:
    return file.read_text().strip()


def _size(lun: Lun) -> int | None:
    try:
        return Path(lun.backing.path).stat().st_size
    except OSError:
        return None
