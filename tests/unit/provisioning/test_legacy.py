"""What an import from the original BMI left behind becomes images and disks that nodes can boot."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from bmi.access.models import Project
from bmi.drivers.storage import Kind, Volume
from bmi.errors import StorageError
from bmi.ids import new_id
from bmi.images.models import Disk, Image
from bmi.legacy.models import LegacyVolume
from bmi.parts import Parts
from bmi.provisioning.converge import converge
from bmi.provisioning.legacy import between

SIZE = 1 << 20


@pytest.fixture
def imported(parts: Parts) -> tuple[Image, Disk]:
    """The rows that an import makes: a golden image and a disk that was cloned from it."""
    with parts.db.write() as session:
        project = Project(id=new_id(), name="old")
        image = Image(
            id=new_id(), name="golden", project_id=project.id, state="creating", origin="import", size=0
        )
        disk = Disk(
            id=new_id(), name="web", project_id=project.id, image_id=image.id, state="creating", size=0
        )
        session.add(project)
        session.flush()
        session.add(image)
        session.flush()
        session.add(disk)
        session.flush()
        for number, row in ((1, {"image_id": image.id}), (5, {"disk_id": disk.id})):
            session.add(
                LegacyVolume(
                    id=new_id(), backend_name=f"7img{number}", old_name="x", old_project="old", **row
                )
            )
    return image, disk


def put(parts: Parts, name: str, content: bytes) -> None:
    """Let something lie in the store that is not BMI's."""
    folder = parts.site.state_dir / "storage-memory" / "adopt"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content.ljust(SIZE, b"\0"))


def test_everything_imported_can_be_used_afterwards(
    api: TestClient, parts: Parts, site: Any, imported: tuple[Image, Disk]
) -> None:
    image, disk = imported
    put(parts, "7img1", b"golden")
    put(parts, "7img5", b"changed since")

    operation = site.ended(api.post("/v1/images/adopt-legacy"))

    assert operation["state"] == "succeeded", operation
    shown = api.get("/v1/images/golden?project=old").json()
    assert (shown["state"], shown["size"]) == ("ready", SIZE)
    shown = api.get("/v1/disks/web?project=old").json()
    assert (shown["state"], shown["size"], shown["image_name"]) == ("ready", SIZE, "golden")
    content = Path(parts.storage.backing(Volume(Kind.DISK, disk.id)).path).read_bytes()
    assert content.startswith(b"changed since")
    # No image that stood between the old disk and the new one is left.
    assert {info.volume for info in parts.storage.volumes()} == {
        Volume(Kind.IMAGE, image.id),
        Volume(Kind.DISK, disk.id),
    }
    assert api.post("/v1/images/adopt-legacy").json()["code"] == "wrong-state"


def test_what_is_missing_can_be_adopted_later(
    api: TestClient, parts: Parts, site: Any, imported: tuple[Image, Disk]
) -> None:
    put(parts, "7img1", b"golden")
    operation = site.ended(api.post("/v1/images/adopt-legacy"))
    assert operation["state"] == "failed"
    assert "7img5" in operation["error"]["detail"]
    assert api.get("/v1/images/golden?project=old").json()["state"] == "ready"

    put(parts, "7img5", b"late")
    assert site.ended(api.post("/v1/images/adopt-legacy"))["state"] == "succeeded"
    assert api.get("/v1/disks/web?project=old").json()["state"] == "ready"


def test_what_stood_between_goes_with_a_disk_that_is_given_up(
    api: TestClient, parts: Parts, site: Any, imported: tuple[Image, Disk], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, disk = imported
    volume = Volume(Kind.IMAGE, between(disk.id))
    put(parts, "7img1", b"golden")
    put(parts, "7img5", b"changed since")

    def refuse(*_: object) -> None:
        raise StorageError("the store refuses", next_step="look at it")

    with monkeypatch.context() as broken:
        broken.setattr(parts.storage, "clone", refuse)
        assert site.ended(api.post("/v1/images/adopt-legacy"))["state"] == "failed"
    converge(parts)
    assert parts.storage.find(volume) is not None  # the next try begins with it

    site.ended(api.delete("/v1/disks/web?project=old"))
    converge(parts)
    assert parts.storage.find(volume) is None
