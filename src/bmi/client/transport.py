"""The one place that speaks HTTP: requests out, typed answers and errors back."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote
from uuid import UUID

import httpx2
from pydantic import BaseModel, SecretStr, ValidationError

from bmi.api.common import Change, Page, Problem, Request
from bmi.client.errors import (
    AnswerInvalid,
    ApiError,
    ConnectionLost,
    NameInvalid,
    ProfileInvalid,
    Unreachable,
)

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R", bound=Request)

Path: TypeAlias = Sequence[str | UUID]
"""What comes after /v1, segment by segment, not yet quoted."""
Query: TypeAlias = Mapping[str, str | float | None]

SILENCE = 45.0  # seconds without a byte, not even a keep-alive, after which a stream is taken for dead
# A proxy for the world outside knows nothing of this host.
_DIRECT = {"all://localhost": None, "all://127.0.0.1": None, "all://[::1]": None}

_PAGE = 100  # items asked for at once, where the caller wants no fewer


class Transport:
    """A connection to one service, with one token."""

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        project: str | None,
        timeout: float,
        transport: httpx2.BaseTransport | None,
    ) -> None:
        self.url = url.rstrip("/")
        self.project = project
        self.timeout = timeout
        self._http = httpx2.Client(
            base_url=_checked(self.url) + "/v1/",
            headers={"Authorization": _bearer(token)} if token else {},
            timeout=timeout,
            transport=transport,
            mounts=_DIRECT,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def in_project(self, request: R) -> R:
        """Return a request with the client's project filled in, unless it names one."""
        if self.project is None or getattr(request, "project", None) is not None:
            return request
        return request.model_copy(update={"project": self.project})

    def call(
        self,
        method: str,
        path: Path,
        answer: type[M],
        *,
        body: Request | bytes | None = None,
        query: Query | None = None,
        patience: float = 0,
    ) -> M:
        """Ask, and return the typed answer.

        Args:
            method: HTTP method.
            path: Segments after /v1.
            answer: Type of the answer.
            body: What to send as JSON, or bytes as they are.
            query: Parameters of the URL; those that are None are left out.
            patience: Seconds that the service may take on top of the usual timeout.

        Raises:
            ApiError: The service says no.
            Unreachable: It does not answer.
            AnswerInvalid: What answers is not BMI.
        """
        response = self._send(method, path, body, query, patience)
        try:
            return answer.model_validate_json(response.content)
        except ValidationError as error:
            raise AnswerInvalid(self.url, _first(error)) from error

    def done(
        self, method: str, path: Path, *, body: Request | None = None, query: Query | None = None
    ) -> None:
        """Ask for something that has no answer but that it is done."""
        self._send(method, path, body, query, 0)

    def page(self, path: Path, item: type[M], *, query: Query | None = None) -> Page[M]:
        """Return one page of a list."""
        return self.call("GET", path, Page[item], query=query)  # type: ignore[valid-type]

    def items(
        self, path: Path, item: type[M], *, query: Query | None = None, limit: int | None = None
    ) -> Iterator[M]:
        """Go through a list, page after page.

        Args:
            path: Segments after /v1.
            item: Type of the list's items.
            query: What to ask for.
            limit: How many items at the most; all if None.
        """
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            size = _PAGE if left is None else min(left, _PAGE)
            page = self.page(path, item, query={**(query or {}), "limit": size, "cursor": cursor})
            # A service may give more than was asked for.
            yield from page.items if left is None else page.items[:left]
            if page.next is None:
                return
            if page.next == cursor:
                raise AnswerInvalid(self.url, "its list has no end")
            cursor = page.next
            left = None if left is None else left - len(page.items)

    def events(self, path: Path, *, query: Query | None = None) -> Iterator[httpx2.ServerSentEvent]:
        """Go through a stream of server-sent events until it ends.

        Args:
            path: Segments after /v1.
            query: Parameters of the URL; those that are None are left out.

        Raises:
            ApiError: The service says no.
            Unreachable: It does not answer, or the stream breaks.
        """
        timeout = httpx2.Timeout(self.timeout, read=SILENCE)
        try:
            params = {key: value for key, value in (query or {}).items() if value is not None}
            with self._http.sse(_joined(path), timeout=timeout, params=params) as source:
                if not source.response.is_success:
                    source.response.read()
                    raise self._refusal(source.response)
                yield from source
        except httpx2.RequestError as error:
            raise self._no_answer(error, reads_only=True) from error

    @contextmanager
    def stream(self, path: Path, headers: Mapping[str, str]) -> Iterator[httpx2.Response]:
        """Open a file that the service gives, to be read as it comes.

        Raises:
            ApiError: The service says no.
            Unreachable: It does not answer, or the stream breaks.
        """
        try:
            plain = {"Accept-Encoding": "identity", **headers}
            with self._http.stream("GET", _joined(path), headers=plain) as response:
                if not response.is_success:
                    response.read()
                    raise self._refusal(response)
                yield response
        except httpx2.RequestError as error:
            raise self._no_answer(error, reads_only=True) from error

    def _send(
        self, method: str, path: Path, body: Request | bytes | None, query: Query | None, patience: float
    ) -> httpx2.Response:
        timeout = httpx2.Timeout(self.timeout, read=self.timeout + patience)
        try:
            response = self._http.request(
                method,
                _joined(path),
                content=_encoded(body) if isinstance(body, Request) else body,
                headers={} if body is None else {"Content-Type": _media_type(body)},
                params={key: value for key, value in (query or {}).items() if value is not None},
                timeout=timeout,
            )
        except httpx2.RequestError as error:
            raise self._no_answer(error, reads_only=method == "GET") from error
        if not response.is_success:
            raise self._refusal(response)
        return response

    def _refusal(self, response: httpx2.Response) -> ApiError | AnswerInvalid:
        try:
            return ApiError(Problem.model_validate_json(response.content))
        except ValidationError:
            # A proxy in between, or another service altogether.
            said = f"{response.status_code} {response.reason_phrase}".strip()
        if response.status_code in (502, 503, 504):
            return ApiError(
                Problem(
                    type="urn:bmi:error:unavailable",
                    title="Unavailable",
                    status=response.status_code,
                    detail=f"{self.url} answers {said}",
                    code="unavailable",
                    next_step="try again in a moment; a proxy answers in the service's place",
                )
            )
        return AnswerInvalid(self.url, said)

    def _no_answer(self, error: httpx2.RequestError, *, reads_only: bool) -> Unreachable | AnswerInvalid:
        cause = re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
        cause = cause[0].lower() + cause[1:] if cause[1:2].islower() else cause
        if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError):
            return Unreachable(self.url, cause)
        if isinstance(error, httpx2.DecodingError | httpx2.SSEError):
            return AnswerInvalid(self.url, cause)
        return ConnectionLost(self.url, cause, reads_only=reads_only)


def _checked(url: str) -> str:
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise ProfileInvalid(f"{url!r} is not a URL: {error}", next_step="correct BMI_URL") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ProfileInvalid(
            f"{url!r} is not the URL of a service", next_step="write it as http://HOST:PORT or https://HOST"
        )
    return url


def _bearer(token: str) -> str:
    # The token itself must not stand in the message.
    if not re.fullmatch(r"[!-~]+", token):
        raise ProfileInvalid(
            "the token has characters that no token has",
            next_step="copy it again, without blanks or line ends",
        )
    return f"Bearer {token}"


def _joined(path: Path) -> str:
    """Return a path with each segment quoted, so that a name cannot lead to another resource."""
    segments = [str(segment) for segment in path]
    for segment in segments:
        if segment in ("", ".", ".."):
            raise NameInvalid(segment)
    return "/".join(quote(segment, safe="") for segment in segments)


def _media_type(body: Request | bytes) -> str:
    return "application/json" if isinstance(body, Request) else "application/octet-stream"


def _encoded(request: Request) -> bytes:
    # Only what the caller set: a service that does not know a newer field refuses it.
    without_nulls = not isinstance(request, Change)
    return json.dumps(
        request.model_dump(exclude_unset=True, exclude_none=without_nulls), default=_plain
    ).encode()


def _plain(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID | IPv4Address | IPv4Network):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"]
