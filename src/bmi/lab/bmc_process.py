"""The process that serves the lab's management controllers: `python -m bmi.lab.bmc_process CONFIG.json`."""

import json
import logging
import signal
import socket
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, cast

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from bmi.errors import BmiError, PortTaken
from bmi.lab.bmc import Endpoint, host_key_file, read_config, ready_file
from bmi.lab.redfish import Controller, application
from bmi.lab.ssh_console import SshConsole

logger = logging.getLogger(__name__)


def serve(path: Path) -> None:
    """Serve the controllers of a configuration file until SIGTERM comes.

    Raises:
        PortTaken: Another program listens on one of the ports.
    """
    ended = threading.Event()
    for number in signal.SIGTERM, signal.SIGINT:
        signal.signal(number, lambda *_: ended.set())
    config = read_config(path)
    state = config.folder / "sushy-tools"
    state.mkdir(parents=True, exist_ok=True)
    # sushy-tools keeps images of virtual drives there, and never removes the folders.
    tempfile.tempdir = str(state)
    app = application(state)
    consoles = {
        node.spec.name: SshConsole(
            node,
            endpoint.username,
            endpoint.password,
            host=endpoint.host,
            port=endpoint.console_port,
            key=host_key_file(config, endpoint.node),
        )
        for node, endpoint in zip(config.nodes(), config.endpoints, strict=True)
    }
    servers = {
        node.spec.name: _server(
            endpoint,
            Controller(
                node, endpoint.username, endpoint.password, app, console=consoles[node.spec.name].port
            ),
        )
        for node, endpoint in zip(config.nodes(), config.endpoints, strict=True)
    }
    for console in consoles.values():
        console.start()
    for name, server in servers.items():
        threading.Thread(target=server.serve_forever, name=f"bmc-{name}", daemon=True).start()
    ready = ready_file(path)
    partial = ready.with_name(f"{ready.name}.part")
    ports = {
        "redfish": {name: server.port for name, server in servers.items()},
        "console": {name: console.port for name, console in consoles.items()},
    }
    partial.write_text(json.dumps(ports))
    partial.rename(ready)
    ended.wait()
    for console in consoles.values():
        console.close()
    with ThreadPoolExecutor(max(1, len(servers))) as pool:  # each takes until its next look, 0.5 s
        list(pool.map(lambda server: server.shutdown(), servers.values()))


class _Handler(WSGIRequestHandler):
    """Writes into the log what changes something or is refused; reading the power state is said too often."""

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        """Note a request."""
        if self.command != "GET" or int(code) >= 400:
            node = cast("Controller", self.server.app).node.spec.name
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
