from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from bmi.access.models import Project
from bmi.db import now
from bmi.errors import QuotaExceeded
from bmi.ids import new_id
from bmi.images.models import Disk, Image
from bmi.images.quota import Use, require_room, use_of
from bmi.nodes.models import Node
from bmi.parts import Parts
from tests.unit.images.conftest import Tenants

MIB = 1 << 20


@pytest.fixture
def session(parts: Parts) -> Iterator[Session]:
    with parts.db.write() as opened:
        yield opened


@pytest.fixture
def blue(session: Session) -> Project:
    """A project that owns an image, one in the trash, and a disk."""
    project = Project(id=new_id(), name="blue")
    session.add(project)
    session.flush()
    add_image(session, project.id, "kept", size=4 * MIB)
    add_image(session, project.id, "thrown", size=2 * MIB).deleted_at = now()
    session.add(Disk(id=new_id(), name="d", project_id=project.id, state="creating", size=8 * MIB))
    session.flush()
    return project


def add_image(session: Session, project: UUID | None, name: str, size: int) -> Image:
    image = Image(id=new_id(), name=name, project_id=project, state="ready", origin="build", size=size)
    session.add(image)
    return image


def test_everything_counts_that_has_a_row(session: Session, blue: Project) -> None:
    other = Project(id=new_id(), name="other")
    session.add(other)
    session.flush()
    add_image(session, None, "site", size=MIB)
    add_image(session, other.id, "theirs", size=MIB)
    bmc = {
        "bmc_driver": "memory",
        "bmc_address": "-",
        "bmc_username": "",
        "bmc_password": "",
        "bmc_options": {},
    }
    for name, owner in (("n1", blue.id), ("n2", other.id), ("n3", None)):
        session.add(Node(id=new_id(), name=name, project_id=owner, nics=[], **bmc))
    session.flush()

    assert use_of(session, blue.id) == Use(
        nodes=1,
        images=2,
        image_bytes=6 * MIB,
        disks=1,
        disk_bytes=8 * MIB,
        trashed_images=1,
        trashed_image_bytes=2 * MIB,
    )


def test_without_a_limit_there_is_room_for_anything(session: Session, blue: Project) -> None:
    require_room(session, blue.id, images=1000, disks=1000, image_bytes=1 << 60, disk_bytes=1 << 60)


def test_what_belongs_to_nobody_has_no_limit(session: Session) -> None:
    require_room(session, None, images=1000, image_bytes=1 << 60)


@pytest.mark.parametrize(
    ("limit", "fits", "more", "told"),
    [
        (
            {"max_images": 3},
            {"images": 1},
            {"images": 2},
            ("3 images", "2 images, 1 of that", "--images"),
        ),
        ({"max_disks": 2}, {"disks": 1}, {"disks": 2}, ("2 disks", "1 disk", "--disks")),
        (
            {"max_image_bytes": 7 * MIB},
            {"image_bytes": MIB},
            {"image_bytes": MIB + 512},
            ("7 MiB of images", "6 MiB of images", "1049088 bytes of images more", "--image-bytes"),
        ),
        (
            {"max_disk_bytes": 10 * MIB},
            {"disk_bytes": 2 * MIB},
            {"disk_bytes": 3 * MIB},
            ("10 MiB of disks", "8 MiB of disks", "3 MiB of disks more", "--disk-bytes"),
        ),
    ],
)
def test_a_limit_is_reached_and_not_passed(
    session: Session,
    blue: Project,
    limit: dict[str, int],
    fits: dict[str, int],
    more: dict[str, int],
    told: tuple[str, ...],
) -> None:
    for column, value in limit.items():
        setattr(blue, column, value)

    require_room(session, blue.id, **fits)
    with pytest.raises(QuotaExceeded) as caught:
        require_room(session, blue.id, **more)

    for words in ("project blue", *told):
        assert words in str(caught.value)


def test_who_owns_too_much_already_may_go_on_with_the_rest(session: Session, blue: Project) -> None:
    """A limit that was lowered takes nothing away."""
    blue.max_images = 0

    require_room(session, blue.id, disks=1, disk_bytes=MIB)
    with pytest.raises(QuotaExceeded):
        require_room(session, blue.id, images=1)


def test_the_trash_is_named_where_it_would_help(session: Session, blue: Project) -> None:
    blue.max_images = blue.max_disks = 0

    with pytest.raises(QuotaExceeded, match="--now"):
        require_room(session, blue.id, images=1)
    with pytest.raises(QuotaExceeded) as caught:
        require_room(session, blue.id, disks=1)
    assert "trash" not in str(caught.value)


# --- over the API ----------------------------------------------------------------------------------------


def limit(tenants: Tenants, **limits: int | None) -> dict[str, Any]:
    answer = tenants.admin.patch("/v1/projects/blue/quota", json=limits)
    assert answer.status_code == 200, answer.text
    return cast("dict[str, Any]", answer.json())


def test_an_admin_sets_limits_and_everybody_in_the_project_sees_them_with_the_use(tenants: Tenants) -> None:
    tenants.image("web")
    tenants.image("old")
    tenants["blue-member"].delete("/v1/images/old")
    tenants.done(tenants["blue-member"].post("/v1/disks", json={"name": "d", "image": "web"}))

    limit(tenants, images=5, image_bytes=20 * MIB, disks=2)
    changed = limit(tenants, image_bytes=None, disk_bytes=1 << 50)

    shown = tenants["blue-viewer"].get("/v1/projects/blue").json()
    assert shown == changed
    assert shown["quota"] == {
        "nodes": None,
        "images": 5,
        "image_bytes": None,
        "disks": 2,
        "disk_bytes": 1 << 50,
    }
    assert shown["use"] == {
        "nodes": 0,
        "images": 2,
        "image_bytes": 2 * MIB,
        "disks": 1,
        "disk_bytes": MIB,
        "trashed_images": 1,
        "trashed_image_bytes": MIB,
    }
    listed = tenants["blue-viewer"].get("/v1/projects").json()["items"][0]
    assert (listed["quota"], listed["use"]) == (shown["quota"], None)
    for wrong in ({"images": -1}, {"disks": 10**7}, {"disk_bytes": 1 << 63}, {"cpus": 1}):
        assert tenants.admin.patch("/v1/projects/blue/quota", json=wrong).status_code == 422
    for token, status in (("blue-manager", 403), ("red-manager", 404)):
        assert tenants[token].patch("/v1/projects/blue/quota", json={"images": 9}).status_code == status


def test_whatever_makes_an_image_or_a_disk_is_limited(tenants: Tenants, site: Any) -> None:
    tenants.image("web")
    blue, admin = tenants["blue-member"], tenants.admin
    tenants.done(blue.post("/v1/disks", json={"name": "d", "image": "web"}))
    tenants.image("other", "red")
    site.network("net", "blue")
    site.node("n1", 1)
    boots = {"image": "web", "network": "net", "project": "blue", "until": "power"}
    attempts: list[tuple[Any, str, dict[str, Any], str]] = [
        (blue, "/v1/disks", {"name": "d2", "image": "web"}, "disk"),
        (blue, "/v1/nodes/n1/provision", boots, "disk"),
        (blue, "/v1/disks/d/snapshot", {"name": "shot"}, "image"),
        (blue, "/v1/images/web/copy", {"name": "copy"}, "image"),
        (admin, "/v1/images/other/move", {"project": "blue"}, "image"),
        (admin, "/v1/images/build", {"name": "built", "project": "blue"}, "image"),
        (admin, "/v1/images/adopt", {"name": "taken", "project": "blue", "source": "x"}, "image"),
    ]
    before = admin.get("/v1/projects/blue").json()["use"]
    for limits in ({"images": 1, "disks": 1}, {"image_bytes": 2 * MIB - 1, "disk_bytes": 2 * MIB - 1}):
        limit(tenants, **{**dict.fromkeys(("images", "disks", "image_bytes", "disk_bytes")), **limits})
        for caller, path, body, kind in attempts:
            if path == "/v1/images/adopt" and "images" not in limits:
                continue  # nobody knows its size yet
            refused = caller.post(path, json=body)
            assert (refused.status_code, refused.json()["code"]) == (409, "quota-exceeded"), (
                path,
                refused.text,
            )
            assert kind in refused.json()["detail"]
            assert f"bmi project quota blue --{kind}" in refused.json()["next_step"]
    assert admin.get("/v1/projects/blue").json()["use"] == before
    assert admin.get("/v1/nodes/n1").json()["state"] == "available"
    limit(tenants, images=3, disks=3, image_bytes=3 * MIB, disk_bytes=3 * MIB)
    for caller, path, body, _ in attempts[:3]:
        tenants.done(caller.post(path, json=body))


def test_what_is_adopted_is_limited_when_its_size_is_known(tenants: Tenants, parts: Parts) -> None:
    folder = parts.settings.state_dir / "storage-memory" / "adopt"
    (folder / "theirs.raw").write_bytes(bytes(2 * MIB))
    limit(tenants, image_bytes=MIB)
    body = {"name": "taken", "project": "blue", "source": "theirs.raw"}

    failed = tenants.site.ended(tenants.admin.post("/v1/images/adopt", json=body))

    assert (failed["ending"], failed["error"]["code"]) == ("undone", "quota-exceeded")
    assert tenants.names("blue-viewer") == {"golden"}
    limit(tenants, image_bytes=2 * MIB)
    tenants.done(tenants.admin.post("/v1/images/adopt", json=body))


def test_what_is_removed_for_good_makes_room_and_the_trash_does_not(tenants: Tenants) -> None:
    tenants.image("web")
    blue = tenants["blue-member"]
    limit(tenants, images=1)
    blue.delete("/v1/images/web")

    refused = blue.post("/v1/images/golden/copy", json={"name": "copy"})
    assert "1 of that in the trash" in refused.json()["detail"]
    tenants.done(blue.post("/v1/images/web/purge"))

    tenants.done(blue.post("/v1/images/golden/copy", json={"name": "copy"}))


def test_two_at_once_do_not_pass_the_limit_together(tenants: Tenants) -> None:
    blue = tenants["blue-member"]
    limit(tenants, disks=3)

    def make(number: int) -> int:
        return int(blue.post("/v1/disks", json={"name": f"d{number}", "image": "golden"}).status_code)

    with ThreadPoolExecutor(8) as threads:
        answers = sorted(threads.map(make, range(8)))

    assert answers == [202] * 3 + [409] * 5
