"""The verbs of the driver `netmiko`."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bmi.drivers import Outcome, Site, parse_options
from bmi.drivers.switch import PortState, PortVlans, unknown_port
from bmi.drivers.switch.netmiko.batch import Batch
from bmi.drivers.switch.netmiko.options import NetmikoOptions
from bmi.drivers.switch.netmiko.queue import Call, Change, Look, Queue
from bmi.drivers.switch.netmiko.session import Dropped, Session
from bmi.errors import BmiError, SwitchError, SwitchRefused

_AFTER_REFUSAL = (
    60.0  # seconds for which nobody tries to log in again: accounts are locked after a few failures
)
_AFTER_SILENCE = (
    5.0  # the same where a switch does not answer: a hundred ports must not wait for it one by one
)


class NetmikoSwitch:
    """A switch that is reached over SSH.

    One session serves everybody in this process. While it is busy calls wait, and are then served together.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        site: Site,
        *,
        session: Callable[[NetmikoOptions], Session] = Session,
    ) -> None:
        self._options = parse_options(NetmikoOptions, options, driver="netmiko")
        self._ports = self._options.names
        self._open = session
        self._session: Session | None = None
        self._paused: tuple[float, BmiError] | None = None
        self._saved = False  # one that was killed between a change and its saving left it to us
        self._queue = Queue(
            self._serve,
            self._rest,
            most=self._options.batch,
            idle=self._options.idle_timeout,
            name=self._options.title,
        )

    def configure(self, port: str, vlans: PortVlans) -> Outcome:
        """Make a port carry exactly these VLANs, see `Switch`."""
        vlans.require_valid()
        self._require(port)
        if lack := self._options.language.lacks(vlans):
            raise SwitchRefused(
                f"port {port} of {self._options.title} cannot carry VLAN {vlans}: {lack}",
                next_step="attach a native network too, or use a port of another kind of switch",
            )
        change = Change(port, vlans)
        self._queue.put(change, timeout=self._options.call_timeout)
        return change.result.result()

    def port(self, port: str) -> PortState:
        """Read a port, see `Switch`."""
        self._require(port)
        (state,) = self._look(port)
        return state

    def ports(self) -> Iterable[PortState]:
        """Read every port that the options name and the switch has, see `Switch`."""
        return self._look(None)

    def heard_at(self, mac: str) -> list[str] | None:
        """Return None: the tables of addresses are not read."""

    def close(self) -> None:
        """End the session."""
        self._queue.close()

    def _look(self, port: str | None) -> Sequence[PortState]:
        look = Look(port)
        self._queue.put(look, timeout=self._options.call_timeout)
        return look.result.result()

    def _require(self, port: str) -> None:
        if port not in self._ports:
            error = unknown_port(port, self._options.title, self._ports)
            error.message = (
                f"BMI may not touch port {port} of {self._options.title}: the option ports does not name it"
            )
            error.next_step += "; add it to the option ports if a node is behind it, and never an uplink"
            raise error

    # --- on the queue's thread -----------------------------------------------------------------------------------

    def _serve(self, calls: Sequence[Call]) -> None:
        batch = Batch(self._options, calls, saved=self._saved)
        try:
            self._run(batch)
        except BmiError as error:
            for call in calls:
                call.result.set_exception(type(error)(error.message, next_step=error.next_step))
        finally:
            self._saved = batch.saved

    def _run(self, batch: Batch) -> None:
        """Serve a batch, in a second session if the first one ends in the middle.

        Raises:
            BmiError: No call could be served.
        """
        kept = self._session is not None
        for last in (False, False, True) if kept else (False, True):
            session = self._logged_in()
            try:
                batch.run(session)
                break
            except Dropped:
                # One that was kept may have ended at any time since: that does not count.
                self._rest()
                if last:
                    raise SwitchError(
                        f"{self._options.title} ended the session twice while its ports were configured",
                        next_step="look at the switch's log; it may be restarting, or limit sessions",
                    ) from None
            except BaseException:
                self._rest()  # whatever it is doing now is not for those who come next
                raise

    def _logged_in(self) -> Session:
        if self._session is None:
            if self._paused is not None and time.monotonic() < self._paused[0]:
                raise self._paused[1]
            try:
                self._session = self._open(self._options)
            except BmiError as error:
                pause = _AFTER_REFUSAL if isinstance(error, SwitchRefused) else _AFTER_SILENCE
                self._paused = time.monotonic() + pause, error
                raise
        return self._session

    def _rest(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()
