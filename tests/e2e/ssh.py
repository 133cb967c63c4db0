"""Log-ins to a node of the lab, from the gateway's leg on its network, with the host keys that it reported."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bmi.api.nodes import Node
from bmi.run import inside, run


def make_key(folder: Path) -> Path:
    """Make a key pair, and return where the private one is; `.pub` is appended for the other."""
    key = folder / "key"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", key])
    return key


class Ssh:
    """Runs commands on one node, as root."""

    def __init__(self, node: Node, key: Path, namespace: str) -> None:
        known = key.with_name("known")
        known.write_text("".join(f"{node.address} {line}\n" for line in node.ssh_host_keys))
        self._namespace = namespace
        self._words = [
            *("ssh", "-i", str(key), "-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=yes"),
            *("-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5"),
            f"root@{node.address}",
        ]

    def run(self, command: str, *, timeout: float = 60) -> str:
        return run([*self._words, command], namespace=self._namespace, timeout=timeout)

    def try_run(self, command: str) -> str | None:
        """Return what a command says; None if it fails, says nothing or takes too long."""
        words = [*inside(self._namespace), *self._words, command]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=15)
        except subprocess.TimeoutExpired:
            return None
        return done.stdout if done.returncode == 0 and done.stdout.strip() else None

    def read(self, file: str, *, timeout: float = 120) -> bytes:
        """Return the content of a file."""
        words = [*inside(self._namespace), *self._words, f"cat {file}"]
        return subprocess.run(words, capture_output=True, timeout=timeout, check=True).stdout

    @contextmanager
    def streaming(self, command: str) -> Iterator["subprocess.Popen[str]"]:
        """Run a command whose output is read while it goes on; it is ended after that."""
        words = [*inside(self._namespace), *self._words, command]
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()
