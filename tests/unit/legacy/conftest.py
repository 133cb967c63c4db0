"""Databases as the original BMI made them."""

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

# As SQLite keeps what the original's table definitions became; facts only its own files can show.
PROJECT = "CREATE TABLE project (id INTEGER NOT NULL, name VARCHAR NOT NULL, PRIMARY KEY (id), UNIQUE (name))"
PROJECT_V05 = (
    "CREATE TABLE project (id INTEGER NOT NULL, name VARCHAR NOT NULL, provision_network VARCHAR NOT NULL,"
    " PRIMARY KEY (id), UNIQUE (name))"
)
IMAGE = (
    "CREATE TABLE image (id INTEGER NOT NULL, name VARCHAR NOT NULL, is_public BOOLEAN NOT NULL,"
    " is_snapshot BOOLEAN NOT NULL, project_id INTEGER NOT NULL, parent_id INTEGER, PRIMARY KEY (id),"
    " CONSTRAINT _project_id_image_name_unique_constraint UNIQUE (project_id, name),"
    " FOREIGN KEY(project_id) REFERENCES project (id), FOREIGN KEY(parent_id) REFERENCES image (id))"
)

Images = Sequence[tuple[int, str, int, int, int, int | None]]
"""Id, name, public, snapshot, project, parent."""
MakeOld = Callable[..., Path]

PROJECTS = ((1, "bmi_infra"), (2, "Red Team"), (3, "empty"))
IMAGES: Images = (
    (1, "golden.img", 1, 0, 1, None),
    (2, "web", 0, 0, 1, 1),  # a disk
    (3, "web with nginx", 0, 1, 1, 1),  # a snapshot
    (4, "from-snapshot", 0, 0, 1, 3),
    (5, "Größe/..;rm -rf", 0, 0, 2, None),
    (6, "lost clone", 0, 0, 2, 99),  # what it was cloned from is gone
    (7, "lost snapshot", 0, 1, 2, 98),
    (8, "GOLDEN.IMG", 0, 0, 1, None),
    (9, "///", 0, 0, 2, None),
    (10, "of-nobody", 0, 0, 77, None),
)


@pytest.fixture
def make_old(tmp_path: Path) -> MakeOld:
    def make(
        projects: Sequence[tuple[int, str]] = PROJECTS,
        images: Images = IMAGES,
        *,
        networks: bool = False,
        name: str = "old.sqlite",
        extra: Sequence[str] = (),
    ) -> Path:
        file = tmp_path / name
        file.unlink(missing_ok=True)
        connection = sqlite3.connect(file)
        for statement in (PROJECT_V05 if networks else PROJECT, IMAGE, *extra):
            connection.execute(statement)
        if networks:
            rows = [(id, project, f"net-{id}") for id, project in projects]
            connection.executemany("INSERT INTO project VALUES (?, ?, ?)", rows)
        else:
            connection.executemany("INSERT INTO project VALUES (?, ?)", projects)
        connection.executemany("INSERT INTO image VALUES (?, ?, ?, ?, ?, ?)", images)
        connection.commit()
        connection.close()
        return file

    return make
