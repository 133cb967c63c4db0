"""BMI itself in the lab: one process on embedded defaults, or several that share a Ceph and a PostgreSQL."""

import json
import os
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
from bmi.errors import CommandFailed, InUse
from bmi.lab.ceph import Ceph
from bmi.lab.layout import BRIDGE, SWITCH, Layout, Store
from bmi.lab.openvswitch import OpenVSwitch
from bmi.lab.postgres import Postgres
from bmi.run import run
from bmi.wait import wait_until

_DEADLINE = 120.0  # seconds until the service answers; 2 s on an idle host
_UPGRADE = 120.0  # seconds that making the tables may take
_RUN = Path("/run/bmi")  # where the service shows files to dnsmasq's user
_POOL_SIZE = "40G"  # of the storage pool; sparse, so it costs what is written
_CEPH_USER = "bmi"


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
        self._folder.chmod(0o711)  # PostgreSQL runs as a user of its own
        self.postgres.up()
        self.ceph.up()
        self.ceph.add_user(_CEPH_USER)
        self._write_settings()
        config = self._settings_file(self.members[0].name)
        run([sys.executable, "-m", "bmi.cli", "db", "upgrade", "--config", config], timeout=_UPGRADE)

    def start(self) -> None:
        """Start every process that does not run, and wait until all of them work."""
        self._write_settings()
        for member in self.members:
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
            member = next(member for member in self.members if member.name == name)
            processes.start(
                [sys.executable, "-m", "bmi.cli", member.command, "--config", self._settings_file(name)],
                record=self._folder / f"{name}.json",
                log=self.log(name),
            )

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
        for member in self.members:
            if self.process(member.name) is None:
                said = self.log(member.name).read_text(errors="replace").strip().splitlines()
                raise CommandFailed(
                    f"bmi {member.command} ended at once: {said[-1] if said else 'it said nothing'}",
                    next_step=f"mend that; its log is {self.log(member.name)}",
                )

    # --- down ----------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End the processes; what nodes use goes on."""
        found = [process for member in self.members if (process := self.process(member.name))]
        for process in found:
            process.stop()

    def end_daemons(self) -> None:
        """End the targets and DHCP servers of all gateways."""
        for member in self.members:
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

    def _write_settings(self) -> None:
        for member in self.members:
            file = self._settings_file(member.name)
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
                out.write(self._settings(member))

    def _settings(self, member: Member) -> str:
        switch = {"database": self._switch.db, "bridge": BRIDGE}
        if self._layout.store is Store.LOCAL:
            database, storage, options = None, "local", {"pool_size": _POOL_SIZE}
        else:
            database, storage = self.postgres.url, "rbd"
            options = {
                "pool": self.ceph.pool,
                "user": _CEPH_USER,
                "keyring": str(self.ceph.keyring(_CEPH_USER)),
                "conf": str(self.ceph.conf),
            }
        lines = [
            f"state_dir = {toml(str(self.state(member.name)))}",
            f"key_file = {toml(str(self._folder / 'secret.key'))}",
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
            "[gateway]",
            f"name = {toml(member.name)}",
            "[worker]",
            f"name = {toml(member.name)}",
        ]
        return "\n".join(lines) + "\n"


def toml(value: str | Mapping[str, str]) -> str:
    """Return a text, or a table of texts, as TOML writes it: JSON's strings are TOML's too."""
    if isinstance(value, str):
        return json.dumps(value)
    return "{ " + ", ".join(f"{key} = {json.dumps(each)}" for key, each in value.items()) + " }"
