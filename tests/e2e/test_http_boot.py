"""A node whose firmware boots by UEFI HTTP, and by nothing else, runs from a clone."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bmi.lab.ipmi import IpmiController
from bmi.lab.node import NetworkBoot
from tests.e2e.conftest import IMAGE, NETWORK, Site, free_port

pytestmark = pytest.mark.timeout(600)

NODE, PASSWORD = "n2", "sesame-and-so-on"


@pytest.fixture
def http_node(site: Site, tmp_path: Path) -> Iterator[None]:
    """The node's firmware has no PXE; a controller of its own switches it."""
    before, lab_node = site.ask("node", "show", NODE), site.lab.require().nodes[1]
    machine = site.lab.machine(NODE)
    spec = replace(machine.spec, network_boot=NetworkBoot.HTTP)
    controller = IpmiController(spec, machine.folder, tmp_path / "ipmi", free_port(), "operator", PASSWORD)
    password, old = tmp_path / "pw", tmp_path / "old"
    password.write_text(PASSWORD)
    old.write_text(lab_node.bmc_password)
    nic = before["nics"][0]
    card = f"{nic['mac']}={nic['switch']}:{nic['port']}"
    controller.start()
    try:
        site.must("node", "delete", NODE)
        site.must(
            *("node", "register", NODE, "--bmc-driver", "ipmi", "--bmc-address", controller.address),
            *("--bmc-user", "operator", "--bmc-password-file", str(password), "--nic", card),
        )
        yield
    finally:
        controller.stop()
        site.must("node", "delete", NODE)
        bmc = before["bmc"]
        site.must(
            *("node", "register", NODE, "--bmc-address", bmc["address"], "--bmc-user", bmc["username"]),
            *("--bmc-password-file", str(old), "--nic", card),
        )


def test_a_node_boots_by_uefi_http(site: Site, http_node: None) -> None:
    site.must("node", "provision", NODE, "--image", IMAGE, "--network", NETWORK, timeout=500)
    assert site.ask("node", "show", NODE)["state"] == "active"
    told = [(event["kind"], event["message"]) for event in site.ask("node", "events", NODE)]
    assert ("dhcp.discover", "UEFI firmware, HTTP boot") in told
    assert ("http.sent", "snponly.efi") in told
    assert ("dhcp.discover", "iPXE") in told
    assert not [message for kind, message in told if kind == "tftp.sent"]
    site.must("node", "deprovision", NODE)
