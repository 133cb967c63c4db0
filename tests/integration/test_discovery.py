"""Unknown cards are led to the inspection system, which is built, boots, and tells what its machine consists of."""

import os
import re
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from bmi.boot.dnsmasq import Addressing, DhcpMode
from bmi.discovery import inspector, report
from bmi.errors import SettingsInvalid
from bmi.images.debian.recipe import Kernel
from bmi.run import run
from tests.integration.dhcp_bench import Bench, dhcp_bench, host
from tests.integration.dhcp_client import BIOS, IPXE, SYSTEM, UEFI
from tests.unit.discovery.reports import frame

SCRIPT = "http://10.66.0.254:8080/discovery/script.ipxe"
STRANGER = "52:54:00:bb:bb:bb"
PING = 6.0  # seconds; dnsmasq looks for 3 s whether somebody has an address of a range before it offers it
FULL = Addressing(DhcpMode.FULL, dynamic=(IPv4Address("10.66.0.100"), IPv4Address("10.66.0.109")))

MAC, UUID = "52:54:00:11:22:33", "6ab2f0a6-5f6c-4c4e-9a57-4f3a5ed3b4a1"
BOOT = 240.0  # seconds; ten on an idle machine

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: run as root")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with dhcp_bench(tmp_path) as bench:
        yield bench


def test_an_unknown_card_is_led_to_the_inspection_system_and_a_node_to_its_own_script(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [host(1)], addressing=replace(FULL, discovery_url=SCRIPT))
    for kind, file in ((IPXE, SCRIPT), (BIOS, "undionly.kpxe"), (UEFI, "snponly.efi")):
        answer = bench.client.boot(STRANGER, kind, timeout=PING)
        assert answer is not None
        assert file in (answer.boot_file, answer.file)
    known = bench.client.boot(host(1).mac, IPXE)
    assert known is not None
    assert (known.address, known.boot_file) == (host(1).address, host(1).script_url)
    plain = bench.client.boot(STRANGER, SYSTEM, timeout=PING)
    assert plain is not None
    assert (plain.boot_file, plain.file) == (None, "")


def test_where_nothing_is_discovered_an_unknown_card_boots_nothing(bench: Bench) -> None:
    bench.dnsmasq.serve(bench.leg, [], addressing=replace(FULL, dynamic=None, discovery_url=SCRIPT))
    assert bench.client.boot(STRANGER, IPXE, timeout=1) is None


# --- the inspection system ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspector") / "inspector"
    inspector.build(folder, kernel=Kernel.CLOUD, progress=lambda what, done: None)
    return folder


@pytest.mark.timeout(600)
def test_it_is_small_and_made_again_in_the_old_ones_place(built: Path) -> None:
    sizes = {file.name: file.stat().st_size for file in built.iterdir()}
    assert set(sizes) == {"vmlinuz", "initrd.img"}
    assert sum(sizes.values()) < 40 << 20
    before = built.resolve()
    (built.parent / f".{built.name}.left.work").mkdir()  # of a build that was killed
    inspector.build(built, kernel=Kernel.CLOUD, progress=lambda what, done: None)
    assert built.resolve() != before
    assert sorted(path.name for path in built.parent.iterdir()) == sorted([built.name, built.resolve().name])


def test_what_no_build_made_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    with pytest.raises(SettingsInvalid, match="was not made by this command"):
        inspector.build(folder, kernel=Kernel.CLOUD, progress=lambda what, done: None)


@pytest.mark.timeout(600)
def test_it_boots_and_reports(built: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    with Listener() as listener:
        words = [
            *("qemu-system-x86_64", "-no-user-config", "-nodefaults", "-display", "none", "-vga", "none"),
            *("-machine", "q35", "-accel", "tcg", "-m", "256", "-uuid", UUID, "-no-reboot"),
            *("-kernel", str(built / "vmlinuz"), "-initrd", str(built / "initrd.img")),
            *(
                "-append",
                f"console=ttyS0 bmi.boot={MAC} bmi.report={listener.url} bmi.listen=1 bmi.afterwards=off",
            ),
            *("-netdev", "user,id=n,restrict=off", "-device", f"virtio-net-pci,netdev=n,mac={MAC},romfile="),
            *(
                "-drive",
                f"if=none,id=d,format=raw,file={disk}",
                "-device",
                "virtio-blk-pci,drive=d,serial=S-7",
            ),
            *("-serial", f"file:{tmp_path / 'console'}"),
        ]
        subprocess.run(words, check=True, timeout=BOOT)  # it switches itself off
    assert listener.body is not None, (tmp_path / "console").read_text()[-2000:]
    told = report.parse(listener.body)
    found = told.hardware
    assert (told.mac, found.firmware, found.vendor, str(found.uuid)) == (MAC, "bios", "QEMU", UUID)
    assert 128 << 20 < found.memory <= 256 << 20
    assert [(one.name, one.size, one.serial) for one in found.disks] == [("vda", 64 << 20, "S-7")]
    assert [(card.mac, card.driver, card.link) for card in found.cards] == [(MAC, "virtio_net", True)]


class Listener:
    """Takes one report, on loopback."""

    def __init__(self) -> None:
        self.body: bytes | None = None
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                listener.body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"welcome\n")

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        """As the machine reaches it: QEMU's own network calls the host 10.0.2.2."""
        return f"http://10.0.2.2:{self._server.server_address[1]}/report"

    def __enter__(self) -> "Listener":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def test_the_listener_hears_what_a_switch_says(bench: Bench) -> None:
    script = Path(inspector.__file__).parent / "files" / "bin" / "lldp-frames"
    card, other = bench.client.interface, bench.leg.interface
    words = ["ip", "netns", "exec", bench.client.namespace, "perl", str(script), "20", card]
    hearing = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    sent = frame("tor1", "Gi1/0/7")
    send = (
        "import socket,sys,time\ns=socket.socket(socket.AF_PACKET,socket.SOCK_RAW)\ns.bind((sys.argv[1],0))\n"
        "for _ in range(100):\n  s.send(bytes.fromhex(sys.argv[2])); time.sleep(0.1)\n"
    )
    sender = subprocess.Popen(
        ["ip", "netns", "exec", bench.leg.namespace or "", "python3", "-c", send, other, sent.hex()]
    )
    try:
        heard, _ = hearing.communicate(timeout=30)
    finally:
        sender.kill()
        sender.wait()
    assert re.fullmatch(rf"{re.escape(card)}\t{sent.hex()}\n", heard)


def test_the_scripts_of_the_inspection_system_are_sound() -> None:
    top = Path(inspector.__file__).parent / "files"
    run(["perl", "-c", top / "bin" / "lldp-frames"])
    for script in (top / "init", top / "bin" / "inspect", top / "lib" / "bmi" / "set-address"):
        run(["sh", "-n", script])
