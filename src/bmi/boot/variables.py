"""What each template is given, and samples of it: overrides are tried with them when the service starts.

The values are checked by who makes them (`script.py`, `dhcp_conf.py`, `seed.py`) before they get here. Sites write
their templates for these names, docs/templates.md lists them: they are added to and not renamed.
"""

from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True)
class Variables:
    """Base of what a template is given."""

    template: ClassVar[str]
    """Name of its file."""


@dataclass(frozen=True)
class Retry(Variables):
    """What a script does that has nothing to boot, or could not: wait, and be fetched again."""

    template: ClassVar[str] = "retry.ipxe.j2"

    script_url: str = field(repr=False)
    """Where the script comes from; it holds a secret."""
    first_wait: int
    """Seconds."""
    longer_by: int
    """Seconds by which each wait is longer than the one before."""
    longest_wait: int
    """Seconds; reached in whole steps from the first."""


@dataclass(frozen=True)
class BootScript(Retry):
    """The script that boots a node's disk."""

    template: ClassVar[str] = "boot.ipxe.j2"

    portal: str
    """Address and port of the export, for people."""
    uri: str
    """The export as iPXE wants it (RFC 4173)."""
    initiator: str
    """The name by which the node logs in."""
    username: str
    """Of CHAP."""
    password: str = field(repr=False)
    """Of CHAP."""


@dataclass(frozen=True)
class WaitScript(Retry):
    """The script of a node that has nothing to boot yet."""

    template: ClassVar[str] = "wait.ipxe.j2"

    reason: str
    """Words for the node's console."""


@dataclass(frozen=True)
class ExitScript(Variables):
    """The script of a node that goes on with its firmware's next boot device."""

    template: ClassVar[str] = "exit.ipxe.j2"

    reason: str
    """Words for the node's console."""


@dataclass(frozen=True)
class DiscoveryScript(Retry):
    """The script of a machine that is no node, on the network where such are discovered."""

    template: ClassVar[str] = "discovery.ipxe.j2"

    kernel_url: str
    """Of the inspection system; its initramfs has to be called initrd.img."""
    initramfs_url: str
    arguments: str
    """The kernel's command line, with where to report, which holds a secret; `bmi.boot=MAC` has to follow."""


@dataclass(frozen=True)
class Loader:
    """A program that firmware loads: iPXE, or what leads to it."""

    name: str
    """As in "bios"."""
    architectures: tuple[int, ...]
    """What the firmware says that it is (RFC 4578, section 2.1)."""
    file: str
    """Within the folder `boot.tftp_root`; or a URL, if it is loaded by UEFI HTTP boot."""
    http: bool = False
    """Whether it is: such firmware believes a server only that calls itself an HTTPClient (UEFI 2.10, 24.7.3)."""


@dataclass(frozen=True)
class DhcpServer(Variables):
    """The configuration of a network's dnsmasq."""

    template: ClassVar[str] = "dnsmasq.conf.j2"

    namespace_inode: int
    """dnsmasq is started anew when this text changes, and so when its namespace or its interface is another."""
    interface_index: int
    interface: str
    """Name of the gateway's interface on the network."""
    gateway: IPv4Address
    """The gateway's address on the network."""
    user: str
    """Whom dnsmasq runs as."""
    subnet: IPv4Network
    dhcp: str
    """As the network has it: full, reservations, proxy, off."""
    dynamic: tuple[IPv4Address, IPv4Address] | None
    """First and last address for cards that BMI does not know, where this gateway gives such."""
    lease_seconds: int
    leases_at_most: int
    router: IPv4Address | None
    """The default route that nodes are given, if any."""
    dns: bool
    """Whether dnsmasq answers for names."""
    dns_servers: tuple[IPv4Address, ...]
    """Whom it asks for other names; or, where it does not answer for names, whom nodes are told to ask."""
    zone: str | None
    """The domain of the network's nodes."""
    names: Path
    """File of the nodes' names."""
    mtu: int | None
    """Bytes of a packet; as the nodes have it if None."""
    script_url: str | None
    """Where every node's iPXE asks what to boot, on networks where another server gives addresses."""
    discovery_url: str | None
    """Where the iPXE of cards that BMI does not know asks, where this gateway has such machines inspected."""
    advertisement_seconds: int
    """Between two router advertisements."""
    loaders: tuple[Loader, ...]
    tftp_root: Path
    hosts: Path
    """File of the reservations."""
    options: Path
    """File of the options that each host alone gets."""
    leases: Path
    """File of the leases."""
    log: Path
    byte_tags: tuple[str, ...]
    """Directives that give each card the tags which the file of options is written for."""


@dataclass(frozen=True)
class MetaData(Variables):
    """cloud-init's meta-data."""

    template: ClassVar[str] = "meta-data.j2"

    instance_id: str
    """When it differs from the last one seen, cloud-init sets the system up anew."""
    hostname: str
    ssh_keys: tuple[str, ...]


@dataclass(frozen=True)
class Card:
    """A card beside the one that the node boots over."""

    name: str
    """As in "card2"."""
    mac: str
    address: IPv4Interface | None
    """The card's address on its network without a tag; None if it has none."""
    mtu: int | None
    """Bytes of a packet."""


@dataclass(frozen=True)
class Vlan:
    """A network that a card carries with a tag."""

    id: int
    card: str
    """The name of the card; "boot" is the one that the node boots over."""
    address: IPv4Interface
    mtu: int | None
    """Bytes of a packet."""


@dataclass(frozen=True)
class NetworkConfig(Variables):
    """cloud-init's network configuration, version 2."""

    template: ClassVar[str] = "network-config.j2"

    mac: str
    """Of the card that the node boots over, and that carries its disk."""
    address: IPv4Interface | None
    """The card's address where nobody gives it one."""
    router: IPv4Address | None
    """The default route that goes with it."""
    mtu: int | None
    """Bytes of a packet."""
    dns_servers: tuple[IPv4Address, ...]
    domain: str | None
    """Where names without a dot are looked for."""
    cards: tuple[Card, ...]
    """The node's other cards that are on a network."""
    vlans: tuple[Vlan, ...]


@dataclass(frozen=True)
class VendorData(Variables):
    """BMI's own cloud-config: what the tenant says in his wins."""

    template: ClassVar[str] = "vendor-data.j2"

    phone_home_url: str = field(repr=False)
    """Where the node reports that it is up; it holds a secret."""
    phone_home_tries: int
    """cloud-init waits longer and longer between them."""


@dataclass(frozen=True)
class ForgetKeys(Variables):
    """A script that cloud-init runs at each boot, before it adds keys."""

    template: ClassVar[str] = "forget-keys.j2"


_URL = "http://10.64.1.254:8080/boot/0/token/script.ipxe"
_MAC = "52:54:00:12:34:56"
_WAITS = {"first_wait": 2, "longer_by": 4, "longest_wait": 30}
_IQN = "iqn.2026-01.internal.bmi"
_NETWORK = DhcpServer(
    namespace_inode=4026532000,
    interface_index=2,
    interface="eth0",
    gateway=IPv4Address("10.64.1.254"),
    user="dnsmasq",
    subnet=IPv4Network("10.64.1.0/24"),
    dhcp="reservations",
    dynamic=None,
    lease_seconds=86400,
    leases_at_most=4096,
    router=None,
    dns=False,
    dns_servers=(),
    zone=None,
    names=Path("/run/bmi/sample/names"),
    mtu=None,
    script_url=None,
    discovery_url=None,
    advertisement_seconds=10,
    loaders=(
        Loader("bios", (0,), "undionly.kpxe"),
        Loader("uefi_x64", (7, 9), "snponly.efi"),
        Loader("http_x64", (16,), "http://10.64.1.254:8080/loader/snponly.efi", http=True),
    ),
    tftp_root=Path("/usr/lib/ipxe"),
    hosts=Path("/run/bmi/sample/hosts"),
    options=Path("/run/bmi/sample/options"),
    leases=Path("/run/bmi/sample/leases"),
    log=Path("/run/bmi/sample/log"),
    byte_tags=("dhcp-mac=set:m0x52,52:*:*:*:*:*",),
)

SAMPLES: tuple[Variables, ...] = (
    BootScript(
        script_url=_URL,
        **_WAITS,
        portal="10.64.1.254:3270",
        uri=f"iscsi:10.64.1.254::3270:1:{_IQN}:0",
        initiator=f"{_IQN}:node-0",
        username="user",
        password="secret",  # noqa: S106 - nobody's
    ),
    WaitScript(script_url=_URL, **_WAITS, reason="node n1 has no disk yet"),
    ExitScript("node n1 boots from its own disk"),
    DiscoveryScript(
        script_url=_URL,
        **_WAITS,
        kernel_url="http://10.64.1.254:8080/discovery/vmlinuz",
        initramfs_url="http://10.64.1.254:8080/discovery/initrd.img",
        arguments="console=ttyS0 bmi.report=http://10.64.1.254:8080/discovery/0/token/report",
    ),
    _NETWORK,
    replace(_NETWORK, dns=True, zone="blue.bmi.internal"),
    replace(
        _NETWORK,
        dhcp="full",
        dynamic=(IPv4Address("10.64.1.100"), IPv4Address("10.64.1.199")),
        router=IPv4Address("10.64.1.1"),
        dns=True,
        dns_servers=(IPv4Address("10.64.1.2"), IPv4Address("10.64.1.3")),
        zone="blue.bmi.internal",
        mtu=9000,
        discovery_url="http://10.64.1.254:8080/discovery/script.ipxe",
    ),
    replace(_NETWORK, dhcp="proxy", script_url="http://10.64.1.254:8080/boot/script.ipxe"),
    replace(_NETWORK, dhcp="off", dns_servers=(IPv4Address("10.64.1.2"),)),
    MetaData("0", "n1.example.org", ("ssh-ed25519 AAAA me: #1",)),
    NetworkConfig(_MAC, None, None, None, (), None, (), ()),
    NetworkConfig(
        _MAC,
        IPv4Interface("10.64.1.5/24"),
        IPv4Address("10.64.1.1"),
        9000,
        (IPv4Address("10.64.1.2"),),
        "blue.bmi.internal",
        (
            Card("card2", _MAC, IPv4Interface("10.64.2.5/24"), 9000),
            Card("card3", _MAC, None, None),
        ),
        (
            Vlan(102, "boot", IPv4Interface("10.64.3.5/24"), 1500),
            Vlan(103, "card3", IPv4Interface("10.64.4.5/24"), None),
        ),
    ),
    VendorData(phone_home_url=_URL, phone_home_tries=10),
    ForgetKeys(),
)
"""Of each template that is rendered by itself, one for each way that it may go."""

PARTS = (Retry,)
"""Of templates that are parts of others."""
