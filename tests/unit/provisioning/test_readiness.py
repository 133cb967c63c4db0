"""Checking and preparing images, and keys from outside, over HTTP and with a stand-in for the appliance."""

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient

from bmi.drivers.storage import Kind, Volume
from bmi.errors import ApplianceFailed
from bmi.images.appliance.session import Appliance
from bmi.parts import Parts
from tests import seen_disks


@pytest.fixture(autouse=True)
def red(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    site.project("red")
    site.image("golden")
    monkeypatch.setattr(Appliance, "ask", seen_disks.answer)


def _content(parts: Parts, kind: Kind, id: str) -> bytes:
    return Path(parts.storage.backing(Volume(kind, UUID(id))).path).read_bytes()


def _id(api: TestClient, name: str) -> str:
    return str(api.get(f"/v1/images/{name}").json()["id"])


def test_an_image_that_was_never_checked_has_no_report(api: TestClient) -> None:
    assert api.get("/v1/images/golden/readiness").json() == {
        "image": "golden",
        "report": None,
        "changes": None,
    }


def test_a_check_is_kept_with_the_image(api: TestClient, site: Any) -> None:
    done = site.ended(api.post("/v1/images/golden/check"))
    assert done["steps"][0]["detail"] == "Debian GNU/Linux 12 (bookworm): 1 info"
    report = api.get("/v1/images/golden/readiness").json()["report"]
    assert [each["code"] for each in report["findings"]] == ["no-seed-reader"]
    assert (report["cloud_init"], report["first_boot"]) == (False, False)


def test_preparing_makes_a_new_image_and_leaves_the_old_one(api: TestClient, site: Any, parts: Parts) -> None:
    before = _content(parts, Kind.IMAGE, _id(api, "golden"))
    done = site.ended(api.post("/v1/images/golden/prepare", json={}))
    assert done["state"] == "succeeded", done
    assert done["result"]["image"] == "golden-prepared"
    made = api.get("/v1/images/golden-prepared").json()
    assert (made["state"], made["parent_name"], made["project"]) == ("ready", "golden", None)
    assert _content(parts, Kind.IMAGE, _id(api, "golden")) == before
    assert _content(parts, Kind.IMAGE, made["id"]).rstrip(b"\0").endswith(b"prepare")
    known = api.get("/v1/images/golden-prepared/readiness").json()
    assert known["changes"] == ["the machine id is emptied: each node makes its own"]
    assert known["report"]["system"]
    assert [info.volume.kind for info in parts.storage.volumes()] == [Kind.IMAGE, Kind.IMAGE]


def test_a_preparation_that_fails_leaves_nothing(
    api: TestClient, site: Any, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **more: Any) -> Any:
        raise ApplianceFailed("it broke", next_step="look")

    monkeypatch.setattr(Appliance, "ask", fail)
    done = site.ended(api.post("/v1/images/golden/prepare", json={"name": "ready"}))
    assert (done["state"], done["ending"], done["error"]["detail"]) == ("failed", "undone", "it broke")
    assert api.get("/v1/images/ready").status_code == 404
    assert len(list(parts.storage.volumes())) == 1


def test_an_image_that_would_not_boot_afterwards_is_not_kept(
    api: TestClient, site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blocked(self: Any, backing: Any, verb: str, request: Any, **more: Any) -> Any:
        told = seen_disks.answer(self, backing, verb, request, **more)
        (told.get("seen") or told)["system"]["initramfs"]["texts"] = {}
        return told

    monkeypatch.setattr(Appliance, "ask", blocked)
    done = site.ended(api.post("/v1/images/golden/prepare", json={"name": "ready"}))
    assert "would not boot" in done["error"]["detail"]
    assert api.get("/v1/images/ready").status_code == 404


@pytest.mark.parametrize(("checked", "steps"), [(True, ["disk", "keys", "seed"]), (False, ["disk", "seed"])])
def test_keys_are_written_into_clones_of_images_that_are_known_to_read_no_seed(
    api: TestClient, site: Any, parts: Parts, checked: bool, steps: list[str]
) -> None:
    site.ended(api.post("/v1/networks", json={"name": "net", "project": "red"}))
    site.node("n1", 1)
    if checked:
        site.ended(api.post("/v1/images/golden/check"))
    before = _content(parts, Kind.IMAGE, _id(api, "golden"))
    body = {"image": "golden", "network": "net", "project": "red", "until": "power"}
    done = site.ended(api.post("/v1/nodes/n1/provision", json=body))
    assert done["state"] == "succeeded", done
    names = [step["name"] for step in done["steps"]]
    assert [name for name in names if name in ("disk", "keys", "seed")] == steps
    disk = api.get(f"/v1/disks/{done['result']['disk']}?project=red").json()
    assert _content(parts, Kind.DISK, disk["id"]).rstrip(b"\0").endswith(b"personalise") is checked
    assert _content(parts, Kind.IMAGE, _id(api, "golden")) == before


def test_a_snapshot_of_such_an_image_needs_keys_too(api: TestClient, site: Any) -> None:
    site.ended(api.post("/v1/networks", json={"name": "net", "project": "red"}))
    site.node("n1", 1)
    site.ended(api.post("/v1/images/golden/check"))
    site.ended(api.post("/v1/disks", json={"name": "d", "image": "golden", "project": "red"}))
    site.ended(api.post("/v1/disks/d/snapshot?project=red", json={"name": "shot"}))
    body = {"image": "shot", "network": "net", "project": "red", "until": "power"}
    done = site.ended(api.post("/v1/nodes/n1/provision", json=body))
    assert "keys" in [step["name"] for step in done["steps"]]
