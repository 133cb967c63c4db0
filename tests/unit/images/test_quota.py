from collections.abc import Iterator
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from bmi.access.models import Project
from bmi.db import now
from bmi.errors import QuotaExceeded
from bmi.ids import new_id
from bmi.images.models import Disk, Image
from bmi.images.quota import Use, require_room, use_of
from bmi.parts import Parts

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
    session.flush()

    assert use_of(session, blue.id) == Use(
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
            ("3 images", "2 images, 1 images of them", "--images"),
        ),
        ({"max_disks": 2}, {"disks": 1}, {"disks": 2}, ("2 disks", "1 disks", "--disks")),
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
