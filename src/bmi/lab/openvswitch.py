"""The lab's switch: an Open vSwitch of its own, in a network namespace of its own, without any kernel module.

Everything of it lies in one folder and one namespace, so that it meets neither the host's network nor another
Open vSwitch. The processes outlive the one that started them; their records are in the folder.
"""

from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path

import psutil

from bmi import netns, processes
from bmi.drivers.openvswitch import OvsOptions
from bmi.drivers.openvswitch.bridge import Bridge, VlanColumns
from bmi.drivers.switch import ISOLATED
from bmi.errors import CommandFailed, SwitchError
from bmi.processes import Process
from bmi.run import run
from bmi.wait import wait_until

_SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
_START_DEADLINE = 10.0  # seconds; 50 ms on an idle machine
_START_POLL = 0.005  # seconds
_TOOLS = ("ovs-vsctl", "ovsdb-tool")
_LEFT_BY_DAEMONS = ("conf.db", ".conf.db*", "*.pid", "*.ctl", "*.sock", "*.mgmt", "*.snoop", "*.json")

_SYSCTLS = {
    # Frames reach the kernel of the switch's namespace too. It must not answer any.
    "ipv4/ip_forward": "0",
    "ipv6/conf/all/disable_ipv6": "1",
    "ipv6/conf/default/disable_ipv6": "1",
}


@dataclass(frozen=True)
class _Daemon:
    """One of the two programs of a switch."""

    argv: tuple[str, ...]
    folder: Path

    @property
    def record(self) -> Path:
        return self.folder / f"{self.argv[0]}.json"

    def find(self) -> Process | None:
        """Return the process, also one whose starter died before it could write the record."""
        if process := processes.recorded(self.record):
            return process
        for found in psutil.process_iter(["cmdline"]):
            # The folder is in the arguments, so no other switch's daemon has the same.
            if tuple(found.info["cmdline"] or ())[-len(self.argv) :] == self.argv:
                return Process.of(found.pid)
        return None


class OpenVSwitch:
    """A virtual switch with one bridge."""

    def __init__(self, directory: Path, namespace: str, bridge: str = "br0") -> None:
        """Say where the switch is.

        Args:
            directory: Folder of its files; no other switch may use it.
            namespace: Name of the network namespace it runs in; it is made and removed with the switch.
            bridge: Name of its bridge.
        """
        self.directory = directory.absolute()
        self.namespace = namespace
        self.bridge = bridge

    @property
    def db(self) -> str:
        """Where its database listens, for the option `database` of the drivers."""
        return f"unix:{self.directory / 'db.sock'}"

    def start(self) -> None:
        """Start it, with the ports it had, or whatever of it does not run.

        Raises:
            CommandFailed: A program is missing, or the kernel refuses.
            DeadlineExceeded: A program does not come up.
            SwitchError: The database does not answer, or ovs-vswitchd does not follow it.
        """
        netns.create(self.namespace)
        netns.write_sysctls(self.namespace, _SYSCTLS)
        self._make_database()
        self._run(self._ovsdb_server, ready=self.directory / "db.sock")
        run(["ovs-vsctl", f"--db={self.db}", "--no-wait", "init"])
        self._run(self._vswitchd, ready=self.directory / "ovs-vswitchd.pid")
        run(
            [
                *("ovs-vsctl", f"--db={self.db}", f"--timeout={_START_DEADLINE:g}"),
                *("--may-exist", "add-br", self.bridge),
                *("--", "set", "Bridge", self.bridge, "datapath_type=netdev"),
            ]
        )
        # ovs-vsctl waits for ovs-vswitchd only where it had something to change.
        with self._configured() as bridge:
            bridge.confirm()

    def stop(self) -> None:
        """End it, with its ports, its namespace and its configuration; the logs stay.

        Raises:
            DeadlineExceeded: A program cannot be ended.
        """
        for daemon in (self._vswitchd, self._ovsdb_server):
            while process := daemon.find():
                process.stop()
        for process in self._tools():
            process.stop(kill=True)
        netns.delete(self.namespace)
        for pattern in _LEFT_BY_DAEMONS:
            for path in self.directory.glob(pattern):
                path.unlink(missing_ok=True)

    def alive(self) -> bool:
        """Say whether both programs run."""
        return all(daemon.find() for daemon in (self._ovsdb_server, self._vswitchd))

    def vswitchd(self) -> Process | None:
        """Return the program that forwards packets, if it runs."""
        return self._vswitchd.find()

    def add_tap(self, name: str) -> None:
        """Add a port for a virtual machine's NIC: a tap device that stays when the machine goes.

        The port is isolated; one that is there already keeps its VLANs.

        Args:
            name: Name of the device and of the port, 15 characters at the most.

        Raises:
            CommandFailed: The kernel refuses the device.
            SwitchError: The switch refuses the port.
        """
        if name not in netns.interfaces(self.namespace):
            run(["ip", "-n", self.namespace, "tuntap", "add", "dev", name, "mode", "tap"])
        lines = f"link set {name} addrgenmode none\nlink set {name} arp off up\n"
        run(["ip", "-n", self.namespace, "-batch", "-"], input=lines.encode())
        self.add_port(name)

    def add_port(self, name: str) -> None:
        """Make an interface of the switch's namespace a port, isolated; one that is there keeps its VLANs.

        Raises:
            SwitchError: The switch refuses the port.
        """
        with self._configured() as bridge:
            found = bridge.ports().get(name)
            bridge.add(name, found.columns if found else VlanColumns.of(ISOLATED), {})

    def remove_port(self, name: str) -> None:
        """Remove a port, and its interface.

        Raises:
            CommandFailed: The kernel refuses.
            SwitchError: The switch does not answer.
        """
        with self._configured() as bridge:
            bridge.remove(name)
        if name in netns.interfaces(self.namespace):
            run(["ip", "-n", self.namespace, "link", "delete", name])

    def _configured(self) -> AbstractContextManager[Bridge]:
        return closing(Bridge(OvsOptions(database=self.db, bridge=self.bridge), SwitchError))

    def _make_database(self) -> None:
        database = self.directory / "conf.db"
        if database.exists():
            return
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = self.directory / "conf.db.part"
        partial.unlink(missing_ok=True)
        run(["ovsdb-tool", "create", partial, _SCHEMA])
        partial.rename(database)

    @property
    def _ovsdb_server(self) -> _Daemon:
        folder = self.directory
        return _Daemon(
            (
                "ovsdb-server",
                f"{folder}/conf.db",
                f"--remote=punix:{folder}/db.sock",
                f"--pidfile={folder}/ovsdb-server.pid",
                f"--unixctl={folder}/ovsdb-server.ctl",
            ),
            folder,
        )

    @property
    def _vswitchd(self) -> _Daemon:
        # Its control socket must have the name that it has on any host, for the drivers to find it.
        return _Daemon(
            ("ovs-vswitchd", self.db, f"--pidfile={self.directory}/ovs-vswitchd.pid"), self.directory
        )

    def _tools(self) -> list[Process]:
        """Return the commands at this switch that outlived their caller: some wait for seconds for its daemons."""
        found = [
            Process.of(each.pid)
            for each in psutil.process_iter(["cmdline"])
            if (words := each.info["cmdline"])
            and words[0] in _TOOLS
            and str(self.directory) in " ".join(words)
        ]
        return [process for process in found if process is not None]

    def _run(self, daemon: _Daemon, *, ready: Path) -> None:
        """Start a program that does not run, and wait until it has made the file that says it is ready."""
        process = daemon.find()
        if process is None:
            ready.unlink(missing_ok=True)
            log = self.directory / f"{daemon.argv[0]}.log"
            folder = str(self.directory)
            process = processes.start(
                daemon.argv,
                record=daemon.record,
                log=log,
                namespace=self.namespace,
                env={"OVS_RUNDIR": folder, "OVS_LOGDIR": folder, "OVS_DBDIR": folder},
            )
        wait_until(
            lambda: ready.exists() or self._require_alive(process, daemon),
            deadline=_START_DEADLINE,
            what=f"{daemon.argv[0]} to start",
            next_step=f"look at {daemon.argv[0]}.log in {self.directory}",
            poll=_START_POLL,
        )

    def _require_alive(self, process: Process, daemon: _Daemon) -> bool:
        if not process.alive():
            raise CommandFailed(
                f"{daemon.argv[0]} ended at once", next_step=f"look at its log in {self.directory}"
            )
        return False
