"""BMI itself in the lab: one process on embedded defaults, or several that share a Ceph and a PostgreSQL."""

import json
import os
import pwd
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bmi import netns, processes
from bmi.client import Client
from bmi.client.errors import ClientError
from bmi.drivers import Site, load
from bmi.drivers.leg import Legs
from bmi.drivers.storage import Storage
from bmi.drivers.storage.local import LocalStorage
from bmi.errors import CommandFailed, InUse
from bmi.lab.ceph import Ceph
from bmi.lab.layout import BRIDGE, SWITCH, Layout, Store
from bmi.lab.openvswitch import OpenVSwitch
from bmi.lab.postgres import ROLE, Postgres
from bmi.run import run
from bmi.wait import wait_until

_DEADLINE = 120.0  # seconds until the service answers; 2 s on an idle host
_UPGRADE = 120.0  # seconds that making the tables may take
_RUN = Path("/run/bmi")  # where the service shows files to dnsmasq's user
_POOL_SIZE = "40G"  # of the storage pool; sparse, so it costs what is written
_CEPH_USER = "bmi"
_USER = "bmi"  # whom scripts/setup makes
_HELPER = "helper"
_CACHE = Path("/var/cache/bmi")  # of built images; labs share it, one after the other


@dataclass(frozen=True)
class Member:
    """One process of BMI."""

    name: str
    command: str
    """Which of `bmi`'s commands it runs."""


MEMBERS: dict[Store, tuple[Member, ...]] = {
    Store.LOCAL: (Member("service", "serve"),),
    Store.CEPH: (
        Member("api", "api"),
        Member("worker1", "worker"),
        Member("worker2", "worker"),
        Member("gateway1", "gateway"),
        Member("gateway2", "gateway"),
    ),
}


class Service:
    """The processes of BMI in a lab, with the engines beneath them.

    Args:
        folder: The lab's folder.
        layout: What the lab consists of.
        switch: The lab's switch.
    """

    def __init__(self, folder: Path, layout: Layout, switch: OpenVSwitch) -> None:
        self._folder = folder
        self._layout = layout
        self._switch = switch
        self.ceph = Ceph(folder / "ceph", port=layout.ceph_port)
        self.postgres = Postgres(folder / "postgres", layout.postgres_port)

    @property
    def members(self) -> tuple[Member, ...]:
        """Its processes; the first one has the API."""
        return MEMBERS[self._layout.store]

    @property
    def admin_token(self) -> str:
        """The first admin's."""
        return (self.state(self.members[0].name) / "admin.token").read_text().strip()

    @property
    def _processes(self) -> tuple[Member, ...]:
        """The helper, if there is one, and then its processes."""
        return (*((Member(_HELPER, "helper"),) if self._layout.user else ()), *self.members)

    def state(self, name: str) -> Path:
        """Return a process's state folder."""
        return self._folder / name

    def log(self, name: str) -> Path:
        """Return where a process writes what it does."""
        return self._folder / f"{name}.log"

    def process(self, name: str) -> processes.Process | None:
        """Return a process, if it runs."""
        return processes.recorded(self._folder / f"{name}.json")

    # --- up ------------------------------------------------------------------------------------------------

    def start_engines(self) -> None:
        """Bring the database and the storage up that several processes share; one alone needs none."""
        if self._layout.store is Store.LOCAL:
            return
        self.postgres.up()
        self.ceph.up()
        keyring = self.ceph.add_user(_CEPH_USER)
        if self._layout.user:
            for file in (keyring, self.ceph.conf):
                shutil.chown(file, self._layout.user)
            self.ceph.folder.chmod(0o711)
        self._make_folders()
        config = self._settings_file(self.members[0].name)
        run([*self._bmi("db"), "upgrade", "--config", config], timeout=_UPGRADE)

    def start(self) -> None:
        """Start every process that does not run, and wait until all of them work."""
        self._make_folders()
        for member in self._processes:
            self.launch(member.name)
        client = Client(self._layout.api_url)
        wait_until(
            lambda: self._answers(client),
            deadline=_DEADLINE,
            what="the service to answer",
            next_step=f"look at {self.log(self.members[0].name)}",
        )
        client.close()
        with Client(self._layout.api_url, self.admin_token) as admin:
            wait_until(
                lambda: self._are_alive(admin),
                deadline=_DEADLINE,
                what="gateways and workers",
                next_step=f"look at their logs in {self._folder}",
            )

    def launch(self, name: str) -> None:
        """Start a process, unless it runs."""
        if self.process(name) is None:
            member = next(member for member in self._processes if member.name == name)
            processes.start(
                [*self._bmi(member.command), "--config", self._settings_file(name)],
                record=self._folder / f"{name}.json",
                log=self.log(name),
            )

    def _bmi(self, command: str) -> list[str]:
        """Return the words that run one of `bmi`'s commands as the service's user; the helper stays root."""
        user = None if command == _HELPER else self._layout.user
        return [*(_become(user) if user else ()), sys.executable, "-m", "bmi.cli", command]

    def _answers(self, client: Client) -> bool:
        self._require_alive()
        try:
            client.version()
        except ClientError:
            return False
        return True

    def _are_alive(self, client: Client) -> bool:
        self._require_alive()
        alive = {member.name for member in client.members.list() if member.alive}
        return self._layout.store is Store.LOCAL or alive >= {
            member.name for member in self.members if member.command in ("worker", "gateway")
        }

    def _require_alive(self) -> None:
        for member in self._processes:
            if self.process(member.name) is None:
                said = self.log(member.name).read_text(errors="replace").strip().splitlines()
                raise CommandFailed(
                    f"bmi {member.command} ended at once: {said[-1] if said else 'it said nothing'}",
                    next_step=f"mend that; its log is {self.log(member.name)}",
                )

    # --- down ----------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End the processes; what nodes use goes on."""
        found = [process for member in reversed(self._processes) if (process := self.process(member.name))]
        for process in found:
            process.stop()

    def end_daemons(self) -> None:
        """End the targets and DHCP servers of all gateways."""
        for member in self._processes:
            for process in processes.recorded_below(self.state(member.name)):
                process.stop(kill=True)
        for site in self.gateway_sites():
            shutil.rmtree(_RUN / site.installation, ignore_errors=True)
        with suppress(OSError):  # another installation's files are there, or it is gone
            _RUN.rmdir()

    def remove_legs(self) -> None:
        """Take all gateways off all networks."""
        for site in self.gateway_sites():
            if self._switch.alive():
                legs = self.legs(site)
                for leg in list(legs.legs()):
                    legs.down(leg.network)
                legs.close()
            # The switch may be dead, and its ports go with it; namespaces would stay.
            for name in netns.names():
                if name.startswith(f"bmi-{site.installation}-"):
                    netns.delete(name)

    def remove_engines(self) -> None:
        """Remove the storage and the database, with everything in them."""
        if self._layout.store is Store.CEPH:
            self.ceph.down()
            self.postgres.down()
        for member in self.members if self._layout.store is Store.LOCAL else ():
            site = Site(self.state(member.name), "0" * 8)
            storage: Storage = load("storage", "local", {"pool_size": _POOL_SIZE}, site)
            storage.dismantle()

    # --- looking -------------------------------------------------------------------------------------------

    def gateway_sites(self) -> list[Site]:
        """Return where the gateways work, those that have run."""
        found = []
        for member in self.members:
            with suppress(FileNotFoundError):
                mark = (self.state(member.name) / "mark").read_text().strip()
                found.append(Site(self.state(member.name), mark))
        return found

    def legs(self, site: Site) -> Legs:
        """Return the legs of a gateway."""
        made: Legs = load("leg", "ovs", self._leg_options(), site)
        return made

    def leg_namespaces(self) -> dict[str, str]:
        """Return the namespace of a gateway's leg on each network, by the network's id.

        Raises:
            InUse: No gateway has ever run.
        """
        sites = self.gateway_sites()
        if not sites:
            raise InUse("the lab's service has never run", next_step="bring the lab up: bmi lab up")
        found: dict[str, str] = {}
        for site in sites:
            legs = self.legs(site)
            found |= {str(leg.network): leg.namespace for leg in legs.legs()}
            legs.close()
        return found

    # --- settings ------------------------------------------------------------------------------------------

    def _settings_file(self, name: str) -> Path:
        return self._folder / f"{name}.toml"

    def _leg_options(self) -> dict[str, str]:
        return {"database": self._switch.db, "bridge": BRIDGE, "namespace": self._layout.namespace}

    def _make_folders(self) -> None:
        """Make what the processes find when they start, theirs where it should be: folders, settings, a pool."""
        user = self._layout.user
        for member in self._processes:
            file = self._settings_file(member.name)
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
                out.write(self._settings(member))
            self.state(member.name).mkdir(mode=0o700, exist_ok=True)
            if user and member.command != _HELPER:
                shutil.chown(file, user)
                shutil.chown(self.state(member.name), user)
        self._keys.mkdir(mode=0o700, exist_ok=True)
        if self._layout.store is Store.CEPH:
            shutil.copy(self.postgres.password_file, self._password_file)
            self._password_file.chmod(0o600)
        if user:
            for mine in (self._keys, *self._keys.iterdir()):
                shutil.chown(mine, user)
            _own(_CACHE, user)
            if self._layout.store is Store.LOCAL:
                self._mount_pool(user)

    def _mount_pool(self, user: str) -> None:
        """Mount the storage's pool, which takes root's rights."""
        for member in self.members:
            site = Site(self.state(member.name), "0" * 8)
            local = LocalStorage({"pool_size": _POOL_SIZE}, site)
            pool = local.mount()
            for folder in (self.state(member.name) / "storage", pool):
                shutil.chown(folder, user)

    @property
    def _password_file(self) -> Path:
        return self._keys / "pgpass"

    @property
    def _keys(self) -> Path:
        return self._folder / "keys"

    def _helper_settings(self) -> list[str]:
        if not self._layout.user:
            return []
        return [
            "[helper]",
            f"socket = {toml(str(self._folder / 'helper.socket' / 'socket'))}",
            f"state_dir = {toml(str(self.state(_HELPER)))}",
            f"user = {toml(self._layout.user)}",
        ]

    def _settings(self, member: Member) -> str:
        switch = {"database": self._switch.db, "bridge": BRIDGE}
        if self._layout.store is Store.LOCAL:
            database, storage, options = None, "local", {"pool_size": _POOL_SIZE}
        else:
            database, storage = self.postgres.url_of(ROLE, self._password_file), "rbd"
            options = {
                "pool": self.ceph.pool,
                "user": _CEPH_USER,
                "keyring": str(self.ceph.keyring(_CEPH_USER)),
                "conf": str(self.ceph.conf),
            }
        lines = [
            f"state_dir = {toml(str(self.state(member.name)))}",
            f"cache_dir = {toml(str(_CACHE))}",
            f"key_file = {toml(str(self._keys / 'secret.key'))}",
            "[api]",
            f"port = {self._layout.api_port}",
            *(["[database]", f"url = {toml(database)}"] if database else []),
            "[storage]",
            f"driver = {toml(storage)}",
            f"options = {toml(options)}",
            "[leg]",
            'driver = "ovs"',
            f"options = {toml(self._leg_options())}",
            f"[switches.{SWITCH}]",
            'driver = "ovs"',
            f"options = {toml(switch)}",
            "[power.redfish]",
            "[power.ipmi]  # as the simulator of the tests speaks it",
            "cipher_suite = 3",
            "believe_flags = false",
            *self._helper_settings(),
            "[gateway]",
            f"name = {toml(member.name)}",
            "[worker]",
            f"name = {toml(member.name)}",
        ]
        return "\n".join(lines) + "\n"


def service_user(folder: Path) -> str | None:
    """Return whom the service of a lab in a folder can run as; root if None.

    That user has to exist, and to get at the folder and at BMI's own program.
    """
    try:
        pwd.getpwnam(_USER)
        run([*_become(_USER), "test", "-x", folder])
        run([*_become(_USER), sys.executable, "-c", "import bmi"])
    except (KeyError, CommandFailed):
        return None
    return _USER


def _become(user: str) -> list[str]:
    no_rights = ("--inh-caps=-all", "--bounding-set=-all", "--no-new-privs")
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", *no_rights, "--"]


def _own(folder: Path, user: str) -> None:
    """Give a folder, and all that is in it, to a user, unless it is his."""
    uid, gid = pwd.getpwnam(user)[2:4]
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    if folder.stat().st_uid != uid:
        for found, folders, files, descriptor in os.fwalk(folder, topdown=False):
            for name in (*folders, *files):
                os.chown(name, uid, gid, dir_fd=descriptor, follow_symlinks=False)
            os.chown(found, uid, gid, follow_symlinks=False)


def toml(value: str | Mapping[str, str]) -> str:
    """Return a text, or a table of texts, as TOML writes it: JSON's strings are TOML's too."""
    if isinstance(value, str):
        return json.dumps(value)
    return "{ " + ", ".join(f"{key} = {json.dumps(each)}" for key, each in value.items()) + " }"
