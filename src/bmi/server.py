"""Composition root: reads the settings, builds the parts, mounts every room's routes."""

import fcntl
import logging
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, Protocol, cast

from fastapi import APIRouter, FastAPI
from fastapi.concurrency import run_in_threadpool
from starlette.routing import BaseRoute

from bmi import __version__, schema
from bmi.access import login_routes
from bmi.access import routes as access_routes
from bmi.access import service as access
from bmi.access import user_routes as users_routes
from bmi.access.rules import PUBLIC, rules
from bmi.api.common import Version
from bmi.audit import routes as audit_routes
from bmi.audit.middleware import AuditMiddleware
from bmi.boot.dnsmasq import Dnsmasq
from bmi.boot.listen import NodeHttp
from bmi.boot.loaders import Loaders
from bmi.boot.monitor import Monitor
from bmi.boot.node_app import node_app
from bmi.boot.texts import Texts
from bmi.consoles import routes as consoles_routes
from bmi.consoles.recorder import Recorder
from bmi.consoles.service import CONSOLES, WATCHED
from bmi.db import Db
from bmi.discovery import routes as discovery_routes
from bmi.doctor import routes as doctor_routes
from bmi.drivers import Site, load
from bmi.drivers.confirmed import confirmed
from bmi.drivers.switch import Switch
from bmi.errors import InUse, SettingsInvalid
from bmi.gateways import service as gateways
from bmi.gateways.orders import ANSWERS, ORDERS, OrderTaker
from bmi.gateways.place import PLACES, Place
from bmi.gateways.supervision import Supervisor
from bmi.helper.client import HelpedDnsmasq, HelpedLegs, HelpedRights, HelpedSwitch, Helper
from bmi.http import PROBLEMS, Service, answer_errors, describe, protect
from bmi.ids import short
from bmi.images import disk_routes as disks_routes
from bmi.images import edit_routes as image_edit_routes
from bmi.images import intake_routes, readiness_routes
from bmi.images import life_routes as image_life_routes
from bmi.images import routes as images_routes
from bmi.images import upload_routes as uploads_routes
from bmi.networks import routes as networks_routes
from bmi.nodes import import_routes as node_import_routes
from bmi.nodes import routes as nodes_routes
from bmi.nodes.leases import Leases
from bmi.parts import GatewayParts, Parts
from bmi.provisioning import routes as operations_routes
from bmi.provisioning.converge import Convergence
from bmi.provisioning.engine import Engine
from bmi.provisioning.workers import OPERATIONS, Claims, worker_name
from bmi.rights import OWN
from bmi.settings import Driver, Settings
from bmi.signals import Signals
from bmi.vault import Vault

log = logging.getLogger(__name__)

_MARK_DIGITS = 8


class Role(StrEnum):
    """What a process does."""

    API = "api"
    WORKER = "worker"
    GATEWAY = "gateway"


EVERYTHING = frozenset(Role)


def build_parts(settings: Settings, roles: Collection[Role] = EVERYTHING) -> Parts:
    """Open the database and make the drivers that the settings name.

    Args:
        settings: The settings.
        roles: What this process does; only a gateway has targets, DHCP and legs.

    Raises:
        SettingsInvalid: A setting cannot be used, or the database belongs to another release.
        InUse: Another process has the state folder.
    """
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    settings.state_dir.chmod(0o700)
    db = Db(settings.database_url)
    db.hold(_alone_in(settings.state_dir))
    if done := schema.open_for_service(db):
        log.info("the database %s has schema %s now%s", db.name, done.before.needed, done.remark)
    site = Site(state_dir=settings.state_dir, installation=short(access.installation(db))[:_MARK_DIGITS])
    parts = Parts(
        settings=settings,
        site=site,
        db=db,
        vault=Vault(settings.vault_file),
        signals=Signals(db),
        storage=_driver("storage", settings.storage, site),
        switches={name: _switch(settings, name, site) for name in settings.switches},
        powers={
            name: confirmed("power", load("power", name, options, site))
            for name, options in settings.power.items()
        },
        texts=Texts(settings.template_folder),
        leases=_leases(settings, site),
    )
    parts.texts.check(dnsmasq=Role.GATEWAY in roles)
    if set(roles) != EVERYTHING and not (db.shared and parts.storage.shared):
        raise SettingsInvalid(
            "processes can share the work only where they share the database (PostgreSQL) and the storage (rbd)",
            next_step="run everything in one: bmi serve",
        )
    if Role.GATEWAY in roles:
        parts.here = _build_gateway(parts)
    return parts


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes of BMI out of a state folder; one that dies lets go of it.

    Raises:
        InUse: There is one already.
    """
    with (folder / "lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InUse(
                f"another process of BMI works in {folder}",
                next_step="end it, or give this one a state folder of its own: BMI_STATE_DIR",
            ) from error
        yield


def _build_gateway(parts: Parts) -> GatewayParts:
    """Make the drivers of this host's own daemons; what they make is marked as this gateway's."""
    settings = parts.settings
    row = gateways.register(parts.db, settings)
    mark = short(row.id)[:_MARK_DIGITS]
    (settings.state_dir / "mark").write_text(f"{mark}\n")
    helper = Helper(settings.helper.socket, mark) if settings.helper.socket else None
    rights = HelpedRights(helper) if helper else OWN
    site = Site(state_dir=settings.state_dir, installation=mark, rights=rights)
    return GatewayParts(
        id=row.id,
        name=row.name,
        number=row.number,
        target=_driver("target", settings.target, site),
        legs=confirmed("leg", HelpedLegs(helper)) if helper else _driver("leg", settings.leg, site),
        dnsmasq=HelpedDnsmasq(helper)
        if helper
        else Dnsmasq(site, loaders=Loaders(settings.boot), texts=parts.texts, leases=settings.boot.leases),
        node_http=NodeHttp(lambda network: node_app(parts, network), rights=rights),
        rights=rights,
    )


def _switch(settings: Settings, name: str, site: Site) -> Switch:
    """Make a switch's driver. Open vSwitch on this host is root's: the helper configures it where there is one."""
    named, helper = settings.switches[name], settings.helper.socket
    if helper and named.driver == "ovs" and not str(named.options.get("database", "")).startswith("tcp:"):
        made: Switch = confirmed("switch", HelpedSwitch(Helper(helper, site.installation), name))
        return made
    return cast("Switch", _driver("switch", named, site))


def _leases(settings: Settings, site: Site) -> Leases | None:
    """Open the site's inventory, where there is one."""
    named = settings.inventory
    return Leases(load("inventory", named.driver, named.options, site), named) if named else None


def _driver(family: str, named: Driver, site: Site) -> Any:
    return confirmed(family, load(family, named.driver, named.options, site))


class _Part(Protocol):
    """Something that works on threads of its own."""

    def start(self) -> None: ...

    def close(self) -> None: ...


class Work:
    """What goes on besides answering requests: operations, convergence, watching boots."""

    def __init__(self, parts: Parts, roles: Collection[Role] = EVERYTHING) -> None:
        self._parts = parts
        self._engine: Engine | None = None
        works: list[_Part] = []
        # In this order: what is wrong is put right first; then what was interrupted is taken up.
        if Role.GATEWAY in roles:
            works += [Place(parts), Supervisor(parts)]
        works.append(Convergence(parts, ports=Role.WORKER in roles))
        if Role.GATEWAY in roles:
            works += [Monitor(parts), OrderTaker(parts)]
        if Role.WORKER in roles:
            name = worker_name(parts.settings.worker.name)
            self._engine = Engine(parts, name)
            works += [Claims(parts, self._engine, name), Recorder(parts, name)]
        self._works = works

    def start(self) -> None:
        """Make reality equal to the database first; then take up what was interrupted."""
        self._parts.storage.prepare()
        self._parts.signals.start(OPERATIONS, ORDERS, ANSWERS, PLACES, CONSOLES, WATCHED)
        for work in self._works:
            work.start()

    def close(self) -> None:
        """Stop; what nodes use goes on, and what runs is taken up by the next process."""
        for work in reversed(self._works):
            work.close()
        if self._engine is not None:
            self._engine.close()
        self._parts.close()


@cache
def _routes() -> Sequence[BaseRoute]:
    """Put the routes of all rooms together, once: FastAPI works half a second on them."""
    router = APIRouter(responses=PROBLEMS)
    for room in (
        access_routes,
        users_routes,
        login_routes,
        nodes_routes,
        node_import_routes,
        consoles_routes,
        discovery_routes,
        networks_routes,
        intake_routes,
        images_routes,
        image_life_routes,
        uploads_routes,
        readiness_routes,
        disks_routes,
        image_edit_routes,
        operations_routes,
        doctor_routes,
        audit_routes,
    ):
        router.include_router(room.router, prefix="/v1")
    return router.routes


def build_app(parts: Parts, roles: Collection[Role] = EVERYTHING) -> FastAPI:
    """Return the tenants' API over these parts; it works from start-up to shut-down of the application."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        work = Work(parts, roles)
        await run_in_threadpool(work.start)
        yield
        await run_in_threadpool(work.close)

    app = FastAPI(
        title="Bare Metal Imaging",
        version=__version__,
        lifespan=lifespan,
        routes=list(_routes()),
        responses=PROBLEMS,
        openapi_url=None,  # it is a route like others, with a rule
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
    )
    answer_errors(app)
    protect(app)
    app.add_middleware(AuditMiddleware, db=parts.db, trusted=parts.settings.api.trusted_proxies)

    @app.get("/openapi.json", include_in_schema=False, dependencies=[PUBLIC])
    def openapi() -> dict[str, Any]:
        return describe(app)

    @app.get("/v1/version", tags=["version"], dependencies=[PUBLIC])
    def version() -> Version:
        """Say which release answers."""
        return Version(version=__version__)

    rules(app.routes)
    app.state.service = Service(parts)
    return app
