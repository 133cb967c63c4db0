"""What dnsmasq saw: its log, line by line, as events of a boot's timeline."""

import hashlib
import json
import os
import re
from collections import OrderedDict
from dataclasses import dataclass
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

_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
_LINE = re.compile(
    r"(?P<month>[A-Z][a-z]{2}) +(?P<day>\d{1,2}) (?P<clock>\d\d:\d\d:\d\d) "
    r"dnsmasq-(?P<part>dhcp|tftp)\[\d+\]: (?P<text>.*)",
    re.ASCII,
)
_MAC = r"(?P<mac>[0-9a-f]{2}(?::[0-9a-f]{2}){5})"
_ADDRESS = r"(?P<address>\d{1,3}(?:\.\d{1,3}){3})"
_PACKET = re.compile(r"\d+ available DHCP (?:subnet|range): .*", re.ASCII)
_USER_CLASS = re.compile(r"\d+ user class: (?P<name>.*)", re.ASCII)
_FIRMWARE = re.compile(r"\d+ vendor class: PXEClient:Arch:(?P<arch>\d{5}).*", re.ASCII)
_DISCOVER = re.compile(rf"\d+ DHCPDISCOVER\(\S+\) (?:{_ADDRESS} )?{_MAC} (?P<reason>.*)", re.ASCII)
_ACK = re.compile(rf"\d+ DHCPACK\(\S+\) {_ADDRESS} {_MAC} .*", re.ASCII)
_NAK = re.compile(rf"\d+ DHCPNAK\(\S+\) {_ADDRESS} {_MAC} (?P<reason>.*)", re.ASCII)
_SENT = re.compile(rf"sent (?P<file>/.*) to {_ADDRESS}", re.ASCII)


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
        self._pending: tuple[_Position, _Memory] | None = None

    def read(self) -> list[BootEvent]:
        """Return the events after the committed position, repeats left out."""
        try:
            with self._path.open("rb") as log:
                start = _position(self._offset_file)
                if not start.fits(log.fileno()):
                    start = _Position(0, "")
                log.seek(start.offset)
                block = log.read(_READ_AT_MOST)
        except FileNotFoundError:
            return []
        complete = block[: block.rfind(b"\n") + 1]
        if not complete and len(block) == _READ_AT_MOST:
            complete = block  # no line is that long: skip it
        memory = self._memory.copy()
        lines = complete.decode(errors="replace").splitlines()
        events = [event for line in lines if (event := self._parser.parse(line)) and memory.is_new(event)]
        end = start.offset + len(complete)
        tail = complete[-_TAIL:] if len(complete) >= _TAIL or not start.offset else None
        self._pending = (_Position(end, _digest_before(self._path, end) if tail is None else _digest(tail)), memory)
        return events

    def commit(self) -> None:
        """Remember that what `read` returned last is dealt with; empties a log that has grown too long."""
        if self._pending is None:
            return
        position, self._memory = self._pending
        self._pending = None
        # dnsmasq writes at the end, wherever that is. A line that it adds between these two calls is lost.
        if position.offset > self._limit and position.offset == files.size(self._path):
            os.truncate(self._path, 0)
            position = _Position(0, "")
        if position != _position(self._offset_file):
            files.write(self._offset_file, json.dumps({"offset": position.offset, "tail": position.tail}))
