"""What nodes ask for over HTTP: their loader, their boot script, and the report that they are up.

One application per network, on that network's leg only. A request must carry the boot record's token, come
from the address that the record gives the node, and arrive on the record's own network; else there is nothing
here. Only where another server gives addresses, a node may ask without a token what it is to boot.
here. Loaders alone are everybody's, as they are over TFTP: firmware has no token, and nothing in them is secret.
"""

import hmac
import logging
from collections.abc import Iterator
from datetime import timedelta
from ipaddress import IPv4Address
from pathlib import Path
from urllib.parse import parse_qs
from uuid import UUID

from sqlalchemy import select
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from bmi.api.nodes import Milestone
from bmi.boot import loaders, neighbours
from bmi.boot import service as boot
from bmi.boot.models import Boot
from bmi.boot.script import render
from bmi.db import now
from bmi.discovery.node_http import routes as discovery_routes
from bmi.events import Event, record
from bmi.networks.addressing import FOREIGN
from bmi.parts import Parts

log = logging.getLogger(__name__)

_CHUNK = 64 * 1024  # bytes of a loader that are in memory at a time
_EFI = "application/efi"  # UEFI 2.10, 24.7.3.2.3: by this, or by its name's end, firmware knows a program

_LOADED = "http.sent"
_LOADED_AGAIN = timedelta(seconds=10)  # within which the same loader is one event
_REFUSED = "boot.refused"
_REPEATED = timedelta(minutes=10)  # in which the same refusal is one event
_MOST_REFUSALS = 20  # events of one node in that time: addresses and tokens are free to who floods
_HOSTNAME_KEPT = 63  # characters; RFC 1123
_KEY_KEPT = 1024  # characters of a public host key
_CLEANED, _DISK = "cleaned", "disk"  # as the script `clean` of images/debian names them
_DISKS_KEPT = 256
_DISK_KEPT = 200  # characters of what is said of a disk
_KEYS = ("pub_key_ed25519", "pub_key_ecdsa", "pub_key_rsa")  # as cloud-init's phone_home names them


def node_app(parts: Parts, network: UUID) -> Starlette:
    """Return the application that answers the nodes of one network."""

    served = loaders.Loaders(parts.settings.boot).over_http

    async def loader(request: Request) -> Response:
        # A shim asks for what is beside it with two slashes.
        file = served.get(str(request.path_params["name"]).lstrip("/"))
        return _nothing() if file is None else await run_in_threadpool(_loader, parts, network, request, file)

    async def script(request: Request) -> Response:
        return await run_in_threadpool(_script, parts, network, request)

    async def phone_home(request: Request) -> Response:
        form = parse_qs((await request.body()).decode(errors="replace"))
        return await run_in_threadpool(_phone_home, parts, network, request, form)

    async def own_script(request: Request) -> Response:
        return await run_in_threadpool(_own_script, parts, network, request)

    return Starlette(
        routes=[
            Route("/boot/script.ipxe", own_script),
            Route(f"/{loaders.FOLDER}/{{name:path}}", loader),
            Route("/boot/{boot}/{token}/script.ipxe", script),
            Route("/boot/{boot}/{token}/phone-home", phone_home, methods=["POST"]),
            *discovery_routes(parts, network),
        ]
    )


def _loader(parts: Parts, network: UUID, request: Request, file: Path) -> Response:
    try:
        size = file.stat().st_size
    except OSError as error:
        log.warning("loader %s cannot be served: %s", file, error)
        return _nothing()
    headers = {"content-length": str(size)}
    if request.method == "HEAD":  # firmware asks for the size first
        return Response(headers=headers, media_type=_EFI)
    _note_loader(parts, network, request, file.name)
    return StreamingResponse(_chunks(file, size), headers=headers, media_type=_EFI)


def _chunks(file: Path, size: int) -> Iterator[bytes]:
    with file.open("rb") as content:
        while size > 0 and (chunk := content.read(min(_CHUNK, size))):
            size -= len(chunk)
            yield chunk


def _note_loader(parts: Parts, network: UUID, request: Request, name: str) -> None:
    """Make an event of a loader that a node fetches, once for a firmware that asks again and again."""
    with parts.db.read() as session:
        there = [row for row in boot.boots_here(parts, session, network) if row.served]
        row = next((row for row in there if row.attachment.address == _peer(request)), None)
        if row is None:
            return
        told = select(Event.id).where(
            Event.node_id == row.node_id,
            Event.kind == _LOADED,
            Event.message == name,
            Event.at > now() - _LOADED_AGAIN,
        )
        if session.scalar(told.limit(1)) is not None:
            return
    with parts.db.write() as session:
        record(session, _LOADED, name, node=row.node_id, project=row.disk.project_id)


def _script(parts: Parts, network: UUID, request: Request) -> Response:
    row = _authentic(parts, network, request)
    if row is None:
        return _nothing()
    return _told(parts, row)


def _told(parts: Parts, row: Boot) -> Response:
    """Return a node's script, and note that it has it."""
    with parts.db.write() as session:
        current = session.get_one(Boot, row.id)
        boot.reached(session, current, Milestone.SCRIPT, "boot script fetched", kind="boot.script")
    return PlainTextResponse(render(boot.boot_target(parts, row), parts.texts))


def _own_script(parts: Parts, network: UUID, request: Request) -> Response:
    """Answer a node that was told by another server where it is, and so has no token.

    It has to have the address that was named for it, and its own card: that is what it takes elsewhere to be told
    the token by DHCP. What is said here of others teaches BMI nothing.
    """
    leg = parts.gateway.known_legs.get(network)
    with parts.db.read() as session:
        boots = [row for row in boot.boots_on(session, network) if row.served]
    if leg is None or not boots or boots[0].attachment.network.dhcp not in FOREIGN:
        return _nothing()
    peer = _peer(request)
    card = neighbours.card_of(parts.gateway.rights, leg, IPv4Address(peer))
    row = next((row for row in boots if row.attachment.nic.mac.lower() == card), None)
    if row is None:
        log.warning(
            "network %s: request for a script from %s, card %s, which is no node's", network, peer, card
        )
        return _nothing()
    if row.attachment.address != peer:
        _refused(parts, row, f"the node has the address {peer}, and not {row.attachment.address}")
        return _nothing()
    return _told(parts, row)


def _phone_home(parts: Parts, network: UUID, request: Request, form: dict[str, list[str]]) -> Response:
    row = _authentic(parts, network, request)
    if row is None:
        return _nothing()
    keys = [form[key][0].strip()[:_KEY_KEPT] for key in _KEYS if key in form]
    hostname = form.get("hostname", [row.hostname])[0][:_HOSTNAME_KEPT]
    cleaned = None
    if _CLEANED in form:
        cleaned = [_printable(disk)[:_DISK_KEPT] for disk in form.get(_DISK, [])[:_DISKS_KEPT]]
    with parts.db.write() as session:
        current = session.get_one(Boot, row.id)
        boot.came_up(session, current, _printable(hostname), [_printable(k) for k in keys], cleaned)
    return PlainTextResponse("welcome\n")


def _authentic(parts: Parts, network: UUID, request: Request) -> Boot | None:
    """Return the boot record that a request is entitled to; None, and an event, if to none."""
    try:
        id = UUID(request.path_params["boot"])
    except ValueError:
        return None
    with parts.db.read() as session:
        row = session.get(Boot, id)
    if row is None or not row.served or row.attachment.network_id != network:
        log.warning("network %s: request for no boot record of this network from %s", network, _peer(request))
        return None
    token = str(request.path_params["token"])
    if not hmac.compare_digest(token.encode(), boot.boot_token(parts, id).encode()):
        _refused(parts, row, f"its token is wrong; it came from {_peer(request)}")
        return None
    if _peer(request) != row.attachment.address:
        _refused(parts, row, f"it came from {_peer(request)}")
        return None
    return row


def _refused(parts: Parts, row: Boot, why: str) -> None:
    """Make an event of a refusal, but not of each of a flood, which must not hold up others who write either."""
    message = f"request for the boot script or report refused: {why}"
    recent = select(Event.message).where(
        Event.node_id == row.node_id, Event.kind == _REFUSED, Event.at > now() - _REPEATED
    )
    with parts.db.read() as session:
        told = list(session.scalars(recent.limit(_MOST_REFUSALS)))
    if message not in told and len(told) < _MOST_REFUSALS:
        with parts.db.write() as session:
            record(session, _REFUSED, message, node=row.node_id, project=row.disk.project_id)


def _peer(request: Request) -> str:
    return request.client.host if request.client else ""


def _printable(text: str) -> str:
    """Return what a node said without control characters: it ends up on people's terminals."""
    return "".join(character for character in text if character.isprintable())


def _nothing() -> Response:
    return PlainTextResponse("nothing here\n", status_code=404)
