"""Switch driver `hil`: ports are configured by HIL, which knows the real switches. A port is `NODE/NIC`."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import Field, PositiveFloat

from bmi.drivers import Outcome, Site, parse_options
from bmi.drivers.hil.answers import NicAnswer, NodeAnswer
from bmi.drivers.hil.client import Hil, HilSaysNo
from bmi.drivers.hil.moves import NATIVE, NULL, Move, next_move
from bmi.drivers.hil.options import ProjectsOptions
from bmi.drivers.hil.vlans import Vlans
from bmi.drivers.hil.words import in_our_words
from bmi.drivers.switch import ISOLATED, PortState, PortVlans, unknown_port
from bmi.errors import SwitchError, SwitchPortUnknown, SwitchRefused, SwitchUnreachable

_EXAMPLES = 5  # ports that are looked up to be named in an error


class HilSwitchOptions(ProjectsOptions):
    """Options of the driver `hil`."""

    networks: dict[int, str] = Field({}, max_length=4094)
    """HIL's networks by VLAN, where HIL itself does not tell: with its null allocator."""
    poll: PositiveFloat = Field(0.5, le=60)
    """Seconds between two questions how an action goes."""


class _Pending(Exception):
    """HIL is still busy with an action on the card, of BMI or of somebody else."""


class _NativeLast(Exception):
    """The switch wants the tagged networks to go first."""


class HilSwitch:
    """Puts cards on HIL's networks and takes them off.

    HIL does one thing at a time with a card, some time after it was asked, and forgets how it went as soon as
    somebody asks for the next. So what counts is what it says of the node; and that nothing is pending is known
    only when it has refused, or accepted, what is wanted.
    """

    def __init__(self, options: Mapping[str, Any], site: Site) -> None:
        self._options = parse_options(HilSwitchOptions, options, driver="hil")
        self._hil = Hil(self._options)
        self._vlans = Vlans(self._hil, self._options.projects, self._options.networks)
        self._turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._guard = threading.Lock()

    def configure(self, port: str, vlans: PortVlans) -> Outcome:
        """Make a port carry exactly these VLANs, see `Switch`.

        A port of a node that HIL has given to somebody else is not touched: it is on no network of BMI's projects.

        Raises:
            SwitchRefused: The node belongs to none of the projects, or HIL has no network for a VLAN.
        """
        vlans.require_valid()
        node, nic = _split(port)
        with self._guard:
            turn = self._turns[port]
        with turn, self._in_our_words():
            return self._settle(node, nic, vlans, self._vlans.channels(vlans))

    def port(self, port: str) -> PortState:
        """Read a port, see `Switch`; one of a node that is not BMI's carries nothing of BMI's."""
        with self._in_our_words():
            networks = self._networks(*_split(port))
            return PortState(port, self._vlans.carried(networks or {}, {}), link=None)

    def ports(self) -> Iterable[PortState]:
        """Read the cards of all nodes that the projects own, see `Switch`."""
        known: dict[str, int] = {}
        with self._in_our_words():
            return [
                PortState(f"{node.name}/{nic.label}", self._vlans.carried(nic.networks, known), link=None)
                for node in self._nodes()
                for nic in node.nics
            ]

    def heard_at(self, mac: str) -> list[str] | None:
        """Return None: HIL does not tell."""

    def close(self) -> None:
        """Do nothing: each call has a connection of its own."""

    def _settle(self, node: str, nic: str, vlans: PortVlans, wanted: Mapping[str, str]) -> Outcome:
        """Ask for one thing after the other until HIL says that the card is on these networks alone."""
        end = time.monotonic() + self._options.timeout
        outcome, native_last = Outcome.ALREADY, False
        while True:
            now = self._networks(node, nic)
            if now is None:
                return self._foreign(node, vlans)
            move = next_move(now, wanted, native_last=native_last)
            try:
                if move is None:
                    if outcome is Outcome.DONE or self._nothing_pending(node, nic, wanted, end):
                        return outcome
                    self._pause(end, f"card {nic} of node {node} to stay as it is")
                elif self._carry_out(node, nic, move, end):
                    outcome = Outcome.DONE
                else:
                    self._pause(end, f"HIL to say of node {node} what it says of {move} on card {nic}")
            except _Pending:
                self._pause(end, f"an action of somebody else on card {nic} of node {node} to end")
            except _NativeLast:
                native_last = True
                self._pause(end, f"the tagged networks to leave card {nic} of node {node}")

    def _nothing_pending(self, node: str, nic: str, wanted: Mapping[str, str], end: float) -> bool:
        """Say whether the card stays as it is wanted and is: no action is under way, say of a killed process.

        HIL does not tell, but it refuses everything while one is. So it is asked for what is wanted anyway: to
        attach what is attached, or to detach what is not. False if that changed something.

        Raises:
            _Pending: An action is under way.
        """
        if wanted:
            channel, network = next(iter(wanted.items()))
            move = Move(True, channel, network)
        else:
            some = self._vlans.some_network()
            if some is None:
                return True  # nothing to be attached to
            move = Move(False, NATIVE, some)
        try:
            if self._carry_out(node, nic, move, end):
                return False
        except HilSaysNo as error:
            if error.status != 404 or not self._vlans.forget(move.network):
                raise
            return False  # that network is gone: ask with another one
        except SwitchPortUnknown:
            if wanted:
                raise
            return True  # a card without a cable is on no network
        return self._networks(node, nic) in (dict(wanted), None)

    def _carry_out(self, node: str, nic: str, move: Move, end: float) -> bool:
        """Ask for one thing and wait until it is done; False if it was so already.

        Raises:
            _Pending: Another action is under way.
            _NativeLast: The tagged networks have to go first.
        """
        try:
            if move.attach:
                # Left out where HIL knows no channels but its own.
                channel = None if move.channel == NULL else move.channel
                id = self._hil.connect(node, nic, move.network, channel)
            else:
                id = self._hil.detach(node, nic, move.network)
        except HilSaysNo as error:
            if error.says("already active") or error.says("pending"):
                raise _Pending from None
            if any(error.says(words) for words in ("already attached", "not attached", "already in use")):
                return False
            if error.says("remove all trunked"):
                raise _NativeLast from None
            raise self._refusal(node, nic, move, error) from None
        self._wait(node, nic, move, id, end)
        return True

    def _wait(self, node: str, nic: str, move: Move, id: str | None, end: float) -> None:
        while True:
            # HIL 0.2 gives no id, and others forget: then the node itself tells.
            status = self._hil.action(id) if id is not None else None
            if status == "ERROR":
                raise SwitchError(
                    f"HIL could not {move} on card {nic} of node {node}: its driver of the switch failed",
                    next_step="look at the log of HIL's network daemon, and at the switch",
                )
            if status == "DONE":
                return
            if status is None:
                now = self._networks(node, nic)
                if now is None or move.seen_in(now):
                    return
            self._pause(end, f"HIL to {move} on card {nic} of node {node}")

    def _pause(self, end: float, what: str) -> None:
        if time.monotonic() >= end:
            raise SwitchError(
                f"waited {self._options.timeout:g} s for {what}",
                next_step="look whether HIL's network daemon runs (hil-admin serve-networks) and reaches the "
                "switch",
            )
        time.sleep(self._options.poll)

    def _refusal(self, node: str, nic: str, move: Move, error: HilSaysNo) -> Exception:
        if error.says("No port is connected"):
            return SwitchPortUnknown(
                f"HIL knows no switch port for card {nic} of node {node}",
                next_step=f"tell it: hil port nic add SWITCH PORT {node} {nic}",
            )
        if error.says("native network first"):
            return SwitchRefused(
                f"the switch of card {nic} of node {node} carries no tagged network without a native one",
                next_step="attach a native network too",
            )
        if error.says("does not have access"):
            return SwitchRefused(
                f"the project that has node {node} in HIL may not use HIL's network {move.network}",
                next_step=f"let it: hil network grant-access {move.network} PROJECT",
            )
        return error

    def _networks(self, node: str, nic: str) -> dict[str, str] | None:
        """Return the networks that a card is on, by channel; None if its node is not one of the projects'.

        Raises:
            SwitchPortUnknown: HIL has no such node, or the node no such card.
        """
        found = self._node(node)
        if found is None:
            return None
        for each in found.nics:
            if each.label == nic:
                return dict(each.networks)
        raise unknown_port(f"{node}/{nic}", self._hil.name, _names(found, found.nics))

    def _node(self, name: str) -> NodeAnswer | None:
        try:
            found = self._hil.node(name)
        except HilSaysNo as error:
            if error.status == 404 and not error.wrong_user:
                raise unknown_port(name, self._hil.name, self._examples()) from None
            if not error.no_access:
                raise
            for project in self._options.projects:  # refused here too, it is not the node
                self._hil.nodes_of(project)
            return None
        return found if found.project in self._options.projects else None

    def _foreign(self, node: str, vlans: PortVlans) -> Outcome:
        if vlans == ISOLATED:
            return Outcome.ALREADY  # HIL lets no node go that is on a network
        raise SwitchRefused(
            f"node {node} belongs to none of HIL's projects {', '.join(self._options.projects)}",
            next_step=f"give it to one of them (hil project node add PROJECT {node}), or correct the option "
            "'projects'",
        )

    def _nodes(self) -> Iterator[NodeAnswer]:
        for project in self._options.projects:
            for name in self._hil.nodes_of(project):
                try:
                    found = self._hil.node(name)
                except HilSaysNo as error:
                    if error.wrong_user or error.status not in (401, 404):
                        raise
                    continue  # it was given away in this moment
                if found.project == project:
                    yield found

    def _examples(self) -> list[str]:
        names: list[str] = []
        for node in self._nodes():
            names += _names(node, node.nics)
            if len(names) > _EXAMPLES:
                break
        return names

    @contextmanager
    def _in_our_words(self) -> Iterator[None]:
        with in_our_words(self._hil.name, away=SwitchUnreachable, failed=SwitchError, refused=SwitchRefused):
            yield


def _split(port: str) -> tuple[str, str]:
    """Return a port's node and card. A card's label may have a slash, a node's name that BMI uses has none."""
    node, _, nic = port.partition("/")
    return node, nic


def _names(node: NodeAnswer, nics: Iterable[NicAnswer]) -> list[str]:
    return [f"{node.name}/{nic.label}" for nic in nics]
