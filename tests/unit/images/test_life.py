"""Words, labels, sharing, copies and moves of images, as callers see them."""

from typing import Any

import pytest

from bmi.parts import Parts
from tests.unit.images.conftest import Tenants


def patched(tenants: Tenants, token: str, image: str, **change: Any) -> Any:
    return tenants[token].patch(f"/v1/images/{image}", json=change)


# --- words -----------------------------------------------------------------------------------------------


def test_an_image_gets_a_name_words_and_labels(tenants: Tenants) -> None:
    tenants.image("web")

    first = patched(tenants, "blue-member", "web", name="web-2", description="nginx", labels={"os": "debian"})
    assert first.status_code == 200
    second = patched(tenants, "blue-member", "web-2", labels={"os": None, "tier": "front", "empty": ""})

    shown = tenants["blue-viewer"].get("/v1/images/web-2").json()
    assert shown == {**second.json(), "usage": shown["usage"]}
    assert (shown["description"], shown["labels"]) == ("nginx", {"empty": "", "tier": "front"})
    assert tenants["blue-viewer"].get("/v1/images/web").status_code == 404


def test_what_an_image_cannot_be_called(tenants: Tenants) -> None:
    tenants.image("web")
    tenants.image("taken")
    before = tenants["blue-member"].get("/v1/images/web").json()
    wrong: list[tuple[dict[str, Any], int]] = [
        ({"name": "Upper"}, 422),
        ({"name": "taken"}, 409),
        ({"labels": {"k" * 64: "v"}}, 422),
        ({"labels": {"Upper": "v"}}, 422),
        ({"labels": {"k": "v" * 256}}, 422),
        ({"labels": {"k": "two\nlines"}}, 422),
        ({"labels": {f"k{n}": "" for n in range(65)}}, 422),
        ({"description": "x" * 2001}, 422),
        ({"description": "nul \0"}, 422),
        ({"deprecated": ""}, 422),
        ({"size": 1}, 422),
    ]
    for change, status in wrong:
        assert patched(tenants, "blue-member", "web", **change).status_code == status, change
    assert tenants["blue-member"].get("/v1/images/web").json() == before


def test_an_image_has_so_many_labels_and_no_more(tenants: Tenants) -> None:
    tenants.image("web")
    assert patched(tenants, "blue-member", "web", labels={f"k{n}": "" for n in range(64)}).status_code == 200

    refused = patched(tenants, "blue-member", "web", labels={"more": ""})

    assert refused.status_code == 400
    assert "65 labels, and 64 are allowed" in refused.json()["detail"]
    assert patched(tenants, "blue-member", "web", labels={"k0": None, "more": ""}).status_code == 200


def test_a_deprecated_image_can_be_used_and_says_so(tenants: Tenants) -> None:
    tenants.image("web")
    assert patched(tenants, "blue-member", "web", deprecated="use web-2").json()["deprecated"] == "use web-2"

    made = tenants.done(tenants["blue-member"].post("/v1/disks", json={"name": "d", "image": "web"}))
    assert made["result"] == {"disk": "d", "warning": "image web is deprecated: use web-2"}

    assert patched(tenants, "blue-member", "web", deprecated=None).json()["deprecated"] is None
    made = tenants.done(tenants["blue-member"].post("/v1/disks", json={"name": "d2", "image": "web"}))
    assert made["result"] == {"disk": "d2"}


def test_a_viewer_changes_nothing(tenants: Tenants) -> None:
    tenants.image("web")
    viewer = tenants["blue-viewer"]
    for method, path, body in (
        ("PATCH", "", {"name": "x"}),
        ("PUT", f"/shares/{tenants.ids['red']}", None),
        ("DELETE", f"/shares/{tenants.ids['red']}", None),
        ("POST", "/copy", {"name": "x"}),
        ("POST", "/move", {"project": "blue"}),
        ("POST", "/promote", {}),
        ("DELETE", "", None),
        ("POST", "/undelete", {}),
        ("POST", "/purge", None),
        ("POST", "/flatten", None),
    ):
        answer = viewer.request(method, f"/v1/images/web{path}", json=body)
        assert answer.status_code in (403, 404), (method, path, answer.text)
    assert tenants.names("blue-viewer") == {"golden", "web"}


# --- sharing ---------------------------------------------------------------------------------------------


def test_a_shared_image_can_be_listed_read_and_cloned_but_not_changed(tenants: Tenants) -> None:
    id, red = tenants.image("web"), tenants["red-member"]
    assert red.get(f"/v1/images/{id}").status_code == 404

    shared = tenants["blue-member"].put(f"/v1/images/web/shares/{tenants.ids['red']}")

    assert (shared.status_code, shared.json()["project"]) == (200, "red")
    assert tenants.names("red-viewer") == {"golden", "web"}
    assert red.get("/v1/images/blue%3Aweb").json()["visibility"] == "shared"
    tenants.done(red.post("/v1/disks", json={"name": "d", "image": "blue:web"}))
    assert red.post("/v1/disks", json={"name": "d2", "image": "web"}).status_code == 404
    for method, path, body in (
        ("PATCH", "", {"name": "x"}),
        ("DELETE", "", None),
        ("POST", "/purge", None),
        ("POST", "/flatten", None),
        ("POST", "/promote", {}),
        ("POST", "/move", {"project": "red"}),
        ("PUT", f"/shares/{tenants.ids['red']}", None),
    ):
        refused = red.request(method, f"/v1/images/blue:web{path}", json=body)
        assert refused.status_code == 403, (method, path, refused.text)
        assert refused.json()["next_step"] == "make a copy of your own: bmi image copy blue:web NAME"
    assert red.get("/v1/images/blue:web/shares").status_code == 404
    assert tenants.names("blue-viewer") == {"golden", "web"}


def test_what_is_not_shared_any_more_is_gone_but_for_what_was_made_of_it(tenants: Tenants) -> None:
    tenants.image("web")
    blue, red, path = (
        tenants["blue-member"],
        tenants["red-member"],
        f"/v1/images/web/shares/{tenants.ids['red']}",
    )
    blue.put(path)
    blue.put(path)  # again
    assert [
        share["project"] for share in tenants["blue-viewer"].get("/v1/images/web/shares").json()["items"]
    ] == ["red"]
    tenants.done(red.post("/v1/disks", json={"name": "d", "image": "blue:web"}))

    assert blue.delete(path).status_code == 204

    assert blue.delete(path).status_code == 404
    assert tenants.names("red-member") == {"golden"}
    assert red.post("/v1/disks", json={"name": "d2", "image": "blue:web"}).status_code == 404
    assert red.get("/v1/disks/d").json()["state"] == "ready"
    assert blue.get("/v1/images/web").json()["visibility"] == "private"


def test_a_tenant_learns_nothing_of_the_others_by_sharing(tenants: Tenants) -> None:
    tenants.image("web")

    answers = [tenants["blue-member"].put(f"/v1/images/web/shares/{name}") for name in ("red", "nobody")]

    assert [answer.status_code for answer in answers] == [404, 404]
    told = [answer.json()["detail"].replace(name, "X") for answer, name in zip(answers, ("red", "nobody"))]  # noqa: B905
    assert told[0] == told[1]
    assert tenants.admin.put("/v1/images/web/shares/red?project=blue").status_code == 200


def test_an_image_is_not_shared_with_its_own_project_nor_one_that_is_everybodys(tenants: Tenants) -> None:
    tenants.image("web")

    for image, other in (("web", "blue"), ("golden", "red")):
        answer = tenants.admin.put(f"/v1/images/{image}/shares/{other}")
        assert answer.status_code == 400, answer.text
    assert tenants.admin.patch("/v1/images/golden", json={"visibility": "private"}).status_code == 400


def test_only_an_admin_makes_an_image_public(tenants: Tenants) -> None:
    tenants.image("web")
    for token in ("blue-member", "blue-manager"):
        assert patched(tenants, token, "web", visibility="public").status_code == 403

    assert patched(tenants, "admin", "blue:web", visibility="public").json()["visibility"] == "public"

    assert tenants.names("red-viewer") == {"golden", "web"}
    tenants.done(tenants["red-member"].post("/v1/disks", json={"name": "d", "image": "blue:web"}))
    assert patched(tenants, "blue-member", "web", visibility="private").status_code == 200
    assert tenants.names("red-viewer") == {"golden"}


def test_private_ends_all_sharing_for_good(tenants: Tenants) -> None:
    tenants.image("web")
    tenants["blue-member"].put(f"/v1/images/web/shares/{tenants.ids['red']}")

    patched(tenants, "blue-member", "web", visibility="private")
    patched(tenants, "blue-member", "web", visibility="shared")

    assert tenants.names("red-viewer") == {"golden"}
    assert tenants["blue-member"].get("/v1/images/web/shares").json()["items"] == []


def test_where_an_image_comes_from_is_told_to_those_who_may_know(tenants: Tenants) -> None:
    tenants.image("base")
    blue, red = tenants["blue-member"], tenants["red-member"]
    tenants.done(blue.post("/v1/images/base/copy", json={"name": "web"}))
    blue.put(f"/v1/images/web/shares/{tenants.ids['red']}")

    assert blue.get("/v1/images/web").json()["parent_name"] == "base"
    for seen in (red.get("/v1/images/blue:web").json(), red.get("/v1/images").json()["items"][-1]):
        assert (seen["name"], seen["parent"], seen["parent_name"]) == ("web", None, None)


# --- copies and moves ------------------------------------------------------------------------------------


def test_a_shared_image_is_copied_into_the_own_project(tenants: Tenants, parts: Parts) -> None:
    tenants.image("web")
    patched(tenants, "blue-member", "web", description="nginx", labels={"os": "debian"})
    tenants["blue-member"].put(f"/v1/images/web/shares/{tenants.ids['red']}")
    red = tenants["red-member"]

    done = tenants.done(red.post("/v1/images/blue:web/copy", json={"name": "mine"}))

    copy = red.get("/v1/images/mine").json()
    assert (copy["id"], copy["project"], copy["visibility"]) == (done["result"]["image_id"], "red", "private")
    assert (copy["origin"], copy["golden"], copy["description"]) == ("copy", False, "nginx")
    assert copy["labels"] == {"os": "debian"}
    tenants.done(tenants["blue-member"].post("/v1/images/web/purge"))
    tenants.done(red.post("/v1/disks", json={"name": "d", "image": "mine"}))
    assert red.get("/v1/images/mine").json()["parent_name"] == "golden"


def test_a_copy_of_a_golden_image_is_golden(tenants: Tenants) -> None:
    tenants.done(tenants["red-member"].post("/v1/images/golden/copy", json={"name": "mine"}))

    assert tenants["red-member"].get("/v1/images/mine").json()["golden"] is True


def test_copies_for_everybody_are_an_admins(tenants: Tenants) -> None:
    tenants.image("web")
    body = {"name": "web", "everybody": True}
    assert tenants["blue-manager"].post("/v1/images/web/copy", json=body).status_code == 403

    tenants.done(tenants.admin.post("/v1/images/blue:web/copy", json=body))

    assert tenants["red-viewer"].get("/v1/images/web").json()["project"] is None
    for wrong in ({"name": "x"}, {"name": "x", "everybody": True, "project": "red"}):
        assert tenants.admin.post("/v1/images/blue:web/copy", json=wrong).status_code == 400


def test_a_copy_into_a_foreign_project_is_refused(tenants: Tenants) -> None:
    tenants.image("web")
    body = {"name": "web", "project": "red"}

    assert tenants["blue-manager"].post("/v1/images/web/copy", json=body).status_code == 404
    assert tenants["blue-member"].post("/v1/images/web/copy", json={"name": "web"}).status_code == 409


def test_a_copy_that_would_be_too_deep_is_refused_and_leaves_nothing(
    tenants: Tenants, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts.storage, "depth", lambda volume: parts.settings.images.max_depth)

    failed = tenants.site.ended(tenants["red-member"].post("/v1/images/golden/copy", json={"name": "mine"}))

    assert failed["ending"] == "undone"
    assert "would depend on 11 others" in failed["error"]["detail"]
    assert tenants.names("red-member") == {"golden"}


def test_an_admin_moves_an_image_and_whom_it_was_shared_with_loses_it(tenants: Tenants) -> None:
    tenants.image("web")
    tenants.image("taken", "red")
    tenants.admin.put("/v1/images/web/shares/red?project=blue")
    for token in ("blue-manager", "red-manager"):
        moving = tenants[token].post("/v1/images/blue:web/move", json={"project": "red"})
        assert moving.status_code in (403, 404)
    taken = tenants.admin.post("/v1/images/web/move", json={"project": "red", "name": "taken"})
    assert (taken.status_code, taken.json()["next_step"]) == (409, "give it another one: --name")

    moved = tenants.admin.post("/v1/images/web/move", json={"project": "red", "name": "moved"})

    assert moved.json()["visibility"] == "private"
    assert tenants.names("red-viewer") == {"golden", "taken", "moved"}
    assert tenants.names("blue-viewer") == {"golden"}
    assert tenants["red-viewer"].get("/v1/images/moved/shares").json()["items"] == []


def test_an_image_becomes_everybodys_and_a_projects_again(tenants: Tenants) -> None:
    tenants.image("web")
    assert tenants["blue-manager"].post("/v1/images/web/move", json={"everybody": True}).status_code == 403

    assert (
        tenants.admin.post("/v1/images/web/move", json={"everybody": True}).json()["visibility"] == "public"
    )
    assert tenants.names("red-viewer") == {"golden", "web"}
    assert tenants.admin.post("/v1/images/web/move", json={"project": "red"}).json()["project"] == "red"
    assert tenants.admin.post("/v1/images/web/move", json={"project": "red"}).status_code == 400
    assert tenants.names("blue-viewer") == {"golden"}


# --- golden ----------------------------------------------------------------------------------------------


def test_a_snapshot_is_promoted_and_keeps_its_origin(tenants: Tenants) -> None:
    tenants.image("shot")
    assert tenants["blue-member"].get("/v1/images/shot").json()["golden"] is False
    refused = tenants["blue-member"].post("/v1/images/shot/promote", json={"public": True})
    assert refused.status_code == 403

    done = tenants.done(tenants["blue-member"].post("/v1/images/shot/promote", json={"name": "web"}))

    assert done["verb"] == "image.flatten"
    web = tenants["blue-member"].get("/v1/images/web").json()
    assert (web["golden"], web["origin"], web["parent_name"]) == (True, "snapshot", "golden")
    again = tenants["blue-member"].post("/v1/images/web/promote", json={})
    assert (again.status_code, again.json()["code"]) == (409, "wrong-state")


def test_an_admin_promotes_for_everybody(tenants: Tenants) -> None:
    tenants.image("shot")

    tenants.done(tenants.admin.post("/v1/images/shot/promote", json={"public": True, "name": "web"}))

    assert tenants["red-viewer"].get("/v1/images/blue:web").json()["golden"] is True
