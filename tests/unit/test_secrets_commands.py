"""`bmi secrets`, in the order in which an operator runs it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bmi.cli.main import run
from bmi.parts import Parts
from tests.unit.conftest import Site

Bmi = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bmi(database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bmi:
    config = tmp_path / "bmi.toml"
    config.write_text(f'state_dir = "{tmp_path}/state"\n[database]\nurl = "{database_url}"\n')

    def call(*arguments: str) -> tuple[int, str, str]:
        status = run(["secrets", *arguments, "--config", str(config)])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


def test_a_key_is_changed_under_a_running_service(site: Site, parts: Parts, bmi: Bmi) -> None:
    site.node("n1", 1)
    status, out, _ = bmi("check", "--json")
    assert status == 0
    (old,) = json.loads(out)["keys"]
    status, out, err = bmi("add-key")
    assert (status, err) == (0, "")
    new = re.findall(r"use-key (\w+)", out)[0]
    assert bmi("use-key", "nonsense")[0] == 1
    assert bmi("use-key", new)[0] == 0
    site.node("n2", 2)
    status, out, err = bmi("drop-keys")
    assert (status, "1 secrets are still sealed with an old key" in err) == (1, True)
    status, out, err = bmi("rotate")
    assert (status, err) == (0, "")
    assert out == f"1 secrets were sealed anew, with key {new}\n"
    assert bmi("drop-keys")[0] == 0
    status, out, _ = bmi("check", "--json")
    assert json.loads(out) == {
        "keys": [new],
        "secrets": [{"where": "nodes.bmc_password", "key": new, "count": 2}],
        "unreadable": [],
    }
    assert old not in out
    lines = site.api.get("/v1/audit").json()["items"]
    local = [line["action"] for line in lines if line["address"] == "local"]
    assert local == ["secrets.add-key", "secrets.use-key", "secrets.rotate", "secrets.drop-keys"]
    content = parts.vault.key_file.read_text()
    assert all(word not in str(lines) for word in re.findall(r"\S{40,}", content))


def test_without_the_key_file_nothing_is_made(bmi: Bmi, tmp_path: Path) -> None:
    status, _, err = bmi("check")
    assert status == 1
    assert "secret.key does not exist" in err
    assert not (tmp_path / "state" / "secret.key").exists()


def test_secrets_that_no_key_opens_are_an_error(site: Site, parts: Parts, bmi: Bmi) -> None:
    site.node("n1", 1)
    parts.vault.key_file.unlink()
    from bmi.vault import Vault

    Vault(parts.vault.key_file)
    status, _, err = bmi("check")
    assert status == 1
    assert "1 secrets cannot be opened" in err
