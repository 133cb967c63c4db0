import re
from collections.abc import Iterator

import pytest
from sqlalchemy import func, select

from bmi.access.models import Project
from bmi.api.common import Name
from bmi.db import Db
from bmi.errors import BadRequest
from bmi.images.models import Disk, Image
from bmi.legacy.models import LegacyVolume
from bmi.legacy.plan import Plan, our_name
from bmi.legacy.service import adopted, pending, take_over
from tests.unit.legacy.conftest import IMAGES, MakeOld


@pytest.fixture
def db(database_url: str) -> Iterator[Db]:
    found = Db(database_url)
    yield found
    found.close()


def imported(db: Db, make_old: MakeOld, *, dry_run: bool = False, uid: str = "7", **old: object) -> Plan:
    return take_over(db, make_old(**old), uid=uid, snapshot_name="snapshot", dry_run=dry_run)


def counts(db: Db) -> list[int]:
    with db.read() as session:
        tables = (Project, Image, Disk, LegacyVolume)
        return [session.scalar(select(func.count()).select_from(table)) or 0 for table in tables]


def test_projects_images_snapshots_and_disks_become_ours(db: Db, make_old: MakeOld) -> None:
    imported(db, make_old)
    with db.read() as session:
        assert set(session.scalars(select(Project.name))) == {"bmi-infra", "red-team", "empty"}
        images = {row.name: row for row in session.scalars(select(Image))}
        disks = {row.name: row for row in session.scalars(select(Disk))}
        golden, snapshot = images["golden.img"], images["web-with-nginx"]
        assert (golden.origin, golden.parent_id, golden.state) == ("import", None, "creating")
        assert (snapshot.origin, snapshot.parent_id) == ("snapshot", golden.id)
        assert disks["web"].image_id == golden.id
        assert disks["from-snapshot"].image_id == snapshot.id
        assert disks["lost-clone"].image_id is None
        assert images["lost-snapshot"].origin == "snapshot"
        assert {row.project.name for row in images.values() if row.project} == {"bmi-infra", "red-team"}
        assert all(row.project_id for row in images.values())  # public ones too
        volumes = {row.backend_name: row for row in session.scalars(select(LegacyVolume))}
        assert volumes["7img1"].image_id == golden.id
        assert volumes["7img1"].snapshot_name == "snapshot"
        assert volumes["7img2"].disk_id == disks["web"].id
        assert volumes["7img2"].snapshot_name is None
        assert "7img10" not in volumes


def test_every_name_is_one_that_ours_may_have_and_no_two_are_the_same(db: Db, make_old: MakeOld) -> None:
    plan = imported(db, make_old)
    pattern = Name.__metadata__[0].pattern
    made = [row for row in plan.rows if row.what == "make"]
    assert all(re.fullmatch(pattern, row.name) for row in made)
    keys = [(row.project, row.kind == "disk", row.name) for row in made if row.kind != "project"]
    assert len(set(keys)) == len(keys)
    by_id = {row.old_id: row for row in made if row.kind != "project"}
    assert (by_id[1].name, by_id[8].name) == ("golden.img", "golden.img-8")
    assert by_id[9].name == "image-9"
    assert by_id[5].name == "groe-..-rm--rf" or re.fullmatch(pattern, by_id[5].name)


@pytest.mark.parametrize("old", ["x" * 200, "-" * 5 + "a", "ä", "日本", "a\nb\x1b[2J", "..", ""])
def test_a_name_of_ours_is_valid_or_empty(old: str) -> None:
    assert our_name(old) == "" or re.fullmatch(Name.__metadata__[0].pattern, our_name(old))


def test_what_could_not_stay_as_it_was_is_said(db: Db, make_old: MakeOld) -> None:
    rows = {row.old_id: row for row in imported(db, make_old, networks=True).rows if row.kind != "project"}
    assert "public" in rows[1].remarks[0]
    assert "its parent 99 does not exist" in rows[6].remarks
    assert rows[10].what == "left out"
    assert "its project 77 does not exist" in rows[10].remarks
    projects = [row for row in imported(db, make_old, networks=True).rows if row.kind == "project"]
    assert "net-2" in projects[1].remarks[-1]


def test_a_dry_run_says_the_same_and_makes_nothing(db: Db, make_old: MakeOld) -> None:
    shown = imported(db, make_old, dry_run=True)
    assert counts(db) == [0, 0, 0, 0]
    assert imported(db, make_old).rows == shown.rows
    assert counts(db) == [3, 6, 3, 9]


def test_repeating_it_makes_nothing_more(db: Db, make_old: MakeOld) -> None:
    imported(db, make_old)
    again = imported(db, make_old)
    assert counts(db) == [3, 6, 3, 9]
    assert not again.of("make")
    assert len(again.of("there")) == 12


def test_what_is_new_since_then_is_made_below_what_is_there(db: Db, make_old: MakeOld) -> None:
    imported(db, make_old)
    plan = imported(db, make_old, images=[*IMAGES, (11, "late", 0, 0, 1, 3)])
    assert [row.name for row in plan.of("make")] == ["late"]
    with db.read() as session:
        late = session.scalars(select(Disk).where(Disk.name == "late")).one()
        assert late.image
        assert late.image.name == "web-with-nginx"


def test_another_installation_with_the_same_uid_is_a_conflict_and_makes_nothing(
    db: Db, make_old: MakeOld
) -> None:
    imported(db, make_old)
    other = {"projects": ((1, "blue"),), "images": ((1, "theirs", 0, 0, 1, None), (50, "x", 0, 0, 1, None))}
    plan = imported(db, make_old, **other)
    (conflict,) = plan.of("conflict")
    assert "7img1 was taken over as image golden.img of project bmi_infra" in conflict.remarks[-1]
    assert counts(db) == [3, 6, 3, 9]
    assert not imported(db, make_old, uid="8", **other).of("conflict")
    assert counts(db) == [4, 8, 3, 11]


def test_a_name_that_something_else_has_is_a_conflict(db: Db, make_old: MakeOld) -> None:
    with db.write() as session:
        project = Project(name="bmi-infra")
        session.add(project)
        session.flush()
        session.add(Image(name="golden.img", project_id=project.id, state="ready", origin="build", size=512))
    plan = imported(db, make_old)
    assert [row.old_id for row in plan.of("conflict")] == [1]
    assert counts(db) == [1, 1, 0, 0]


def test_parents_in_a_circle_are_cut(db: Db, make_old: MakeOld) -> None:
    plan = imported(db, make_old, images=[(1, "a", 0, 1, 1, 2), (2, "b", 0, 1, 1, 1), (3, "c", 0, 0, 1, 3)])
    assert all(row.remarks for row in plan.rows if row.kind != "project" and row.name in "abc")
    assert counts(db) == [3, 2, 1, 3]


def test_children_that_come_before_their_parents_are_made_after_them(db: Db, make_old: MakeOld) -> None:
    imported(db, make_old, images=[(1, "child", 0, 1, 1, 2), (2, "parent", 0, 0, 1, None)])
    with db.read() as session:
        child = session.scalars(select(Image).where(Image.name == "child")).one()
        assert child.parent
        assert child.parent.name == "parent"
        assert [row.old_name for row in pending(session)] == ["parent", "child"]


@pytest.mark.parametrize(
    ("uid", "snapshot"), [("", "snapshot"), ("a/b", "snapshot"), ("7", ""), ("7", "a@b")]
)
def test_words_that_cannot_be_in_a_ceph_name_are_refused(
    db: Db, make_old: MakeOld, uid: str, snapshot: str
) -> None:
    with pytest.raises(BadRequest, match="cannot be a part of a name in Ceph"):
        take_over(db, make_old(), uid=uid, snapshot_name=snapshot, dry_run=False)


def test_adopting_makes_a_volume_ready_and_an_import_still_knows_it(db: Db, make_old: MakeOld) -> None:
    imported(db, make_old)
    with db.write() as session:
        for volume in pending(session):
            adopted(session, volume, 1 << 30)
    with db.read() as session:
        assert pending(session) == []
        assert {(row.state, row.size) for row in session.scalars(select(Image))} == {("ready", 1 << 30)}
        assert {(row.state, row.size) for row in session.scalars(select(Disk))} == {("ready", 1 << 30)}
    assert not imported(db, make_old).of("make")


def test_removing_an_image_removes_what_is_known_of_its_old_name(db: Db, make_old: MakeOld) -> None:
    imported(db, make_old, images=[(1, "golden", 0, 0, 1, None)])
    with db.write() as session:
        session.delete(session.scalars(select(Image)).one())
    assert counts(db) == [3, 0, 0, 0]
