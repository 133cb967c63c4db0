"""Writes the audit trail around every request: the one place that does."""

import logging
import time
from collections.abc import Collection
from ipaddress import IPv4Network, IPv6Network, ip_address
from uuid import UUID

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bmi.audit import service as audit
from bmi.audit import trail as trails
from bmi.audit.models import Audit
from bmi.db import Db
from bmi.errors import AuditFailed
from bmi.ids import new_id
from bmi.problems import problem

log = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
_READING = ("GET", "HEAD", "OPTIONS")
_PREFIX = "/v1/operations/"

Networks = Collection[IPv4Network | IPv6Network]


class AuditMiddleware:
    """Holds an answer back until its line is written, if it has one; gives every answer its request's id."""

    def __init__(self, app: ASGIApp, db: Db, trusted: Networks) -> None:
        """Wrap an application.

        Args:
            app: What answers.
            db: Where the trail is written.
            trusted: Proxies whose word about who asks is taken.
        """
        self._app = app
        self._db = db
        self._trusted = trusted
        self._refusals = _Refusals()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, and write its line."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        trail, request = trails.begin(), new_id()
        written = replaced = False

        async def audited(message: Message) -> None:
            nonlocal written, replaced
            if replaced:
                return
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    (REQUEST_ID.encode(), str(request).encode()),
                ]
                written = True
                try:
                    await self._write(
                        scope, trail, request, message["status"], Headers(raw=message["headers"])
                    )
                except Exception as error:
                    log.exception("request %s: its line of the audit trail could not be written", request)
                    replaced = True
                    await _instead(error, request)(scope, receive, send)
                    return
            await send(message)

        try:
            await self._app(scope, receive, audited)
        except Exception:
            if not written:
                trails.answered("internal")
                await self._write(scope, trail, request, 500, Headers())
            raise

    async def _write(
        self, scope: Scope, trail: trails.Trail, request: UUID, status: int, headers: Headers
    ) -> None:
        """Write the line of a request, if it has one."""
        address = came_from(scope, self._trusted)
        method = scope["method"]
        if status in audit.REFUSED:
            # Whoever is not known and finds nothing has not been refused anything.
            if trail.caller is None and status == 404:
                return
            if not self._refusals.counts(trail.caller or address):
                return
        elif method in _READING:
            return
        entry = audit.line(
            trail,
            route=f"{method} {_route(scope)}",
            path=", ".join(f"{name} {value}" for name, value in scope.get("path_params", {}).items()),
            address=address,
            status=status,
            request=request,
            operation=_operation(headers.get("location", "")),
        )
        await run_in_threadpool(self._add, entry)

    def _add(self, entry: Audit) -> None:
        # It is based on nothing that was read, so it waits for no other writer.
        with self._db.write(alone=False) as session:
            session.add(entry)


def came_from(scope: Scope, trusted: Networks) -> str:
    """Return the address of who asks; of what proxies say only what trusted ones added."""
    client = scope.get("client")
    address: str = client[0] if client else ""
    said = Headers(scope=scope).getlist("x-forwarded-for")
    hops = [hop.strip() for entry in said for hop in entry.split(",")]
    while hops and _within(address, trusted):
        address = hops.pop()
    return address


class _Refusals:
    """Bounds what somebody can write into the trail by being refused, in a process."""

    MINUTE = 60.0  # seconds
    EACH = 60  # lines that one caller, or one address of unknown callers, gets in a minute
    ALL = 1000  # callers and addresses that are told apart

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._seen: dict[str, int] = {}

    def counts(self, who: str) -> bool:
        """Say whether one more refusal is written down."""
        if time.monotonic() - self._since > self.MINUTE:
            for each, count in self._seen.items():
                if count > self.EACH:
                    log.warning("%s: %d more refusals are not in the audit trail", each, count - self.EACH)
            self._since, self._seen = time.monotonic(), {}
        if who not in self._seen and len(self._seen) >= self.ALL:
            who = "everybody else"
        self._seen[who] = self._seen.get(who, 0) + 1
        return self._seen[who] <= self.EACH


def _instead(error: Exception, request: UUID) -> JSONResponse:
    found = problem(
        AuditFailed(
            f"request {request} could not be written into the audit trail",
            next_step="look whether it was done before you ask again, and at the service's log",
        )
    )
    return JSONResponse(
        found.model_dump(),
        status_code=found.status,
        headers={REQUEST_ID: str(request)},
        media_type="application/problem+json",
    )


def _route(scope: Scope) -> str:
    """Return the pattern of a request's path; a router knows it without its prefix."""
    route: str = getattr(scope.get("route"), "path", "")
    if not route:
        return "no such route"
    return f"/v1{route}" if scope["path"].startswith("/v1/") and not route.startswith("/v1/") else route


def _within(address: str, networks: Networks) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in networks)


def _operation(location: str) -> UUID | None:
    if not location.startswith(_PREFIX):
        return None
    try:
        return UUID(location.removeprefix(_PREFIX))
    except ValueError:
        return None
