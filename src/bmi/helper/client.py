"""What stands for legs, switches, DHCP servers and rights in a process that is not root: it asks the helper."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from bmi import errors
from bmi.boot.dhcp_log import BootEvent
from bmi.boot.dnsmasq import Addressing, BootHost, Lease, NodeName
from bmi.drivers import Outcome
from bmi.drivers.leg import Leg
from bmi.drivers.switch import PortState, PortVlans
from bmi.errors import BmiError, HelperUnavailable
from bmi.helper.verbs import VERBS, WATCH
from bmi.helper.wire import Broken, receive, send
from bmi.rights import OWN

log = logging.getLogger(__name__)

_REACHED = 10.0  # seconds until somebody must listen; a helper that is restarted takes one or two
_ANSWERED = 120.0  # seconds until a call must be answered
_POLL = 0.05  # seconds
_SILENCE = 30.0  # seconds without a sign of life after which a helper that is watched counts as gone
_PAUSE = 1.0  # seconds until it is asked again

_PLAIN = Addressing()


class Helper:
    """The helper, as one installation sees it. May be called from many threads."""

    def __init__(self, path: Path, installation: str) -> None:
        """Say where it is; nothing is opened.

        Args:
            path: Its socket.
            installation: Whose things are asked for.
        """
        self._path = path
        self._installation = installation

    def call(self, verb: str, *, switch: str | None = None, **values: Any) -> Any:
        """Let the helper do something, and return what it returns.

        Raises:
            HelperUnavailable: It does not answer. What was asked for may have been done or not.
            BmiError: What the verb raises.
            OSError: See there.
        """
        known = VERBS[verb]
        request = self._request(verb) | {"switch": switch, "arguments": known.pack(values)}
        with closing(self._connected()) as connection:
            try:
                send(connection, request)
                answer, sockets = receive(connection)
            except Broken as error:
                raise self._unavailable(f"it did not answer to {verb}: {error}") from error
        if "error" in answer:
            raise _raised(answer["error"])
        if known.returns is None:
            return sockets
        return known.returns.validate_python(answer["result"])

    def watch(
        self, ended: Callable[[UUID], None], stop: threading.Event, *, begun: Callable[[], None]
    ) -> None:
        """Tell of each network whose dnsmasq ends, until the helper is gone or `stop` is set.

        Args:
            ended: Called with the network.
            stop: Looked at every few seconds.
            begun: Called when nothing is missed any more.

        Raises:
            HelperUnavailable: It is gone.
        """
        with closing(self._connected()) as connection:
            connection.settimeout(_SILENCE)
            try:
                send(connection, self._request(WATCH))
                receive(connection)
                begun()
                while not stop.is_set():
                    told, _ = receive(connection)
                    if "ended" in told:
                        ended(UUID(told["ended"]))
            except Broken as error:
                raise self._unavailable(str(error)) from error

    def _request(self, verb: str) -> dict[str, Any]:
        return {"verb": verb, "installation": self._installation}

    def _connected(self) -> socket.socket:
        end = time.monotonic() + _REACHED
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(_ANSWERED)
            try:
                connection.connect(str(self._path))
            except (FileNotFoundError, ConnectionRefusedError) as error:
                connection.close()
                if time.monotonic() > end:
                    raise self._unavailable(error.strerror or "") from error
                time.sleep(_POLL)
            except OSError as error:
                connection.close()
                raise self._unavailable(error.strerror or str(error)) from error
            else:
                return connection

    def _unavailable(self, why: str) -> HelperUnavailable:
        return HelperUnavailable(
            f"the helper at {self._path} cannot be used: {why}",
            next_step="start it, or look into its log (journalctl -u bmi-helper); helper.user says who may ask",
        )


class HelpedRights:
    """Rights that the helper has, see `bmi.rights.Rights`. For the host's own namespace none are needed."""

    inside = False

    def __init__(self, helper: Helper) -> None:
        self._helper = helper

    def socket_inside(
        self, namespace: str | None, family: socket.AddressFamily, type: socket.SocketKind
    ) -> socket.socket:
        """Make a socket inside a namespace, see `Rights`."""
        if namespace is None:
            return OWN.socket_inside(None, family, type)
        [made] = self._helper.call("rights.socket_inside", namespace=namespace, family=family, type=type)
        return cast("socket.socket", made)

    def dhcp_sockets(self, namespace: str | None, interface: str) -> tuple[socket.socket, socket.socket]:
        """Make what asks for DHCP servers, see `Rights`."""
        wire, asking = self._helper.call("rights.dhcp_sockets", namespace=namespace, interface=interface)
        return wire, asking

    def let_in(self, namespace: str, port: int, peer: IPv4Address | None) -> bool:
        """Keep all others from a port, see `Rights`."""
        return bool(self._helper.call("rights.let_in", namespace=namespace, port=port, peer=peer))

    def tcp_table(self, namespace: str) -> str:
        """List TCP sockets, see `Rights`."""
        return str(self._helper.call("rights.tcp_table", namespace=namespace))

    def listening(self, namespace: str | None, port: int, *, udp: bool = False) -> str:
        """List who listens, see `Rights`."""
        if namespace is None:
            return OWN.listening(None, port, udp=udp)
        return str(self._helper.call("rights.listening", namespace=namespace, port=port, udp=udp))


class HelpedLegs:
    """Legs that the helper makes, see `bmi.drivers.leg.Legs`."""

    def __init__(self, helper: Helper) -> None:
        self._helper = helper

    def up(
        self,
        network: UUID,
        vlan: int,
        address: IPv4Interface,
        *,
        also: Collection[IPv4Interface] = (),
        lease: int | None = None,
    ) -> Leg:
        """Make the leg on a network, see `Legs`."""
        leg = self._helper.call(
            "legs.up", network=network, vlan=vlan, address=address, also=list(also), lease=lease
        )
        return cast("Leg", leg)

    def renew(self, lease: int | None) -> None:
        """Let the addresses of all legs stay, see `Legs`."""
        self._helper.call("legs.renew", lease=lease)

    def down(self, network: UUID) -> Outcome:
        """Remove the leg on a network, see `Legs`."""
        return cast("Outcome", self._helper.call("legs.down", network=network))

    def legs(self) -> Iterable[Leg]:
        """List the legs, see `Legs`."""
        return cast("list[Leg]", self._helper.call("legs.legs"))

    def mtus(self, network: UUID) -> Mapping[str, int]:
        """Say how long frames may be, see `Legs`."""
        return cast("dict[str, int]", self._helper.call("legs.mtus", network=network))

    def close(self) -> None:
        """Do nothing: each call has a connection of its own."""


class HelpedSwitch:
    """A switch on this host that only root may configure, see `bmi.drivers.switch.Switch`."""

    def __init__(self, helper: Helper, name: str) -> None:
        self._helper = helper
        self._name = name

    def configure(self, port: str, vlans: PortVlans) -> Outcome:
        """Make a port carry exactly these VLANs, see `Switch`."""
        done = self._helper.call("switch.configure", switch=self._name, port=port, vlans=vlans)
        return cast("Outcome", done)

    def port(self, port: str) -> PortState:
        """Read a port, see `Switch`."""
        return cast("PortState", self._helper.call("switch.port", switch=self._name, port=port))

    def ports(self) -> Iterable[PortState]:
        """Read every port, see `Switch`."""
        return cast("list[PortState]", self._helper.call("switch.ports", switch=self._name))

    def heard_at(self, mac: str) -> list[str] | None:
        """Name the ports behind which a card was heard, see `Switch`."""
        return cast("list[str] | None", self._helper.call("switch.heard_at", switch=self._name, mac=mac))

    def close(self) -> None:
        """Do nothing: each call has a connection of its own."""


class HelpedDnsmasq:
    """DHCP servers that the helper runs, see `bmi.boot.dnsmasq.Dnsmasq`."""

    def __init__(self, helper: Helper) -> None:
        self._helper = helper
        self._calls: list[Callable[[UUID], None]] = []
        self._heard: set[UUID] = set()
        """Networks whose last answer about events came; that of others may have been lost."""
        self._known: set[UUID] = set()
        """Networks whose server ran when that was last seen, and that nobody stopped since."""
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._watcher: threading.Thread | None = None

    def serve(
        self,
        leg: Leg,
        hosts: Sequence[BootHost],
        *,
        addressing: Addressing = _PLAIN,
        names: Sequence[NodeName] = (),
    ) -> Outcome:
        """Make a network's dnsmasq answer exactly these hosts, see `Dnsmasq`."""
        told: dict[str, Any] = {"hosts": list(hosts), "addressing": addressing, "names": list(names)}
        done = self._helper.call("dnsmasq.serve", leg=leg, **told)
        with self._guard:
            self._known.add(leg.network)
        return cast("Outcome", done)

    def stop(self, network: UUID) -> Outcome:
        """End a network's dnsmasq and remove its files, see `Dnsmasq`."""
        with self._guard:
            self._known.discard(network)
        return cast("Outcome", self._helper.call("dnsmasq.stop", network=network))

    def end_if_hung(self, leg: Leg) -> bool:
        """End a dnsmasq that does not answer, see `Dnsmasq`."""
        return bool(self._helper.call("dnsmasq.end_if_hung", leg=leg))

    def answers(
        self,
        leg: Leg,
        hosts: Sequence[BootHost],
        *,
        addressing: Addressing = _PLAIN,
        names: Sequence[NodeName] = (),
    ) -> bool:
        """Say whether a network's dnsmasq answers exactly these hosts, see `Dnsmasq`."""
        told: dict[str, Any] = {"hosts": list(hosts), "addressing": addressing, "names": list(names)}
        return bool(self._helper.call("dnsmasq.answers", leg=leg, **told))

    def running(self) -> list[UUID]:
        """List the networks whose dnsmasq runs."""
        return cast("list[UUID]", self._helper.call("dnsmasq.running"))

    def leases(self, network: UUID) -> list[Lease]:
        """List the addresses that nodes have taken on a network."""
        return cast("list[Lease]", self._helper.call("dnsmasq.leases", network=network))

    def events(self, network: UUID) -> list[BootEvent]:
        """Return what a network's dnsmasq saw since the last call, see `Dnsmasq`."""
        with self._guard:
            again = network not in self._heard
            self._heard.discard(network)
        found = self._helper.call("dnsmasq.events", network=network, again=again)
        with self._guard:
            self._heard.add(network)
        return cast("list[BootEvent]", found)

    def on_exit(self, call: Callable[[UUID], None]) -> None:
        """Call this when a dnsmasq ended and nobody asked it to, also for those found running."""
        with self._guard:
            self._calls.append(call)
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, name="watch-dnsmasq", daemon=True)
                self._watcher.start()

    def close(self) -> None:
        """Watch no more; the servers go on."""
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                self._helper.watch(self._ended, self._stop, begun=self._tell_what_was_missed)
            except BmiError as error:
                if not self._stop.is_set():
                    log.warning("%s", error)
            self._stop.wait(_PAUSE)

    def _tell_what_was_missed(self) -> None:
        """Tell of those that ended while nobody watched."""
        with self._guard:
            before = set(self._known)
        running = set(self.running())
        with self._guard:
            self._known |= running
        for network in before - running:
            self._ended(network)

    def _ended(self, network: UUID) -> None:
        with self._guard:
            self._known.discard(network)
        if not self._stop.is_set():
            for call in self._calls:
                call(network)


def _raised(error: Mapping[str, Any]) -> Exception:
    """Return the error that the helper met."""
    if "errno" in error:
        return OSError(error["errno"], error["message"])
    kind = getattr(errors, str(error.get("kind")), BmiError)
    made: BmiError = kind(error["message"], next_step=error["next_step"])
    return made
