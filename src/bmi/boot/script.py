"""The script that takes a node's iPXE to its disk, and does not leave it at a dead end.

Its text is in `templates/`: only commands that Debian's iPXE of 2019 has; see https://ipxe.org/cmd.
"""

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from bmi.boot.checks import check_url
from bmi.boot.texts import OWN_TEXTS, Texts
from bmi.boot.variables import BootScript, DiscoveryScript, ExitScript, WaitScript
from bmi.errors import BadRequest

_PATIENCE = {"first_wait": 2, "longer_by": 4, "longest_wait": 30}  # seconds
_LUN_LIMIT = 0x3FFF  # RFC 7143, 4.6: what fits in one level of addressing
_NAME = re.compile(r"(iqn|eui|naa)\.[a-z0-9.:-]{1,219}", re.ASCII)
_WORD = re.compile(r"[A-Za-z0-9._:-]{1,64}", re.ASCII)
_UNSAFE = re.compile(r"[^A-Za-z0-9 .,:;/()'_-]", re.ASCII)


@dataclass(frozen=True)
class BootTarget:
    """A disk, and how a node proves that it may have it."""

    address: IPv4Address
    """Of the portal, as is the port."""
    port: int
    iqn: str
    initiator: str
    username: str
    password: str = field(repr=False)
    script_url: str = field(repr=False)
    """Where this very script comes from."""
    lun: int = 1


def render(target: BootTarget, texts: Texts = OWN_TEXTS) -> str:
    """Return the script that boots a disk.

    When that fails the node says why on its console, waits a little longer each time, and fetches the script
    again, so that it follows what changed in the meantime.

    Raises:
        BadRequest: A value would not be safe in a script.
        SettingsInvalid: A template of this site's own cannot be used.
    """
    return texts.render(
        BootScript(
            portal=f"{target.address}:{target.port}",
            uri=_uri(target),
            initiator=_checked(_NAME, target.initiator, "initiator name"),
            username=_checked(_WORD, target.username, "user name"),
            password=_checked(_WORD, target.password, "password"),
            script_url=check_url(target.script_url),
            **_PATIENCE,
        )
    )


def render_wait(reason: str, script_url: str, texts: Texts = OWN_TEXTS) -> str:
    """Return the script of a node that has nothing to boot yet: it asks again and again.

    Args:
        reason: Said on the node's console.
        script_url: Where the script comes from.
        texts: The templates.

    Raises:
        BadRequest: The URL would not be safe in a script.
        SettingsInvalid: A template of this site's own cannot be used.
    """
    return texts.render(WaitScript(reason=_spoken(reason), script_url=check_url(script_url), **_PATIENCE))


def render_exit(reason: str, texts: Texts = OWN_TEXTS) -> str:
    """Return the script of a node that is to go on with its firmware's next boot device.

    Args:
        reason: Said on the node's console.
        texts: The templates.

    Raises:
        SettingsInvalid: A template of this site's own cannot be used.
    """
    return texts.render(ExitScript(reason=_spoken(reason)))


@dataclass(frozen=True)
class Inspection:
    """Where a machine that is no node finds the inspection system, and what that is to do."""

    address: str
    """http://ADDRESS:PORT of the gateway."""
    report_url: str = field(repr=False)
    listen: int
    """Seconds for which it listens to its switches."""
    afterwards: str
    """`wait` or `off`."""


def render_inspection(inspection: Inspection, texts: Texts = OWN_TEXTS) -> str:
    """Return the script of a machine that is to tell what it is.

    Raises:
        BadRequest: A value would not be safe in a script.
        SettingsInvalid: A template of this site's own cannot be used.
    """
    base = f"{inspection.address}/discovery"
    words = (
        "console=tty0 console=ttyS0,115200 quiet",
        f"bmi.report={check_url(inspection.report_url)}",
        f"bmi.listen={inspection.listen}",
        f"bmi.afterwards={_checked(_WORD, inspection.afterwards, 'word')}",
    )
    return texts.render(
        DiscoveryScript(
            kernel_url=check_url(f"{base}/vmlinuz"),
            initramfs_url=check_url(f"{base}/initrd.img"),
            arguments=" ".join(words),
            script_url=check_url(f"{base}/script.ipxe"),
            **_PATIENCE,
        )
    )


def _uri(target: BootTarget) -> str:
    """Return the target as iPXE wants it (RFC 4173): the LUN is hexadecimal."""
    if not 0 < target.port < 65536 or not 0 <= target.lun <= _LUN_LIMIT:
        raise BadRequest(
            f"port {target.port} or LUN {target.lun} is out of range", next_step="correct the settings"
        )
    return (
        f"iscsi:{target.address}::{target.port}:{target.lun:x}:{_checked(_NAME, target.iqn, 'target name')}"
    )


def _checked(form: re.Pattern[str], value: str, what: str) -> str:
    if not form.fullmatch(value):
        raise BadRequest(
            f"the {what} cannot be used in a boot script", next_step="report this as a bug of BMI"
        )
    return value


def _spoken(text: str) -> str:
    """Return a text that iPXE prints as it is: no line's end, no settings, no options."""
    words = _UNSAFE.sub("?", text).split()
    return " ".join(word.lstrip("-") for word in words)
