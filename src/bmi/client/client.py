"""The client: one group of calls per noun."""

from types import TracebackType
from typing import Self

import httpx2

from bmi.api.access import Identity, LogIn, LogInBegin, LogInBegun, LogInFinish, PasswordChange, Session
from bmi.api.common import Version
from bmi.api.doctor import Repair, Repaired, Report
from bmi.client.audit import AuditCalls
from bmi.client.consoles import Consoles
from bmi.client.discovered import DiscoveredMachines
from bmi.client.disks import Disks
from bmi.client.exports import Exports
from bmi.client.image_edits import ImageEdits
from bmi.client.images import Images
from bmi.client.members import Members
from bmi.client.networks import Networks
from bmi.client.nodes import Nodes
from bmi.client.operations import Operations
from bmi.client.projects import Projects
from bmi.client.readiness import ReadinessCalls
from bmi.client.tokens import Tokens
from bmi.client.transport import Transport
from bmi.client.uploads import Uploads
from bmi.client.users import Users

TIMEOUT = 30.0  # seconds; every request is answered at once, long work runs in operations


class Client:
    """A client of one BMI service. May be shared between threads.

    Every call raises `ApiError` where the service says no, `Unreachable` where it does not answer and
    `AnswerInvalid` where something else than BMI answers.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        project: str | None = None,
        timeout: float = TIMEOUT,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        """Make a client; nothing is sent yet.

        Args:
            url: Where the service is: http://HOST:PORT.
            token: Secret of an API key or of a session; only `version` and the log-ins work without one.
            project: Project that everything is looked for and made in, unless a call names another.
            timeout: Seconds to wait for the connection, and for each answer.
            transport: What carries the requests, instead of the network.

        Raises:
            ProfileInvalid: The URL or the token cannot be one.
        """
        self._transport = Transport(url, token, project=project, timeout=timeout, transport=transport)
        self.projects = Projects(self._transport)
        self.users = Users(self._transport)
        self.tokens = Tokens(self._transport)
        self.nodes = Nodes(self._transport)
        self.consoles = Consoles(self._transport)
        self.networks = Networks(self._transport)
        self.images = Images(self._transport)
        self.image_edits = ImageEdits(self._transport)
        self.uploads = Uploads(self._transport)
        self.exports = Exports(self._transport)
        self.readiness = ReadinessCalls(self._transport)
        self.disks = Disks(self._transport)
        self.operations = Operations(self._transport)
        self.discovered = DiscoveredMachines(self._transport)
        self.members = Members(self._transport)
        self.audit = AuditCalls(self._transport)

    def __repr__(self) -> str:
        return f"Client({self.url!r}, project={self.project!r})"

    @property
    def url(self) -> str:
        """Where the service is."""
        return self._transport.url

    @property
    def project(self) -> str | None:
        """Project that things are looked for and made in."""
        return self._transport.project

    def version(self) -> Version:
        """Return which release answers; needs no token."""
        return self._transport.call("GET", ["version"], Version)

    def whoami(self) -> Identity:
        """Return whom the token or the session stands for."""
        return self._transport.call("GET", ["whoami"], Identity)

    def log_in(self, request: LogIn) -> Session:
        """Begin a session with a name and a password; its secret is used like a token's."""
        return self._transport.call("POST", ["login"], Session, body=request)

    def begin_log_in(self, request: LogInBegin) -> LogInBegun:
        """Begin a log-in by the OpenID Connect provider; a person with a browser has to go on with it."""
        return self._transport.call("POST", ["login", "provider"], LogInBegun, body=request, patience=60)

    def finish_log_in(self, request: LogInFinish) -> Session:
        """Begin a session with what the provider gave the browser."""
        return self._transport.call(
            "POST", ["login", "provider", "finish"], Session, body=request, patience=60
        )

    def log_out(self) -> None:
        """End the session that this client uses."""
        self._transport.done("POST", ["logout"])

    def change_password(self, request: PasswordChange) -> None:
        """Change one's own password; all other sessions end."""
        self._transport.done("PUT", ["password"], body=request)

    def doctor(self, *, quick: bool = False) -> Report:
        """Return what really exists, compared with what should.

        Args:
            quick: Do not ask the networks for foreign DHCP servers, which takes some seconds.
        """
        # The service counts at the parts themselves, BMCs and switches among them.
        query = {"quick": "true"} if quick else {}
        return self._transport.call("GET", ["doctor"], Report, query=query, patience=120)

    def repair(self, *, remove_orphans: bool = False) -> Repaired:
        """Mend what differs from the database, and return what is mended and what is left.

        Args:
            remove_orphans: Remove volumes that nothing refers to, with what they hold.
        """
        body = Repair(remove_orphans=remove_orphans)
        return self._transport.call("POST", ["doctor", "repair"], Repaired, body=body, patience=300)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
