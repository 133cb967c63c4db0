"""Looks at what is around a process of BMI: clock, room, names, programs, ports."""

import os
import re
import shutil
import socket
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, ip_address

from bmi.api.doctor import Family
from bmi.boot.dhcp_conf import LOADERS
from bmi.db import now
from bmi.doctor.codes import Code
from bmi.doctor.power import is_ip, stands_for_nothing
from bmi.doctor.sheet import Check, Sheet
from bmi.parts import Parts
from bmi.rights import OWN, Rights

_CLOCK = 2.0  # seconds that two clocks may differ
_STATE_FULL = 64 << 20  # bytes
_STATE_NEARLY_FULL = 1 << 30  # bytes

# Debian packages, by program.
_PROGRAMS = {
    "dnsmasq": "dnsmasq-base",
    "dhcp_release": "dnsmasq-utils",
    "ip": "iproute2",
    "ss": "iproute2",
    "nsenter": "util-linux",
}
_TGT_PROGRAMS = {"tgtd": "tgt"}
_FORWARDER_PROGRAMS = {"haproxy": "haproxy"}
_OVS_LEG_PROGRAMS = {"ethtool": "ethtool"}

_PROCESS = re.compile(r'"([^"]*)",pid=(\d+)')


@dataclass(frozen=True)
class Listener:
    """A socket that a program takes requests at."""

    address: str
    program: str
    pid: int

    def __str__(self) -> str:
        return f"{self.program or 'a program'} (process {self.pid})" if self.pid else "a program"


def checks(parts: Parts) -> list[Check]:
    """Return what there is to look at in the process that answers."""
    return [
        *_of_every_process(parts),
        Check(Family.ENVIRONMENT, "API port", partial(_api_port, parts)),
    ]


def gateway_checks(parts: Parts) -> list[Check]:
    """Return what there is to look at on a gateway."""
    return [
        *_of_every_process(parts),
        Check(Family.ENVIRONMENT, "programs", partial(_programs, parts)),
        Check(Family.BOOT, "iPXE", partial(_loaders, parts)),
    ]


def listeners(rights: Rights, namespace: str | None, port: int, *, udp: bool = False) -> list[Listener]:
    """Return who listens on a port.

    Args:
        rights: How to look into it.
        namespace: Network namespace to look in; the caller's own if None.
        port: The port.
        udp: Whether it is one of UDP; else of TCP.

    Raises:
        CommandFailed: It cannot be seen.
    """
    found = []
    for line in rights.listening(namespace, port, udp=udp).splitlines():
        _state, _received, _sent, local, _peer, *who = line.split(maxsplit=5)
        process = _PROCESS.search(who[0]) if who else None
        program, pid = (process[1], int(process[2])) if process else ("", 0)
        found.append(Listener(local.rpartition(":")[0].partition("%")[0].strip("[]"), program, pid))
    return found


def takes(listener: Listener, address: IPv4Address) -> bool:
    """Say whether what is sent to an address may reach a listener."""
    if listener.address == "*":
        return True
    bound = ip_address(listener.address)
    return bound.is_unspecified or bound == address


def _of_every_process(parts: Parts) -> list[Check]:
    return [
        Check(Family.ENVIRONMENT, "clock", partial(_clock, parts)),
        Check(Family.ENVIRONMENT, "state folder", partial(_state, parts)),
        Check(Family.ENVIRONMENT, "names", partial(_names, parts)),
    ]


def _clock(parts: Parts, sheet: Sheet) -> None:
    with parts.db.read() as session:
        before = now()
        there = parts.db.clock(session)
        here = before + (now() - before) / 2
    off = (here - there).total_seconds()
    if abs(off) > _CLOCK:
        way = "ahead of" if off > 0 else "behind"
        message = f"is {abs(off):.1f} s {way} the clock of the database"
        sheet.note(Code.CLOCK_OFF, f"clock of host {socket.gethostname()}", message)


def _state(parts: Parts, sheet: Sheet) -> None:
    folder = parts.settings.state_dir
    free = shutil.disk_usage(folder).free
    thing, message = f"folder {folder} on host {socket.gethostname()}", f"{free >> 20} MiB are free"
    if free < _STATE_FULL:
        sheet.note(Code.STATE_FULL, thing, message)
    elif free < _STATE_NEARLY_FULL:
        sheet.note(Code.STATE_NEARLY_FULL, thing, message)


def _names(parts: Parts, sheet: Sheet) -> None:
    host = parts.db.url.host
    if host is None or host.startswith("/"):  # a file, or a socket of this host
        return
    if not is_ip(host) and stands_for_nothing(host):
        message = f"host {socket.gethostname()} finds no address for it"
        sheet.note(Code.DATABASE_NAME_MISSING, f"database host {host}", message)


def _api_port(parts: Parts, sheet: Sheet) -> None:
    """Look whether requests meant for this API can reach another program."""
    api = parts.settings.api
    found = listeners(OWN, None, api.port)
    own = {one.address for one in found if one.pid == os.getpid()}
    everywhere = any(address == "*" or ip_address(address).is_unspecified for address in own)
    for other in found:
        if other.pid != os.getpid() and (everywhere or other.address in own):
            message = f"{other} listens on {other.address}:{api.port} too"
            sheet.note(Code.PORT_TAKEN, f"API port {api.host}:{api.port}", message)


def _programs(parts: Parts, sheet: Sheet) -> None:
    wanted = dict(_PROGRAMS)
    if parts.settings.target.driver == "tgt":
        wanted |= _TGT_PROGRAMS | (_FORWARDER_PROGRAMS if parts.storage.shared else {})
    if parts.settings.leg.driver == "ovs":
        wanted |= _OVS_LEG_PROGRAMS
    for program, package in wanted.items():
        if shutil.which(program) is None:
            thing = f"program {program} on gateway {parts.gateway.name}"
            sheet.note(Code.PROGRAM_MISSING, thing, f"is not installed; the Debian package is {package}")


def _loaders(parts: Parts, sheet: Sheet) -> None:
    for name in (loader.file for loader in LOADERS):
        file = parts.settings.boot.tftp_root / name
        if not file.is_file():
            thing = f"file {file} on gateway {parts.gateway.name}"
            sheet.note(Code.LOADER_MISSING, thing, "is absent: no node can load iPXE over TFTP")
