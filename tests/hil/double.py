"""A HIL and its OBMd over HTTP on loopback, with the habits of the real ones. docs/hil.md lists them."""

import base64
import contextlib
import json
import re
import ssl
import threading
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hil.world import Node, Page, Refusal, User, World

HTML = b"<!DOCTYPE HTML><title>500 Internal Server Error</title><h1>Internal Server Error</h1>"
OBM = {
    "power_on": "POST",
    "power_off": "POST",
    "power_cycle": "POST",
    "boot_device": "PUT",
    "power_status": "GET",
}
OBM_03 = {"power_off", "power_cycle", "boot_device"}


@dataclass
class Seen:
    """One request."""

    method: str
    path: str
    authorization: str | None
    content_type: str | None
    body: bytes


@dataclass
class Double:
    """A HIL that answers."""

    world: World
    url: str = ""
    obmd_url: str = ""
    seen: list[Seen] = field(default_factory=list)
    obmd_seen: list[Seen] = field(default_factory=list)
    _obmd: Any = None

    def restart_obmd(self) -> None:
        """Let OBMd be away for a moment, and come back at the same port."""
        port = urlsplit(self.obmd_url).port or 0
        self._obmd.__exit__(None, None, None)
        self._obmd = _serving(ObmdHandler, self, port)
        self._obmd.__enter__()


class Handler(BaseHTTPRequestHandler):
    """What both have in common."""

    protocol_version = "HTTP/1.1"
    double: Double
    log: list[Seen]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.take()

    do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815 - the server's own names

    def take(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.log.append(
            Seen(
                self.command,
                self.path,
                self.headers.get("Authorization"),
                self.headers.get("Content-Type"),
                body,
            )
        )
        try:
            with self.double.world.lock:
                self.double.world.daemon()
                self.respond(*self.answer(body))
        except Refusal as no:
            self.respond(no.status, {"type": no.kind, "msg": no.msg})
        except Page as page:
            self.respond(page.status, HTML)

    def answer(self, body: bytes) -> tuple[int, Any]:
        raise NotImplementedError

    def respond(self, status: int, content: Any, **headers: str) -> None:
        if isinstance(content, str):  # where a redirect leads to
            headers["Location"], content = content, None
        raw = (
            content
            if isinstance(content, bytes)
            else b""
            if content is None
            else json.dumps(content).encode()
        )
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(raw)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):  # of one that was killed
            self.wfile.write(raw)


class HilHandler(Handler):
    """HIL's own calls."""

    def answer(self, body: bytes) -> tuple[int, Any]:
        world = self.double.world
        if world.broken:
            raise Page(500)
        parts = [unquote(part) for part in urlsplit(self.path).path.split("/")[1:]]
        if world.version != "0.2":
            if parts[0] != "v0":
                raise Page(404)
            parts = parts[1:]
        user = self.user()
        method = self.command
        world.calls[f"{method} {parts[0]}"] += 1
        match method, parts:
            case "GET", ["node", name]:
                node = world.node(name)
                if node.project is not None:
                    self.require(user, node.project)
                return 200, world.described(name)
            case "GET", ["nodes", "free"]:
                return 200, [name for name, node in world.nodes.items() if node.project is None]
            case "GET", ["project", project, "nodes" | "networks" as what]:
                self.require(user, project)
                if what == "nodes":
                    return 200, [name for name, node in world.nodes.items() if node.project == project]
                return 200, [
                    name
                    for name, network in world.networks.items()
                    if network.access is not None and project in network.access
                ]
            case "GET", ["networks"] if world.version != "0.2":
                return 200, {
                    name: {
                        "network_id": str(network.vlan),
                        "projects": None if network.access is None else sorted(network.access),
                    }
                    for name, network in world.networks.items()
                    if network.access is None or user.admin
                }
            case "GET", ["network", name]:
                if name not in world.networks:
                    raise Refusal(404, "NotFoundError", f"Network {name} does not exist.")
                network = world.networks[name]
                if network.access is not None and not (user.admin or network.access & user.projects):
                    raise no_access()
                return 200, {
                    "name": name,
                    "owner": "admin",
                    "access": None if network.access is None else sorted(network.access),
                    "channels": world.channels(name),
                    "connected-nodes": {},
                }
            case "GET", ["networking_action", id] if world.version != "0.2":
                if id not in world.actions:
                    raise Refusal(404, "NotFoundError", "status_id not found")
                return 200, {"status": world.actions[id].status, "node": world.actions[id].node}
            case "POST", ["node", name, "nic", label, "connect_network" | "detach_network" as verb]:
                asked = self.asked(body, {"network"}, {"channel"} if verb == "connect_network" else set())
                self.require_node(user, name)
                id = world.change(
                    name,
                    label,
                    asked["network"],
                    asked.get("channel"),
                    connect=verb == "connect_network",
                )
                return 202, None if world.version == "0.2" else {"status_id": id}
            case "POST", ["project", project, "detach_node"]:
                self.require(user, project)
                world.give_back(project, self.asked(body, {"node"})["node"])
                return 200, None
            case "PUT", ["node", name, "obm"] if world.version == "0.4":
                asked = self.asked(body, {"enabled"})
                node = self.require_node(user, name)
                if not node.obm or not asked["enabled"]:
                    node.token = uuid.uuid4().hex
                node.obm = asked["enabled"]
                return 200, None
            case _, ["node", name, verb] if OBM.get(verb) == method:
                return self.obm(user, name, verb, body)
        raise Page(404)

    def obm(self, user: User, name: str, verb: str, body: bytes) -> tuple[int, Any]:
        world = self.double.world
        if world.version != "0.4" and verb not in OBM_03:
            raise Page(404)
        node = self.require_node(user, name)
        needs = {"boot_device": {"bootdev"}}.get(verb, set())
        asked = self.asked(body, needs, {"force"} if verb == "power_cycle" else set())
        if world.version != "0.4":
            return 200, world.power(node, verb, asked)
        if not node.obm:
            raise Refusal(409, "IllegalStateError", "OBM is not enabled")
        obmd = node.obmd or self.double.obmd_url
        return 307, f"{obmd}/node/{name}/{verb}?token={node.token}"

    def user(self) -> User:
        failed = Refusal(
            401,
            "AuthorizationError",
            "Authentication failed. Authentication is required to use this service.",
        )
        kind, _, encoded = (self.headers.get("Authorization") or "").partition(" ")
        if kind != "Basic":
            raise failed
        name, _, secret = base64.b64decode(encoded).decode().partition(":")
        user = self.double.world.users.get(name)
        if user is None:
            raise Refusal(404, "NotFoundError", f"User {name} does not exist.")
        if user.password != secret:
            raise failed
        return user

    def require(self, user: User, project: str) -> None:
        if project not in self.double.world.projects:
            raise Refusal(404, "NotFoundError", f"Project {project} does not exist.")
        if not user.admin and project not in user.projects:
            raise no_access()

    def require_node(self, user: User, name: str) -> Node:
        node = self.double.world.node(name)
        if node.project is None:
            raise Refusal(409, "ProjectMismatchError", "Node not in project")
        self.require(user, node.project)
        return node

    def asked(self, body: bytes, needed: Collection[str], also: Collection[str] = ()) -> dict[str, Any]:
        """Return the arguments, as HIL takes them."""
        if self.headers.get("Content-Type") == "application/x-www-form-urlencoded":
            raise Refusal(400, "ValidationError", "Request arguments are not valid for this request")
        if self.command == "GET" and body:
            raise Refusal(400, "ValidationError", "A GET request must not have a body")
        try:
            found = json.loads(body or b"{}")
        except ValueError:
            raise Refusal(400, "ValidationError", "The request body is not valid JSON") from None
        if not {*needed} <= {*found} <= {*needed, *also}:
            raise Refusal(400, "ValidationError", "Request arguments are not valid for this request")
        if found.get("channel") == "":
            raise Refusal(400, "BadArgumentError", "Channel u'', is not legal for this network.")
        return dict(found)


class ObmdHandler(Handler):
    """OBMd's calls. It knows tokens alone, and wants nothing to do with HIL's users."""

    def answer(self, body: bytes) -> tuple[int, Any]:
        if self.headers.get("Authorization"):
            raise Page(400)
        parts = urlsplit(self.path)
        found = re.fullmatch(r"/node/([^/]+)/(\w+)", parts.path)
        if found is None or OBM.get(found[2]) != self.command or found[1] not in self.double.world.nodes:
            raise Page(404)
        node = self.double.world.nodes[unquote(found[1])]
        if parse_qs(parts.query).get("token") != [node.token]:
            raise Page(401)
        if found[2] in ("power_cycle", "boot_device") and not body:
            raise Page(400)
        return 200, self.double.world.power(node, found[2], json.loads(body or b"{}"))


def no_access() -> Refusal:
    return Refusal(401, "AuthorizationError", "You do not have access to the required project.")


@contextmanager
def _serving(
    kind: type[Handler], double: Double, port: int = 0, tls: tuple[Path, Path] | None = None
) -> Iterator[str]:
    log = double.seen if kind is HilHandler else double.obmd_seen
    handler = type(kind.__name__, (kind,), {"double": double, "log": log})
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        server.daemon_threads = True
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def serving(world: World, tls: tuple[Path, Path] | None = None) -> Iterator[Double]:
    """Give a HIL, and an OBMd at another port.

    Args:
        world: What there is.
        tls: Files of a certificate and of its key, with which HIL speaks TLS.
    """
    double = Double(world)
    double._obmd = _serving(ObmdHandler, double)
    double.obmd_url = double._obmd.__enter__()
    try:
        with _serving(HilHandler, double, tls=tls) as double.url:
            yield double
    finally:
        double._obmd.__exit__(None, None, None)
