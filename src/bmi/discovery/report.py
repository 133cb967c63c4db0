"""Reads the report of the inspection system: lines of words with tabs between them.

Anybody on the discovery network can send one. What has not the documented form is refused, what is too long or too
much is cut, and nothing that could play tricks on a terminal gets through.

    bmi-inspection  1
    boot            MAC
    firmware        bios | uefi
    vendor, product, serial, uuid, cpu     TEXT
    cpus            NUMBER
    memory          KIBIBYTES
    disk            NAME  BYTES  ROTATIONAL  MODEL  SERIAL
    card            NAME  MAC  DRIVER  CARRIER  MBIT/S
    lldp            NAME OF THE CARD  FRAME IN HEXADECIMAL
    bmc             ADDRESS
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal
from uuid import UUID

from bmi.api.hardware import Card, Hardware, LocalDisk, Neighbour
from bmi.discovery import lldp
from bmi.errors import BadRequest

_HEAD = ["bmi-inspection", "1"]
_LINES = 600
_LINE = 4096  # characters; a frame of 1522 bytes has 3044 digits
_TEXT = 100  # characters of each word that is kept
_DISKS = 256
_CARDS = 32
_NEIGHBOURS = 4  # of one card
_NUMBER = re.compile(r"[0-9]{1,15}", re.ASCII)
_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}", re.ASCII)
_FRAME = re.compile(r"(?:[0-9a-f]{2}){16,1600}", re.ASCII)
_SIGNALLED = 1_000_000  # Mbit/s; drivers that do not know say 4294967295
_NO_UUIDS = (0, (1 << 128) - 1)  # what firmware says that was never told one (SMBIOS 7.2.1)


@dataclass(frozen=True)
class Report:
    """What a machine told of itself."""

    mac: str
    """The card that it booted from, one of those of the hardware."""
    hardware: Hardware


def parse(body: bytes) -> Report:
    """Read a report.

    Raises:
        BadRequest: It has not the form that the inspection system gives it.
    """
    lines = [line.split("\t") for line in body.decode(errors="replace").split("\n") if line]
    if not lines or lines[0] != _HEAD or len(lines) > _LINES:
        raise _refusal("it does not begin as one, or has no end")
    words: dict[str, str] = {}
    rows: defaultdict[str, list[list[str]]] = defaultdict(list)
    for name, *values in lines[1:]:
        if sum(map(len, values)) > _LINE:
            raise _refusal("it has a line that is too long")
        if name in ("disk", "card", "lldp"):
            rows[name].append(values)
        elif values:
            words.setdefault(name, lldp.printable(values[0], _TEXT))
    cards = _cards(rows["card"], rows["lldp"])
    boot = words.get("boot", "").lower()
    if boot not in {card.mac for card in cards}:
        raise _refusal("it does not say which of its network cards it booted from")
    return Report(
        boot,
        Hardware(
            firmware=_firmware(words.get("firmware", "")),
            vendor=words.get("vendor", ""),
            product=words.get("product", ""),
            serial=words.get("serial", ""),
            uuid=_uuid(words.get("uuid", "")),
            cpu=words.get("cpu", ""),
            cpus=_number(words.get("cpus", "")),
            memory=_number(words.get("memory", "")) * 1024,
            disks=[_disk(row) for row in rows["disk"][:_DISKS] if len(row) == 5],
            cards=cards,
            bmc_address=_address(words.get("bmc", "")),
        ),
    )


def _cards(rows: Sequence[list[str]], frames: Sequence[list[str]]) -> list[Card]:
    cards: dict[str, Card] = {}
    for row in rows[:_CARDS]:
        if len(row) != 5 or not _MAC.fullmatch(row[1].lower()):
            raise _refusal("it has a network card that is none")
        name, mac, driver, carrier, speed = (lldp.printable(word, _TEXT) for word in row)
        signalled = _number(speed)
        cards.setdefault(
            name,
            Card(
                name=name,
                mac=mac.lower(),
                driver=driver,
                link={"0": False, "1": True}.get(carrier),
                speed=signalled if 0 < signalled <= _SIGNALLED and carrier == "1" else None,
            ),
        )
    for frame in frames:
        if len(frame) == 2 and (card := cards.get(frame[0])) and len(card.neighbours) < _NEIGHBOURS:
            heard = _neighbour(frame[1])
            if heard is not None and heard not in card.neighbours:
                card.neighbours.append(heard)
    return list(cards.values())


def _neighbour(digits: str) -> Neighbour | None:
    return lldp.parse(bytes.fromhex(digits)) if _FRAME.fullmatch(digits) else None


def _disk(row: Sequence[str]) -> LocalDisk:
    name, size, rotational, model, serial = (lldp.printable(word, _TEXT) for word in row)
    kind: Literal["nvme", "ssd", "hdd", "unknown"] = "unknown"
    if name.startswith("nvme"):
        kind = "nvme"
    elif rotational in ("0", "1"):
        kind = "hdd" if rotational == "1" else "ssd"
    return LocalDisk(name=name, size=_number(size), kind=kind, model=model, serial=serial)


def _firmware(word: str) -> Literal["bios", "uefi", "unknown"]:
    return "bios" if word == "bios" else "uefi" if word == "uefi" else "unknown"


def _number(word: str) -> int:
    return int(word) if _NUMBER.fullmatch(word) else 0


def _uuid(word: str) -> UUID | None:
    try:
        found = UUID(word)
    except ValueError:
        return None
    return None if found.int in _NO_UUIDS else found


def _address(word: str) -> str | None:
    try:
        found = ip_address(word)
    except ValueError:
        return None
    return None if found.is_unspecified or found.is_multicast or found.is_loopback else str(found)


def _refusal(why: str) -> BadRequest:
    return BadRequest(f"this is no report of the inspection system: {why}", next_step="build it again")
