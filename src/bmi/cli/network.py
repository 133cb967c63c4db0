"""`bmi network`: the VLANs that nodes boot in."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from bmi.api.networks import NetworkCreate, NetworkUpdate
from bmi.cli import apps, complete, options, output
from bmi.cli.progress import finish
from bmi.cli.session import connect

app = apps.noun("VLANs with a boot service on them.")


class DhcpMode(StrEnum):
    """Who gives addresses."""

    FULL = "full"
    RESERVATIONS = "reservations"
    PROXY = "proxy"
    OFF = "off"


class Switched(StrEnum):
    """Whether something is on."""

    ON = "on"
    OFF = "off"


class Unset(StrEnum):
    """A setting that can be taken away."""

    DHCP_RANGE = "dhcp-range"
    ROUTER = "router"
    DNS_SERVERS = "dns-servers"
    DOMAIN = "domain"
    MTU = "mtu"
    LEASE = "lease"

    @property
    def field(self) -> str:
        """What it is called on the wire."""
        return "lease_seconds" if self is Unset.LEASE else self.value.replace("-", "_")


Name = Annotated[str, typer.Argument(help="Name or id.", metavar="NETWORK", autocompletion=complete.networks)]

Dhcp = Annotated[
    DhcpMode | None,
    typer.Option(
        help="Who gives addresses: BMI, to nodes and others (full); BMI, to nodes; another server beside BMI "
        "(proxy); or BMI is silent (off).",
        show_default="reservations",
    ),
]
DhcpRange = Annotated[
    str | None,
    typer.Option(metavar="FIRST-LAST", help="Addresses for cards that are no node's, with --dhcp full."),
]
Router = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Default route of the nodes.", show_default="none")
]
Dns = Annotated[
    Switched | None,
    typer.Option(help="Whether the gateway answers for NODE.PROJECT.DOMAIN.", show_default="on"),
]
DnsServers = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ADDRESS",
        help="Whom the gateway asks for other names; with --dns off, whom nodes ask. At most three.",
    ),
]
Domain = Annotated[
    str | None,
    typer.Option(metavar="DOMAIN", help="What nodes' names end with.", show_default="the service's"),
]
Mtu = Annotated[
    int | None,
    typer.Option(min=576, max=9216, help="Bytes of a packet, told to nodes.", show_default="nothing is told"),
]
Lease = Annotated[
    str | None, typer.Option(metavar="TIME", help="How long an address is given for.", show_default="a day")
]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What to call it.", metavar="NAME")],
    vlan: Annotated[
        int | None, typer.Option(min=1, max=4094, help="VLAN id; admins only.", show_default="a free one")
    ] = None,
    subnet: Annotated[
        str | None, typer.Option(metavar="CIDR", help="IPv4 subnet.", show_default="a free one")
    ] = None,
    dhcp: Dhcp = None,
    dhcp_range: DhcpRange = None,
    router: Router = None,
    dns: Dns = None,
    dns_server: DnsServers = None,
    domain: Domain = None,
    mtu: Mtu = None,
    lease: Lease = None,
    project: options.ProjectName = None,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Make a network.

    \b
    Examples:
      bmi network create lan --subnet 10.7.0.0/24
      bmi network create rack --dhcp proxy --dns off --mtu 9000
    """
    given = _given(dhcp, dhcp_range, router, dns, dns_server, domain, mtu, lease)
    where = {} if subnet is None else {"subnet": options.subnet(subnet)}
    request = NetworkCreate.model_validate({"name": name, "vlan": vlan, **where, **given})
    with connect(project) as bmi:
        finish(bmi, bmi.networks.create(request), wait=wait, json=json)


@app.command()
def update(
    network: Name,
    dhcp: Dhcp = None,
    dhcp_range: DhcpRange = None,
    router: Router = None,
    dns: Dns = None,
    dns_server: DnsServers = None,
    domain: Domain = None,
    mtu: Mtu = None,
    lease: Lease = None,
    unset: Annotated[
        list[Unset] | None, typer.Option(help="Take a setting away; more than once for several.")
    ] = None,
    project: options.ProjectName = None,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Change who gives addresses on a network, and what its nodes are told about it.

    Nodes that run keep what they were told until they renew their lease; what the seed says, until they are
    provisioned again.

    \b
    Examples:
      bmi network update lan --dns-server 10.7.0.2 --mtu 9000
      bmi network update lan --dhcp full --dhcp-range 10.7.0.100-10.7.0.199
      bmi network update lan --unset router
    """
    given = _given(dhcp, dhcp_range, router, dns, dns_server, domain, mtu, lease)
    given |= {each.field: [] if each is Unset.DNS_SERVERS else None for each in unset or []}
    if not given:
        raise typer.BadParameter("nothing is to be changed: name what")
    with connect(project) as bmi:
        request = NetworkUpdate.model_validate(given)
        finish(bmi, bmi.networks.update(network, request), wait=wait, json=json)


@app.command("list")
def list_(project: options.ProjectName = None, json: options.Json = False) -> None:
    """List the networks."""
    with connect(project) as bmi:
        found = list(bmi.networks.list())
    if json:
        output.as_json(found)
        return
    output.table(
        ("NAME", "STATE", "VLAN", "SUBNET", "PROJECT", "CREATED"),
        [
            (network.name, network.state, network.vlan, network.subnet, network.project, network.created_at)
            for network in found
        ],
        empty="there are no networks; make one with `bmi network create NAME`",
    )


@app.command()
def show(network: Name, project: options.ProjectName = None, json: options.Json = False) -> None:
    """Show a network."""
    with connect(project) as bmi:
        found = bmi.networks.get(network)
    if json:
        output.as_json(found)
        return
    kept = found.dhcp_range
    output.fields(
        (
            ("name", found.name),
            ("state", found.state),
            ("project", found.project),
            ("vlan", found.vlan),
            ("subnet", found.subnet),
            ("gateway", found.gateway),
            ("dhcp", found.dhcp),
            ("dhcp range", f"{kept.first}-{kept.last}" if kept else None),
            ("router", found.router),
            ("dns", "on" if found.dns else "off"),
            ("dns servers", ", ".join(map(str, found.dns_servers)) or None),
            ("domain", found.domain),
            ("mtu", found.mtu),
            ("lease", f"{found.lease_seconds} s" if found.lease_seconds else None),
            ("boot script", found.boot_url),
            ("id", found.id),
            ("created", found.created_at),
        )
    )


@app.command()
def delete(
    network: Name,
    project: options.ProjectName = None,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Remove a network that no node is on."""
    with connect(project) as bmi:
        finish(bmi, bmi.networks.delete(network), wait=wait, json=json)


def _given(
    dhcp: DhcpMode | None,
    dhcp_range: str | None,
    router: str | None,
    dns: Switched | None,
    dns_servers: list[str] | None,
    domain: str | None,
    mtu: int | None,
    lease: str | None,
) -> dict[str, Any]:
    """Return the settings that were named, as the wire has them."""
    named = {
        "dhcp": dhcp.value if dhcp else None,
        "dhcp_range": _range(dhcp_range) if dhcp_range else None,
        "router": options.address(router) if router else None,
        "dns": None if dns is None else dns is Switched.ON,
        "dns_servers": [options.address(server) for server in dns_servers] if dns_servers else None,
        "domain": domain,
        "mtu": mtu,
        "lease_seconds": int(options.span(lease)) if lease else None,
    }
    return {name: value for name, value in named.items() if value is not None}


def _range(text: str) -> dict[str, str]:
    first, dash, last = text.partition("-")
    if not dash:
        raise typer.BadParameter(f"{text!r} is no range: write it as 10.7.0.100-10.7.0.199")
    return {"first": options.address(first.strip()), "last": options.address(last.strip())}
