"""How a machine's hardware is told to a person."""

from bmi.api.hardware import Card, Hardware, LocalDisk
from bmi.cli import output


def summary(hardware: Hardware | None) -> list[tuple[str, object]]:
    """Return the fields that tell what a machine consists of; none if nobody knows."""
    if hardware is None:
        return []
    system = " ".join(filter(None, (hardware.vendor, hardware.product)))
    return [
        ("system", f"{system}, serial {hardware.serial}" if hardware.serial else system or None),
        ("firmware", hardware.firmware),
        ("processors", f"{hardware.cpus} x {hardware.cpu or 'unknown'}"),
        ("memory", output.size(hardware.memory)),
        ("disks", "\n".join(_disk(disk) for disk in hardware.disks) or "none"),
        ("cards", "\n".join(card_line(card) for card in hardware.cards)),
        ("uuid", hardware.uuid),
    ]


def card_line(card: Card) -> str:
    """Return a line about a network card."""
    if card.link is None:
        link = "link unknown"
    else:
        link = "no link" if not card.link else f"{card.speed} Mbit/s" if card.speed else "link"
    heard = ", ".join(f"{each.switch or each.chassis} {each.port}" for each in card.neighbours)
    return f"{card.name} {card.mac} ({card.driver or 'unknown driver'}), {link}" + (
        f", hears {heard}" if heard else ""
    )


def _disk(disk: LocalDisk) -> str:
    words = " ".join(filter(None, (disk.model, disk.serial and f"serial {disk.serial}")))
    return f"{disk.name} {output.size(disk.size)} {disk.kind}" + (f", {words}" if words else "")
