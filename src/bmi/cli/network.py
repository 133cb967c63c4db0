"""`bmi network`: the VLANs that nodes boot in."""

from typing import Annotated

import typer

from bmi.api.networks import NetworkCreate
from bmi.cli import apps, complete, options, output
from bmi.cli.progress import finish
from bmi.cli.session import connect

app = apps.noun("VLANs with a boot service on them.")

Name = Annotated[str, typer.Argument(help="Name or id.", metavar="NETWORK", autocompletion=complete.networks)]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What to call it.", metavar="NAME")],
    vlan: Annotated[
        int | None, typer.Option(min=1, max=4094, help="VLAN id; admins only.", show_default="a free one")
    ] = None,
    subnet: Annotated[
        str | None, typer.Option(metavar="CIDR", help="IPv4 subnet.", show_default="a free one")
    ] = None,
    project: options.ProjectName = None,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Make a network.

    \b
    Example:
      bmi network create lan --subnet 10.7.0.0/24
    """
    request = NetworkCreate(name=name, vlan=vlan, subnet=None if subnet is None else options.subnet(subnet))
    with connect(project) as bmi:
        finish(bmi, bmi.networks.create(request), wait=wait, json=json)


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
    output.fields(
        (
            ("name", found.name),
            ("state", found.state),
            ("project", found.project),
            ("vlan", found.vlan),
            ("subnet", found.subnet),
            ("gateway", found.gateway),
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
