"""`bmi network`: the VLANs that nodes boot in."""

from typing import Annotated

import typer

from bmi.api.networks import Network, NetworkCreate
from bmi.cli import apps, complete, options, output
from bmi.cli.progress import finish
from bmi.cli.session import connect

app = apps.noun("VLANs with a boot service on them.")

Name = Annotated[str, typer.Argument(help="Name or id.", metavar="NETWORK", autocompletion=complete.networks)]
Other = Annotated[
    str, typer.Argument(metavar="PROJECT", help="The other project's id; admins may use its name.")
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
        ("NAME", "STATE", "VLAN", "SUBNET", "PROJECT", "FOR", "CREATED"),
        [
            (
                network.name,
                network.state,
                network.vlan,
                network.subnet,
                network.project,
                network.visibility,
                network.created_at,
            )
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
            ("for", found.visibility),
            ("id", found.id),
            ("created", found.created_at),
        )
    )


@app.command()
def share(
    network: Name, other: Other, project: options.ProjectName = None, json: options.Json = False
) -> None:
    """Let another project attach its nodes to a network, beside those that they boot on.

    \b
    Example:
      bmi network share storage 0192f3d4-7a31-7c55-8f2e-4b1d6a90c3e7
    """
    with connect(project) as bmi:
        made = bmi.networks.share(network, other)
    if json:
        output.as_json(made)
    else:
        output.line(f"network {network} is shared with project {made.project}")


@app.command()
def unshare(network: Name, other: Other, project: options.ProjectName = None) -> None:
    """Let a project attach no more nodes to a network. Refused while one of its nodes is on it."""
    with connect(project) as bmi:
        bmi.networks.unshare(network, other)
    output.line(f"network {network} is not shared with {other} any more")


@app.command()
def shares(network: Name, project: options.ProjectName = None, json: options.Json = False) -> None:
    """List the projects that a network is shared with."""
    with connect(project) as bmi:
        found = bmi.networks.shares(network)
    if json:
        output.as_json(found)
        return
    output.table(
        ("PROJECT", "ID", "SINCE"),
        [(share.project, share.project_id, share.created_at) for share in found],
        empty=f"network {network} is shared with no project; share it with `bmi network share {network} PROJECT`",
    )


@app.command()
def publish(network: Name, project: options.ProjectName = None, json: options.Json = False) -> None:
    """Let every project attach its nodes to a network; for admins.

    \b
    Example:
      bmi network publish storage --project site
    """
    with connect(project) as bmi:
        _tell(bmi.networks.publish(network), json=json)


@app.command()
def withdraw(network: Name, project: options.ProjectName = None, json: options.Json = False) -> None:
    """Make a public network private again, or shared with whom it is. Refused while another's node is on it."""
    with connect(project) as bmi:
        _tell(bmi.networks.withdraw(network), json=json)


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


def _tell(network: Network, *, json: bool) -> None:
    if json:
        output.as_json(network)
    else:
        output.line(f"network {network.name} of project {network.project} is {network.visibility}")
