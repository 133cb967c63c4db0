"""The lab's storage cluster: a real Ceph of one host, on loopback, without systemd.

Everything of it lies in one folder. Its daemons outlive the process that started them; their records are in
the folder.
"""

import random
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bmi import processes
from bmi.errors import CommandFailed, InUse, NotFound
from bmi.lab.ceph_admin import CephAdmin, connected
from bmi.lab.ceph_conf import Caps, Shape, entry, key_in, new_key, write
from bmi.lab.ceph_daemon import Daemon, listens, running
from bmi.processes import Process
from bmi.run import run
from bmi.wait import wait_until

POOL = "bmi"
_GIB = 1 << 30
_GROUPS = 32  # placement groups of the pool: enough for a few OSDs, few enough to be made at once

_START_DEADLINE = 60.0  # seconds until a daemon works; 1 s on an idle machine
_MAKE_DEADLINE = 120.0  # seconds until a daemon's store is made; 1 s on an idle machine
_ANSWER_DEADLINE = 30  # seconds until the cluster answers a call
_PORTS = range(20000, 32000)  # below the ports that the kernel gives to outgoing connections
_ALLOCATOR = "libtcmalloc.so.4"  # Debian's daemons use glibc's, with which random reads are a third slower


@dataclass(frozen=True)
class Usage:
    """What the cluster takes of the host, in bytes."""

    disk: int
    """What its files really take; they do not shrink when images are removed."""
    memory: int
    """What its daemons keep in memory."""


class Ceph:
    """A Ceph of one host: a monitor, OSDs on sparse files, and a manager if asked for.

    Its daemons are called `mon`, `osd.0` and so on, and `mgr`.
    """

    def __init__(
        self, folder: Path, *, port: int, osds: int = 1, mgr: bool = False, size: int = 64 * _GIB
    ) -> None:
        """Say what it is; `up` makes it.

        Args:
            folder: Folder of its files, and of nothing else.
            port: TCP port of its monitor on 127.0.0.1. The others find free ports by themselves.
            osds: How many OSDs.
            mgr: Whether it has a manager. Block images do without; quotas and `ceph df` do not.
            size: Bytes of each OSD. Files are sparse, so they take what is written.
        """
        self.folder = folder.absolute()
        self.conf = self.folder / "ceph.conf"
        """Configuration of `client.admin`."""
        self.pool = POOL
        """Pool for block images."""
        self._wanted = Shape.plan(port=port, osds=osds, mgr=mgr, size=size)
        self.mon_host = self._wanted.mon_host
        """The monitor's address, as Ceph's configuration writes it."""

    def up(self) -> None:
        """Bring it up, or whatever of it does not run or is not made yet.

        Raises:
            InUse: The folder has a cluster of another shape.
            CommandFailed: A program is missing, or a daemon ended; the message has its last words.
            DeadlineExceeded: A daemon does not come up.
        """
        shape = self._settle()
        self._make_monitor(shape)
        self.start("mon")
        with self._admin() as admin:
            self._make_osds(shape, admin)
            if shape.mgr:
                self.start("mgr")
            _all(self.start, [daemon.name for daemon in self._osds(shape)])
            admin.make_pool(self.pool, groups=_GROUPS)

    def down(self) -> None:
        """End its daemons and remove its folder, with all data.

        Raises:
            NotFound: The folder has something else in it, and no cluster.
            DeadlineExceeded: A daemon cannot be ended.
        """
        for process in self._processes():
            process.stop(kill=True)
        if not self.folder.exists():
            return
        # The shape goes last, and with it the proof that all this may be removed.
        others = [path for path in self.folder.iterdir() if path != self._shape_file]
        if self._shape() is None and any(path.suffix != ".part" for path in others):
            raise NotFound(
                f"{self.folder} has files in it, and no Ceph of the lab", next_step="look whose folder it is"
            )
        for path in others:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        shutil.rmtree(self.folder)

    def alive(self) -> bool:
        """Say whether all its daemons run."""
        shape = self._shape()
        return shape is not None and all(daemon.find() for daemon in self._daemons(shape))

    def start(self, name: str) -> None:
        """Start a daemon that does not run, and wait until it does its work.

        Args:
            name: `mon`, `osd.0` or `mgr`. For all but `mon` the monitor must run.

        Raises:
            NotFound: It has no such daemon.
            CommandFailed: The daemon ended, or the monitor does not answer.
            DeadlineExceeded: It does not come up.
        """
        daemon = self._daemon(name)
        process = daemon.find()
        if name == "mon":
            self._start_monitor(daemon, process)
            return
        with self._admin() as admin:
            # A monitor takes a daemon that was killed for a living one, until the next one of its name reports.
            before = None if process else _incarnation(admin, name)
            process = process or self._launch(daemon)
            self._wait(daemon, process, lambda: _incarnation(admin, name) not in (None, before))

    def stop(self, name: str) -> None:
        """Ask a daemon to end, and wait until it has; one that does not run is fine.

        Raises:
            NotFound: It has no such daemon.
            DeadlineExceeded: It cannot be ended.
        """
        if process := self._daemon(name).find():
            process.stop()

    def kill(self, name: str) -> None:
        """End a daemon with SIGKILL; one that does not run is fine.

        Raises:
            NotFound: It has no such daemon.
            DeadlineExceeded: It cannot be ended.
        """
        if process := self._daemon(name).find():
            process.stop(kill=True)

    def add_user(
        self, name: str, caps: Caps | None = None, pool: str | None = None, namespace: str | None = None
    ) -> Path:
        """Make a CephX user, or give one that is there other rights; its key stays.

        Args:
            name: Its name without `client.`.
            caps: What it may do. If None: use the block images of one pool, and nothing else.
            pool: That pool; the cluster's own if None.
            namespace: The namespace in it; the whole pool if None. Where there is none of the name, it is not made.

        Returns:
            The file with the user's key.

        Raises:
            CommandFailed: The monitor refuses, or does not answer.
        """
        where = f"pool={pool or self.pool}" + (f" namespace={namespace}" if namespace else "")
        rights = caps or {"mon": "profile rbd", "osd": f"profile rbd {where}"}
        keyring = self.keyring(name)
        text = entry(f"client.{name}", key_in(keyring) or new_key(), rights)
        write(keyring, text)
        self.command("auth import", input=text.encode())
        return keyring

    def client_conf(self, user: str) -> Path:
        """Write a configuration for a user, and return its file.

        Raises:
            NotFound: The user was not made by `add_user`.
        """
        keyring = self.keyring(user)
        shape = self._shape()
        if shape is None or not keyring.exists():
            raise NotFound(f"the Ceph in {self.folder} has no user {user}", next_step="add the user first")
        conf = self.folder / f"client.{user}.conf"
        write(conf, shape.client_conf(keyring))
        return conf

    def set_quota(self, pool: str, size: int) -> None:
        """Limit the bytes in a pool; 0 takes the limit away.

        Ceph holds to it only where a manager runs, and a few seconds late.

        Raises:
            NotFound: There is no such pool.
            CommandFailed: The monitor refuses, or does not answer.
        """
        self.command("osd pool set-quota", pool=pool, field="max_bytes", val=str(size))

    def usage(self) -> Usage:
        """Say what it takes of the host."""
        # Files of a running database come and go.
        disk = 0
        for path in self.folder.rglob("*"):
            with suppress(FileNotFoundError):
                disk += path.lstat().st_blocks * 512
        memory = 0
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                memory += psutil.Process(process.pid).memory_info().rss
        return Usage(disk=disk, memory=memory)

    def command(self, prefix: str, *, input: bytes = b"", **arguments: Any) -> Any:
        """Give the monitor a command as the administrator; see `CephAdmin.command`.

        Raises:
            NotFound: What the command speaks of does not exist.
            CommandFailed: The monitor refuses, or does not answer.
        """
        with self._admin() as admin:
            return admin.command(prefix, input=input, **arguments)

    def _settle(self) -> Shape:
        """Write down what the cluster consists of; return what was written down before, if it was."""
        shape = self._shape()
        if shape is None:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            shape = self._wanted
            write(self._shape_file, shape.model_dump_json(indent=1))
        elif shape.without_names() != self._wanted.without_names():
            raise InUse(
                f"{self.folder} has a Ceph of another shape ({shape.without_names()})",
                next_step="take that one down first, or use another folder",
            )
        if not (self.folder / "keyring").exists():
            write(self.folder / "keyring", shape.keyring())
        write(self.conf, shape.conf(self.folder))
        return shape

    def _make_monitor(self, shape: Shape) -> None:
        monmap = self.folder / "monmap"
        address = ("--addv", "a", f"[{shape.mon_host}]")
        if not self._daemon("mon").data.exists():
            run(
                [
                    *("monmaptool", "--create", "--clobber", "--fsid", str(shape.fsid), *address),
                    *("--set-min-mon-release", "16", monmap),
                ]
            )
        self._make_store(self._daemon("mon"), "--monmap", str(monmap), "--keyring", f"{self.folder}/keyring")

    def _make_osds(self, shape: Shape, admin: CephAdmin) -> None:
        unmade = [
            (number, daemon) for number, daemon in enumerate(self._osds(shape)) if not daemon.data.exists()
        ]
        for number, _ in unmade:
            admin.command("osd new", uuid=str(shape.osds[number]), id=number)
        _all(
            lambda each: self._make_store(each[1], "--osd-uuid", str(shape.osds[each[0]])),
            unmade,
        )

    def _make_store(self, daemon: Daemon, *arguments: str) -> None:
        """Make the folder that a daemon keeps its data in, whole or not at all."""
        if daemon.data.exists():
            return
        partial = daemon.data.with_name(f"{daemon.name}.part")
        kind = daemon.argv[0].removeprefix("ceph-")
        program, *words = daemon.argv
        argv = (program, "--mkfs", *words, f"--{kind}-data", str(partial), *arguments)
        # The program goes on when the process is killed that asked for it.
        for left in running((f"--{kind}-data", str(partial))):
            left.stop(kill=True)
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(mode=0o700)
        run(argv, timeout=_MAKE_DEADLINE)
        partial.rename(daemon.data)

    def _start_monitor(self, daemon: Daemon, process: Process | None) -> None:
        process = process or self._launch(daemon)
        self._wait(daemon, process, lambda: listens(process, self._wanted.port))
        with self._admin():
            pass  # it lets in whom it knows only once it has its quorum

    def _launch(self, daemon: Daemon) -> Process:
        return processes.start(
            daemon.argv, record=daemon.record, log=daemon.log, env={"LD_PRELOAD": _ALLOCATOR}
        )

    def _wait(self, daemon: Daemon, process: Process, works: Callable[[], bool]) -> None:
        def ready() -> bool:
            daemon.require_alive(process)
            return works()

        wait_until(
            ready,
            deadline=_START_DEADLINE,
            what=f"{daemon.argv[0]} ({daemon.name}) to come up",
            next_step=f"look at its log, {daemon.log}",
        )

    def _processes(self) -> Iterator[Process]:
        """Find its daemons, and what makes their stores."""
        return running(("--conf", str(self.conf)))

    @contextmanager
    def _admin(self) -> Iterator[CephAdmin]:
        with connected(self.conf, timeout=_ANSWER_DEADLINE) as admin:
            yield admin

    @property
    def _shape_file(self) -> Path:
        return self.folder / "cluster.json"

    def _shape(self) -> Shape | None:
        try:
            return Shape.model_validate_json(self._shape_file.read_text())
        except FileNotFoundError:
            return None

    def keyring(self, user: str) -> Path:
        """Return the file with a user's key, whether or not it was made yet."""
        return self.folder / f"client.{user}.keyring"

    def _daemons(self, shape: Shape) -> list[Daemon]:
        names = [("mon", "a"), *(("mgr", "x") for _ in range(shape.mgr))]
        return [self._program(kind, kind, id) for kind, id in names] + self._osds(shape)

    def _osds(self, shape: Shape) -> list[Daemon]:
        return [self._program(f"osd.{number}", "osd", str(number)) for number in range(len(shape.osds))]

    def _program(self, name: str, kind: str, id: str) -> Daemon:
        return Daemon(name, (f"ceph-{kind}", "-f", "-i", id, "--conf", str(self.conf)), self.folder)

    def _daemon(self, name: str) -> Daemon:
        known = {daemon.name: daemon for daemon in self._daemons(self._shape() or self._wanted)}
        if name not in known:
            raise NotFound(
                f"the Ceph in {self.folder} has no daemon {name}", next_step=f"use one of: {', '.join(known)}"
            )
        return known[name]


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody uses, for a monitor.

    It is none that the kernel would give to an outgoing connection while the monitor is stopped.
    """
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise CommandFailed(f"no port of {_PORTS} is free", next_step="end what listens on them")


def _incarnation(admin: CephAdmin, name: str) -> int | None:
    """Say which run of a daemon the monitor takes to be up; None if it takes none to be."""
    if name == "mgr":
        managers = admin.command("mgr dump")
        return int(managers["active_gid"]) if managers["available"] else None
    osds = admin.command("osd dump")["osds"]
    return next((each["up_from"] for each in osds if f"osd.{each['osd']}" == name and each["up"]), None)


def _all(call: Callable[[Any], None], each: Sequence[Any]) -> None:
    """Call something for each of several things side by side."""
    with ThreadPoolExecutor(max(1, len(each))) as pool:
        list(pool.map(call, each))
