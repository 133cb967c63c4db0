"""HIL's HTTP interface: one call at a time, each with a deadline, what comes back typed and bounded."""

import json
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qs, quote, urlsplit

import httpx2
from pydantic import TypeAdapter, ValidationError

from bmi.drivers.hil.answers import (
    AcceptedAnswer,
    ActionAnswer,
    ErrorAnswer,
    Labels,
    ListedNetwork,
    NetworkAnswer,
    NodeAnswer,
    PowerAnswer,
)
from bmi.drivers.hil.options import HilOptions, password
from bmi.errors import SettingsInvalid

_MOST_BYTES = 4 << 20  # of an answer
_CONNECT = 5.0  # seconds for a connection
_BUSY = frozenset({502, 503, 504})  # status of a proxy whose HIL is away
_SHOWN = 200  # characters of another server's words in an error

T = TypeVar("T")

_LABELS: TypeAdapter[list[str]] = TypeAdapter(Labels)
_NETWORKS: TypeAdapter[dict[str, ListedNetwork]] = TypeAdapter(dict[str, ListedNetwork])
_NODE = TypeAdapter(NodeAnswer)
_NETWORK = TypeAdapter(NetworkAnswer)
_ACTION = TypeAdapter(ActionAnswer)
_ACCEPTED = TypeAdapter(AcceptedAnswer)
_POWER = TypeAdapter(PowerAnswer)
_ERROR = TypeAdapter(ErrorAnswer)


class HilAway(Exception):
    """HIL, or what it leads to, does not answer; the text goes on from its name."""

    def __init__(self, what: str, next_step: str) -> None:
        super().__init__(what)
        self.next_step = next_step


class HilSaysNo(Exception):
    """HIL refuses, or answers something that it should not.

    Args:
        status: HTTP status of its answer; 0 if it was not asked, for it cannot be trusted.
        kind: The class of its error, empty if it is a page of HTML.
        msg: Its words.
        caller: Who was refused.
    """

    def __init__(self, status: int, kind: str, msg: str, *, caller: str = "") -> None:
        head = kind or (f"HTTP {status}" if status else "")
        super().__init__(": ".join(filter(None, (head, msg))))
        self.status = status
        self.kind = kind
        self.msg = msg
        self.caller = caller

    def says(self, words: str) -> bool:
        """Say whether its text has these words. HIL has one class for many reasons; only the text tells which."""
        return words.casefold() in self.msg.casefold()

    @property
    def wrong_user(self) -> bool:
        """Whether the user is unknown or the password wrong. 401 is also what a member of no project gets."""
        unknown = self.status == 404 and self.says("User ") and self.says("does not exist")
        return unknown or (self.status == 401 and self.says("Authentication failed"))

    @property
    def no_access(self) -> bool:
        """Whether the user is known, and may not do this."""
        return self.status == 401 and not self.wrong_user


@dataclass(frozen=True)
class Login:
    """A user of HIL."""

    username: str
    password: str = field(repr=False)


class Hil:
    """One HIL. Many threads may use it.

    Every method raises `HilAway` when nothing answers and `HilSaysNo` when it refuses.
    """

    def __init__(self, options: HilOptions) -> None:
        """Say where it is and who asks.

        Raises:
            SettingsInvalid: The file of certificates cannot be used.
        """
        self.name = f"HIL at {options.url.rstrip('/')}"
        self._base = options.url.rstrip("/") + options.prefix
        self._options = options
        self._tls = _context(options)

    def nodes_of(self, project: str) -> list[str]:
        """Return the names of a project's nodes."""
        return self._read(_LABELS, "project", project, "nodes")

    def networks_of(self, project: str) -> list[str]:
        """Return the names of the networks that a project may use."""
        return self._read(_LABELS, "project", project, "networks")

    def public_networks(self) -> list[str]:
        """Return the names of networks that everybody may use; all of them, for an admin."""
        found = self._read(_NETWORKS, "networks")
        return list(found)

    def network(self, name: str) -> NetworkAnswer:
        """Return a network and the channels to attach a card by."""
        return self._read(_NETWORK, "network", name)

    def node(self, name: str, *, login: Login | None = None) -> NodeAnswer:
        """Return a node, its cards and the networks that they are on."""
        return _parsed(_NODE, self._call("GET", ["node", name], login=login).content)

    def connect(self, node: str, nic: str, network: str, channel: str | None) -> str | None:
        """Ask for a card to be put on a network.

        Args:
            node: The node.
            nic: The card's label.
            network: The network.
            channel: How; left to HIL if None. An empty one is illegal, so it is never sent.

        Returns:
            The id to ask for how it went; None where HIL gives none (0.2 and older).
        """
        body = {"network": network} | ({"channel": channel} if channel else {})
        return self._asked(node, nic, "connect_network", body)

    def detach(self, node: str, nic: str, network: str) -> str | None:
        """Ask for a card to be taken off a network; returns what `connect` does."""
        return self._asked(node, nic, "detach_network", {"network": network})

    def action(self, id: str) -> str | None:
        """Return what became of an action: PENDING, DONE or ERROR; None if HIL has forgotten it."""
        try:
            return self._read(_ACTION, "networking_action", id).status
        except HilSaysNo as error:
            if error.status == 404 and not error.wrong_user:
                return None
            raise

    def enable_obm(self, node: str, *, enabled: bool = True, login: Login | None = None) -> None:
        """Let a node's management controller be used, or not."""
        self._call("PUT", ["node", node, "obm"], body={"enabled": enabled}, login=login)

    def obm(
        self, method: str, node: str, verb: str, body: Mapping[str, Any] | None = None, *, login: Login | None
    ) -> bytes:
        """Ask a node's management controller for something, through the redirect to OBMd where HIL has one.

        HIL's user and password stay with HIL: what it leads to gets the token that is in the redirect.
        """
        answer = self._call(method, ["node", node, verb], body=body, login=login, leads_on=True)
        if answer.status != 307:
            return answer.content
        where = _checked(answer.location, verb)
        return self._obmd(method, answer.location, body, f"OBMd at {where}")

    def power_status(self, node: str, *, login: Login | None = None) -> str:
        """Return `on` or `off`."""
        return _parsed(_POWER, self.obm("GET", node, "power_status", login=login)).power_status

    def _obmd(self, method: str, url: str, body: Mapping[str, Any] | None, who: str) -> bytes:
        try:
            return self._exchange(method, url, body, None, who).content
        except HilSaysNo as error:
            if error.status == 401:  # somebody let HIL make a new one in this moment
                raise HilAway(f"{who} does not know the token that HIL gave", "try again") from None
            if error.status == 500:  # what it asks, the node's own controller, failed
                raise HilAway(f"{who} could not do it", "look at its log, and at the node's BMC") from None
            raise

    def _asked(self, node: str, nic: str, verb: str, body: Mapping[str, str]) -> str | None:
        answer = self._call("POST", ["node", node, "nic", nic, verb], body=body)
        return _parsed(_ACCEPTED, answer.content).status_id if answer.content.strip() else None

    def _read(self, kind: TypeAdapter[T], *path: str) -> T:
        return _parsed(kind, self._call("GET", path).content)

    def _call(
        self,
        method: str,
        path: Sequence[str],
        *,
        body: Mapping[str, Any] | None = None,
        login: Login | None = None,
        leads_on: bool = False,
    ) -> "_Answer":
        if login is None and self._options.username:
            login = Login(self._options.username, password(self._options))
        url = "/".join([self._base, *(quote(part, safe="") for part in path)])
        return self._exchange(method, url, body, login, "it", leads_on=leads_on)

    def _exchange(
        self,
        method: str,
        url: str,
        body: Mapping[str, Any] | None,
        login: Login | None,
        who: str,
        *,
        leads_on: bool = False,
    ) -> "_Answer":
        """Send one request and take its answer, if it is one of success."""
        end = time.monotonic() + self._options.answer
        timeout = httpx2.Timeout(self._options.answer, connect=min(_CONNECT, self._options.answer))
        content = bytearray()
        # HIL's documents speak of curl -d, whose content type makes it lose the body. No body goes with a GET.
        headers = {"Accept": "application/json"} | ({"Content-Type": "application/json"} if body else {})
        try:
            with (
                httpx2.Client(
                    verify=self._tls, timeout=timeout, trust_env=False, follow_redirects=False
                ) as client,
                client.stream(
                    method,
                    url,
                    content=json.dumps(body).encode() if body else None,
                    headers=headers,
                    auth=httpx2.BasicAuth(login.username, login.password) if login else None,
                ) as answer,
            ):
                for part in answer.iter_bytes():
                    content += part
                    if len(content) > _MOST_BYTES or time.monotonic() > end:
                        raise HilAway(f"{who} does not end its answer", "look at its log")
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise _no_answer(who, error) from None  # the error's own text may have a token in its URL
        status = answer.status_code
        if status in _BUSY:
            raise HilAway(f"{who} is not ready (HTTP {status})", "wait until it is, or look at its log")
        if status in (200, 202) or (leads_on and status == 307):
            return _Answer(status, bytes(content), answer.headers.get("Location", ""))
        raise _refusal(status, bytes(content), login)


@dataclass(frozen=True)
class _Answer:
    status: int
    content: bytes
    location: str = field(repr=False)


def _checked(location: str, verb: str) -> str:
    """Return the host, and the port, that a redirect leads to; refuse one that leads not to a node's OBMd."""
    try:
        parts = urlsplit(location)
        plain = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc
        token = parse_qs(parts.query).get("token")
    except ValueError:
        plain, token, parts = False, None, urlsplit("")
    if not plain:
        raise HilSaysNo(307, "", "it leads to something that is no plain URL")
    if parts.path.rpartition("/")[2] != verb or not token:
        raise HilSaysNo(307, "", f"it leads to something else than {verb} of a node")
    return shown(parts.netloc)


def _parsed(kind: TypeAdapter[T], content: bytes) -> T:
    try:
        return kind.validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise HilSaysNo(200, "", f"its answer cannot be read: {shown(where)} {shown(first['msg'])}") from None


def _refusal(status: int, content: bytes, login: Login | None) -> HilSaysNo:
    """Return HIL's no. Internal failures come as HTML, of which nothing is shown."""
    try:
        found = _ERROR.validate_json(content)
    except ValidationError:
        found = ErrorAnswer()
    return HilSaysNo(
        status, shown(found.type), shown(found.msg), caller=login.username if login else "nobody"
    )


def _no_answer(who: str, error: Exception) -> HilAway | HilSaysNo:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return HilSaysNo(0, "", f"the certificate of {who} cannot be trusted: {cause.verify_message}")
        cause = cause.__cause__ or cause.__context__
    return HilAway(
        f"{who} does not answer ({type(error).__name__})", "check that it runs, and the network between"
    )


def shown(text: str) -> str:
    """Return another server's words as they may stand in an error."""
    plain = "".join(sign if sign.isprintable() else "?" for sign in text)
    return plain if len(plain) <= _SHOWN else f"{plain[:_SHOWN]}..."


def _context(options: HilOptions) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise SettingsInvalid(
            f"option 'ca_file' of driver hil: {options.ca_file} cannot be used: {type(error).__name__}",
            next_step="name a PEM file of certificates",
        ) from None
    if not options.verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
