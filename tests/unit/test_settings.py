from pathlib import Path

import pytest

from bmi.errors import SettingsInvalid
from bmi.settings import load_settings


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "bmi.toml"
    file.write_text(text)
    return file


def test_defaults_need_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("bmi.settings.DEFAULT_FILE", tmp_path / "none.toml")
    settings = load_settings()
    assert settings.storage.driver == "local"
    assert settings.database_url == "sqlite:////var/lib/bmi/bmi.db"


def test_environment_wins_over_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = write(tmp_path, "[api]\nport = 7000\nhost = '127.0.0.2'\n")
    monkeypatch.setenv("BMI_API__PORT", "7001")
    settings = load_settings(file)
    assert (settings.api.host, settings.api.port) == ("127.0.0.2", 7001)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("stat_dir = '/x'", "stat_dir"),
        ("state_dir = 'relative'", "state_dir"),
        ("[api]\nport = 70000", "api.port"),
        ("[api]\ncertificate = '/etc/bmi/api.pem'", "certificate_key are needed both"),
        ("[boot]\niqn_prefix = 'my disks'", "boot.iqn_prefix"),
        ("[boot.loaders]\nbios = '/srv/undionly.kpxe'", r"boot: .*loaders.bios is not within tftp_root"),
        ("[boot.loaders]\nuefi_x64 = '../snponly.efi'", r"boot\.loaders\.uefi_x64"),
        ("[boot.loaders]\nhttp_x64 = 'a\\ndhcp-script=/bin/sh'", r"boot\.loaders\.http_x64"),
        ("[boot.loaders]\nhttp_x64 = 'a b'", r"boot\.loaders\.http_x64"),
        ("[boot.loaders]\nhttp_x64 = 'x64/'", r"boot\.loaders\.http_x64"),
        ("[boot.loaders]\nhttp_x86 = 'a'", r"boot\.loaders\.http_x86"),
        (
            "[boot.loaders]\nhttp_x64 = 'a/ipxe.efi'\nhttp_arm64 = 'b/ipxe.efi'",
            "two files with the name ipxe.efi",
        ),
        ("[networks]\nsubnets = '10.0.0.0/99'", "networks.subnets"),
    ],
)
def test_a_bad_value_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(SettingsInvalid, match=named):
        load_settings(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match=r"nowhere\.toml does not exist"):
        load_settings(tmp_path / "nowhere.toml")


def test_broken_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="is not TOML"):
        load_settings(write(tmp_path, "[api\n"))


def test_the_documents_example_is_valid(tmp_path: Path) -> None:
    document = Path(__file__).parents[2] / "docs" / "settings.md"
    example = document.read_text().split("```toml\n")[1].split("```")[0]
    settings = load_settings(write(tmp_path, example))
    assert set(settings.switches) == {"tor1"}
