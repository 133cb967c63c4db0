"""A node whose controller speaks IPMI boots from a clone, and is given back."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bmi.lab.ipmi import IpmiController
from tests.e2e.conftest import IMAGE, Site, free_port

pytestmark = pytest.mark.timeout(600)

NODE, PASSWORD = "n3", "sesame-and-so-on"


@pytest.fixture
def ipmi(site: Site, tmp_path: Path) -> Iterator[None]:
    """The node has an IPMI controller too, and that is the one that BMI knows."""
    before, lab_node = site.ask("node", "show", NODE), site.lab.require().nodes[2]
    machine = site.lab.machine(NODE)
    controller = IpmiController(
        machine.spec, machine.folder, tmp_path / "ipmi", free_port(), "operator", PASSWORD
    )
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


def test_a_node_with_ipmi_boots_from_a_clone(site: Site, ipmi: None) -> None:
    shown = site.must("node", "provision", NODE, "--image", IMAGE, "--network", "red-net", timeout=500)
    assert "on, confirmed by the BMC" in shown
    assert site.ask("node", "show", NODE)["state"] == "active"
    assert "off, confirmed by the BMC" in site.must("node", "deprovision", NODE)
    assert not site.lab.machine(NODE).is_on()
