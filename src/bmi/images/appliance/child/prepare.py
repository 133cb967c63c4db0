"""Carries out a list of changes to a system, and looks at it again.

What runs programs of the image runs them in the virtual machine, with the image as their root.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bmi.images.appliance.child.look import look
from bmi.images.appliance.child.system import Refused, find, parts, text

_FILES = Path("/files")
_UPLOADED = "/var/cache/bmi-packages"
_POLICY = "/usr/sbin/policy-rc.d"
_UPDATES = "/etc/initramfs-tools/update-initramfs.conf"
_WORDS = 1500  # characters of a failed program's output that are worth a reader's time


def prepare(g: Any, request: Mapping[str, Any], tell: Callable[[str, float], None]) -> dict[str, Any]:
    """Carry changes out, and return which were really made, and what the disk is like now.

    Raises:
        Refused: There is no system in it, or a program in it fails.
    """
    if find(g, parts(g), writable=True) is None:
        raise Refused("no operating system was found on the disk", "check the image: bmi image check")
    done: list[str] = []
    actions = request["actions"]
    for number, action in enumerate(actions):
        tell(action["why"], 0.8 * number / len(actions))
        if _ACTIONS[action["do"]](g, action, done):
            done.append(action["why"])
    g.umount_all()
    tell("looking at it again", 0.8)
    return {"changes": done, "seen": look(g, {}, lambda doing, fraction: None)}


def _write(g: Any, action: Mapping[str, Any], done: list[str]) -> bool:
    path, content = action["path"], action["content"]
    if text(g, path) == content:
        return False
    g.mkdir_p(path.rsplit("/", 1)[0])
    g.write(path, content.encode())
    g.chmod(action["mode"], path)
    return True


def _remove(g: Any, action: Mapping[str, Any], done: list[str]) -> bool:
    found = g.glob_expand(action["path"])
    for path in found:
        g.rm_f(path)
    return bool(found)


def _empty(g: Any, action: Mapping[str, Any], done: list[str]) -> bool:
    if not g.is_file(action["path"], followsymlinks=True) or not g.filesize(action["path"]):
        return False
    g.truncate(action["path"])
    return True


def _mount(g: Any, action: Mapping[str, Any], done: list[str]) -> bool:
    g.mkdir_p(action["path"])
    g.mount(action["device"], action["path"])
    return False  # nothing that stays


def _copy(g: Any, action: Mapping[str, Any], done: list[str]) -> bool:
    g.mkdir_p(action["to"].rsplit("/", 1)[0])
    g.cp(action["from"], action["to"])
    return True


def _install(g: Any, action: Mapping[str, Any], done: list[str]) -> bool:
    """Install Debian packages, without starting what they bring, and without making the initramfs twice."""
    g.mkdir_p(_UPLOADED)
    for file in sorted(_FILES.glob("*.deb")):
        g.upload(str(file), f"{_UPLOADED}/{file.name}")
    had_policy, updates = g.exists(_POLICY), text(g, _UPDATES)
    try:
        if not had_policy:
            g.write(_POLICY, b"#!/bin/sh\nexit 101\n")
            g.chmod(0o755, _POLICY)
        if updates is not None:
            g.write(_UPDATES, re.sub(r"(?m)^update_initramfs=.*$", "update_initramfs=no", updates).encode())
        _shell(g, f"DEBIAN_FRONTEND=noninteractive dpkg --install --force-confold {_UPLOADED}/*.deb")
    finally:
        if not had_policy:
            g.rm_f(_POLICY)
        if updates is not None:
            g.write(_UPDATES, updates.encode())
        g.rm_rf(_UPLOADED)
    return True


def _run(g: Any, action: Mapping[str, Any], done: list[str]) -> bool:
    """Run a program of the image, where something was changed before."""
    if not done and not action["always"]:
        return False
    _shell(g, action["command"])
    return True


def _shell(g: Any, command: str) -> None:
    try:
        g.sh(f"{{ {command}; }} 2>&1")
    except RuntimeError as error:
        raise Refused(
            f"a program of the image failed ({command}): {str(error)[-_WORDS:]}",
            "mend the image by hand: bmi image show says where it came from",
        ) from error


_ACTIONS: dict[str, Callable[[Any, Mapping[str, Any], list[str]], bool]] = {
    "write": _write,
    "remove": _remove,
    "empty": _empty,
    "mount": _mount,
    "copy": _copy,
    "install": _install,
    "run": _run,
}
