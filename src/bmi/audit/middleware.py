"""Writes the audit trail around every request: the one place that does."""

import logging
from collections.abc import Collection, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address
from uuid import UUID

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bmi.api.common import Problem
from bmi.audit import service as audit
from bmi.audit import trail as trails
from bmi.audit.limit import Limit, Verdict
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
        self._limit = Limit()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, and write its line."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        trail, request = trails.begin(), new_id()
        begun = replaced = False

        async def audited(message: Message) -> None:
            nonlocal begun, replaced
            if replaced:
                return
            if message["type"] == "http.response.start":
                begun = True
                headers = [*message.get("headers", ()), (REQUEST_ID.encode(), str(request).encode())]
                message["headers"] = headers
                try:
                    await self._write(scope, trail, request, message["status"], Headers(raw=headers))
                except Exception:
                    log.exception("request %s: its line of the audit trail could not be written", request)
                    if message["status"] < 500:  # else it is told already that something is wrong
                        replaced = True
                        await _unwritten(request)(scope, receive, send)
                        return
            await send(message)

        try:
            await self._app(scope, receive, audited)
        except Exception as error:
            if not begun:
                log.error("request %s: unexpected %s", request, type(error).__name__)
                found = problem(error)
                trails.answered(found.code)
                await _answer(found)(scope, receive, audited)
            raise

    async def _write(
        self, scope: Scope, trail: trails.Trail, request: UUID, status: int, headers: Headers
    ) -> None:
        """Write the line of a request, if it has one."""
        if not _has_line(scope["method"], status, known=trail.caller is not None):
            return
        if trail.continued and status < 400:
            return
        entry = audit.line(
            trail,
            route=f"{scope['method']} {_route(scope)}",
            path=[f"{name} {value}" for name, value in scope.get("path_params", {}).items()],
            address=came_from(scope, self._trusted),
            status=status,
            request=request,
            operation=_operation(headers.get("location", "")),
        )
        if 400 <= status < 500:  # nothing was changed
            who = f"caller {entry.caller}" if entry.caller else f"address {entry.address}"
            verdict, whose = self._limit.take(who, known=entry.caller is not None)
            if verdict is Verdict.LEAVE_OUT:
                return
            if verdict is Verdict.LAST:
                entry.action = "audit.limit"
                entry.thing = f"{whose}: more lines about what was not done are left out for a minute"
        await run_in_threadpool(self._add, entry)

    def _add(self, entry: Audit) -> None:
        # It is based on nothing that was read, so it waits for no other writer.
        with self._db.write(alone=False) as session:
            session.add(entry)


def came_from(scope: Scope, trusted: Networks) -> str:
    """Return the address of who asks; of what proxies say only what trusted ones added."""
    client = scope.get("client")
    address = _plain(client[0] if client else "")
    said = Headers(scope=scope).getlist("x-forwarded-for")
    hops = [hop.strip() for entry in said for hop in entry.split(",")]
    while hops and _within(address, trusted):
        address = _plain(hops.pop())
    return address


def _has_line(method: str, status: int, *, known: bool) -> bool:
    """Say whether a request has a line: it changed something, tried to, or was refused."""
    if not known:
        # No route changes anything for him; what he does not find, or asks in a wrong way, is not refused.
        return status in (401, 403, 429)
    return method not in _READING or status in audit.REFUSED


def _unwritten(request: UUID) -> JSONResponse:
    error = AuditFailed(
        f"request {request} could not be written into the audit trail",
        next_step="look whether it was done before you ask again, and at the service's log",
    )
    return _answer(problem(error), {REQUEST_ID: str(request)})


def _answer(found: Problem, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse(
        found.model_dump(),
        status_code=found.status,
        headers=headers,
        media_type="application/problem+json",
    )


def _route(scope: Scope) -> str:
    """Return the pattern of a request's path; a router knows it without its prefix."""
    route: str = getattr(scope.get("route"), "path", "")
    if not route:
        return "no such route"
    return f"/v1{route}" if scope["path"].startswith("/v1/") and not route.startswith("/v1/") else route


def _plain(address: str) -> str:
    """Return an address as IPv4 writes it if it is one: a socket of both families maps them into IPv6."""
    try:
        mapped = getattr(ip_address(address), "ipv4_mapped", None)
    except ValueError:
        return address
    return str(mapped or address)


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
