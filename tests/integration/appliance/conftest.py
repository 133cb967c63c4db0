"""The appliance, and programs that use libguestfs without the sandbox to break and to read images."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bmi.images.appliance.built import built
from bmi.images.appliance.session import Appliance
from bmi.run import run

CACHE = Path("/var/cache/bmi")  # the service's own
SOURCE = Path(__file__).parents[3] / "src" / "bmi" / "images" / "appliance"

# Only this part of BMI, so that the system's Python finds nothing else to import.
_RUN = """
import importlib.util, runpy, sys, types
for name in ("bmi", "bmi.images"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = []
sys.modules["bmi.images"].__path__ = [sys.argv.pop(1)]
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""

Guest = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def appliance() -> Appliance:
    return Appliance(cache=CACHE)


@pytest.fixture(scope="session")
def guest(appliance: Appliance) -> Guest:
    """Run one of the programs beside this file, and return all that it printed."""

    def call(program: str, *words: str | Path) -> dict[str, Any]:
        script = Path(__file__).with_name(program)
        command = ["/usr/bin/python3", "-B", "-c", _RUN, SOURCE.parent, script, *words]
        said: dict[str, Any] = {}
        for line in run(command, timeout=600).splitlines():
            said |= json.loads(line)
        return said

    return call


@pytest.fixture(scope="session")
def folder_of_appliance() -> Path:
    return built(CACHE)


def quiet(doing: str, fraction: float) -> None:
    """Take the progress of something and keep it to oneself."""
