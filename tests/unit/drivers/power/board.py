"""A Redfish controller that behaves as badly as it is told, since no board at hand has the field's manners."""

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = "/redfish/v1/"
SYSTEM = "/redfish/v1/Systems/1"
RESET = f"{SYSTEM}/Actions/ComputerSystem.Reset"
SETTINGS = f"{SYSTEM}/Settings"
MANAGER = "/redfish/v1/Managers/1"
SESSIONS = "/redfish/v1/SessionService/Sessions"

USERNAME = "root"
PASSWORD = "an unusual word"


@dataclass
class Board:
    """The state and the manners of one controller."""

    power: str | None = "Off"
    manufacturer: str | None = "Contoso"
    boot: dict[str, Any] = field(
        default_factory=lambda: {
            "BootSourceOverrideTarget": "None",
            "BootSourceOverrideEnabled": "Disabled",
            "BootSourceOverrideTarget@Redfish.AllowableValues": ["None", "Pxe", "Hdd"],
        }
    )
    resets: tuple[str, ...] = ("On", "ForceOff")
    systems: tuple[str, ...] = (SYSTEM,)
    has_sessions: bool = True

    ignores_power: bool = False
    """Takes power orders and does nothing."""
    ignores_boot: bool = False
    """Takes boot orders and does nothing."""
    hesitates: int = 0
    """So many times an order's effect cannot be read yet."""
    refuses_continuous: bool = False
    refuses_disabled: bool = False
    media_at: str | None = None
    """Path of what has the virtual drive: the system or its manager; None has none."""
    image: str | None = None
    """What is in the virtual drive."""
    can_eject: bool = True
    ignores_eject: bool = False
    servers: int = 1
    """How many the manager has."""
    needs_mode: bool = False
    """Forgets a boot target that comes without a boot mode."""
    fixed_mode: bool = False
    """Refuses to change the boot mode, as HPE's and Cisco's do."""
    wants_etag: bool = False
    """Changes only what comes with the ETag of the resource as it is."""
    restless: int = 0
    """So many times the resource changes between being read and being changed."""
    version: int = 1
    pending: dict[str, Any] | None = None
    """Boot section of a settings resource, which takes the orders in place of the system."""
    refuses_repetition: bool = False
    """Refuses a power order that it is still carrying out."""
    breaks_with: int | None = None
    """HTTP status of every answer but the root's."""
    page: str | None = None
    """What a web server that knows no Redfish answers to everything."""

    tokens: set[str] = field(default_factory=set)
    log_ins: int = 0
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    """Method, path and body of the requests that wanted a change."""
    address: str = ""
    _coming: str | None = None

    def changes(self, path: str) -> list[Any]:
        """Return the bodies of the requests that wanted to change something."""
        return [body for _, asked, body in self.asked if asked == path]

    def get(self, path: str) -> dict[str, Any] | None:
        if path == ROOT:
            sessions = {"Links": {"Sessions": {"@odata.id": SESSIONS}}} if self.has_sessions else {}
            return {"Id": "Root", "Systems": {"@odata.id": "/redfish/v1/Systems"}, **sessions}
        if path == "/redfish/v1/Systems":
            return {"Name": "Systems", "Members": [{"@odata.id": system} for system in self.systems]}
        if path == SETTINGS and self.pending is not None:
            return {"Id": "Settings", "Boot": self.pending}
        if path == MANAGER:
            servers = [
                {"@odata.id": f"/redfish/v1/Systems/{number}"} for number in range(1, self.servers + 1)
            ]
            return {"Id": "1", "Links": {"ManagerForServers": servers}, **self._media_link(MANAGER)}
        if self.media_at and path == self.drives:
            return {"Name": "Virtual media", "Members": [{"@odata.id": f"{self.drives}/Cd"}]}
        if self.media_at and path == f"{self.drives}/Cd":
            return self._drive()
        return self._system() if path in self.systems else None

    @property
    def drives(self) -> str:
        return f"{self.media_at}/VirtualMedia"

    @property
    def eject(self) -> str:
        return f"{self.drives}/Cd/Actions/VirtualMedia.EjectMedia"

    def _media_link(self, owner: str) -> dict[str, Any]:
        return {"VirtualMedia": {"@odata.id": self.drives}} if self.media_at == owner else {}

    def _drive(self) -> dict[str, Any]:
        actions = {"#VirtualMedia.EjectMedia": {"target": self.eject}} if self.can_eject else {}
        return {
            "Id": "Cd",
            "Name": "Virtual CD",
            "Image": self.image,
            "Inserted": self.image is not None,
            "Actions": actions,
        }

    def post(self, path: str, body: Any) -> int:
        if self.media_at and path == self.eject:
            self.image = self.image if self.ignores_eject else None
            return 204
        if path != RESET:
            return 404
        if self.refuses_repetition and self._coming:
            self._arrive()
            return 409
        wanted = "Off" if body["ResetType"] == "ForceOff" else "On"
        if not self.ignores_power:
            self._coming = wanted
        return 204

    def patch(self, path: str, body: Any) -> int:
        wanted = body["Boot"]
        if self.refuses_continuous and wanted.get("BootSourceOverrideEnabled") == "Continuous":
            return 400
        if self.refuses_disabled and wanted.get("BootSourceOverrideEnabled") == "Disabled":
            return 400
        mode = wanted.get("BootSourceOverrideMode")
        if mode and "BootSourceOverrideMode" not in self.boot:
            return 400
        if mode and self.fixed_mode and mode != self.boot["BootSourceOverrideMode"]:
            return 400
        if self.ignores_boot or (self.needs_mode and "BootSourceOverrideMode" not in wanted):
            return 200
        (self.pending if path == SETTINGS and self.pending is not None else self.boot).update(wanted)
        return 200

    def _arrive(self) -> None:
        self.power, self._coming = self._coming, None

    def _system(self) -> dict[str, Any]:
        if self._coming:
            if self.hesitates:
                self.hesitates -= 1
            else:
                self._arrive()
        document: dict[str, Any] = {
            "Id": "1",
            "Manufacturer": self.manufacturer,
            "Boot": self.boot,
            "Actions": {
                "#ComputerSystem.Reset": {
                    "target": RESET,
                    "ResetType@Redfish.AllowableValues": list(self.resets),
                }
            },
        }
        document |= self._media_link(SYSTEM)
        if self.media_at == MANAGER:
            document["Links"] = {"ManagedBy": [{"@odata.id": MANAGER}]}
        if self.power:
            document["PowerState"] = self.power
        if self.pending is not None:
            document["@Redfish.Settings"] = {"SettingsObject": {"@odata.id": SETTINGS}}
        return document


@contextmanager
def serving(board: Board, certificate: Path | None = None) -> Iterator[Board]:
    """Serve a board on a free port, over TLS if it has a certificate (PEM, with its key)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._serve(None)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            self._serve(json.loads(body) if body else {})

        def do_PATCH(self) -> None:
            self.do_POST()

        def do_DELETE(self) -> None:
            self._serve(None)

        def _serve(self, body: Any) -> None:
            if board.page is not None:
                self._answer(200, board.page)
            elif self.path == ROOT:
                self._answer(200, board.get(ROOT))
            elif self.path == SESSIONS and self.command == "POST":
                self._log_in(body)
            elif not self._known():
                self._answer(401)
            elif board.breaks_with:
                self._answer(board.breaks_with)
            elif self.command == "GET":
                found = board.get(self.path)
                tag = {"ETag": f'"{board.version}"'} if board.wants_etag else {}
                self._answer(200 if found else 404, found, tag)
            elif self.command == "DELETE":
                board.tokens.discard(self.path.rpartition("/")[2])
                self._answer(204)
            else:
                if self.command == "PATCH" and board.wants_etag and not self._is_current():
                    self._answer(412 if "If-Match" in self.headers else 428)
                    return
                board.asked.append((self.command, self.path, body))
                act = board.post if self.command == "POST" else board.patch
                self._answer(act(self.path, body))

        def _is_current(self) -> bool:
            if board.restless:
                board.restless -= 1
                board.version += 1
            return self.headers.get("If-Match") == f'"{board.version}"'

        def _log_in(self, body: Any) -> None:
            if not board.has_sessions:
                return self._answer(404)
            if body != {"UserName": USERNAME, "Password": PASSWORD}:
                return self._answer(401)
            board.log_ins += 1
            token = f"token-{board.log_ins}"
            board.tokens.add(token)
            return self._answer(201, {}, {"X-Auth-Token": token, "Location": f"{SESSIONS}/{token}"})

        def _known(self) -> bool:
            if board.has_sessions:
                return self.headers.get("X-Auth-Token") in board.tokens
            return self.headers.get("Authorization", "").startswith("Basic ")

        def _answer(self, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
            if status >= 400 and body is None:
                body = {"error": {"code": "Base.1.0.GeneralError", "message": f"refused with {status}"}}
            content = body.encode() if isinstance(body, str) else json.dumps(body or {}).encode()
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Keep quiet."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Keep quiet about clients that do not trust the certificate."""

    server = Server(("127.0.0.1", 0), Handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    board.address = f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield board
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
