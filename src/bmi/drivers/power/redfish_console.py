"""The serial console of a Redfish controller: what the system, or its manager, says about it (DSP0268).

Redfish has no console of its own; it says where one is. SSH is taken where there is SSH, then Serial over LAN.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import sushy

_PORTS = {"SSH": 22, "IPMI": 623}
_PORT_MOST = 65535


@dataclass(frozen=True)
class Offer:
    """One way to a system's console."""

    protocol: str
    """`SSH` or `IPMI`."""
    port: int
    command: str | None = None
    """What leads from the controller's own command line to the console; None where the port does so by itself."""


def offered(system: Any) -> Offer | None:
    """Return the best way to a system's console; None if the controller offers none that can be used."""
    said = (system.json or {}).get("SerialConsole")
    offers = _of_system(said) if isinstance(said, dict) else _of_manager(system)
    return offers[0] if offers else None


def _of_system(said: dict[str, Any]) -> list[Offer]:
    """Read ComputerSystem.SerialConsole, which is there since version 1.13 of the schema."""
    offers = []
    for protocol, standard in _PORTS.items():
        one = said.get(protocol)
        if not isinstance(one, dict) or not one.get("ServiceEnabled"):
            continue
        command = one.get("ConsoleEntryCommand") if one.get("SharedWithManagerCLI") else None
        offers.append(Offer(protocol, _port(one.get("Port"), standard), _command(command)))
    return offers


def _of_manager(system: Any) -> list[Offer]:
    """Read Manager.SerialConsole of older controllers: it names protocols, and the ports are the standard ones.

    Which server's line it is, is only certain for a manager that has one.
    """
    managers: list[Any] = []
    with suppress(sushy.exceptions.MissingAttributeError):
        managers = list(system.managers)
    for manager in managers:
        said = (manager.json or {}).get("SerialConsole")
        servers = ((manager.json or {}).get("Links") or {}).get("ManagerForServers") or ()
        if not isinstance(said, dict) or not said.get("ServiceEnabled") or len(servers) > 1:
            continue
        kinds = said.get("ConnectTypesSupported")
        # SSH leads to such a controller's command line, and what leads on differs from one maker to the next.
        if isinstance(kinds, list) and "IPMI" in kinds:
            return [Offer("IPMI", _PORTS["IPMI"])]
    return []


def _port(said: object, standard: int) -> int:
    usable = isinstance(said, int) and not isinstance(said, bool) and 0 < said <= _PORT_MOST
    return int(str(said)) if usable else standard


def _command(said: object) -> str | None:
    return said if isinstance(said, str) and said.isprintable() and said else None
