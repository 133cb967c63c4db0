"""Changing nodes, and taking many into the inventory at once, on the wire."""

from typing import Literal

from pydantic import Field, SecretStr

from bmi.api.common import Change, Name, Request, Response
from bmi.api.nodes import Nic

NODES_AT_MOST = 1000
"""Nodes in one request: it is one transaction, which all other writers wait for."""


class BmcChange(Change):
    """What to change about how a management controller is reached."""

    driver: str | None = None
    address: str | None = Field(None, min_length=1)
    username: str | None = None
    password: SecretStr | None = None
    options: dict[str, str] | None = None


class NodeChange(Change):
    """What to change about a node."""

    name: Name | None = None
    bmc: BmcChange = BmcChange()
    nics: list[Nic] | None = Field(
        None,
        min_length=1,
        max_length=16,
        description="All of them, the one that boots first; only while nobody uses the node",
    )


class BmcEntry(Request):
    """How to reach a management controller."""

    driver: str = "redfish"
    address: str = Field(min_length=1)
    username: str = ""
    password: SecretStr | None = None
    """None leaves the one that is known."""
    options: dict[str, str] = {}


class NodeEntry(Request):
    """A node as it should be in the inventory."""

    name: Name
    bmc: BmcEntry
    nics: list[Nic] = Field(min_length=1, max_length=16)
    """The first one is the one it boots from."""


class NodeBatch(Request):
    """Nodes to take into the inventory. What is there already and equal stays as it is."""

    nodes: list[NodeEntry] = Field(min_length=1, max_length=NODES_AT_MOST)
    dry_run: bool = False
    """Only say what would become of them."""
    update: bool = False
    """Change nodes that are there and differ; else they are refused."""
    keep_going: bool = False
    """Take those that are right although others are not; else it is all or none."""
    check_bmc: bool = False
    """Refuse those whose management controller does not answer."""


class Fault(Response):
    """Why a node is refused."""

    code: str
    message: str
    next_step: str
    other: int | None = None
    """Place in the request of the entry that it is in conflict with."""


class Verdict(Response):
    """What becomes of a node."""

    name: str
    outcome: Literal["new", "changed", "unchanged", "refused"]
    changes: list[str]
    """What differs from the inventory, in words."""
    faults: list[Fault]


class NodesTaken(Response):
    """What became of nodes, in the order of the request."""

    applied: bool
    """Whether the inventory was changed, where something was to be changed."""
    verdicts: list[Verdict]
