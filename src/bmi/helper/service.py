"""The helper's process: it checks who asks and what for, and does it."""

import logging
import os
import pwd
import queue
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from bmi import errors
from bmi.boot.dnsmasq import Dnsmasq
from bmi.drivers import Site, load
from bmi.drivers.leg import Leg, Legs
from bmi.drivers.switch import Switch
from bmi.errors import BadRequest, BmiError, NotAllowed, PortTaken, SettingsInvalid
from bmi.helper.id_maps import IdMaps
from bmi.helper.verbs import DNSMASQ, IDS, LEGS, RIGHTS, SWITCH, VERBS, WATCH, Verb
from bmi.helper.wire import Broken, receive, send
from bmi.rights import OWN
from bmi.settings import Settings

log = logging.getLogger(__name__)

BEAT = 5.0  # seconds between two signs of life to those who watch

_PATIENCE = 10.0  # seconds that a caller may take to ask, and to take the answer
_CALLS = 64  # at a time; more wait
_WATCHERS = 16
_INSTALLATIONS = 32  # whose drivers are kept
_BACKLOG = 128  # callers that wait to be let in
_ENDING = 20.0  # seconds that running calls may take when the process is to end
_FIRST_FD = 3  # of sockets that the service manager hands over (sd_listen_fds(3))
_CREDENTIALS = struct.Struct("=iII")  # struct ucred of unix(7): pid, uid, gid

_INSTALLATION = re.compile(r"[0-9a-f]{8}")
_INTERFACE = re.compile(r"[a-z][a-z0-9]{0,14}")
_KINDS = (socket.SOCK_STREAM, socket.SOCK_DGRAM)


class HelperService:
    """Answers calls on a listening socket until it is closed."""

    def __init__(self, settings: Settings) -> None:
        """Read who may ask; nothing is opened.

        Raises:
            SettingsInvalid: There is no such user.
        """
        self._settings = settings
        self._uid = user_id(settings.helper.user)
        self._guard = threading.Lock()
        self._houses: dict[str, _House] = {}
        self._free = threading.Semaphore(_CALLS)
        self._watching = threading.Semaphore(_WATCHERS)
        self._ending = threading.Event()
        self._calls: set[threading.Thread] = set()

    def run(self, listener: socket.socket) -> None:
        """Answer calls, each on a thread of its own, until `close`."""
        while not self._ending.is_set():
            with suppress(TimeoutError):
                listener.settimeout(0.2)
                connection, _ = listener.accept()
                connection.settimeout(_PATIENCE)
                self._free.acquire()
                thread = threading.Thread(target=self._answer, args=(connection,), name="call", daemon=True)
                with self._guard:
                    self._calls.add(thread)
                thread.start()

    def end(self) -> None:
        """Let `run` return."""
        self._ending.set()

    def close(self) -> None:
        """Take no calls any more, and let those that run end. What was started goes on."""
        self.end()
        with self._guard:
            running, houses = list(self._calls), list(self._houses.values())
        for house in houses:
            house.dismiss()
        for thread in running:
            thread.join(_ENDING)
        for house in houses:
            house.close()

    # --- one call ----------------------------------------------------------------------------------------

    def _answer(self, connection: socket.socket) -> None:
        released = False
        try:
            with closing(connection):
                self._require_allowed(connection)
                request, sockets = receive(connection)
                for each in sockets:
                    each.close()
                if request.get("verb") == WATCH:
                    self._free.release()  # who watches does so for long
                    released = True
                    self._watch(connection, self._house(request))
                else:
                    self._reply(connection, request)
        except Broken as error:
            log.info("a call was not finished: %s", error)
        except NotAllowed as error:
            log.warning("%s", error)
        finally:
            if not released:
                self._free.release()
            with self._guard:
                self._calls.discard(threading.current_thread())

    def _require_allowed(self, connection: socket.socket) -> None:
        found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(found)
        if uid not in (0, self._uid):
            raise NotAllowed(f"process {pid} of user {uid} asked", next_step="look what it is")

    def _reply(self, connection: socket.socket, request: Mapping[str, Any]) -> None:
        try:
            verb = VERBS.get(str(request.get("verb")))
            if verb is None:
                raise _unknown(request.get("verb"))
            result, sockets = self._carry_out(verb, request)
        except Exception as error:
            send(connection, {"error": _described(error)})
            return
        try:
            send(connection, {"result": result}, sockets)
        finally:
            for each in sockets:
                each.close()

    def _carry_out(self, verb: Verb, request: Mapping[str, Any]) -> tuple[Any, list[socket.socket]]:
        house = self._house(request)
        try:
            values = verb.unpack(request.get("arguments"))
        except ValidationError as error:
            first = error.errors()[0]
            raise BadRequest(
                f"argument {'.'.join(map(str, first['loc']))} of {verb.name}: {first['msg']}",
                next_step="let the helper and the service be of the same release",
            ) from error
        _check(house.mark, verb, values)
        result = house.method(verb, request.get("switch"))(**values)
        if verb.returns is None:
            return None, list(result) if isinstance(result, tuple) else [result]
        return verb.returns.dump_python(verb.returns.validate_python(result), mode="json"), []

    def _house(self, request: Mapping[str, Any]) -> "_House":
        mark = str(request.get("installation"))
        if not _INSTALLATION.fullmatch(mark):
            raise BadRequest(f"{mark!r} is no installation's mark", next_step="use eight hexadecimal digits")
        with self._guard:
            if mark not in self._houses and len(self._houses) >= _INSTALLATIONS:
                raise NotAllowed("the helper works for too many gateways", next_step="restart the helper")
            return self._houses.setdefault(mark, _House(self._settings, mark))

    # --- watching ----------------------------------------------------------------------------------------

    def _watch(self, connection: socket.socket, house: "_House") -> None:
        """Tell a caller of each network whose dnsmasq ends, until he is gone."""
        if not self._watching.acquire(blocking=False):
            raise NotAllowed("too many watch", next_step="restart the helper")
        try:
            with house.watched() as ended:
                send(connection, {"result": None})
                while not self._ending.is_set():
                    try:
                        network = ended.get(timeout=BEAT)
                    except queue.Empty:
                        send(connection, {})
                    else:
                        if network is not None:
                            send(connection, {"ended": str(network)})
        finally:
            self._watching.release()


class _House:
    """What the helper keeps for one installation: its drivers, made when they are first wanted."""

    def __init__(self, settings: Settings, mark: str) -> None:
        self.mark = mark
        self._settings = settings
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
            made = Dnsmasq(self._folder(), tftp_root=self._settings.boot.tftp_root)
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


# --- what may be asked for -----------------------------------------------------------------------------------


def _check(mark: str, verb: Verb, values: Mapping[str, Any]) -> None:
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


def _unknown(verb: object) -> BadRequest:
    return BadRequest(
        f"the helper does not know the verb {verb}",
        next_step="let the helper and the service be of the same release",
    )


def _described(error: Exception) -> dict[str, Any]:
    """Return an error for the caller, as the class of `bmi.errors` that it is one of."""
    if isinstance(error, BmiError):
        kind = next(each for each in type(error).__mro__ if each.__module__ == errors.__name__)
        return {"kind": kind.__name__, "message": error.message, "next_step": error.next_step}
    if isinstance(error, OSError):
        return {"errno": error.errno, "message": error.strerror or str(error)}
    log.error("a call failed", exc_info=error)
    return {
        "kind": BmiError.__name__,
        "message": f"the helper met {type(error).__name__}",
        "next_step": "look into its log, and report this as a bug of BMI",
    }


# --- the socket ----------------------------------------------------------------------------------------------


def user_id(name: str) -> int:
    """Return a user's number, by name or number.

    Raises:
        SettingsInvalid: There is no such user.
    """
    if name.isdecimal():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError as error:
        raise SettingsInvalid(
            f"setting helper.user: there is no user {name}", next_step="make it, or name another one"
        ) from error


def listen(path: Path, uid: int) -> socket.socket:
    """Return the socket that the service manager hands over, or make it, for one user alone.

    Raises:
        PortTaken: Another helper answers there, or it cannot be made.
    """
    if os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS") == "1":
        return socket.socket(fileno=_FIRST_FD)
    if _answers(path):
        raise PortTaken(
            f"another helper answers at {path}", next_step="end it, or choose another helper.socket"
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        os.chown(path, uid, -1)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise PortTaken(
            f"the helper cannot listen at {path}: {error.strerror}", next_step="choose another helper.socket"
        ) from error
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(_PATIENCE)
        try:
            asking.connect(str(path))
        except OSError:
            return False
    return True
