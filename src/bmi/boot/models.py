"""Tables of boot records and exports."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from sqlalchemy import JSON, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column, relationship

from bmi.api.nodes import Milestone
from bmi.db import Table, now
from bmi.gateways.models import Gateway
from bmi.images.models import Disk
from bmi.networks.models import Attachment
from bmi.nodes.models import Node


class Boot(Table):
    """What a node boots: the disk, over which attachment, and what its seed says.

    The flags say what should exist outside the database. A flag is set before the thing is made and cleared
    after it is gone, so that convergence never takes a thing in the making for an orphan.
    """

    __tablename__ = "boots"

    node_id: Mapped[UUID] = mapped_column(ForeignKey("nodes.id"), unique=True)
    disk_id: Mapped[UUID] = mapped_column(ForeignKey("disks.id"), unique=True)
    attachment_id: Mapped[UUID] = mapped_column(ForeignKey("attachments.id"), unique=True)
    gateway_id: Mapped[UUID] = mapped_column(ForeignKey("gateways.id"), index=True)
    """The gateway whose address the node knows; another one may act for it."""
    hostname: Mapped[str]
    ssh_keys: Mapped[list[str]]
    user_data: Mapped[str | None]
    chap_secret: Mapped[str]
    """Sealed by the vault."""
    seeded: Mapped[bool] = mapped_column(default=False)
    exported: Mapped[bool] = mapped_column(default=False)
    exported_by_id: Mapped[UUID | None] = mapped_column(ForeignKey("gateways.id"))
    """The gateway that served the disk last, and may still have it open; none if nobody ever has."""
    stale: Mapped[bool] = mapped_column(default=False)
    """Whether the seed is another one than when it was exported: a target goes on reading what it opened."""
    served: Mapped[bool] = mapped_column(default=False)
    """Whether DHCP and the boot script answer the node."""
    attached: Mapped[bool] = mapped_column(default=False)
    """Whether the node's switch port is in the network's VLAN."""
    milestone: Mapped[Milestone | None]
    """The furthest that the latest boot came."""
    started_at: Mapped[datetime | None]
    """When the node was last switched on."""
    ssh_host_keys: Mapped[list[str]] = mapped_column(default=list)
    cleaning: Mapped[bool] = mapped_column(default=False)
    """Whether the node is booted to have its local disks wiped."""
    cleaned: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    """What was reported of each local disk; none if nothing was."""
    created_at: Mapped[datetime] = mapped_column(default=now)

    node: Mapped[Node] = relationship(lazy="joined")
    disk: Mapped[Disk] = relationship(lazy="joined")
    attachment: Mapped[Attachment] = relationship(lazy="joined")
    gateway: Mapped[Gateway] = relationship(lazy="joined", foreign_keys=gateway_id)


Flag = Literal["seeded", "exported", "served", "attached"]
