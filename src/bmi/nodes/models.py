"""Tables of nodes and their network cards."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from bmi.access.models import Project
from bmi.api.nodes import NodeState
from bmi.db import Table, now
from bmi.drivers.power import SAID


class Node(Table):
    """A physical server."""

    __tablename__ = "nodes"

    name: Mapped[str] = mapped_column(unique=True)
    state: Mapped[NodeState] = mapped_column(default=NodeState.AVAILABLE)
    problem: Mapped[str | None]
    """Why it is `failed`, and what to do."""
    project_id: Mapped[UUID | None] = mapped_column(ForeignKey("projects.id"), index=True)
    allocated: Mapped[bool] = mapped_column(default=False)
    """Whether it stays with its project when it boots nothing; else it is anybody's then."""
    dirty: Mapped[bool] = mapped_column(default=False)
    """Whether its local disks are to be cleaned before anybody else gets it."""
    bmc_driver: Mapped[str]
    bmc_address: Mapped[str]
    bmc_username: Mapped[str]
    bmc_password: Mapped[str]
    """Sealed by the vault."""
    bmc_options: Mapped[dict[str, Any]]
    inventory_name: Mapped[str | None] = mapped_column(unique=True)
    """What the site's inventory calls it; None if it was not imported from there."""
    inventory_project: Mapped[str | None]
    """The project of the inventory that it is used for."""
    lease_ended_at: Mapped[datetime | None]
    """When it was found, while in use, that this project does not have it any more."""
    created_at: Mapped[datetime] = mapped_column(default=now)

    project: Mapped[Project | None] = relationship(lazy="joined")
    nics: Mapped[list["Nic"]] = relationship(
        lazy="selectin", order_by="Nic.position", cascade="all, delete-orphan", back_populates="node"
    )

    @property
    def registered_options(self) -> dict[str, Any]:
        """The controller's options without what people said of its power."""
        return {key: value for key, value in self.bmc_options.items() if key != SAID}


class Nic(Table):
    """A network card, and the switch port where its cable ends."""

    __tablename__ = "nics"
    __table_args__ = (UniqueConstraint("switch", "port"), UniqueConstraint("node_id", "position"))

    node_id: Mapped[UUID] = mapped_column(ForeignKey("nodes.id", ondelete="CASCADE"))
    position: Mapped[int]
    mac: Mapped[str] = mapped_column(unique=True)
    switch: Mapped[str]
    port: Mapped[str]

    node: Mapped[Node] = relationship(back_populates="nics", lazy="joined")


class NodeHardware(Table):
    """What a node consists of, as it told of itself before it was registered."""

    __tablename__ = "node_hardware"

    node_id: Mapped[UUID] = mapped_column(ForeignKey("nodes.id", ondelete="CASCADE"), unique=True)
    facts: Mapped[dict[str, Any]]
    """As `bmi.api.hardware.Hardware`."""
    seen_at: Mapped[datetime]
