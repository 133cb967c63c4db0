"""What a lab node is made of; the machines themselves run in the integration tests."""

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from bmi.drivers import Outcome
from bmi.drivers.power import BootDevice
from bmi.errors import BmiError, CommandFailed, SettingsInvalid, WrongState
from bmi.ids import new_id
from bmi.lab import qmp
from bmi.lab.node import Firmware, NetworkBoot, NodeSpec, VirtualNic, VirtualNode, qemu_command

FOLDER = Path("/srv/lab/n1")
NIC = VirtualNic("52:54:00:00:00:01", "n1-eth0")
SPEC = NodeSpec("n1", new_id(), (NIC,), namespace="switch")
UEFI = replace(SPEC, firmware=Firmware.UEFI)


def words(spec: NodeSpec, device: BootDevice = BootDevice.NETWORK, folder: Path = FOLDER) -> str:
    return " ".join(qemu_command(spec, folder, device))


def test_the_machine_is_translated_and_never_uses_kvm() -> None:
    assert "-accel tcg,thread=multi" in words(SPEC)
    assert "kvm" not in words(SPEC)


def test_the_tap_carries_whole_packets() -> None:
    assert "ifname=n1-eth0,script=no,downscript=no,vnet_hdr=off" in words(SPEC)


def test_the_system_has_the_uuid_that_redfish_tells() -> None:
    assert f"-uuid {SPEC.id}" in words(SPEC)


def test_the_serial_line_is_logged_and_open() -> None:
    assert "path=/srv/lab/n1/console.sock,server=on,wait=off,logfile=/srv/lab/n1/console.log" in words(SPEC)


def test_a_bios_tries_the_network_again_and_again() -> None:
    assert "-boot order=n,reboot-timeout=3000" in words(SPEC)


def test_a_bios_that_boots_from_disk_has_no_boot_rom() -> None:
    assert "mac=52:54:00:00:00:01,romfile= -boot order=c" in words(SPEC, BootDevice.DISK)


def test_uefi_has_variables_of_its_own() -> None:
    assert "unit=1,file=/srv/lab/n1/nvram.fd" in words(UEFI)
    assert "readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd" in words(UEFI)


def test_uefi_boots_with_ipxe_or_by_itself() -> None:
    assert "romfile=/usr/lib/ipxe/qemu/efi-virtio.rom,bootindex=0" in words(UEFI)
    own = replace(UEFI, network_boot=NetworkBoot.FIRMWARE)
    assert ",romfile=,bootindex=0" in words(own)
    assert "-fw_cfg" not in words(own)


def test_uefi_boots_by_http_and_not_by_pxe() -> None:
    http = replace(UEFI, network_boot=NetworkBoot.HTTP)
    assert ",romfile=,bootindex=0" in words(http)
    for version in ("IPv4", "IPv6"):
        assert f"-fw_cfg name=opt/org.tianocore/{version}PXESupport,string=no" in words(http)
    assert "-fw_cfg" not in words(http, BootDevice.DISK)
    with pytest.raises(SettingsInvalid, match="a BIOS has no network boot of its own"):
        replace(SPEC, network_boot=NetworkBoot.HTTP)


def test_uefi_that_boots_from_disk_is_given_one_and_no_network() -> None:
    command = words(UEFI, BootDevice.DISK)
    assert "virtio-blk-pci,drive=empty,bootindex=0" in command
    assert command.count("bootindex") == 1


def test_only_the_first_card_boots() -> None:
    two = replace(SPEC, nics=(NIC, VirtualNic("52:54:00:00:00:02", "n1-eth1")))
    assert "mac=52:54:00:00:00:01 -netdev" in words(two)
    assert "mac=52:54:00:00:00:02,romfile=" in words(two)


def test_a_comma_in_a_path_stays_in_the_path() -> None:
    assert "unix:/srv/a,,b/qmp.sock,server=on" in words(SPEC, folder=Path("/srv/a,b"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "../n1"},
        {"name": "n1,file=/etc/shadow"},
        {"name": ""},
        {"nics": (VirtualNic("52:54:00", "tap0"),)},
        {"nics": (VirtualNic("52:54:00:00:00:01", "tap0,script=/bin/sh"),)},
        {"nics": (VirtualNic("52:54:00:00:00:01", "a-name-of-16-long"),)},
        {"network_boot": NetworkBoot.FIRMWARE},
    ],
)
def test_what_cannot_be_a_node_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsInvalid, match="lab node"):
        replace(SPEC, **wrong)  # type: ignore[arg-type]


def test_a_folder_whose_path_is_too_long_for_sockets_is_refused() -> None:
    with pytest.raises(SettingsInvalid, match="shorter path"):
        VirtualNode(SPEC, Path("/" + "x" * 100))


def test_a_new_node_is_off_and_starts_from_its_disk(tmp_path: Path) -> None:
    node = VirtualNode(SPEC, Path("/nowhere"))
    assert not node.is_on()
    assert node.process is None
    assert node.boot_device() is BootDevice.DISK
    assert node.power_off() is Outcome.ALREADY
    with pytest.raises(WrongState, match="n1 is off"):
        node.reset()


def test_what_to_boot_from_is_remembered(tmp_path: Path) -> None:
    VirtualNode(SPEC, tmp_path).set_boot_device(BootDevice.NETWORK)
    assert VirtualNode(SPEC, tmp_path).boot_device() is BootDevice.NETWORK


def test_orders_to_a_machine_that_is_not_there_fail(tmp_path: Path) -> None:
    place = tmp_path / "qmp.sock"
    assert not qmp.listens(place)
    assert not qmp.greets(place)
    with pytest.raises(CommandFailed, match="system_reset"):
        qmp.execute(place, "system_reset")
    with socket.socket(socket.AF_UNIX) as gone:  # what a killed QEMU leaves
        gone.bind(str(place))
    assert not qmp.listens(place)


def test_a_record_of_another_process_does_not_make_a_node_on(tmp_path: Path) -> None:
    (tmp_path / "qemu.json").write_text(json.dumps({"pid": 1, "started": 0.0}))
    assert not VirtualNode(SPEC, tmp_path).is_on()


def test_errors_say_what_to_do() -> None:
    with pytest.raises(BmiError) as failure:
        replace(SPEC, name="N 1")
    assert failure.value.next_step
