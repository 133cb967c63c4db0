"""The Redfish service of the lab's nodes: sushy-tools' application over our own machines.

sushy-tools (2.2.0, pinned) has the protocol; its systems drivers talk to libvirt, Nova or Ironic. One of our own
is put in place of its `fake` driver, which would only pretend, after a random delay. The application serves one
set of systems to everybody, so what makes it a controller of one node stands before it: `Controller`.
"""

import base64
import binascii
import hmac
import io
import json
import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import flask
from sushy_tools import error
from sushy_tools.emulator import main as emulator
from sushy_tools.emulator.resources.systems.base import AbstractSystemsDriver
from werkzeug.wrappers import Request, Response

from bmi.drivers.power import BootDevice
from bmi.errors import BmiError, WrongState
from bmi.lab.node import Firmware, VirtualNode

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]

SESSIONS = "/redfish/v1/SessionService/Sessions"

_PUBLIC = frozenset({"", "redfish", "redfish/v1"})  # paths that need no log-in (DSP0266, 13.3.2)
_SESSIONS_MAX = 16  # the oldest goes when another logs in: clients that were killed never log out
_ENABLED = "BootSourceOverrideEnabled"
_NODE = "bmi.node"  # key of the WSGI environment: whose controller was asked

_MODES = {Firmware.BIOS: "Legacy", Firmware.UEFI: "UEFI"}  # sushy-tools' words, also in its answers
_DEVICES = {"Pxe": BootDevice.NETWORK, "Hdd": BootDevice.DISK}
_TARGETS = {device: target for target, device in _DEVICES.items()}


def application(state_dir: Path) -> Wsgi:
    """Return sushy-tools' application, over the lab's nodes.

    Args:
        state_dir: Folder for what sushy-tools remembers by itself, such as indicator lights.
    """
    app = emulator.app
    emulator.fakedriver.FakeDriver = LabSystems
    app.config["SUSHY_EMULATOR_FAKE_DRIVER"] = True
    app.config["SUSHY_EMULATOR_STATE_DIR"] = str(state_dir)
    app.logger.setLevel(logging.WARNING)  # each request is noted once, by the server
    wsgi: Wsgi = app
    return wsgi


class Controller:
    """The management controller of one node: knows its user, and passes only requests about its own node.

    Args:
        node: The node.
        username: Name of its only user.
        password: The user's password.
        app: What serves the requests that are let through.
        console: TCP port of the node's console over SSH.
    """

    def __init__(self, node: VirtualNode, username: str, password: str, app: Wsgi, *, console: int) -> None:
        self.node = node
        self._username = username
        self._password = password
        self._app = app
        self._console = console
        self._sessions: OrderedDict[str, str] = OrderedDict()  # token by session id
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Serve a request (PEP 3333)."""
        request = Request(environ)
        path = request.path.rstrip("/")
        if path.strip("/") in _PUBLIC and request.method == "GET":
            return self._root(environ)(environ, start_response)
        if path == SESSIONS and request.method == "POST":
            return self._log_in(request)(environ, start_response)
        if not self._known(request):
            return _refusal(HTTPStatus.UNAUTHORIZED, "log in first")(environ, start_response)
        if path.startswith(f"{SESSIONS}/") and request.method == "DELETE":
            return self._log_out(path)(environ, start_response)
        environ[_NODE] = self.node
        if path == f"/redfish/v1/Systems/{self.node.spec.id}":
            return self._system(request)(environ, start_response)
        return self._app(environ, start_response)

    def _system(self, request: Request) -> Response:
        """Serve the system, and what sushy-tools lacks: its boot override is always on."""
        content = request.get_data()
        wanted = request.get_json(force=True, silent=True) if request.method == "PATCH" else None
        boot = wanted.get("Boot") if isinstance(wanted, dict) else None
        if isinstance(boot, dict) and boot.get(_ENABLED) == "Disabled":
            self.node.forget_boot_device()
            return Response(status=HTTPStatus.NO_CONTENT)
        response = Response.from_app(self._app, {**request.environ, "wsgi.input": io.BytesIO(content)})
        if request.method == "GET" and response.status_code == HTTPStatus.OK:
            document = json.loads(response.get_data())
            if self.node.boot_override() is None:
                document["Boot"] |= {_ENABLED: "Disabled", "BootSourceOverrideTarget": "None"}
            document["SerialConsole"] = self._serial_console()
            response.set_data(json.dumps(document))
        return response

    def _serial_console(self) -> dict[str, Any]:
        """Say where the serial line is (DSP0268, ComputerSystem 1.13): a port of its own, no command line."""
        ssh = {"ServiceEnabled": True, "Port": self._console, "SharedWithManagerCLI": False}
        return {"MaxConcurrentSessions": 1, "SSH": ssh, "IPMI": {"ServiceEnabled": False}}

    def _root(self, environ: dict[str, Any]) -> Response:
        """Serve the service root, and say where to log in: sushy-tools knows no sessions."""
        response = Response.from_app(self._app, {**environ, _NODE: self.node})
        if response.status_code == HTTPStatus.OK:
            links = {"Links": {"Sessions": {"@odata.id": SESSIONS}}}
            response.set_data(json.dumps({**json.loads(response.get_data()), **links}))
        return response

    def _log_in(self, request: Request) -> Response:
        given = request.get_json(force=True, silent=True)
        if not isinstance(given, dict) or not self._is_user(given.get("UserName"), given.get("Password")):
            return _refusal(HTTPStatus.UNAUTHORIZED, "wrong user name or password")
        session, token = secrets.token_hex(4), secrets.token_urlsafe(24)
        with self._lock:
            self._sessions[session] = token
            while len(self._sessions) > _SESSIONS_MAX:
                self._sessions.popitem(last=False)
        place = f"{SESSIONS}/{session}"
        body = {"@odata.id": place, "Id": session, "Name": "Session", "UserName": self._username}
        response = _answer(HTTPStatus.CREATED, body)
        response.headers["X-Auth-Token"] = token
        response.headers["Location"] = place
        return response

    def _log_out(self, path: str) -> Response:
        with self._lock:
            gone = self._sessions.pop(path.rpartition("/")[2], None)
        return _refusal(HTTPStatus.NOT_FOUND, "no such session") if gone is None else Response(status=204)

    def _known(self, request: Request) -> bool:
        if token := request.headers.get("X-Auth-Token"):
            with self._lock:
                return any(_same(token, valid) for valid in self._sessions.values())
        return self._is_user(*_basic(request.headers.get("Authorization", "")))

    def _is_user(self, username: object, password: object) -> bool:
        return _same(username, self._username) and _same(password, self._password)


class LabSystems(AbstractSystemsDriver):  # type: ignore[misc]  # sushy-tools has no types
    """What sushy-tools asks of the machines; which machine, the controller has written on the request."""

    @classmethod
    def initialize(cls, config: Any, logger: Any) -> "type[LabSystems]":
        """Return what makes the driver, as sushy-tools expects it."""
        super().initialize(config, logger)
        return cls

    @property
    def driver(self) -> str:
        """Name the driver."""
        return "<bmi lab>"

    @property
    def systems(self) -> list[str]:
        """List the only system that this controller has."""
        return [str(_asked().spec.id)]

    def uuid(self, identity: str) -> str:
        """Return the system's UUID, which is its identity too."""
        return str(_node(identity).spec.id)

    def name(self, identity: str) -> str:
        """Return the node's name."""
        return _node(identity).spec.name

    def get_power_state(self, identity: str) -> str:
        """Say whether the node has power."""
        return "On" if _node(identity).is_on() else "Off"

    def set_power_state(self, identity: str, state: str) -> None:
        """Press one of the buttons."""
        node = _node(identity)
        buttons = {
            "On": node.power_on,
            "ForceOn": node.power_on,
            "ForceOff": node.power_off,
            "GracefulShutdown": node.shut_down,
            "ForceRestart": node.reset,
        }
        if state not in buttons:
            raise error.NotSupportedError(f"node {node.spec.name} cannot {state}")
        try:
            buttons[state]()
        except WrongState as failure:
            raise error.Conflict(str(failure)) from failure
        except BmiError as failure:
            raise error.FishyError(str(failure)) from failure

    def get_boot_device(self, identity: str) -> str:
        """Say what the firmware starts from."""
        return _TARGETS[_node(identity).boot_device()]

    def set_boot_device(self, identity: str, boot_source: str) -> None:
        """Choose what the firmware starts from."""
        node = _node(identity)
        if boot_source not in _DEVICES:
            raise error.BadRequest(f"node {node.spec.name} cannot start from {boot_source}")
        node.set_boot_device(_DEVICES[boot_source])

    def get_boot_mode(self, identity: str) -> str:
        """Say which firmware the node has."""
        return _MODES[_node(identity).spec.firmware]

    def set_boot_mode(self, identity: str, boot_mode: str) -> None:
        """Refuse another firmware than the node has."""
        if boot_mode != self.get_boot_mode(identity):
            raise error.BadRequest(f"the node has no {boot_mode} firmware")

    def get_total_memory(self, identity: str) -> float:
        """Say how much memory there is, in GiB."""
        return _node(identity).spec.memory / 1024

    def get_total_cpus(self, identity: str) -> int:
        """Say how many processors there are."""
        return _node(identity).spec.cpus

    def get_nics(self, identity: str) -> list[dict[str, str]]:
        """List the network cards."""
        return [{"id": nic.mac, "mac": nic.mac} for nic in _node(identity).spec.nics]


def _asked() -> VirtualNode:
    node: VirtualNode = flask.request.environ[_NODE]
    return node


def _node(identity: str) -> VirtualNode:
    node = _asked()
    if identity != str(node.spec.id):
        raise error.NotFound(f"this controller has no system {identity}")
    return node


def _basic(header: str) -> tuple[str | None, str | None]:
    """Read user name and password from an Authorization header (RFC 7617)."""
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "basic":
        return None, None
    try:
        username, _, password = base64.b64decode(token, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None, None
    return username, password


def _same(given: object, expected: str) -> bool:
    return isinstance(given, str) and hmac.compare_digest(given.encode(), expected.encode())


def _answer(status: HTTPStatus, body: dict[str, Any]) -> Response:
    return Response(json.dumps(body), status=status, content_type="application/json")


def _refusal(status: HTTPStatus, message: str) -> Response:
    response = _answer(status, {"error": {"code": "Base.1.0.GeneralError", "message": message}})
    if status is HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = 'Basic realm="BMC"'
    return response
