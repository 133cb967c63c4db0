"""A service whose nodes, ports and power are HIL's; the rest is on memory drivers."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bmi.drivers.hil.client import Hil
from bmi.settings import Settings
from tests.service import Site, memory_parts, memory_settings, serving


def hil_settings(folder: Path, changing: dict[str, Any]) -> Settings:
    """Return the settings of a service over a HIL.

    Args:
        folder: Where everything is.
        changing: Options of a driver that changes something.
    """
    inventory = {key: value for key, value in changing.items() if key not in ("projects", "timeout", "poll")}
    return memory_settings(
        folder,
        None,
        power={"hil": changing},
        switches={"hil": {"driver": "hil", "options": changing}},
        networks={"first_vlan": 101, "last_vlan": 102},
        inventory={"driver": "hil", "options": inventory},
    )


@contextmanager
def hil_site(folder: Path, changing: dict[str, Any]) -> Iterator[Site]:
    """Give a service over a HIL."""
    settings = hil_settings(folder, changing)
    with memory_parts(settings) as parts, serving(parts, settings) as api:
        yield Site(api, parts, folder)


def die_at(verb: str) -> Any:
    """Let this process be killed as soon as HIL has taken an order, whose answer it never sees."""
    original = Hil._call

    def call(self: Hil, method: str, path: Any, **more: Any) -> Any:
        answer = original(self, method, path, **more)
        if path[-1] == verb and method != "GET":
            if answer.status == 307:
                self._obmd(method, answer.location, more.get("body"), "OBMd")
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    return patch.object(Hil, "_call", call)


def main() -> None:
    """Ask for an operation, and be killed in the middle of it."""
    folder, changing, verb, path, body = Path(sys.argv[1]), *map(json.loads, sys.argv[2:6])
    with die_at(verb), hil_site(folder, changing) as site:
        site.ended(site.api.post(path, json=body))


if __name__ == "__main__":
    main()
