"""Changes ports in one session, so that none carries a VLAN of its old and one of its new setting together."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from bmi.drivers.switch import ISOLATED, PortVlans
from bmi.drivers.switch.netmiko.dialects import Reading
from bmi.drivers.switch.netmiko.options import NetmikoOptions
from bmi.drivers.switch.netmiko.session import Session, shown
from bmi.errors import SwitchError


@dataclass(frozen=True)
class Refusal:
    """What the switch did not do."""

    port: str | None
    """Whose command it was; None for a commit of several."""
    command: str
    said: str
    """Why, in the switch's own words."""


class Work:
    """Changes ports.

    Args:
        session: Where.
        options: What the switch is.
        wanted: What ports are to carry.
        before: What the switch has.
    """

    def __init__(
        self, session: Session, options: NetmikoOptions, wanted: Mapping[str, PortVlans], before: Reading
    ) -> None:
        self._session, self._options, self._language = session, options, options.language
        self._wanted, self._before = wanted, before
        self._known = set(before.vlans)
        self._isolated = {port for port in wanted if before.ports[port].vlans == ISOLATED}
        self.touched: set[str] = set()
        """Ports for which something was sent."""

    def do(self) -> list[Refusal]:
        """Change every port; return what was refused, each with its port.

        Raises:
            Dropped: The session ended.
            SwitchError: The switch does not answer, or the account may not configure, or not at this moment.
        """
        self._enter()
        if self._language.commit:
            refusals = self._committed(list(self._wanted))
        else:
            refusals = [refusal for port in self._wanted if (refusal := self._changed(port))]
        self._leave()
        return refusals

    def _enter(self) -> None:
        for command in self._language.enter:
            if said := self._language.refused(self._session.ask(command)):
                raise SwitchError(
                    f"{self._options.title} refuses {command!r} of user {self._options.username}: {shown(said)}",
                    next_step="give the account the right to configure (docs/switches.md); if it says that "
                    "somebody else configures at this moment, wait until he is done",
                )

    def _leave(self) -> None:
        for command in self._language.leave:
            self._session.ask(command)

    # --- switches where each command takes effect at once ------------------------------------------------------

    def _changed(self, port: str) -> Refusal | None:
        missing = self._missing([port])
        refusal = self._sent(port, [*self._made(missing), *self._replaced(port)])
        if refusal is None:
            self._known |= missing
        else:
            # Whichever mode that left us in: what comes next has to begin at the top.
            self._leave()
            self._enter()
        return refusal

    def _replaced(self, port: str) -> Sequence[str]:
        strip, fill = self._strip(port), self._fill(port)
        if strip and fill and strip[0] == fill[0] and strip.count(strip[-1]) == 1:
            # Both are in the same sub-mode, and in no other one: it need not be left between.
            return [*strip[:-1], *fill[1:]]
        return [*strip, *fill]

    # --- switches with commits ---------------------------------------------------------------------------------

    def _committed(self, ports: Sequence[str]) -> list[Refusal]:
        """Change ports in as few commits as can be; one that is refused does not keep the others from theirs."""
        refusals: list[Refusal] = []
        left = list(ports)
        while left and (refusal := self._transaction(left)):
            if refusal.port is None and len(left) > 1:
                # A commit of several does not tell for whom it fails.
                return [*refusals, *(one for port in left for one in self._committed([port]))]
            guilty = refusal.port or left[0]
            refusals.append(replace(refusal, port=guilty))
            left.remove(guilty)
        return refusals

    def _transaction(self, ports: Sequence[str]) -> Refusal | None:
        # Two commits: within one, a switch is free to add what is new before it takes away what was.
        carrying = [port for port in ports if port not in self._isolated]
        if refusal := self._commit({port: self._strip(port) for port in carrying}):
            return refusal
        self._isolated |= set(carrying)
        filled = [port for port in ports if self._wanted[port] != ISOLATED]
        missing = self._missing(filled)
        first = filled[:1]
        refusal = self._commit(
            {
                port: [
                    *(self._made(missing) if [port] == first else ()),
                    *self._strip(port),
                    *self._fill(port),
                ]
                for port in filled
            }
        )
        if refusal is None:
            self._known |= missing
        return refusal

    def _commit(self, commands: Mapping[str, Sequence[str]]) -> Refusal | None:
        if not commands:
            return None
        refusal = next(
            (found for port, lines in commands.items() if (found := self._sent(port, lines))), None
        )
        for command in () if refusal else self._language.commit:
            answer = self._session.ask(self._language.wrapped(command), seconds=self._options.save_timeout)
            if said := self._language.refused(answer):
                refusal = Refusal(None, command, said)
        if refusal:
            for command in self._language.discard:
                self._session.ask(self._language.wrapped(command))
        return refusal

    # --- both --------------------------------------------------------------------------------------------------

    def _strip(self, port: str) -> Sequence[str]:
        return self._language.strip(port, self._before.ports[port])

    def _fill(self, port: str) -> Sequence[str]:
        vlans = self._wanted[port]
        return [] if vlans == ISOLATED else self._language.fill(port, vlans)

    def _missing(self, ports: Iterable[str]) -> set[int]:
        """Return the VLANs that ports need and the switch does not know."""
        wanted = (self._wanted[port] for port in ports if self._wanted[port] != ISOLATED)
        return {vlan for vlans in wanted for vlan in self._language.needed(vlans)} - self._known

    def _made(self, vlans: Iterable[int]) -> Iterable[str]:
        return [command for vlan in sorted(vlans) for command in self._language.make_vlan(vlan)]

    def _sent(self, port: str, commands: Iterable[str]) -> Refusal | None:
        """Send a port's commands until one is refused."""
        self.touched.add(port)
        for command in commands:
            if said := self._language.refused(self._session.ask(self._language.wrapped(command))):
                return Refusal(port, command, said)
        return None
