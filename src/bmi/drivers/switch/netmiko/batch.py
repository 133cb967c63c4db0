"""A batch of changes on one switch: read, compare, change what differs, read back, save once."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from bmi.drivers import Outcome
from bmi.drivers.switch import PortState, PortVlans, unknown_port
from bmi.drivers.switch.netmiko.dialects import Found, Reading
from bmi.drivers.switch.netmiko.options import NetmikoOptions
from bmi.drivers.switch.netmiko.queue import Call, Change
from bmi.drivers.switch.netmiko.session import Session, shown
from bmi.drivers.switch.netmiko.work import Refusal, Work
from bmi.errors import BmiError, SwitchError, SwitchRefused


@dataclass
class Batch:
    """Calls that are served together. `run` may be called again with another session, if one is dropped."""

    options: NetmikoOptions
    calls: Sequence[Call]
    saved: bool
    """Whether the switch is known to have saved what it has; set by `run`."""
    _refusals: dict[str, Refusal] = field(default_factory=dict)
    """By port."""
    _touched: set[str] = field(default_factory=set)
    """Ports for which something was sent, also in a session that was dropped."""
    _unsaved: str = ""
    """Why the configuration could not be saved, in the switch's words."""

    def run(self, session: Session) -> None:
        """Serve the calls: each has its result, or its error, afterwards.

        Raises:
            Dropped: The session ended; no call has its result.
            SwitchError: The switch does not answer; no call has its result.
        """
        reading = session.read()
        todo = {
            port: vlans
            for port, vlans in self._wanted.items()
            if port not in self._refusals and _differs(reading.ports.get(port), vlans)
        }
        if todo:
            self.saved = False
            self._change(session, todo, reading)
            reading = session.read()
        if self._wanted and not self.saved:
            self._save(session)
        for call in self.calls:
            self._answer(call, reading)

    @property
    def _wanted(self) -> dict[str, PortVlans]:
        return {call.port: call.vlans for call in self.calls if isinstance(call, Change)}

    # --- changing --------------------------------------------------------------------------------------------

    def _change(self, session: Session, todo: dict[str, PortVlans], before: Reading) -> None:
        work = Work(session, self.options, todo, before)
        try:
            refusals = work.do()
        finally:
            self._touched |= work.touched
        self._refusals |= {refusal.port: refusal for refusal in refusals if refusal.port}

    def _save(self, session: Session) -> None:
        self._unsaved = ""
        for command in self.options.language.save if self.options.save else ():
            wrapped = self.options.language.wrapped(command)
            answer = session.ask(wrapped, seconds=self.options.save_timeout)
            self._unsaved = self._unsaved or self.options.language.refused(answer)
        self.saved = not self._unsaved

    # --- answering -------------------------------------------------------------------------------------------

    def _answer(self, call: Call, reading: Reading) -> None:
        if not isinstance(call, Change):
            there = [port for port in self.options.names if port in reading.ports]
            if call.port is not None and call.port not in there:
                call.result.set_exception(self._unknown(call.port, there))
                return
            asked = there if call.port is None else [call.port]
            call.result.set_result(
                tuple(PortState(port, reading.ports[port].vlans, reading.ports[port].link) for port in asked)
            )
        elif error := self._error(call, reading):
            call.result.set_exception(error)
        else:
            call.result.set_result(Outcome.DONE if call.port in self._touched else Outcome.ALREADY)

    def _error(self, call: Change, reading: Reading) -> BmiError | None:
        """Return why a port does not carry what it should; None if it does."""
        port, title, found = call.port, self.options.title, reading.ports.get(call.port)
        if found is None:
            return self._unknown(port, [name for name in self.options.names if name in reading.ports])
        if found.unusable:
            return SwitchRefused(
                f"port {port} of {title} cannot be set to VLAN {call.vlans}: {found.unusable}",
                next_step="prepare it as a port for a node (docs/switches.md), or take it off the option ports",
            )
        if refusal := self._refusals.get(port):
            return SwitchError(
                f"{title} refuses {refusal.command!r}, which is to set port {port} to VLAN {call.vlans}: "
                f"{shown(refusal.said)}; the port has {found.vlans}",
                next_step=f"check that user {self.options.username} may run it, and whether the switch has such a "
                "command (docs/switches.md)",
            )
        missing = (
            self.options.language.needed(call.vlans) - reading.vlans if found.vlans == call.vlans else ()
        )
        if found.vlans != call.vlans or missing:
            there = f"does not know VLAN {min(missing)}" if missing else f"has {found.vlans}"
            subject = title if missing else "the port"
            return SwitchError(
                f"port {port} of {title} was set to VLAN {call.vlans}, but {subject} {there}",
                next_step="look at the switch's log, and find out who else configures it",
            )
        if self._unsaved:
            return SwitchError(
                f"port {port} of {title} has VLAN {call.vlans}, but the switch does not save that: "
                f"{shown(self._unsaved)}",
                next_step=f"check the space on its flash, and that user {self.options.username} may run "
                f"{self.options.language.save[0]!r}; after a restart the port would have its former VLANs",
            )
        return None

    def _unknown(self, port: str, there: Sequence[str]) -> BmiError:
        return unknown_port(port, self.options.title, there)


def _differs(found: Found | None, vlans: PortVlans) -> bool:
    """Say whether a port has to be changed, and can be."""
    return found is not None and not found.unusable and found.vlans != vlans
