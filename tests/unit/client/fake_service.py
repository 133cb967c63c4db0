"""A small HTTP server with canned answers, for the client and the command line to talk to."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import pytest

BROKEN = b"<broken>"  # where it stands in a stream, the connection is cut in the middle of a chunk


@dataclass(frozen=True)
class Asked:
    """A request that came in."""

    method: str
    path: str
    query: dict[str, str]
    token: str | None
    body: Any


@dataclass(frozen=True)
class Answer:
    """What to send back."""

    json: Any = None
    status: int = 200
    raw: bytes | None = None
    type: str = "application/json"
    stream: tuple[bytes, ...] | None = None
    headers: dict[str, str] = field(default_factory=dict)


Route = Answer | Callable[[Asked], Answer]


class Service:
    """Answers on a free loopback port, and remembers what it was asked."""

    def __init__(self) -> None:
        self.routes: dict[tuple[str, str], Route] = {}
        self.asked: list[Asked] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                service._serve(self)

            do_POST = do_PATCH = do_PUT = do_DELETE = do_GET  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def on(self, method: str, path: str, route: Route) -> None:
        """Say what to answer to a request, for a path after /v1."""
        self.routes[method, f"/v1{path}"] = route

    def requests(self, method: str, path: str) -> list[Asked]:
        """Return what was asked of a path after /v1."""
        return [one for one in self.asked if (one.method, one.path) == (method, f"/v1{path}")]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        asked = Asked(
            request.command,
            parts.path,
            {key: values[0] for key, values in parse_qs(parts.query).items()},
            (request.headers.get("Authorization") or "").removeprefix("Bearer ") or None,
            json.loads(body) if body else None,
        )
        self.asked.append(asked)
        route = self.routes.get((asked.method, asked.path), problem(404, "not-found", f"no {asked.path}"))
        answer = route if isinstance(route, Answer) else route(asked)
        request.send_response(answer.status)
        if answer.stream is not None:
            self._stream(request, answer.stream)
            return
        content = answer.raw if answer.raw is not None else json.dumps(answer.json).encode()
        request.send_header("Content-Type", answer.type)
        request.send_header("Content-Length", str(len(content)))
        for name, value in answer.headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(content)

    def _stream(self, request: BaseHTTPRequestHandler, chunks: tuple[bytes, ...]) -> None:
        request.send_header("Content-Type", "text/event-stream")
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        for chunk in chunks:
            if chunk == BROKEN:
                request.wfile.write(b"ff\r\nevent: opera")
                request.close_connection = True
                return
            request.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        request.wfile.write(b"0\r\n\r\n")


def problem(status: int, code: str, detail: str, next_step: str = "look for the right name") -> Answer:
    """Return an error as the service tells it."""
    return Answer(
        {
            "type": f"urn:bmi:error:{code}",
            "title": code,
            "status": status,
            "detail": detail,
            "code": code,
            "next_step": next_step,
        },
        status=status,
        type="application/problem+json",
    )


def in_turn(*answers: Answer) -> Callable[[Asked], Answer]:
    """Return a route that gives one answer after the other, and stays with the last."""
    left = list(answers)

    def route(asked: Asked) -> Answer:
        return left.pop(0) if len(left) > 1 else left[0]

    return route


def event(operation: Mapping[str, Any]) -> bytes:
    """Return an operation as a server-sent event."""
    return f"event: operation\ndata: {json.dumps(operation)}\n\n".encode()


WHEN = "2026-01-02T10:00:00Z"
NAMED: dict[str, Any] = {"id": "0199c5d2-0000-7000-8000-0000000000aa", "name": "blue", "created_at": WHEN}
PROJECT = {
    **NAMED,
    "quota": {"images": 20, "image_bytes": None, "disks": None, "disk_bytes": 2 << 40},
    "use": {
        "images": 3,
        "image_bytes": 6 << 30,
        "disks": 1,
        "disk_bytes": 20 << 30,
        "trashed_images": 1,
        "trashed_image_bytes": 2 << 30,
    },
}
IMAGE = {
    **NAMED,
    "name": "debian",
    "project": None,
    "state": "ready",
    "origin": "build",
    "parent": None,
    "parent_name": None,
    "size": 2 << 30,
    "usage": {"own": 700 << 20, "shared": 0},
    "golden": True,
    "description": "",
    "labels": {},
    "visibility": "public",
    "deprecated": None,
    "deleted_at": None,
}
DISK = {
    **NAMED,
    "name": "web",
    "project": "blue",
    "state": "ready",
    "image": None,
    "image_name": "debian",
    "node": "n1",
    "size": 20 << 30,
    "usage": {"own": 4096, "shared": 700 << 20},
}
NETWORK = {
    **NAMED,
    "name": "lan",
    "project": "blue",
    "state": "ready",
    "vlan": 101,
    "subnet": "10.7.0.0/24",
    "gateway": "10.7.0.1",
}
TOKEN = {**NAMED, "name": "ci", "role": "member", "project": "blue", "user": None, "expires_at": None}
ID = "0199c5d2-7d1c-7a55-9a43-0c8f1d2e3f40"


def operation(state: str, *steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return an operation's JSON."""
    ended = state in ("succeeded", "failed", "cancelled")
    return {
        "id": ID,
        "verb": "provision",
        "subject": "node n1",
        "state": state,
        "project": "blue",
        "created_at": "2026-01-02T10:00:00Z",
        "started_at": "2026-01-02T10:00:00Z",
        "ended_at": "2026-01-02T10:00:42Z" if ended else None,
        "steps": list(steps),
        "error": None,
        "result": {},
        "ending": None,
        "retry_of": None,
        **more,
    }


def step(name: str, state: str = "done", detail: str = "", progress: float | None = None) -> dict[str, Any]:
    """Return a step's JSON."""
    return {
        "name": name,
        "state": state,
        "started_at": "2026-01-02T10:00:00Z",
        "ended_at": None if state == "running" else "2026-01-02T10:00:01.500000Z",
        "detail": detail,
        "progress": progress,
    }


def node(name: str = "n1", state: str = "available", **more: Any) -> dict[str, Any]:
    """Return a node's JSON."""
    return {
        "id": "0199c5d2-0000-7000-8000-000000000001",
        "name": name,
        "state": state,
        "project": None,
        "bmc": {"driver": "redfish", "address": "https://10.0.0.11", "username": "admin"},
        "nics": [{"mac": "52:54:00:00:00:01", "switch": "tor1", "port": "7"}],
        "disk": None,
        "image": None,
        "network": None,
        "address": None,
        "portal": None,
        "gateway": None,
        "ssh_host_keys": [],
        "operation": None,
        "problem": None,
        "console": False,
        "created_at": "2026-01-02T10:00:00Z",
        **more,
    }


def named(thing: Mapping[str, Any], *names: str) -> Answer:
    """Return a list of things that differ in their names."""
    return page(*({**thing, "name": name} for name in names))


def page(*items: Any, next: str | None = None) -> Answer:
    """Return one page of a list."""
    return Answer({"items": list(items), "next": next})


@pytest.fixture
def service() -> Iterator[Service]:
    """Give a running service without any answers yet."""
    with Service() as running:
        yield running
