"""The management controllers of the lab's nodes: one process, a port per node, real Redfish.

It is run as `python -m bmi.lab.bmc CONFIG.json`. Like a real controller it can restart while the nodes go on:
ending it leaves every QEMU as it is. Who takes the lab down switches the nodes off first, or by `VirtualNode`.
"""

import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from bmi.drivers import Outcome
from bmi.drivers.power import Bmc
from bmi.errors import BmiError, CommandFailed, PortTaken
from bmi.lab.node import NodeSpec, VirtualNode
from bmi.lab.redfish import Controller, application, system_path
from bmi.processes import Process, recorded, start
from bmi.wait import wait_until

logger = logging.getLogger(__name__)

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
            [sys.executable, "-m", "bmi.lab.bmc", self._path], record=self._record, log=self.log
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
        ports = json.loads(self._ready.read_text())
        return {
            endpoint.node.name: Bmc(
                address=f"http://{endpoint.host}:{ports[endpoint.node.name]}",
                username=endpoint.username,
                password=endpoint.password,
                options={"system": system_path(endpoint.node.id)},
            )
            for endpoint in self.config.endpoints
        }

    @property
    def _path(self) -> Path:
        return self._folder / "bmc.json"

    @property
    def _ready(self) -> Path:
        return _ready_file(self._path)

    @property
    def _record(self) -> Path:
        return self._folder / "bmc.process.json"

    def _last_words(self, since: int) -> str:
        with self.log.open("rb") as log:
            log.seek(since)
            words = log.read().decode(errors="replace").strip()
        return words[-_LOG_KEPT:] or "they said nothing"


def serve(path: Path) -> None:
    """Serve the controllers of a configuration file until SIGTERM comes.

    Raises:
        PortTaken: Another program listens on one of the ports.
    """
    ended = threading.Event()
    for number in signal.SIGTERM, signal.SIGINT:
        signal.signal(number, lambda *_: ended.set())
    config = _CONFIG.validate_json(path.read_bytes())
    app = application(config.folder / "sushy-tools")
    servers = {
        node.spec.name: _server(endpoint, Controller(node, endpoint.username, endpoint.password, app))
        for node, endpoint in zip(config.nodes(), config.endpoints, strict=True)
    }
    for name, server in servers.items():
        threading.Thread(target=server.serve_forever, name=f"bmc-{name}", daemon=True).start()
    ready = _ready_file(path)
    partial = ready.with_name(f"{ready.name}.part")
    partial.write_text(json.dumps({name: server.port for name, server in servers.items()}))
    partial.rename(ready)
    ended.wait()
    with ThreadPoolExecutor(max(1, len(servers))) as pool:  # each takes until its next look, 0.5 s
        list(pool.map(lambda server: server.shutdown(), servers.values()))


class _Handler(WSGIRequestHandler):
    """Writes into the log what changes something or is refused; reading the power state is said too often."""

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        """Note a request."""
        if self.command != "GET" or int(code) >= 400:
            node = self.server.app.node.spec.name
            logger.info("%s: %s %s: %s", node, self.command, self.path, int(code))


def _server(endpoint: Endpoint, controller: Controller) -> BaseWSGIServer:
    with closing(socket.socket()) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((endpoint.host, endpoint.port))
        except OSError as failure:
            raise PortTaken(
                f"the BMC of {endpoint.node.name} cannot listen on {endpoint.host}:{endpoint.port}: "
                f"{failure.strerror}",
                next_step="end the program that listens there, or give the lab other ports",
            ) from failure
        listener.listen()
        # The server works on a duplicate of the descriptor.
        return make_server(
            endpoint.host,
            endpoint.port,
            controller,
            threaded=True,
            request_handler=_Handler,
            fd=listener.fileno(),
        )


def _ready_file(config: Path) -> Path:
    """Name the file that says which ports are served, once they are."""
    return config.with_suffix(".ready")


def _write_secret(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, in one step."""
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    part.rename(path)


def main() -> int:
    """Run the process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        serve(Path(sys.argv[1]))
    except BmiError as failure:
        logger.error("%s", failure)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
