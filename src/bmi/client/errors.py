"""Every way in which a call of the client can fail."""

from uuid import UUID

from bmi.api.common import Problem
from bmi.api.operations import Operation, OperationState, StepState


class ClientError(Exception):
    """A call of the client failed."""

    def __init__(self, message: str, *, next_step: str) -> None:
        super().__init__(message)
        self.message = _one_line(message)
        self.next_step = _one_line(next_step)

    def __str__(self) -> str:
        return "; ".join(part for part in (self.message, self.next_step) if part)


class ProfileInvalid(ClientError):
    """The profile does not say where the service is, or says it in a way that cannot be used."""


class NameInvalid(ClientError):
    """A name or id cannot be one, so it was not even sent."""

    def __init__(self, thing: str) -> None:
        super().__init__(f"{thing!r} is not a name", next_step="give the thing's name or id")


class Unreachable(ClientError):
    """Nothing answers at the service's URL, so nothing was done."""

    def __init__(self, url: str, cause: str) -> None:
        tls = "certificate" in cause.lower()
        super().__init__(
            f"{url} does not answer: {cause}",
            next_step="make its authority known with SSL_CERT_FILE, or check BMI_URL"
            if tls
            else "start the service with `bmi serve`, or check BMI_URL",
        )


class ConnectionLost(Unreachable):
    """The service was asked, but its answer did not come."""

    def __init__(self, url: str, cause: str, *, reads_only: bool) -> None:
        ClientError.__init__(
            self,
            f"lost the connection to {url}: {cause}",
            next_step="try again"
            if reads_only
            else "it may have been done all the same: look before you try again",
        )


class AnswerInvalid(ClientError):
    """What answers does not speak BMI's language."""

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(
            f"{url} does not answer as BMI does: {cause}",
            next_step="check BMI_URL, and that client and service are of the same release",
        )


class ApiError(ClientError):
    """The service refused, or failed at, what was asked.

    Its line is the problem's detail and next step.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail, next_step=problem.next_step)
        self.problem = problem

    @property
    def code(self) -> str:
        """Stable code of the kind of error, such as `not-found`."""
        return self.problem.code

    @property
    def status(self) -> int:
        """HTTP status."""
        return self.problem.status


class OperationFailed(ClientError):
    """An operation ended without success."""

    def __init__(self, operation: Operation) -> None:
        what = title(operation)
        if operation.state is OperationState.CANCELLED:
            super().__init__(f"{what} was cancelled", next_step="start it again if you still want it")
        else:
            failed = [step.name for step in operation.steps if step.state is StepState.FAILED]
            at = f" at step {failed[-1]}" if failed else ""
            why = f": {operation.error.detail}" if operation.error else ""
            super().__init__(
                f"{what} failed{at}{why}",
                next_step=(operation.error and operation.error.next_step)
                or f"look at it with `bmi op show {operation.id}`",
            )
        self.operation = operation


class WaitTimedOut(ClientError):
    """An operation has not ended in the time that the caller gave it; it goes on."""

    def __init__(self, id: UUID | str, seconds: float) -> None:
        super().__init__(
            f"operation {id} has not ended after {seconds:g} s, it goes on",
            next_step=f"wait longer, or cancel it with `bmi op cancel {id}`",
        )


def title(operation: Operation) -> str:
    """Return what an operation does, in words: `provision of node n1`."""
    return f"{operation.verb.rpartition('.')[2]} of {operation.subject}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
