"""Boots real images on real firmware without a network of its own.

QEMU's user-mode network tells the iPXE in the virtual NIC the address of a script, and takes the guest to the
host's loopback, where a private tgtd and a small web server listen.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs
from uuid import uuid4

import psutil

from bmi.boot.seed import SeedContent, SeedNetwork, build_seed
from bmi.errors import CommandFailed
from bmi.images.debian import Recipe, build
from bmi.run import run
from bmi.wait import wait_until

Firmware = Literal["bios", "uefi"]

HOST = "10.0.2.2"  # the host's loopback, as a guest of QEMU's user-mode network sees it
BOOT = 240.0  # seconds from power-on to phone-home, on a shared machine of two cores without KVM
SHUTDOWN = 60.0  # seconds
OVMF = Path("/usr/share/OVMF")
IMAGES = Path("/var/cache/bmi/images")  # the service's own, so that one build serves all
"""Kept between runs: an image is named after all that goes into it."""

_SCRIPT = """#!ipxe
set initiator-iqn {initiator}
set username {username}
set password {password}
sanboot --keep iscsi:{host}::{port}:1:{iqn}
"""
_PASSWORD = "secret-of-12chr"
_SSH = [
    "-o",
    "BatchMode=yes",
    "-o",
    "UserKnownHostsFile=/dev/null",
    "-o",
    "StrictHostKeyChecking=no",
    "-o",
    "LogLevel=ERROR",
    "-o",
    "ConnectTimeout=30",
]


def golden(recipe: Recipe) -> Path:
    """Return a golden image, built at the first call of all runs."""
    return build(recipe, cache=IMAGES, progress=lambda what, fraction: None)


@dataclass(frozen=True)
class Call:
    """One phone-home."""

    at: float
    """Seconds of the monotonic clock."""
    node: str
    form: dict[str, str]


@dataclass
class Node:
    """A virtual server with a disk and a seed on the target."""

    name: str
    lab: "BootLab"
    folder: Path
    disk: Path
    ssh_port: int
    process: subprocess.Popen[bytes]
    started: float
    """Seconds of the monotonic clock."""
    instance_id: str
    lines: list[tuple[float, str]] = field(default_factory=list)
    """What came over the serial line: seconds since power on, text."""

    def phone_home(self, *, count: int = 1, deadline: float = BOOT) -> Call:
        """Wait until the node has phoned home `count` times."""

        def called() -> Call | None:
            assert self.process.poll() is None, f"QEMU of {self.name} ended: {self.console()[-2000:]}"
            calls = [call for call in self.lab.calls if call.node == self.name]
            return calls[count - 1] if len(calls) >= count else None

        try:
            return wait_until(
                called, deadline=deadline, what=f"{self.name} to phone home", next_step="", poll=0.1
            )
        except Exception as error:
            error.add_note(self.console()[-4000:])
            raise

    def console(self) -> str:
        return "\n".join(text for _, text in self.lines)

    def cpu_seconds(self) -> float:
        """What the node has cost the host so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def ssh(self, command: str, *, key: Path | None = None, timeout: float = 90.0) -> str:
        words = [*_SSH, "-i", str(key or self.lab.key), "-p", str(self.ssh_port), "root@127.0.0.1", command]
        return run(["ssh", *words], timeout=timeout)

    def refuses(self, key: Path) -> bool:
        """Say whether the node's sshd turns a key down."""
        try:
            self.ssh("true", key=key)
        except CommandFailed as error:
            if "Permission denied" not in error.message:
                raise
            return True
        return False

    def press_power_button(self) -> None:
        """Ask for a shutdown as a management controller does (ACPI)."""
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(str(self.folder / "monitor"))
            monitor.sendall(b"system_powerdown\n")
            # A prompt before the command and one after it: closed earlier, QEMU may never read the command.
            said = b""
            while said.count(b"(qemu) ") < 2:
                part = monitor.recv(4096)
                assert part, f"QEMU's monitor hung up after {said!r}"
                said += part

    def powers_off(self, *, deadline: float = SHUTDOWN) -> None:
        """Wait until the node has powered itself off."""
        try:
            self.process.wait(deadline)
        except subprocess.TimeoutExpired as error:
            error.add_note(self.console()[-4000:])
            raise

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@dataclass(frozen=True)
class _Export:
    name: str
    disk: Path
    seed: Path


class BootLab:
    """A target, a web server and the nodes that boot from them. Use it as a context."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = folder / "key"
        self.calls: list[Call] = []
        self.nodes: list[Node] = []
        self._exports: list[_Export] = []
        self._scripts: dict[str, str] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "BootLab":
        self.folder.mkdir(parents=True, exist_ok=True)
        new_key(self.key)
        self._iscsi_port = _free_port()
        with contextlib.ExitStack() as stack:
            stack.callback(self._stop_nodes)
            self._http_port = stack.enter_context(self._serving_http())
            self.start_target()
            stack.callback(self.stop_target)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def power_on(
        self,
        name: str,
        image: Path,
        *,
        firmware: Firmware = "bios",
        key: Path | None = None,
        memory: int = 512,
        ready: Callable[[Path, str, str], object] | None = None,
        vlans: Mapping[int, IPv4Interface] | None = None,
    ) -> Node:
        """Boot a new node from a copy of an image, or of the disk of a node that ran before.

        Args:
            name: Host name, and name of the export.
            image: What to copy.
            firmware: What the server has.
            key: SSH key that the seed lets in; the lab's own if None.
            memory: MiB.
            ready: Called before the node has power, with its disk, its instance id and where it phones home to.
            vlans: Its address on each VLAN that the seed tells it of; nobody else is there.
        """
        folder = self.folder / f"{name}-{uuid4().hex[:6]}"
        folder.mkdir()
        disk, seed, instance_id = folder / "disk.raw", folder / "seed.iso", uuid4().hex
        run(["cp", "--sparse=always", image, disk])
        mac = f"52:54:00:{os.urandom(3).hex(':')}"
        public = (key or self.key).with_suffix(".pub").read_text()
        url = f"http://{HOST}:{self._http_port}/phone-home/{name}"
        networks = tuple(SeedNetwork(mac, address, vlan) for vlan, address in (vlans or {}).items())
        seed.write_bytes(
            build_seed(SeedContent(instance_id, name, (public,), None, url, mac, networks=networks))
        )
        if ready is not None:
            ready(disk, instance_id, url)
        export = _Export(name, disk, seed)
        self._serve(export)
        self._exports.append(export)
        ssh_port = _free_port()
        words = self._machine(name, folder, firmware, memory, ssh_port, mac)
        with (folder / "qemu.log").open("wb") as log:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, bufsize=0
            )
        node = Node(name, self, folder, disk, ssh_port, process, time.monotonic(), instance_id)
        self.nodes.append(node)
        threading.Thread(target=_read_serial, args=(node,), daemon=True).start()
        return node

    def _machine(
        self, name: str, folder: Path, firmware: Firmware, memory: int, ssh_port: int, mac: str
    ) -> list[str | Path]:
        script = f"http://{HOST}:{self._http_port}/script/{name}"
        # fmt: off
        words: list[str | Path] = [
            "qemu-system-x86_64", "-machine", "pc", "-accel", "tcg,thread=multi", "-m", str(memory), "-smp", "1",
            "-no-user-config", "-nodefaults", "-display", "none", "-vga", "none",
            "-boot", "order=n,reboot-timeout=3000",
            "-netdev", f"user,id=n0,bootfile={script},hostfwd=tcp:127.0.0.1:{ssh_port}-:22",
            "-device", f"virtio-net-pci,netdev=n0,mac={mac}",
            "-chardev", "stdio,id=s0,signal=off", "-device", "isa-serial,chardev=s0",
            "-monitor", f"unix:{folder / 'monitor'},server=on,wait=off",
        ]
        # fmt: on
        if firmware == "uefi":
            variables = folder / "vars.fd"
            shutil.copy(OVMF / "OVMF_VARS_4M.fd", variables)
            code = OVMF / "OVMF_CODE_4M.fd"
            words += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}"]
            words += ["-drive", f"if=pflash,unit=1,format=raw,file={variables}"]
        return words

    def _stop_nodes(self) -> None:
        for node in self.nodes:
            node.stop()

    # --- the target --------------------------------------------------------------------------------------

    def start_target(self) -> None:
        """Start a target with all that was exported before, as a gateway does that comes back."""
        with (self.folder / "tgtd.log").open("ab") as log:
            self._tgtd = subprocess.Popen(
                ["tgtd", "-f", "-C", "41", "-t", "4", "--iscsi", f"portal=127.0.0.1:{self._iscsi_port}"],
                env={**os.environ, **self._tgt_environment},
                stdout=log,
                stderr=log,
            )
        _wait(lambda: _listens(self._iscsi_port), "tgtd to listen")
        for export in self._exports:
            self._serve(export)

    def stop_target(self) -> None:
        self._tgtd.kill()
        self._tgtd.wait()

    def bytes_read(self) -> int:
        """Bytes that the target has read from its files."""
        return int(psutil.Process(self._tgtd.pid).io_counters().read_chars)

    @property
    def _tgt_environment(self) -> dict[str, str]:
        return {"TGT_IPC_SOCKET": str(self.folder / "ipc")}

    def _serve(self, export: _Export) -> None:
        name = export.name
        tid = str(1 + [*self._exports, export].index(export))
        iqn, initiator, user = f"iqn.2026-01.test:{name}", f"iqn.2026-01.test:node-{name}", f"user-{name}"
        unit = ["--op", "new", "--mode", "logicalunit", "--bstype", "rdwr"]
        verbs: list[list[str | Path]] = [
            ["--op", "new", "--mode", "target", "-T", iqn],
            [*unit, "--lun", "1", "-b", export.disk],
            [*unit, "--lun", "2", "-b", export.seed],
            ["--op", "new", "--mode", "account", "--user", user, "--password", _PASSWORD],
            ["--op", "bind", "--mode", "account", "--user", user],
            ["--op", "bind", "--mode", "target", "-Q", initiator],
        ]
        for verb in verbs:
            which = [] if "account" in verb and "new" in verb else ["--tid", tid]
            run(["tgtadm", "-C", "41", "--lld", "iscsi", *verb, *which], env=self._tgt_environment)
        self._scripts[name] = _SCRIPT.format(
            initiator=initiator, username=user, password=_PASSWORD, host=HOST, port=self._iscsi_port, iqn=iqn
        )

    # --- scripts and phone-home --------------------------------------------------------------------------

    @contextlib.contextmanager
    def _serving_http(self) -> Iterator[int]:
        lab = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = lab._scripts[self.path.removeprefix("/script/")].encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                assert self.headers["Content-Type"] == "application/x-www-form-urlencoded"
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                form = {name: values[0] for name, values in parse_qs(body, strict_parsing=True).items()}
                lab.calls.append(Call(time.monotonic(), self.path.removeprefix("/phone-home/"), form))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Keep the test's output to what the test says."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def new_key(path: Path) -> Path:
    """Make an SSH key pair, and return the secret one's path."""
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path])
    return path


def _read_serial(node: Node) -> None:
    """Stamp each line of the serial console with its time; ends when QEMU does."""
    assert node.process.stdout is not None
    rest = b""
    with (node.folder / "serial.log").open("wb") as log, node.process.stdout as serial:
        while chunk := serial.read(65536):
            log.write(chunk)
            log.flush()
            *complete, rest = (rest + chunk).split(b"\n")
            now = time.monotonic() - node.started
            node.lines += [(now, line.decode(errors="replace").rstrip("\r")) for line in complete]


def _wait(condition: Callable[[], bool], what: str) -> None:
    wait_until(condition, deadline=10, what=what, next_step="look at the logs in the test's folder")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
