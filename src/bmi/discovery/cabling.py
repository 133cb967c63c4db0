"""Which switch port a network card hangs on, by what it heard from the switch (LLDP)."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.api.hardware import Hardware, Neighbour
from bmi.api.nodes import Nic
from bmi.discovery.models import Discovered
from bmi.errors import Miscabled
from bmi.nodes.models import NodeHardware
from bmi.settings import Settings

Ports = Mapping[str, Collection[str]]
"""The ports of each switch."""

_SHORTENED = re.compile(r"([a-z]+)[ -]*([0-9][0-9/.:_]*)", re.ASCII)


def place_of(settings: Settings, ports: Ports, neighbour: Neighbour) -> tuple[str, str] | None:
    """Return the switch and the port that a neighbour is, as the settings and the switch's driver call them.

    None for whoever is no switch of the settings, or a port that this one does not have: it says nothing.
    """
    for switch, known in ports.items():
        named = settings.switches.get(switch)
        if named is None or not _is_switch(named.lldp_name or switch, neighbour):
            continue
        for heard in (neighbour.port, neighbour.description):
            found = [port for port in known if heard and _is_port(port, heard)]
            exact = [port for port in found if port == heard]
            if len(found) == 1 or exact:
                return switch, (exact or found)[0]
    return None


def contradiction(settings: Settings, ports: Ports, nic: Nic, heard: Iterable[Neighbour]) -> Miscabled | None:
    """Return the error that tells of wrong cabling, if a card heard another port than it is said to hang on."""
    places = [place for neighbour in heard if (place := place_of(settings, ports, neighbour))]
    if not places or (nic.switch, nic.port) in places:
        return None
    switch, port = places[0]
    return Miscabled(
        f"card {nic.mac} is said to be at port {nic.port} of switch {nic.switch}, "
        f"but hears port {port} of switch {switch} (LLDP)",
        next_step=f"plug its cable into port {nic.port} of switch {nic.switch}, or write down {switch}:{port}",
    )


def heard_by_cards(session: Session, *, inventory: bool = False) -> dict[str, Sequence[Neighbour]]:
    """Return what cards heard, by MAC address; the latest report of a card counts.

    Args:
        session: The transaction.
        inventory: Whether to look at what nodes told before they were enrolled, too.
    """
    told = [(row.seen_at, row.facts) for row in session.scalars(select(Discovered))]
    if inventory:
        told += [(row.seen_at, row.facts) for row in session.scalars(select(NodeHardware))]
    found: dict[str, Sequence[Neighbour]] = {}
    for _, facts in sorted(told, key=lambda each: each[0]):
        for card in Hardware.model_validate(facts).cards:
            found[card.mac] = card.neighbours
    return found


def _is_switch(name: str, neighbour: Neighbour) -> bool:
    wanted, said = name.lower(), neighbour.switch.lower()
    return wanted in (said, said.split(".")[0], neighbour.chassis.lower())


def _is_port(port: str, heard: str) -> bool:
    """Compare a port's name with how the switch calls it: Gi1/0/7 is GigabitEthernet1/0/7."""
    one, other = port.lower(), heard.lower()
    if one == other:
        return True
    short, long = _SHORTENED.fullmatch(one), _SHORTENED.fullmatch(other)
    return bool(
        short
        and long
        and short[2] == long[2]
        and (short[1].startswith(long[1]) or long[1].startswith(short[1]))
    )
