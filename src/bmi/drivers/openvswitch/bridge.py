"""One bridge of an Open vSwitch: its ports, and the VLANs they carry."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bmi.drivers import Outcome
from bmi.drivers.openvswitch import OvsOptions
from bmi.drivers.openvswitch.database import Database, Edit, T
from bmi.drivers.openvswitch.vswitchd import Vswitchd
from bmi.drivers.switch import ISOLATED, VLANS, PortVlans
from bmi.errors import BmiError

QUARANTINE = 4095
"""VLAN of isolated ports. Reserved (IEEE 802.1Q, table 9-2), so that no network has it."""

_OPENFLOW_NUMBERS = range(1, 0xFF00)  # those that a port may have, OFPP_MAX in the OpenFlow specification

INSTALLATION_MARK = "bmi-installation"
"""Key in a leg port's `external_ids`; its value is the installation's."""

LEG_MARK = "bmi-leg"
"""Key in a leg port's `external_ids`; its value is the network's id."""


@dataclass(frozen=True)
class VlanColumns:
    """The columns of table Port that decide where frames go, see ovs-vswitchd.conf.db(5)."""

    vlan_mode: str | None = None
    tag: int | None = None
    trunks: frozenset[int] = frozenset()
    """Empty means every VLAN."""
    protected: bool = False
    """Nothing passes between two protected ports."""

    @classmethod
    def of(cls, vlans: PortVlans) -> "VlanColumns":
        """Return what makes a port carry exactly these VLANs.

        There is no word for "no VLAN". So isolated ports are alone on a VLAN that no network has, and protected
        from each other; `carriers` names other ports that carry it.
        """
        if vlans == ISOLATED:
            return cls(vlan_mode="access", tag=QUARANTINE, protected=True)
        if vlans.native is None:
            return cls(vlan_mode="trunk", trunks=vlans.tagged)
        if not vlans.tagged:
            return cls(vlan_mode="access", tag=vlans.native)
        return cls(vlan_mode="native-untagged", tag=vlans.native, trunks=vlans.tagged)

    def vlans(self) -> PortVlans:
        """Return what a port with these columns carries; VLAN 0 is that of untagged frames on a trunk."""
        if self == VlanColumns.of(ISOLATED):
            return ISOLATED
        trunks = self.trunks or frozenset({0, *VLANS})
        native = self.tag or 0
        if not self._lists_vlans:
            return PortVlans(native)
        if self._mode == "trunk":
            return PortVlans(0 if 0 in trunks else None, trunks - {0})
        return PortVlans(native, trunks - {0, native})

    def carries(self, vlan: int) -> bool:
        """Say whether frames of a VLAN come in or go out."""
        listed = self._lists_vlans and (not self.trunks or vlan in self.trunks)
        return listed or (self._mode != "trunk" and (self.tag or 0) == vlan)

    def keeps_list(self) -> bool:
        """Say whether ovs-vswitchd keeps a list of VLANs for such a port."""
        return self._lists_vlans and (self._mode != "trunk" or bool(self.trunks))

    @property
    def _mode(self) -> str:
        return self.vlan_mode or ("trunk" if self.tag is None else "access")

    @property
    def _lists_vlans(self) -> bool:
        return self._mode not in {"access", "dot1q-tunnel"}


@dataclass(frozen=True)
class BridgePort:
    """A port as the database has it."""

    name: str
    columns: VlanColumns
    external_ids: Mapping[str, str] = field(hash=False)
    link: bool | None
    """Whether the other end is up; None if unknown."""
    error: str
    """Why ovs-vswitchd cannot use the port; empty if it does."""


class Bridge:
    """A bridge that exists. Every verb returns when the switch forwards that way."""

    def __init__(self, options: OvsOptions, failure: type[BmiError]) -> None:
        """Say which bridge, and of which class the errors are to be."""
        self.name = options.bridge
        self._failure = failure
        self._database = Database(options.database, timeout=options.timeout, failure=failure)
        self._vswitchd = None
        if options.flush_flows:
            self._vswitchd = Vswitchd(
                options.database, control=options.control, timeout=options.timeout, failure=failure
            )

    def ports(self) -> dict[str, BridgePort]:
        """Read all ports but the bridge's own, by name."""
        return self._database.read(
            lambda tables: {
                row.name: _port(row)
                for row in sorted(self._row(tables).ports, key=lambda row: str(row.name))
                if row.name != self.name
            }
        )

    def port(self, name: str) -> BridgePort | None:
        """Read one port; None if there is none of that name."""

        def look(tables: Any) -> BridgePort | None:
            row = self._port_row(tables, name)
            return _port(row) if row else None

        return self._database.read(look)

    def heard_at(self, mac: str) -> list[str] | None:
        """Name the ports behind which a card was heard of late; None if ovs-vswitchd cannot be asked."""
        if self._vswitchd is None:
            return None
        numbers = {number for number, card in self._vswitchd.learned(self.name) if card == mac.lower()}
        if not numbers:
            return []

        def look(tables: Any) -> list[str]:
            return [
                str(row.name)
                for row in self._row(tables).ports
                if any(numbers.intersection(interface.ofport) for interface in row.interfaces)
            ]

        return sorted(self._database.read(look))

    def configure(self, name: str, columns: VlanColumns) -> Outcome | None:
        """Set what a port carries; None if there is no such port that a node can be behind."""

        def edit(transaction: Any, tables: Any) -> Outcome | None:
            row = self._port_row(tables, name)
            if row is None or LEG_MARK in row.external_ids:
                return None
            return _set(self._row(tables), row, columns)

        return self._change(edit)

    def add(self, name: str, columns: VlanColumns, external_ids: Mapping[str, str]) -> Outcome:
        """Make the interface of that name a port; one that is there already is set to what is given.

        Raises:
            BmiError: ovs-vswitchd cannot use the interface.
        """

        def edit(transaction: Any, tables: Any) -> Outcome:
            bridge = self._row(tables)
            if row := self._port_row(tables, name):
                row.external_ids = dict(external_ids)
                return _set(bridge, row, columns)
            interface = transaction.insert(tables["Interface"])
            interface.name = name
            row = transaction.insert(tables["Port"])
            row.name = name
            row.interfaces = [interface]
            row.external_ids = dict(external_ids)
            _write(row, columns)
            bridge.addvalue("ports", row)
            return Outcome.DONE

        outcome = self._change(edit)
        port = self.port(name)
        if port is None or port.error:
            reason = port.error if port else "somebody else removed it at the same time"
            raise self._failure(
                f"interface {name} did not become a port of bridge {self.name}: {reason}",
                next_step="check that the interface exists where ovs-vswitchd runs, and try again",
            )
        return outcome

    def remove(self, name: str) -> Outcome:
        """Remove a port; its interface stays."""

        def edit(transaction: Any, tables: Any) -> Outcome:
            row = self._port_row(tables, name)
            if row is None:
                return Outcome.ALREADY
            self._row(tables).delvalue("ports", row)
            return Outcome.DONE

        return self._change(edit)

    def confirm(self) -> None:
        """Return once the switch forwards as the database says."""
        self._change(lambda transaction, tables: None)

    def close(self) -> None:
        """Let go of the connection."""
        self._database.close()

    def _change(self, edit: Edit[T]) -> T:
        def with_type(transaction: Any, tables: Any) -> tuple[T, str]:
            return edit(transaction, tables), str(self._row(tables).datapath_type)

        result, datapath_type = self._database.change(with_type)
        # Also when nothing changed: whoever changed it may have died before this.
        if self._vswitchd is not None:
            self._vswitchd.forget(self.name, datapath_type)
        return result

    def _port_row(self, tables: Any, name: str) -> Any:
        """Return a port's row; None if there is none of that name, or it is the bridge's own."""
        rows = self._row(tables).ports if name != self.name else []
        return next((row for row in rows if row.name == name), None)

    def _row(self, tables: Any) -> Any:
        for row in tables["Bridge"].rows.values():
            if row.name == self.name:
                return row
        raise self._failure(
            f"there is no bridge {self.name} at {self._database.remote}",
            next_step="make it with ovs-vsctl add-br, or correct the option bridge",
        )


def carriers(ports: Iterable[BridgePort]) -> list[str]:
    """Name the ports through which frames of isolated ports could leave."""
    return [port.name for port in ports if port.columns.carries(QUARANTINE) and not port.columns.protected]


def _set(bridge: Any, row: Any, columns: VlanColumns) -> Outcome:
    """Set what a port carries, and say whether it differed."""
    before = _columns(row)
    if before == columns:
        return Outcome.ALREADY
    if before.keeps_list():
        _renew(bridge, row)
    _write(row, columns)
    return Outcome.DONE


def _write(row: Any, columns: VlanColumns) -> None:
    row.vlan_mode = [columns.vlan_mode] if columns.vlan_mode else []
    row.tag = [] if columns.tag is None else [columns.tag]
    row.trunks = sorted(columns.trunks)
    row.protected = columns.protected


def _renew(bridge: Any, row: Any) -> None:
    """Make ovs-vswitchd drop a port and add it again, by asking for another OpenFlow number.

    When it changes a port's list of VLANs, it goes on for a moment to decide by the old list, in memory that it
    has freed: the port carries VLANs by chance (seen in 3.1.0: `bundle_set` frees what `xbundle` still points
    to). When it removes a port, it does both in the right order.
    """
    taken = {
        number
        for port in bridge.ports
        for interface in port.interfaces
        for number in (*interface.ofport, *interface.ofport_request)
    }
    free = (number for number in _OPENFLOW_NUMBERS if number not in taken)
    for interface in row.interfaces:
        interface.ofport_request = [next(free)]


def _columns(row: Any) -> VlanColumns:
    return VlanColumns(
        vlan_mode=row.vlan_mode[0] if row.vlan_mode else None,
        tag=row.tag[0] if row.tag else None,
        trunks=frozenset(row.trunks),
        protected=row.protected,
    )


def _port(row: Any) -> BridgePort:
    links = [link for interface in row.interfaces for link in interface.link_state]
    errors = [error for interface in row.interfaces for error in interface.error]
    return BridgePort(
        name=row.name,
        columns=_columns(row),
        external_ids=dict(row.external_ids),
        link="up" in links if links else None,
        error=", ".join(errors),
    )
