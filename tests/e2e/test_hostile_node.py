"""A tenant with root on a booted node tries everything against another tenant's node, and against his neighbour's.

Even secrets that he cannot have are given to him. `pytest -s` prints each attempt, and how it was refused.
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from sqlalchemy import select

from bmi.api.nodes import Milestone, PowerRequest, Provision
from bmi.boot import service as boot
from bmi.boot.models import Boot
from bmi.boot.script import BootTarget
from bmi.db import Db
from bmi.parts import Parts
from bmi.settings import load_settings
from bmi.vault import Vault
from tests.e2e.conftest import IMAGE, Site
from tests.e2e.ssh import Ssh, make_key

pytestmark = pytest.mark.timeout(1200)

BOOT = 500.0  # seconds that a provision up to the running operating system may take
NODES = {"n1": "red", "n2": "blue", "n3": "red"}
"""The attacker's, another tenant's, and a neighbour of his own project."""


@dataclass(frozen=True)
class Stolen:
    """What the service tells one node only."""

    target: BootTarget
    mac: str
    address: str
    vlan: int

    @property
    def portal(self) -> str:
        return f"{self.target.address} {self.target.port}"


@dataclass
class Attacker:
    """Root on a node."""

    ssh: Ssh
    told: list[str] = field(default_factory=list)

    def tries(self, what: str, command: str) -> tuple[int, str]:
        """Do something for as long as 40 seconds, and return its exit status and what it said."""
        said = self.ssh.run(f"timeout 40 sh -c {shlex.quote(command)} 2>&1; echo ended $?", timeout=120)
        text, _, status = said.rpartition("ended ")
        last = (text.strip().splitlines() or ["silence"])[-1][:120]
        self.told.append(f"{what}: status {status.strip()}, {last}")
        return int(status), text

    def fails(self, what: str, command: str) -> str:
        """Do something that must not succeed, and return what it said."""
        status, said = self.tries(what, command)
        assert status != 0, f"{what}: {said}"
        return said

    def succeeds(self, what: str, command: str) -> str:
        """Do something that shows that the way of trying is none that always fails."""
        status, said = self.tries(what, command)
        assert status == 0, f"{what}: {said}"
        return said


@pytest.fixture
def attacker(site: Site, tmp_path: Path) -> Iterator[Attacker]:
    """Give root on n1."""
    key = make_key(tmp_path)
    if "blue" not in {project["name"] for project in site.ask("project", "list")}:
        site.must("project", "create", "blue")
    site.must("network", "create", "blue-net", "--project", "blue")
    site.must("image", "set", IMAGE, "--visibility", "public")
    with site.lab.client() as client:

        def provision(node: str, until: Milestone) -> None:
            request = Provision(
                image=f"red:{IMAGE}",
                project=NODES[node],
                network=f"{NODES[node]}-net",
                ssh_keys=[key.with_suffix(".pub").read_text()],
                until=until,
            )
            ended = client.operations.wait(client.nodes.provision(node, request).id, timeout=BOOT)
            assert ended.state == "succeeded", ended

        for victim in ("n2", "n3"):
            provision(victim, Milestone.POWER)
            # What is served to it stays; its emulated boot would only take time.
            client.operations.wait(client.nodes.set_power(victim, PowerRequest(action="off")).id, timeout=60)
        provision("n1", Milestone.UP)
    with site.lab.client(project="red") as client:
        namespace = site.lab.leg_namespaces()[str(client.networks.get("red-net").id)]
        yield Attacker(Ssh(client.nodes.get("n1"), key, namespace))


def stolen(site: Site) -> dict[str, Stolen]:
    """Read what nodes are told from the service's database, with its key."""
    settings = load_settings(site.lab.folder / "service.toml")
    parts = cast("Parts", SimpleNamespace(settings=settings, vault=Vault(settings.vault_file)))
    db = Db(settings.database_url)
    try:
        with db.read() as session:
            return {
                row.node.name: Stolen(
                    boot.boot_target(parts, row),
                    row.attachment.nic.mac,
                    str(row.attachment.ip),
                    row.attachment.network.vlan,
                )
                for row in session.scalars(select(Boot))
            }
    finally:
        db.close()


def test_who_has_root_on_a_node_reaches_nothing_of_others(site: Site, attacker: Attacker) -> None:
    known = stolen(site)
    own, foreign, neighbour = known["n1"], known["n2"], known["n3"]
    try:
        _reach_networks(attacker, own, foreign)
        _reach_the_service(site, attacker, own)
        _ask_for_scripts(attacker, own, foreign, neighbour)
        _log_in_to_disks(attacker, own, foreign, neighbour)
    finally:
        print("", *attacker.told, sep="\n")
    refusals = [line for line in site.must("node", "events", "n3").splitlines() if "refused" in line]
    assert any(own.address in line for line in refusals), refusals
    assert any("token is wrong" in line for line in refusals), refusals


def _reach_networks(attacker: Attacker, own: Stolen, foreign: Stolen) -> None:
    attacker.succeeds("ping the own gateway", f"ping -c 1 -W 5 {own.target.address}")
    attacker.fails("ping the other tenant's gateway", f"ping -c 2 -W 3 {foreign.target.address}")
    attacker.fails(
        "the same as if it were on this network",
        f"ip route add {foreign.target.address} dev $(ip -o route get {own.target.address} | "
        f"sed 's/.* dev \\([^ ]*\\) .*/\\1/') && ping -c 2 -W 3 {foreign.target.address}",
    )
    attacker.fails("its disk's port", f"nc -z -w 5 {foreign.portal}")
    attacker.fails(
        "tagged frames of the other tenant's VLAN",
        f"dev=$(ip -o route get {own.target.address} | sed 's/.* dev \\([^ ]*\\) .*/\\1/'); "
        f"ip link add link $dev name hop type vlan id {foreign.vlan} && ip link set hop up && "
        f"ip address add {foreign.address}/24 dev hop && ping -I hop -c 2 -W 3 {foreign.target.address}; "
        "status=$?; ip link delete hop; exit $status",
    )
    attacker.fails(
        "an address by DHCP, with the MAC of the other tenant's node",
        f"dev=$(ip -o route get {own.target.address} | sed 's/.* dev \\([^ ]*\\) .*/\\1/'); "
        f"ip link add link $dev name spoof address {foreign.mac} type macvlan && ip link set spoof up && "
        "busybox udhcpc -i spoof -n -q -t 3 -T 2 -s /bin/true; status=$?; ip link delete spoof; exit $status",
    )


def _reach_the_service(site: Site, attacker: Attacker, own: Stolen) -> None:
    port = site.lab.require().api_url.rpartition(":")[2]
    attacker.fails("the API, on the gateway", f"nc -z -w 5 {own.target.address} {port}")
    attacker.fails("SSH, on the gateway", f"nc -z -w 5 {own.target.address} 22")


def _ask_for_scripts(attacker: Attacker, own: Stolen, foreign: Stolen, neighbour: Stolen) -> None:
    def fetch(url: str) -> str:
        return f"wget -q -O- -T 5 -t 1 --server-response {shlex.quote(url)} | grep -a -c iscsi"

    attacker.succeeds("the own boot script", fetch(own.target.script_url))
    attacker.fails("the other tenant's boot script, where it is", fetch(foreign.target.script_url))
    here = foreign.target.script_url.replace(str(foreign.target.address), str(own.target.address))
    attacker.fails("the same from the own gateway", fetch(here))
    attacker.fails("the neighbour's boot script, with its token", fetch(neighbour.target.script_url))
    wrong = "/".join([*neighbour.target.script_url.split("/")[:-2], "0" * 64, "script.ipxe"])
    attacker.fails("the same with a wrong token", fetch(wrong))
    report = neighbour.target.script_url.replace("script.ipxe", "phone-home")
    attacker.fails(
        "to report in the neighbour's name",
        f"wget -q -O- -T 5 -t 1 --post-data=hostname=x {shlex.quote(report)}",
    )


def _log_in_to_disks(attacker: Attacker, own: Stolen, foreign: Stolen, neighbour: Stolen) -> None:
    own_portal = f"{own.target.address}:{own.target.port}"
    shown = attacker.tries("discovery at the own portal", f"iscsiadm -m discovery -t st -p {own_portal}")[1]
    for victim in (foreign, neighbour):
        assert victim.target.iqn not in shown
    for who, victim in (("other tenant's", foreign), ("neighbour's", neighbour)):
        portal = f"{victim.target.address}:{victim.target.port}"
        attacker.fails(
            f"discovery at the {who} portal", f"timeout 15 iscsiadm -m discovery -t st -p {portal}"
        )
        attacker.fails(f"a connection to the {who} disk", f"nc -z -w 5 {victim.portal}")
        attacker.fails(
            f"a log-in to the {who} disk, with its name and secret",
            _log_in(victim.target, portal, victim.target.password),
        )
    attacker.fails(
        "a log-in to the own disk with a wrong secret", _log_in(own.target, own_portal, "wrong-secret")
    )
    attacker.fails(
        "a log-in to the neighbour's disk at the own portal",
        _log_in(neighbour.target, own_portal, neighbour.target.password),
    )
    attacker.succeeds("the own disk is there after all that", "echo alive > /root/alive && sync")


def _log_in(target: BootTarget, portal: str, password: str) -> str:
    """Return a command that logs in beside the node's own session, and forgets about it again."""
    interface = "-I thief"
    record = f"-m node -T {target.iqn} -p {portal} {interface}"
    values = {
        "node.session.auth.authmethod": "CHAP",
        "node.session.auth.username": target.username,
        "node.session.auth.password": password,
        "node.session.initial_login_retry_max": "1",
        "node.conn[0].timeo.login_timeout": "6",
    }
    return (
        f"iscsiadm -m iface {interface} -o new >/dev/null; "
        f"iscsiadm -m iface {interface} -o update -n iface.initiatorname -v {target.initiator} >/dev/null; "
        f"iscsiadm {record} -o new >/dev/null; "
        + "".join(
            f"iscsiadm {record} -o update -n {shlex.quote(name)} -v {shlex.quote(value)}; "
            for name, value in values.items()
        )
        + f"timeout 25 iscsiadm {record} --login; status=$?; iscsiadm {record} -o delete; "
        + f"iscsiadm -m iface {interface} -o delete >/dev/null; exit $status"
    )
