"""A machine that nobody registered boots on the discovery network, is listed, enrolled, and boots from a clone."""

import json
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from bmi.api.networks import AddressRange, NetworkCreate
from bmi.drivers.power import BootDevice
from bmi.lab.layout import SWITCH
from bmi.run import run
from bmi.wait import wait_until
from tests.e2e.conftest import IMAGE, Measured, Site
from tests.e2e.test_cleaning import restart

pytestmark = pytest.mark.timeout(1500)

NODE = "n2"  # UEFI firmware, which loads iPXE over TFTP
REPORTED = 400.0  # seconds until a machine has booted and reported
RANGE = IPv4Address("10.99.0.100"), IPv4Address("10.99.0.199")


@pytest.fixture
def inspected(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The lab's service discovers machines, for as long as the test runs; give the VLAN where it does."""
    # Open vSwitch tells no system name, and for a chassis the port's own address.
    links = run(["ip", "-json", "-n", site.lab.require().namespace, "link", "show", "dev", NODE])
    chassis = json.loads(links)[0]["address"]
    folder = site.lab.folder.parent / "inspector"  # where the service's user can read
    with monkeypatch.context() as patch:
        patch.setenv("BMI_DISCOVERY__INSPECTOR", str(folder))
        site.must("inspector", "build", "--kernel", "cloud", timeout=300)
        patch.setenv("BMI_DISCOVERY__ENABLED", "true")
        patch.setenv(f"BMI_SWITCHES__{SWITCH.upper()}__LLDP_NAME", chassis)
        restart(site)
        site.must("project", "create", "discovery")
        with site.lab.client() as client:
            request = NetworkCreate(
                name="discovery",
                project="discovery",
                subnet=IPv4Network("10.99.0.0/24"),
                dhcp="full",
                dhcp_range=AddressRange(first=RANGE[0], last=RANGE[1]),
            )
            ended = client.operations.wait(client.networks.create(request).id, timeout=120)
            assert ended.state == "succeeded", ended
            vlan = next(found.vlan for found in client.networks.list() if found.name == "discovery")
        yield vlan
    restart(site)


@pytest.fixture
def unregistered(site: Site, inspected: int, tmp_path: Path) -> Iterator[list[str]]:
    """A node is not in the inventory, and its port is where unknown machines are; give how its BMC is reached."""
    layout = site.lab.require()
    node = next(found for found in layout.nodes if found.name == NODE)
    bmc = site.ask("node", "show", NODE)["bmc"]
    password = tmp_path / "password"
    password.write_text(node.bmc_password)
    words = [
        "--bmc-address",
        bmc["address"],
        "--bmc-user",
        bmc["username"],
        "--bmc-password-file",
        str(password),
    ]
    words += [word for key, value in bmc["options"].items() for word in ("--bmc-option", f"{key}={value}")]
    site.must("node", "delete", NODE)
    vsctl(site, "set", "port", node.nics[0].tap, f"tag={inspected}", "vlan_mode=access")
    vsctl(site, "set", "interface", node.nics[0].tap, "lldp:enable=true")
    yield words
    vsctl(site, "remove", "interface", node.nics[0].tap, "lldp", "enable")
    if NODE not in [found["name"] for found in site.ask("node", "list")]:
        site.lab.machine(NODE).power_off()
        site.must("node", "register", NODE, *words, "--nic", f"{node.mac}={SWITCH}:{node.nics[0].tap}")


def vsctl(site: Site, *words: str) -> None:
    run(["ovs-vsctl", f"--db={site.lab.switch.db}", "--timeout=10", *words])


def test_a_machine_is_discovered_enrolled_and_provisioned(
    site: Site, unregistered: list[str], measured: Measured
) -> None:
    node = next(found for found in site.lab.require().nodes if found.name == NODE)
    assert site.ask("node", "discovered") == []
    begun = time.monotonic()
    site.lab.machine(NODE).set_boot_device(BootDevice.NETWORK)
    site.lab.machine(NODE).power_on()
    wait_until(
        lambda: site.ask("node", "discovered"),
        deadline=REPORTED,
        what="the machine to report",
        next_step=f"look at {site.lab.machine(NODE).console_log}",
        poll=1,
    )
    measured("discovered after power-on", time.monotonic() - begun)
    (found,) = site.ask("node", "discovered")
    hardware = found["hardware"]
    assert (found["mac"], found["node"]) == (node.mac, None)
    assert RANGE[0] <= IPv4Address(found["address"]) <= RANGE[1]
    assert (hardware["firmware"], hardware["vendor"], hardware["uuid"]) == ("uefi", "QEMU", str(node.id))
    assert [(disk["size"], disk["serial"]) for disk in hardware["disks"]] == [(node.scratch, "scratch")]
    (card,) = hardware["cards"]
    assert (card["mac"], card["driver"], card["link"]) == (node.mac, "virtio_net", True)
    assert [heard["port"] for heard in card["neighbours"]] == [node.nics[0].tap]
    assert f"{node.mac} at {SWITCH}:{node.nics[0].tap}" in site.must("node", "discovered", "show", node.mac)

    wrong = site.bmi(
        *("node", "enrol", found["id"], "--name", NODE, *unregistered), "--nic", f"{node.mac}={SWITCH}:n3"
    )
    assert wrong.status == 1
    assert f"hears port {node.nics[0].tap} of switch {SWITCH} (LLDP)" in wrong.err
    site.must("node", "enrol", found["id"], "--name", NODE, *unregistered)
    assert site.ask("node", "discovered") == []

    site.must("node", "provision", NODE, "--image", IMAGE, "--network", "red-net", timeout=500)
    shown = site.must("node", "show", NODE)
    assert "active" in shown
    assert "serial scratch" in shown
