"""What a lab consists of: decided once, when it is first brought up, and written down before anything is made."""

import os
import secrets
import socket
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from bmi.ids import new_id
from bmi.lab.ceph import free_port
from bmi.lab.node import Firmware, NetworkBoot, NodeSpec, VirtualNic

DEFAULT_FOLDER = Path("/var/lib/bmi-lab")
SWITCH = "lab"
"""Name of the lab's switch in the service's settings."""
BRIDGE = "br0"
BMC_USERNAME = "admin"

_SCRATCH = 96 << 20  # bytes of the disk that each node has of its own; a hole until something writes to it


class Store(StrEnum):
    """What keeps images and disks, and with it how many processes the service has."""

    LOCAL = "local"
    """Files of this host and SQLite: one process."""
    CEPH = "ceph"
    """Ceph and PostgreSQL: an API, two workers, two gateways."""


class LabNode(BaseModel):
    """One virtual node, its cable and its management controller."""

    model_config = ConfigDict(frozen=True)

    name: str
    id: UUID
    mac: str
    firmware: Firmware
    network_boot: NetworkBoot
    bmc_port: int
    bmc_password: str
    scratch: int = 0
    """Bytes of its own disk."""
    second_mac: str | None = None
    """Of its second card, which does not boot; it has one card only if None."""

    @property
    def nics(self) -> tuple[VirtualNic, ...]:
        """Its cards, each with the switch port, and tap interface, that it is plugged into."""
        first = VirtualNic(mac=self.mac, tap=self.name)
        second = () if self.second_mac is None else (VirtualNic(mac=self.second_mac, tap=f"{self.name}-2"),)
        return (first, *second)

    @property
    def bmc_url(self) -> str:
        """Where its management controller answers."""
        return f"http://127.0.0.1:{self.bmc_port}"

    def spec(self, namespace: str) -> NodeSpec:
        """Return the machine."""
        return NodeSpec(
            name=self.name,
            id=self.id,
            nics=self.nics,
            namespace=namespace,
            firmware=self.firmware,
            network_boot=self.network_boot,
            scratch=self.scratch,
        )


class Layout(BaseModel):
    """A whole lab."""

    model_config = ConfigDict(frozen=True)

    mark: str
    """Six hexadecimal digits, so that several labs fit on one machine."""
    api_port: int
    nodes: tuple[LabNode, ...]
    store: Store
    ceph_port: int
    postgres_port: int
    user: str | None = None
    """Whom the service runs as, with a helper for what takes root's rights; root, without a helper, if None."""

    @property
    def namespace(self) -> str:
        """The network namespace of the switch and of the nodes' cables."""
        return f"bmi-lab-{self.mark}"

    @property
    def api_url(self) -> str:
        """Where the lab's own service answers."""
        return f"http://127.0.0.1:{self.api_port}"

    def save(self, file: Path) -> None:
        """Write it down; it holds the controllers' passwords."""
        partial = file.with_suffix(".part")
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(self.model_dump_json(indent=1))
        partial.rename(file)


def plan(nodes: int, api_port: int, store: Store, user: str | None) -> Layout:
    """Think out a lab.

    Every second node has UEFI firmware that loads iPXE over TFTP, as most servers do; the others a BIOS with
    iPXE in the card. The first one has a second card.

    Args:
        nodes: How many.
        api_port: Port of the lab's service on loopback.
        store: What keeps images and disks.
        user: Whom the service runs as; root if None.
    """
    mark = secrets.token_hex(3)
    postgres_port, *ports = _free_ports(1 + nodes)
    return Layout(
        mark=mark,
        api_port=api_port,
        nodes=tuple(_node(number, mark, ports[number - 1]) for number in range(1, nodes + 1)),
        store=store,
        ceph_port=free_port(),
        postgres_port=postgres_port,
        user=user,
    )


def _node(number: int, mark: str, port: int) -> LabNode:
    uefi = number % 2 == 0
    octets = (mark[0:2], mark[2:4], mark[4:6], f"{number:02x}")
    return LabNode(
        name=f"n{number}",
        id=new_id(),
        mac=":".join(("52", "54", *octets)),
        firmware=Firmware.UEFI if uefi else Firmware.BIOS,
        network_boot=NetworkBoot.FIRMWARE if uefi else NetworkBoot.IPXE,
        bmc_port=port,
        bmc_password=secrets.token_urlsafe(12),
        scratch=_SCRATCH,
        second_mac=":".join(("52", "55", *octets)) if number == 1 else None,
    )


def _free_ports(count: int) -> list[int]:
    """Return ports of the loopback interface that nobody listens on."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]
