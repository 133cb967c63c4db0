"""A service in a process of its own, with Open vSwitch, tgtd, dnsmasq and the storage `local`."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from bmi import server
from bmi.boot import service as boot
from bmi.ids import new_id
from bmi.images.models import Image
from bmi.lab.openvswitch import OpenVSwitch
from bmi.settings import Settings, load_settings
from bmi.wait import wait_until
from tests.databases import free_port

LOADERS = ("undionly.kpxe", "snponly.efi")
SIZE = 16 << 20  # bytes of the golden image
GOLDEN = "golden"
START = 120.0  # seconds
OPERATION = 240.0  # seconds


@dataclass
class Served:
    """A service that runs."""

    folder: Path
    port: int
    token: str = field(default="", repr=False)
    answers: list[tuple[str, bytes]] = field(default_factory=list)
    """What it has answered, by method and path."""
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def config(self) -> Path:
        return self.folder / "bmi.toml"

    @property
    def log(self) -> Path:
        return self.folder / "service.log"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        (self.folder / "tmp").mkdir(exist_ok=True)
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bmi.cli", "serve", "--config", str(self.config)],
                stdout=out,
                stderr=out,
                env={**os.environ, "TMPDIR": str(self.folder / "tmp")},
            )
        wait_until(self._answers, deadline=START, what="the service", next_step=f"see {self.log}")
        self.token = (self.folder / "state/admin.token").read_text().strip()

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def end(self) -> None:
        """End it."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()

    def ask(self, method: str, path: str, *, token: str | None = None, **body: Any) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {token or self.token}"}
        with httpx2.Client(base_url=self.url, headers=headers, timeout=120) as client:
            answer = client.request(method, f"/v1/{path}", **body)
        self.answers.append((f"{method} /v1/{path.partition('?')[0]}", answer.content))
        return answer

    def ended(self, answer: httpx2.Response) -> dict[str, Any]:
        """Wait for the operation of a 202 answer."""
        assert answer.status_code == 202, answer.text
        path = answer.headers["Location"].removeprefix("/v1/")
        end = time.monotonic() + OPERATION
        while True:
            operation: dict[str, Any] = self.ask("GET", f"{path}?wait=20").json()
            if operation["ended_at"]:
                return operation
            assert time.monotonic() < end, operation

    def _answers(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/v1/version", timeout=5).status_code == 200
        except httpx2.RequestError:
            return False


@contextmanager
def served(switch: OpenVSwitch, *, more: str = "", folder: Path | None = None) -> Iterator[Served]:
    """Run a service, with a golden image; what it has made outside of its folder goes with it.

    Args:
        switch: Its nodes' switch, which it calls `lab`.
        more: Further settings, in TOML.
        folder: Its folder; a new one, which goes, if None.
    """
    with ExitStack() as stack:
        if folder is None:
            folder = new_folder()
            stack.callback(shutil.rmtree, folder)
        (folder / "tftp").mkdir()
        for name in LOADERS:
            shutil.copy(Path("/usr/lib/ipxe", name), folder / "tftp")
        found = Served(folder, free_port())
        found.config.touch(0o600)
        found.config.write_text(
            f'state_dir = "{folder}/state"\ncache_dir = "{folder}/cache"\n'
            f"[api]\nport = {found.port}\n"
            f'[storage]\ndriver = "local"\noptions = {{pool_size = "2GiB"}}\n'
            f'[leg]\ndriver = "ovs"\noptions = {{database = "{switch.db}", namespace = "{switch.namespace}"}}\n'
            f'[power.memory]\nunreachable = ["bmc-dead"]\n[power.redfish]\n'
            f'[switches.lab]\ndriver = "ovs"\noptions = {{database = "{switch.db}"}}\n'
            f'[boot]\ntftp_root = "{folder}/tftp"\n{more}'
        )
        settings = load_settings(found.config)
        stack.callback(dismantle, settings)
        _golden(settings, folder)
        stack.callback(found.end)
        found.start()
        yield found


def new_folder() -> Path:
    """Make a folder for a service."""
    folder = Path(tempfile.mkdtemp(prefix="bmi-served-"))
    folder.chmod(0o755)  # dnsmasq serves iPXE from it as a user of its own
    return folder


def _golden(settings: Settings, folder: Path) -> None:
    parts = server.build_parts(settings)
    try:
        parts.storage.prepare()
        image, raw = new_id(), folder / "golden.raw"
        with raw.open("wb") as file:
            file.truncate(SIZE)
        parts.storage.import_image(image, raw, lambda done, total: None)
        with parts.db.write() as session:
            session.add(Image(id=image, name=GOLDEN, state="ready", origin="import", size=SIZE))
    finally:
        parts.close()


def dismantle(settings: Settings) -> None:
    """Remove everything that is outside of the folder."""
    parts = server.build_parts(settings)
    try:
        for portal in list(parts.gateway.target.portals()):
            parts.gateway.target.stop(portal)
        running = {*parts.gateway.dnsmasq.running(), *(leg.network for leg in parts.gateway.legs.legs())}
        for network in running:
            boot.take_down(parts, network)
        parts.storage.prepare()
        parts.storage.dismantle()
    finally:
        parts.close()
