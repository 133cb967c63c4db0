"""A service that images come into and go out of: real HTTP, real local storage, no node and no lab."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import uvicorn

from bmi import server
from bmi.access.service import ADMIN_TOKEN_FILE, bootstrap
from bmi.api.intake import ImageExport, ImageImport, UploadCreate
from bmi.api.operations import Operation, OperationState
from bmi.boot.dnsmasq import Dnsmasq
from bmi.boot.listen import NodeHttp
from bmi.client import Client
from bmi.client.uploads import FilePieces
from bmi.parts import Parts
from bmi.settings import Settings
from bmi.wait import wait_until
from tests.fakes import FakeDnsmasq, FakeNodeHttp

POOL_SIZE = 400 << 20  # bytes


@dataclass
class Site:
    """A running service, its files, and a person with the command line."""

    url: str
    token: str
    parts: Parts
    bmi: Client

    @property
    def spool(self) -> Path:
        return self.parts.settings.spool

    def left(self) -> list[str]:
        """Return the names of what lies in the spool, and of the images and volumes in the store."""
        files = [str(path.relative_to(self.spool)) for path in self.spool.rglob("*") if not _folder(path)]
        volumes = [str(info.volume) for info in self.parts.storage.volumes()]
        return files + volumes + [image.name for image in self.bmi.images.list()]

    def bring(self, path: Path, name: str, **more: Any) -> Operation:
        """Upload a file, ask for an image of it, and wait for the end, whatever that is."""
        upload = self.bmi.uploads.create(UploadCreate(size=path.stat().st_size))
        with path.open("rb") as file:
            self.bmi.uploads.send_all(upload, FilePieces(file), lambda done: None)
        return self.ended(self.bmi.images.import_(ImageImport(name=name, upload=upload.id, **more)))

    def fetch(self, name: str, path: Path, **more: Any) -> Path:
        """Export an image into a file."""
        made = self.ended(self.bmi.exports.start(name, ImageExport(**more)))
        assert made.state is OperationState.SUCCEEDED, made.error
        with path.open("wb") as file:
            self.bmi.exports.fetch(made.id, lambda data: bool(file.write(data)), lambda done, total: None)
        self.bmi.exports.remove(made.id)
        return path

    def forget(self, name: str) -> None:
        """Remove an image, and insist that nothing is left of any."""
        self.bmi.operations.wait(self.bmi.images.purge(name).id)
        assert self.left() == []

    def ended(self, operation: Operation) -> Operation:
        """Wait for the end of an operation."""
        while not operation.state.ended:
            operation = self.bmi.operations.get(operation.id, wait=25)
        return operation

    def command(self, *words: str, **more: Any) -> "subprocess.CompletedProcess[bytes]":
        """Run `bmi` as a person does."""
        return subprocess.run(
            [sys.executable, "-m", "bmi.cli", *words],
            capture_output=True,
            timeout=120,
            check=False,
            env={
                **os.environ,
                "BMI_URL": self.url,
                "BMI_TOKEN": self.token,
                "BMI_CLIENT_CONFIG": "/dev/null",
            },
            **more,
        )


def _folder(path: Path) -> bool:
    return path.is_dir() and path.name in ("uploads", "work", "exports")


@contextmanager
def running(folder: Path, monkeypatch: pytest.MonkeyPatch, **intake: Any) -> Iterator[Site]:
    """Run a service in a folder, and leave nothing of it on the host."""
    monkeypatch.setattr(server, "Dnsmasq", lambda *args, **kwargs: cast("Dnsmasq", FakeDnsmasq()))
    monkeypatch.setattr(server, "NodeHttp", lambda *args, **kwargs: cast("NodeHttp", FakeNodeHttp()))
    settings = Settings.model_validate(
        {
            "state_dir": folder / "state",
            "cache_dir": folder / "cache",
            "storage": {"driver": "local", "options": {"pool_size": POOL_SIZE}},
            "target": {"driver": "memory"},
            "leg": {"driver": "memory"},
            "intake": {"reserve": 0, **intake},
        }
    )
    parts = server.build_parts(settings)
    bootstrap(parts.db, settings.state_dir)
    token = (settings.state_dir / ADMIN_TOKEN_FILE).read_text().strip()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        web = uvicorn.Server(uvicorn.Config(server.build_app(parts), log_level="warning", lifespan="on"))
        thread = threading.Thread(target=web.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            wait_until(lambda: web.started, deadline=60, what="the service", next_step="look at its log")
            with Client(url, token) as client:
                yield Site(url, token, parts, client)
        finally:
            web.should_exit = True
            thread.join(30)
            parts.storage.dismantle()
