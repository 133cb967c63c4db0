"""Calls about operations."""

import time
from collections.abc import Iterator
from uuid import UUID

from bmi.api.operations import Event, Operation, OperationState
from bmi.client import history
from bmi.client.errors import AnswerInvalid, ApiError, ClientError, OperationFailed, Unreachable, WaitTimedOut
from bmi.client.transport import Transport

LONG_POLL = 25.0  # seconds; the service waits 30 s at the most
PATIENCE = 60.0  # seconds the service may be away, so that its restart does not end a wait
_TURN = 2.0  # seconds between two looks, or two tries for a stream, where streams break
_BARREN = 3  # streams without a single event, one after the other, until no more are tried
_PAUSE = 0.25  # seconds before the first new try


class Operations:
    """Long-running changes."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(
        self, *, state: OperationState | None = None, node: str | None = None, limit: int | None = None
    ) -> Iterator[Operation]:
        """Go through the operations, perhaps only those in a state or on a node."""
        query = {"state": state, "node": node}
        return self._transport.items(["operations"], Operation, query=query, limit=limit)

    def get(self, id: UUID | str, *, wait: float = 0) -> Operation:
        """Return an operation.

        Args:
            id: Which one.
            wait: Seconds to wait for its end, 30 at the most, before it is returned as it is.
        """
        query = {"wait": f"{wait:g}" if wait else None}
        return self._transport.call("GET", ["operations", id], Operation, query=query, patience=wait)

    def cancel(self, id: UUID | str) -> Operation:
        """Ask for an operation to be undone; it ends when that is done."""
        return self._transport.call("POST", ["operations", id, "cancel"], Operation)

    def retry(self, id: UUID | str) -> Operation:
        """Ask again for what an operation did not bring about; returns the new operation."""
        return self._transport.call("POST", ["operations", id, "retry"], Operation)

    def events(self, id: UUID | str, *, limit: int | None = None) -> Iterator[Event]:
        """Go through an operation's history, oldest first."""
        return self._transport.items(["operations", id, "history"], Event, limit=limit)

    def follow_events(self, id: UUID | str) -> Iterator[Event]:
        """Go through an operation's history, oldest first, until the operation has ended."""
        path = ["operations", id, "history"]
        return history.follow(self._transport, path, over=lambda: self.get(id).state.ended)

    def wait(self, id: UUID | str, *, timeout: float | None = None) -> Operation:
        """Wait until an operation has succeeded, and return it.

        Args:
            id: Which one.
            timeout: Seconds to wait; as long as it takes if None.

        Raises:
            OperationFailed: It ended without success.
            WaitTimedOut: It has not ended in time; it goes on.
            Unreachable: The service was away for more than a minute.
        """
        end = None if timeout is None else time.monotonic() + timeout
        operation = self.get(id)
        while not operation.state.ended:
            left = LONG_POLL if end is None else min(LONG_POLL, end - time.monotonic())
            if timeout is not None and left <= 0:
                raise WaitTimedOut(id, timeout)
            operation = self._get_patiently(id, wait=left)
        if operation.state is not OperationState.SUCCEEDED:
            raise OperationFailed(operation)
        return operation

    def follow(self, id: UUID | str) -> Iterator[Operation]:
        """Go through an operation's changes: first as it is, last as it ended, whether well or not.

        Rides on the service's event stream; where that breaks, on single requests until it can be had again.

        Raises:
            Unreachable: The service was away for more than a minute.
        """
        last = self.get(id)
        yield last
        barren = 0
        while not last.state.ended:
            barren += 1
            for operation in self._stream(id) if barren <= _BARREN else ():
                barren = 0
                if operation != last:
                    last = operation
                    yield last
            if last.state.ended:
                return
            operation = self._get_patiently(id, wait=_TURN)
            if operation != last:
                last = operation
                yield last

    def _stream(self, id: UUID | str) -> Iterator[Operation]:
        """Go through what the event stream tells, until it ends or breaks."""
        try:
            for event in self._transport.events(["operations", id, "events"]):
                if event.event == "operation":
                    yield Operation.model_validate_json(event.data)
        except (Unreachable, ApiError, AnswerInvalid, ValueError):
            # Whether this is the stream's own trouble is known by the next plain request.
            return

    def _get_patiently(self, id: UUID | str, *, wait: float) -> Operation:
        """Return an operation when it has ended or the time is over; bears it if the service is away."""
        give_up = time.monotonic() + PATIENCE
        pause = _PAUSE
        while True:
            asked = time.monotonic()
            try:
                operation = self.get(id, wait=wait)
            except (Unreachable, ApiError) as error:
                if not _passes(error) or time.monotonic() + pause > give_up:
                    raise
                time.sleep(pause)
                pause = min(2 * pause, 5.0)
                continue
            if not operation.state.ended:
                # Something between us and the service may not let requests wait.
                time.sleep(max(0.0, min(_PAUSE, wait) - (time.monotonic() - asked)))
            return operation


def _passes(error: ClientError) -> bool:
    """Say whether the same request may succeed a moment later."""
    return isinstance(error, Unreachable) or (isinstance(error, ApiError) and error.status in (502, 503, 504))
