"""What dnsmasq saw: its log, line by line, as events of a boot's timeline."""

import hashlib
import json
import os
import re
from collections import OrderedDict
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from ipaddress import IPv4Address
from pathlib import Path, PurePosixPath

from bmi.boot import files

_READ_AT_MOST = 4 << 20  # bytes taken in at a time
_LOG_LIMIT = 8 << 20  # bytes; a log that is longer and read to its end is emptied
_REPEAT = timedelta(seconds=10)  # a node asks again and again: within this it is one event
_REPEAT_REFUSED = timedelta(seconds=60)
_REFUSED_AT_MOST = 32  # cards per minute whose refusal is an event: anybody can make up MAC addresses
_REMEMBERED = 256  # events that repeats are told from
_TAIL = 64  # bytes before a position that must still be there for the position to mean anything

_REASONS = {"ignored": "no node on this network has this card"}
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_LINE = re.compile(
    r"(?P<month>[A-Z][a-z]{2}) +(?P<day>\d{1,2}) (?P<clock>\d\d:\d\d:\d\d) "
    r"dnsmasq-(?P<part>dhcp|tftp)\[\d+\]: (?P<text>.*)",
    re.ASCII,
)
_MAC = r"(?P<mac>[0-9a-f]{2}(?::[0-9a-f]{2}){5})"
_ADDRESS = r"(?P<address>\d{1,3}(?:\.\d{1,3}){3})"
_PACKET = re.compile(r"\d+ available DHCP (?:subnet|range): .*", re.ASCII)
_USER_CLASS = re.compile(r"\d+ user class: (?P<name>.*)", re.ASCII)
_FIRMWARE = re.compile(r"\d+ vendor class: (?P<way>PXE|HTTP)Client:Arch:(?P<arch>\d{5}).*", re.ASCII)
_DISCOVER = re.compile(rf"\d+ DHCPDISCOVER\(\S+\) (?:{_ADDRESS} )?{_MAC} (?P<reason>.*)", re.ASCII)
_ACK = re.compile(rf"\d+ DHCPACK\(\S+\) {_ADDRESS} {_MAC} .*", re.ASCII)
_NAK = re.compile(rf"\d+ DHCPNAK\(\S+\) {_ADDRESS} {_MAC} (?P<reason>.*)", re.ASCII)
_SENT = re.compile(rf"sent (?P<file>/.*) to {_ADDRESS}", re.ASCII)


IPXE = "iPXE"
"""Who asked, when it was iPXE."""


class Kind(StrEnum):
    """What a node did, or what was done for it."""

    DISCOVER = "dhcp-discover"
    """It asked for an address."""
    ACK = "dhcp-ack"
    """It got its address."""
    SENT = "tftp-sent"
    """It loaded a file; only its address is known."""
    REFUSED = "dhcp-refused"
    """A card asked that has no reservation, or asked for an address that is not its own."""


@dataclass(frozen=True)
class BootEvent:
    """One line of what happened."""

    kind: Kind
    mac: str | None
    address: IPv4Address | None
    detail: str
    """Who asked, as in "iPXE"; or which file, or why not."""
    time: datetime


@dataclass(frozen=True)
class _Position:
    """How far a log was read, and what stood before it: a log that was emptied and grew again is another."""

    offset: int
    tail: str

    @staticmethod
    def at(log: int, offset: int) -> "_Position":
        start = max(0, offset - _TAIL)
        return _Position(offset, hashlib.sha256(os.pread(log, offset - start, start)).hexdigest())


_NOWHERE = _Position(0, hashlib.sha256(b"").hexdigest())


class LogReader:
    """Reads a log on from where it was left, also after a restart and after the log was emptied."""

    def __init__(self, path: Path, offset_file: Path, *, limit: int = _LOG_LIMIT) -> None:
        """Say which log, and where to remember the position.

        Args:
            path: The log; it need not exist yet.
            offset_file: File that remembers the position.
            limit: Bytes from which on a log that is read to its end is emptied.
        """
        self._path = path
        self._offset_file = offset_file
        self._limit = limit
        self._parser = _Parser()
        self._memory = _Memory()
        self._position = _load(offset_file)
        self._pending: tuple[_Position, _Memory] | None = None

    def read(self) -> list[BootEvent]:
        """Return the events after the committed position, repeats left out."""
        try:
            with self._path.open("rb") as log:
                start = self._position.offset
                if _Position.at(log.fileno(), start) != self._position:
                    start = 0
                log.seek(start)
                block = log.read(_READ_AT_MOST)
                # A line that is longer than a whole block is none of dnsmasq's: skip it.
                length = block.rfind(b"\n") + 1 or (len(block) if len(block) == _READ_AT_MOST else 0)
                position = _Position.at(log.fileno(), start + length)
        except FileNotFoundError:
            return []
        memory = self._memory.copy()
        lines = block[:length].decode(errors="replace").splitlines()
        self._pending = position, memory
        return [event for line in lines if (event := self._parser.parse(line)) and memory.is_new(event)]

    def commit(self) -> None:
        """Remember that what `read` returned last is dealt with; empties a log that has grown too long."""
        if self._pending is None:
            return
        position, self._memory = self._pending
        self._pending = None
        # dnsmasq appends, so it goes on at the new end. A line that it adds between these two calls is lost.
        if position.offset > self._limit and position.offset == files.size(self._path):
            os.truncate(self._path, 0)
            position = _NOWHERE
        if position != self._position:
            files.write(self._offset_file, json.dumps(asdict(position)))
            self._position = position


class _Parser:
    """Finds the events in dnsmasq's lines; some lines say more about the packet whose own line follows."""

    def __init__(self) -> None:
        self._client = ""

    def parse(self, line: str) -> BootEvent | None:
        found = _LINE.fullmatch(line)
        time = _time(found) if found else None
        if found is None or time is None:
            return None
        text = found["text"]
        if found["part"] == "tftp":
            if sent := _SENT.fullmatch(text):
                return _event(Kind.SENT, sent, PurePosixPath(sent["file"]).name, time)
            return None
        self._note_client(text)
        if asked := _DISCOVER.fullmatch(text):
            if not asked["reason"]:
                return _event(Kind.DISCOVER, asked, self._client, time)
            return _event(Kind.REFUSED, asked, _REASONS.get(asked["reason"], asked["reason"]), time)
        if refused := _NAK.fullmatch(text):
            return _event(Kind.REFUSED, refused, refused["reason"], time)
        if given := _ACK.fullmatch(text):
            return _event(Kind.ACK, given, self._client, time)
        return None

    def _note_client(self, text: str) -> None:
        if _PACKET.fullmatch(text):
            self._client = "operating system"
        elif firmware := _FIRMWARE.fullmatch(text):
            self._client = "BIOS firmware" if int(firmware["arch"]) == 0 else "UEFI firmware"
            if firmware["way"] == "HTTP":
                self._client += ", HTTP boot"
        elif (named := _USER_CLASS.fullmatch(text)) and named["name"] == IPXE:
            self._client = IPXE


class _Memory:
    """What was seen lately, to tell repeats; bounded, whatever nodes send."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[object, ...], datetime] = OrderedDict()
        self._minute: datetime | None = None
        self._refused = 0

    def copy(self) -> "_Memory":
        twin = _Memory()
        twin._seen = self._seen.copy()
        twin._minute, twin._refused = self._minute, self._refused
        return twin

    def is_new(self, event: BootEvent) -> bool:
        key = (event.kind, event.mac, event.address, event.detail)
        window = _REPEAT_REFUSED if event.kind is Kind.REFUSED else _REPEAT
        last = self._seen.get(key)
        if last is not None and timedelta() <= event.time - last < window:
            return False
        if event.kind is Kind.REFUSED and not self._may_refuse(event.time):
            return False
        self._seen[key] = event.time
        self._seen.move_to_end(key)
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return True

    def _may_refuse(self, time: datetime) -> bool:
        minute = time.replace(second=0)
        if minute != self._minute:
            self._minute, self._refused = minute, 0
        self._refused += 1
        return self._refused <= _REFUSED_AT_MOST


def _event(kind: Kind, found: re.Match[str], detail: str, time: datetime) -> BootEvent | None:
    parts = found.groupdict()
    try:
        address = IPv4Address(parts["address"]) if parts.get("address") else None
    except ValueError:
        return None
    return BootEvent(kind, parts.get("mac"), address, detail, time)


def _time(found: re.Match[str]) -> datetime | None:
    """Return a line's time, which dnsmasq writes in UTC and without a year: the latest that is not to come."""
    now = datetime.now(UTC)
    month = _MONTHS.index(found["month"]) + 1 if found["month"] in _MONTHS else 0
    hour, minute, second = map(int, found["clock"].split(":"))
    for year in range(now.year, now.year - 5, -1):  # the 29th of February is not in every year
        with suppress(ValueError):
            time = datetime(year, month, int(found["day"]), hour, minute, second, tzinfo=UTC)
            if time <= now + timedelta(days=1):
                return time
    return None


def _load(file: Path) -> _Position:
    try:
        return _Position(**json.loads(file.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return _NOWHERE
