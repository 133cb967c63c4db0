"""Where the service is and who asks: the environment, else a small file in the user's home."""

import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bmi.client.errors import ProfileInvalid

_KEYS = ("url", "token", "project")


@dataclass(frozen=True)
class Profile:
    """What a person does not want to type with every command."""

    url: str | None = None
    token: str | None = field(default=None, repr=False)
    project: str | None = None


def path(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where the profile's file is: `BMI_CLIENT_CONFIG`, else bmi/client.toml in the XDG folder."""
    if named := environ.get("BMI_CLIENT_CONFIG"):
        return Path(named)
    home = environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or Path.home()) / ".config"
    return Path(home) / "bmi" / "client.toml"


def load(environ: Mapping[str, str] = os.environ) -> Profile:
    """Return the profile: `BMI_URL`, `BMI_TOKEN` and `BMI_PROJECT` win over the file.

    Raises:
        ProfileInvalid: The file cannot be read or understood, or shows its token to others.
    """
    saved = _read(path(environ))
    return Profile(
        url=environ.get("BMI_URL") or saved.url,
        token=environ.get("BMI_TOKEN") or saved.token,
        project=environ.get("BMI_PROJECT") or saved.project,
    )


def save(profile: Profile, file: Path) -> None:
    """Write a profile's file, readable by its owner only.

    Raises:
        ProfileInvalid: It cannot be written.
    """
    lines = [f"{key} = {_quoted(value)}\n" for key in _KEYS if (value := getattr(profile, key)) is not None]
    partial = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial.unlink(missing_ok=True)
        # Made with its final mode: there is no moment in which others can read it.
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as output:
            output.writelines(lines)
        partial.replace(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ProfileInvalid(
            f"{file} cannot be written: {error.strerror}", next_step="name another file in BMI_CLIENT_CONFIG"
        ) from error


def _read(file: Path) -> Profile:
    try:
        with file.open("rb") as source:
            mode = stat.S_IMODE(os.fstat(source.fileno()).st_mode)
            values = tomllib.load(source)
    except FileNotFoundError:
        return Profile()
    except OSError as error:
        raise ProfileInvalid(
            f"{file} cannot be read: {error.strerror}", next_step="mend its rights"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProfileInvalid(
            f"{file} is not TOML: {error}", next_step="correct it, or `bmi login` anew"
        ) from error
    wrong = [key for key, value in values.items() if key not in _KEYS or not isinstance(value, str)]
    if wrong:
        raise ProfileInvalid(
            f"{file} has {wrong[0]!r}, which is not understood",
            next_step='it has url, token and project only, each a text in "quotes"',
        )
    if "token" in values and mode & 0o077:
        raise ProfileInvalid(
            f"{file} shows its token to other users (mode {mode:04o})", next_step=f"chmod 600 {file}"
        )
    return Profile(**values)


def _quoted(text: str) -> str:
    """Return a text as a TOML basic string."""
    if not text.isprintable():
        raise ProfileInvalid(
            f"{text!r} has characters that cannot be saved", next_step="give it without them"
        )
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
