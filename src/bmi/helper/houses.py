"""What the helper keeps for each installation: drivers, and what may be asked of them."""

import queue
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from bmi.boot.dnsmasq import Dnsmasq
from bmi.boot.texts import Texts
from bmi.drivers import Site, load
from bmi.drivers.leg import Leg, Legs
from bmi.drivers.switch import Switch
from bmi.errors import BadRequest, NotAllowed
from bmi.helper.id_maps import IdMaps
from bmi.helper.listening import user_id
from bmi.helper.verbs import DNSMASQ, IDS, LEGS, RIGHTS, SWITCH, Verb
from bmi.rights import OWN
from bmi.settings import Settings

_INTERFACE = re.compile(r"[a-z][a-z0-9]{0,14}")
_KINDS = (socket.SOCK_STREAM, socket.SOCK_DGRAM)


class House:
    """What the helper keeps for one installation: its drivers, made when they are first wanted."""

    def __init__(self, settings: Settings, mark: str, texts: Texts) -> None:
        self.mark = mark
        self._settings = settings
        self._texts = texts
        self._site = Site(settings.helper.state_dir / mark, mark)
        self._made: dict[object, Any] = {}
        self._guard = threading.RLock()
        self._watchers: set[queue.SimpleQueue[UUID | None]] = set()

    def method(self, verb: Verb, switch: object) -> Callable[..., Any]:
        """Return what does a verb.

        Raises:
            BadRequest: The settings have no such switch.
        """
        family, _, name = verb.name.partition(".")
        owners: dict[str, Callable[[], object]] = {
            LEGS: self._legs,
            DNSMASQ: self._dnsmasq,
            SWITCH: lambda: self._switch(switch),
            RIGHTS: lambda: OWN,
            IDS: lambda: IdMaps(user_id(self._settings.helper.user)),
        }
        method: Callable[..., Any] = getattr(owners[family](), name)
        return method

    @contextmanager
    def watched(self) -> "Iterator[queue.SimpleQueue[UUID | None]]":
        """Give a queue of networks whose dnsmasq ends."""
        ended: queue.SimpleQueue[UUID | None] = queue.SimpleQueue()
        with self._guard:
            self._watchers.add(ended)
        try:
            self._dnsmasq()
            yield ended
        finally:
            with self._guard:
                self._watchers.discard(ended)

    def dismiss(self) -> None:
        """Let those who watch see that it is over."""
        with self._guard:
            for ended in self._watchers:
                ended.put(None)

    def close(self) -> None:
        """Let go of connections."""
        with self._guard:
            made, self._made = list(self._made.values()), {}
        for each in made:
            each.close()

    def _legs(self) -> Legs:
        legs: Legs = self._once(LEGS, lambda: load("leg", *self._leg(), self._folder()))
        return legs

    def _leg(self) -> tuple[str, dict[str, Any]]:
        return self._settings.leg.driver, self._settings.leg.options

    def _switch(self, name: object) -> Switch:
        named = self._settings.switches.get(str(name))
        if named is None:
            raise BadRequest(
                f"the helper knows no switch {name}",
                next_step="let the helper and the service have the same settings file",
            )
        made: Switch = self._once(
            (SWITCH, name), lambda: load("switch", named.driver, named.options, self._folder())
        )
        return made

    def _dnsmasq(self) -> Dnsmasq:
        def make() -> Dnsmasq:
            made = Dnsmasq(
                self._folder(),
                tftp_root=self._settings.boot.tftp_root,
                texts=self._texts,
                leases=self._settings.boot.leases,
            )
            made.on_exit(self._tell)
            return made

        found: Dnsmasq = self._once(DNSMASQ, make)
        return found

    def _once(self, key: object, make: Callable[[], Any]) -> Any:
        with self._guard:
            if key not in self._made:
                self._made[key] = make()
            return self._made[key]

    def _folder(self) -> Site:
        self._site.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._site

    def _tell(self, network: UUID) -> None:
        with self._guard:
            watchers = list(self._watchers)
        for ended in watchers:
            ended.put(network)


def check(mark: str, verb: Verb, values: Mapping[str, Any]) -> None:
    """Refuse what is not about a leg of the installation; the methods themselves check the rest.

    Raises:
        NotAllowed: It is about something else.
    """
    for value in values.values():
        if isinstance(value, Leg) and (
            value.namespace != f"bmi-{mark}-{value.network.hex}" or not _INTERFACE.fullmatch(value.interface)
        ):
            raise _refused(verb, f"{value.interface} in namespace {value.namespace}")
    namespace, interface = values.get("namespace", ""), values.get("interface", "eth0")
    if "namespace" in values and not re.fullmatch(f"bmi-{mark}-[0-9a-f]{{32}}", namespace or ""):
        raise _refused(verb, f"namespace {namespace}")
    if not _INTERFACE.fullmatch(interface):
        raise _refused(verb, f"interface {interface}")
    if "family" in values and not (values["family"] == socket.AF_INET and values["type"] in _KINDS):
        raise _refused(verb, f"a socket of {values['family']!r}, {values['type']!r}")


def _refused(verb: Verb, what: str) -> NotAllowed:
    return NotAllowed(
        f"{verb.name}: {what} is not a leg of this installation", next_step="report this as a bug of BMI"
    )
