"""`bmi serve`: the service on one host."""

import logging
import socket
from pathlib import Path
from typing import Annotated

import typer
import uvicorn

from bmi.access.service import bootstrap
from bmi.errors import PortTaken
from bmi.server import build_app, build_parts
from bmi.settings import Api, load_settings


def serve(
    config: Annotated[
        Path | None, typer.Option(help="Settings file; $BMI_CONFIG or /etc/bmi/bmi.toml if absent.")
    ] = None,
) -> None:
    """Run the service: the API, the workflows, and the gateway's daemons, until it is ended.

    What nodes use (targets, DHCP) goes on when the service ends, and is taken up again when it comes back.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = load_settings(config)
    listener = _listen(settings.api)
    parts = build_parts(settings)
    if file := bootstrap(parts.db, settings.state_dir):
        logging.getLogger(__name__).info("the first admin's token is in %s", file)
    server = uvicorn.Server(
        uvicorn.Config(build_app(parts), log_config=None, access_log=False, timeout_graceful_shutdown=5)
    )
    server.run(sockets=[listener])
    if not server.started:
        raise typer.Exit(1)


def _listen(api: Api) -> socket.socket:
    """Take the API's port before anything else is touched.

    Raises:
        PortTaken: Another program has it.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((api.host, api.port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise PortTaken(
            f"the API cannot listen on {api.host}:{api.port}: {error.strerror}",
            next_step="end the program that has the port, or choose another one: BMI_API__PORT",
        ) from error
    return listener
