"""`bmi node`: physical servers."""

from ipaddress import IPv4Address
from pathlib import Path
from re import ASCII, fullmatch
from typing import Annotated, Literal

import typer

from bmi.api.nodes import (
    Attach,
    Attachment,
    Deprovision,
    Detach,
    Difference,
    Milestone,
    Node,
    NodeState,
    PowerRequest,
    PowerSaid,
    Provision,
    Reset,
)
from bmi.cli import apps, complete, node_discovered, node_inventory, options, output, timeline
from bmi.cli.console import console
from bmi.cli.hardware import summary
from bmi.cli.progress import finish
from bmi.cli.session import connect

app = apps.noun("Physical servers.")

app.command()(console)

Name = Annotated[str, typer.Argument(help="Name or id.", metavar="NODE", autocompletion=complete.nodes)]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Its address; needed where another server gives addresses.",
        show_default="a free one",
    ),
]
Network = Annotated[
    str,
    typer.Argument(
        help="Name or id; PROJECT:NAME of another project's.",
        metavar="NETWORK",
        autocompletion=complete.networks,
    ),
]


@app.command("import")
def import_(
    project: Annotated[
        list[str] | None,
        typer.Option(
            "--project",
            "-p",
            metavar="PROJECT",
            help="Only the nodes of this project; repeat it for more.",
            show_default="all projects",
            autocompletion=complete.projects,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    json: options.Json = False,
) -> None:
    """Take over the nodes that the site's inventory (HIL) gives to projects.

    New ones are registered, changed ones brought up to date, none is removed. It can be repeated at any time. The
    exit status is 1 if a node could not be taken over.

    \b
    Example:
      bmi node import --project blue --dry-run
    """
    with connect() as bmi:
        names = project or [found.name for found in bmi.projects.list()]
        found = [one for name in names for one in bmi.nodes.import_(name, dry_run=dry_run)]
    if json:
        output.as_json(found)
    else:
        output.table(
            ("NODE", "PROJECT", "WHAT", "DETAIL"),
            [(one.node, one.project, one.difference, one.detail) for one in found],
            empty="the site's inventory gives no nodes to these projects",
        )
    if any(one.difference is Difference.REFUSED for one in found):
        raise typer.Exit(1)


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
            ("lease", found.lease),
            ("project", found.project and found.project + (", allocated" if found.allocated else "")),
            ("image", found.image),
            ("disk", found.disk),
            ("network", found.network),
            ("address", found.address),
            ("networks", "\n".join(_attachment(found, there) for there in found.attachments) or None),
            ("disk from", found.portal and f"{found.portal}, gateway {found.gateway}"),
            ("operation", found.operation),
            ("console", f"recorded: bmi node console {found.name} --log" if found.console else None),
            (
                "nics",
                "\n".join(
                    f"{number}: {nic.mac} at {nic.switch}:{nic.port}"
                    for number, nic in enumerate(found.nics, 1)
                ),
            ),
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
    address: Address = None,
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
    nic: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NIC[=NETWORK]",
            help="The card to boot over, by number or MAC; or a card, and a network to attach it to; repeat it.",
            show_default="the first card",
        ),
    ] = None,
    tagged: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NIC=]NETWORK",
            help="A network to attach with a VLAN tag, to the card that it boots over or another one; repeat it.",
            autocompletion=complete.networks,
        ),
    ] = None,
    project: options.ProjectName = None,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Boot a node from a clone of an image, or from a disk.

    \b
    Examples:
      bmi node provision n1 --image debian --network lan --ssh-key ~/.ssh/id_ed25519.pub
      bmi node provision n1 --image debian --network lan --tagged storage --nic 2=data
    """
    if (image is None) == (disk is None):
        raise typer.BadParameter("give either --image or --disk", param_hint="--image")
    boot_nic, attachments = _attachments(nic or [], tagged or [])
    request = Provision(
        nic=boot_nic,
        attachments=attachments,
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
    """Take what a node boots away; one that is not allocated is free then. Its disk goes too, unless it is kept."""
    with connect() as bmi:
        started = bmi.nodes.deprovision(node, Deprovision(keep_disk=keep_disk))
        finish(bmi, started, wait=wait, json=json)


@app.command()
def allocate(node: Name, project: options.ProjectName = None, json: options.Json = False) -> None:
    """Let a free node belong to a project, without booting it. Only that project may boot it then.

    \b
    Example:
      bmi node allocate n1 --project blue
    """
    with connect(project) as bmi:
        found = bmi.nodes.allocate(node)
    if json:
        output.as_json(found)
    else:
        output.line(f"node {found.name} belongs to project {found.project}")


@app.command()
def release(node: Name, wait: options.Wait = True, json: options.Json = False) -> None:
    """Give a node back that was allocated, clean: off, on no network, its BMC's boot settings reset.

    \b
    Example:
      bmi node release n1
    """
    with connect() as bmi:
        finish(bmi, bmi.nodes.release(node), wait=wait, json=json)


@app.command()
def attach(
    node: Name,
    network: Network,
    tagged: Annotated[bool, typer.Option("--tagged", help="With a VLAN tag.")] = False,
    nic: Annotated[
        str | None,
        typer.Option(
            metavar="NIC", help="The card, by number or MAC.", show_default="the one that it boots over"
        ),
    ] = None,
    address: Address = None,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Put a node that runs on a network beside the one that it boots on.

    \b
    Example:
      bmi node attach n1 storage --tagged
    """
    with connect() as bmi:
        request = Attach(
            network=network,
            nic=None if nic is None else _card(nic),
            tagged=tagged,
            address=None if address is None else IPv4Address(options.address(address)),
        )
        finish(bmi, bmi.nodes.attach(node, request), wait=wait, json=json)


@app.command()
def detach(node: Name, network: Network, wait: options.Wait = True, json: options.Json = False) -> None:
    """Take a node off a network that it does not boot on.

    \b
    Example:
      bmi node detach n1 storage
    """
    with connect() as bmi:
        finish(bmi, bmi.nodes.detach(node, Detach(network=network)), wait=wait, json=json)


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
    release: Annotated[
        bool, typer.Option("--release", help="Give it back, also if it is allocated to a project.")
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
        request = Reset(
            remove_disk=remove_disk, assume_off=assume_off, assume_clean=assume_clean, release=release
        )
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
        Literal["on", "off", "cycle", "is-on", "is-off"] | None,
        typer.Argument(
            help="What to do; only shows whether it is on, if left out. With is-on and is-off you say that you "
            "have switched a node by hand, which has no management controller.",
            metavar="[on|off|cycle|is-on|is-off]",
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
        if action in ("is-on", "is-off"):
            now = bmi.nodes.say_power(node, PowerSaid(state="on" if action == "is-on" else "off"))
        elif action is not None:
            finish(bmi, bmi.nodes.set_power(node, PowerRequest(action=action)), wait=wait, json=json)
            return
        else:
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


def _attachment(node: Node, there: Attachment) -> str:
    """Return a line about a network that a node is on."""
    whose = "" if there.network_project == node.project else f"{there.network_project}:"
    how = "tagged" if there.tagged else "untagged"
    more = ", boots over it" if there.boot else ""
    return (
        f"{whose}{there.network}: {there.address}, VLAN {there.vlan} {how} on card {there.nic}{more}"
        f"{'' if there.ready else ', about to change'}"
    )


def _card(text: str) -> str:
    """Return the number or the MAC of a card."""
    found = text.strip().lower().replace("-", ":")
    if not fullmatch(r"[1-9][0-9]?|([0-9a-f]{2}:){5}[0-9a-f]{2}", found, ASCII):
        raise typer.BadParameter(f"{text!r} is neither the number of a card nor a MAC", param_hint="--nic")
    return found


def _attachments(nics: list[str], tagged: list[str]) -> tuple[str | None, list[Attach]]:
    """Return the card to boot over, if one is named, and the networks beside the one to boot on."""
    boot, found = None, []
    for text in nics:
        card, equals, network = text.partition("=")
        if equals:
            found.append(Attach(network=network, nic=_card(card)))
        elif boot is None:
            boot = _card(card)
        else:
            raise typer.BadParameter(
                "a node boots over one card; name the network of another one: NIC=NETWORK", param_hint="--nic"
            )
    for text in tagged:
        card, equals, network = text.rpartition("=")
        found.append(Attach(network=network, nic=_card(card) if equals else None, tagged=True))
    return boot, found


def public_keys(file: str) -> list[str]:
    """Return the public keys in a file."""
    text = options.content(str(Path(file).expanduser()))
    if "PRIVATE KEY" in text:
        raise typer.BadParameter(f"{file} is a private key; give the .pub file", param_hint="--ssh-key")
    keys = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not keys:
        raise typer.BadParameter(f"{file} has no public key", param_hint="--ssh-key")
    return keys


for part in (node_inventory, node_discovered):
    app.add_typer(part.app)
