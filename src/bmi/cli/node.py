"""`bmi node`: physical servers."""

from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Literal

import typer

from bmi.api.nodes import (
    Deprovision,
    Milestone,
    NodeNic,
    NodeState,
    PowerRequest,
    Provision,
    Reset,
)
from bmi.cli import apps, complete, node_discovered, node_inventory, options, output, timeline
from bmi.cli.hardware import summary
from bmi.cli.progress import finish
from bmi.cli.session import connect

app = apps.noun("Physical servers.")

Name = Annotated[str, typer.Argument(help="Name or id.", metavar="NODE", autocompletion=complete.nodes)]


@app.command("list")
def list_(
    state: Annotated[NodeState | None, typer.Option(help="Only those in this state.")] = None,
    project: Annotated[
        str | None,
        typer.Option(
            "--project",
            "-p",
            metavar="PROJECT",
            help="Only this project's, and the free ones.",
            show_default="all that you may see",
            autocompletion=complete.projects,
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """List the nodes.

    \b
    Example:
      bmi node list --state available
    """
    with connect() as bmi:
        found = list(bmi.nodes.list(state=state, project=project))
    if json:
        output.as_json(found)
        return
    output.table(
        ("NAME", "STATE", "PROJECT", "IMAGE", "DISK", "NETWORK", "ADDRESS"),
        [
            (node.name, node.state, node.project, node.image, node.disk, node.network, node.address)
            for node in found
        ],
        empty="there are no such nodes; make one known with `bmi node register`",
    )


@app.command()
def show(node: Name, json: options.Json = False) -> None:
    """Show a node."""
    with connect() as bmi:
        found = bmi.nodes.get(node)
    if json:
        output.as_json(found)
        return
    output.fields(
        (
            ("name", found.name),
            ("state", found.state),
            ("problem", found.problem),
            ("project", found.project),
            ("image", found.image),
            ("disk", found.disk),
            ("network", found.network),
            ("address", found.address),
            ("disk from", found.portal and f"{found.portal}, gateway {found.gateway}"),
            ("operation", found.operation),
            ("nics", "\n".join(map(_plugged, found.nics))),
            (
                "bmc",
                found.bmc
                and f"{found.bmc.driver} at {found.bmc.address} as {found.bmc.username or output.NONE}",
            ),
            *summary(found.hardware),
            ("host keys", "\n".join(found.ssh_host_keys) or None),
            ("id", found.id),
            ("created", found.created_at),
        )
    )


@app.command()
def delete(node: Name) -> None:
    """Forget a server that nobody uses."""
    with connect() as bmi:
        bmi.nodes.delete(node)
    output.line(f"removed node {node}")


@app.command()
def provision(
    node: Name,
    network: Annotated[
        str, typer.Option(metavar="NETWORK", help="Network to boot on.", autocompletion=complete.networks)
    ],
    image: Annotated[
        str | None,
        typer.Option(metavar="IMAGE", help="Image to clone a new disk from.", autocompletion=complete.images),
    ] = None,
    disk: Annotated[
        str | None,
        typer.Option(
            metavar="DISK", help="Disk that exists, instead of an image.", autocompletion=complete.disks
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Its address; needed where another server gives addresses.",
            show_default="a free one",
        ),
    ] = None,
    hostname: Annotated[
        str | None, typer.Option(metavar="HOSTNAME", help="Its host name.", show_default="the node's name")
    ] = None,
    ssh_key: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="File with public keys that may log in; repeat it for more."),
    ] = None,
    user_data: Annotated[
        str | None, typer.Option(metavar="FILE", help="File with user data for the first boot.")
    ] = None,
    until: options.Until = Milestone.UP,
    deadline: options.Deadline = "30m",
    project: options.ProjectName = None,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Boot a node from a clone of an image, or from a disk.

    \b
    Example:
      bmi node provision n1 --image debian --network lan --ssh-key ~/.ssh/id_ed25519.pub
    """
    if (image is None) == (disk is None):
        raise typer.BadParameter("give either --image or --disk", param_hint="--image")
    request = Provision(
        image=image,
        disk=disk,
        network=network,
        address=None if address is None else IPv4Address(options.address(address)),
        hostname=hostname,
        ssh_keys=[key for file in ssh_key or [] for key in public_keys(file)],
        user_data=None if user_data is None else options.content(user_data),
        until=until,
        deadline=options.span(deadline),
    )
    with connect(project) as bmi:
        finish(bmi, bmi.nodes.provision(node, request), wait=wait, json=json)


@app.command()
def deprovision(
    node: Name,
    keep_disk: Annotated[bool, typer.Option("--keep-disk", help="Keep its disk, to boot it again.")] = False,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Give a node back, clean. Its disk goes too, unless it is kept."""
    with connect() as bmi:
        started = bmi.nodes.deprovision(node, Deprovision(keep_disk=keep_disk))
        finish(bmi, started, wait=wait, json=json)


@app.command()
def reset(
    node: Name,
    remove_disk: Annotated[
        bool, typer.Option("--remove-disk", help="Remove its disk too; a whole one is kept otherwise.")
    ] = False,
    assume_off: Annotated[
        bool,
        typer.Option(
            "--assume-off", help="Do not ask its BMC: you have made sure that the node is off. Admins only."
        ),
    ] = False,
    assume_clean: Annotated[
        bool,
        typer.Option(
            "--assume-clean", help="Do not have its local disks wiped: you looked after them. Admins only."
        ),
    ] = False,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Make a node available again, whatever its record says: off, on no network, without exports.

    \b
    Example:
      bmi node reset n1 --assume-off
    """
    with connect() as bmi:
        request = Reset(remove_disk=remove_disk, assume_off=assume_off, assume_clean=assume_clean)
        finish(bmi, bmi.nodes.reset(node, request), wait=wait, json=json)


@app.command()
def clean(node: Name, wait: options.Wait = True, json: options.Json = False) -> None:
    """Wipe the local disks of a node that is available, by booting the image that the settings name.

    \b
    Example:
      bmi node clean n1
    """
    with connect() as bmi:
        finish(bmi, bmi.nodes.clean(node), wait=wait, json=json)


@app.command()
def power(
    node: Name,
    action: Annotated[
        Literal["on", "off", "cycle"] | None,
        typer.Argument(
            help="What to do; only shows whether it is on, if left out.", metavar="[on|off|cycle]"
        ),
    ] = None,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Show whether a node is on, or switch it.

    \b
    Example:
      bmi node power n1 cycle
    """
    with connect() as bmi:
        if action is not None:
            finish(bmi, bmi.nodes.set_power(node, PowerRequest(action=action)), wait=wait, json=json)
            return
        now = bmi.nodes.power(node)
    if json:
        output.as_json(now)
    else:
        output.line(now.state)


@app.command()
def events(
    node: Name, follow: timeline.Follow = False, last: timeline.Last = None, json: options.Json = False
) -> None:
    """Show a node's timeline, from power to running system.

    \b
    Example:
      bmi node events n1 --follow
    """
    with connect() as bmi:
        if follow:
            timeline.print_as_they_come(bmi.nodes.follow_events(node), json=json)
        else:
            timeline.print_all(bmi.nodes.events(node), last=last, json=json)


def public_keys(file: str) -> list[str]:
    """Return the public keys in a file."""
    text = options.content(str(Path(file).expanduser()))
    if "PRIVATE KEY" in text:
        raise typer.BadParameter(f"{file} is a private key; give the .pub file", param_hint="--ssh-key")
    keys = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not keys:
        raise typer.BadParameter(f"{file} has no public key", param_hint="--ssh-key")
    return keys


def _plugged(nic: NodeNic) -> str:
    """Say where a card's cable ends, and which address the card has."""
    where = f"{nic.mac} at {nic.switch}:{nic.port}"
    return f"{where}, {nic.address} on {nic.network}" if nic.address else where


for part in (node_inventory, node_discovered):
    app.add_typer(part.app)
