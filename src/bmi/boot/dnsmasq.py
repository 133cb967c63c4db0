"""One dnsmasq per network: DHCP, TFTP and router advertisements, in the namespace of the gateway's leg.

It is started detached and found again after a restart of BMI. `files.py` says which files it has.
"""

import hashlib
import logging
import os
import pwd
import shutil
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGHUP
from uuid import UUID

import psutil

from bmi import processes
from bmi.boot import files, leases, routes, tftp
from bmi.boot.dhcp_conf import (
    LOADERS,
    Addressing,
    BootHost,
    DhcpMode,
    NodeName,
    Place,
    check_addressing,
    check_hosts,
    check_names,
    configuration,
    hosts_text,
    names_text,
    options_text,
)
from bmi.boot.dhcp_log import BootEvent, Kind, LogReader
from bmi.boot.files import Files
from bmi.boot.leases import Lease, Reservation
from bmi.boot.texts import OWN_TEXTS, Texts
from bmi.drivers import Outcome, Site
from bmi.drivers.leg import Leg
from bmi.errors import BootServiceError, CommandFailed, DeadlineExceeded, PortTaken
from bmi.netns import call_inside
from bmi.processes import Process
from bmi.run import run
from bmi.wait import wait_until

__all__ = ["Addressing", "BootHost", "DhcpMode", "Dnsmasq", "Lease", "NodeName"]

log = logging.getLogger(__name__)

_READY = 10.0  # seconds; dnsmasq takes 20 ms on an idle machine
_RELEASED = 2.0  # seconds
_OUTPUT_KEPT = 500  # characters of dnsmasq's last words
_STARTED = " started, version "  # what it writes into its log
_PLAIN = Addressing()
_LOG_AT_MOST = 64 << 20  # bytes; it gets that long only where nobody asks for events


class Dnsmasq:
    """The dnsmasq of every network of this gateway. May be called from many threads."""

    def __init__(
        self,
        site: Site,
        *,
        tftp_root: Path = Path("/usr/lib/ipxe"),
        run_dir: Path = Path("/run/bmi"),
        user: str = "dnsmasq",
        patience: float = 10.0,
        texts: Texts = OWN_TEXTS,
        leases: Path | None = None,
    ) -> None:
        """Say where things are; nothing is started.

        Args:
            site: The installation.
            tftp_root: Folder with iPXE's loaders; everything in it can be fetched by every node.
            run_dir: Folder that every user may pass through.
            user: Whom dnsmasq runs as, once it holds its ports.
            patience: Seconds without an answer after which a dnsmasq counts as hung.
            texts: The templates.
            leases: Folder of the leases; with the other files in memory if None.
        """
        self._kept = site.state_dir / "boot"
        self._shown = run_dir / site.installation
        self._tftp_root = tftp_root
        self._user = user
        self._patience = patience
        self._texts = texts
        self._leases = leases
        self._calls: list[Callable[[UUID], None]] = []
        self._guard = threading.Lock()
        self._locks: defaultdict[UUID, threading.RLock] = defaultdict(threading.RLock)
        self._readers: dict[UUID, LogReader] = {}
        self._watched: set[Process] = set()
        self._dismissed: set[Process] = set()
        """Processes that were ended on purpose."""

    def serve(
        self,
        leg: Leg,
        hosts: Sequence[BootHost],
        *,
        addressing: Addressing = _PLAIN,
        names: Sequence[NodeName] = (),
    ) -> Outcome:
        """Make a network's dnsmasq run and answer exactly these hosts.

        New, changed and removed hosts need no restart. A host that went away is not answered any more and its
        lease is dropped; other leases stay.

        Args:
            leg: The gateway's leg on the network.
            hosts: Every host to be answered.
            addressing: What they are told about the network.
            names: The names that are answered, if any are.

        Raises:
            BadRequest: A value cannot be used.
            BootServiceError: dnsmasq does not start, or a file that it needs is missing.
            PortTaken: Another program serves DHCP or TFTP on the leg.
            LegError: There is no such leg.
        """
        told = _Told(addressing, hosts, names)
        check_addressing(leg, addressing)
        check_hosts(leg, hosts)
        check_names(names)
        at = self._files(leg.network)
        with self._lock(leg.network):
            if files.size(at.log) > _LOG_AT_MOST:
                os.truncate(at.log, 0)
            conf = configuration(self._place(leg, at, addressing), self._texts)
            process = processes.recorded(at.record)
            routes.lead_to(leg, addressing)
            if process is None or files.read(at.conf) != conf:
                self._restart(leg, at, conf, told)
                return Outcome.DONE
            self._watch(leg.network, process)
            if told.is_known(at) and not leases.stale(at.leases, told.reserved, addressing.dynamic):
                return Outcome.ALREADY
            try:
                self._reload(process, at, told)
                _release_stale(leg, at, told)
            except (BootServiceError, CommandFailed, DeadlineExceeded) as error:
                log.warning(
                    "dnsmasq of network %s does not take a change, restarting it: %s", leg.network, error
                )
                self._restart(leg, at, conf, told)
            return Outcome.DONE

    def stop(self, network: UUID) -> Outcome:
        """End a network's dnsmasq and remove its files, leases and log included.

        Raises:
            DeadlineExceeded: It does not end, even by force.
        """
        at = self._files(network)
        with self._lock(network):
            self._end(at)
            self._readers.pop(network, None)
            there = [folder for folder in (at.shown, at.kept) if folder.exists()]
            for folder in there:
                shutil.rmtree(folder)
            for path in (at.leases, at.leases_copy):
                if path is not None:
                    path.unlink(missing_ok=True)
            with self._guard, suppress(OSError):  # other networks' files are in it, or it is gone
                at.shown.parent.rmdir()
        return Outcome.DONE if there else Outcome.ALREADY

    def end_if_hung(self, leg: Leg) -> bool:
        """End the dnsmasq of a leg's network that runs and does not answer; returns whether there was one.

        Who asked for `on_exit` is called, as if it had ended by itself.

        Raises:
            LegError: There is no such leg.
            DeadlineExceeded: It does not end, even by force.
        """
        at = self._files(leg.network)
        process = processes.recorded(at.record)
        if process is None or self._is_heard(leg):
            return False
        with self._lock(leg.network):
            if processes.recorded(at.record) != process:  # it was replaced while this waited
                return False
            log.warning("dnsmasq of network %s does not answer within %g s", leg.network, self._patience)
            process.stop(kill=True)
            return True

    def answers(
        self,
        leg: Leg,
        hosts: Sequence[BootHost],
        *,
        addressing: Addressing = _PLAIN,
        names: Sequence[NodeName] = (),
    ) -> bool:
        """Say whether a network's dnsmasq runs as `serve` would have it, and answers exactly these hosts.

        Raises:
            BootServiceError: The leg has no interface.
            LegError: There is no such leg.
        """
        at = self._files(leg.network)
        with self._lock(leg.network):
            runs = processes.recorded(at.record) is not None
            current = files.read(at.conf) == configuration(self._place(leg, at, addressing), self._texts)
            return runs and current and _Told(addressing, hosts, names).is_known(at)

    def running(self) -> list[UUID]:
        """List the networks whose dnsmasq runs."""
        return [network for network, _ in self._running()]

    def leases(self, network: UUID) -> list[Lease]:
        """List the addresses that nodes have taken on a network."""
        return leases.leases(self._files(network).leases)

    def events(self, network: UUID, *, again: bool = False) -> list[BootEvent]:
        """Return what a network's dnsmasq saw since the last call.

        Events count as dealt with when the next call comes: those of a call that was the last one before BMI
        ended are returned again.

        Args:
            network: The network.
            again: Whether the last call's answer was lost, so that its events are wanted once more.
        """
        with self._lock(network):
            reader = None if again else self._readers.get(network)
            if reader is None:
                at = self._files(network)
                reader = self._readers[network] = LogReader(at.log, at.position)
            else:
                reader.commit()
            events = reader.read()
            if any(event.kind is Kind.ACK for event in events):
                self._copy_leases(self._files(network))
            return events

    def on_exit(self, call: Callable[[UUID], None]) -> None:
        """Call this when a dnsmasq ended and nobody asked it to, also for those found running."""
        self._calls.append(call)
        for network, process in self._running():
            self._watch(network, process)

    def close(self) -> None:
        """Do nothing: the servers go on, and nothing is held."""

    def _running(self) -> list[tuple[UUID, Process]]:
        found = []
        for folder in sorted(self._kept.iterdir()) if self._kept.exists() else []:
            with suppress(ValueError):
                network = UUID(folder.name)
                if process := processes.recorded(self._files(network).record):
                    found.append((network, process))
        return found

    def _lock(self, network: UUID) -> threading.RLock:
        with self._guard:
            return self._locks[network]

    def _files(self, network: UUID) -> Files:
        return Files(self._kept / str(network), self._shown / str(network), self._leases)

    def _place(self, leg: Leg, at: Files, addressing: Addressing) -> Place:
        try:
            inode, index = call_inside(
                leg.namespace,
                lambda: (
                    Path("/proc/thread-self/ns/net").stat().st_ino,
                    socket.if_nametoindex(leg.interface),
                ),
            )
        except OSError as error:
            raise BootServiceError(
                f"there is no interface {leg.interface} in namespace {leg.namespace}: {error}",
                next_step="run bmi doctor --repair, it makes legs",
            ) from error
        return Place(
            leg=leg,
            namespace_inode=inode,
            interface_index=index,
            addressing=addressing,
            tftp_root=self._tftp_root,
            user=self._user,
            hosts=at.hosts,
            options=at.options,
            leases=at.leases,
            names=at.names,
            log=at.log,
        )

    def _copy_leases(self, at: Files) -> None:
        """Show the leases to other programs, if they are kept where these could look."""
        if at.leases_copy is None:
            return
        files.write(at.leases_copy, leases.as_libvirt(leases.leases(at.leases)))
        at.leases_copy.chmod(0o644)

    def _is_heard(self, leg: Leg) -> bool:
        """Say whether a network's dnsmasq answers. It does everything on one thread, so TFTP speaks for all."""
        try:
            return tftp.answers(leg.namespace, leg.address.ip, deadline=self._patience)
        except OSError as error:  # that is the leg's fault
            log.warning("dnsmasq of network %s cannot be asked: %s", leg.network, error)
            return True

    # --- starting, telling, ending -----------------------------------------------------------------------

    def _restart(self, leg: Leg, at: Files, conf: str, told: "_Told") -> None:
        self._require_loaders()
        self._end(at)
        _require_free_ports(leg)
        files.make_folder(at.kept, 0o700)
        if at.leases_folder is not None:
            files.make_folder(at.leases_folder, 0o755)
        self._write(at, told)
        leases.drop_stale(at.leases, told.reserved, told.addressing.dynamic)
        files.write(at.conf, conf)
        at.output.unlink(missing_ok=True)
        position = files.size(at.log)
        process = processes.start(
            ["dnsmasq", "--keep-in-foreground", f"--conf-file={at.conf}"],
            record=at.record,
            log=at.output,
            namespace=leg.namespace,
            env={"TZ": "UTC"},  # dhcp_log reads its times
        )
        try:
            _await_read(process, at, position, told.read_last(at) or _STARTED)
        except BootServiceError:
            self._end(at)
            raise
        _confirm(at, position, told)
        self._watch(leg.network, process)

    def _reload(self, process: Process, at: Files, told: "_Told") -> None:
        self._write(at, told)
        position = files.size(at.log)
        if read := told.read_last(at):
            process.signal(SIGHUP)
            _await_read(process, at, position, read)
        _confirm(at, position, told)

    def _write(self, at: Files, told: "_Told") -> None:
        try:
            uid = pwd.getpwnam(self._user).pw_uid
        except KeyError as error:
            raise BootServiceError(
                f"there is no user {self._user} for dnsmasq to run as",
                next_step="install the Debian package dnsmasq-base, which makes it",
            ) from error
        with self._guard:
            files.make_folder(at.shown, 0o711)
        for path, text in told.texts(at).items():
            files.write(path, text, owner=uid)

    def _end(self, at: Files) -> None:
        """End a network's dnsmasq, also one that was started just before a crash and is in no record."""
        own = f"--conf-file={at.conf}"
        for seen in psutil.process_iter():
            with suppress(psutil.Error):
                if own in seen.cmdline() and (process := Process.of(seen.pid)):
                    with self._guard:
                        self._dismissed.add(process)
                    process.stop()

    def _watch(self, network: UUID, process: Process) -> None:
        with self._guard:
            if process in self._watched:
                return
            self._watched.add(process)

        def ended() -> None:
            with self._guard:
                self._watched.discard(process)
                asked_to = process in self._dismissed
                self._dismissed.discard(process)
            if not asked_to:
                for call in self._calls:
                    call(network)

        process.on_exit(ended)

    def _require_loaders(self) -> None:
        for loader in LOADERS:
            if not (self._tftp_root / loader.file).is_file():
                raise BootServiceError(
                    f"file {self._tftp_root / loader.file} is missing, no node can load iPXE over TFTP",
                    next_step="install the Debian package ipxe, or set boot.tftp_root to a folder that has it",
                )


def _require_free_ports(leg: Leg) -> None:
    """Refuse to share: dnsmasq itself would run beside another DHCP server and answer every other request."""
    found = (
        run(["ss", "-Hulnp", "sport = :67 or sport = :69"], namespace=leg.namespace).split("\n")[0].split()
    )
    if found:
        _, _, _, where, _, *who = found
        raise PortTaken(
            f"UDP {where} in namespace {leg.namespace} is in use by {' '.join(who) or 'another program'}",
            next_step="end that program: on this network BMI serves DHCP and TFTP",
        )


def _await_read(process: Process, at: Files, position: int, read: str) -> None:
    """Wait until dnsmasq has read what it was told.

    Args:
        process: The dnsmasq.
        at: Its files.
        position: How long its log was before it was told.
        read: What it writes into its log then.
    """
    try:
        wait_until(
            lambda: read in (files.read(at.log, position) or "") or not process.alive(),
            deadline=_READY,
            what="dnsmasq to read its hosts",
            next_step="",
        )
    except DeadlineExceeded as error:
        raise BootServiceError(
            f"dnsmasq {process.pid} did not read its hosts within {_READY:g} s",
            next_step=f"look at {at.log}",
        ) from error
    if not process.alive():
        # Where it says why depends on how far it came.
        words = (files.read(at.output) or "") + (files.read(at.log, position) or "")
        raise BootServiceError(
            f"dnsmasq ended: {words.strip()[-_OUTPUT_KEPT:] or 'no word why'}",
            next_step=f"look at {at.log}; the program is in the Debian package dnsmasq-base",
        )


def _confirm(at: Files, position: int, told: "_Told") -> None:
    """Note that dnsmasq serves these hosts, unless it complained about one in its log from a position on."""
    for line in (files.read(at.log, position) or "").splitlines():
        if " at line " in line and line.endswith((str(at.hosts), str(at.options))):
            raise BootServiceError(f"dnsmasq refuses a host: {line}", next_step="report this as a bug of BMI")
    files.write(at.applied, told.digest(at))


def _release_stale(leg: Leg, at: Files, told: "_Told") -> None:
    """Make a running dnsmasq forget the leases of hosts that went away."""

    def stale() -> list[Lease]:
        return leases.stale(at.leases, told.reserved, told.addressing.dynamic)

    before = stale()
    for lease in before:
        run(["dhcp_release", leg.interface, str(lease.address), lease.mac], namespace=leg.namespace)
    wait_until(
        lambda: not stale(),
        deadline=_RELEASED,
        what=f"dnsmasq to drop {len(before)} leases",
        next_step="",
    )


@dataclass(frozen=True)
class _Told:
    """What a dnsmasq is told while it runs."""

    addressing: Addressing
    hosts: Sequence[BootHost]
    names: Sequence[NodeName]

    @property
    def reserved(self) -> set[Reservation]:
        return {(host.mac.lower(), host.address) for host in self.hosts}

    def texts(self, at: Files) -> dict[Path, str]:
        return {
            at.names: names_text(self.names),
            at.hosts: hosts_text(self.hosts, self.addressing.strangers),
            at.options: options_text(self.hosts),
        }

    def digest(self, at: Files) -> str:
        return hashlib.sha256("\0".join(self.texts(at).values()).encode()).hexdigest()

    def is_known(self, at: Files) -> bool:
        """Say whether dnsmasq has read this, and would read it again."""
        texts = self.texts(at)
        return files.read(at.applied) == self.digest(at) and all(
            files.read(path) == text for path, text in texts.items()
        )

    def read_last(self, at: Files) -> str | None:
        """Return what dnsmasq writes into its log when it has read all of it; none where it reads none of it."""
        if self.addressing.mode is not DhcpMode.OFF:
            return f": read {at.options}\n"
        return f": read {at.names} - " if self.addressing.dns else None
