"""iSCSI by the kernel's own target (LIO): no process for each portal, and no copy of the data through one.

All of it is in configfs, where rtslib changes it. That outlives BMI, and is empty after the host's restart. Every
export is a target of its own, with an access list of one initiator; a portal is one more target, its anchor, which
holds the address and lets nobody in (`bmi.drivers.target.lio_names`).

What initiators get: LUNs without a write cache; a write is answered when the disk has it (O_DSYNC). With the
option `write_back` they are as with tgt: what was acknowledged is in the page cache, and SYNCHRONIZE CACHE and FUA
writes end in an fsync. But here it is the host that has to die for it to be lost, not a process.

One kernel serves all, so a fault in it concerns every node of the gateway, and nothing can be ended by force: where
storage does not answer, `remove` raises after `answer_deadline` and the export stays until it answers.

Files only: for images in Ceph take tgt. What a site needs, and what is not possible: docs/lio.md.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from pydantic import Field

from bmi.drivers import Options, Outcome, Site, parse_options
from bmi.drivers.target import Export, Portal, Removal, Session
from bmi.drivers.target.checks import check_exports, check_portal
from bmi.drivers.target.lio_names import anchors, backstores, tpg
from bmi.drivers.target.lio_session import sessions
from bmi.drivers.target.lio_watch import Watch
from bmi.drivers.target.portal_lock import PortalLocks
from bmi.errors import BadRequest, BmiError, PortTaken, SettingsInvalid, TargetError

try:
    from bmi.drivers.target import lio_export, lio_kernel
    from bmi.drivers.target.lio_portal import LioPortal
except ImportError as error:
    raise SettingsInvalid(
        f"the target driver lio cannot be used: {error}",
        next_step="install BMI with its extra lio (docs/lio.md), or take the target driver tgt",
    ) from error

log = logging.getLogger(__name__)

_ADDRESSES = UUID(int=0)
"""Stands for all addresses of the host among the locks: whether one is free is looked up before it is taken."""


class LioOptions(Options):
    """Options of the `lio` target driver."""

    write_back: bool = False
    """Whether a write is answered when the page cache has it, and only a flush waits for the disk. What was not
    flushed is lost then if the gateway's host fails, as it is with a disk that has a write cache."""
    answer_deadline: float = Field(default=30, gt=0)
    """Seconds the kernel gets to do what it is asked; it cannot be ended, so what takes longer fails."""


class LioTarget:
    """Serves exports with the kernel's own target; see `bmi.drivers.target.Target`."""

    def __init__(self, options: Mapping[str, Any], site: Site) -> None:
        self._options = parse_options(LioOptions, options, driver="lio")
        self._mark = site.installation
        self._rights = site.rights
        self._locks = PortalLocks(site.state_dir / "target-lio")
        self._asked = lio_kernel.Asked(self._options.answer_deadline)
        self._watch = Watch(lambda: set(anchors(self._mark)))

    # --- the protocol ------------------------------------------------------------------------------------

    def serve(self, portal: Portal, exports: Sequence[Export]) -> Outcome:
        """Make sure that a portal serves at least these exports.

        An export that is there in another form, its secret and the size of its disk included, is made anew. One
        that cannot be served does not keep the others from being served, and is reported after that.
        """
        check_portal(portal)
        check_exports(exports)
        for export in exports:
            _check(export)
        with self._locks.held(portal.id, make=True):
            try:
                return self._asked(portal.id, lambda: self._serve(portal, exports))
            except BmiError:
                if portal.id not in self.portals():
                    self._locks.forget(portal.id)
                raise

    def remove(self, portal: UUID, iqn: str) -> Removal:
        """Take an export away: refuse new log-ins, close sessions, remove, and verify by listing."""
        with self._locks.held(portal):
            return self._asked(portal, lambda: self._remove(portal, iqn))

    def exports(self, portal: UUID) -> list[Export]:
        """List what a portal really serves, without the secrets."""

        def look() -> list[Export]:
            with lio_kernel.told("to be listed"):
                return [found.as_export() for found in self._listed(portal) if found.enabled]

        return self._asked(None, look)

    def sessions(self, portal: UUID) -> list[Session]:
        """List who is logged in at a portal: of each export the newest session."""

        def look() -> list[Session]:
            found: list[Session] = []
            for iqn in lio_export.pieces(self._mark, portal):
                with lio_kernel.told("to be asked for sessions"), lio_kernel.unless_gone():
                    found += sessions(tpg(iqn), iqn)
            return found

        return self._asked(None, look)

    def portals(self) -> list[UUID]:
        """List the portals of this installation of which anything is there."""
        return self._asked(
            None,
            lambda: sorted({*anchors(self._mark), *(found.portal for found in backstores(self._mark))}),
        )

    def stop(self, portal: UUID) -> Outcome:
        """End a portal, with everything it serves."""
        with self._locks.held(portal) as there:
            self._watch.forgive(portal)
            outcome = self._asked(portal, lambda: self._stop(portal))
            if there:
                self._locks.forget(portal)
            return outcome

    def end_if_hung(self, portal: UUID) -> bool:
        """Say that nothing was ended: the kernel cannot be."""
        return False

    def on_exit(self, call: Callable[[UUID], None]) -> None:
        """Call this when a portal went away and nobody asked for it, as by `targetctl clear`."""
        self._watch.on_exit(call)

    def close(self) -> None:
        """Call nobody any more. The kernel goes on."""
        self._watch.close()

    # --- how, in the kernel --------------------------------------------------------------------------------

    def _serve(self, portal: Portal, exports: Sequence[Export]) -> Outcome:
        fabric = lio_kernel.fabric()
        anchor = LioPortal(self._mark, portal.id, self._rights)
        pieces = lio_export.pieces(self._mark, portal.id)
        anchor.check_free(portal, list(pieces))
        found = {each.iqn: each for each in lio_export.listed(pieces)}
        complete = {iqn for iqn, each in found.items() if each.enabled}
        wanted = {export.iqn: export for export in exports}
        good = {
            iqn
            for iqn in complete & wanted.keys()
            if lio_export.same(found[iqn], wanted[iqn], write_back=self._options.write_back)
        }
        _refuse_shared_usernames(
            [wanted[iqn] for iqn in wanted.keys() - good],
            [found[iqn] for iqn in (complete - wanted.keys()) | good],
        )
        changed = anchor.make(fabric)
        for iqn in pieces.keys() - good - (complete - wanted.keys()):
            lio_export.take_apart(fabric, iqn, pieces[iqn], set())
            changed = True
        made, failed = self._make(fabric, portal.id, [wanted[iqn] for iqn in wanted if iqn not in good])
        iqns = [*sorted(good | (complete - wanted.keys())), *made]
        opened = self._open(fabric, anchor, portal, iqns)
        self._watch.expect(portal.id)
        if failed:
            raise _unserved(portal, failed)
        return Outcome.DONE if changed or made or opened else Outcome.ALREADY

    def _make(
        self, fabric: Any, portal: UUID, exports: Sequence[Export]
    ) -> tuple[list[str], list[TargetError]]:
        """Make exports; returns the names of those that are there now, and why the others are not."""
        made, failed = [], []
        for export in exports:
            try:
                lio_export.make(fabric, self._mark, portal, export, write_back=self._options.write_back)
            except TargetError as error:
                failed.append(error)
                self._clear(fabric, portal, export.iqn)
            else:
                made.append(export.iqn)
        return made, failed

    def _clear(self, fabric: Any, portal: UUID, iqn: str) -> None:
        """Remove what is there of an export that could not be made; where that fails, the next call does it."""
        pieces = lio_export.pieces(self._mark, portal)
        if iqn in pieces:
            try:
                lio_export.take_apart(fabric, iqn, pieces[iqn], set())
            except TargetError as error:
                log.warning("%s", error.message)

    def _open(self, fabric: Any, anchor: LioPortal, portal: Portal, iqns: Sequence[str]) -> bool:
        """Let initiators reach exports, the right ones only; returns whether anything changed."""
        try:
            guarded = portal.namespace is not None and self._rights.let_in(
                portal.namespace, portal.port, portal.peer
            )
            with self._locks.held(_ADDRESSES, make=True):
                anchor.check_free(portal, iqns)
                return anchor.open(fabric, portal, iqns) or guarded
        except (PortTaken, TargetError):
            if not anchor.is_open():  # nobody could reach it so far
                self._stop(portal.id)
            raise

    def _remove(self, portal: UUID, iqn: str) -> Removal:
        pieces = lio_export.pieces(self._mark, portal)
        if iqn not in pieces:
            return Removal(Outcome.ALREADY)
        seen: set[str] = set()
        lio_export.take_apart(lio_kernel.fabric(), iqn, pieces[iqn], seen)
        if iqn in lio_export.pieces(self._mark, portal) or tpg(iqn).is_dir():
            raise TargetError(
                f"{iqn} is still there after it was removed", next_step="look for programs that make it anew"
            )
        return Removal(Outcome.DONE, tuple(sorted(seen)))

    def _stop(self, portal: UUID) -> Outcome:
        anchor = LioPortal(self._mark, portal, self._rights)
        pieces = lio_export.pieces(self._mark, portal)
        if not pieces and not anchor.exists():
            return Outcome.ALREADY
        fabric = lio_kernel.fabric()
        for iqn, behind in pieces.items():
            lio_export.take_apart(fabric, iqn, behind, set())
        anchor.remove(fabric)
        return Outcome.DONE

    def _listed(self, portal: UUID) -> list[lio_export.ListedExport]:
        return lio_export.listed(lio_export.pieces(self._mark, portal))


def _check(export: Export) -> None:
    """Refuse what the kernel cannot serve, or rtslib not name.

    Raises:
        BadRequest: So it is.
    """
    lio_export.check_names(export)
    for lun in export.luns:
        if lun.backing.type != "file":
            raise BadRequest(
                f"LUN {lun.number} of {export.iqn} is an image in Ceph, which the target driver lio cannot serve",
                next_step="take the target driver tgt where storage is in Ceph (docs/lio.md)",
            )
        if len(lun.backing.path.encode()) > lio_export.LONGEST_PATH:
            raise BadRequest(
                f"LUN {lun.number} of {export.iqn}: {lun.backing.path} has more than the "
                f"{lio_export.LONGEST_PATH} bytes that the kernel takes",
                next_step="put the storage's folder nearer to the root of the file system",
            )


def _refuse_shared_usernames(missing: Sequence[Export], complete: Sequence[lio_export.ListedExport]) -> None:
    """Refuse a CHAP name that another export of the portal has, as every target driver does."""
    taken = {found.username: found.iqn for found in complete}
    for export in missing:
        if export.username in taken:
            raise BadRequest(
                f"export {export.iqn} cannot be served: "
                f"the CHAP name {export.username} belongs to {taken[export.username]}",
                next_step="give every export of a portal a CHAP name of its own",
            )


def _unserved(portal: Portal, failed: Sequence[TargetError]) -> TargetError:
    if len(failed) == 1:
        return failed[0]
    return TargetError(
        f"{len(failed)} exports of {portal} are not served: " + "; ".join(error.message for error in failed),
        next_step=failed[0].next_step,
    )
