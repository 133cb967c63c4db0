"""Every kind of golden image boots over iSCSI, shuts down again, and becomes one node and no other."""

from ipaddress import IPv4Interface
from pathlib import Path

import pytest

from bmi.images.debian import Kernel, Recipe
from tests.integration.boot_harness import BootLab, Firmware, Node, golden, new_key

SMALL = Recipe()
WITH_CLOUD_INIT = Recipe(cloud_init=True)
FOR_ANY_SERVER = Recipe(kernel=Kernel.GENERIC)

# Each of three images is built by the first run of all; that takes about a minute, more on a busy machine.
pytestmark = pytest.mark.timeout(900)


def _is_well(node: Node) -> None:
    assert node.ssh("systemctl is-system-running --wait || systemctl --failed").strip() == "running"
    assert "iqn.2026-01.test" in node.ssh("iscsiadm -m session")


# The small image boots on both in the demo, and powers off in the tests of the builder.
@pytest.mark.parametrize(
    ("recipe", "firmware"),
    [
        pytest.param(WITH_CLOUD_INIT, "bios", id="cloud-init-bios"),
        pytest.param(WITH_CLOUD_INIT, "uefi", id="cloud-init-uefi", marks=pytest.mark.thorough),
        pytest.param(FOR_ANY_SERVER, "bios", id="any-server-bios", marks=pytest.mark.thorough),
        pytest.param(FOR_ANY_SERVER, "uefi", id="any-server-uefi", marks=pytest.mark.thorough),
        pytest.param(SMALL, "bios", id="small-bios", marks=pytest.mark.thorough),
        pytest.param(SMALL, "uefi", id="small-uefi", marks=pytest.mark.thorough),
    ],
)
def test_an_image_boots_and_shuts_down(recipe: Recipe, firmware: Firmware, tmp_path: Path) -> None:
    with BootLab(tmp_path / "lab") as lab:
        beside = IPv4Interface("10.77.1.5/24")
        node = lab.power_on("web-1", golden(recipe), firmware=firmware, vlans={105: beside})
        form = node.phone_home().form
        assert form["instance_id"] == node.instance_id
        assert form["hostname"] == node.ssh("hostname").strip() == "web-1"
        assert form["pub_key_ed25519"].startswith("ssh-ed25519 ")
        assert ("efi" in node.ssh("ls /sys/firmware").split()) == (firmware == "uefi")
        assert f"inet {beside} " in node.ssh("ip -4 addr show vlan105")
        assert "vlan protocol 802.1Q id 105 " in node.ssh("ip -d link show vlan105")
        _is_well(node)
        node.press_power_button()
        node.powers_off()


@pytest.mark.thorough
def test_a_node_comes_back_from_a_reboot(tmp_path: Path) -> None:
    with BootLab(tmp_path / "lab") as lab:
        node = lab.power_on("web-1", golden(SMALL))
        before = node.phone_home().form
        node.ssh("touch /root/kept; systemctl --no-block reboot")
        assert node.phone_home(count=2).form == before
        node.ssh("test -e /root/kept")


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(SMALL, id="small"),
        pytest.param(WITH_CLOUD_INIT, id="cloud-init", marks=pytest.mark.thorough),
    ],
)
def test_a_clone_of_a_used_disk_is_a_node_of_its_own(recipe: Recipe, tmp_path: Path) -> None:
    with BootLab(tmp_path / "lab") as lab:
        first = lab.power_on("web-1", golden(recipe))
        former = first.phone_home().form
        former_machine = first.ssh("cat /etc/machine-id")
        first.press_power_button()
        first.powers_off()

        new_owner = new_key(tmp_path / "new-owner")
        second = lab.power_on("web-2", first.disk, key=new_owner)
        form = second.phone_home().form
        assert form["hostname"] == second.ssh("hostname", key=new_owner).strip() == "web-2"
        assert form["pub_key_ed25519"] != former["pub_key_ed25519"]
        if recipe is SMALL:  # cloud-init leaves it as it is
            assert second.ssh("cat /etc/machine-id", key=new_owner) != former_machine
        assert second.refuses(lab.key)


@pytest.mark.thorough
def test_a_node_survives_the_loss_of_its_gateway(tmp_path: Path) -> None:
    with BootLab(tmp_path / "lab") as lab:
        node = lab.power_on("web-1", golden(SMALL))
        node.phone_home()
        # Without it nobody makes the connection anew.
        node.ssh("until iscsiadm -m session -P1 | grep -q 'LOGGED IN'; do sleep 1; done")
        node.ssh("echo before >/root/written && sync")
        lab.stop_target()
        lab.start_target()
        node.ssh("echo after >>/root/written && sync", timeout=120)
        assert node.ssh("cat /root/written").split() == ["before", "after"]
        assert node.ssh("findmnt -no OPTIONS /").startswith("rw")


@pytest.mark.thorough
def test_three_nodes_boot_at_once_from_one_image(tmp_path: Path) -> None:
    with BootLab(tmp_path / "lab") as lab:
        nodes = [lab.power_on(f"web-{number}", golden(SMALL)) for number in (1, 2, 3)]
        forms = [node.phone_home().form for node in nodes]
    assert [form["hostname"] for form in forms] == ["web-1", "web-2", "web-3"]
    assert len({form["pub_key_ed25519"] for form in forms}) == 3


@pytest.mark.thorough
def test_cloud_init_makes_its_default_user_and_keeps_the_nic_for_the_root(tmp_path: Path) -> None:
    with BootLab(tmp_path / "lab") as lab:
        node = lab.power_on("web-1", golden(WITH_CLOUD_INIT))
        node.phone_home()
        assert lab.key.with_suffix(".pub").read_text().split()[1] in node.ssh(
            "cat /home/debian/.ssh/authorized_keys"
        )
        assert "status: done" in node.ssh("cloud-init status --wait")
        assert "KeepConfiguration=yes" in node.ssh(
            "cat /etc/systemd/network/10-cloud-init-*.network.d/*.conf"
        )
        assert node.ssh("getent hosts localhost")
