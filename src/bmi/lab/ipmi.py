"""IPMI controllers of the lab: OpenIPMI's simulator (ipmi_sim), which switches real virtual machines.

FOLDER/lan.conf, sim.emu    what it is told: address, users, and the program that knows the chassis
FOLDER/chassis              that program; it is called with words such as `get power` and `set boot pxe`
FOLDER/boot                 which boot device was chosen, in IPMI's words
FOLDER/serial.port          where ipmi_sim gets the node's serial line from
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from bmi import processes
from bmi.drivers.power import BootDevice
from bmi.lab.node import NodeSpec, VirtualNode
from bmi.lab.simulator import await_listening
from bmi.wait import wait_until

_START = 20.0  # seconds; it listens after some milliseconds

_CONF = """\
name "{name}"
set_working_mc 0x20
  startlan 1
    addr 127.0.0.1 {port}
    priv_limit admin
    allowed_auths_callback none
    allowed_auths_user none
    allowed_auths_operator none
    allowed_auths_admin none
    guid {guid}
  endlan
  chassis_control "{program}"
  sol "tcp:127.0.0.1:{serial}" 115200
  user 1 false "" "" user 10 none
  user 2 true "{username}" "{password}" admin 10 none
"""
_EMU = """\
mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr
mc_enable 0x20
"""
_PROGRAM = """\
#!{python}
import sys
from bmi.lab.ipmi import chassis
chassis({folder!r}, sys.argv[1:])
"""
_SPEC = TypeAdapter(NodeSpec)


@dataclass(frozen=True)
class IpmiController:
    """The controller of one node.

    Args:
        spec: The node.
        machine: Folder of the node's machine.
        folder: Everything of the controller; made when needed.
        port: UDP port on 127.0.0.1.
        username: Who may ask.
        password: His password.
    """

    spec: NodeSpec
    machine: Path
    folder: Path
    port: int
    username: str
    password: str

    @property
    def address(self) -> str:
        """Where it answers, as the driver `ipmi` takes it."""
        return f"127.0.0.1:{self.port}"

    @property
    def node(self) -> VirtualNode:
        """Its node's machine."""
        return VirtualNode(self.spec, self.machine)

    def start(self) -> None:
        """Start it, unless it runs.

        Raises:
            CommandFailed: It ended at once, or its port is taken.
        """
        if processes.recorded(self._record):
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.folder / "spec.json").write_bytes(
            json.dumps(
                {"spec": json.loads(_SPEC.dump_json(self.spec)), "machine": str(self.machine)}
            ).encode()
        )
        serial = self._start_serial()
        program = self.folder / "chassis"
        program.write_text(_PROGRAM.format(python=sys.executable, folder=str(self.folder)))
        program.chmod(0o700)
        conf = self.folder / "lan.conf"
        with os.fdopen(os.open(conf, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(
                _CONF.format(
                    name=self.spec.name,
                    port=self.port,
                    guid=self.spec.id.hex,
                    program=program,
                    serial=serial,
                    username=self.username,
                    password=self.password,
                )
            )
        (self.folder / "sim.emu").write_text(_EMU)
        process = processes.start(
            ["ipmi_sim", "-c", conf, "-f", self.folder / "sim.emu", "-s", self.folder / "state", "-n"],
            record=self._record,
            log=self._log,
        )
        await_listening(process, "ipmi_sim", self.port, self._log)

    def stop(self) -> None:
        """End it; the node goes on."""
        for record in (self._record, self._serial_record):
            if process := processes.recorded(record):
                process.stop(kill=True)

    def _start_serial(self) -> int:
        """Start what gives ipmi_sim the node's serial line, unless it runs; returns its port."""
        port = self.folder / "serial.port"
        if not processes.recorded(self._serial_record):
            port.unlink(missing_ok=True)
            process = processes.start(
                [sys.executable, "-m", "bmi.lab.serial_process", self.folder],
                record=self._serial_record,
                log=self.folder / "serial.log",
            )
            process.on_exit(lambda: None)  # reaps it
        wait_until(
            port.exists,
            deadline=_START,
            what="the serial line to be served",
            next_step=f"look at {self.folder / 'serial.log'}",
        )
        return int(port.read_text())

    @property
    def _serial_record(self) -> Path:
        return self.folder / "serial.json"

    @property
    def _record(self) -> Path:
        return self.folder / "ipmi_sim.json"

    @property
    def _log(self) -> Path:
        return self.folder / "ipmi_sim.log"


def node_of(folder: Path) -> VirtualNode:
    """Return the node whose controller has a folder."""
    known = json.loads((folder / "spec.json").read_text())
    return VirtualNode(_SPEC.validate_python(known["spec"]), Path(known["machine"]))


def chassis(folder: str, words: Sequence[str]) -> None:
    """Do what ipmi_sim asks of a chassis: answer `get` with a line for each thing, carry out `set`."""
    home = Path(folder)
    node = node_of(home)
    verb, *rest = words
    if verb == "get":
        for thing in rest:
            print(f"{thing}:{_get(node, home, thing)}")  # noqa: T201 - that is how it is told
    elif verb == "set":
        for thing, value in zip(rest[::2], rest[1::2], strict=True):
            _set(node, home, thing, value)


def _get(node: VirtualNode, home: Path, thing: str) -> str:
    if thing == "power":
        return str(int(node.is_on()))
    boot = home / "boot"
    return boot.read_text() if boot.exists() else "none"


def _set(node: VirtualNode, home: Path, thing: str, value: str) -> None:
    match thing, value:
        case "power", "1":
            node.power_on()
        case "power", _:
            node.power_off()
        case "reset", _:
            node.reset()
        case "boot", "pxe":
            node.set_boot_device(BootDevice.NETWORK)
        case "boot", "default":
            node.set_boot_device(BootDevice.DISK)
        case "boot", _:
            node.forget_boot_device()
    if thing == "boot":
        (home / "boot").write_text(value)
