"""The whole idea in one go, for somebody who has never heard of it, on real parts."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from bmi.api.doctor import Report
from bmi.errors import BmiError, CommandFailed
from bmi.lab.lab import Lab
from bmi.lab.layout import Store
from bmi.run import run as run_program

IMAGE = "debian-12"
NODES = 4
_PROVISION_DEADLINE = 900.0  # seconds that a command may take; three nodes boot on two emulated processors
_SSH_DEADLINE = 60.0  # seconds until a node that is up lets us in


class DemoFailed(BmiError):
    """The demo showed something else than it should."""

    code = "demo-failed"


@dataclass(frozen=True)
class Tenant:
    """A project with a network, and the nodes that it gets."""

    name: str
    nodes: tuple[str, ...]

    @property
    def network(self) -> str:
        """Name of its network."""
        return f"{self.name}-net"


RED = Tenant("red", ("n1", "n2"))
BLUE = Tenant("blue", ("n3",))


def run(lab: Lab, api_port: int, store: Store, *, keep: bool, console: Console) -> None:
    """Show everything, step by step, and clean up.

    Args:
        lab: Where; brought up for this, and taken down again.
        api_port: Port of the lab's service on loopback.
        store: What keeps images and disks.
        keep: Leave it all up at the end.
        console: Where to tell.

    Raises:
        DemoFailed: Something was seen that must not be.
        BmiError: A part failed.
    """
    begun = time.monotonic()
    demo = Demo(lab, console)
    lab.down(lambda what, seconds: None)
    try:
        demo.show(api_port, store)
        if keep:
            console.print(f'\nIt is all still up: eval "$(bmi lab env --dir {lab.folder})"; bmi node list')
        else:
            demo.clean()
    finally:
        if not keep:
            lab.down(lambda what, seconds: None)
    console.print(f"\ndemo: ok, {time.monotonic() - begun:.0f} s in all")


class Demo:
    """What is shown, in order."""

    def __init__(self, lab: Lab, console: Console) -> None:
        self._lab = lab
        self._out = console
        self._key = lab.folder / "demo-key"

    def show(self, api_port: int, store: Store) -> None:
        """Do everything up to the last proof."""
        with self._chapter("A data centre on this machine: a switch, nodes without disks, BMCs, the service"):
            self._lab.up(NODES, api_port, lambda what, seconds: self._say(f"{what} ({seconds:.1f} s)"), store)
            self._bmi("members")
        with self._chapter("A golden image, built from Debian's packages once and kept"):
            self._bmi("image", "build", "debian", "--name", IMAGE)
        with self._chapter("Two tenants, each with a network in a VLAN of its own"):
            for tenant in (RED, BLUE):
                self._bmi("project", "create", tenant.name)
                self._bmi("network", "create", tenant.network, "--project", tenant.name)
            self._bmi("network", "list")
        run_program(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "demo", "-f", self._key])
        with self._chapter("Three nodes at once boot from clones of it, BIOS and UEFI; nothing is copied"):
            self._provision([(node, tenant, IMAGE) for tenant in (RED, BLUE) for node in tenant.nodes])
            self._bmi("node", "list")
        with self._chapter("The way of one node, as BMI saw it"):
            self._bmi("node", "events", "n2")
        with self._chapter("In each of them, with the key that was injected"):
            for tenant in (RED, BLUE):
                for node in tenant.nodes:
                    self._look_inside(node, tenant)
        with self._chapter("A file on a running node, a snapshot of it, and another node from the snapshot"):
            self._snapshot()
        with self._chapter("One tenant cannot reach the other"):
            self._prove_isolation()

    def clean(self) -> None:
        """Give everything back, and prove that nothing is left."""
        with self._chapter("All nodes are given back"):
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda node: self._bmi("node", "deprovision", node), ("n1", "n2", "n3", "n4")))
            for tenant in (RED, BLUE):
                self._bmi("network", "delete", tenant.network, "--project", tenant.name)
            self._bmi("image", "delete", "with-file", "--now", "--project", RED.name)
            self._bmi("image", "delete", IMAGE, "--now")
            for tenant in (RED, BLUE):
                self._bmi("project", "delete", tenant.name)
        with self._chapter("Nothing is left, counted at the parts themselves"):
            report = Report.model_validate(self._ask("doctor"))
            counted = report.inventory.model_dump()
            for name, count in counted.items():
                self._say(f"{name.replace('_', ' ')}: {count}")
            if report.errors or any(counted.values()):
                raise DemoFailed(
                    f"something is left: {report.model_dump_json()}",
                    next_step="run the demo with --keep and look at it",
                )
            state = self._lab.folder
            self._lab.down(lambda what, seconds: self._say(f"{what} ({seconds:.1f} s)"))
            self._prove_gone(state)

    def _provision(self, wanted: Sequence[tuple[str, Tenant, str]]) -> None:
        """Provision nodes side by side, and wait until each operating system has reported that it is up."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda one: self._provision_one(*one), wanted))

    def _provision_one(self, node: str, tenant: Tenant, image: str) -> None:
        self._bmi(
            *("node", "provision", node, "--image", image, "--network", tenant.network),
            *("--project", tenant.name, "--ssh-key", f"{self._key}.pub"),
        )

    def _look_inside(self, node: str, tenant: Tenant) -> None:
        firmware = "test -d /sys/firmware/efi && echo UEFI || echo BIOS"
        command = f"hostname; findmnt -no SOURCE,FSTYPE /; iscsiadm -m session; {firmware}"
        for line in self._ssh(node, tenant, command).splitlines():
            self._say(f"{node}: {line}")

    def _snapshot(self) -> None:
        self._ssh("n1", RED, "echo made on n1 > /root/note && sync")
        self._say("n1: made /root/note")
        disk = self._ask("node", "show", "n1")["disk"]
        self._bmi("disk", "snapshot", disk, "--name", "with-file", "--project", RED.name)
        self._provision([("n4", RED, "with-file")])
        note = self._ssh("n4", RED, "hostname; cat /root/note").split("\n")
        self._say(f"{note[0]}: /root/note says: {note[1]}")
        if note[:2] != ["n4", "made on n1"]:
            raise DemoFailed(f"n4 shows {note}", next_step="compare the disks of n1 and n4")

    def _prove_isolation(self) -> None:
        """Let a node of red take an address of blue's network, as a hostile tenant would, and try."""
        victim = self._ask("node", "show", "n3")["address"]
        targets = {node: self._ask("node", "show", node)["portal"].replace(":", "/") for node in ("n1", "n3")}
        gateway = self._ask("network", "show", BLUE.network, "--project", BLUE.name)["gateway"]
        own = self._ask("network", "show", RED.network, "--project", RED.name)["gateway"]
        stolen = victim.rsplit(".", 1)[0] + ".99"
        nic = "$(ls /sys/class/net | grep -v lo | head -1)"
        self._ssh("n1", RED, f"ip address add {stolen}/24 dev {nic}")
        self._say(f"n1 of red has taken {stolen}, an address of blue's network")
        probe = "ping -c 1 -W 3 {0} >/dev/null 2>&1 && echo reached || echo unreachable"
        port = "timeout 3 bash -c '</dev/tcp/{0}' 2>/dev/null && echo reached || echo unreachable"
        self._expect("n1 to its own gateway", self._ssh("n1", RED, probe.format(own)), "reached")
        self._expect("n1 to its own target", self._ssh("n1", RED, port.format(targets["n1"])), "reached")
        self._expect("n1 to blue's node n3", self._ssh("n1", RED, probe.format(victim)), "unreachable")
        self._expect("n1 to blue's gateway", self._ssh("n1", RED, probe.format(gateway)), "unreachable")
        self._expect("n1 to blue's target", self._ssh("n1", RED, port.format(targets["n3"])), "unreachable")

    def _expect(self, what: str, seen: str, wanted: str) -> None:
        self._say(f"{what}: {seen.strip()}")
        if seen.strip() != wanted:
            raise DemoFailed(
                f"{what}: {seen.strip()}, should be {wanted}", next_step="look at the switch's VLANs"
            )

    def _prove_gone(self, folder: Path) -> None:
        namespaces = [
            name for name in run_program(["ip", "netns", "list"]).split() if name.startswith("bmi-lab")
        ]
        mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if str(folder) in line]
        loops = [line for line in run_program(["losetup", "--list"]).splitlines() if str(folder) in line]
        programs = [line for line in run_program(["ps", "-eo", "args"]).splitlines() if f"{folder}/" in line]
        self._say(f"namespaces: {len(namespaces)}, mounts: {len(mounts)}, loop devices: {len(loops)}")
        self._say(f"programs: {len(programs)}")
        if mounts or loops or programs or folder.exists():
            raise DemoFailed(
                f"the lab left {mounts + loops + programs}", next_step="look at what it is, then remove it"
            )

    def _ssh(self, node: str, tenant: Tenant, command: str) -> str:
        """Run a command on a node, from the gateway's leg on its network; the host key is the one it reported."""
        found = self._ask("node", "show", node)
        network = self._ask("network", "show", tenant.network, "--project", tenant.name)["id"]
        known = self._lab.folder / f"known-{node}"
        known.write_text("".join(f"{found['address']} {key}\n" for key in found["ssh_host_keys"]))
        words: list[str | Path] = [
            *("ssh", "-i", self._key, "-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=yes"),
            *("-o", "BatchMode=yes", "-o", "ConnectTimeout=15", f"root@{found['address']}", command),
        ]
        namespace = self._lab.leg_namespaces()[network]
        return run_program(words, namespace=namespace, timeout=_SSH_DEADLINE)

    def _ask(self, *words: str) -> Any:
        """Run a `bmi` command quietly, and return what it answers."""
        return json.loads(self._run([*words, "--json"]))

    def _bmi(self, *words: str) -> None:
        """Run a `bmi` command as a person would, and show both."""
        begun = time.monotonic()
        text = self._run(words)
        self._say(f"[bold]$ bmi {shlex.join(words)}[/] [dim]({time.monotonic() - begun:.1f} s)[/]", text)

    def _run(self, words: Sequence[str]) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "bmi.cli", *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=_PROVISION_DEADLINE,
            env={**os.environ, "BMI_CLIENT_CONFIG": str(self._lab.profile)},
        )
        if done.returncode != 0:
            raise CommandFailed(
                f"bmi {shlex.join(words)}: {done.stderr.strip()}",
                next_step=f"the lab is in {self._lab.folder}",
            )
        return done.stdout

    def _say(self, line: str, more: str = "") -> None:
        self._out.print("\n".join(f"    {text}" for text in (line, *more.rstrip().splitlines())))

    @contextmanager
    def _chapter(self, title: str) -> Iterator[None]:
        begun = time.monotonic()
        self._out.print(f"\n[bold cyan]{title}[/]")
        yield
        self._out.print(f"    [dim]{time.monotonic() - begun:.1f} s[/]")
