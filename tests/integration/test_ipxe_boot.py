"""Real iPXE, from its first DHCP request to its boot script: dnsmasq, the HTTP server and the script together."""

import contextlib
import os
import queue
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from uuid import UUID

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from bmi import netns
from bmi.boot.dhcp_log import Kind
from bmi.boot.dnsmasq import Addressing, BootHost, DhcpMode, Dnsmasq
from bmi.boot.listen import NodeHttp
from bmi.boot.script import BootTarget, render
from bmi.drivers import Site
from bmi.drivers.leg import Leg
from bmi.ids import new_id
from bmi.run import run
from bmi.wait import wait_until

MAC = "52:54:00:66:00:01"
GATEWAY = IPv4Interface("10.66.0.254/24")
ADDRESS = IPv4Address("10.66.0.1")
PORT = 8080
POWER_ON_TO_SCRIPT = 60.0  # seconds; 6 on a busy machine without KVM
POWER_ON_TO_SCRIPT_UEFI = 120.0  # seconds; 20 there

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: run as root")


@dataclass
class Yard:
    """A gateway's leg with everything that serves nodes, and a cable to plug a node in."""

    folder: Path
    leg: Leg
    nodes: str
    dnsmasq: Dnsmasq
    http: NodeHttp
    fetched: queue.Queue[str] = field(default_factory=queue.Queue)
    target: BootTarget | None = None

    def application(self, _network: UUID) -> Starlette:
        def script(request: Request) -> PlainTextResponse:
            self.fetched.put(request.path_params["token"])
            assert self.target is not None
            return PlainTextResponse(render(self.target))

        def whose(request: Request) -> PlainTextResponse:
            assert request.client is not None
            request.path_params["token"] = request.client.host
            return script(request)

        return Starlette(
            routes=[Route("/boot/script.ipxe", whose), Route("/boot/{token}/script.ipxe", script)]
        )

    def url(self, token: str) -> str:
        return f"http://{GATEWAY.ip}:{PORT}/boot/{token}/script.ipxe"

    def offer(self, token: str, *, addressing: Addressing | None = None) -> None:
        """Serve the node with a script that leads to a portal where nobody listens."""
        self.target = BootTarget(
            address=GATEWAY.ip,
            port=3260,
            iqn="iqn.2026-01.internal.bmi:disk",
            initiator="iqn.2026-01.internal.bmi:node",
            username="someone",
            password="0123456789abcdef",
            script_url=self.url(token),
        )
        hosts = [BootHost(UUID(int=1), MAC, ADDRESS, "node-1", self.url(token))]
        self.dnsmasq.serve(self.leg, hosts, addressing=addressing or Addressing())

    @contextlib.contextmanager
    def other_server(self) -> Iterator[None]:
        """Run the site's own DHCP server on the network: it gives the node its address and knows of no boot."""
        run(["ip", "-n", self.nodes, "addr", "add", "10.66.0.2/24", "dev", "br0"])
        words = [
            "dnsmasq --keep-in-foreground --port=0 --user=root --conf-file=/dev/null --pid-file= --leasefile-ro",
            f"--interface=br0 --dhcp-range=10.66.0.0,static --dhcp-host={MAC},{ADDRESS}",
        ]
        command = ["ip", "netns", "exec", self.nodes, *" ".join(words).split()]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            wait_until(
                lambda: bool(run(["ss", "-Huln", "sport = :67"], namespace=self.nodes)),
                deadline=5,
                what="the site's DHCP server to listen",
                next_step="",
            )
            yield
        finally:
            process.kill()
            process.wait()

    def seen(self) -> list[tuple[Kind, str]]:
        return [(event.kind, event.detail) for event in self.dnsmasq.events(self.leg.network)]

    @contextlib.contextmanager
    def power_on(self, firmware: str) -> Iterator[Path]:
        """Run a machine whose card has the option ROM given, and yield the file that its console goes to."""
        console = self.folder / "console"
        machine = [
            "qemu-system-x86_64 -accel tcg -m 256 -nodefaults -no-user-config -display none -vga none",
            "-boot order=n,reboot-timeout=3000",
            f"-serial file:{console}",
            "-netdev tap,id=n0,ifname=tap0,script=no,downscript=no,vnet_hdr=off",
            # Without an option ROM UEFI's own driver and PXE client serve the card; SeaBIOS has none.
            f"-device virtio-net-pci,netdev=n0,mac={MAC}" + (",romfile=" if firmware == "uefi" else ""),
        ]
        words = " ".join([*machine, *self._firmware(firmware)]).split(" ")
        process = subprocess.Popen(["ip", "netns", "exec", self.nodes, *words], stderr=subprocess.PIPE)
        try:
            yield console
        finally:
            process.kill()
            assert process.communicate()[1] == b""

    def _firmware(self, kind: str) -> list[str]:
        if kind == "bios":
            return ["-machine pc,graphics=off"]
        shutil.copy("/usr/share/OVMF/OVMF_VARS_4M.fd", self.folder / "vars.fd")
        return [
            "-machine q35",
            "-drive if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
            f"-drive if=pflash,format=raw,file={self.folder / 'vars.fd'}",
        ]


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    word = secrets.token_hex(3)
    gateway, nodes = f"bt-{word}-g", f"bt-{word}-n"
    run_dir = Path(f"/run/bmi-test-{word}")
    leg = Leg(new_id(), 101, GATEWAY, gateway, "eth0")
    dnsmasq = Dnsmasq(Site(tmp_path, "0badcafe"), run_dir=run_dir)
    http = NodeHttp(lambda network: made.application(network))
    made = Yard(tmp_path, leg, nodes, dnsmasq, http)
    try:
        netns.create(gateway)
        netns.create(nodes)
        run(["ip", "link", "add", "eth0", "netns", gateway, "type", "veth", "peer", "eth0", "netns", nodes])
        run(["ip", "-n", gateway, "addr", "add", str(leg.address), "dev", "eth0"])
        run(["ip", "-n", gateway, "addr", "add", "fd00:66::1/64", "dev", "eth0", "nodad"])
        run(["ethtool", "-K", "eth0", "tx", "off"], namespace=gateway)  # a tap carries no half-made checksums
        run(["ip", "-n", nodes, "link", "add", "br0", "type", "bridge"])
        run(["ip", "-n", nodes, "tuntap", "add", "dev", "tap0", "mode", "tap"])
        for port in ("eth0", "tap0"):
            run(["ip", "-n", nodes, "link", "set", port, "master", "br0", "up"])
        run(["ip", "-n", nodes, "link", "set", "br0", "up"])
        run(["ip", "-n", gateway, "link", "set", "eth0", "up"])
        http.serve(leg.network, gateway, GATEWAY.ip, PORT)
        yield made
    finally:
        http.close()
        dnsmasq.stop(leg.network)
        netns.delete(gateway)
        netns.delete(nodes)
        shutil.rmtree(run_dir, ignore_errors=True)


def test_a_node_fetches_its_script_and_follows_a_change(yard: Yard) -> None:
    yard.offer("first")
    with yard.power_on("bios") as console:
        assert yard.fetched.get(timeout=POWER_ON_TO_SCRIPT) == "first"
        wait_until(
            lambda: b"BMI: cannot boot from 10.66.0.254:3260" in console.read_bytes(),
            deadline=POWER_ON_TO_SCRIPT,
            what="the node to say what is wrong",
            next_step="",
        )
        yard.offer("second")
        # The script that the node has leads to the first address; what it gets there leads to the second.
        assert yard.fetched.get(timeout=POWER_ON_TO_SCRIPT) == "first"
        assert yard.fetched.get(timeout=POWER_ON_TO_SCRIPT) == "second"
    assert yard.seen() == [(Kind.DISCOVER, "iPXE"), (Kind.ACK, "iPXE")]


def test_uefi_loads_ipxe_over_tftp(yard: Yard) -> None:
    yard.offer("first")
    with yard.power_on("uefi"):
        assert yard.fetched.get(timeout=POWER_ON_TO_SCRIPT_UEFI) == "first"
    assert yard.seen() == [
        (Kind.DISCOVER, "UEFI firmware"),
        (Kind.ACK, "UEFI firmware"),
        (Kind.SENT, "snponly.efi"),
        (Kind.DISCOVER, "iPXE"),
        (Kind.ACK, "iPXE"),
    ]


@pytest.mark.parametrize(
    ("firmware", "deadline"), [("bios", POWER_ON_TO_SCRIPT), ("uefi", POWER_ON_TO_SCRIPT_UEFI)]
)
def test_a_node_boots_beside_a_server_that_gives_addresses(
    yard: Yard, firmware: str, deadline: float
) -> None:
    script = f"http://{GATEWAY.ip}:{PORT}/boot/script.ipxe"
    yard.offer("first", addressing=Addressing(DhcpMode.PROXY, script_url=script))
    with yard.other_server(), yard.power_on(firmware):
        # The script's server is asked from the address that the other server gave.
        assert yard.fetched.get(timeout=deadline) == str(ADDRESS)
    assert yard.dnsmasq.leases(yard.leg.network) == []
