"""Tables of networks and attachments."""

from datetime import datetime
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from uuid import UUID

from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from bmi.access.models import Project
from bmi.boot.dhcp_conf import DhcpMode
from bmi.db import Lifecycle, Table, now
from bmi.nodes.models import Nic


class Network(Table):
    """An L2 segment with a boot service on it."""

    __tablename__ = "networks"
    __table_args__ = (UniqueConstraint("project_id", "name"),)

    name: Mapped[str]
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"), index=True)
    state: Mapped[Lifecycle]
    vlan: Mapped[int] = mapped_column(unique=True)
    subnet: Mapped[str] = mapped_column(unique=True)
    dhcp: Mapped[DhcpMode] = mapped_column(default=DhcpMode.RESERVATIONS)
    dhcp_first: Mapped[str | None]
    """First and last address for cards that are no node's, with `full`."""
    dhcp_last: Mapped[str | None]
    router: Mapped[str | None]
    """The default route that nodes are given."""
    dns: Mapped[bool] = mapped_column(default=True)
    """Whether the gateways answer for the nodes' names."""
    dns_servers: Mapped[list[str]] = mapped_column(default=list)
    """Whom they ask for others; or whom nodes ask themselves."""
    domain: Mapped[str | None]
    """What the nodes' names end with; as the settings say if None."""
    mtu: Mapped[int | None]
    lease_seconds: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(default=now)

    project: Mapped[Project] = relationship(lazy="joined")

    @property
    def range(self) -> IPv4Network:
        """The addresses of the network."""
        return IPv4Network(self.subnet)

    @property
    def gateway(self) -> IPv4Interface:
        """The address of the first gateway."""
        return self.address_of(1)

    def address_of(self, gateway: int) -> IPv4Interface:
        """The address of a gateway's own leg, by its number: from the end, as nodes count from the start."""
        return IPv4Interface((self.range.broadcast_address - gateway, self.range.prefixlen))


class Attachment(Table):
    """A network card on a network."""

    __tablename__ = "attachments"
    __table_args__ = (UniqueConstraint("nic_id", "network_id"), UniqueConstraint("network_id", "address"))

    nic_id: Mapped[UUID] = mapped_column(ForeignKey("nics.id"))
    network_id: Mapped[UUID] = mapped_column(ForeignKey("networks.id"))
    tagged: Mapped[bool] = mapped_column(default=False)
    address: Mapped[str]

    nic: Mapped[Nic] = relationship(lazy="joined")
    network: Mapped[Network] = relationship(lazy="joined")

    @property
    def ip(self) -> IPv4Address:
        """The address that the card gets on this network."""
        return IPv4Address(self.address)
