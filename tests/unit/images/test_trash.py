"""Images go into the trash, come back from it, or are removed from it; what was made of them stays."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

from bmi.db import now
from bmi.doctor import storage as doctor
from bmi.drivers.storage import Kind, Volume
from bmi.images.models import Image
from bmi.parts import Parts
from bmi.provisioning.converge import converge
from bmi.provisioning.life import empty_trash
from bmi.provisioning.models import Operation
from bmi.wait import wait_until
from tests.unit.images.conftest import Tenants


def aged(parts: Parts, id: str, days: float) -> None:
    """Let an image have been in the trash for some days."""
    with parts.db.write() as session:
        session.get_one(Image, UUID(id)).deleted_at = now() - timedelta(days=days)


def emptied(parts: Parts) -> list[Operation]:
    """Empty the trash, and return the operations that were needed, once they have ended."""
    empty_trash(parts)

    def ended() -> bool:
        with parts.db.read() as session:
            return session.scalars(select(Operation.id).where(Operation.ended_at.is_(None))).first() is None

    wait_until(ended, deadline=20, what="calm", next_step="-", poll=0.02)
    with parts.db.read() as session:
        return list(session.scalars(select(Operation).where(Operation.asked_by == "convergence")))


@contextmanager
def held_back(parts: Parts, monkeypatch: pytest.MonkeyPatch, verb: str) -> Iterator[threading.Event]:
    """Keep the store from doing something until this is left; tells when it has begun."""
    begun, go = threading.Event(), threading.Event()
    real: Callable[..., Any] = getattr(parts.storage, verb)

    def slow(*args: Any) -> Any:
        begun.set()
        assert go.wait(20)
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(parts.storage, verb, slow)
        try:
            yield begun
        finally:
            go.set()


def test_an_image_goes_into_the_trash_and_comes_back(tenants: Tenants) -> None:
    id, blue = tenants.image("web"), tenants["blue-member"]
    before = blue.get("/v1/images/web").json()

    gone = blue.delete("/v1/images/web")

    assert (gone.status_code, gone.json()["deleted_at"] is None) == (200, False)
    assert tenants.names("blue-viewer") == {"golden"}
    assert tenants.names("blue-viewer", deleted=True) == {"web"}
    assert tenants.names("red-viewer", deleted=True) == set()
    assert blue.get("/v1/images/web").status_code == 404
    for use in ("web", id):
        assert blue.post("/v1/disks", json={"name": "d", "image": use}).status_code in (404, 409)
        assert blue.post(f"/v1/images/{use}/copy", json={"name": "c"}).status_code in (404, 409)
    assert blue.delete(f"/v1/images/{id}").json()["code"] == "wrong-state"

    assert blue.post("/v1/images/web/undelete", json={}).status_code == 200

    assert blue.get("/v1/images/web").json() == before
    assert tenants.names("blue-viewer", deleted=True) == set()
    assert blue.post(f"/v1/images/{id}/undelete", json={}).json()["code"] == "wrong-state"


def test_in_the_trash_an_image_keeps_nobody_from_its_name(tenants: Tenants) -> None:
    id, blue = tenants.image("web"), tenants["blue-member"]
    blue.delete("/v1/images/web")
    tenants.image("web")

    taken = blue.post(f"/v1/images/{id}/undelete", json={})

    assert (taken.status_code, taken.json()["code"]) == (409, "already-exists")
    assert taken.json()["next_step"].endswith(f"bmi image undelete {id} --name NAME")
    assert blue.post("/v1/images/web/undelete", json={"name": "old-web"}).json()["id"] == id
    assert tenants.names("blue-viewer") == {"golden", "web", "old-web"}


def test_of_several_in_the_trash_the_id_says_which(tenants: Tenants) -> None:
    blue = tenants["blue-member"]
    for _ in range(2):
        id = tenants.image("web")
        blue.delete("/v1/images/web")

    refused = blue.post("/v1/images/web/undelete", json={})

    assert (refused.status_code, refused.json()["code"]) == (400, "bad-request")
    assert blue.post(f"/v1/images/{id}/undelete", json={}).status_code == 200


def test_the_own_trash_is_meant_where_everybody_has_one_of_the_name(tenants: Tenants) -> None:
    id, blue = tenants.image("golden"), tenants["blue-member"]
    blue.delete("/v1/images/golden")
    assert blue.get("/v1/images/golden").json()["project"] is None

    assert blue.post("/v1/images/golden/undelete", json={}).json()["id"] == id
    blue.delete("/v1/images/golden")
    done = tenants.done(blue.post("/v1/images/golden/purge"))

    assert blue.get(f"/v1/images/{id}").status_code == 404
    assert done["project"] == "blue"
    assert blue.post("/v1/images/golden/purge").status_code == 403
    assert blue.delete("/v1/images/golden").status_code == 403


def test_what_is_not_in_the_trash_is_not_taken_out_of_it(tenants: Tenants) -> None:
    tenants.image("web")

    for name in ("web", "golden", "nothing"):
        refused = tenants["blue-member"].post(f"/v1/images/{name}/undelete", json={})
        assert (refused.status_code, refused.json()["detail"]) == (
            404,
            f"there is no image {name} in the trash",
        )


def test_an_admin_is_told_in_which_project_to_look(tenants: Tenants) -> None:
    refused = tenants.admin.delete("/v1/images/golden?project=blue")

    assert refused.status_code == 404
    assert refused.json()["detail"] == "image golden belongs to everybody, not to project blue"
    assert tenants.admin.delete("/v1/images/golden").status_code == 200


def test_whom_it_was_shared_with_has_it_back_too(tenants: Tenants) -> None:
    tenants.image("web")
    blue, red = tenants["blue-member"], tenants["red-viewer"]
    blue.put(f"/v1/images/web/shares/{tenants.ids['red']}")

    blue.delete("/v1/images/web")
    assert red.get("/v1/images/blue:web").status_code == 404
    blue.post("/v1/images/web/undelete", json={})

    assert red.get("/v1/images/blue:web").status_code == 200


@pytest.mark.parametrize("trashed", [True, False])
def test_an_image_is_removed_at_once_and_what_was_made_of_it_stays(
    tenants: Tenants, parts: Parts, trashed: bool
) -> None:
    id, blue = tenants.image("web"), tenants["blue-member"]
    tenants.done(blue.post("/v1/disks", json={"name": "d", "image": "web"}))
    tenants.done(blue.post("/v1/images/web/copy", json={"name": "copy"}))
    if trashed:
        blue.delete("/v1/images/web")

    tenants.done(blue.post("/v1/images/web/purge"))

    assert blue.get(f"/v1/images/{id}").status_code == 404
    assert parts.storage.find(Volume(Kind.IMAGE, UUID(id))) is None
    tenants.done(blue.post("/v1/disks", json={"name": "d2", "image": "copy"}))
    assert tenants.names("blue-viewer") == {"golden", "copy"}
    disk = blue.get("/v1/disks/d").json()
    assert (disk["state"], disk["image_name"]) == ("ready", "golden")


@pytest.mark.parametrize(
    ("verb", "path", "body"),
    [
        ("clone", "/v1/disks", {"name": "d", "image": "web"}),
        ("copy", "/v1/images/web/copy", {"name": "copy"}),
    ],
)
def test_while_something_is_made_of_it_an_image_is_not_removed(
    tenants: Tenants,
    parts: Parts,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    path: str,
    body: dict[str, str],
) -> None:
    id, blue = tenants.image("web"), tenants["blue-member"]
    with held_back(parts, monkeypatch, verb) as begun:
        making = blue.post(path, json=body)
        assert begun.wait(20)

        refused = blue.post("/v1/images/web/purge")
        assert (refused.status_code, refused.json()["code"]) == (409, "in-use")
        assert "image web is needed" in refused.json()["detail"]
        # The trash takes nothing away, so it may.
        assert blue.delete("/v1/images/web").status_code == 200
        aged(parts, id, 30)
        empty_trash(parts)
        assert blue.get(f"/v1/images/{id}").json()["state"] == "ready"

    assert tenants.site.ended(making)["state"] == "succeeded"
    assert len(emptied(parts)) == 1
    assert blue.get(f"/v1/images/{id}").status_code == 404


def test_an_image_that_is_worked_on_does_not_go_into_the_trash(
    tenants: Tenants, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenants.image("web")
    blue = tenants["blue-member"]
    with held_back(parts, monkeypatch, "flatten") as begun:
        working = blue.post("/v1/images/web/flatten")
        assert begun.wait(20)

        refused = blue.delete("/v1/images/web")

    assert (refused.status_code, refused.json()["code"]) == (409, "in-use")
    assert "image web is busy: image.flatten" in refused.json()["detail"]
    assert tenants.site.ended(working)["state"] == "succeeded"


def test_after_its_days_in_the_trash_convergence_has_an_image_removed(tenants: Tenants, parts: Parts) -> None:
    old, young = tenants.image("old"), tenants.image("young")
    for name in ("old", "young"):
        tenants["blue-member"].delete(f"/v1/images/{name}")
    aged(parts, old, parts.settings.images.trash_days + 0.01)
    aged(parts, young, parts.settings.images.trash_days - 0.01)

    (operation,) = emptied(parts)

    assert (operation.verb, operation.state, operation.image_id) == ("image.delete", "succeeded", UUID(old))
    assert tenants.names("blue-viewer", deleted=True) == {"young"}
    assert parts.storage.find(Volume(Kind.IMAGE, UUID(old))) is None
    assert tenants["blue-viewer"].get(f"/v1/operations/{operation.id}").status_code == 200


def test_convergence_empties_the_trash(tenants: Tenants, parts: Parts) -> None:
    id = tenants.image("old")
    tenants["blue-member"].delete("/v1/images/old")
    aged(parts, id, 400)

    converge(parts)

    with parts.db.read() as session:
        found = session.scalars(select(Operation).where(Operation.image_id == UUID(id))).one()
    assert (found.verb, found.asked_by) == ("image.delete", "convergence")


def test_what_is_in_the_trash_is_no_orphan(tenants: Tenants, parts: Parts) -> None:
    id = tenants.image("web")
    tenants["blue-member"].delete("/v1/images/web")

    assert doctor.orphans(parts) == []
    parts.storage.remove(Volume(Kind.IMAGE, UUID(id)))
    codes = [found["code"] for found in tenants.admin.get("/v1/doctor?quick=true").json()["findings"]]
    assert "volume-missing" in codes  # for it could not come back


def test_a_half_made_image_is_removed_and_not_put_into_the_trash(tenants: Tenants, parts: Parts) -> None:
    id, blue = tenants.image("web"), tenants["blue-member"]
    with parts.db.write() as session:
        session.get_one(Image, UUID(id)).state = "creating"

    refused = blue.delete("/v1/images/web")

    assert (refused.status_code, refused.json()["next_step"]) == (
        409,
        f"remove it: bmi image delete {id} --now",
    )
    tenants.done(blue.post("/v1/images/web/purge"))


def test_a_project_with_something_in_the_trash_stays(tenants: Tenants) -> None:
    tenants.image("web")
    tenants["blue-member"].delete("/v1/images/web")

    refused = tenants.admin.delete("/v1/projects/blue")

    assert (refused.status_code, "trash" in refused.json()["next_step"]) == (409, True)


# --- lineage ---------------------------------------------------------------------------------------------


def test_five_generations_close_ranks_when_the_middle_goes(tenants: Tenants) -> None:
    blue, parent = tenants["blue-member"], "golden"
    for name in ("g1", "g2", "g3", "g4", "g5"):
        tenants.image(name, parent=parent)
        parent = name
    tenants.done(blue.post("/v1/disks", json={"name": "d3", "image": "g3"}))

    def parents() -> dict[str, str | None]:
        images = blue.get("/v1/images").json()["items"]
        return {image["name"]: image["parent_name"] for image in images}

    blue.delete("/v1/images/g3")
    assert blue.get("/v1/images/g4").json()["parent"] == tenants.ids["g3"]  # it can come back
    tenants.done(blue.post("/v1/images/g3/purge"))

    assert parents() == {"golden": None, "g1": "golden", "g2": "g1", "g4": "g2", "g5": "g4"}
    assert blue.get("/v1/disks/d3").json()["image_name"] == "g2"
    for name in ("g4", "g5"):
        tenants.done(blue.post("/v1/disks", json={"name": f"of-{name}", "image": name}))


def test_a_parent_that_was_not_told_is_not_told_by_a_removal(tenants: Tenants) -> None:
    tenants.image("secret")
    tenants.image("web", parent="secret")
    blue, red = tenants["blue-member"], tenants["red-member"]
    blue.put(f"/v1/images/web/shares/{tenants.ids['red']}")
    tenants.done(red.post("/v1/images/blue:web/copy", json={"name": "copy"}))
    tenants.done(red.post("/v1/disks", json={"name": "d", "image": "blue:web"}))

    tenants.done(blue.post("/v1/images/web/purge"))

    for caller, project in ((red, ""), (tenants.admin, "?project=red")):
        assert caller.get(f"/v1/images/copy{project}").json()["parent"] is None
        assert caller.get(f"/v1/disks/d{project}").json()["image"] is None
