"""The few rules for values that are written into other programs' files: none may become a command there."""

import re

from bmi.errors import BadRequest

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII | re.IGNORECASE)
_NAME_LENGTH = 253  # characters of a host name as a whole; RFC 1123, section 2.1
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.ASCII)
_URL = re.compile(r"https?://[A-Za-z0-9.-]+(:\d{1,5})?/[A-Za-z0-9._~/?&=%+-]*", re.ASCII)
_URL_LENGTH = 250  # bytes; a DHCP option holds 255 (RFC 2132, section 2)


def check_hostname(name: str) -> str:
    """Return a host name, with or without a domain, that every reader takes (RFC 1123).

    Raises:
        BadRequest: It is none.
    """
    labels = name.split(".")
    like_an_address = len(labels) > 1 and labels[-1].isdigit()
    if len(name) > _NAME_LENGTH or like_an_address or not all(_LABEL.fullmatch(label) for label in labels):
        raise BadRequest(
            f"{name[:_NAME_LENGTH]!r} is no host name",
            next_step="use letters, digits and hyphens, at most 63 between two dots",
        )
    return name


def check_mac(mac: str) -> str:
    """Return a MAC address in lower case.

    Raises:
        BadRequest: It is none.
    """
    if not _MAC.fullmatch(mac.lower()):
        raise BadRequest(f"{mac[:40]!r} is no MAC address", next_step="write it like 52:54:00:12:34:56")
    return mac.lower()


def check_url(url: str) -> str:
    """Return a web address that is safe in dnsmasq's files and in iPXE scripts.

    The error does not repeat it: it may hold a secret.

    Raises:
        BadRequest: It is not.
    """
    if len(url) > _URL_LENGTH or not _URL.fullmatch(url):
        raise BadRequest(
            f"a URL of {len(url)} characters cannot be given to a node",
            next_step=f"use http:// or https://, at most {_URL_LENGTH} plain ASCII characters and no quotes",
        )
    return url
