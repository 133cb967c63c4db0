"""One Redfish controller: logged in to when needed, asked one thing at a time, its failures in our words."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import sushy
from pydantic import Field, PositiveFloat
from sushy.auth import SessionOrBasicAuth
from sushy.connector import Connector

from bmi.drivers import Options
from bmi.drivers.power import Bmc
from bmi.errors import BmcRefused, BmcUnreachable, BmiError

_BUSY = frozenset({502, 503, 504})  # HTTP status of a controller, or a proxy before it, that is not ready
_RETRY_DELAY = 0.5  # seconds until a read that failed inside the controller is tried once more

_CHECK_REACH = "check its address, its cable and power, and the network between"


class RedfishOptions(Options):
    """Options of the driver `redfish`."""

    timeout: PositiveFloat = 30.0
    """Seconds to wait until a controller confirms what it was asked for, and for any one answer."""
    connect_timeout: PositiveFloat = 5.0
    """Seconds to wait for a connection."""
    verify_tls: bool = True
    """Whether a controller must show a certificate that can be trusted."""
    ca_file: Path | None = None
    """Certificates to trust, PEM; those that Python brings along if None."""
    verify_host_keys: bool = True
    """Whether a console over SSH must show the host key that the node's BMC option `ssh_host_key` pins."""
    ipmi_cipher_suite: int = Field(17, ge=0, le=17)
    """How Serial over LAN is protected where a controller has only that: 17, or 3 for older ones."""


class Lacking(Exception):
    """The controller does not have what is needed; the text goes on from its name."""


class Connection:
    """One controller and its log-in, which is kept. Callers take turns: controllers are small computers.

    Args:
        bmc: How to reach the controller.
        options: The driver's options.
    """

    def __init__(self, bmc: Bmc, options: RedfishOptions) -> None:
        self.bmc = bmc
        self._options = options
        self._lock = threading.Lock()
        self._connector: Any = None
        self._auth: Any = None
        self._system: Any = None

    @contextmanager
    def system(self) -> Iterator[Any]:
        """Hold the node's system resource, read this moment, alone.

        Raises:
            BmcUnreachable: The controller does not answer, or is busy.
            BmcRefused: It says no, or cannot be talked to.
        """
        with self._lock, _in_our_words(self.bmc):
            try:
                yield self._read()
            except Exception as error:
                # Whoever comes next begins anew.
                self._drop(log_out=not isinstance(error, sushy.exceptions.ConnectionError))
                raise

    def close(self) -> None:
        """Log out, if the controller answers; else it ends the session by itself."""
        with self._lock:
            self._drop(log_out=True)

    def _read(self) -> Any:
        if self._system is None:
            self._system = self._log_in()
        else:
            self._system.refresh()
        return self._system

    def _log_in(self) -> Any:
        _check_address(self.bmc.address)
        trusted = str(self._options.ca_file) if self._options.ca_file else True
        self._connector = Connector(
            self.bmc.address,
            verify=self._options.verify_tls and trusted,
            # sushy tries this often to connect, too: more than once means long sleeps before a plain answer.
            server_side_retries=1,
            server_side_retries_delay=_RETRY_DELAY,
            default_request_timeout=self._options.timeout,
            connect_timeout=self._options.connect_timeout,
        )
        # The way to a controller, and who logs in there, is never a matter of environment or .netrc.
        self._connector._session.trust_env = False
        # A session where the controller has them, so that the password travels once.
        auth = SessionOrBasicAuth(self.bmc.username, self.bmc.password)
        root = sushy.Sushy(self.bmc.address, auth=auth, connector=self._connector)
        self._auth = auth
        return root.get_system(self.bmc.options.get("system") or _only_system(self.bmc, root))

    def _drop(self, *, log_out: bool) -> None:
        if self._auth is not None:
            if log_out:
                with suppress(sushy.exceptions.SushyError):
                    self._auth.close()
            self._auth.reset_session_attrs()  # sushy logs out when it is collected, and would wait for that
        if self._connector is not None:
            self._connector.close()
        self._connector = self._auth = self._system = None


def _check_address(address: str) -> None:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise BmcRefused(
            f"the BMC address with host {parts.hostname!r} is not a plain URL",
            next_step="write it as https://HOST or https://HOST:PORT, without user or password",
        )


def _only_system(bmc: Bmc, root: Any) -> str:
    systems = root.get_system_collection().members_identities
    if len(systems) != 1:
        raise BmcRefused(
            f"BMC {bmc.address} has {len(systems)} systems: {', '.join(systems) or 'none'}",
            next_step="name the node's own in the BMC option 'system'",
        )
    only: str = systems[0]
    return only


@contextmanager
def _in_our_words(bmc: Bmc) -> Iterator[None]:
    try:
        yield
    except Lacking as error:
        raise _refused(
            bmc, str(error), "update the BMC's firmware, or drive the node in another way"
        ) from error
    except sushy.exceptions.ConnectionError as error:
        raise _no_connection(bmc, error) from error
    except sushy.exceptions.AccessError as error:
        raise _refused(
            bmc, f"refuses user {bmc.username!r}", "correct user name, password or role of the node's BMC"
        ) from error
    except sushy.exceptions.ResourceNotFoundError as error:
        raise _refused(
            bmc, f"answers: {error}", "correct the node's BMC address or its option 'system'"
        ) from error
    except sushy.exceptions.HTTPError as error:
        reason = f"answers HTTP {error.status_code}: {error.detail or 'no reason given'}"
        if error.status_code in _BUSY:
            raise BmcUnreachable(
                f"BMC {bmc.address} {reason}", next_step="try again when it is ready"
            ) from error
        raise _refused(bmc, reason, "mend what it complains about and try again") from error
    except sushy.exceptions.SushyError as error:
        raise _refused(bmc, f"cannot be used: {error}", "update the BMC's firmware") from error
    except requests.exceptions.JSONDecodeError as error:
        raise _refused(
            bmc, "does not answer in Redfish's format", "check that the address is a Redfish service"
        ) from error


def _no_connection(bmc: Bmc, error: BaseException) -> BmiError:
    causes = list(_causes(error))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return _refused(
            bmc,
            f"cannot be trusted: {_plain(causes)}",
            "name the certificate's issuer in the driver's option 'ca_file', or set 'verify_tls' to false",
        )
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return _refused(
            bmc, f"does not speak TLS with us: {_plain(causes)}", "check that the address is an HTTPS service"
        )
    return BmcUnreachable(f"BMC {bmc.address} does not answer: {_plain(causes)}", next_step=_CHECK_REACH)


def _refused(bmc: Bmc, reason: str, next_step: str) -> BmcRefused:
    return BmcRefused(f"BMC {bmc.address} {reason}", next_step=next_step)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _plain(causes: list[BaseException]) -> str:
    """Say in a word why there is no connection: the operating system's reason, which libraries wrap."""
    for cause in reversed(causes):
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        if isinstance(cause, TimeoutError):
            return "timed out"
    return str(causes[-1])
