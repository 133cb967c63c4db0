"""The programs that firmware loads from a gateway: iPXE, or what leads to it."""

from collections.abc import Mapping
from ipaddress import IPv4Address
from pathlib import Path

from bmi.boot.variables import Loader
from bmi.settings import Boot

FOLDER = "loader"
"""What a loader's address over HTTP begins with."""

# What firmware says that it is: "Processor Architecture Types", https://www.iana.org/assignments/dhcpv6-parameters,
# begun by RFC 4578, section 2.1. x86-64 names itself 7 or 9, by an erratum of that RFC.
_TFTP = {"bios": (0,), "uefi_x64": (7, 9), "uefi_arm64": (11,)}
_HTTP = {"http_x64": (16,), "http_arm64": (19,)}


class Loaders:
    """The loaders of a gateway."""

    def __init__(self, boot: Boot | None = None) -> None:
        """Say which there are.

        Args:
            boot: The settings; their defaults if None.
        """
        boot = boot or Boot()
        self.tftp_root = boot.tftp_root
        self._port = boot.http_port
        names = {kind: str(getattr(boot.loaders, kind)) for kind in (*_TFTP, *_HTTP)}
        self._files = {kind: boot.tftp_root / name for kind, name in names.items() if name}
        beside = [boot.tftp_root / name for name in boot.loaders.beside if name]
        over_http = [file for kind, file in self._files.items() if kind in _HTTP] + beside
        self._over_http = {file.name: file for file in over_http}

    def missing(self) -> list[Path]:
        """List the files that are not there."""
        return sorted(
            file for file in {*self._files.values(), *self._over_http.values()} if not file.is_file()
        )

    @property
    def over_http(self) -> Mapping[str, Path]:
        """The files that nodes can fetch over HTTP, by the last part of their address; no others."""
        return self._over_http

    def on(self, gateway: IPv4Address) -> tuple[Loader, ...]:
        """Return what DHCP tells firmware to load.

        Args:
            gateway: Where the network's nodes reach this gateway.
        """
        by_tftp = [
            Loader(kind, architectures, str(file.relative_to(self.tftp_root)))
            for kind, architectures in _TFTP.items()
            if (file := self._files.get(kind))
        ]
        by_http = [
            Loader(kind, architectures, f"http://{gateway}:{self._port}/{FOLDER}/{file.name}", http=True)
            for kind, architectures in _HTTP.items()
            if (file := self._files.get(kind))
        ]
        return (*by_tftp, *by_http)
