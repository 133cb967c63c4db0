"""What every room's routes share: who asks, the service behind, pages and errors."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bmi.access.authentication import authenticate
from bmi.access.oidc import Provider
from bmi.access.policy import Caller
from bmi.access.throttle import Rate, WrongTokens
from bmi.api.common import Problem
from bmi.audit import trail
from bmi.audit.middleware import came_from
from bmi.bodies import BodyLimit
from bmi.db import PAGE_DEFAULT, PAGE_LIMIT
from bmi.errors import BmiError, NotAuthenticated, TooManyAttempts
from bmi.parts import Parts
from bmi.problems import problem

log = logging.getLogger(__name__)


class Service:
    """What answers requests."""

    def __init__(self, parts: Parts) -> None:
        """Take the parts of this process.

        Raises:
            SettingsInvalid: A file that the settings of the OpenID Connect provider name cannot be read.
        """
        self.parts = parts
        settings = parts.settings
        self.wrong_tokens = WrongTokens(Rate(settings.access.address_attempts, settings.access.pause))
        self.provider = Provider(settings.oidc, parts.vault) if settings.oidc else None
        """Of people whom the service does not know itself; None if there is none."""


def _service(request: Request) -> Service:
    return cast("Service", request.app.state.service)


TheService = Annotated[Service, Depends(_service)]

_bearer = HTTPBearer(
    auto_error=False, description="The secret of an API token or of a session, which are shown once"
)


def _origin(service: TheService, request: Request) -> str:
    return came_from(request.scope, service.parts.settings.api.trusted_proxies)


Origin = Annotated[str, Depends(_origin)]
"""Address that a request comes from."""


def _caller(
    service: TheService,
    origin: Origin,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Caller:
    if credentials is None:
        raise NotAuthenticated("the request carries no token", next_step="log in: bmi login URL")
    try:
        return authenticate(service.parts.db, credentials.credentials, service.parts.settings.access)
    except NotAuthenticated:
        service.wrong_tokens.wrong(origin, time.monotonic())
        raise


Who = Annotated[Caller, Depends(_caller)]
"""Who asks; a route without it is open to everybody."""


@dataclass(frozen=True)
class Paging:
    """Which page of a list."""

    limit: Annotated[int, Query(ge=1, le=PAGE_LIMIT)] = PAGE_DEFAULT
    cursor: Annotated[str | None, Query(description="`next` of the page before")] = None


Pages = Annotated[Paging, Depends()]
InProject = Annotated[str | None, Query(description="Name or id of the project")]

LARGEST_BODY = 1 << 20  # bytes; the longest that is documented is a node's user data

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text}
    for status, text in {
        400: "The request has a value that cannot be used",
        401: "No valid token",
        403: "The caller may see the thing, but not do this to it",
        404: "No such thing, or not for this caller",
        409: "The thing is in use, or in a state in which this cannot be done",
        413: f"The body has more than {LARGEST_BODY >> 20} MiB; only pieces of uploads may",
        422: "The request does not have the documented form",
        429: "Too many attempts to log in, or too many wrong tokens; header Retry-After says for how many seconds",
        502: "A management controller, a switch or the source of an image did not do what it had to",
        503: "A part that is needed for this does not answer now",
        507: "The storage is full",
    }.items()
}


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the description of the API (OpenAPI); errors are problem documents there as in the answers."""
    described = app.openapi()
    for methods in described["paths"].values():
        for operation in methods.values():
            for status, response in operation["responses"].items():
                content = response.get("content", {})
                if int(status) >= 400 and "application/json" in content:
                    content["application/problem+json"] = content.pop("application/json")
    return described


SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""What every answer says to browsers, which may meet one although it is none of their pages; and to caches."""


def protect(app: FastAPI) -> None:
    """Bound what requests may make the service keep, and say in every answer how to take it."""
    app.add_middleware(BodyLimit, limit=LARGEST_BODY, refusal=_too_large, spared=_is_piece)
    app.add_middleware(_SafeHeaders)


class _SafeHeaders:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SAFE_HEADERS.items():
                    headers.setdefault(name, value)
                if scope["scheme"] == "https":
                    headers.setdefault("Strict-Transport-Security", "max-age=31536000")
            await send(message)

        await self._app(scope, receive, with_headers)


def _is_piece(scope: Scope) -> bool:
    """Say whether a request brings a piece of an upload, which is as long as the file and is taken as it comes."""
    path: str = scope["path"]
    return scope["method"] == "PATCH" and path.startswith("/v1/uploads/")


def _too_large() -> JSONResponse:
    words = f"a request may have {LARGEST_BODY >> 20} MiB"
    return _answer(_of_status(413, "too-large", words, "send less; files go in pieces: bmi image import"))


def answer_errors(app: FastAPI) -> None:
    """Make every error a problem document (RFC 9457)."""

    @app.exception_handler(Exception)
    def any_error(_request: Request, error: Exception) -> JSONResponse:
        found = problem(error)
        if found.code == "internal":
            log.error("unexpected error", exc_info=error)
        after = {"Retry-After": str(error.retry_after)} if isinstance(error, TooManyAttempts) else {}
        return _answer(found, after)

    app.add_exception_handler(BmiError, any_error)

    @app.exception_handler(RequestValidationError)
    def bad_form(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
        return _answer(_of_status(422, "bad-request", f"{where}: {first['msg']}", "correct the request"))

    @app.exception_handler(HTTPException)
    def no_route(request: Request, error: HTTPException) -> JSONResponse:
        words = f"{request.method} {request.url.path}: {error.detail}"
        code = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code, "bad-request")
        return _answer(_of_status(error.status_code, code, words, "see /openapi.json for what there is"))


def _of_status(status: int, code: str, detail: str, next_step: str) -> Problem:
    return Problem(
        type=f"urn:bmi:error:{code}",
        title="The request cannot be answered",
        status=status,
        detail=detail,
        code=code,
        next_step=next_step,
    )


def _answer(found: Problem, headers: Mapping[str, str] | None = None) -> JSONResponse:
    trail.answered(found.code)
    challenge = {"WWW-Authenticate": "Bearer"} if found.status == 401 else {}
    return JSONResponse(
        found.model_dump(),
        status_code=found.status,
        headers={**challenge, **(headers or {})},
        media_type="application/problem+json",
    )
