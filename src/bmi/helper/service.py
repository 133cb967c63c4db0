"""The helper's process: it checks who asks and what for, and does it."""

import logging
import queue
import re
import socket
import threading
from collections.abc import Mapping
from contextlib import closing, suppress
from typing import Any

from pydantic import ValidationError

from bmi import errors
from bmi.boot.texts import Texts
from bmi.errors import BadRequest, BmiError, NotAllowed
from bmi.helper.houses import House, check
from bmi.helper.listening import caller, user_id
from bmi.helper.verbs import VERBS, WATCH, Verb
from bmi.helper.wire import Broken, receive, send
from bmi.settings import Settings

log = logging.getLogger(__name__)

BEAT = 5.0  # seconds between two signs of life to those who watch

_PATIENCE = 10.0  # seconds that a caller may take to ask, and to take the answer
_CALLS = 64  # at a time; more wait
_WATCHERS = 16
_INSTALLATIONS = 32  # whose drivers are kept
_ENDING = 20.0  # seconds that running calls may take when the process is to end

_INSTALLATION = re.compile(r"[0-9a-f]{8}")


class HelperService:
    """Answers calls on a listening socket until it is closed."""

    def __init__(self, settings: Settings) -> None:
        """Read who may ask, and the templates; nothing is opened.

        Raises:
            SettingsInvalid: There is no such user, or a template of this site's own cannot be used.
        """
        self._settings = settings
        self._uid = user_id(settings.helper.user)
        self._texts = Texts(settings.template_folder)
        self._texts.check(dnsmasq=True)
        self._guard = threading.Lock()
        self._houses: dict[str, House] = {}
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
        except BmiError as error:
            log.warning("%s", error)
        finally:
            if not released:
                self._free.release()
            with self._guard:
                self._calls.discard(threading.current_thread())

    def _require_allowed(self, connection: socket.socket) -> None:
        pid, uid = caller(connection)
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
        check(house.mark, verb, values)
        result = house.method(verb, request.get("switch"))(**values)
        if verb.returns is None:
            return None, list(result) if isinstance(result, tuple) else [result]
        return verb.returns.dump_python(verb.returns.validate_python(result), mode="json"), []

    def _house(self, request: Mapping[str, Any]) -> House:
        mark = str(request.get("installation"))
        if not _INSTALLATION.fullmatch(mark):
            raise BadRequest(f"{mark!r} is no installation's mark", next_step="use eight hexadecimal digits")
        with self._guard:
            if mark not in self._houses and len(self._houses) >= _INSTALLATIONS:
                raise NotAllowed("the helper works for too many gateways", next_step="restart the helper")
            return self._houses.setdefault(mark, House(self._settings, mark, self._texts))

    # --- watching ----------------------------------------------------------------------------------------

    def _watch(self, connection: socket.socket, house: House) -> None:
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
