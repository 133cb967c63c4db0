"""Images that are edited on a node: a scratch clone becomes a new image, or goes."""

from pathlib import Path
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient

from bmi.drivers.power import Bmc, PowerState
from bmi.drivers.storage import Kind, Volume
from bmi.errors import StorageError
from bmi.images.models import Disk, Image
from bmi.parts import Parts
from bmi.provisioning import engine
from tests.unit.provisioning.test_provision import NOTHING, is_reset, left, node, provision, red, tamper

__all__ = ["red"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "FIRST_PAUSE", 0.01)


def must(site: Any, answer: Any) -> dict[str, Any]:
    ended = site.ended(answer)
    assert ended["state"] == "succeeded", ended
    return cast("dict[str, Any]", ended)


def edit(api: TestClient, **more: Any) -> Any:
    body = {"node": "n1", "network": "net", "project": "red", "until": "power", **more}
    return api.post("/v1/images/golden/edit", json=body)


def commit(api: TestClient) -> Any:
    return api.post("/v1/images/commit", json={"node": "n1", "name": "golden-2"})


def change(parts: Parts, word: bytes) -> None:
    """Write to the scratch clone."""
    with parts.db.read() as session:
        id = session.query(Disk).one().id
    with Path(parts.storage.backing(Volume(Kind.DISK, id)).path).open("r+b") as file:
        file.write(word)


def content(parts: Parts, name: str) -> bytes:
    with parts.db.read() as session:
        id = session.query(Image).filter_by(name=name).one().id
    return Path(parts.storage.backing(Volume(Kind.IMAGE, id)).path).read_bytes()[:6]


def test_what_was_changed_becomes_a_new_image_and_nothing_else_is_left(
    api: TestClient, site: Any, parts: Parts
) -> None:
    begun = must(site, edit(api))
    assert (begun["verb"], node(api)["image"]) == ("image.edit", "golden")
    change(parts, b"edited")
    tamper(parts)

    must(site, commit(api))

    assert is_reset(parts)
    made = api.get("/v1/images/golden-2").json()
    assert (made["state"], made["parent_name"], made["project"]) == ("ready", "golden", None)
    assert (content(parts, "golden"), content(parts, "golden-2")) == (b"golden", b"edited")
    assert (node(api)["state"], node(api)["project"]) == ("available", None)
    assert left(api) == NOTHING


def test_what_was_changed_can_be_discarded(api: TestClient, site: Any, parts: Parts) -> None:
    must(site, edit(api))
    change(parts, b"edited")

    must(site, api.post("/v1/images/discard", json={"node": "n1"}))

    assert content(parts, "golden") == b"golden"
    assert [image["name"] for image in api.get("/v1/images").json()["items"]] == ["golden"]
    assert left(api) == NOTHING


@pytest.mark.parametrize("verb", ["commit", "discard"])
def test_a_node_that_edits_nothing_is_left_alone(api: TestClient, site: Any, verb: str) -> None:
    must(site, provision(api))
    body = {"node": "n1"} | ({"name": "golden-2"} if verb == "commit" else {})

    answer = api.post(f"/v1/images/{verb}", json=body)

    assert (answer.status_code, answer.json()["code"]) == (409, "wrong-state")
    assert node(api)["state"] == "active"


def test_a_commit_that_fails_at_first_leaves_the_node_as_it_was(
    api: TestClient, site: Any, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    must(site, edit(api))
    change(parts, b"edited")
    with monkeypatch.context() as broken:
        broken.setattr(parts.storage, "snapshot", refused)
        failed = site.ended(commit(api))
    assert (failed["ending"], node(api)["state"]) == ("undone", "active")
    assert parts.powers["memory"].state(Bmc("bmc-n1", "u", "secret")) is PowerState.ON

    must(site, api.post(f"/v1/operations/{failed['id']}/retry"))

    assert content(parts, "golden-2") == b"edited"


def test_a_commit_that_fails_later_goes_on_where_it_was(
    api: TestClient, site: Any, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    must(site, edit(api))
    change(parts, b"edited")
    with monkeypatch.context() as broken:
        broken.setattr(parts.storage, "remove", refused)
        failed = site.ended(commit(api))
    assert (failed["ending"], node(api)["state"]) == ("standing", "failed")
    change(parts, b"spoilt")  # what is there now is not what was committed

    again = must(site, api.post(f"/v1/operations/{failed['id']}/retry"))

    assert "snapshot" not in [step["name"] for step in again["steps"]]
    assert content(parts, "golden-2") == b"edited"
    assert left(api) == NOTHING


def refused(*_: object, **__: object) -> None:
    raise StorageError("the store is broken", next_step="mend it")
