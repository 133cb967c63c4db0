"""`bmi node discovered` and `bmi node enrol`: machines that nobody has registered yet."""

from typing import Annotated

import typer

from bmi.api.discovery import Enrol, EnrolBmc
from bmi.cli import apps, options, output
from bmi.cli.hardware import summary
from bmi.cli.node_inventory import AskPassword, BmcOptions, Nics, PasswordFile, nics, pairs, password_from
from bmi.cli.session import connect

app = apps.single()
found = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=apps.SETTINGS)
app.add_typer(found, name="discovered")

Machine = Annotated[
    str, typer.Argument(help="Id, or the MAC address that it booted from.", metavar="MACHINE")
]


@found.callback(
    invoke_without_command=True, help="List the machines that booted on the discovery network, or show one."
)
def list_(context: typer.Context, json: options.Json = False) -> None:
    """List the machines where no verb is given."""
    if context.invoked_subcommand is not None:
        return
    with connect() as bmi:
        machines = list(bmi.discovered.list())
    if json:
        output.as_json(machines)
        return
    output.table(
        ("ID", "MAC", "SYSTEM", "CPUS", "MEMORY", "DISKS", "HEARS", "NODE", "SEEN"),
        [
            (
                one.id,
                one.mac,
                " ".join(filter(None, (one.hardware.vendor, one.hardware.product))),
                one.hardware.cpus,
                output.size(one.hardware.memory),
                len(one.hardware.disks),
                ", ".join(
                    f"{heard.switch or heard.chassis} {heard.port}"
                    for card in one.hardware.cards
                    for heard in card.neighbours
                ),
                one.node,
                f"{output.age(one.seen_at)} ago",
            )
            for one in machines
        ],
        empty="no machine was discovered; they have to boot on the discovery network",
    )


@found.command()
def show(machine: Machine, json: options.Json = False) -> None:
    """Show what a machine consists of, and where its cables end."""
    with connect() as bmi:
        one = bmi.discovered.get(machine)
    if json:
        output.as_json(one)
        return
    output.fields(
        (
            ("id", one.id),
            ("mac", one.mac),
            ("address", one.address),
            ("node", one.node),
            ("plugged in", "\n".join(f"{nic.mac} at {nic.switch}:{nic.port}" for nic in one.places) or None),
            *summary(one.hardware),
            ("bmc", one.hardware.bmc_address),
            ("reports", one.reports),
            ("seen", one.seen_at),
            ("first seen", one.created_at),
        )
    )


@found.command()
def forget(machine: Machine) -> None:
    """Forget a machine, until it reports again."""
    with connect() as bmi:
        bmi.discovered.forget(machine)
    output.line(f"forgot machine {machine}")


@app.command()
def enrol(
    machine: Machine,
    name: Annotated[str, typer.Option(metavar="NAME", help="What to call it.")],
    bmc_address: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Where its management controller is.", show_default="what the machine told"
        ),
    ] = None,
    bmc_user: Annotated[str, typer.Option(metavar="USER", help="User of the management controller.")] = "",
    bmc_password_file: PasswordFile = None,
    ask_password: AskPassword = False,
    bmc_driver: Annotated[str, typer.Option(metavar="DRIVER", help="How to speak with it.")] = "redfish",
    bmc_option: BmcOptions = None,
    nic: Nics = None,
    json: options.Json = False,
) -> None:
    """Make a node of a machine that was discovered; its cards are where it heard them to be, or where you say.

    \b
    Example:
      bmi node enrol 52:54:00:00:00:05 --name n5 --bmc-address https://10.0.0.15 --bmc-user admin --ask-password
    """
    request = Enrol(
        name=name,
        bmc=EnrolBmc.model_validate(
            {
                "driver": bmc_driver,
                "username": bmc_user,
                "password": password_from(bmc_password_file, ask=ask_password) or "",
                "options": pairs(bmc_option),
                **({"address": bmc_address} if bmc_address else {}),
            }
        ),
        nics=nics(nic) if nic else None,
    )
    with connect() as bmi:
        made = bmi.discovered.enrol(machine, request)
    if json:
        output.as_json(made)
    else:
        where = ", ".join(f"{one.mac} at {one.switch}:{one.port}" for one in made.nics)
        output.line(f"enrolled node {made.name} ({made.id}): {where}")
