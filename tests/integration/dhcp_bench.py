"""A dnsmasq on a gateway's leg, and cards at the other end of a wire."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from uuid import UUID

import psutil

from bmi import netns, processes
from bmi.boot.dhcp_log import BootEvent, Kind
from bmi.boot.dnsmasq import BootHost, Dnsmasq
from bmi.drivers import Site
from bmi.drivers.leg import Leg
from bmi.ids import new_id
from bmi.run import run
from bmi.wait import wait_until
from tests.integration.dhcp_client import DhcpClient


@dataclass
class Bench:
    """A network with a gateway's leg at one end and any number of cards at the other."""

    site: Site
    run_dir: Path
    leg: Leg
    client: DhcpClient
    dnsmasq: Dnsmasq

    def again(self, *, patience: float = 10.0) -> Dnsmasq:
        """Return a new object for the same place, as after a restart of BMI."""
        self.dnsmasq = Dnsmasq(self.site, run_dir=self.run_dir, patience=patience)
        return self.dnsmasq

    @property
    def kept(self) -> Path:
        return self.site.state_dir / "boot" / str(self.leg.network)

    def process(self) -> processes.Process:
        process = processes.recorded(self.kept / "dnsmasq.json")
        assert process is not None
        return process

    def events(self, kind: Kind, *, count: int = 1) -> list[BootEvent]:
        """Wait until so many events of a kind were seen, and return them."""
        seen: list[BootEvent] = []

        def enough() -> bool:
            seen.extend(event for event in self.dnsmasq.events(self.leg.network) if event.kind is kind)
            return len(seen) >= count

        wait_until(enough, deadline=5, what=f"{count} events {kind}", next_step="")
        return seen


@contextmanager
def dhcp_bench(tmp_path: Path) -> Iterator[Bench]:
    word = secrets.token_hex(3)
    gateway, nodes = f"bt-{word}-g", f"bt-{word}-n"
    run_dir = Path(f"/run/bmi-test-{word}")
    # The state folder is root's alone, as in an installation, and has a blank in its name.
    site = Site(state_dir=tmp_path / "the state", installation="0badcafe")
    site.state_dir.mkdir(mode=0o700)
    leg = Leg(new_id(), 101, IPv4Interface("10.66.0.254/24"), gateway, "eth0")
    try:
        netns.create(gateway)
        netns.create(nodes)
        run(["ip", "link", "add", "eth0", "netns", gateway, "type", "veth", "peer", "eth0", "netns", nodes])
        run(["ip", "-n", gateway, "addr", "add", str(leg.address), "dev", "eth0"])
        run(["ip", "-n", gateway, "addr", "add", "fd00:66::1/64", "dev", "eth0", "nodad"])
        run(["ip", "-n", gateway, "link", "set", "eth0", "up"])
        run(["ip", "-n", nodes, "link", "set", "eth0", "up"])
        bench = Bench(
            site, run_dir, leg, DhcpClient(nodes, "eth0"), Dnsmasq(site, run_dir=run_dir, patience=1)
        )
        yield bench
        bench.dnsmasq.stop(leg.network)
        assert not mentioning(site.state_dir), "a dnsmasq was left behind"
    finally:
        for process in mentioning(site.state_dir):
            process.kill()
        netns.delete(gateway)
        netns.delete(nodes)
        shutil.rmtree(run_dir, ignore_errors=True)


def host(number: int, *, boot: str = "first") -> BootHost:
    return BootHost(
        node=UUID(int=number),
        mac=f"52:54:00:66:00:{number:02x}",
        address=IPv4Address(f"10.66.0.{number}"),
        hostname=f"node-{number}",
        script_url=f"http://10.66.0.254:8080/boot/{UUID(int=number)}/{boot}/script.ipxe",
    )


def mentioning(folder: Path) -> list[psutil.Process]:
    """Return the processes whose command line has a folder in it."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(folder) in word for word in process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found
