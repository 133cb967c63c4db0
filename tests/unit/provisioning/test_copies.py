"""What images and disks take and depend on, over HTTP: usage, flattening, adoption."""

import os
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from bmi.drivers.storage import Kind, Volume
from bmi.parts import Parts

MIB = 1 << 20


@pytest.fixture(autouse=True)
def red(site: Any, api: TestClient) -> None:
    site.project("red")
    site.image("golden")
    site.ended(api.post("/v1/disks", json={"name": "web", "image": "golden", "project": "red"}))


@pytest.fixture
def adopt(parts: Parts) -> Path:
    """The folder for what is to be adopted."""
    return parts.site.state_dir / "storage-memory" / "adopt"


def test_one_thing_is_shown_with_what_it_takes_and_a_list_is_not(api: TestClient) -> None:
    for path in ("disks", "images"):
        assert all(item["usage"] is None for item in api.get(f"/v1/{path}").json()["items"])
    taken = api.get("/v1/disks/web?project=red").json()["usage"]
    assert taken == api.get("/v1/images/golden").json()["usage"]
    assert (taken["own"], taken["shared"]) == (MIB, 0)


def test_what_the_storage_lost_is_still_shown(api: TestClient, parts: Parts, site: Any) -> None:
    id = site.image("lost")
    parts.storage.remove(Volume(Kind.IMAGE, id))
    assert api.get("/v1/images/lost").json()["usage"] is None


@pytest.mark.parametrize("path", ["disks/web", "images/golden"])
def test_flattening_what_depends_on_nothing_succeeds(api: TestClient, site: Any, path: str) -> None:
    done = site.ended(api.post(f"/v1/{path}/flatten"))
    assert (done["state"], done["steps"][0]["detail"]) == ("succeeded", "it was already")
    assert api.get(f"/v1/{path}").json()["state"] == "ready"


def test_a_snapshot_that_would_be_too_deep_is_refused(
    api: TestClient, parts: Parts, site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts.storage, "depth", lambda volume: parts.settings.images.max_depth)
    failed = site.ended(api.post("/v1/disks/web/snapshot?project=red", json={"name": "deep"}))
    assert failed["state"] == "failed"
    assert "10 are allowed" in failed["error"]["detail"]
    assert failed["error"]["next_step"].startswith("make the disk independent first: bmi disk flatten ")
    assert api.get("/v1/images/deep?project=red").status_code == 404


def test_an_adopted_image_can_be_cloned_and_leaves_its_source_alone(
    api: TestClient, parts: Parts, site: Any, adopt: Path
) -> None:
    content = os.urandom(MIB)
    (adopt / "theirs.raw").write_bytes(content)
    done = site.ended(api.post("/v1/images/adopt", json={"name": "rescued", "source": "theirs.raw"}))
    assert done["state"] == "succeeded"
    found = api.get("/v1/images/rescued").json()
    assert (found["state"], found["size"], found["origin"]) == ("ready", MIB, "import")
    site.ended(api.post("/v1/disks", json={"name": "copy", "image": "rescued", "project": "red"}))
    disk = api.get("/v1/disks/copy?project=red").json()
    path = Path(parts.storage.backing(Volume(Kind.DISK, disk["id"])).path)
    assert path.read_bytes() == content == (adopt / "theirs.raw").read_bytes()


def test_what_cannot_be_adopted_leaves_no_image(api: TestClient, site: Any) -> None:
    failed = site.ended(api.post("/v1/images/adopt", json={"name": "rescued", "source": "missing"}))
    assert (failed["state"], failed["error"]["code"]) == ("failed", "not-found")
    assert api.get("/v1/images/rescued").status_code == 404
    refused = api.post("/v1/images/adopt", json={"name": "rescued", "source": "../disk/x"})
    assert refused.status_code == 422
