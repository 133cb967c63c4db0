from pathlib import Path

import pytest

from bmi.errors import SettingsInvalid
from bmi.vault import Vault, added, key_name, only_first, used, write_keys


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


def test_keys_change_under_a_running_service_and_tokens_stay_good(tmp_path: Path) -> None:
    file = tmp_path / "key"
    service = Vault(file)
    first = service.seal("chap-secret")
    token = service.derive("boot", "1")
    write_keys(file, added(Vault(file).keys()))
    old, new = service.keys().sealing
    assert service.sealed_with(service.seal("x")) == old  # other hosts may not have the new one
    write_keys(file, used(service.keys(), key_name(new)))
    write_keys(file, used(service.keys(), key_name(new)))  # to say it twice changes nothing
    second = service.seal("chap-secret")
    assert [service.sealed_with(sealed) for sealed in (first, second)] == [old, new]
    assert service.open(first) == "chap-secret"
    write_keys(file, only_first(service.keys()))
    assert service.open(second) == "chap-secret"
    with pytest.raises(SettingsInvalid, match="not sealed with a key"):
        service.open(first)
    assert service.derive("boot", "1") == token
    assert file.stat().st_mode & 0o777 == 0o600
    assert old not in repr(service.keys())


def test_a_file_of_one_key_as_older_releases_wrote_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("x3vKnp_0nqzZ4mVb8yQ1kOPxTrNXJ7rQkZqS2kq1hGE=")
    assert Vault(tmp_path / "key").open(Vault(tmp_path / "key").seal("x")) == "x"


def test_a_key_file_with_something_else_is_refused_without_quoting_it(tmp_path: Path) -> None:
    for content in ("", "canary\n", "tokens canary\n"):
        (tmp_path / "key").write_text(content)
        with pytest.raises(SettingsInvalid, match="one key per line") as found:
            Vault(tmp_path / "key")
        assert "canary" not in str(found.value)
