"""Boots real images on real firmware without a network of its own.

QEMU's user-mode network hands the iPXE in the virtual NIC a script's address, and takes the guest to the host's
loopback, where a private tgtd and a small web server listen.
"""

import contextlib
import io
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs
from uuid import uuid4

import psutil
import pycdlib

from bmi.run import run
from bmi.wait import wait_until

Firmware = Literal["bios", "uefi"]

HOST = "10.0.2.2"  # the host's loopback, as a guest of QEMU's user-mode network sees it
SCRIPT = """#!ipxe
set initiator-iqn {initiator}
set username {username}
set password {password}
set keep-san 1
sanboot --keep iscsi:{host}::{port}:1:{iqn}
"""
MACHINE = [
    "-nodefaults",
    "-display",
    "none",
    "-vga",
    "none",
    "-boot",
    "order=n,reboot-timeout=3000",
    "-no-user-config",
]
OVMF = Path("/usr/share/OVMF")
POWER_ON_TO_PHONE_HOME = 240.0  # seconds; a shared machine with two cores and no KVM
SSH = [
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


@dataclass(frozen=True)
class Call:
    """One phone-home."""

    at: float
    """Seconds of the monotonic clock."""
    path: str
    form: dict[str, list[str]]


@dataclass
class Node:
    """A virtual server with a disk and a seed on the target."""

    name: str
    lab: "BootLab"
    folder: Path
    firmware: Firmware
    ssh_port: int
    process: subprocess.Popen[bytes]
    started: float
    instance_id: str
    lines: list[tuple[float, str]] = field(default_factory=list)
    """What came over the serial line: seconds since power on, text."""

    def phone_home(self, *, count: int = 1, deadline: float = POWER_ON_TO_PHONE_HOME) -> Call:
        """Wait until the node has phoned home `count` times."""

        def called() -> Call | None:
            assert self.process.poll() is None, f"QEMU of {self.name} ended: {self.console()[-2000:]}"
            calls = [call for call in self.lab.calls if call.path == f"/phone-home/{self.name}"]
            return calls[count - 1] if len(calls) >= count else None

        return wait_until(
            called, deadline=deadline, what=f"{self.name} to phone home", next_step=self.console()[-3000:]
        )

    def console(self) -> str:
        return "\n".join(text for _, text in self.lines)

    def cpu_seconds(self) -> float:
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    def ssh(self, command: str, *, timeout: float = 90.0) -> str:
        key = self.lab.folder / "key"
        words = ["ssh", *SSH, "-i", key, "-p", str(self.ssh_port), "root@127.0.0.1", command]
        return run(words, timeout=timeout)

    def press_power_button(self) -> None:
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(str(self.folder / "monitor"))
            monitor.sendall(b"system_powerdown\n")
            assert monitor.recv(4096), "QEMU's monitor hung up"

    def ended(self, *, deadline: float) -> None:
        """Wait until the node has powered itself off."""
        self.process.wait(deadline)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class BootLab:
    """A target, a web server and the nodes that boot from them. Use it as a context."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[Call] = []
        self.nodes: list[Node] = []
        self._stack = contextlib.ExitStack()
        self._next_target = 1
        self._scripts: dict[str, str] = {}

    def __enter__(self) -> "BootLab":
        self.folder.mkdir(exist_ok=True)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / "key"])
        self.iscsi_port, self.http_port = _free_port(), _free_port()
        self._stack.callback(lambda: [node.stop() for node in self.nodes])
        self._stack.enter_context(self._serving_http())
        self.tgtd = self.start_tgtd()
        self._stack.callback(self.stop_tgtd)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def power_on(
        self,
        name: str,
        image: Path,
        *,
        firmware: Firmware = "bios",
        memory: int = 512,
        disk: Path | None = None,
        instance_id: str | None = None,
    ) -> Node:
        """Boot a new node from a copy of an image, or from the disk of a node that ran before."""
        folder = self.folder / f"{name}-{uuid4().hex[:6]}"
        folder.mkdir()
        if disk is None:
            disk = folder / "disk.raw"
            run(["cp", "--sparse=always", image, disk])
        instance_id = instance_id or uuid4().hex
        seed = folder / "seed.iso"
        url = f"http://{HOST}:{self.http_port}/phone-home/{name}"
        write_seed(seed, name, instance_id, url, (self.folder / "key.pub").read_text())
        self._export(name, disk, seed)
        return self._start(name, folder, firmware, memory, instance_id)

    def _start(self, name: str, folder: Path, firmware: Firmware, memory: int, instance_id: str) -> Node:
        ssh_port = _free_port()
        boot_file = f"http://{HOST}:{self.http_port}/script/{name}"
        words = [
            "qemu-system-x86_64", "-machine", "pc", "-accel", "tcg,thread=multi", *MACHINE,
            "-m", str(memory), "-smp", "1",
            "-monitor", f"unix:{folder / 'monitor'},server=on,wait=off",
            "-netdev", f"user,id=n0,bootfile={boot_file},hostfwd=tcp:127.0.0.1:{ssh_port}-:22",
            "-device", f"virtio-net-pci,netdev=n0,mac=52:54:00:{os.urandom(3).hex(':')}",
            "-chardev", "stdio,id=s0,signal=off", "-device", "isa-serial,chardev=s0",
        ]  # fmt: skip
        if firmware == "uefi":
            variables = folder / "vars.fd"
            shutil.copy(OVMF / "OVMF_VARS_4M.fd", variables)
            code = OVMF / "OVMF_CODE_4M.fd"
            words += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}"]
            words += ["-drive", f"if=pflash,unit=1,format=raw,file={variables}"]
        with (folder / "qemu.log").open("wb") as log:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, bufsize=0
            )
        node = Node(name, self, folder, firmware, ssh_port, process, time.monotonic(), instance_id)
        self.nodes.append(node)
        threading.Thread(target=_read_serial, args=(node,), daemon=True).start()
        return node

    # --- the target --------------------------------------------------------------------------------------

    def start_tgtd(self) -> subprocess.Popen[bytes]:
        with (self.folder / "tgtd.log").open("ab") as log:
            daemon = subprocess.Popen(
                ["tgtd", "-f", "-C", "41", "-t", "4", "--iscsi", f"portal=127.0.0.1:{self.iscsi_port}"],
                env={**os.environ, **self._tgt_env},
                stdout=log,
                stderr=log,
            )
        wait_until(
            lambda: _listens(self.iscsi_port), deadline=10, what="tgtd to listen", next_step="see tgtd.log"
        )
        return daemon

    def stop_tgtd(self) -> None:
        self.tgtd.kill()
        self.tgtd.wait()

    def restart_tgtd(self) -> None:
        """Kill the target under its nodes and make everything again, as a gateway that fails does."""
        self.stop_tgtd()
        again, self._exports, self._next_target = self._exports, [], 1
        self.tgtd = self.start_tgtd()
        for export in again:
            self._export(*export)

    def bytes_read(self) -> int:
        """Bytes that the target has read from its files."""
        return int(psutil.Process(self.tgtd.pid).io_counters().read_chars)

    @property
    def _tgt_env(self) -> dict[str, str]:
        return {"TGT_IPC_SOCKET": str(self.folder / "ipc")}

    _exports: list[tuple[str, Path, Path]]

    def _export(self, name: str, disk: Path, seed: Path) -> None:
        tid = str(self._next_target)
        self._next_target += 1
        if not hasattr(self, "_exports"):
            self._exports = []
        self._exports.append((name, disk, seed))
        iqn, initiator, user, password = (f"iqn.2026-01.test:{name}", f"iqn.2026-01.test:node-{name}",
                                          f"user-{name}", "secret-of-12chr")  # fmt: skip
        unit = ["--op", "new", "--mode", "logicalunit", "--tid", tid, "--bstype", "rdwr"]
        for words in (
            ["--op", "new", "--mode", "target", "--tid", tid, "-T", iqn],
            [*unit, "--lun", "1", "-b", disk],
            [*unit, "--lun", "2", "-b", seed],
            ["--op", "new", "--mode", "account", "--user", user, "--password", password],
            ["--op", "bind", "--mode", "account", "--tid", tid, "--user", user],
            ["--op", "bind", "--mode", "target", "--tid", tid, "-Q", initiator],
        ):
            run(["tgtadm", "-C", "41", "--lld", "iscsi", *map(str, words)], env=self._tgt_env)
        self._scripts[name] = SCRIPT.format(
            initiator=initiator, username=user, password=password, host=HOST, port=self.iscsi_port, iqn=iqn
        )

    # --- scripts and phone-home --------------------------------------------------------------------------

    @contextlib.contextmanager
    def _serving_http(self) -> Iterator[None]:
        lab = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rsplit("/", 1)[1]
                body = lab._scripts[name].encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                lab.calls.append(Call(time.monotonic(), self.path, parse_qs(body)))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Keep the test's output to what the test says."""

        server = ThreadingHTTPServer(("127.0.0.1", self.http_port), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def write_seed(path: Path, hostname: str, instance_id: str, url: str, keys: str) -> None:
    """Write a seed volume as the boot service does: NoCloud files, and the same for BMI's own script."""
    user_data = f"""#cloud-config
hostname: {hostname}
ssh_authorized_keys:
- {keys.strip()}
phone_home:
  url: {url}
  post: [instance_id, hostname, pub_key_ed25519]
  tries: 5
"""
    files = {
        "meta-data": f"instance-id: {instance_id}\nlocal-hostname: {hostname}\n",
        "user-data": user_data,
        "vendor-data": "#cloud-config\n{}\n",
        "network-config": "version: 2\nethernets:\n  nic:\n    match: {name: 'e*'}\n    dhcp4: true\n",
        "bmi/hostname": f"{hostname}\n",
        "bmi/authorized_keys": keys,
        "bmi/phone-home-url": f"{url}\n",
        "bmi/instance-id": f"{instance_id}\n",
    }
    iso = pycdlib.PyCdlib()
    iso.new(vol_ident="cidata", joliet=3, rock_ridge="1.09")
    iso.add_directory("/BMI", rr_name="bmi", joliet_path="/bmi")
    for number, (name, text) in enumerate(files.items()):
        content = text.encode()
        folder = "/BMI/" if "/" in name else "/"
        iso.add_fp(io.BytesIO(content), len(content), f"{folder}F{number}.;1",
                   rr_name=name.split("/")[-1], joliet_path=f"/{name}")  # fmt: skip
    iso.write(str(path))
    iso.close()


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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
