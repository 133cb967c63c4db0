"""Options of the driver `netmiko`."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from bmi.drivers import Options
from bmi.drivers.switch.netmiko.dialects import NAMES, Dialect, dialect
from bmi.drivers.switch.netmiko.ports import expanded
from bmi.errors import SwitchRefused

_MOST_SECRET = 4096  # bytes of a file that holds a password


class NetmikoOptions(Options):
    """Options of the driver `netmiko`: one switch."""

    host: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.:_-]*$", max_length=253)
    """Its name or address."""
    port: int = Field(22, ge=1, le=65535)
    username: str = Field(pattern=r"^[^\s\x00-\x1f]+$", max_length=64)
    password_file: Path | None = None
    """Holds the password, and nothing else. Read at each log-in, so that it can be changed."""
    key_file: Path | None = None
    """A private key without a passphrase, in place of a password."""
    enable_secret_file: Path | None = None
    """Holds the secret of `enable`, for accounts that do not begin with all rights."""
    dialect: Literal[NAMES]  # type: ignore[valid-type] # the names are the modules
    """What is spoken to it."""
    ports: tuple[str, ...] = Field(min_length=1)
    """Ports that BMI may touch, and no others: names as the switch's configuration writes them; one may end in a
    range, `Ethernet1/1-40`."""
    known_hosts: Path = Path("/etc/bmi/known_hosts")
    """Host keys of switches, as ssh-keyscan(1) prints them."""
    check_host_key: bool = True
    """Whether a switch must show a key that is in `known_hosts`. Without it anybody between
    can take the password."""
    save: bool = True
    """Whether what was changed is to outlive a restart of the switch."""
    connect_timeout: PositiveFloat = 30.0
    """Seconds until BMI is logged in, at the most."""
    command_timeout: PositiveFloat = 30.0
    """Seconds for the answer to one command."""
    save_timeout: PositiveFloat = 120.0
    """The same for saving and for a commit."""
    call_timeout: PositiveFloat = 300.0
    """Seconds for which one port's change may take, the wait for those before it included."""
    idle_timeout: PositiveFloat = 60.0
    """Seconds after which a session that is not used is ended: switches allow few."""
    batch: int = Field(64, ge=1, le=1024)
    """Ports that are changed in one go, at the most."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.password_file is None) == (self.key_file is None):
            raise ValueError("give either password_file or key_file")
        expanded(self.ports, self.language.port_name, self.dialect)
        return self

    @property
    def language(self) -> Dialect:
        """What is spoken to the switch."""
        return dialect(self.dialect)

    @property
    def names(self) -> tuple[str, ...]:
        """Every port that BMI may touch."""
        return expanded(self.ports, self.language.port_name, self.dialect)

    @property
    def title(self) -> str:
        """The switch, in words."""
        return f"switch {self.host}" if self.port == 22 else f"switch {self.host}:{self.port}"


def secret(path: Path | None, option: str) -> str | None:
    """Read a secret from a file; None if there is no file.

    Raises:
        SwitchRefused: It cannot be read, or is no password.
    """
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_SECRET + 1).decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SwitchRefused(
            f"{option} {path} cannot be read: {type(error).__name__}",
            next_step="check that it is there, its owner and its mode",
        ) from None
    if not content or len(content) >= _MOST_SECRET or not content.isprintable():
        raise SwitchRefused(
            f"{option} {path} holds no password", next_step="write the password into it, in one line"
        )
    return content
