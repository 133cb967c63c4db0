"""A power distribution unit of the lab: Net-SNMP's agent, whose outlets are real virtual machines.

FOLDER/snmpd.conf, persist   what the agent is told: address, users, and the program that knows the outlets
FOLDER/outlets               that program; the agent talks with it over pipes (snmpd.conf(5), pass_persist)
FOLDER/nodes.json            which machine hangs on which outlet, counted from 1
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from pydantic import TypeAdapter

from bmi import processes
from bmi.errors import BmiError
from bmi.lab.node import NodeSpec, VirtualNode
from bmi.lab.simulator import await_listening

CONTROL = ".1.3.6.1.4.1.318.1.1.12.3.3.1.1.4"  # rPDUOutletControlOutletCommand of PowerNet-MIB
STATE = ".1.3.6.1.4.1.318.1.1.12.3.5.1.1.4"  # rPDUOutletStatusOutletState

_START = 20.0  # seconds; it listens after some milliseconds
_TREE = ".1.3.6.1.4.1.318.1.1.12.3"
_ON, _OFF = 1, 2

_CONF = """\
agentaddress udp:127.0.0.1:{port}
createUser {username} SHA "{password}" AES "{password}"
rwuser {username} authpriv
pass_persist {tree} {program}
"""
_PROGRAM = """\
#!{python}
from bmi.lab.pdu import outlets
outlets({folder!r})
"""
_NODES: TypeAdapter[list[tuple[NodeSpec, Path]]] = TypeAdapter(list[tuple[NodeSpec, Path]])


@dataclass(frozen=True)
class Pdu:
    """One unit.

    Args:
        nodes: What hangs on its outlets, in order, and the folder of each machine.
        folder: Everything of the unit; made when needed.
        port: UDP port on 127.0.0.1.
        username: Who may switch, with SNMP version 3.
        password: His password, of at least 8 characters.
    """

    nodes: Sequence[tuple[NodeSpec, Path]]
    folder: Path
    port: int
    username: str
    password: str

    @property
    def address(self) -> str:
        """Where it answers, as the driver `pdu` takes it."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, unless it runs.

        Raises:
            CommandFailed: It ended at once, or its port is taken.
        """
        if processes.recorded(self._record):
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.folder / "nodes.json").write_bytes(_NODES.dump_json(list(self.nodes)))
        program = self.folder / "outlets"
        program.write_text(_PROGRAM.format(python=sys.executable, folder=str(self.folder)))
        program.chmod(0o700)
        conf, persist = self.folder / "snmpd.conf", self.folder / "persist"
        persist.mkdir(mode=0o700, exist_ok=True)
        with os.fdopen(os.open(conf, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(
                _CONF.format(
                    port=self.port,
                    username=self.username,
                    password=self.password,
                    tree=_TREE,
                    program=program,
                )
            )
        agent: list[str | Path] = [
            "env",
            f"SNMP_PERSISTENT_DIR={persist}",
            "MIBS=",
            "snmpd",
            "-f",
            "-C",
            "-c",
            conf,
            "-Lo",
        ]
        process = processes.start([*agent, "-I", "-systemstats"], record=self._record, log=self._log)
        await_listening(process, "snmpd", self.port, self._log)

    def stop(self) -> None:
        """End it; the nodes go on."""
        if process := processes.recorded(self._record):
            process.stop(kill=True)

    @property
    def _record(self) -> Path:
        return self.folder / "snmpd.json"

    @property
    def _log(self) -> Path:
        return self.folder / "snmpd.log"


def outlets(folder: str, given: TextIO = sys.stdin, answers: TextIO = sys.stdout) -> None:
    """Answer the agent, line by line, until it closes the pipe (snmpd.conf(5), pass_persist)."""
    nodes = [
        VirtualNode(spec, machine)
        for spec, machine in _NODES.validate_python(json.loads((Path(folder) / "nodes.json").read_text()))
    ]

    def said() -> str:
        return given.readline().strip()

    while line := given.readline():
        match line.strip():
            case "":  # the agent ends an order to set something with one line more
                continue
            case "PING":
                answer = "PONG"
            case "get":
                answer = _get(nodes, said())
            case "set":
                answer = _set(nodes, said(), said())
            case _:  # walking is not needed
                said()
                answer = "NONE"
        print(answer, file=answers, flush=True)


def _get(nodes: Sequence[VirtualNode], oid: str) -> str:
    node = _node(nodes, oid)
    if node is None:
        return "NONE"
    return f"{oid}\ninteger\n{_ON if node.is_on() else _OFF}"


def _set(nodes: Sequence[VirtualNode], oid: str, value: str) -> str:
    node = _node(nodes, oid)
    if node is None or not oid.startswith(CONTROL):
        return "not-writable"
    switch = {f"integer {_ON}": node.power_on, f"integer {_OFF}": node.power_off}.get(value)
    if switch is None:
        return "wrong-value"
    try:
        switch()
    except BmiError:
        return "inconsistent-value"
    return "DONE"


def _node(nodes: Sequence[VirtualNode], oid: str) -> VirtualNode | None:
    tree, _, number = oid.rpartition(".")
    known = tree in (CONTROL, STATE) and number.isdigit() and 1 <= int(number) <= len(nodes)
    return nodes[int(number) - 1] if known else None
