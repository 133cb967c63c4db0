"""BMI installed in a box with systemd: the project's units, this checkout, and what docs/install.md says to do."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bmi.wait import wait_until
from tests.systemd_box import SystemdBox, systemd_box

ROOT = Path(__file__).parents[1]
UNITS = sorted(path.name for path in (ROOT / "packaging/systemd").iterdir())
CHECKOUT = "/opt/bmi/checkout"
START = 120.0  # seconds

PROGRAM = f"""\
#!{CHECKOUT}/.venv/bin/python
import sys
sys.path.insert(0, "{CHECKOUT}/src")
from bmi.cli.main import main
sys.argv[0] = "/opt/bmi/bin/bmi"
main()
"""
"""What is /opt/bmi/bin/bmi in the box: this checkout and its virtual environment, wherever they are on the host."""

MEMORY = """\
[storage]
driver = "memory"
[target]
driver = "memory"
[leg]
driver = "memory"
[power.memory]
[switches.sw1]
driver = "memory"
"""
"""Settings of a service that has nothing but itself."""


class Installed:
    """BMI in a box."""

    def __init__(self, box: SystemdBox) -> None:
        self.box = box

    def like(self, unit: str, name: str, command: str, *, more: Sequence[str] = ()) -> str:
        """Make a unit that may do what another one may, runs another command once, and return its name.

        Args:
            unit: The project's unit.
            name: The new one, without suffix.
            command: What it runs.
            more: Further lines of its section [Service].
        """
        new = f"{name}.service"
        self.box.write(f"/etc/systemd/system/{new}", (ROOT / "packaging/systemd" / unit).read_text())
        lines = ["[Service]", "ExecStart=", "ExecReload=", f"ExecStart={command}", *more]
        self.box.write(f"/etc/systemd/system/{new}.d/other.conf", "\n".join(lines) + "\n")
        self.box.run("systemctl", "daemon-reload")
        return new

    def once(
        self, unit: str, name: str, command: str, *, seconds: float = 60, more: Sequence[str] = ()
    ) -> str:
        """Run a command to its end as a unit would, and return what it printed.

        Args:
            unit: The project's unit.
            name: What the unit is called that does it.
            command: The command.
            seconds: That it may take.
            more: Further lines of the section [Service].
        """
        output = f"/run/{name}.output"
        lines = [
            "Type=oneshot",
            "Restart=no",
            f"TimeoutStartSec={seconds:g}",
            f"StandardOutput=truncate:{output}",
        ]
        new = self.like(unit, name, command, more=[*lines, *more])
        done = self.box.try_run("systemctl", "start", new, seconds=seconds + 30)
        assert done.returncode == 0, f"{done.stderr}\n{self.box.journal(new)}"
        return self.box.read(output)

    def python(
        self, unit: str, name: str, script: str, *, seconds: float = 60, more: Sequence[str] = ()
    ) -> str:
        """Run a script of Python, with BMI, to its end as a unit would, and return what it printed."""
        path = f"/opt/bmi/{name}.py"
        self.box.write(path, f'import sys\nsys.path[:0] = ["{CHECKOUT}/src", "{CHECKOUT}"]\n{script}')
        command = f"{CHECKOUT}/.venv/bin/python {path}"
        return self.once(unit, name, command, seconds=seconds, more=more)

    def answers(self, unit: str, *, port: int = 6230) -> None:
        """Wait until a unit's API answers on the box's loopback interface."""
        url = f"http://127.0.0.1:{port}/v1/version"

        def answers() -> bool:
            assert self.box.show(unit, "ActiveState") != "failed", self.box.journal(unit)
            return self.box.try_run("curl", "--silent", "--fail", "--max-time", "5", url).returncode == 0

        wait_until(answers, deadline=START, what=f"the API of {unit}", next_step="see its journal")

    def ask(self, path: str, token: str, *more: str, port: int = 6230) -> str:
        """Ask the API for something, and return its answer."""
        command = ["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "30", *more]
        return self.box.run(
            *command, "--header", f"Authorization: Bearer {token}", f"http://127.0.0.1:{port}/v1/{path}"
        )


def documented(heading: str) -> str:
    """Return the commands below a heading of docs/install.md."""
    text = (ROOT / "docs/install.md").read_text()
    part = re.split(r"^##+ ", text.partition(f"# {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    lines = re.findall(r"^    (\S.*)$", part, re.MULTILINE)
    assert lines, f"docs/install.md shows no commands below {heading}"
    return "\n".join(lines)


@contextmanager
def installed(
    settings: str, *, shown: Sequence[tuple[Path, str]] = (), hosts_network: bool = False
) -> Iterator[Installed]:
    """Run a box with BMI installed; no unit of it is started.

    Args:
        settings: Content of /etc/bmi/bmi.toml.
        shown: Further folders of this host, and where they are in the box.
        hosts_network: As for `systemd_box`.
    """
    with systemd_box(shown=[(ROOT, CHECKOUT), *shown], hosts_network=hosts_network) as box:
        box.write("/opt/bmi/bin/bmi", PROGRAM, mode=0o755)
        box.write("/root/bmi.toml", settings, mode=0o600)
        box.shell(f"cd {CHECKOUT}\n{documented('User, units, folders')}")
        box.shell(f"cd /root\n{documented('Settings')}")
        yield Installed(box)
