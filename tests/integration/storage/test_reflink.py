import os
from pathlib import Path

import pytest

from bmi.drivers.storage.reflink import reflink, supports_reflink, try_reflink


@pytest.fixture
def source(xfs: Path) -> Path:
    path = xfs / "source"
    path.write_bytes(os.urandom(1 << 20))
    return path


def test_the_copy_is_equal_and_shares_its_blocks(source: Path, xfs: Path) -> None:
    free = os.statvfs(xfs).f_bfree

    with source.open("rb") as original, (xfs / "copy").open("wb") as copy:
        reflink(original.fileno(), copy.fileno())

    assert (xfs / "copy").read_bytes() == source.read_bytes()
    assert (free - os.statvfs(xfs).f_bfree) * 4096 < 1 << 19


def test_file_systems_are_told_apart(xfs: Path, small: Path) -> None:
    assert supports_reflink(xfs)
    assert not supports_reflink(small)
    assert names(xfs) == []
    assert names(small) == []


def test_a_full_file_system_is_still_recognised(xfs: Path, small: Path) -> None:
    for folder in (xfs, small):
        with pytest.raises(OSError, match="No space"):
            fill(folder)

    assert supports_reflink(xfs)
    assert not supports_reflink(small)


def test_two_file_systems_share_nothing(source: Path, small: Path) -> None:
    with source.open("rb") as original, (small / "copy").open("wb") as copy:
        assert not try_reflink(original.fileno(), copy.fileno())


def test_other_failures_are_not_taken_for_a_no(source: Path) -> None:
    with source.open("rb") as original, pytest.raises(OSError, match="Bad file descriptor"):
        try_reflink(original.fileno(), original.fileno())  # not open for writing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as file:
        while file.write(bytes(1 << 20)):
            pass
