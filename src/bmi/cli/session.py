"""The way to the service: the profile, made into a client."""

from bmi.cli.failures import Failure
from bmi.client import Client, profile


def connect(project: str | None = None, *, timeout: float = 30.0) -> Client:
    """Return a client for the service that the profile names.

    Args:
        project: Project to work in; the profile's if None.
        timeout: Seconds to wait for each answer.

    Raises:
        Failure: The profile names no service, or has no token.
    """
    mine = profile.load()
    if mine.url is None:
        raise Failure("no service is known", next_step="run `bmi login URL`, or set BMI_URL and BMI_TOKEN")
    if mine.token is None:
        raise Failure(
            f"there is no token for {mine.url}", next_step=f"run `bmi login {mine.url}`, or set BMI_TOKEN"
        )
    return Client(mine.url, mine.token, project=project or mine.project, timeout=timeout)
