"""Reads one request from standard input, carries it out, and tells how it went, a line of JSON at a time."""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

import guestfs

from bmi.images.appliance.child import keys, look, prepare
from bmi.images.appliance.child.system import Refused

_NBD = "unix:/disk/socket"
_EXPORT = "disk"

Verb = Callable[[Any, Mapping[str, Any], Callable[[str, float], None]], Any]

_VERBS: dict[str, Verb] = {
    "look": look.look,
    "personalise": keys.personalise,
    "prepare": prepare.prepare,
}
_EMULATED = "norandmaps"
"""QEMU translates a page of code anew for each address at which it is mapped, and keeps all of that until the page
is written to; then it walks through it for every byte. With addresses chosen by chance each process adds some, and
after some thousand the machine does nothing else. Without a network they protect it from nobody."""

_STARTED = 0.3  # fraction of the time that has gone, about, when the appliance is up


def main() -> None:
    """Carry one request out."""
    asked = json.loads(sys.stdin.readline())
    try:
        _say({"result": _carry_out(asked)})
    except Refused as why:
        _say({"refused": str(why), "next_step": why.next_step})
    except (RuntimeError, OSError, ValueError, KeyError) as error:  # libguestfs raises RuntimeError
        _say({"error": f"{type(error).__name__}: {error}"[:2000]})


def _carry_out(asked: Mapping[str, Any]) -> Any:
    def tell(doing: str, fraction: float) -> None:
        _say({"doing": doing, "fraction": _STARTED + (1 - _STARTED) * fraction})

    g = guestfs.GuestFS(python_return_dict=True)
    try:
        _start(g, asked)
        tell("looking for the operating system", 0.0)
        result = _VERBS[asked["verb"]](g, asked["request"], tell)
        g.umount_all()
        g.shutdown()  # what could not be written raises here
        return result
    finally:
        g.close()


def _start(g: Any, asked: Mapping[str, Any]) -> None:
    _say({"doing": "starting the appliance", "fraction": 0.0})
    g.set_backend("direct")
    g.set_backend_settings([] if asked["kvm"] else ["force_tcg"])
    g.set_path("/appliance")
    g.set_network(False)
    if not asked["kvm"]:
        g.set_append(_EMULATED)
    g.set_memsize(asked["memory"])
    g.set_smp(asked["processors"])
    g.add_drive_opts(
        _EXPORT, format="raw", readonly=not asked["writable"], protocol="nbd", server=[_NBD], name="disk"
    )
    g.launch()


def _say(message: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
