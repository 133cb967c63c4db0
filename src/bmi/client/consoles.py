"""Calls about nodes' consoles."""

import base64
import time
from collections.abc import Iterator
from uuid import UUID

from bmi.api.consoles import Console, Input, Output
from bmi.client.errors import AnswerInvalid, ApiError, Unreachable
from bmi.client.transport import Transport

INPUT_MOST = 4096
"""Bytes that can be typed at once."""

_PART = 65536  # bytes of one answer
_PATIENCE = 60.0  # seconds that the service may be away, so that its restart does not end a look
_PAUSE = 0.5  # seconds before a stream that broke is asked for again


class Consoles:
    """Serial consoles: what nodes said, what they say, and typing."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self, node: str | UUID) -> Console:
        """Return how a node's console is, and which starts are recorded."""
        return self._transport.call("GET", ["nodes", node, "console"], Console)

    def read(self, node: str | UUID, recording: int = 0) -> Iterator[bytes]:
        """Go through what a node said, part by part, as far as it is recorded now.

        Args:
            node: Which node.
            recording: Which recording; the latest if 0.
        """
        offset: int | None = None
        while True:
            query = {"offset": offset or 0, "limit": _PART}
            path = ["nodes", node, "console", "recordings", str(recording)]
            part = self._transport.call("GET", path, Output, query=query)
            if content := self._bytes(part):
                yield content
            if not part.more:
                return
            if part.next == offset:
                raise AnswerInvalid(self._transport.url, "its recording has no end")
            offset, recording = part.next, part.recording

    def follow(self, node: str | UUID) -> Iterator[bytes]:
        """Go through what a node says, after the last 4 KiB that it said, without end.

        Raises:
            ApiError: The node is not the caller's any more.
            Unreachable: The service was away for more than a minute.
        """
        seen: tuple[int, int] | None = None
        answered = time.monotonic()
        while True:
            try:
                query = {"recording": seen[0], "offset": seen[1]} if seen else {}
                for event in self._transport.events(["nodes", node, "console", "stream"], query=query):
                    answered = time.monotonic()
                    if event.event == "end":
                        break
                    if event.event != "output":
                        continue
                    part = Output.model_validate_json(event.data)
                    content = self._bytes(part)
                    seen = (part.recording, part.next)
                    if content:
                        yield content
            except (Unreachable, ApiError, AnswerInvalid) as error:
                status = error.status if isinstance(error, ApiError) else 503
                if status < 500 or time.monotonic() - answered > _PATIENCE:
                    raise
            self._check(node, answered)
            time.sleep(_PAUSE)

    def type(self, node: str | UUID, data: bytes) -> None:
        """Type something; at most 4096 bytes."""
        body = Input(data=base64.b64encode(data).decode())
        self._transport.done("POST", ["nodes", node, "console", "input"], body=body)

    def _check(self, node: str | UUID, answered: float) -> None:
        """Let a refusal be told: a stream that has begun can only end."""
        try:
            self.get(node)
        except Unreachable:
            if time.monotonic() - answered > _PATIENCE:
                raise

    def _bytes(self, part: Output) -> bytes:
        try:
            return base64.b64decode(part.data, validate=True)
        except ValueError as error:
            raise AnswerInvalid(self._transport.url, "what the node said is not Base64") from error
