"""Consoles over SSH: the port at which a controller has a node's serial line (DSP0268, SerialConsole).

The controller's password goes there, so the host key is looked at first: a node's BMC option `ssh_host_key` pins
it.
"""

import base64
import hashlib
import hmac
import logging
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field

import paramiko

from bmi.drivers.power import OpenConsole
from bmi.errors import BmcRefused, BmcUnreachable, ConsoleLost, ConsoleUnavailable

HOST_KEY = "ssh_host_key"
"""BMC option: the key that the SSH service shows, as `ssh-ed25519 AAAA...` or as `SHA256:...`."""

_KEEP_ALIVE = 30  # seconds; a controller that vanished is noticed by TCP after that, not after hours
_CHUNK = 65536
_STUCK = 5.0  # seconds for which a session may take nothing that is typed

# It tells of every connection that could not be had, with a traceback; errors tell that already.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Place:
    """Where a console is, and how to get in."""

    name: str
    """The controller's address, as errors call it."""
    host: str
    port: int
    username: str
    password: str = field(repr=False)
    host_key: str
    """What pins the host key."""
    verify: bool
    """Whether a host key that is not pinned is refused."""
    timeout: float
    """Seconds for the connection, and for each step of the log-in."""
    command: str | None = None
    """What to type first, where the port leads to the controller's own command line."""


class SshConsole(OpenConsole):
    """One session."""

    def __init__(self, transport: paramiko.Transport, channel: paramiko.Channel, name: str) -> None:
        self._transport = transport
        self._channel = channel
        self._name = name

    def read(self, timeout: float) -> bytes:
        """Return what the node said, as it comes; nothing if it said nothing in this time."""
        self._channel.settimeout(max(timeout, 0.001))  # zero would mean something else
        try:
            said: bytes = self._channel.recv(_CHUNK)
        except TimeoutError:
            return b""
        if not said:
            raise self._lost()
        return said

    def write(self, data: bytes) -> None:
        """Type something."""
        end = time.monotonic() + _STUCK
        while data:
            try:
                sent = self._channel.send(data)
            except TimeoutError:  # of the reader, who is on the same channel
                sent = None
            except (OSError, EOFError, paramiko.SSHException) as error:
                raise self._lost() from error
            if sent == 0 or time.monotonic() > end:
                raise self._lost()
            data = data[sent or 0 :]

    def close(self) -> None:
        """End the session."""
        self._channel.close()
        self._transport.close()

    def _lost(self) -> ConsoleLost:
        return ConsoleLost(
            f"the console of BMC {self._name} has ended", next_step="it is opened again when the BMC gives it"
        )


def connect(place: Place) -> SshConsole:
    """Open a console.

    Raises:
        BmcUnreachable: Nothing answers, or what answers breaks off.
        BmcRefused: The user is refused, or the host key is another than the one that is pinned.
        ConsoleUnavailable: No host key is pinned; or the controller lets in, and gives no console.
    """
    transport = None
    try:
        line = socket.create_connection((place.host, place.port), timeout=place.timeout)
        transport = paramiko.Transport(line)
        transport.banner_timeout = transport.auth_timeout = place.timeout
        transport.start_client(timeout=place.timeout)
        _check(place, transport.get_remote_server_key())
        transport.set_keepalive(_KEEP_ALIVE)
        _log_in(transport, place)
        return SshConsole(transport, _open(transport, place), place.name)
    except BaseException as error:
        if transport is not None:
            transport.close()
        if isinstance(error, OSError | EOFError | paramiko.SSHException):
            raise BmcUnreachable(
                f"the console of BMC {place.name} at {place.host}:{place.port} does not answer: "
                f"{getattr(error, 'strerror', None) or error or type(error).__name__}",
                next_step="check that SSH to its console is turned on there, and the network between",
            ) from error
        raise


def fingerprint(key: paramiko.PKey) -> str:
    """Return a key's fingerprint as OpenSSH writes it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")


def _check(place: Place, key: paramiko.PKey) -> None:
    """Refuse a host that is not the one that is pinned, before it hears the password."""
    shown = fingerprint(key)
    pinned = place.host_key.strip()
    if not pinned:
        if place.verify:
            raise ConsoleUnavailable(
                f"the host key of the console of BMC {place.name} is not known: it shows {key.get_name()} {shown}",
                next_step=f"if that is its key, register the node with the BMC option {HOST_KEY}={shown}; "
                "or set the driver's option 'verify_host_keys' to false",
            )
        return
    same = pinned == shown
    if not pinned.startswith("SHA256:"):
        words = pinned.split()
        with suppress(ValueError, IndexError):
            same = hmac.compare_digest(base64.b64decode(words[1], validate=True), key.asbytes())
    if not same:
        raise BmcRefused(
            f"the console of BMC {place.name} shows another host key than the one that is pinned: {shown}",
            next_step=f"find out whether that is the BMC; if so, correct its option {HOST_KEY}",
        )


def _log_in(transport: paramiko.Transport, place: Place) -> None:
    try:
        transport.auth_password(place.username, place.password, fallback=True)
    except paramiko.AuthenticationException as error:
        raise BmcRefused(
            f"the console of BMC {place.name} refuses user {place.username!r}",
            next_step="correct user name, password or role of the node's BMC, and allow that user SSH",
        ) from error


def _open(transport: paramiko.Transport, place: Place) -> paramiko.Channel:
    try:
        channel = transport.open_session(timeout=place.timeout)
        channel.set_combine_stderr(True)
        channel.settimeout(place.timeout)
        channel.get_pty(term="vt100", width=80, height=24)
        channel.invoke_shell()
        if place.command:
            channel.sendall(place.command.encode() + b"\r")
    except (paramiko.ChannelException, paramiko.SSHException, TimeoutError) as error:
        if not transport.is_active():
            raise
        raise ConsoleUnavailable(
            f"BMC {place.name} gives no console: {error or 'it opens no session'}",
            next_step="end the session that somebody else has there, or turn the console on",
        ) from error
    return channel
