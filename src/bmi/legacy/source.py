"""Reads the database of the original BMI.

It is one SQLite file with two tables. Nothing in it says which version wrote it: v0.5 and v0.6 have a column
`provision_network` in `project`, later ones do not. References are not enforced in it, and its types bind nobody.
"""

import contextlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from bmi.errors import ImportRefused

_PROJECT = {"id", "name"}
_PROJECT_V05 = {*_PROJECT, "provision_network"}
_IMAGE = {"id", "name", "is_public", "is_snapshot", "project_id", "parent_id"}
_TABLES = {"project", "image"}
_TIMEOUT = 5  # seconds to wait for the original BMI, if it is just writing


@dataclass(frozen=True)
class OldProject:
    """A row of table `project`."""

    id: int
    name: str
    network: str | None
    """HIL network that its nodes were provisioned on; v0.5 and v0.6 only."""


@dataclass(frozen=True)
class OldImage:
    """A row of table `image`: an image, a snapshot or a disk."""

    id: int
    name: str
    public: bool
    snapshot: bool
    project: int
    parent: int | None

    @property
    def disk(self) -> bool:
        """Whether it is a disk: a clone that is no snapshot."""
        return self.parent is not None and not self.snapshot


@dataclass(frozen=True)
class Old:
    """All that is in the file."""

    projects: tuple[OldProject, ...]
    images: tuple[OldImage, ...]


def read(file: Path) -> Old:
    """Read a database of the original BMI, and change nothing in it.

    Raises:
        ImportRefused: It is no such database, or a damaged one, or one of a version that is not known.
    """
    if not file.is_file():
        raise ImportRefused(f"{file} is no file", next_step="name the file of [db] path in bmiconfig.cfg")
    try:
        with contextlib.closing(
            sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=_TIMEOUT)
        ) as connection:
            # Text that is no UTF-8 is still a name.
            connection.text_factory = lambda raw: raw.decode(errors="replace")
            connection.execute("BEGIN")  # one moment for all that is read
            _refuse_damaged(connection, file)
            _refuse_unknown(connection, file)
            return _read(connection, file)
    except sqlite3.DatabaseError as error:
        raise ImportRefused(
            f"{file} cannot be read as an SQLite database: {error}",
            next_step="name the file of [db] path in bmiconfig.cfg; if the original BMI was killed while it wrote,"
            " open the file once with sqlite3 to complete that",
        ) from error


def _refuse_damaged(connection: sqlite3.Connection, file: Path) -> None:
    found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if found != "ok":
        raise ImportRefused(f"{file} is damaged: {found}", next_step="restore a backup of it")


def _refuse_unknown(connection: sqlite3.Connection, file: Path) -> None:
    names = {
        row[0]
        for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        if not row[0].startswith("sqlite_")
    }
    if "alembic_version" in names:
        raise ImportRefused(
            f"{file} is no database of the original BMI: it has migrations, as this BMI's have",
            next_step="name the file of [db] path in bmiconfig.cfg",
        )
    if missing := _TABLES - names:
        raise ImportRefused(
            f"{file} is no database of the original BMI: it has no table {' and no table '.join(sorted(missing))}",
            next_step="name the file of [db] path in bmiconfig.cfg",
        )
    project, image = _columns(connection, "project"), _columns(connection, "image")
    unknown = [*sorted(names - _TABLES), *_odd(project, _PROJECT_V05), *_odd(image, _IMAGE)]
    if unknown or project not in (_PROJECT, _PROJECT_V05) or image != _IMAGE:
        what = f"has {', '.join(unknown)}" if unknown else "lacks columns"
        raise ImportRefused(
            f"{file} was made by a version of the original BMI that is not known: it {what}",
            next_step="import the database of v0.5, v0.6 or the last master; something would be lost here",
        )


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {row[0] for row in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))}


def _odd(found: set[str], known: set[str]) -> list[str]:
    return [f"column {name}" for name in sorted(found - known)]


def _read(connection: sqlite3.Connection, file: Path) -> Old:
    network = "provision_network" if "provision_network" in _columns(connection, "project") else "NULL"
    # The name of the column is one of two words of ours.
    projects = connection.execute(f"SELECT id, name, {network} FROM project ORDER BY id")  # noqa: S608
    images = connection.execute(
        "SELECT id, name, is_public, is_snapshot, project_id, parent_id FROM image ORDER BY id"
    )
    try:
        return Old(
            projects=tuple(OldProject(id, str(name), net and str(net)) for id, name, net in projects),
            images=tuple(
                OldImage(id, str(name), bool(public), bool(snapshot), int(project), _id(parent))
                for id, name, public, snapshot, project, parent in images
            ),
        )
    except (TypeError, ValueError) as error:
        raise ImportRefused(
            f"{file} is damaged: an id in it is no number", next_step="correct that row with sqlite3"
        ) from error


def _id(value: object) -> int | None:
    return None if value is None else int(str(value))
