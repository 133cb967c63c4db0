"""Where the kernel's target listens: a portal's address, in the network namespace of whoever told it so.

The kernel makes a portal's socket in the namespace of the thread that asks for it, and everybody who connects there
stays in that namespace. But it knows portals by address and port only: one that is there already, in whatever
namespace, is shared instead of made. So an address that any other target of this host has is refused, and it is
looked up in the namespace whether somebody listens there really.
"""

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from uuid import UUID

from rtslib_fb import TPG, FabricModule, NetworkPortal, RTSLibError, Target

from bmi import netns
from bmi.drivers.target import Portal
from bmi.drivers.target.lio_export import close
from bmi.drivers.target.lio_kernel import told
from bmi.drivers.target.lio_names import ISCSI, anchor, tpg
from bmi.drivers.target.ports import listens, port_taken, where
from bmi.errors import PortTaken, TargetError
from bmi.rights import Rights


class LioPortal:
    """The anchor of one portal, there or not: a target that holds its address, and that nobody can log in at."""

    def __init__(self, mark: str, portal: UUID, rights: Rights) -> None:
        self._iqn = anchor(mark, portal)
        self._rights = rights

    def exists(self) -> bool:
        """Say whether it is there, or a part of it."""
        return tpg(self._iqn).parent.is_dir()

    def is_open(self) -> bool:
        """Say whether it has an address."""
        return tpg(self._iqn).is_dir() and any((tpg(self._iqn) / "np").iterdir())

    def make(self, fabric: FabricModule) -> bool:
        """Make it, without an address; returns whether there was something to do."""
        if tpg(self._iqn).is_dir():
            return False
        with told("a portal"):
            TPG(Target(fabric, self._iqn), 1)  # never enabled, so nobody can log in
        return True

    def remove(self, fabric: FabricModule) -> bool:
        """Remove it; returns whether it was there."""
        with told("the end of a portal"):
            if not self.exists():
                return False
            Target(fabric, self._iqn, "lookup").delete()
        return True

    def check_free(self, portal: Portal, iqns: Sequence[str]) -> None:
        """Refuse an address that another target has, in whatever namespace.

        Args:
            portal: Where.
            iqns: The portal's own exports.

        Raises:
            PortTaken: One has it.
        """
        own = {*iqns, self._iqn}
        for found in ISCSI.glob(f"*/tpgt_*/np/{portal}"):
            holder = found.relative_to(ISCSI).parts[0]
            if holder not in own:
                raise PortTaken(
                    f"address {where(portal)} is taken by the kernel's target {holder}",
                    next_step="end that one; the kernel has one portal of an address and port, in all namespaces",
                )

    def open(self, fabric: FabricModule, portal: Portal, iqns: Sequence[str]) -> bool:
        """Let exports be reached at an address and at no other; returns whether there was something to do.

        Raises:
            PortTaken: Another program listens there; nothing has changed then.
            TargetError: The kernel does not take it.
        """
        # The anchor goes last: until it has the address, all that the address leads to is being put together.
        everyone = [*iqns, self._iqn]
        changed = self._leave_lost_namespace(portal, everyone)
        missing = [iqn for iqn in everyone if not (tpg(iqn) / "np" / str(portal)).is_dir()]
        for iqn in missing:
            self._open_one(fabric, portal, iqn)
        if missing and not self._listens(portal):
            raise TargetError(
                f"the kernel's target does not listen on {where(portal)}, though it said so",
                next_step="look with ss whether another program does, and into dmesg",
            )
        for iqn in everyone:
            with told(f"{iqn} to leave its old address"):
                changed |= close(iqn, keep=str(portal))
        return changed or bool(missing)

    def _open_one(self, fabric: FabricModule, portal: Portal, iqn: str) -> None:
        group = TPG(Target(fabric, iqn, "lookup"), 1, "lookup")
        try:
            netns.call_inside(
                portal.namespace, lambda: NetworkPortal(group, str(portal.address), portal.port, "create")
            )
        except RTSLibError as error:  # with whatever number: EINVAL for an address in use
            if self._listens(portal) or self._listens(replace(portal, address=IPv4Address(0))):
                raise port_taken(self._rights, portal) from error
            raise TargetError(
                f"the kernel's target cannot listen on {where(portal)}: {error}",
                next_step="bring the gateway's address on this network up, and look into dmesg",
            ) from error

    def _leave_lost_namespace(self, portal: Portal, iqns: Sequence[str]) -> bool:
        """Give an address up that is held in a namespace that is gone, be there another one of its name or not."""
        with told(f"the end of what listened on {portal}"):
            holders = [iqn for iqn in iqns if (tpg(iqn) / "np" / str(portal)).is_dir()]
            if not holders or self._listens(portal):
                return False
            for iqn in holders:
                close(iqn, keep=None)
        return True

    def _listens(self, portal: Portal) -> bool:
        if portal.namespace is None:
            table = Path("/proc/thread-self/net/tcp").read_text()
        else:
            table = self._rights.tcp_table(portal.namespace)
        return listens(table, str(portal.address), portal.port)
