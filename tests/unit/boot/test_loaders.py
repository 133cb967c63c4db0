from ipaddress import IPv4Address
from pathlib import Path

from bmi.boot.loaders import Loaders
from bmi.boot.variables import Loader
from bmi.settings import Boot

GATEWAY = IPv4Address("10.66.0.254")


def loaders(**named: object) -> Loaders:
    return Loaders(Boot.model_validate({"tftp_root": "/srv/tftp", "loaders": named}))


def test_debians_ipxe_serves_both_firmwares_of_x86_in_both_ways() -> None:
    assert Loaders().on(GATEWAY) == (
        Loader("bios", (0,), "undionly.kpxe"),
        Loader("uefi_x64", (7, 9), "snponly.efi"),
        Loader("http_x64", (16,), "http://10.66.0.254:8080/loader/snponly.efi", http=True),
    )
    assert Loaders().over_http == {"snponly.efi": Path("/usr/lib/ipxe/snponly.efi")}


def test_an_absolute_path_within_the_folder_of_tftp_is_asked_for_from_there() -> None:
    (bios, *_) = loaders(bios="/srv/tftp/old/undionly.kpxe").on(GATEWAY)
    assert bios.file == "old/undionly.kpxe"


def test_over_http_a_file_may_be_anywhere_and_its_folder_is_told_to_nobody() -> None:
    told = loaders(http_x64="/opt/ipxe/shim.efi", beside=["/opt/ipxe/ipxe.efi"])
    assert told.on(GATEWAY)[-1].file == "http://10.66.0.254:8080/loader/shim.efi"
    assert told.over_http == {"shim.efi": Path("/opt/ipxe/shim.efi"), "ipxe.efi": Path("/opt/ipxe/ipxe.efi")}


def test_an_empty_name_takes_firmware_off_the_list() -> None:
    assert [each.name for each in loaders(bios="", http_x64="").on(GATEWAY)] == ["uefi_x64"]


def test_every_file_has_to_be_there(tmp_path: Path) -> None:
    for name in ("undionly.kpxe", "snponly.efi"):
        (tmp_path / name).touch()
    named = {"uefi_arm64": "arm.efi", "beside": ["ipxe.efi"]}
    found = Loaders(Boot.model_validate({"tftp_root": tmp_path, "loaders": named}))
    assert found.missing() == [tmp_path / "arm.efi", tmp_path / "ipxe.efi"]
    assert Loaders(Boot(tftp_root=tmp_path)).missing() == []
