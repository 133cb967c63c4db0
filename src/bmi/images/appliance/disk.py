"""Hands one volume to the sandbox, over a socket and as plain bytes.

The sandbox gets neither the file nor the way to Ceph, and QEMU there sees a raw disk whatever the content says.
"""

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bmi.drivers.storage import Backing
from bmi.errors import ApplianceFailed, CommandFailed
from bmi.wait import wait_until

_STARTS = 15.0  # seconds; a Ceph that stalls takes long to open an image
_ENDS = 30.0  # seconds to write out what is cached


@contextlib.contextmanager
def served(backing: Backing, folder: Path, *, writable: bool) -> Iterator[Path]:
    """Serve a volume on a socket in a folder, while the context is open.

    Raises:
        ApplianceFailed: It cannot be opened.
    """
    path = folder / "socket"
    node = {"driver": "raw", "node-name": "disk", "read-only": not writable, "file": _file(backing)}
    export = {"type": "nbd", "id": "disk", "node-name": "disk", "name": "disk", "writable": writable}
    words = ["setpriv", "--pdeathsig", "KILL", "--", "qemu-storage-daemon"]
    words += ["--nbd-server", f"addr.type=unix,addr.path={path},max-connections=4"]  # before what it exports
    words += ["--blockdev", json.dumps(node), "--export", json.dumps(export)]
    with (folder / "complaints").open("w+") as complaints:
        try:
            daemon = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=complaints, stderr=complaints)
        except FileNotFoundError as error:
            raise CommandFailed("setpriv is not installed", next_step="install util-linux") from error
        try:
            _wait_for(path, daemon, folder / "complaints")
            yield path
        finally:
            _end(daemon)


def _file(backing: Backing) -> dict[str, Any]:
    if backing.type == "file":
        return {"driver": "file", "filename": backing.path, "discard": "unmap"}
    pool, _, image = backing.path.partition("/")
    name, _, snapshot = image.partition("@")
    node = {"driver": "rbd", "pool": pool, "image": name, "conf": backing.conf, "user": backing.user}
    return node | ({"snapshot": snapshot} if snapshot else {})


def _wait_for(path: Path, daemon: "subprocess.Popen[bytes]", complaints: Path) -> None:
    def ready() -> bool:
        if daemon.poll() is not None:
            raise ApplianceFailed(
                f"the volume cannot be opened: {complaints.read_text().strip()[-500:]}",
                next_step="look at the store: bmi doctor",
            )
        with socket.socket(socket.AF_UNIX) as probe:
            return path.exists() and probe.connect_ex(str(path)) == 0

    wait_until(
        ready, deadline=_STARTS, what="the volume to be opened", next_step="look at the store: bmi doctor"
    )
    os.chmod(path, 0o666)  # noqa: S103, PTH101 - the folder around it is the service's own


def _end(daemon: "subprocess.Popen[bytes]") -> None:
    daemon.terminate()
    try:
        daemon.wait(_ENDS)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
