"""A leg's namespace wired to one with nodes in it, and what tests ask of a target that serves them."""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from uuid import UUID

from bmi.drivers.storage import Backing
from bmi.drivers.target import Export, Portal
from bmi.drivers.target.tgt import TgtTarget
from bmi.errors import CommandFailed
from bmi.ids import new_id
from bmi.processes import Process
from bmi.run import run
from tests.iscsi import Initiator
from tests.libiscsi import Connection

LEG = IPv4Address("10.66.0.254")
NODE = "10.66.0.1"
STRANGER = "10.66.0.2"


@dataclass(frozen=True)
class Wire:
    """A leg's namespace, and one with the nodes, which have two addresses."""

    leg: str
    nodes: str

    def portal(self, port: int = 3260) -> Portal:
        return Portal(new_id(), LEG, port, self.leg)

    def initiator(self, portal: Portal, export: Export) -> Initiator:
        return Initiator(self.far(portal), export)

    def connection(self, portal: Portal, export: Export, *, lun: int = 1) -> Connection:
        return Connection(self.far(portal), export, lun=lun)

    def far(self, portal: Portal) -> Portal:
        """Return a portal as a node sees it."""
        return replace(portal, namespace=self.nodes)


@contextmanager
def wired() -> Iterator[Wire]:
    """Make both namespaces, for as long as they are needed."""
    wire = Wire(f"bmit-{secrets.token_hex(4)}", f"bmit-{secrets.token_hex(4)}")
    with ExitStack() as stack:
        for name in (wire.leg, wire.nodes):
            run(["ip", "netns", "add", name])
            stack.callback(run, ["ip", "netns", "delete", name])
            run(["ip", "-n", name, "link", "set", "lo", "up"])
        run(
            [
                *("ip", "link", "add", "eth0", "netns", wire.leg),
                *("type", "veth", "peer", "eth0", "netns", wire.nodes),
            ]
        )
        for name, addresses in ((wire.leg, [str(LEG)]), (wire.nodes, [NODE, STRANGER])):
            for address in addresses:
                run(["ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0"])
            run(["ip", "-n", name, "link", "set", "eth0", "up"])
        yield wire


def disk(export: Export) -> Backing:
    return export.luns[0].backing


def tgtd(target: TgtTarget, portal: Portal) -> Process:
    process = target._server(portal.id).process()
    assert process is not None
    return process


def forwarder(target: TgtTarget, portal: Portal) -> Process:
    process = target._server(portal.id).forwarder.process()
    assert process is not None
    return process


def serve_again_when_it_ends(target: TgtTarget, portal: Portal, export: Export) -> list[UUID]:
    """Do what BMI does when a server has ended; returns the list that its ends are added to."""
    ends: list[UUID] = []

    def call(ended: UUID) -> None:
        ends.append(ended)
        if ended == portal.id:
            target.serve(portal, [export])

    target.on_exit(call)
    return ends


def is_reachable(node: Initiator) -> bool:
    try:
        return node.size(1) > 0
    except CommandFailed:
        return False
