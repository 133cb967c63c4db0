"""Real firmware and iPXE, from the first DHCP request to the boot script: dnsmasq, HTTP and the script together."""

import contextlib
import json
import os
import queue
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from bmi import netns
from bmi.boot.dhcp_log import Kind
from bmi.boot.dnsmasq import Addressing, BootHost, DhcpMode, Dnsmasq
from bmi.boot.listen import NodeHttp
from bmi.boot.loaders import Loaders
from bmi.boot.script import BootTarget, render
from bmi.drivers import Site
from bmi.drivers.leg import Leg
from bmi.ids import new_id
from bmi.run import run
from bmi.settings import Boot
from bmi.wait import wait_until

MAC = "52:54:00:66:00:01"
OTHER_MAC = "52:54:00:66:00:02"
GATEWAY = IPv4Interface("10.66.0.254/24")
ADDRESS = IPv4Address("10.66.0.1")
PORT = 8080
POWER_ON_TO_SCRIPT = 60.0  # seconds; 6 on a busy machine without KVM
POWER_ON_TO_SCRIPT_UEFI = 120.0  # seconds; 20 there
SNAKEOIL = Path("/usr/share/ovmf")
"""Where Debian's OVMF has a key pair that is no secret, and that one of its stores of variables trusts."""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: run as root")


@dataclass
class Yard:
    """A gateway's leg with everything that serves nodes, and a cable to plug a node in."""

    folder: Path
    site: Site
    run_dir: Path
    leg: Leg
    nodes: str
    dnsmasq: Dnsmasq
    http: NodeHttp
    fetched: queue.Queue[str] = field(default_factory=queue.Queue)
    target: BootTarget | None = None
    first_script: str | None = None
    """What is answered once, in place of the script that leads to the target."""
    other: "subprocess.Popen[bytes] | None" = None
    """Another DHCP server."""

    def application(self, _network: UUID) -> Starlette:
        def script(request: Request) -> PlainTextResponse:
            self.fetched.put(request.path_params["token"])
            if self.first_script is not None:
                text, self.first_script = self.first_script, None
                return PlainTextResponse(text)
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
    def power_on(self, firmware: str, *, first_card: str | None = None) -> Iterator[Path]:
        """Run a machine, and yield the file that its console goes to.

        Args:
            firmware: `bios` with iPXE in its cards, `uefi`, or the variables of an OVMF with Secure Boot on.
            first_card: Before the card of the network, another one: `unplugged`, or with the cable `elsewhere`.
        """
        console = self.folder / "console"
        console.touch()
        # Without an option ROM UEFI's own driver and PXE client serve the card; SeaBIOS has none.
        rom = "" if firmware == "bios" else ",romfile="
        cards = {"n1": ("elsewhere", OTHER_MAC)} if first_card else {}
        cards["n0"] = ("tap0", MAC)
        machine = [
            "qemu-system-x86_64 -accel tcg -m 256 -nodefaults -no-user-config -display none -vga none",
            f"-boot order=n,reboot-timeout=3000 -serial file:{console} -S -qmp stdio",
        ]
        for id, (tap, mac) in cards.items():
            machine += [
                f"-netdev tap,id={id},ifname={tap},script=no,downscript=no,vnet_hdr=off",
                f"-device virtio-net-pci,netdev={id},mac={mac}{rom}",
            ]
        words = " ".join([*machine, *self._firmware(firmware)]).split(" ")
        orders: list[dict[str, object]] = [{"execute": "qmp_capabilities"}, {"execute": "cont"}]
        if first_card == "unplugged":
            orders.insert(1, {"execute": "set_link", "arguments": {"name": "n1", "up": False}})
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.nodes, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert process.stdin
        process.stdin.write("".join(f"{json.dumps(order)}\n" for order in orders).encode())
        process.stdin.flush()
        try:
            yield console
        finally:
            process.kill()
            assert process.communicate()[1] == b""

    def _firmware(self, kind: str) -> list[str]:
        if kind == "bios":
            return ["-machine pc,graphics=off"]
        secure = kind != "uefi"
        ovmf = Path("/usr/share/OVMF")
        code = ovmf / ("OVMF_CODE_4M.secboot.fd" if secure else "OVMF_CODE_4M.fd")
        shutil.copy(ovmf / (kind if secure else "OVMF_VARS_4M.fd"), self.folder / "vars.fd")
        return [
            "-machine q35"
            + (",smm=on -global driver=cfi.pflash01,property=secure,value=on" if secure else ""),
            f"-drive if=pflash,format=raw,readonly=on,file={code}",
            f"-drive if=pflash,format=raw,file={self.folder / 'vars.fd'}",
        ]

    def serve_elsewhere(self) -> None:
        """Let another DHCP server give addresses, and nothing to boot, at the other card's end."""
        run(["ip", "-n", self.nodes, "addr", "add", "10.77.0.254/24", "dev", "br1"])
        words = [
            *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=br1"),
            *(
                "--bind-interfaces",
                "--except-interface=lo",
                "--dhcp-range=10.77.0.10,10.77.0.20",
                "--log-dhcp",
            ),
            *(f"--dhcp-leasefile={self.folder / 'other'}", "--log-facility=-", "--user=root", "--pid-file"),
        ]
        with (self.folder / "other.log").open("wb") as log:
            self.other = subprocess.Popen(["ip", "netns", "exec", self.nodes, *words], stderr=log)

    def served_elsewhere(self) -> bool:
        return f" {OTHER_MAC}" in (self.folder / "other.log").read_text()


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    word = secrets.token_hex(3)
    gateway, nodes = f"bt-{word}-g", f"bt-{word}-n"
    run_dir = Path(f"/run/bmi-test-{word}")
    leg = Leg(new_id(), 101, GATEWAY, gateway, "eth0")
    site = Site(tmp_path, "0badcafe")
    dnsmasq = Dnsmasq(site, run_dir=run_dir)
    http = NodeHttp(lambda network: made.application(network))
    made = Yard(tmp_path, site, run_dir, leg, nodes, dnsmasq, http)
    try:
        netns.create(gateway)
        netns.create(nodes)
        run(["ip", "link", "add", "eth0", "netns", gateway, "type", "veth", "peer", "eth0", "netns", nodes])
        run(["ip", "-n", gateway, "addr", "add", str(leg.address), "dev", "eth0"])
        run(["ip", "-n", gateway, "addr", "add", "fd00:66::1/64", "dev", "eth0", "nodad"])
        run(["ethtool", "-K", "eth0", "tx", "off"], namespace=gateway)  # a tap carries no half-made checksums
        run(["ip", "-n", nodes, "link", "add", "br0", "type", "bridge"])
        run(["ip", "-n", nodes, "link", "add", "br1", "type", "bridge"])
        for tap in ("tap0", "elsewhere"):
            run(["ip", "-n", nodes, "tuntap", "add", "dev", tap, "mode", "tap"])
        for port, bridge in (("eth0", "br0"), ("tap0", "br0"), ("elsewhere", "br1")):
            run(["ip", "-n", nodes, "link", "set", port, "master", bridge, "up"])
        for bridge in ("br0", "br1"):
            run(["ip", "-n", nodes, "link", "set", bridge, "up"])
        run(["ip", "-n", gateway, "link", "set", "eth0", "up"])
        http.serve(leg.network, gateway, GATEWAY.ip, PORT)
        yield made
    finally:
        if made.other:
            made.other.kill()
            made.other.wait()
        http.close()
        made.dnsmasq.stop(leg.network)
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


def test_undionly_runs_over_the_cards_pxe_interface(yard: Yard) -> None:
    """It loads as by a BIOS and drives the card by UNDI, as it must: it has no driver of its own.

    The PXE interface is that of iPXE in the card, since no other is to be had; so iPXE has to be told to load it.
    """
    yard.offer("first")
    yard.first_script = f"#!ipxe\nchain tftp://{GATEWAY.ip}/undionly.kpxe\n"
    with yard.power_on("bios") as console:
        for _ in range(2):
            assert yard.fetched.get(timeout=POWER_ON_TO_SCRIPT) == "first"
        wait_until(
            lambda: b"BMI: cannot boot from 10.66.0.254:3260" in console.read_bytes(),
            deadline=POWER_ON_TO_SCRIPT,
            what="undionly.kpxe to carry out the script",
            next_step="",
        )
        said = console.read_bytes()
    assert b"net0: 52:54:00:66:00:01 using undion" in said
    assert b"!PXE at " in said
    assert yard.seen().count((Kind.SENT, "undionly.kpxe")) == 1


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


# --- Secure Boot -----------------------------------------------------------------------------------------


def test_secure_boot_refuses_ipxe_that_nobody_signed(yard: Yard) -> None:
    """Microsoft's keys, as servers come with: Debian's snponly.efi is loaded, and that is all."""
    yard.offer("first")
    with yard.power_on("OVMF_VARS_4M.ms.fd") as console:
        wait_until(
            lambda: b"Access Denied" in console.read_bytes(),
            deadline=POWER_ON_TO_SCRIPT_UEFI,
            what="the firmware to say what it refuses",
            next_step="",
        )
        assert re.search(rb'failed to load Boot\d+ "UEFI PXEv4 .*: Access Denied', console.read_bytes())
    assert yard.fetched.empty()
    assert yard.seen()[:3] == [
        (Kind.DISCOVER, "UEFI firmware"),
        (Kind.ACK, "UEFI firmware"),
        (Kind.SENT, "snponly.efi"),
    ]
    assert (Kind.DISCOVER, "iPXE") not in yard.seen()


def test_secure_boot_takes_ipxe_that_the_site_signed(yard: Yard) -> None:
    """The site's own key is among those of the firmware, and the loader is named in the settings."""
    root = yard.run_dir / "loaders"  # dnsmasq may not enter pytest's own folders
    root.mkdir(parents=True)
    key = load_pem_private_key((SNAKEOIL / "PkKek-1-snakeoil.key").read_bytes(), b"snakeoil")
    pem = yard.folder / "key.pem"
    pem.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    signing = ["sbsign", "--key", pem, "--cert", SNAKEOIL / "PkKek-1-snakeoil.pem"]
    run([*signing, "--output", root / "signed.efi", "/usr/lib/ipxe/snponly.efi"])
    boot = Boot.model_validate(
        {"tftp_root": root, "loaders": {"bios": "", "uefi_x64": "signed.efi", "http_x64": ""}}
    )
    yard.dnsmasq = Dnsmasq(yard.site, run_dir=yard.run_dir, loaders=Loaders(boot))
    yard.offer("first")
    with yard.power_on("OVMF_VARS_4M.snakeoil.fd"):
        assert yard.fetched.get(timeout=POWER_ON_TO_SCRIPT_UEFI) == "first"
    assert (Kind.SENT, "signed.efi") in yard.seen()


# --- several cards ---------------------------------------------------------------------------------------


def test_a_card_without_a_cable_is_passed_over(yard: Yard) -> None:
    yard.offer("first")
    with yard.power_on("bios", first_card="unplugged"):
        assert yard.fetched.get(timeout=POWER_ON_TO_SCRIPT_UEFI) == "first"
    assert yard.seen() == [(Kind.DISCOVER, "iPXE"), (Kind.ACK, "iPXE")]


def test_a_card_on_another_network_is_passed_over(yard: Yard) -> None:
    yard.serve_elsewhere()
    yard.offer("first")
    with yard.power_on("bios", first_card="elsewhere"):
        assert yard.fetched.get(timeout=POWER_ON_TO_SCRIPT_UEFI) == "first"
    assert yard.served_elsewhere()


def test_uefi_goes_on_to_the_card_that_has_a_cable_and_ipxe_stays_with_it(yard: Yard) -> None:
    yard.offer("first")
    with yard.power_on("uefi", first_card="unplugged") as console:
        assert yard.fetched.get(timeout=POWER_ON_TO_SCRIPT_UEFI) == "first"
        said = console.read_bytes()
    assert f"net0: {MAC} using SNP".encode() in said
    assert b"net1" not in said
    assert OTHER_MAC.encode() not in said
