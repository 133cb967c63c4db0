import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, text

from bmi.access.models import Project
from bmi.api.audit import Outcome
from bmi.audit.models import Audit
from bmi.cli.main import run
from bmi.db import Db, now
from bmi.ids import new_id
from tests.unit.legacy.conftest import MakeOld, make_old

assert make_old  # a fixture

Bmi = Callable[..., tuple[int, str, str]]


@pytest.fixture
def config(database_url: str, tmp_path: Path) -> Path:
    file = tmp_path / "bmi.toml"
    file.write_text(f'state_dir = "{tmp_path}/state"\n[database]\nurl = "{database_url}"\n')
    return file


@pytest.fixture
def bmi(config: Path, capsys: pytest.CaptureFixture[str]) -> Bmi:
    def call(*arguments: str) -> tuple[int, str, str]:
        status = run(["db", *arguments, "--config", str(config)])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


def change(url: str, statement: str) -> None:
    db = Db(url)
    with db.write() as session:
        session.execute(text(statement))
    db.close()


def test_a_database_of_this_release_needs_nothing(bmi: Bmi) -> None:
    status, out, err = bmi("check")
    assert (status, err) == (0, "")
    assert "as this release needs" in out
    status, out, err = bmi("upgrade")
    assert (status, err) == (0, "")
    assert "nothing was done" in out


def test_current_tells_a_program_what_there_is(bmi: Bmi, database_url: str) -> None:
    status, out, _ = bmi("current", "--json")
    found = json.loads(out)
    assert (status, found["state"], found["schema"]) == (0, "current", found["needed"])
    change(database_url, "UPDATE alembic_version SET version_num = 'future'")
    status, out, _ = bmi("current")
    assert status == 0
    assert "schema    future (unknown)" in out


def test_check_and_upgrade_refuse_what_they_do_not_know(bmi: Bmi, database_url: str) -> None:
    change(database_url, "UPDATE alembic_version SET version_num = 'future'")
    for verb in ("check", "upgrade"):
        status, out, err = bmi(verb)
        assert (status, out) == (1, "")
        assert "has schema future (a newer release or another program made it), this release needs" in err
        assert err.count("\n") == 1


def test_an_import_shows_what_it_makes(bmi: Bmi, make_old: MakeOld, database_url: str) -> None:
    old = str(make_old())
    options = (old, "--uid", "7", "--snapshot-name", "snapshot")
    status, dry, err = bmi("import-legacy", *options, "--dry-run")
    assert (status, err) == (0, "")
    assert "would be made: 12, there already: 0, left out: 1" in dry
    status, out, err = bmi("import-legacy", *options)
    assert (status, err) == (0, "")
    assert out.splitlines()[:-1] == dry.splitlines()[:-1]
    assert "golden.img" in out
    db = Db(database_url)
    with db.read() as session:
        assert "red-team" in session.scalars(select(Project.name)).all()
    db.close()
    assert "made: 0, there already: 12, left out: 1" in bmi("import-legacy", *options)[1]


def test_a_conflict_is_shown_and_ends_with_an_error(bmi: Bmi, make_old: MakeOld) -> None:
    first = make_old(name="first.sqlite")
    other = make_old(((1, "blue"),), ((1, "theirs", 0, 0, 1, None),), name="other.sqlite")
    assert bmi("import-legacy", str(first), "--uid", "7", "--snapshot-name", "s")[0] == 0
    for dry_run in ([], ["--dry-run"]):
        status, out, err = bmi("import-legacy", str(other), "--uid", "7", "--snapshot-name", "s", *dry_run)
        assert status == 1
        assert "7img1 was taken over as image golden.img" in out
        assert "1 of 2 rows cannot be taken over, so nothing was made" in err


def test_a_file_that_is_refused_is_told_in_one_line(bmi: Bmi, tmp_path: Path) -> None:
    status, out, err = bmi("import-legacy", str(tmp_path / "no"), "--uid", "7", "--snapshot-name", "s")
    assert (status, out) == (1, "")
    assert "is no file; name the file" in err


def test_names_cannot_play_tricks_on_the_terminal(bmi: Bmi, make_old: MakeOld) -> None:
    old = make_old(images=((1, "a\x1b[2Jb\nc\rd", 0, 0, 1, None),))
    status, out, _ = bmi("import-legacy", str(old), "--uid", "7", "--snapshot-name", "s")
    assert status == 0
    assert "\x1b" not in out
    assert "\r" not in out
    assert len([line for line in out.splitlines() if "7img1" in line and "b c" in line]) == 1


def test_without_a_service_there_is_no_database_to_look_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bmi.toml"
    file.write_text(f'state_dir = "{tmp_path}/missing"\n')
    assert run(["db", "check", "--config", str(file)]) == 1
    assert "no service has run with these settings" in capsys.readouterr().err
    assert not (tmp_path / "missing").exists()


def test_old_lines_of_the_audit_trail_go_and_that_they_did_stays(bmi: Bmi, database_url: str) -> None:
    status, out, err = bmi("prune-audit", "29")
    assert (status, out) == (1, "")
    assert "30 days at least" in err
    db = Db(database_url)
    with db.write() as session:
        for days in (90, 10):
            at = now() - timedelta(days=days)
            session.add(
                Audit(
                    at=at,
                    action="project.write",
                    route="POST /v1/projects",
                    thing=str(days),
                    address="",
                    outcome=Outcome.DONE,
                    status=201,
                    request_id=new_id(),
                )
            )
    status, out, err = bmi("prune-audit", "30")
    assert (status, err) == (0, "")
    assert out.startswith("1 lines from before")
    with db.read() as session:
        left = list(session.scalars(select(Audit).order_by(Audit.at)))
        assert [row.thing for row in left if row.action == "project.write"] == ["10"]
        assert left[-1].action == "audit.prune"
    db.close()
