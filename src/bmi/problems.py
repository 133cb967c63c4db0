"""Errors as they go over the wire and into the database, and back."""

from bmi.api.common import Problem
from bmi.errors import BmiError


def problem(error: BaseException) -> Problem:
    """Return an error as it goes over the wire and into the database."""
    if isinstance(error, BmiError):
        return Problem(
            type=f"urn:bmi:error:{error.code}",
            title=(type(error).__doc__ or "").strip().rstrip("."),
            status=error.status,
            detail=error.message,
            code=error.code,
            next_step=error.next_step,
        )
    return Problem(
        type="urn:bmi:error:internal",
        title="BMI has a defect",
        status=500,
        detail=f"unexpected {type(error).__name__}",
        code="internal",
        next_step="look at the service's log, and report it",
    )


def error_of(found: Problem) -> BmiError:
    """Return the error that another process met and wrote down."""
    kind = _classes(BmiError).get(found.code, BmiError)
    error = BmiError.__new__(kind)
    BmiError.__init__(error, found.detail, next_step=found.next_step)
    return error


def _classes(kind: type[BmiError]) -> dict[str, type[BmiError]]:
    """Return the class of each code: the one that defines it, not those that inherit it."""
    found: dict[str, type[BmiError]] = {}
    for child in kind.__subclasses__():
        found |= _classes(child)
    if "code" in vars(kind):
        found[kind.code] = kind
    return found
