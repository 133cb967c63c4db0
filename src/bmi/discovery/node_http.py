"""What machines that are no nodes ask for over HTTP, on the discovery network: a script, a system, to be heard.

Anybody on that network may ask. What it costs is bounded: a script is made without a write, a report is taken if it
comes from where the script was fetched, not too long ago, and not too often.
"""

import hmac
import logging
import threading
import time
from collections import OrderedDict
from pathlib import Path
from uuid import UUID

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from bmi.boot.script import Inspection, render_inspection
from bmi.discovery import report, service
from bmi.discovery.inspector import INITRAMFS, KERNEL
from bmi.discovery.network import network_of
from bmi.errors import BadRequest
from bmi.parts import Parts

log = logging.getLogger(__name__)

_TOKEN = "discovery"  # noqa: S105 - what the derived token is good for
_SESSION = 3600.0  # seconds from the script to the report; a machine with much memory tests it first
_PAUSE = 5.0  # seconds between two reports from one address
_REMEMBERED = 1024  # addresses
_MINUTE = 60.0


class Pace:
    """How often reports are taken, of one address and of all. Thread-safe, and bounded."""

    def __init__(self, per_minute: int) -> None:
        self._pause = _MINUTE / per_minute
        self._free_at = 0.0
        self._last: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, address: str, clock: float) -> bool:
        """Count a report, unless it is one too many.

        Args:
            address: Where it comes from.
            clock: Seconds of a clock that only goes forward.
        """
        with self._lock:
            last = self._last.get(address)
            ahead = max(self._free_at, clock) - clock
            if (last is not None and clock - last < _PAUSE) or ahead > _MINUTE - self._pause:
                return False
            self._free_at = max(self._free_at, clock) + self._pause
            self._last[address] = clock
            self._last.move_to_end(address)
            while len(self._last) > _REMEMBERED:
                self._last.popitem(last=False)
            return True


def routes(parts: Parts, network: UUID) -> list[Route]:
    """Return what is answered on a network; nothing is there but on the discovery network."""
    pace = Pace(parts.settings.discovery.reports_per_minute)

    def here() -> bool:
        with parts.db.read() as session:
            return network_of(session, parts.settings) == network

    def script(request: Request) -> Response:
        if not here():
            return _nothing()
        base = "http://{}:{}".format(*request.scope["server"])
        issued = int(time.time())
        token = _token(parts, network, _peer(request), issued)
        settings = parts.settings.discovery
        inspection = Inspection(
            address=base,
            report_url=f"{base}/discovery/{issued}/{token}/report",
            listen=settings.lldp_seconds,
            afterwards=settings.afterwards,
        )
        return PlainTextResponse(render_inspection(inspection, parts.texts))

    def file(request: Request) -> Response:
        path = parts.settings.inspector / Path(request.url.path).name
        if not here() or not path.is_file():
            return _nothing()
        return FileResponse(path, media_type="application/octet-stream")

    def take(request: Request, body: bytes) -> Response:
        if not here() or not _is_authentic(parts, network, request):
            return _nothing()
        if not pace.take(_peer(request), time.monotonic()):
            return PlainTextResponse("too many reports\n", status_code=429)
        try:
            told = report.parse(body)
        except BadRequest as error:
            log.warning("a report from %s: %s", _peer(request), error.message)
            return PlainTextResponse(f"{error.message}\n", status_code=400)
        service.take(parts, told, _peer(request))
        log.info("machine %s was discovered at %s", told.mac, _peer(request))
        return PlainTextResponse("welcome\n")

    async def take_report(request: Request) -> Response:
        return await run_in_threadpool(take, request, await request.body())

    return [
        Route("/discovery/script.ipxe", script),
        Route(f"/discovery/{KERNEL}", file),
        Route(f"/discovery/{INITRAMFS}", file),
        Route("/discovery/{issued}/{token}/report", take_report, methods=["POST"]),
    ]


def _token(parts: Parts, network: UUID, peer: str, issued: int) -> str:
    """Return what a machine must show that got its script at an address, at a moment (seconds since 1970)."""
    return parts.vault.derive(_TOKEN, f"{network} {peer} {issued}")


def _is_authentic(parts: Parts, network: UUID, request: Request) -> bool:
    issued, token = str(request.path_params["issued"]), str(request.path_params["token"])
    if not (issued.isascii() and issued.isdigit() and len(issued) <= 12):
        return False
    expected = _token(parts, network, _peer(request), int(issued))
    return (
        hmac.compare_digest(token.encode(), expected.encode()) and 0 <= time.time() - int(issued) < _SESSION
    )


def _peer(request: Request) -> str:
    return request.client.host if request.client else ""


def _nothing() -> Response:
    return PlainTextResponse("nothing here\n", status_code=404)
