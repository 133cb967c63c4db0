import os
import signal
import stat
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest

from bmi.drivers import Outcome
from bmi.drivers.storage.draft import Draft, sweep


def test_it_appears_when_it_is_published(tmp_path: Path) -> None:
    with Draft(tmp_path) as draft:
        os.write(draft.fd, b"content")
        assert not (tmp_path / "name").exists()

        assert draft.publish("name", 0o400) is Outcome.DONE

    assert (tmp_path / "name").read_bytes() == b"content"
    status = (tmp_path / "name").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_nlink) == (0o400, 1)
    assert names(tmp_path) == ["name"]


def test_publishing_takes_nobodys_place(tmp_path: Path) -> None:
    (tmp_path / "name").write_text("first")
    with Draft(tmp_path) as draft:
        os.write(draft.fd, b"second")

        assert draft.publish("name", 0o600) is Outcome.ALREADY

    assert (tmp_path / "name").read_text() == "first"
    assert names(tmp_path) == ["name"]


def test_replacing_does(tmp_path: Path) -> None:
    (tmp_path / "name").write_text("first")
    with Draft(tmp_path) as draft:
        os.write(draft.fd, b"second")
        draft.replace("name", 0o400)

    assert (tmp_path / "name").read_text() == "second"
    assert names(tmp_path) == ["name"]


def test_nothing_stays_of_one_that_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Draft(tmp_path):
        raise ZeroDivisionError

    assert names(tmp_path) == []


def test_a_sweep_spares_those_that_are_being_written(tmp_path: Path) -> None:
    (tmp_path / "name").write_text("whole")
    with Draft(tmp_path) as draft:
        in_child(lambda: sweep(tmp_path))

        assert draft.publish("other", 0o600) is Outcome.DONE
    assert names(tmp_path) == ["name", "other"]


def test_a_sweep_takes_those_whose_maker_was_killed(tmp_path: Path) -> None:
    def die() -> None:
        with Draft(tmp_path):
            os.kill(os.getpid(), signal.SIGKILL)

    in_child(die)
    assert len(names(tmp_path)) == 1

    sweep(tmp_path)

    assert names(tmp_path) == []


def test_a_maker_that_was_killed_after_publishing_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die() -> None:
        monkeypatch.setattr(Path, "unlink", lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        with Draft(tmp_path) as draft:
            os.write(draft.fd, b"content")
            draft.publish("name", 0o600)

    in_child(die)
    assert len(names(tmp_path)) == 2

    sweep(tmp_path)

    assert names(tmp_path) == ["name"]
    assert (tmp_path / "name").read_bytes() == b"content"


def test_a_sweep_between_making_and_locking_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open
    swept: list[None] = []

    def open_and_sweep(path: str, flags: int, mode: int = 0o777) -> int:
        fd = opened(path, flags, mode)
        if not swept:
            swept.append(None)
            sweep(tmp_path)
        return fd

    monkeypatch.setattr(os, "open", open_and_sweep)
    with Draft(tmp_path) as draft:
        assert draft.publish("name", 0o600) is Outcome.DONE
    assert swept
    assert names(tmp_path) == ["name"]


def in_child(call: Callable[[], None]) -> None:
    process = get_context("fork").Process(target=call)
    process.start()
    process.join()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
