"""HTTP of logging in and out."""

from fastapi import APIRouter

from bmi.access import sessions
from bmi.access.oidc import Provider
from bmi.access.rules import KNOWN, PUBLIC
from bmi.api import access as wire
from bmi.errors import BadRequest
from bmi.http import Origin, Service, TheService, Who

router = APIRouter(tags=["log-in"])


@router.post("/login", status_code=201, dependencies=[PUBLIC])
def log_in(service: TheService, origin: Origin, body: wire.LogIn) -> wire.Session:
    """Begin a session with a name and a password."""
    parts = service.parts
    return sessions.log_in(parts.db, parts.settings.access, body, origin)


@router.post("/login/provider", dependencies=[PUBLIC])
def begin_log_in(service: TheService, body: wire.LogInBegin) -> wire.LogInBegun:
    """Begin a log-in by the OpenID Connect provider: say where the browser goes."""
    begun = _provider(service).begin(body.redirect_uri)
    return wire.LogInBegun(url=begun.url, handle=begun.handle)


@router.post("/login/provider/finish", status_code=201, dependencies=[PUBLIC])
def finish_log_in(service: TheService, body: wire.LogInFinish) -> wire.Session:
    """Begin a session with what the provider gave the browser."""
    provider, parts = _provider(service), service.parts
    identity = provider.finish(body.handle, code=body.code, state=body.state, issuer=body.iss)
    rights = provider.rights(identity)
    return sessions.log_in_recognised(parts.db, parts.settings.access, identity, rights)


@router.post("/logout", status_code=204, dependencies=[KNOWN])
def log_out(service: TheService, who: Who) -> None:
    """End the session that the request is part of."""
    with service.parts.db.write() as session:
        sessions.log_out(session, who)


def _provider(service: Service) -> Provider:
    if service.provider is None:
        raise BadRequest(
            "this service knows no OpenID Connect provider",
            next_step="log in with a password or a token, or set oidc.issuer in the service's settings",
        )
    return service.provider
