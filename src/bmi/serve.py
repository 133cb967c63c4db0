"""`bmi serve`, and its parts one by one: `bmi api`, `bmi worker`, `bmi gateway`."""

import logging
import signal
import socket
import threading
from collections.abc import Collection
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer
import uvicorn

from bmi.access.service import bootstrap
from bmi.errors import PortTaken, SettingsInvalid
from bmi.parts import Parts
from bmi.server import EVERYTHING, Role, Work, build_app, build_parts
from bmi.settings import Api, Settings, load_settings
from bmi.tls import Certificate

Config = Annotated[
    Path | None, typer.Option(help="Settings file; $BMI_CONFIG or /etc/bmi/bmi.toml if absent.")
]

log = logging.getLogger(__name__)


def serve(config: Config = None) -> None:
    """Run the service: the API, the workflows, and the gateway's daemons, until it is ended.

    What nodes use (targets, DHCP) goes on when the service ends, and is taken up again when it comes back.
    """
    _answer(_begin(config), EVERYTHING)


def api(config: Config = None) -> None:
    """Run the API alone, beside workers and gateways on this host or others. Needs PostgreSQL and Ceph."""
    _answer(_begin(config), {Role.API})


def worker(config: Config = None) -> None:
    """Run a worker alone: it carries operations out. Needs PostgreSQL and Ceph.

    Each worker has a name of its own; one that comes back under the same name goes on with what it had begun.
    """
    _work(_begin(config), {Role.WORKER})


def gateway(config: Config = None) -> None:
    """Run a gateway alone: it serves disks, DHCP and boot scripts to nodes. Needs PostgreSQL and Ceph.

    When it dies, another gateway takes its place, with its addresses, until it is back.
    """
    _work(_begin(config), {Role.GATEWAY})


def _begin(config: Path | None) -> Settings:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    return load_settings(config)


def _answer(settings: Settings, roles: Collection[Role]) -> None:
    """Answer requests, and do what else these roles do, until the process is asked to end."""
    certificate = _certificate(settings.api)
    listener = _listen(settings.api)
    parts = build_parts(settings, roles)
    if file := bootstrap(parts.db, settings.state_dir):
        log.info("the first admin's token is in %s", file)
    app = build_app(parts, roles)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            proxy_headers=False,  # uvicorn would believe everybody on this host; the audit trail asks the settings
            timeout_graceful_shutdown=5,
            ssl_context_factory=(lambda *_: certificate.context) if certificate else None,
        )
    )
    server.run(sockets=[listener])
    if not server.started:
        raise typer.Exit(1)


def _work(settings: Settings, roles: Collection[Role]) -> None:
    """Do what these roles do until the process is asked to end."""
    parts: Parts = build_parts(settings, roles)
    work = Work(parts, roles)
    asked_to_end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked_to_end.set())
    work.start()
    log.info("ready: %s", ", ".join(sorted(roles)))
    asked_to_end.wait()
    work.close()


def _certificate(api: Api) -> Certificate | None:
    """Read the API's certificate, now and whenever the process gets SIGHUP.

    Raises:
        SettingsInvalid: It cannot be used.
    """
    if api.certificate is None or api.certificate_key is None:
        if not _only_here(api.host):
            log.warning(
                "the API speaks plain HTTP on %s: tokens can be read on the way; give it a certificate "
                "(api.certificate), or let a proxy with one speak to a loopback address",
                api.host,
            )
        return None
    certificate = Certificate(api.certificate, api.certificate_key)

    def read_again(*_: object) -> None:
        try:
            certificate.read_again()
            log.info("the API's certificate was read again")
        except SettingsInvalid as error:
            log.error("the old certificate stays in use: %s; %s", error.message, error.next_step)

    signal.signal(signal.SIGHUP, read_again)
    return certificate


def _only_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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
