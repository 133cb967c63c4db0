from pathlib import Path

import pytest

from bmi.errors import SettingsInvalid
from bmi.vault import Vault


def test_what_is_sealed_opens_again_after_a_restart(tmp_path: Path) -> None:
    sealed = Vault(tmp_path / "key").seal("chap-secret")
    assert "chap-secret" not in sealed
    assert Vault(tmp_path / "key").open(sealed) == "chap-secret"


def test_the_key_file_is_private(tmp_path: Path) -> None:
    Vault(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_another_key_does_not_open(tmp_path: Path) -> None:
    sealed = Vault(tmp_path / "key").seal("chap-secret")
    with pytest.raises(SettingsInvalid, match="other"):
        Vault(tmp_path / "other").open(sealed)


def test_derived_tokens_differ_by_purpose_subject_and_installation(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "key")
    tokens = {
        vault.derive("boot", "1"),
        vault.derive("boot", "2"),
        vault.derive("other", "1"),
        Vault(tmp_path / "other").derive("boot", "1"),
    }
    assert len(tokens) == 4
    assert vault.derive("boot", "1") == Vault(tmp_path / "key").derive("boot", "1")
