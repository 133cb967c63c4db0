import sqlite3
from pathlib import Path

import pytest

from bmi.errors import ImportRefused
from bmi.legacy.source import OldImage, OldProject, read
from tests.unit.legacy.conftest import IMAGES, MakeOld


def test_both_versions_are_read(make_old: MakeOld) -> None:
    new, old = read(make_old()), read(make_old(networks=True))
    assert new.projects[0] == OldProject(1, "bmi_infra", None)
    assert old.projects[0] == OldProject(1, "bmi_infra", "net-1")
    assert new.images == old.images
    assert new.images[1] == OldImage(2, "web", public=False, snapshot=False, project=1, parent=1)
    assert [image.disk for image in new.images] == [
        parent is not None and not snapshot for _, _, _, snapshot, _, parent in IMAGES
    ]


def test_the_file_is_only_read(make_old: MakeOld) -> None:
    file = make_old()
    before = file.read_bytes()
    file.chmod(0o444)
    read(file)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_path_with_odd_characters_is_the_file_of_that_name(make_old: MakeOld) -> None:
    assert read(make_old(name="a?mode=rwc#b c%20.sqlite")).projects


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match="is no file"):
        read(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_text("this is not a database, but it is long enough to be taken for one" * 20)
    with pytest.raises(ImportRefused, match="cannot be read as an SQLite database"):
        read(file)
    empty = tmp_path / "empty"
    empty.touch()
    with pytest.raises(ImportRefused, match="no table image and no table project"):
        read(empty)


def test_a_database_of_this_bmi_is_refused(make_old: MakeOld) -> None:
    with pytest.raises(ImportRefused, match="it has migrations"):
        read(make_old(extra=["CREATE TABLE alembic_version (version_num VARCHAR(32))"]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("CREATE TABLE quota (id INTEGER)", "it has quota"),
        ("ALTER TABLE image ADD COLUMN digest VARCHAR", "it has column digest"),
        ("ALTER TABLE project DROP COLUMN name", "lacks columns"),
    ],
)
def test_a_newer_one_is_refused_with_what_is_new(make_old: MakeOld, change: str, said: str) -> None:
    file = make_old(projects=(), images=())
    connection = sqlite3.connect(file)
    if "DROP" in change:  # a unique column cannot be dropped
        connection.execute("DROP TABLE project")
        change = "CREATE TABLE project (id INTEGER)"
    connection.execute(change)
    connection.commit()
    connection.close()
    with pytest.raises(ImportRefused, match=said):
        read(file)


def test_a_damaged_one_is_refused(make_old: MakeOld) -> None:
    file = make_old(images=[(id, f"image-{id}" * 20, 0, 0, 1, None) for id in range(1, 300)])
    content = bytearray(file.read_bytes())
    content[8192:12288] = b"\xa5" * 4096
    file.write_bytes(content)
    with pytest.raises(ImportRefused, match=r"damaged|malformed"):
        read(file)


def test_an_id_that_is_no_number_is_refused(make_old: MakeOld) -> None:
    file = make_old(images=[(1, "a", 0, 0, "one", None)])
    with pytest.raises(ImportRefused, match="an id in it is no number"):
        read(file)
