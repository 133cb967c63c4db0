"""What an administrator tells the lab's Ceph: commands to its monitor, over one connection."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from bmi.errors import CommandFailed, NotFound


class CephAdmin:
    """A connection to a cluster as `client.admin`."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        """The connected `rados.Rados`."""

    def command(self, prefix: str, *, input: bytes = b"", **arguments: Any) -> Any:
        """Give the monitor a command and return its answer, parsed if it is JSON.

        Args:
            prefix: The command's words, as in `osd pool create`.
            input: What the command reads, as a file given with -i; secrets belong here.
            arguments: The command's parameters by their names.

        Raises:
            NotFound: What the command speaks of does not exist.
            CommandFailed: The monitor refuses, or does not answer.
        """
        asked = json.dumps({"prefix": prefix, "format": "json", **arguments})
        with _failures(f"ceph {prefix}"):
            status, answer, message = self.cluster.mon_command(asked, input)
        if status != 0:
            kind = NotFound if status == -2 else CommandFailed
            raise kind(
                f"ceph {prefix} ended with status {status}: {message}",
                next_step="mend what the monitor complains about and try again",
            )
        try:
            return json.loads(answer)
        except ValueError:
            return answer.decode(errors="replace")

    def make_pool(self, pool: str, *, groups: int) -> None:
        """Make a pool for block images; one that is there already stays as it is.

        It ends when an object could be written to it.

        Args:
            pool: Its name.
            groups: Placement groups.

        Raises:
            CommandFailed: The cluster refuses, or does not answer.
        """
        self.command("osd pool create", pool=pool, pg_num=groups)
        with _failures(f"the pool {pool} could not be made ready"), self.cluster.open_ioctx(pool) as ioctx:
            _bindings("rbd").RBD().pool_init(ioctx, True)


@contextmanager
def connected(conf: Path, *, timeout: int) -> Iterator[CephAdmin]:
    """Connect as `client.admin`.

    Args:
        conf: Configuration of the cluster.
        timeout: Seconds until the connection, or a call over it, fails because nothing answers.

    Raises:
        CommandFailed: The bindings are not installed, or the cluster does not answer.
    """
    limits = ("client_mount_timeout", "rados_mon_op_timeout", "rados_osd_op_timeout")
    with _failures(f"the Ceph of {conf} does not let its administrator in"):
        cluster = _bindings("rados").Rados(
            rados_id="admin", conffile=str(conf), conf={limit: str(timeout) for limit in limits}
        )
    try:
        with _failures(f"the Ceph of {conf} does not let its administrator in"):
            cluster.connect()
        yield CephAdmin(cluster)
    finally:
        cluster.shutdown()


@contextmanager
def _failures(what: str) -> Iterator[None]:
    """Turn the bindings' errors into one of ours."""
    rados, rbd = _bindings("rados"), _bindings("rbd")
    try:
        yield
    except (rados.Error, rbd.Error) as error:
        raise CommandFailed(
            f"{what}: {error}",
            next_step="look whether its daemons run, and at their logs beside its ceph.conf",
        ) from error


def _bindings(name: str) -> ModuleType:
    """Import one of Ceph's modules, which are not on the package index.

    Raises:
        CommandFailed: It is not installed.
    """
    try:
        return __import__(name)
    except ImportError as error:
        raise CommandFailed(
            f"Ceph's Python bindings ({name}) are missing",
            next_step=f"install the Debian package python3-{name} and run scripts/setup again",
        ) from error
