"""How an export is put together in a running tgtd, and how it is taken apart.

The name of the initiator that is let in is bound last and unbound first. So an export without it is half-made
or half-removed, and nobody can log in at it: it can be cleared away at any time.
"""

import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bmi.drivers.storage import Backing
from bmi.drivers.target import Export, Lun
from bmi.drivers.target.checks import file_problem, fingerprint, serial
from bmi.drivers.target.tgt_listing import ListedTarget
from bmi.drivers.target.tgt_log import Log
from bmi.drivers.target.tgt_socket import BSTYPES, Code, Refused, TgtSocket
from bmi.errors import BadRequest, DeadlineExceeded, TargetError
from bmi.wait import wait_until

DISCOVERY_ACCOUNT = "bmi-discovery"
"""Whose secret nobody knows: a discovery session would tell a target's name to whoever claims to be its
initiator, without asking for a secret. Nodes know the name and need no discovery."""

_VENDOR = "BMI"
_RETRY = 0.002  # seconds; a closed session of a busy initiator is gone after some milliseconds
_TYPES = {bstype: type for type, bstype in BSTYPES.items()}
_LAST_TID = 0x7FFF_FFFF  # ids are int32_t in tgtd, and negative ones mean all targets

# What tgtd offers at log-in. Its defaults make sequential writes three times slower: each 8 KiB waits for an
# invitation. The initiator's own limits still hold, the smaller value of the two counts.
_NEGOTIATION = {
    "MaxRecvDataSegmentLength": "1048576",  # bytes
    "FirstBurstLength": "1048576",  # bytes
    "MaxBurstLength": "4194304",  # bytes
    "InitialR2T": "No",
    "ImmediateData": "Yes",
    "MaxOutstandingR2T": "8",
}


@dataclass(frozen=True)
class Filled:
    """What became of exports that were to be served."""

    changed: bool
    """Whether there was something to do."""
    failed: tuple[TargetError, ...]
    """Why some are not served; the others are."""


def served(targets: Iterable[ListedTarget]) -> list[Export]:
    """Return what initiators can log in at, without what cannot be read back: secrets, and the way to Ceph."""
    return [
        Export(
            iqn=target.name,
            initiator=target.initiators[0],
            username=target.accounts[0] if target.accounts else "",
            password="",
            luns=tuple(
                Lun(lun.number, Backing(_TYPES.get(lun.type, lun.type), lun.path), lun.readonly)
                for lun in target.luns
                if lun.number
            ),
        )
        for target in targets
        if target.initiators
    ]


def fill(tgtd: TgtSocket, log: Log, exports: Sequence[Export], *, deadline: float) -> Filled:
    """Make tgtd serve these exports. Complete ones of other names stay, half-made ones are cleared away.

    Args:
        tgtd: Where.
        log: Where it gives reasons.
        exports: What, checked.
        deadline: Seconds to take an export apart that is there in another form.

    Raises:
        BadRequest: tgt cannot serve them, or another export has one's CHAP name.
        Unanswered: tgtd does not answer. What concerns a single export is returned, so that one lost volume
            does not keep other nodes from theirs.
    """
    _close_discovery(tgtd)
    listed = tgtd.targets()
    wanted = {export.iqn: export for export in exports}
    stale = [target for target in listed if _stale(target, wanted.get(target.name))]
    complete = [target for target in listed if target not in stale]
    missing = [export for export in exports if export.iqn not in {target.name for target in complete}]
    if not stale and not missing:
        return Filled(changed=False, failed=())
    _refuse_shared_usernames(missing, complete)
    possible, failed = _possible(missing)
    for target in stale:
        take_apart(tgtd, target, set(), deadline=deadline)
    _drop_unbound_accounts(tgtd)
    made = []
    for export in possible:
        try:
            _make(tgtd, log, export)
        except Refused as refused:
            failed.append(refused)
        except _NotOpened as error:
            failed.append(error)
        else:
            made.append(export)
    failed += _let_in(tgtd, made)
    return Filled(changed=True, failed=tuple(failed))


def take_apart(tgtd: TgtSocket, target: ListedTarget, seen: set[str], *, deadline: float) -> None:
    """Remove a target, its sessions and its account.

    Args:
        tgtd: Where.
        target: Which.
        seen: Gets the initiators that were logged in, also when it fails.
        deadline: Seconds that it may take.

    Raises:
        TargetError: It is still there after that.
    """
    for initiator in target.initiators:
        with _already(Code.NO_ACL, Code.NO_TARGET):
            tgtd.disallow(target.tid, initiator)
    try:
        wait_until(
            lambda: _gone(tgtd, target, seen),
            deadline=deadline,
            what=f"{target.name} to go away",
            next_step="try again; its sessions or its I/O hang",
            poll=_RETRY,
        )
    except DeadlineExceeded as error:
        raise TargetError(error.message, next_step=error.next_step) from error
    # Only now: deleting the account of a target that lives would let initiators in without a secret.
    _drop_unbound_accounts(tgtd)


# --- what is there ----------------------------------------------------------------------------------------


def _stale(target: ListedTarget, wanted: Export | None) -> bool:
    """Say whether a target is half-made, or not what it should be."""
    if not target.initiators:
        return True
    return wanted is not None and not _same(target, wanted)


def _same(target: ListedTarget, export: Export) -> bool:
    serials = {lun.number: lun.serial for lun in target.luns}
    return (
        serials.get(0) == fingerprint(export)
        and target.initiators == [export.initiator]
        and _whole(target, export)
    )


def _whole(target: ListedTarget, export: Export) -> bool:
    """Say whether a target has the LUNs and the account that it should have."""
    luns = {lun.number: (lun.path, lun.readonly, lun.serial) for lun in target.luns if lun.number}
    wanted = {lun.number: (lun.backing.path, lun.readonly, serial(export, lun)) for lun in export.luns}
    return luns == wanted and target.accounts == [export.username]


def _refuse_shared_usernames(missing: Sequence[Export], complete: Sequence[ListedTarget]) -> None:
    """Refuse a CHAP name that another export has: going, it would take the other's account with it."""
    taken = {user: target.name for target in complete for user in target.accounts}
    taken[DISCOVERY_ACCOUNT] = "BMI itself"
    for export in missing:
        if export.username in taken:
            raise BadRequest(
                f"export {export.iqn} cannot be served: "
                f"the CHAP name {export.username} belongs to {taken[export.username]}",
                next_step="give every export of a portal a CHAP name of its own",
            )


def _possible(exports: Sequence[Export]) -> tuple[list[Export], list[TargetError]]:
    """Part exports whose files are there from the others."""
    possible: list[Export] = []
    failed: list[TargetError] = []
    for export in exports:
        problems = [problem for lun in export.luns if (problem := _problem(export, lun))]
        if problems:
            failed += problems[:1]
        else:
            possible.append(export)
    return possible, failed


def _problem(export: Export, lun: Lun) -> TargetError | None:
    """Say what keeps a logical unit from being served, as far as that can be seen without waiting for Ceph."""
    who = f"LUN {lun.number} of {export.iqn}"
    if lun.backing.type == "rbd":
        if os.access(lun.backing.conf, os.R_OK):
            return None
        return TargetError(
            f"{who}: Ceph's configuration {lun.backing.conf} cannot be read",
            next_step="restart BMI, its storage driver writes the file; if it is there, look who may read it",
        )
    return file_problem(who, Path(lun.backing.path))


# --- making -----------------------------------------------------------------------------------------------


def _close_discovery(tgtd: TgtSocket) -> None:
    with _already(Code.USER_EXISTS):
        tgtd.new_account(DISCOVERY_ACCOUNT, secrets.token_hex(8))
    with _already(Code.USER_EXISTS):
        tgtd.bind_discovery_account(DISCOVERY_ACCOUNT)


class _NotOpened(TargetError):
    """An image in Ceph could not be opened."""


def _make(tgtd: TgtSocket, log: Log, export: Export) -> None:
    """Make an export that nobody can log in at yet."""
    tid = _new_target(tgtd, export)
    mark = fingerprint(export)
    tgtd.set_lun(tid, 0, vendor_id=_VENDOR, scsi_sn=mark, scsi_id=mark)
    for lun in export.luns:
        _add(tgtd, log, export, tid, lun)
        unique = serial(export, lun)
        tgtd.set_lun(tid, lun.number, vendor_id=_VENDOR, scsi_sn=unique, scsi_id=unique)
        if lun.readonly:
            tgtd.set_lun(tid, lun.number, readonly="1")
    for key, value in _NEGOTIATION.items():
        tgtd.set_key(tid, key, value)
    tgtd.new_account(export.username, export.password)
    tgtd.bind_account(export.username, tid)


def _add(tgtd: TgtSocket, log: Log, export: Export, tid: int, lun: Lun) -> None:
    before = log.size()
    try:
        tgtd.new_lun(tid, lun.number, lun.backing)
    except Refused as refused:
        cause = log.ceph_error_since(before)
        if cause is None:
            raise
        backing = lun.backing
        raise _NotOpened(
            f"LUN {lun.number} of {export.iqn} on {backing.path} in Ceph: {cause}",
            next_step=f"try the same: rbd --conf {backing.conf} --id {backing.user} info {backing.path}",
        ) from refused


def _new_target(tgtd: TgtSocket, export: Export) -> int:
    """Make a target with an id that the same export always gets, and no other one is likely to.

    tgtd remembers a log-in that is under way by the target's id. Were an id used again, a node could log in
    half-way, wait until its export is gone, and end up on the next one.
    """
    tid = int(fingerprint(export), 16) % _LAST_TID + 1
    taken = set(tgtd.target_ids().values())
    while tid in taken:
        tid = tid % _LAST_TID + 1
    tgtd.new_target(tid, export.iqn)
    return tid


def _let_in(tgtd: TgtSocket, made: Sequence[Export]) -> list[TargetError]:
    """Look whether exports became what they should be, and let their initiators in."""
    listed = {target.name: target for target in tgtd.targets()}
    failed = []
    for export in made:
        target = listed[export.iqn]
        if _whole(target, export):
            tgtd.allow(target.tid, export.initiator)
        else:
            failed.append(
                TargetError(
                    f"tgtd made {export.iqn} other than it was told: {target.luns}, {target.accounts}",
                    next_step="look whether its volumes can be written, and into tgtd's log",
                )
            )
    return failed


# --- removing ---------------------------------------------------------------------------------------------


def _gone(tgtd: TgtSocket, target: ListedTarget, seen: set[str]) -> bool:
    """Close what is open at a target and try to delete it."""
    with _already(Code.NO_TARGET, Code.TARGET_ACTIVE, Code.LUN_ACTIVE):
        for connection in tgtd.connections(target.tid):
            seen.add(connection.initiator)
            with _already(Code.NO_CONNECTION, Code.NO_SESSION):
                tgtd.close_connection(target.tid, connection)
        tgtd.delete_target(target.tid)
    return target.name not in tgtd.target_ids()


def _drop_unbound_accounts(tgtd: TgtSocket) -> None:
    """Delete the accounts that no target has, also those that an interrupted making or removal left."""
    spare = tgtd.accounts() - {DISCOVERY_ACCOUNT}
    if spare:
        spare -= {user for target in tgtd.targets() for user in target.accounts}
    for user in spare:
        with _already(Code.NO_USER):
            tgtd.delete_account(user)


@contextmanager
def _already(*codes: Code) -> Iterator[None]:
    """Take an answer of tgtd for success that says that things are so already, or about to be."""
    try:
        yield
    except Refused as refused:
        if refused.tgtd_code not in codes:
            raise
