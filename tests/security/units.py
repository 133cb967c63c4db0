"""What systemd says of the project's units: whether they are whole, and how much they could do to a host."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.security.linters import Linted

UNITS = Path(__file__).parents[2] / "packaging" / "systemd"
_PROGRAM = "/opt/bmi/bin/bmi"
_DEADLINE = 120  # seconds for a program
_EXPOSURE = re.compile(r"Overall exposure level for \S+: ([0-9.]+)")

REACHED = {
    "bmi-api.service": 1.1,
    "bmi-gateway.service": 1.3,
    "bmi-helper.service": 5.6,
    "bmi-worker.service": 3.0,
    "bmi.service": 3.0,
}
"""What `systemd-analyze security` of systemd 252 says of each, from 0 (can do nothing) to 10; worse is a finding.

The helper cannot have a mount namespace, on which half of the figure depends; see its unit.
"""


def units(folder: Path = UNITS) -> Linted:
    """Look at every unit in a folder."""
    found = sorted(path for path in folder.iterdir() if path.suffix in (".service", ".socket"))
    services = [path for path in found if path.suffix == ".service"]
    findings = list(dict.fromkeys(complaint for path in found for complaint in _complaints(path)))
    figures = {path.name: exposure(path) for path in services}
    findings += [
        f"{name}: exposure {figure}, and {REACHED.get(name, 0)} was reached"
        for name, figure in figures.items()
        if figure > REACHED.get(name, 0)
    ]
    findings += [f"{name}: there is no such unit" for name in sorted(set(REACHED) - set(figures))]
    remark = ", ".join(f"{name.removesuffix('.service')} {figure}" for name, figure in figures.items())
    return Linted(len(found) + len(services), findings, f"exposure of {remark}")


def exposure(unit: Path) -> float:
    """Return how much a service could do to a host, from 0 to 10."""
    told = _run("security", "--offline=true", "--no-pager", str(unit))
    figure = _EXPOSURE.search(told)
    if figure is None:
        raise AssertionError(f"systemd-analyze does not say how exposed {unit.name} is: {told[-500:]}")
    return float(figure[1])


def _complaints(unit: Path) -> list[str]:
    """Return what systemd says against a unit, as if the program were where it has to be."""
    with tempfile.TemporaryDirectory() as name:
        for path in unit.parent.iterdir():  # units name each other
            if path.is_file():
                text = path.read_text().replace(_PROGRAM, sys.executable)
                Path(name, path.name).write_text(text)
        told = _run("verify", str(Path(name, unit.name)))
        return [line.replace(f"{name}/", "") for line in told.splitlines()]


def _run(*words: str) -> str:
    done = subprocess.run(
        ["systemd-analyze", *words],
        capture_output=True,
        text=True,
        timeout=_DEADLINE,
        check=False,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
    )
    return done.stdout + done.stderr
