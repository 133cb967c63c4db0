"""One SSH session with a switch. netmiko logs in and prepares it; each answer is bounded in time and size.

netmiko's own loops read until a pattern comes, however much that is, and do not notice a session that has ended.
So all that it reads goes through a channel of ours, which counts, looks at the clock and tells the end.
"""

import logging
import re
import socket
import threading
import time
from contextlib import suppress
from typing import Any

import netmiko
import paramiko
from netmiko.channel import SSHChannel
from netmiko.ssh_dispatcher import CLASS_MAPPER

from bmi.drivers.switch.netmiko.dialects import Reading, Unreadable
from bmi.drivers.switch.netmiko.options import NetmikoOptions, secret
from bmi.errors import SwitchError, SwitchRefused, SwitchUnreachable

MOST = 4 << 20  # bytes of one answer; the whole configuration of a large chassis has one or two MiB
_PIECE = 1 << 16  # bytes read at a time
_TAIL = 600  # characters at the end of what came in which a prompt is looked for
_PROMPT = 16  # characters of a prompt that stay the same in every mode: IOS cuts host names at 20
_SHOWN = 200  # characters of what a switch says that an error shows

# Both tell at level DEBUG what is written and read, and paramiko prints what hostile switches make it stumble over.
# Whatever matters comes as an exception.
for _name in ("netmiko", "paramiko"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)


class Dropped(Exception):
    """The session ended, from the other side."""


class Session:
    """A switch that BMI is logged in to.

    Args:
        options: How to reach it.

    Raises:
        SwitchRefused: It refuses the log-in, or is not the switch it should be; or a file that the options name
            cannot be read.
        SwitchUnreachable: It does not answer.
        SwitchError: It does not answer as such a switch does.
    """

    def __init__(self, options: NetmikoOptions) -> None:
        self._options = options
        self._language = options.language
        self._connection, self._channel = _opened(options)
        base = re.escape(self._connection.base_prompt[:_PROMPT])
        self._prompt = re.compile(rf"(?:^|\n){base}[^\n]*[#>$] ?$")
        self.used = time.monotonic()

    def ask(self, command: str, *, seconds: float | None = None) -> str:
        """Send a command and return what the switch answers, without the echo and the prompt.

        Args:
            command: One line.
            seconds: How long the answer may take; the option `command_timeout` if None.

        Raises:
            Dropped: The session ended.
            SwitchError: There is no answer in time, or too much of it.
        """
        limit = seconds or self._options.command_timeout
        self._channel.limit(limit, f"to {command!r}")
        self._connection.write_channel(command + self._connection.RETURN)
        raw = ""
        while True:
            raw += self._channel.more()
            if not self._prompt.search(self._plain(raw[-_TAIL:])):
                continue
            _, echo, answer = self._plain(raw).partition(command)
            if echo:  # what came before is the end of an answer that was given up, or a message of the day
                return answer.rpartition("\n")[0].removeprefix("\n")

    def read(self) -> Reading:
        """Read all ports and VLANs.

        Raises:
            Dropped: The session ended.
            SwitchError: The switch does not answer, or not as such a switch does.
        """
        answers = [self.ask(question) for question in self._language.questions]
        try:
            return self._language.read(answers)
        except Unreadable as error:
            raise SwitchError(
                f"{self._options.title} was asked for its ports, and answered without {error}",
                next_step=f"check that it is a switch with {self._language.title}, the option dialect, and that "
                f"user {self._options.username} may run: {'; '.join(self._language.questions)}",
            ) from None

    def close(self) -> None:
        """End it."""
        _close(self._connection)

    def _plain(self, text: str) -> str:
        text = self._connection.strip_ansi_escape_codes(text.replace("\x00", ""))
        return re.sub(r"\r*\n\r*|\r+", "\n", text).replace("\x08", "")


def shown(text: str) -> str:
    """Return what a switch said as one harmless line."""
    line = " ".join(text.split())
    line = "".join(letter if letter.isprintable() else "?" for letter in line)
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."


class _Channel(SSHChannel):
    """A channel that ends by itself: at a deadline, at a size, and when the other side has gone."""

    def __init__(self, conn: Any, encoding: str, options: NetmikoOptions) -> None:
        super().__init__(conn, encoding)
        self._conn = conn
        self._title = options.title
        self.limit(options.connect_timeout, "after the log-in")

    def limit(self, seconds: float, what: str) -> None:
        """Count and measure anew."""
        self._end, self._seconds, self._what, self._left = time.monotonic() + seconds, seconds, what, MOST
        self._conn.settimeout(seconds)

    def read_buffer(self) -> str:
        """Return what is there, for netmiko's loops."""
        self._check()
        if self._conn.recv_ready():
            return self._received()
        if self._conn.closed or self._conn.eof_received:
            raise Dropped
        return ""

    def more(self) -> str:
        """Wait until something comes."""
        self._check()
        self._conn.settimeout(max(0.001, self._end - time.monotonic()))
        return self._received()

    def _received(self) -> str:
        try:
            data: bytes = self._conn.recv(_PIECE)
        except TimeoutError:
            self._check()
            raise
        if not data:
            raise Dropped
        self._left -= len(data)
        return data.decode(self.encoding, "replace")

    def _check(self) -> None:
        if self._left < 0:
            raise SwitchError(
                f"{self._title} answers more than {MOST >> 20} MiB {self._what}",
                next_step="look at the switch; no answer is that long",
            )
        if time.monotonic() >= self._end:
            raise SwitchError(
                f"{self._title} did not come to its prompt within {self._seconds:g} s {self._what}",
                next_step="look at the switch's load and console; raise the driver's timeouts if it is only slow",
            )

    def write_channel(self, out_data: str) -> None:
        """Send, for as long as an answer may take."""
        try:
            super().write_channel(out_data)
        except TimeoutError:
            self._check()
            raise Dropped from None
        except OSError:  # paramiko's word for a closed channel
            raise Dropped from None


class _UnknownKey(paramiko.SSHException):  # type: ignore[misc] # untyped
    """The switch's host key is not in the file."""


class _Strict(paramiko.MissingHostKeyPolicy):  # type: ignore[misc] # untyped
    def missing_host_key(self, client: object, hostname: str, key: Any) -> None:
        raise _UnknownKey(f"{key.get_name()} {key.fingerprint}")


class _Guarded:
    """What is put before netmiko's class for a kind of switch."""

    options: NetmikoOptions
    client: paramiko.SSHClient | None = None
    """What is ended when the log-in takes too long."""

    def _connect_params_dict(self) -> dict[str, Any]:
        parameters: dict[str, Any] = super()._connect_params_dict()  # type: ignore[misc] # netmiko's
        # No key but the one that the options name, and no wait of an hour for a channel.
        return parameters | {"look_for_keys": False, "channel_timeout": self.options.connect_timeout}

    def _get_ssh_client_instance(self) -> paramiko.SSHClient:
        self.client = paramiko.SSHClient()
        return self.client

    def establish_connection(self, *arguments: Any, **more: Any) -> None:
        super().establish_connection(*arguments, **more)  # type: ignore[misc] # netmiko's
        self.channel = _Channel(self.remote_conn, self.encoding, self.options)  # type: ignore[attr-defined]


def _opened(options: NetmikoOptions) -> tuple[Any, _Channel]:
    known_as = options.language.device_type
    kind = type("Guarded", (_Guarded, CLASS_MAPPER[known_as]), {"options": options})
    if options.check_host_key and not options.known_hosts.is_file():
        raise SwitchRefused(
            f"known_hosts {options.known_hosts} is not there, so no switch can show that it is the right one",
            next_step=_how_to_trust(options),
        )
    try:
        connection = kind(
            host=options.host,
            port=options.port,
            username=options.username,
            password=secret(options.password_file, "password_file"),
            secret=secret(options.enable_secret_file, "enable_secret_file") or "",
            use_keys=options.key_file is not None,
            key_file=str(options.key_file) if options.key_file else None,
            device_type=known_as,
            ssh_strict=options.check_host_key,
            alt_host_keys=options.check_host_key,
            alt_key_file=str(options.known_hosts),
            conn_timeout=options.connect_timeout,
            banner_timeout=options.connect_timeout,
            auth_timeout=options.connect_timeout,
            session_log=None,
            auto_connect=False,
        )
    except ValueError:
        raise SwitchRefused(
            f"key_file {options.key_file} is not there", next_step="check its path, its owner and its mode"
        ) from None
    if options.check_host_key:
        connection.key_policy = _Strict()
    watch = _Watch(connection, options.connect_timeout)
    try:
        with watch:
            connection.establish_connection()
            connection.write_channel(connection.RETURN)
            connection.session_preparation()
            if options.language.enables and not connection.check_enable_mode():
                connection.enable()
    except BaseException as error:
        _close(connection)
        if isinstance(error, SwitchError) or not isinstance(error, Exception):
            raise
        raise _in_our_words(error, options, late=watch.late) from None
    return connection, connection.channel


class _Watch:
    """Ends a log-in that takes too long: some of paramiko's waits have no deadline."""

    def __init__(self, connection: Any, seconds: float) -> None:
        self.late = False
        self._connection = connection
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _end(self) -> None:
        self.late = True
        if self._connection.client is not None:
            self._connection.client.close()


def _in_our_words(error: Exception, options: NetmikoOptions, *, late: bool) -> SwitchError:
    """Return the error that tells why there is no session. netmiko wraps what paramiko says."""
    cause = error.__context__ if isinstance(error, netmiko.NetmikoTimeoutException) else error
    title, user = options.title, options.username
    if isinstance(cause, paramiko.BadHostKeyException):
        return SwitchRefused(
            f"{title} shows another host key ({cause.key.fingerprint}) than the one in {options.known_hosts}: it "
            "was replaced or reset, or somebody else answers at its address",
            next_step=f"compare it with the switch's own, at its console; only if they are the same, remove the "
            f"old line (ssh-keygen -R '{_known_as(options)}' -f {options.known_hosts}) and add the new one",
        )
    if isinstance(cause, _UnknownKey):
        return SwitchRefused(
            f"the host key of {title} ({cause}) is not in {options.known_hosts}",
            next_step=_how_to_trust(options),
        )
    if isinstance(cause, paramiko.AuthenticationException | netmiko.NetmikoAuthenticationException):
        return SwitchRefused(
            f"{title} refuses the log-in of user {user}",
            next_step="check the option username, the content of password_file or key_file, and the account on "
            "the switch; BMI tries again in a minute at the earliest, lest the account be locked",
        )
    if isinstance(error, ValueError):  # what netmiko says when a prompt is not one, or `enable` does not work
        return SwitchRefused(
            f"user {user} does not get to the prompt of one who may configure {title}",
            next_step="give the account the rights (docs/switches.md), or name enable_secret_file",
        )
    if late or isinstance(error, netmiko.ReadTimeout | TimeoutError):
        return SwitchUnreachable(
            f"{title} did not let BMI in within {options.connect_timeout:g} s",
            next_step=f"check that SSH answers there: ssh -p {options.port} {user}@{options.host}",
        )
    why = "the session ended at once" if isinstance(cause, Dropped | EOFError) else _reason(cause or error)
    return SwitchUnreachable(
        f"{title} cannot be reached: {why}",
        next_step=f"check its address and power, the network between, and that SSH answers there, with a free "
        f"session: ssh -p {options.port} {user}@{options.host}",
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, paramiko.ssh_exception.NoValidConnectionsError):
        error = next(iter(error.errors.values()), error)
    if isinstance(error, socket.gaierror):
        return "its name is not known"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return shown(text) or type(error).__name__


def _known_as(options: NetmikoOptions) -> str:
    """Return how a known_hosts file names a switch (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT)."""
    return options.host if options.port == 22 else f"[{options.host}]:{options.port}"


def _how_to_trust(options: NetmikoOptions) -> str:
    return (
        f"compare it with the switch's own, at its console, then: ssh-keyscan -p {options.port} {options.host} "
        f">> {options.known_hosts}"
    )


def _close(connection: Any) -> None:
    with suppress(Exception):  # there is nothing to do about it, and nobody waits for it
        connection.paramiko_cleanup()
    netmiko.log.removeFilter(connection._secrets_filter)
