"""Consoles over IPMI: Serial over LAN (IPMI 2.0, chapter 15), with `ipmitool` on a terminal of its own."""

import contextlib
import os
import pty
import select
import signal
import subprocess
import time
import tty
from collections.abc import Sequence
from dataclasses import dataclass, field

from bmi.drivers.power import OpenConsole
from bmi.errors import BmcRefused, BmcUnreachable, BmiError, CommandFailed, ConsoleLost, ConsoleUnavailable

_OPERATIONAL = b"[SOL Session operational."  # what ipmitool says first, up to the end of that line
_CHUNK = 65536
_GOODBYE = 3.0  # seconds in which ipmitool gives the session back; it looks twice a second
_STUCK = 5.0  # seconds for which a session may take nothing that is typed
_SAID = 2000  # bytes of ipmitool's error output that are worth a reader's time

# ipmitool takes this byte, where it begins a line, for the first of an order to itself; typed twice it is one. It
# cannot be switched off, so one is chosen that nobody types: Ctrl-_.
_ESCAPE = b"\x1f"


@dataclass(frozen=True)
class Login:
    """Where and as whom ipmitool logs in."""

    options: Sequence[str]
    """Where, as whom and how patiently, in ipmitool's words."""
    name: str
    """The controller's address, as errors call it."""
    username: str
    password: str = field(repr=False)
    patience: float
    """Seconds that one call may take."""

    def command(self, password_file: str) -> list[str]:
        """Return ipmitool's command up to the verb; the password is in a file, never an argument."""
        return ["ipmitool", "-I", "lanplus", "-f", password_file, "-v", *self.options]


class Escaped:
    """Writes what is typed so that ipmitool finds no order to itself in it."""

    def __init__(self) -> None:
        self._begins_line = True  # so does ipmitool begin

    def __call__(self, data: bytes) -> bytes:
        """Return what to give to ipmitool, which keeps state from one call to the next, so that this does too."""
        out = bytearray()
        for byte in data:
            if self._begins_line and byte == _ESCAPE[0]:
                out += _ESCAPE
            out.append(byte)
            self._begins_line = byte in b"\r\n"
        return bytes(out)


class SolConsole(OpenConsole):
    """One session: an ipmitool that ends when this process does, since its terminal is gone then."""

    def __init__(self, child: "subprocess.Popen[bytes]", terminal: int, name: str, first: bytes) -> None:
        self._child = child
        self._terminal = terminal
        self._name = name
        self._first = first
        self._escaped = Escaped()
        self._closed = False

    def read(self, timeout: float) -> bytes:
        """Return what the node said, as it comes; nothing if it said nothing in this time."""
        if self._first:
            said, self._first = self._first, b""
            return said
        if self._closed:
            raise self._lost()
        ready, _, _ = select.select([self._terminal], [], [], timeout)
        if not ready:
            return b""
        said = _read(self._terminal)
        if not said:
            raise self._lost()
        return said

    def write(self, data: bytes) -> None:
        """Type something."""
        left = self._escaped(data)
        end = time.monotonic() + _STUCK
        while left:
            _, ready, _ = select.select([], [self._terminal], [], max(0.0, end - time.monotonic()))
            if self._closed or not ready:
                raise self._lost()
            try:
                left = left[os.write(self._terminal, left) :]
            except OSError as error:
                raise self._lost() from error

    def close(self) -> None:
        """End the session."""
        if not self._closed:
            self._closed = True
            os.close(self._terminal)  # ipmitool sees that, gives the session back and ends
            end(self._child)

    def _lost(self) -> ConsoleLost:
        return ConsoleLost(
            f"the console of BMC {self._name} has ended", next_step="it is opened again when the BMC gives it"
        )


def activate(login: Login) -> SolConsole:
    """Open a console; a session that another client has, or a dead one left behind, is ended first.

    Raises:
        BmcUnreachable: Nothing answers.
        BmcRefused: The user is refused.
        ConsoleUnavailable: The controller gives no console.
    """
    try:
        return _activate(login)
    except _Taken:
        _deactivate(login)
    try:
        return _activate(login)
    except _Taken as error:
        raise ConsoleUnavailable(
            f"another client has the console of BMC {login.name}, and keeps it",
            next_step="end that session, or have the BMC allow more than one",
        ) from error


class _Taken(Exception):
    """Another session has the console."""


def _activate(login: Login) -> SolConsole:
    child, terminal, errors = _start(login, ["-e", _ESCAPE.decode(), *_verb("activate")])
    try:
        first = _wait_until_open(child, terminal, login)
    except BaseException as error:
        os.close(terminal)
        end(child)
        if isinstance(error, _Ended):
            raise _refusal(login, _drain(errors)) from None
        raise
    finally:
        os.close(errors)
    return SolConsole(child, terminal, login.name, first)


def _deactivate(login: Login) -> None:
    """End whatever session there is; that there is none any more is success."""
    child, terminal, errors = _start(login, _verb("deactivate"))
    try:
        child.wait(login.patience)
    except subprocess.TimeoutExpired:
        pass  # the next try says what is wrong
    finally:
        os.close(terminal)
        os.close(errors)
        end(child)


def _verb(word: str) -> list[str]:
    return ["sol", word]


def _start(login: Login, words: Sequence[str]) -> tuple["subprocess.Popen[bytes]", int, int]:
    """Start ipmitool; returns it, our end of its terminal, and where its errors can be read."""
    reading, writing = os.pipe()
    errors, theirs = os.pipe()
    terminal, slave = pty.openpty()
    try:
        tty.setraw(slave)
        os.write(writing, f"{login.password}\n".encode())
        child = subprocess.Popen(
            [*login.command(f"/dev/fd/{reading}"), *words],
            stdin=slave,
            stdout=slave,
            stderr=theirs,
            pass_fds=[reading],
            start_new_session=True,
        )
    except FileNotFoundError as error:
        os.close(terminal)
        os.close(errors)
        raise CommandFailed(
            "ipmitool is not installed", next_step="install the Debian package ipmitool"
        ) from error
    finally:
        for descriptor in (reading, writing, theirs, slave):
            os.close(descriptor)
    return child, terminal, errors


class _Ended(Exception):
    """ipmitool ended before the session began."""


def _wait_until_open(child: "subprocess.Popen[bytes]", terminal: int, login: Login) -> bytes:
    """Wait until ipmitool says that the session is open; returns what the node said since."""
    said = b""
    deadline = time.monotonic() + login.patience
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise BmcUnreachable(
                f"BMC {login.name} did not open its console in {login.patience:g} s",
                next_step="check that Serial over LAN is turned on there, and that IPMI over LAN answers",
            )
        ready, _, _ = select.select([terminal], [], [], min(left, 0.2))
        if ready:
            piece = _read(terminal)
            if not piece:
                raise _Ended
            said += piece
            _, found, rest = said.partition(_OPERATIONAL)
            _, newline, node = rest.partition(b"\n")
            if found and newline:
                return node
        elif child.poll() is not None:
            raise _Ended


def _refusal(login: Login, said: str) -> BmiError | _Taken:
    """Say why there is no session, from what ipmitool complained of."""
    name = login.name
    if "already active on another session" in said or "activation limit reached" in said:
        return _Taken()
    if "RAKP" in said or "unauthorized name" in said or "insufficient privilege" in said.lower():
        return BmcRefused(
            f"BMC {name} refuses user {login.username!r}: {said}",
            next_step="correct user name and password of the node's BMC, and allow that user Serial over LAN",
        )
    if "Unable to establish" in said or "Get Auth Capabilities" in said:
        return BmcUnreachable(
            f"BMC {name} does not answer to IPMI over LAN",
            next_step="check its address, its cable and power, and that IPMI over LAN is turned on",
        )
    return ConsoleUnavailable(
        f"BMC {name} gives no console: {said or 'it said nothing'}",
        next_step="turn Serial over LAN on there, and allow it to BMI's user",
    )


def _drain(errors: int) -> str:
    os.set_blocking(errors, False)
    with contextlib.suppress(BlockingIOError):
        said = os.read(errors, _SAID).decode(errors="replace")
        lines = (line.strip("> ") for line in said.splitlines())
        return "; ".join(line for line in lines if line and not line.startswith("Loading "))
    return ""


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, _CHUNK)
    except OSError:  # EIO: the other end of the terminal was closed
        return b""


def end(child: "subprocess.Popen[bytes]") -> None:
    """Wait until ipmitool has ended; it is killed where it does not."""
    try:
        child.wait(_GOODBYE)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
