"""Sealing everything anew while a service works with it."""

import pytest
from fastapi.testclient import TestClient

from bmi import sealed
from bmi.errors import InUse
from bmi.nodes.models import Node
from bmi.nodes.service import bmc_of
from bmi.parts import Parts
from bmi.provisioning.models import Operation
from bmi.vault import added, key_name, used, write_keys
from tests.unit.conftest import Site


def change_key(parts: Parts) -> tuple[str, str]:
    file = parts.vault.key_file
    write_keys(file, added(parts.vault.keys()))
    old, new = parts.vault.keys().sealing
    write_keys(file, used(parts.vault.keys(), key_name(new)))
    return old, new


def passwords(site: Site, parts: Parts, api: TestClient) -> set[str]:
    from sqlalchemy import select

    with parts.db.read() as session:
        ids = list(session.scalars(select(Node.id)))
    return {bmc_of(parts, id)[1].password for id in ids}


def test_everything_is_sealed_anew_in_batches_and_old_keys_can_go(
    site: Site, parts: Parts, api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealed, "BATCH", 2)
    for number in range(1, 6):
        site.node(f"n{number}", number)
    with parts.db.write() as session:
        operation = Operation(
            verb="image.import",
            subject="image x",
            asked_by="admin",
            state="failed",
            request={"url": parts.vault.seal("https://x/?key=canary"), "name": "x"},
            asked={"url": None},
        )
        session.add(operation)
    old, new = change_key(parts)
    found = sealed.check(parts.db, parts.vault)
    assert (found.under(key_name(old)), found.under(key_name(new)), found.lost) == (6, 0, [])
    with pytest.raises(InUse, match="6 secrets are still sealed with an old key"):
        sealed.drop_keys(parts.db, parts.vault)
    assert sealed.rotate(parts.db, parts.vault) == (6, [])
    assert sealed.rotate(parts.db, parts.vault) == (0, [])
    assert sealed.drop_keys(parts.db, parts.vault) == 1
    assert passwords(site, parts, api) == {"secret"}
    with parts.db.read() as session:
        row = session.get_one(Operation, operation.id)
        assert parts.vault.open(row.request["url"]) == "https://x/?key=canary"
        assert row.request["name"] == "x"


def test_what_is_interrupted_goes_on(site: Site, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "BATCH", 2)
    for number in range(1, 6):
        site.node(f"n{number}", number)
    old, new = change_key(parts)
    real, calls = sealed._seal, 0

    def dies(*args: object) -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return real(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(sealed, "_seal", dies)
        with pytest.raises(KeyboardInterrupt):
            sealed.rotate(parts.db, parts.vault)
    found = sealed.check(parts.db, parts.vault)
    assert (found.under(key_name(old)), found.under(key_name(new))) == (3, 2)
    assert sealed.rotate(parts.db, parts.vault) == (3, [])


def test_what_no_key_opens_is_named_and_left_alone(site: Site, parts: Parts) -> None:
    site.node("n1", 1)
    with parts.db.write() as session:
        session.query(Node).one().bmc_password = "gAAAA-of-another-installation"
    change_key(parts)
    changed, lost = sealed.rotate(parts.db, parts.vault)
    assert changed == 0
    assert len(lost) == 1
    assert lost[0].startswith("nodes.bmc_password of ")
    with pytest.raises(InUse, match="1 with none"):
        sealed.drop_keys(parts.db, parts.vault)
