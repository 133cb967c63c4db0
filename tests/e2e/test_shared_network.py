"""Three tenants on tagged networks: two meet on the one that is shared, and nobody meets anybody elsewhere."""

import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from bmi.api.nodes import Attach, Milestone, Node, Provision
from bmi.wait import wait_until
from tests.e2e.conftest import IMAGE, Measured, Site
from tests.e2e.ssh import Ssh, make_key

pytestmark = pytest.mark.timeout(1500)

BOOT = 700.0  # seconds that three provisions side by side may take
NODES = {"n1": "red", "n2": "blue", "n3": "green"}


@dataclass(frozen=True)
class Tenant:
    """A tenant's node, with root on it."""

    node: Node
    ssh: Ssh

    def address(self, network: str) -> str:
        return next(str(there.address) for there in self.node.attachments if there.network == network)

    def reaches(self, address: str) -> bool:
        said = self.ssh.run(f"ping -c 2 -W 3 {address} >/dev/null 2>&1; echo ended $?", timeout=60)
        return said.strip().endswith("ended 0")

    def reaches_by_force(self, vlan: int, own: str, address: str) -> bool:
        """Say whether an address answers tagged frames that nobody gave the node; `own` is its address there."""
        command = (
            f"ip link add link eth0 name hop type vlan id {vlan} && ip link set hop up && "
            f"ip address add {own}/24 dev hop && ping -I hop -c 2 -W 3 {address} >/dev/null 2>&1; "
            "status=$?; ip link delete hop; echo ended $status"
        )
        return self.ssh.run(command, timeout=60).strip().endswith("ended 0")


@pytest.fixture
def tenants(site: Site, tmp_path: Path, measured: Measured) -> dict[str, Tenant]:
    """Boot a node of each tenant; red shares one tagged network with blue and keeps another one for himself."""
    there = {project["name"] for project in site.ask("project", "list")}
    for project in ("blue", "green"):
        if project not in there:
            site.must("project", "create", project)
        site.must("network", "create", f"{project}-net", "--project", project)
    for network in ("storage", "vault", "data"):
        site.must("network", "create", network, "--project", "red")
    blue = next(row["id"] for row in site.ask("project", "list") if row["name"] == "blue")
    site.must("network", "share", "storage", blue, "--project", "red")
    site.must("image", "set", IMAGE, "--visibility", "public")
    key = make_key(tmp_path)
    shared = Attach(network="red:storage", tagged=True)
    own = [Attach(network="vault", tagged=True), Attach(network="data", nic="2")]
    beside = {"n1": [shared, *own], "n2": [shared], "n3": []}
    begun = time.monotonic()
    with site.lab.client() as client:
        asked = [
            client.nodes.provision(
                node,
                Provision(
                    image=f"red:{IMAGE}",
                    project=project,
                    network=f"{project}-net",
                    attachments=beside[node],
                    ssh_keys=[key.with_suffix(".pub").read_text()],
                    until=Milestone.UP,
                ),
            )
            for node, project in NODES.items()
        ]
        for operation in asked:
            ended = client.operations.wait(operation.id, timeout=BOOT)
            assert ended.state == "succeeded", ended
        measured("three tenants are up", time.monotonic() - begun)
        legs = site.lab.leg_namespaces()
        found = {}
        for name, project in NODES.items():
            with site.lab.client(project=project) as own_client:
                leg = legs[str(own_client.networks.get(f"{project}-net").id)]
            folder = tmp_path / name
            folder.mkdir()
            for suffix in ("", ".pub"):
                (folder / f"key{suffix}").write_bytes((tmp_path / f"key{suffix}").read_bytes())
                (folder / f"key{suffix}").chmod(0o600)
            node = client.nodes.get(name)
            found[project] = Tenant(node, Ssh(node, folder / "key", leg))
        return found


def test_tenants_meet_on_the_network_that_is_shared_and_nowhere_else(
    site: Site, tenants: dict[str, Tenant]
) -> None:
    red, blue, green = tenants["red"], tenants["blue"], tenants["green"]
    networks = {row["name"]: row for row in site.ask("network", "list", "--project", "red")}

    # The systems have set their networks up by themselves: sub-interfaces, and a second card.
    devices = red.ssh.run("ip -4 -o addr show")
    for name in ("storage", "vault", "data"):
        device = f"vlan{networks[name]['vlan']}" if name != "data" else "eth1"
        assert f"{device} " in devices, devices
        assert f"inet {red.address(name)}/" in devices, devices
    assert red.reaches(blue.address("storage"))
    assert blue.reaches(red.address("storage"))
    for name in ("storage", "vault", "data"):
        assert red.reaches(networks[name]["gateway"]), name

    # Nowhere else: not on the networks that they boot on, nor on red's own.
    assert not blue.reaches(str(red.node.address))
    assert not red.reaches(str(blue.node.address))
    for stranger in (blue, green):
        for name in ("vault", "data"):
            own = f"{networks[name]['subnet'].rpartition('.')[0]}.77"
            assert not stranger.reaches_by_force(networks[name]["vlan"], own, red.address(name)), name
    own = f"{networks['storage']['subnet'].rpartition('.')[0]}.77"
    assert not green.reaches_by_force(networks["storage"]["vlan"], own, red.address("storage"))
    refused = site.bmi("node", "attach", "n3", "red:storage", "--tagged")
    assert refused.status != 0
    assert "no network red:storage" in refused.err
    refused = site.bmi("network", "unshare", "storage", "blue", "--project", "red")
    assert "node n2 of project blue" in refused.err

    # A node that runs leaves, and comes back; its disk stays with it all the time.
    site.must("node", "detach", "n2", "red:storage")
    assert not red.reaches(blue.address("storage"))
    site.must("node", "attach", "n2", "red:storage", "--tagged")
    back = wait_until(
        lambda: red.reaches(blue.address("storage")),
        deadline=60,
        what="blue on the shared network",
        next_step="-",
    )
    assert back
    assert blue.ssh.run("touch /root/alive && sync && echo written") == "written\n"
