"""Changing keys: killed at every line of what has an effect, and beside processes that seal all the time."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
from sqlalchemy import select

from bmi import sealed, tables, vault
from bmi.db import Db
from bmi.provisioning.models import Operation
from bmi.vault import Vault, added, changing, key_name, used, write_keys

assert tables

WITH_EFFECTS = {"changing", "write_keys", "rotate", "drop_keys", "_in_batches", "change_keys"}
DIED = -signal.SIGKILL


def change_keys(url: str, file: Path) -> None:
    """Do what `bmi secrets` does, from the first command to the last."""
    with closing(Db(url)) as db:
        found = Vault(file)
        with changing(file):
            write_keys(file, added(found.keys()))
        with changing(file):
            write_keys(file, used(found.keys(), key_name(found.keys().sealing[-1])))
        sealed.rotate(db, found)
        with changing(file):
            sealed.drop_keys(db, found)


def store(db: Db, found: Vault, secret: str) -> None:
    with db.write() as session:
        request = {"url": found.seal(secret)}
        session.add(
            Operation(
                verb="image.import", subject="x", asked_by="a", state="failed", request=request, asked=None
            )
        )


def secrets(db: Db, file: Path) -> set[str]:
    """Open all secrets with the file as a process sees it that just starts."""
    with db.read() as session:
        return {Vault(file).open(row.request["url"]) for row in session.scalars(select(Operation))}


@contextmanager
def forked(work: Callable[[], object]) -> Iterator[Callable[[], int]]:
    """Run something in a process of its own; give a function that waits, and returns how it ended."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # what is not caught would go on as a second pytest
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    ended: list[int] = []

    def wait() -> int:
        if not ended:
            ended.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        return ended[0]

    try:
        yield wait
    finally:
        wait()


def killed_at(line: int, work: Callable[[], object]) -> None:
    """Do something until the line of that number among those with effects, then die of SIGKILL."""
    passed = 0
    files = {vault.__file__, sealed.__file__, __file__}

    def matters(code: CodeType) -> bool:
        return code.co_filename in files and code.co_name in WITH_EFFECTS

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal passed
        if not matters(frame.f_code):
            return None
        if event == "line":
            passed += 1
            if passed == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    work()


def test_killed_at_any_line_every_secret_can_be_read_and_the_next_try_gets_further(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealed, "BATCH", 2)
    monkeypatch.setattr(sealed, "PLACES", [place for place in sealed.PLACES if place[1] is Operation.request])
    file = tmp_path / "secret.key"
    wanted = {f"secret {number}" for number in range(3)}
    with closing(Db(database_url)) as db:
        for secret in sorted(wanted):
            store(db, Vault(file), secret)
    token = Vault(file).derive("boot", "1")
    line, ended = 0, DIED
    while ended == DIED:
        line += 1
        with forked(lambda line=line: killed_at(line, lambda: change_keys(database_url, file))) as wait:  # type: ignore[misc]
            ended = wait()
        with closing(Db(database_url)) as db:
            assert secrets(db, file) == wanted, f"killed at line {line}"
        assert Vault(file).derive("boot", "1") == token
        assert file.stat().st_mode & 0o777 == 0o600
    assert ended == 0
    assert line > 60, "not even the lines of write_keys were reached"
    assert len(Vault(file).keys().sealing) == 1


def test_processes_that_seal_meanwhile_lose_nothing(database_url: str, tmp_path: Path) -> None:
    file, each = tmp_path / "secret.key", 25
    first = Vault(file).keys().sealing[0]

    def service(name: str) -> None:
        own = Vault(file)
        with closing(Db(database_url)) as db:
            for number in range(each):
                store(db, own, f"{name} {number}")

    def operator() -> None:
        for _ in range(3):
            change_keys(database_url, file)

    with (
        forked(lambda: service("a")) as a,
        forked(lambda: service("b")) as b,
        forked(lambda: service("c")) as c,
        forked(operator) as keys,
    ):
        assert [wait() for wait in (a, b, c, keys)] == [0, 0, 0, 0]
    with closing(Db(database_url)) as db:
        assert secrets(db, file) == {f"{name} {number}" for name in "abc" for number in range(each)}
    assert first not in Vault(file).keys().sealing


def test_processes_that_start_at_once_agree_on_the_first_key(tmp_path: Path) -> None:
    for turn in range(5):
        file = tmp_path / str(turn) / "secret.key"

        def start(number: int, file: Path = file) -> None:
            (tmp_path / f"{file.parent.name}-{number}").write_text(Vault(file).seal("x"))

        with (
            forked(lambda: start(1)) as one,
            forked(lambda: start(2)) as two,
            forked(lambda: start(3)) as three,
        ):
            assert [one(), two(), three()] == [0, 0, 0]
        for number in (1, 2, 3):
            assert Vault(file).open((tmp_path / f"{turn}-{number}").read_text()) == "x"


def test_keys_that_several_add_at_once_are_all_there(tmp_path: Path) -> None:
    file = tmp_path / "secret.key"
    Vault(file)

    def add() -> None:
        for _ in range(20):
            with changing(file):
                write_keys(file, added(Vault(file).keys()))

    with forked(add) as one, forked(add) as two, forked(add) as three:
        assert [one(), two(), three()] == [0, 0, 0]
    assert len(set(Vault(file).keys().sealing)) == 61
