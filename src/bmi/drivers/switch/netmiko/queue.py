"""The queue before a switch: what waits while it is busy is taken together."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from bmi.drivers import Outcome
from bmi.drivers.switch import PortState, PortVlans
from bmi.errors import SwitchError

_LEAVING = 10.0  # seconds that one who closes waits for what is being done at that moment


@dataclass(frozen=True, eq=False)
class Change:
    """Somebody wants a port to carry exactly these VLANs."""

    port: str
    vlans: PortVlans
    result: Future[Outcome] = field(default_factory=Future)


@dataclass(frozen=True, eq=False)
class Look:
    """Somebody wants to know what a port carries, or all of them (port None)."""

    port: str | None
    result: Future[tuple[PortState, ...]] = field(default_factory=Future)


Call = Change | Look


class Queue:
    """Calls from many threads, served by one, which lives as long as there is something to do.

    Args:
        serve: Answers some calls: gives each its result or its error. At most one of them changes a given port.
        rest: Called when nobody has asked for anything for a while, and at the end.
        most: Changes that are served together.
        idle: Seconds after which the thread ends.
        name: What is at the end of it, for errors and the thread's name.
    """

    def __init__(
        self,
        serve: Callable[[Sequence[Call]], None],
        rest: Callable[[], None],
        *,
        most: int,
        idle: float,
        name: str,
    ) -> None:
        self._serve, self._rest = serve, rest
        self._most, self._idle, self._name = most, idle, name
        self._waiting: deque[Call] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False

    def put(self, call: Call, *, timeout: float) -> None:
        """Have a call served, and wait until it is.

        Args:
            call: It has its result afterwards.
            timeout: Seconds to wait.

        Raises:
            SwitchError: It was not served in time. What is being done at that moment goes on.
        """
        with self._wake:
            self._waiting.append(call)
            if self._thread is None:
                self._closing = False
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()
            self._wake.notify_all()
        try:
            call.result.exception(timeout)
        except TimeoutError:
            with self._wake:
                if call in self._waiting:
                    self._waiting.remove(call)
            raise SwitchError(
                f"{self._name} did not do what was asked of it within {timeout:g} s",
                next_step="look at the switch's load and console; raise call_timeout if it is only slow",
            ) from None

    def close(self) -> None:
        """End the thread after what it is doing; a later call starts another one."""
        with self._wake:
            thread = self._thread
            self._closing = True
            self._wake.notify_all()
        if thread is not None:
            thread.join(_LEAVING)

    def _work(self) -> None:
        while calls := self._next():
            try:
                self._serve(calls)
            except BaseException as error:  # a fault of ours must not leave anybody waiting
                for call in calls:
                    if not call.result.done():
                        call.result.set_exception(error)

    def _next(self) -> list[Call]:
        """Wait for calls, and take them; none means that the thread ends."""
        with self._wake:
            self._wake.wait_for(lambda: self._waiting or self._closing, self._idle)
            if not self._waiting:
                try:
                    self._rest()
                finally:
                    self._thread = None
                return []
            return self._taken()

    def _taken(self) -> list[Call]:
        """Take what waits, in order; a second change of a port, and what was asked for after it, waits on."""
        taken: list[Call] = []
        ports: set[str] = set()
        while self._waiting and len(ports) < self._most:
            call = self._waiting[0]
            if isinstance(call, Change):
                if call.port in ports:
                    break
                ports.add(call.port)
            taken.append(self._waiting.popleft())
        return taken
