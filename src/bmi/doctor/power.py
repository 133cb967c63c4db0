"""Asks every node's management controller whether the node is on, all of them side by side."""

import socket
from functools import partial
from ipaddress import ip_address
from urllib.parse import urlsplit

from sqlalchemy import select

from bmi.api.doctor import Family
from bmi.api.nodes import Lease, NodeState
from bmi.doctor.claims import claims
from bmi.doctor.codes import Code
from bmi.doctor.sheet import Check, Sheet
from bmi.drivers.power import PowerState
from bmi.errors import BmcRefused, BmcUnreachable
from bmi.nodes.leases import lease_of
from bmi.nodes.models import Node
from bmi.nodes.service import power_state
from bmi.parts import Parts


def checks(parts: Parts) -> list[Check]:
    """Return what there is to look at: each node that no operation is busy with."""
    with parts.db.read() as session:
        claimed = claims(session)
        nodes = [node for node in session.scalars(select(Node)) if node.id not in claimed]
    return [
        Check(
            Family.POWER,
            f"node {node.name}",
            partial(_node, parts, node),
            late=Code.BMC_UNREACHABLE,
        )
        for node in nodes
    ]


def name_in(address: str) -> str | None:
    """Return the host name in a URL or an address with or without a port; None if it is an IP address."""
    if is_ip(address):
        return None
    host = urlsplit(address if "://" in address else f"//{address}").hostname
    return host if host and not is_ip(host) else None


def is_ip(host: str) -> bool:
    """Say whether a host is given by its IP address."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def stands_for_nothing(name: str) -> bool:
    """Say whether a host name has no address; takes as long as the resolver does."""
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return True
    return False


def _node(parts: Parts, node: Node, sheet: Sheet) -> None:
    thing = f"node {node.name}"
    if lease_of(parts.leases, node) is Lease.ENDED:
        return  # it is somebody else's, which `bmi.doctor.leases` tells of
    try:
        state = power_state(parts, node.id)
    except BmcUnreachable as error:
        name = name_in(node.bmc_address)
        if name is not None and stands_for_nothing(name):
            sheet.note(Code.BMC_NAME_MISSING, thing, f"{name} stands for no address")
        else:
            sheet.note(Code.BMC_UNREACHABLE, thing, error.message, next_step=error.next_step)
        return
    except BmcRefused as error:
        sheet.note(Code.BMC_REFUSED, thing, error.message, next_step=error.next_step)
        return
    with parts.db.read() as session:
        now = session.get(Node, node.id)
        if now is None or node.id in claims(session) or now.state is not node.state:
            return  # it changed meanwhile
    if state is PowerState.ON and node.state in (NodeState.AVAILABLE, NodeState.ALLOCATED):
        message = "is on, and boots nothing" if node.project else "is on, and belongs to nobody"
        sheet.note(Code.NODE_ON_WHILE_FREE, thing, message, next_step=_switch(node, "off"))
    elif state is PowerState.OFF and node.state is NodeState.ACTIVE:
        message = f"is off, and boots for project {node.project.name if node.project else '-'}"
        sheet.note(Code.NODE_OFF_WHILE_ACTIVE, thing, message, next_step=_switch(node, "on"))


def _switch(node: Node, action: str) -> str:
    return f"switch it {action}: bmi node power {node.name} {action}"
