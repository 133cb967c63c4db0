"""Real initiators for tests: libiscsi's tools, and qemu's, which use libiscsi too."""

import os
import random
import secrets
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

from bmi import netns
from bmi.drivers.storage import Backing
from bmi.drivers.target import Export, Lun, Portal
from bmi.ids import new_id
from bmi.run import inside, run
from tests.rbd_images import Images

MIB = 1 << 20
DROPPED = 1.0  # seconds without an answer


def free_portal(namespace: str | None = None) -> Portal:
    """Return a portal on a loopback address and port that nothing listens on."""
    address = IPv4Address("127.0.0.0") + random.randrange(1 << 16, 1 << 23)
    with socket.socket() as probe:
        probe.bind((str(address), 0))
        return Portal(new_id(), address, probe.getsockname()[1], namespace)


def make_export(folder: Path, name: str, *, size: int = MIB, images: Images | None = None) -> Export:
    """Return an export with a disk and a seed, made of new files, or of new images in Ceph."""
    if images is not None:
        disk, seed = images.make(size), images.make(MIB)
    else:
        disk, seed = make_file(folder / f"{name}.img", size), make_file(folder / f"{name}.iso", MIB)
    return Export(
        iqn=f"iqn.2026-01.org.example:{name}",
        initiator=f"iqn.2026-01.org.example:node-{name}",
        username=f"user-{name}",
        password=secrets.token_hex(8),
        luns=(Lun(1, disk), Lun(2, seed, readonly=True)),
    )


def make_file(path: Path, size: int) -> Backing:
    """Return a backing that is a new file of zeros."""
    path.touch()
    os.truncate(path, size)
    return Backing("file", str(path))


def gets_through(portal: Portal, source: IPv4Address) -> bool:
    """Say whether a connection from one of a namespace's own addresses is taken, not dropped."""
    with netns.socket_inside(portal.namespace, socket.AF_INET, socket.SOCK_STREAM) as node:
        node.bind((str(source), 0))
        node.settimeout(DROPPED)
        try:
            node.connect((str(portal.address), portal.port))
        except TimeoutError:
            return False
        return True


class Initiator:
    """A node's initiator: knows a portal, and the name and secret of one export."""

    def __init__(self, portal: Portal, export: Export) -> None:
        self.portal = portal
        self.export = export

    def luns(self) -> str:
        """Discover: what the portal tells this initiator to be there."""
        return self._run("iscsi-ls", "-i", self.export.initiator, f"iscsi://{self.portal}")

    def inquire(self, lun: int, *arguments: str) -> str:
        """Log in and ask a LUN what it is."""
        return self._run("iscsi-inq", "-i", self.export.initiator, *arguments, self.url(lun))

    def size(self, lun: int) -> int:
        """Log in and ask for the bytes of a LUN."""
        return int(self._run("iscsi-readcapacity16", "-i", self.export.initiator, "-s", self.url(lun)))

    def io(self, lun: int, *commands: str, readonly: bool = False) -> str:
        """Log in and run commands of qemu-io(1)."""
        words = [word for command in commands for word in ("-c", command)]
        return self._run(*self._qemu_io(lun, readonly=readonly), *words)

    def copy(self, lun: int, file: Path) -> None:
        """Log in and read a LUN into a file."""
        self._run(
            "qemu-img", "convert", *self._secret(), "--image-opts", "-O", "raw", self.image(lun), str(file)
        )

    def compare(self, lun: int, file: Path) -> str:
        """Log in and compare a LUN with a file; fails if they differ."""
        theirs = f"driver=file,filename={file}"
        return self._run("qemu-img", "compare", *self._secret(), "--image-opts", self.image(lun), theirs)

    @contextmanager
    def session(
        self, lun: int = 1, *, busy: bool = False, readonly: bool = True
    ) -> Iterator["subprocess.Popen[str]"]:
        """Stay logged in; with `busy` read all the time, or else do what is written to the process's input."""
        command = self._qemu_io(lun, readonly=readonly)
        if busy:
            command = ["iscsi-perf", "-i", self.export.initiator, "-b", "8", self.url(lun)]
        words = [*inside(self.portal.namespace), *command]
        with subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **self._environment()},
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def url(self, lun: int) -> str:
        """Return what libiscsi's tools call a LUN."""
        return f"iscsi://{self.portal}/{self.export.iqn}/{lun}"

    def image(self, lun: int) -> str:
        """Return what qemu's tools call a LUN."""
        return (
            f"driver=iscsi,transport=tcp,portal={self.portal},target={self.export.iqn},lun={lun},"
            f"initiator-name={self.export.initiator},user={self.export.username},password-secret=chap"
        )

    def _qemu_io(self, lun: int, *, readonly: bool) -> list[str]:
        return ["qemu-io", *self._secret(), *(["-r"] if readonly else []), "--image-opts", self.image(lun)]

    def _secret(self) -> list[str]:
        return ["--object", f"secret,id=chap,data={self.export.password}"]

    def _run(self, *words: str) -> str:
        return run(words, namespace=self.portal.namespace, env=self._environment(), timeout=60)

    def _environment(self) -> dict[str, str]:
        return {
            "LIBISCSI_CHAP_USERNAME": self.export.username,
            "LIBISCSI_CHAP_PASSWORD": self.export.password,
        }


WRONG: dict[str, Callable[[Export], Export]] = {
    "secret": lambda export: replace(export, password="wrong-secret-1"),
    "CHAP name": lambda export: replace(export, username="user-b"),
    "initiator name": lambda export: replace(export, initiator="iqn.2026-01.org.example:node-b"),
    "no CHAP": lambda export: replace(export, username="", password=""),
}
"""What somebody else than the right node would show."""
