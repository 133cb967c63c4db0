"""Composition root: reads the settings, builds the parts, mounts every room's routes."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from starlette.types import ASGIApp

from bmi import __version__
from bmi.access import routes as access_routes
from bmi.access import service as access
from bmi.api.common import Version
from bmi.boot.dnsmasq import Dnsmasq
from bmi.boot.listen import NodeHttp
from bmi.boot.monitor import Monitor
from bmi.boot.node_app import node_app
from bmi.db import Db
from bmi.drivers import Site, load
from bmi.http import PROBLEMS, Service, answer_errors
from bmi.ids import short
from bmi.images import routes as images_routes
from bmi.networks import routes as networks_routes
from bmi.nodes import routes as nodes_routes
from bmi.parts import Parts
from bmi.provisioning import routes as operations_routes
from bmi.provisioning.converge import Convergence
from bmi.provisioning.engine import Engine
from bmi.settings import Driver, Settings
from bmi.vault import Vault

log = logging.getLogger(__name__)

_INSTALLATION_DIGITS = 8


def build_parts(settings: Settings) -> Parts:
    """Open the database and make the drivers that the settings name.

    Raises:
        SettingsInvalid: A setting cannot be used, or the database belongs to another release.
    """
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    settings.state_dir.chmod(0o700)
    db = Db(settings.database_url)
    db.upgrade()
    installation = short(access.installation(db))[:_INSTALLATION_DIGITS]
    (settings.state_dir / "installation").write_text(installation + "\n")
    site = Site(state_dir=settings.state_dir, installation=installation)

    def driver(family: str, named: Driver) -> object:
        return load(family, named.driver, named.options, site)

    def app_for(network: UUID) -> ASGIApp:
        return node_app(parts, network)

    parts = Parts(
        settings=settings,
        site=site,
        db=db,
        vault=Vault(settings.state_dir / "secret.key"),
        storage=driver("storage", settings.storage),  # type: ignore[arg-type]
        target=driver("target", settings.target),  # type: ignore[arg-type]
        legs=driver("leg", settings.leg),  # type: ignore[arg-type]
        switches={name: driver("switch", named) for name, named in settings.switches.items()},  # type: ignore[misc]
        powers={name: load("power", name, options, site) for name, options in settings.power.items()},
        dnsmasq=Dnsmasq(site, tftp_root=settings.boot.tftp_root),
        node_http=NodeHttp(app_for),
    )
    return parts


class Work:
    """What goes on besides answering requests: operations, convergence, watching boots."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.engine = Engine(parts)
        self._convergence = Convergence(parts)
        self._monitor = Monitor(parts)

    def start(self) -> None:
        """Make reality equal to the database first; then take up what was interrupted."""
        self._parts.storage.prepare()
        self._convergence.start()
        self._monitor.start()
        self.engine.launch()

    def close(self) -> None:
        """Stop; what nodes use goes on, and what runs is taken up by the next process."""
        self.engine.close()
        self._monitor.close()
        self._convergence.close()
        self._parts.close()


def build_app(parts: Parts) -> FastAPI:
    """Return the tenants' API over these parts; it works from start-up to shut-down of the application."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        work = Work(parts)
        app.state.service = Service(parts, work.engine)
        await run_in_threadpool(work.start)
        yield
        await run_in_threadpool(work.close)

    app = FastAPI(
        title="Bare Metal Imaging",
        version=__version__,
        lifespan=lifespan,
        responses=PROBLEMS,
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
    )
    answer_errors(app)

    @app.get("/v1/version", tags=["version"])
    def version() -> Version:
        """Say which release answers."""
        return Version(version=__version__)

    for room in (access_routes, nodes_routes, networks_routes, images_routes, operations_routes):
        app.include_router(room.router, prefix="/v1")
    return app
