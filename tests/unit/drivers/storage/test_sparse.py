import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bmi.drivers.storage import sparse
from bmi.drivers.storage.sparse import copy_data, data_ranges

MIB = 1 << 20


@contextmanager
def opened(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def test_data_and_holes_are_told_apart(tmp_path: Path) -> None:
    with opened(tmp_path / "file") as file:
        os.ftruncate(file, 10 * MIB)
        os.pwrite(file, b"x" * MIB, MIB)
        os.pwrite(file, b"x" * MIB, 5 * MIB)

        assert list(data_ranges(file)) == [(MIB, 2 * MIB), (5 * MIB, 6 * MIB)]


def test_neither_an_empty_file_nor_a_hole_has_data(tmp_path: Path) -> None:
    with opened(tmp_path / "file") as file:
        assert list(data_ranges(file)) == []
        os.ftruncate(file, MIB)
        assert list(data_ranges(file)) == []


def test_a_copy_is_exact_where_data_ends_in_the_middle_of_a_block(tmp_path: Path) -> None:
    content = os.urandom(3 * MIB + 17)
    told: list[int] = []
    with opened(tmp_path / "from") as source, opened(tmp_path / "to") as copy:
        os.pwrite(source, content, 7 * MIB)

        copy_data(source, copy, told.append)

    assert (tmp_path / "to").read_bytes() == bytes(7 * MIB) + content
    assert told == [10 * MIB + 17]
    assert (tmp_path / "to").stat().st_blocks * 512 < 4 * MIB


def test_it_tells_after_each_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "CHUNK", MIB)
    told: list[int] = []
    with opened(tmp_path / "from") as source, opened(tmp_path / "to") as copy:
        os.pwrite(source, os.urandom(2 * MIB + 1), 0)

        copy_data(source, copy, told.append)

    assert told == [MIB, 2 * MIB, 2 * MIB + 1]


def test_a_source_that_becomes_shorter_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "CHUNK", MIB)
    with opened(tmp_path / "from") as source, opened(tmp_path / "to") as copy:
        os.pwrite(source, os.urandom(4 * MIB), 0)

        with pytest.raises(EOFError, match=str(MIB)):
            copy_data(source, copy, lambda offset: os.ftruncate(source, MIB))
