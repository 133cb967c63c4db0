"""`bmi node`: taking servers into the inventory, one or many, changing them, writing them down."""

import json as json_text
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar

import typer

from bmi.api.inventory import BmcChange, NodeBatch, NodeChange, NodesTaken
from bmi.api.nodes import BmcCreate, Nic, NodeCreate
from bmi.cli import apps, complete, options, output
from bmi.cli.failures import Failure
from bmi.cli.session import connect

if TYPE_CHECKING:
    from bmi.cli.node_file import NodeFile

T = TypeVar("T")

app = apps.single()

PASSWORD_VARIABLE = "BMI_BMC_PASSWORD"  # noqa: S105

Nics: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--nic",
        metavar="MAC=SWITCH:PORT",
        help="A network card and where its cable ends; repeat it for more, the first one boots.",
    ),
]
BmcOptions: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--bmc-option", metavar="KEY=VALUE", help="An option of the driver; repeat it for more."),
]
PasswordFile: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--bmc-password-file",
        metavar="FILE",
        help="File with its password, - for standard input.",
        show_default=PASSWORD_VARIABLE,
    ),
]
AskPassword: TypeAlias = Annotated[bool, typer.Option("--ask-password", help="Ask for its password.")]


@app.command()
def register(
    name: Annotated[
        str | None, typer.Argument(help="What to call it; left out with --from.", metavar="NAME")
    ] = None,
    bmc_address: Annotated[
        str | None, typer.Option(metavar="URL", help="Where its management controller is.")
    ] = None,
    nic: Nics = None,
    bmc_user: Annotated[str, typer.Option(metavar="USER", help="User of the management controller.")] = "",
    bmc_password_file: PasswordFile = None,
    ask_password: AskPassword = False,
    bmc_driver: Annotated[str, typer.Option(metavar="DRIVER", help="How to speak with it.")] = "redfish",
    bmc_option: BmcOptions = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Take all servers that stand in a YAML or CSV file; - for YAML to come.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="With --from: only say what is wrong, and what would become of them."),
    ] = False,
    update: Annotated[
        bool, typer.Option("--update", help="With --from: change those that are there and differ.")
    ] = False,
    keep_going: Annotated[
        bool,
        typer.Option("--keep-going", help="With --from: take those that are right though others are not."),
    ] = False,
    check_bmc: Annotated[
        bool, typer.Option("--check-bmc", help="With --from: refuse those whose controller does not answer.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Make a server known, or all those in a file.

    \b
    Example:
      bmi node register n1 --bmc-address https://10.0.0.11 --bmc-user admin \\
        --bmc-password-file pass.txt --nic 52:54:00:00:00:01=tor1:7
      bmi node register --from rack1.yaml --dry-run
    """
    if file is not None:
        if name or bmc_address or nic or bmc_user or bmc_option:
            raise typer.BadParameter("what servers are like stands in the file", param_hint="--from")
        request = NodeBatch.model_construct(
            dry_run=dry_run, update=update, keep_going=keep_going, check_bmc=check_bmc, nodes=[]
        )
        _register_file(file, request, lambda: password_from(bmc_password_file, ask=ask_password), json=json)
        return
    if dry_run or update or keep_going or check_bmc:
        raise typer.BadParameter("that goes with a file only", param_hint="--from")
    if not (name and bmc_address and nic):
        raise typer.BadParameter("give NAME, --bmc-address and --nic, or a file", param_hint="--from")
    request_one = NodeCreate(
        name=name,
        bmc=BmcCreate(
            driver=bmc_driver,
            address=bmc_address,
            username=bmc_user,
            password=password_from(bmc_password_file, ask=ask_password) or "",
            options=pairs(bmc_option),
        ),
        nics=nics(nic),
    )
    with connect() as bmi:
        made = bmi.nodes.register(request_one)
    if json:
        output.as_json(made)
    else:
        output.line(f"registered node {made.name} ({made.id})")


@app.command()
def update(
    node: Annotated[str, typer.Argument(help="Name or id.", metavar="NODE", autocompletion=complete.nodes)],
    name: Annotated[str | None, typer.Option(metavar="NAME", help="A new name.")] = None,
    bmc_address: Annotated[str | None, typer.Option(metavar="URL", help="Where its controller is.")] = None,
    bmc_user: Annotated[str | None, typer.Option(metavar="USER", help="User of the controller.")] = None,
    bmc_password_file: PasswordFile = None,
    ask_password: AskPassword = False,
    bmc_driver: Annotated[str | None, typer.Option(metavar="DRIVER", help="How to speak with it.")] = None,
    bmc_option: BmcOptions = None,
    nic: Nics = None,
    json: options.Json = False,
) -> None:
    """Change what is known of a server; its network cards, all of them, only while nobody uses it.

    \b
    Example:
      bmi node update n1 --bmc-address https://10.0.0.21 --ask-password
      bmi node update n1 --nic 52:54:00:00:00:01=tor1:8
    """
    password = None
    if bmc_password_file is not None or ask_password or PASSWORD_VARIABLE in os.environ:
        password = password_from(bmc_password_file, ask=ask_password)
    bmc = {
        "driver": bmc_driver,
        "address": bmc_address,
        "username": bmc_user,
        "password": password,
        "options": pairs(bmc_option) if bmc_option else None,
    }
    values: dict[str, Any] = {"name": name, "nics": nics(nic) if nic else None}
    given = {key: value for key, value in values.items() if value is not None}
    if changed := {key: value for key, value in bmc.items() if value is not None}:
        given["bmc"] = BmcChange.model_validate(changed)
    if not given:
        raise typer.BadParameter("say what is to change", param_hint="--name")
    with connect() as bmi:
        made = bmi.nodes.update(node, NodeChange.model_validate(given))
    if json:
        output.as_json(made)
    else:
        output.line(f"changed node {made.name}")


@app.command()
def export(
    format: Annotated[Literal["yaml", "csv"], typer.Option(help="How to write them.")] = "yaml",
) -> None:
    """Write all servers as a file that `bmi node register --from` takes, without passwords.

    \b
    Example:
      bmi node export > nodes.yaml
    """
    from bmi.cli import node_file

    with connect() as bmi:
        found = list(bmi.nodes.list())
    output.text(node_file.as_yaml(found) if format == "yaml" else node_file.as_csv(found))


def nics(texts: Sequence[str]) -> list[Nic]:
    """Return the network cards that options stand for."""
    from bmi.cli.node_file import nic

    return [_parsed(nic, text, "--nic") for text in texts]


def pairs(texts: Sequence[str] | None) -> dict[str, str]:
    """Return the options of a driver."""
    from bmi.cli.node_file import pair

    return dict(_parsed(pair, text, "--bmc-option") for text in texts or [])


def password_from(file: str | None, *, ask: bool) -> str | None:
    """Return a controller's password from a file, from a person, or from the environment; None from nowhere."""
    if file is not None:
        return options.secret(file)
    if ask:
        return str(typer.prompt("Password of the management controller", hide_input=True))
    return os.environ.get(PASSWORD_VARIABLE)


def _parsed(parse: Callable[[str], T], text: str, option: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


# --- files -------------------------------------------------------------------------------------------------


def _register_file(file: str, request: NodeBatch, password: Callable[[], str | None], *, json: bool) -> None:
    from bmi.cli import node_file

    found = node_file.read(file)
    if any(entry.bmc.password for entry in found.entries) and node_file.readable_by_others(file):
        output.note(f"{file} has passwords, and others can read it: chmod 600 {file}")
    if found.lacks_passwords() and (common := password()) is not None:
        for entry in found.entries:
            if entry.bmc.password is None:
                entry.bmc = entry.bmc.model_validate({**entry.bmc.model_dump(), "password": common})
    broken = bool(found.faults) and not request.keep_going
    answer = NodesTaken(applied=False, verdicts=[])
    if found.entries:
        # All that is wrong is told at once, also what only the service can see.
        asked = request.model_copy(update={"nodes": found.entries, "dry_run": request.dry_run or broken})
        with connect() as bmi:
            answer = bmi.nodes.take_in(NodeBatch.model_validate(asked.model_dump()))
    faults = _faults(found, answer)
    if json:
        _print_json(found, answer, faults)
    else:
        _print(file, found, answer, faults, dry_run=request.dry_run)
    if faults:
        whole = "the other nodes were taken" if answer.applied else "nothing was registered"
        raise Failure(
            f"{len(faults)} faults in {file}: {whole}", next_step="correct them, and run the command again"
        )


def _faults(found: "NodeFile", answer: NodesTaken) -> list[tuple[int, str]]:
    faults = [(fault.number, fault.text) for fault in found.faults]
    for line, verdict in zip(found.lines, answer.verdicts, strict=False):
        for fault in verdict.faults:
            also = f" (line {found.lines[fault.other]})" if fault.other is not None else ""
            faults.append((line, f"node {verdict.name}: {fault.message}{also}; {fault.next_step}"))
    return sorted(faults)


def _print(
    file: str, found: "NodeFile", answer: NodesTaken, faults: Sequence[tuple[int, str]], *, dry_run: bool
) -> None:
    for line, text in faults:
        output.line(output.clean(f"{file}:{line}: {text}"))
    outcomes = [verdict.outcome for verdict in answer.verdicts]
    if answer.applied or dry_run:
        for line, verdict in zip(found.lines, answer.verdicts, strict=True):
            if verdict.outcome in ("new", "changed"):
                what = f": {', '.join(verdict.changes)}" if verdict.changes else ""
                output.line(output.clean(f"{file}:{line}: node {verdict.name} {verdict.outcome}{what}"))
    counted = [(word, outcomes.count(word)) for word in ("new", "changed", "unchanged", "refused")]
    told = ", ".join(f"{count} {word}" for word, count in counted if count)
    output.line(f"{told or 'no nodes'}{'' if answer.applied else '; nothing was written'}")


def _print_json(found: "NodeFile", answer: NodesTaken, faults: Sequence[tuple[int, str]]) -> None:
    verdicts = [
        {"line": line, **verdict.model_dump(mode="json")}
        for line, verdict in zip(found.lines, answer.verdicts, strict=False)
    ]
    told = [{"line": line, "fault": text} for line, text in faults]
    output.line(json_text.dumps({"applied": answer.applied, "nodes": verdicts, "faults": told}, indent=2))
