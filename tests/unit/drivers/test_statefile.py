import threading
from pathlib import Path

import pytest
from pydantic import BaseModel

from bmi.drivers import statefile
from bmi.drivers.statefile import StateFile, locked
from bmi.errors import LegError


class Counter(BaseModel):
    count: int = 0


def file(tmp_path: Path) -> StateFile[Counter]:
    return StateFile(tmp_path / "folder" / "counter.json", Counter, LegError)


def test_without_a_file_the_model_is_as_new(tmp_path: Path) -> None:
    assert file(tmp_path).read() == Counter()
    assert list(tmp_path.iterdir()) == []


def test_no_change_is_lost_among_many_threads(tmp_path: Path) -> None:
    def work() -> None:
        for _ in range(20):
            with file(tmp_path).edit() as counter:
                counter.count += 1

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file(tmp_path).read() == Counter(count=100)


def test_a_change_that_fails_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), file(tmp_path).edit() as counter:
        counter.count = 7
        raise RuntimeError
    assert file(tmp_path).read() == Counter()
    with file(tmp_path).edit() as counter:  # and the lock is free
        counter.count = 8


def test_a_lock_that_another_holds_for_too_long_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statefile, "_DEADLINE", 0.1)
    path = tmp_path / "some.lock"
    with locked(path, LegError), pytest.raises(LegError, match=r"some\.lock"), locked(path, LegError):
        pass
