"""HIL's failures in BMI's words, as errors of the family that a driver belongs to."""

from collections.abc import Iterator
from contextlib import contextmanager

from bmi.drivers.hil.client import HilAway, HilSaysNo
from bmi.errors import BmiError

_FAILED = 500  # from this status on it is not the request that is wrong


@contextmanager
def in_our_words(
    what: str, *, away: type[BmiError], failed: type[BmiError], refused: type[BmiError]
) -> Iterator[None]:
    """Turn what HIL answers into errors.

    Args:
        what: What is asked of whom, as in "HIL at https://hil.example".
        away: Class of the error when nothing answers.
        failed: Class of the error when HIL fails inside, which may pass.
        refused: Class of the error when HIL says no.
    """
    try:
        yield
    except HilAway as error:
        raise away(f"{what}: {error}", next_step=error.next_step) from None
    except HilSaysNo as error:
        if error.status >= _FAILED:
            raise failed(
                f"{what}: fails inside ({error})", next_step="look at the log of HIL's server"
            ) from None
        raise refused(f"{what}: {_reason(error)}", next_step=_next_step(error)) from None


def _reason(error: HilSaysNo) -> str:
    if error.wrong_user or error.no_access:
        return f"refuses user {error.caller!r} ({error})"
    if error.status == 0:
        return str(error)
    return f"answers {error}"


def _next_step(error: HilSaysNo) -> str:
    if error.wrong_user:
        return "correct the user or the password: username and password_file in the driver's options, or the BMC's"
    if error.no_access:
        return "make that user a member of the HIL project (hil user project add), or give the node to it"
    if error.status == 0:
        return "name the certificate's issuer in the driver's option 'ca_file'"
    return "see docs/hil.md for what HIL must have; check the driver's options url and prefix"
