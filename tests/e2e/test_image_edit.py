"""A golden image is edited on a node: what its editor changed is in the new image, and nothing of himself."""

from pathlib import Path

import pytest

from bmi.drivers.power import PowerState
from bmi.errors import CommandFailed
from bmi.wait import wait_until
from tests.e2e.conftest import IMAGE, Site
from tests.e2e.ssh import Ssh, make_key

pytestmark = pytest.mark.timeout(1200)

NEW = "debian-12-2"
BOOT = 400.0  # seconds
SHUT_DOWN = 120.0  # seconds


def test_an_image_is_edited_on_a_node_and_the_next_node_boots_what_came_of_it(
    site: Site, tmp_path: Path
) -> None:
    editor, tenant = make_key(folder(tmp_path, "editor")), make_key(folder(tmp_path, "tenant"))
    site.must("image", "edit", IMAGE, "--node", "n1", *at("red-net", editor), timeout=BOOT)
    first = log_in(site, "n1", editor)
    first.run("echo new > /etc/motd && sync")
    machine, host_keys = first.run("cat /etc/machine-id"), host_keys_of(site, "n1")
    refused = site.bmi("image", "commit", "--node", "n2", "--name", NEW)
    assert refused.status == 1, refused
    assert "edits no image" in refused.err
    first.try_run("systemctl poweroff")
    wait_until(
        lambda: power_of(site, "n1") is PowerState.OFF,
        deadline=SHUT_DOWN,
        what="node n1 to shut down",
        next_step="see its console",
    )
    site.must("image", "commit", "--node", "n1", "--name", NEW)
    assert site.ask("node", "show", "n1")["state"] == "available"

    site.must("node", "provision", "n2", "--image", NEW, *at("red-net", tenant), timeout=BOOT)
    second = log_in(site, "n2", tenant)
    assert second.run("cat /etc/motd") == "new\n"
    assert second.run("hostname").strip() == "n2"
    assert second.run("cat /etc/machine-id") != machine
    assert not host_keys & host_keys_of(site, "n2")
    with pytest.raises(CommandFailed, match="Permission denied"):
        log_in(site, "n2", editor).run("true")

    golden, made = (site.ask("image", "show", name) for name in (IMAGE, NEW))
    assert (made["parent"], made["project"], made["size"]) == (golden["id"], "red", golden["size"])
    site.must("node", "deprovision", "n2")
    site.must("image", "delete", NEW, "--now")


def folder(parent: Path, name: str) -> Path:
    made = parent / name
    made.mkdir()
    return made


def at(network: str, key: Path) -> tuple[str, ...]:
    return ("--network", network, "--ssh-key", str(key.with_suffix(".pub")))


def log_in(site: Site, node: str, key: Path) -> Ssh:
    with site.lab.client(project="red") as client:
        network = client.networks.get("red-net").id
        return Ssh(client.nodes.get(node), key, site.lab.leg_namespaces()[str(network)])


def host_keys_of(site: Site, node: str) -> set[str]:
    return set(site.ask("node", "show", node)["ssh_host_keys"])


def power_of(site: Site, node: str) -> PowerState:
    with site.lab.client() as client:
        return PowerState(client.nodes.power(node).state)
