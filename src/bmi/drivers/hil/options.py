"""How to reach a HIL: the options that all its drivers take."""

from pathlib import Path

from pydantic import Field, PositiveFloat

from bmi.drivers import Options
from bmi.errors import SettingsInvalid

MOST_PROJECTS = 1000


class HilOptions(Options):
    """Options of every driver `hil`."""

    url: str = Field(pattern=r"^https?://[^\s?#@]+$")
    """Where HIL answers, without `/v0`."""
    username: str = Field("", pattern=r"^[^:]*$")
    """User of HIL, a member of the projects that BMI works for; best no admin. None if empty."""
    password_file: Path | None = None
    """File with that user's password."""
    prefix: str = Field("/v0", pattern=r"^(/[A-Za-z0-9._-]+)*$")
    """What paths begin with; empty for HIL 0.2 and older."""
    verify_tls: bool = True
    """Whether HIL, and what it leads to, must show a certificate that can be trusted."""
    ca_file: Path | None = None
    """Certificates to trust, PEM; the host's own if None."""
    answer: PositiveFloat = Field(20.0, le=600)
    """Seconds for one answer. HIL checks a password anew for each call, which takes a quarter of a second."""


class ProjectsOptions(HilOptions):
    """Options of the drivers that change something."""

    projects: tuple[str, ...] = Field(min_length=1, max_length=MOST_PROJECTS)
    """HIL's projects that BMI works for; nodes of others are not touched."""
    timeout: PositiveFloat = Field(60.0, le=3600)
    """Seconds until what was asked for must have happened. HIL looks every two seconds for what it has to do."""


def password(options: HilOptions) -> str:
    """Return the password of the settings' user; it is read anew each time, so that it can be changed.

    Raises:
        SettingsInvalid: The file cannot be read.
    """
    if options.password_file is None:
        return ""
    try:
        return options.password_file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsInvalid(
            f"option 'password_file' of driver hil: {options.password_file} cannot be read: {type(error).__name__}",
            next_step="check that it is there, its owner and its mode",
        ) from None
