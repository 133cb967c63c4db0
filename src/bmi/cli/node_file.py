"""Files of nodes, in YAML or CSV: read with the line of everything, so that a fault can be found; and written."""

import csv
import io
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
import yaml
from pydantic import ValidationError

from bmi.api.inventory import NODES_AT_MOST, NodeEntry
from bmi.api.nodes import Nic, Node
from bmi.cli import options

COLUMNS = ("name", "bmc_driver", "bmc_address", "bmc_username", "bmc_password", "bmc_options", "nics")
"""Of a CSV file. Several network cards, and several options, stand in one field, with blanks between."""

_LARGEST = 8 << 20  # bytes
_DEEPEST = 8  # levels of a YAML file
_OTHERS = stat.S_IRGRP | stat.S_IROTH


@dataclass(frozen=True)
class Line:
    """A fault of a file, and where."""

    number: int
    text: str


@dataclass
class NodeFile:
    """What a file says."""

    entries: list[NodeEntry] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    """Of each entry."""
    faults: list[Line] = field(default_factory=list)

    def lacks_passwords(self) -> bool:
        """Say whether there are nodes without one."""
        return any(entry.bmc.password is None for entry in self.entries)


def nic(text: str) -> Nic:
    """Return the network card that MAC=SWITCH:PORT stands for.

    Raises:
        ValueError: It is none.
    """
    mac, equals, end = text.partition("=")
    switch, colon, port = end.partition(":")
    if not (equals and colon and switch and port):
        raise ValueError(f"{text!r} is not MAC=SWITCH:PORT")
    try:
        return Nic(mac=mac.strip().lower().replace("-", ":"), switch=switch, port=port)
    except ValidationError as error:
        raise ValueError(f"{mac!r} is no MAC address") from error


def pair(text: str) -> tuple[str, str]:
    """Return the key and the value of KEY=VALUE.

    Raises:
        ValueError: It is none.
    """
    key, equals, value = text.partition("=")
    if not (equals and key):
        raise ValueError(f"{text!r} is not KEY=VALUE")
    return key, value


def read(file: str) -> NodeFile:
    """Read a file, - for YAML on the standard input.

    Raises:
        BadParameter: It cannot be read at all.
    """
    text = options.content(file)
    if len(text) > _LARGEST:
        raise typer.BadParameter(f"{file} has more than {_LARGEST >> 20} MiB", param_hint="--from")
    found = NodeFile()
    rows = _csv_rows(text, found) if file.lower().endswith(".csv") else _yaml_rows(text, found)
    for number, fields, lines in rows:
        _take(found, number, fields, lines)
    if not found.entries and not found.faults:
        found.faults.append(Line(1, "there are no nodes in it"))
    if len(found.entries) > NODES_AT_MOST:
        raise typer.BadParameter(
            f"{file} has {len(found.entries)} nodes; take {NODES_AT_MOST} at a time", param_hint="--from"
        )
    return found


def readable_by_others(file: str) -> bool:
    """Say whether other users of this machine can read a file, and what passwords are in it."""
    return file != "-" and bool(Path(file).stat().st_mode & _OTHERS)


def as_yaml(nodes: Sequence[Node]) -> str:
    """Return nodes as a file that `read` takes, without passwords."""
    rows = [
        {
            "name": node.name,
            "bmc": {name: value for name, value in _bmc(node).items() if value},
            "nics": [_nic_text(card) for card in node.nics],
        }
        for node in nodes
    ]
    return yaml.safe_dump({"nodes": rows}, sort_keys=False, allow_unicode=True, width=1000)


def as_csv(nodes: Sequence[Node]) -> str:
    """Return the same as comma-separated values.

    Raises:
        BadParameter: A node cannot be written down so.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for node in nodes:
        bmc = _bmc(node)
        several = [_nic_text(card) for card in node.nics], [f"{k}={v}" for k, v in bmc["options"].items()]
        if any(len(word.split()) != 1 for words in several for word in words):
            raise typer.BadParameter(
                f"node {node.name} has a blank in a name: use YAML", param_hint="--format"
            )
        nics, extras = (" ".join(words) for words in several)
        row = {f"bmc_{name}": bmc[name] for name in ("driver", "address", "username")}
        writer.writerow({"name": node.name, **row, "bmc_options": extras, "nics": nics})
    return out.getvalue()


def _bmc(node: Node) -> dict[str, Any]:
    if node.bmc is None:
        raise typer.BadParameter("only admins see how management controllers are reached")
    return node.bmc.model_dump(include={"driver", "address", "username", "options"})


def _nic_text(card: Nic) -> str:
    return f"{card.mac}={card.switch}:{card.port}"


_Row = tuple[int, dict[str, Any], Mapping[str, int]]
"""The line where a node begins, what stands there, and the lines of its parts."""


def _take(found: NodeFile, number: int, fields: dict[str, Any], lines: Mapping[str, int]) -> None:
    """Make an entry of what stands in the file, or say what is wrong with it."""
    nics, faults = [], []
    texts = fields.get("nics") or []
    for text in texts if isinstance(texts, list) else [texts]:
        try:
            nics.append(nic(text) if isinstance(text, str) else text)
        except ValueError as error:
            faults.append(Line(lines.get("nics", number), str(error)))
    try:
        entry = NodeEntry.model_validate({**fields, "nics": nics})
    except ValidationError as error:
        for one in error.errors(include_input=False, include_url=False):
            where = [str(part) for part in one["loc"]]
            if where[:1] == ["nics"] and faults:
                continue  # said already
            name = ".".join(where)
            faults.append(
                Line(lines.get(name, lines.get(name.split(".")[0], number)), f"{name}: {one['msg']}")
            )
    if faults:
        found.faults += faults
        return
    found.entries.append(entry)
    found.lines.append(number)


# --- CSV ---------------------------------------------------------------------------------------------------


def _csv_rows(text: str, found: NodeFile) -> Iterator[_Row]:
    reader = csv.DictReader(io.StringIO(text), strict=True)
    try:
        heading = reader.fieldnames or []
        if strange := [name for name in heading if name not in COLUMNS]:
            found.faults.append(
                Line(1, f"there is no column {strange[0]!r}; there are: {', '.join(COLUMNS)}")
            )
            return
        for row in reader:
            if None in row or None in row.values():
                found.faults.append(
                    Line(reader.line_num, f"it has not {len(heading)} fields, as the heading")
                )
                continue
            yield from _csv_row(row, reader.line_num, found)
    except csv.Error as error:
        found.faults.append(Line(reader.reader.line_num, f"this is no CSV: {error}"))


def _csv_row(row: Mapping[str, str], number: int, found: NodeFile) -> Iterator[_Row]:
    bmc: dict[str, Any] = {
        name.removeprefix("bmc_"): value.strip()
        for name, value in row.items()
        if name in COLUMNS[1:4] and value.strip()
    }
    if password := row.get("bmc_password"):
        bmc["password"] = password
    try:
        bmc["options"] = dict(pair(text) for text in row.get("bmc_options", "").split())
    except ValueError as error:
        found.faults.append(Line(number, f"bmc_options: {error}"))
        return
    yield number, {"name": row.get("name", "").strip(), "bmc": bmc, "nics": row.get("nics", "").split()}, {}


# --- YAML --------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Takes no aliases: a few of them within each other make a file of any size, or one without an end."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                problem="aliases are not taken",
                problem_mark=self.peek_event().start_mark,  # type: ignore[no-untyped-call]
            )
        return super().compose_node(parent, index)


def _yaml_rows(text: str, found: NodeFile) -> Iterator[_Row]:
    """Go through a file {defaults: {bmc: ...}, nodes: [...]}. Whatever is a word there is a text: 007, on, 1e3."""
    try:
        top = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        found.faults.append(Line(mark.line + 1 if mark else 1, f"this is no YAML: {error.problem}"))
        return
    except (yaml.YAMLError, RecursionError) as error:
        found.faults.append(Line(1, f"this is no YAML: {error}"))
        return
    parts = _parts(top, found)
    if strange := [key for key in parts if key not in ("defaults", "nodes")]:
        line = parts[strange[0]].start_mark.line + 1
        found.faults.append(Line(line, f"{strange[0]!r} does not belong there; `defaults` and `nodes` do"))
    defaults = _plain(parts.get("defaults"), found)
    if not isinstance(defaults or {}, dict) or set(defaults or {}) - {"bmc"}:
        found.faults.append(Line(parts["defaults"].start_mark.line + 1, "defaults can have `bmc` only"))
        return
    nodes = parts.get("nodes")
    if not isinstance(nodes, yaml.SequenceNode):
        found.faults.append(Line(1, "it has to begin with `nodes:`, and a list of them"))
        return
    for item in nodes.value:
        number = item.start_mark.line + 1
        fields = _plain(item, found)
        if not isinstance(fields, dict):
            found.faults.append(Line(number, "a node has `name`, `bmc` and `nics`"))
            continue
        bmc = fields.get("bmc") or {}
        if isinstance(bmc, dict):
            fields["bmc"] = {**((defaults or {}).get("bmc") or {}), **bmc}
        yield number, fields, _lines(item)


def _parts(node: yaml.Node | None, found: NodeFile) -> dict[str, yaml.Node]:
    """Return the parts of a mapping; none of them twice."""
    parts: dict[str, yaml.Node] = {}
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        name = key.value if isinstance(key, yaml.ScalarNode) else ""
        if name in parts or not name:
            found.faults.append(
                Line(key.start_mark.line + 1, f"{name!r} stands there twice" if name else "no name")
            )
        parts[name] = value
    return parts


def _plain(node: yaml.Node | None, found: NodeFile, depth: int = 0) -> Any:
    """Return what a part of the file says, in mappings, lists and texts; empty is None."""
    if depth > _DEEPEST:
        return None
    if isinstance(node, yaml.MappingNode):
        return {name: _plain(value, found, depth + 1) for name, value in _parts(node, found).items()}
    if isinstance(node, yaml.SequenceNode):
        return [_plain(value, found, depth + 1) for value in node.value]
    if isinstance(node, yaml.ScalarNode):
        return None if node.tag == "tag:yaml.org,2002:null" else node.value
    return None


def _lines(node: yaml.Node, name: str = "") -> dict[str, int]:
    """Return the line of each part of a node, as in "bmc.address" or "nics.0"."""
    if isinstance(node, yaml.MappingNode):
        pairs = [(key.value, key.start_mark.line + 1, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        pairs = [(str(place), value.start_mark.line + 1, value) for place, value in enumerate(node.value)]
    else:
        return {}
    lines: dict[str, int] = {}
    for key, line, value in pairs:
        lines[f"{name}{key}"] = line
        lines |= _lines(value, f"{name}{key}.")
    return lines
