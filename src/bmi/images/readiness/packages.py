"""Fetches Debian packages that an image lacks, with the host's own apt: the appliance has no network."""

import re
from collections.abc import Sequence
from pathlib import Path

from bmi.errors import CommandFailed, ImageInvalid
from bmi.run import run

_TIMEOUT = 300.0  # seconds; a slow mirror

Installed = Sequence[tuple[str, str, str]]
"""Name, version and architecture of each package."""

_SOUND = (r"[a-z0-9][a-z0-9+.-]+", r"[A-Za-z0-9.+:~-]+", r"amd64|all")
"""What name, version and architecture look like (Debian policy 5.6); the list comes from a stranger's image."""


def fetch(wanted: Sequence[str], installed: Installed, *, release: str, folder: Path) -> list[str]:
    """Fetch packages, and those that they need beside what is installed.

    Args:
        wanted: Names.
        installed: What the image has.
        release: Code name of the image's release, as in `bookworm`.
        folder: Empty folder that takes the packages, and what apt needs to find them.

    Returns:
        The names of what was fetched.

    Raises:
        ImageInvalid: The host has no sources for this release.
        CommandFailed: The packages cannot be had.
    """
    if release not in host_releases():
        raise ImageInvalid(
            f"the image lacks {' and '.join(wanted)}, and this host has no package sources for its release "
            f"({release or 'unknown'})",
            next_step=f"install {' '.join(wanted)} in the image, or prepare it on a host of the same release",
        )
    status, archives = folder / "status", folder / "archives"
    status.write_text("".join(_paragraph(*package) for package in installed if _sound(package)))
    (archives / "partial").mkdir(parents=True)
    words = [
        "apt-get",
        "--yes",
        "--no-install-recommends",
        "--download-only",
        "-o",
        f"Dir::State::status={status}",
    ]
    words += [
        "-o",
        f"Dir::Cache::archives={archives}",
        "-o",
        "Debug::NoLocking=1",
        "-o",
        "APT::Sandbox::User=",
    ]
    try:
        run([*words, "install", *wanted], timeout=_TIMEOUT)
    except CommandFailed as error:
        raise CommandFailed(
            f"the packages {' '.join(wanted)} cannot be had: {error.message}",
            next_step="check the host's package sources: apt-get update",
        ) from error
    found = sorted(archives.glob("*.deb"))
    for file in found:
        file.chmod(0o644)
        file.rename(folder / file.name.replace("%3a", "_"))
    return [file.name.split("_")[0] for file in found]


def host_releases() -> frozenset[str]:
    """Return the code names of the Debian and Ubuntu releases that this host has package lists of."""
    try:
        said = run(["apt-get", "indextargets", "--format", "$(CODENAME)", "Created-By: Packages"])
    except CommandFailed:
        return frozenset()  # no Debian
    return frozenset(name.split("-")[0] for name in said.split())


def _sound(package: tuple[str, str, str]) -> bool:
    return all(re.fullmatch(pattern, word) for pattern, word in zip(_SOUND, package, strict=True))


def _paragraph(name: str, version: str, architecture: str) -> str:
    return (
        f"Package: {name}\nStatus: install ok installed\nVersion: {version}\nArchitecture: {architecture}\n"
        "Maintainer: -\nDescription: -\n\n"
    )
