"""The lab's machines: real QEMUs, their power, consoles and network boot."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from bmi.drivers import Outcome
from bmi.drivers.power import BootDevice
from bmi.errors import CommandFailed
from bmi.ids import new_id
from bmi.lab.node import Firmware, NetworkBoot, NodeSpec, VirtualNic, VirtualNode
from bmi.lab.testing import power_only
from bmi.processes import Process
from bmi.run import run
from bmi.wait import wait_until

MAC = "52:54:00:77:00:01"
BOOT_DEADLINE = 120  # seconds for firmware that takes 5 to 13 on an idle host


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for Unix sockets."""
    path = Path(tempfile.mkdtemp(prefix="bmi-node-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextmanager
def used(node: VirtualNode) -> Iterator[VirtualNode]:
    try:
        yield node
    finally:
        node.power_off()


@pytest.fixture
def node(folder: Path) -> Iterator[VirtualNode]:
    with used(VirtualNode(power_only(1)[0], folder / "n1")) as made:
        yield made


def running(node: VirtualNode) -> Process:
    assert node.process
    return node.process


# --- power -----------------------------------------------------------------------------------------------


def test_power_comes_and_goes(node: VirtualNode) -> None:
    assert node.power_on() is Outcome.DONE
    assert psutil.Process(running(node).pid).name().startswith("qemu")
    assert node.power_on() is Outcome.ALREADY
    pid = running(node).pid
    assert node.power_off() is Outcome.DONE
    assert not psutil.pid_exists(pid)
    assert node.power_off() is Outcome.ALREADY


def test_a_machine_that_ends_by_itself_is_off(node: VirtualNode) -> None:
    node.power_on()
    pid = running(node).pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(pid), deadline=5, what="no zombie to stay", next_step="-")
    assert not node.is_on()
    assert node.power_on() is Outcome.DONE


def test_the_machine_outlives_who_started_it(node: VirtualNode, folder: Path) -> None:
    script = (
        "from bmi.lab.node import *; from uuid import UUID; from pathlib import Path; import os, signal\n"
        f"VirtualNode(NodeSpec('n1', UUID('{node.spec.id}'), memory=64), Path({str(node.folder)!r})).power_on()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert node.is_on()
    assert node.power_on() is Outcome.ALREADY
    node.power_off()
    assert not node.is_on()


def test_a_machine_that_nobody_recorded_is_still_the_node(node: VirtualNode) -> None:
    """As when the starter was killed between the start and the record."""
    node.power_on()
    stray = running(node)
    (node.folder / "qemu.json").unlink()
    assert node.is_on()
    assert node.power_on() is Outcome.ALREADY
    assert node.power_off() is Outcome.DONE
    assert not stray.alive()


def test_a_machine_that_cannot_start_says_why(folder: Path) -> None:
    nic = VirtualNic(MAC, f"no{secrets.token_hex(4)}")
    spec = replace(power_only(1)[0], nics=(nic,), namespace="no-such-namespace")
    with used(VirtualNode(spec, folder / "n1")) as node:
        with pytest.raises(CommandFailed, match="no-such-namespace"):
            node.power_on()
        assert not node.is_on()


def test_reset_keeps_the_machine(node: VirtualNode) -> None:
    node.power_on()
    before = running(node)
    node.reset()
    assert running(node) == before


def test_reset_starts_from_what_was_chosen_since(node: VirtualNode) -> None:
    node.power_on()
    before = running(node)
    node.set_boot_device(BootDevice.NETWORK)
    node.reset()
    assert node.is_on()
    assert running(node) != before
    before = running(node)
    node.reset()
    assert running(node) == before


def test_the_power_button_reaches_the_machine(node: VirtualNode) -> None:
    node.shut_down()  # off already
    node.power_on()
    node.shut_down()  # firmware does not listen
    assert node.is_on()


# --- console ---------------------------------------------------------------------------------------------


def test_the_console_is_kept_and_can_be_watched(node: VirtualNode) -> None:
    node.power_on()
    with socket.socket(socket.AF_UNIX) as console:
        console.settimeout(BOOT_DEADLINE)
        console.connect(str(node.console))
        seen = b""
        while b"No bootable device" not in seen:
            seen += console.recv(4096)
    said(node, "No bootable device")  # nobody watches any more
    first = node.console_log.read_text(errors="replace")
    node.power_off()
    node.power_on()
    assert node.previous_console_log.read_text(errors="replace").startswith(first[:200])
    said(node, "SeaBIOS")


# --- network boot ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wire:
    """A namespace with one tap, and DHCP and TFTP on it."""

    namespace: str
    tap: str
    log: Path


SCRIPT = "#!ipxe\necho the script speaks to ${net0/mac} on ${platform}\nsleep 600\n"


@pytest.fixture
def wire(folder: Path) -> Iterator[Wire]:
    name = f"bmi-t{secrets.token_hex(4)}"
    tap, log, tftp = "node0", folder / "dnsmasq.log", folder / "tftp"
    tftp.mkdir()
    folder.chmod(0o755)
    (tftp / "boot.ipxe").write_text(SCRIPT)
    shutil.copy("/usr/lib/ipxe/snponly.efi", tftp)
    run(["ip", "netns", "add", name])
    try:
        run(["ip", "tuntap", "add", "dev", tap, "mode", "tap"], namespace=name)
        run(["ip", "-n", name, "addr", "add", "192.0.2.1/24", "dev", tap])
        run(["ip", "-n", name, "addr", "add", "fd00:77::1/64", "dev", tap])
        run(["ip", "-n", name, "link", "set", tap, "up"])
        served = subprocess.Popen(
            [
                *("ip", "netns", "exec", name, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null"),
                *("--user=root", "--port=0", f"--interface={tap}", "--bind-dynamic", "--log-dhcp"),
                *(f"--log-facility={log}", f"--dhcp-leasefile={folder / 'leases'}"),
                *("--dhcp-range=192.0.2.50,192.0.2.99", "--enable-tftp", f"--tftp-root={tftp}"),
                # Without a router's answer iPXE waits 13 s for one.
                *("--enable-ra", "--dhcp-range=fd00:77::,ra-only,64"),
                *("--dhcp-match=set:ipxe,175", "--dhcp-boot=tag:ipxe,boot.ipxe"),
                "--dhcp-boot=tag:!ipxe,snponly.efi",
            ]
        )
        try:
            wait_until(log.exists, deadline=10, what="dnsmasq to start", next_step="look at its log")
            yield Wire(name, tap, log)
        finally:
            served.terminate()
            served.wait(10)
    finally:
        run(["ip", "netns", "del", name])


def on_wire(wire: Wire, **more: object) -> NodeSpec:
    spec = NodeSpec("n1", new_id(), (VirtualNic(MAC, wire.tap),), namespace=wire.namespace, memory=256)
    return replace(spec, **more)  # type: ignore[arg-type]


def said(node: VirtualNode, words: str) -> None:
    """Wait until the machine has said something on its serial line."""
    wait_until(
        lambda: node.console_log.exists() and words in node.console_log.read_text(errors="replace"),
        deadline=BOOT_DEADLINE,
        what=f"the console to say {words!r}",
        next_step=f"look at {node.console_log}",
        poll=0.1,
    )


@pytest.mark.parametrize(
    ("firmware", "network_boot", "platform"),
    [
        (Firmware.BIOS, NetworkBoot.IPXE, "pcbios"),
        (Firmware.UEFI, NetworkBoot.IPXE, "efi"),
        (Firmware.UEFI, NetworkBoot.FIRMWARE, "efi"),
    ],
)
def test_a_node_boots_from_the_network(
    wire: Wire, folder: Path, firmware: Firmware, network_boot: NetworkBoot, platform: str
) -> None:
    spec = on_wire(wire, firmware=firmware, network_boot=network_boot)
    with used(VirtualNode(spec, folder / "n1")) as node:
        node.set_boot_device(BootDevice.NETWORK)
        node.power_on()
        said(node, f"the script speaks to {MAC} on {platform}")
    own = "snponly.efi" in wire.log.read_text()
    assert own == (network_boot is NetworkBoot.FIRMWARE)


@pytest.mark.parametrize(
    ("firmware", "last_words"), [(Firmware.BIOS, "No bootable device"), (Firmware.UEFI, "Shell>")]
)
def test_a_node_that_boots_from_its_disk_leaves_the_network_alone(
    wire: Wire, folder: Path, firmware: Firmware, last_words: str
) -> None:
    with used(VirtualNode(on_wire(wire, firmware=firmware), folder / "n1")) as node:
        node.power_on()
        said(node, last_words)
    assert MAC not in wire.log.read_text()


def test_a_bios_node_that_met_no_server_tries_again(wire: Wire, folder: Path) -> None:
    run(["ip", "-n", wire.namespace, "addr", "del", "192.0.2.1/24", "dev", wire.tap])
    with used(VirtualNode(on_wire(wire), folder / "n1")) as node:
        node.set_boot_device(BootDevice.NETWORK)
        node.power_on()
        said(node, "No bootable device")
        run(["ip", "-n", wire.namespace, "addr", "add", "192.0.2.1/24", "dev", wire.tap])
        said(node, "the script speaks")


def test_the_cable_is_free_as_soon_as_the_power_is_off(wire: Wire, folder: Path) -> None:
    with used(VirtualNode(on_wire(wire), folder / "n1")) as node:
        for _ in range(5):
            assert node.power_on() is Outcome.DONE
            assert node.power_off() is Outcome.DONE
