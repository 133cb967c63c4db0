"""The management controllers of the lab's nodes, from outside: one process, a port per node, real Redfish.

Like a real controller it can restart while the nodes go on: ending it leaves every QEMU as it is. Who takes the
lab down ends the controllers first and then switches the nodes off with `Config.nodes`.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from pydantic import TypeAdapter

from bmi.drivers import Outcome
from bmi.drivers.power import Bmc
from bmi.drivers.power.ssh_console import HOST_KEY, fingerprint
from bmi.errors import CommandFailed
from bmi.lab.node import NodeSpec, VirtualNode
from bmi.lab.ssh_console import host_key
from bmi.processes import Process, recorded, start
from bmi.wait import wait_until

SYSTEMS = "/redfish/v1/Systems"

_START_DEADLINE = 30.0  # seconds until every port answers; 1 s on an idle host
_LOG_KEPT = 2000  # bytes of the process's output that are worth a reader's time


@dataclass(frozen=True)
class Endpoint:
    """Where one node's controller is reached."""

    node: NodeSpec
    port: int
    """TCP port; 0 takes any that is free."""
    username: str
    password: str = field(repr=False)
    host: str = "127.0.0.1"
    console_port: int = 0
    """TCP port of the console over SSH; 0 takes any that is free."""


@dataclass(frozen=True)
class Config:
    """What the process serves."""

    folder: Path
    """Holds a folder per node, named after it."""
    endpoints: tuple[Endpoint, ...]

    def nodes(self) -> list[VirtualNode]:
        """Return the nodes, to switch them off without their controllers or to read their consoles."""
        return [VirtualNode(endpoint.node, self.folder / endpoint.node.name) for endpoint in self.endpoints]


_CONFIG = TypeAdapter(Config)


def read_config(path: Path) -> Config:
    """Read a configuration file that `Controllers` wrote."""
    return _CONFIG.validate_json(path.read_bytes())


def ready_file(config: Path) -> Path:
    """Name the file that says which ports are served, once they are."""
    return config.with_suffix(".ready")


def host_key_file(config: Config, node: NodeSpec) -> Path:
    """Name the file of the host key of a node's console."""
    return config.folder / f"{node.name}.console-key"


def system_path(id: UUID) -> str:
    """Return the path of a node's system resource."""
    return f"{SYSTEMS}/{id}"


class Controllers:
    """The process that serves the controllers, from outside.

    Args:
        config: What it serves.
        folder: Folder for its configuration, record and log; made when needed.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        self.config = config
        self._folder = folder.absolute()

    @property
    def log(self) -> Path:
        """What the controllers were asked to change, and what they refused."""
        return self._folder / "bmc.log"

    @property
    def process(self) -> Process | None:
        """The process, if it runs."""
        return recorded(self._record)

    def start(self) -> Outcome:
        """Start the process and wait until every controller answers.

        One that runs with another configuration is replaced.

        Raises:
            CommandFailed: It ended at once; the message has its last words, such as a port that is taken.
        """
        wanted = _CONFIG.dump_json(self.config, indent=1)
        if self.process and self._ready.exists() and self._path.read_bytes() == wanted:
            return Outcome.ALREADY
        self.stop()
        self._folder.mkdir(parents=True, exist_ok=True)
        _write_secret(self._path, wanted)
        self._ready.unlink(missing_ok=True)
        said = self.log.stat().st_size if self.log.exists() else 0
        process = start(
            [sys.executable, "-m", "bmi.lab.bmc_process", self._path], record=self._record, log=self.log
        )
        process.on_exit(lambda: None)  # reaps it, when it ends while this process lives
        wait_until(
            lambda: self._ready.exists() or not process.alive(),
            deadline=_START_DEADLINE,
            what="the lab's BMCs to answer",
            next_step=f"look at the host's load and at {self.log}",
        )
        if not process.alive():
            raise CommandFailed(
                f"the lab's BMCs ended at once: {self._last_words(said)}",
                next_step="mend what they complain about and start them again",
            )
        return Outcome.DONE

    def stop(self) -> Outcome:
        """End the process. The nodes go on."""
        process = self.process
        if process is None:
            return Outcome.ALREADY
        process.stop()
        return Outcome.DONE

    def bmcs(self) -> Mapping[str, Bmc]:
        """Say how to reach the controllers, by the name of their node. The process runs."""
        ports = json.loads(self._ready.read_text())["redfish"]
        return {
            endpoint.node.name: Bmc(
                address=f"http://{endpoint.host}:{ports[endpoint.node.name]}",
                username=endpoint.username,
                password=endpoint.password,
                options={
                    "system": system_path(endpoint.node.id),
                    HOST_KEY: fingerprint(host_key(host_key_file(self.config, endpoint.node))),
                },
            )
            for endpoint in self.config.endpoints
        }

    @property
    def _path(self) -> Path:
        return self._folder / "bmc.json"

    @property
    def _ready(self) -> Path:
        return ready_file(self._path)

    @property
    def _record(self) -> Path:
        return self._folder / "bmc.process.json"

    def _last_words(self, since: int) -> str:
        with self.log.open("rb") as log:
            log.seek(since)
            words = log.read().decode(errors="replace").strip()
        return words[-_LOG_KEPT:] or "they said nothing"


def _write_secret(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, in one step."""
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    part.touch(mode=0o600, exist_ok=False)
    part.write_bytes(content)
    part.rename(path)
