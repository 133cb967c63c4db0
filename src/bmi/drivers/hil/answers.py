"""What HIL answers, typed. HIL is another server: what does not have this form is refused."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

MOST = 10_000  # entries of any one list

Label = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""What HIL calls a thing: any text, but no control characters."""

Labels = Annotated[list[Label], Field(max_length=MOST)]


class NicAnswer(BaseModel):
    """A network card."""

    label: Label
    macaddr: str = Field(max_length=255)
    """Any text: HIL does not look at it."""
    networks: dict[str, Label] = Field({}, max_length=MOST)
    """The networks that it is on, by channel."""


class NodeAnswer(BaseModel):
    """GET /node/N."""

    name: Label
    nics: list[NicAnswer] = Field(max_length=256)
    project: Label | None = None
    """None if it is free."""


class NetworkAnswer(BaseModel):
    """GET /network/X."""

    name: Label
    channels: list[str] = Field(max_length=MOST)
    """Ways to attach a card: `vlan/native` and `vlan/ID`, or `null` where HIL knows no VLANs."""


class ListedNetwork(BaseModel):
    """An entry of GET /networks."""

    network_id: str | int | None = None


class ActionAnswer(BaseModel):
    """GET /networking_action/ID."""

    status: Literal["PENDING", "DONE", "ERROR"]


class AcceptedAnswer(BaseModel):
    """The body of a 202, which HIL 0.2 does not give."""

    status_id: str = Field(pattern=r"^[A-Za-z0-9-]{1,64}$")


class PowerAnswer(BaseModel):
    """OBMd's answer to `power_status`."""

    power_status: Literal["on", "off"]


class ErrorAnswer(BaseModel):
    """How HIL says no. Some failures come as a page of HTML instead."""

    type: str = Field("", max_length=255)
    msg: str = Field("", max_length=4096)
