"""A file on its way, whoever is interrupted where."""

import gzip
from pathlib import Path

import pytest

from bmi.api.intake import Format
from bmi.images.intake import compression
from bmi.images.intake.convert import Bounds
from bmi.images.intake.space import Room, SparseWriter, part_of
from bmi.images.intake.work import Work

DISK = (bytes(510) + b"\x55\xaa").ljust(1 << 20, b"\0")


class Killed(BaseException):
    """The process is gone."""


def nothing(done: int, total: int) -> None:
    pass


def work(folder: Path, declared: Format | None = None) -> Work:
    bounds = Bounds(Room(folder.parent, 0), 10, lambda: None)
    return Work(folder, declared=declared, limit=1 << 30, bounds=bounds)


def test_each_product_is_made_once_and_only_the_last_is_kept(tmp_path: Path) -> None:
    folder, given = tmp_path / "work", gzip.compress(DISK)
    one = work(folder)
    source = one.source(lambda path: path.write_bytes(given))
    assert one.source(lambda path: pytest.fail("it is there")) == source
    assert str(one.look()) == "compressed with gz"
    disk, found = one.disk(nothing)
    assert (disk.name, str(found)) == ("unpacked", "raw in gz, 1 MiB")
    assert one.raw(nothing).read_bytes() == DISK
    assert [path.name for path in folder.iterdir()] == ["raw"]
    # Whoever takes it up needs nothing of what came before.
    another = work(folder)
    another.source(lambda path: pytest.fail("it is not needed"))
    assert another.raw(nothing).read_bytes() == DISK
    another.clear()
    another.clear()
    assert not folder.exists()


def test_a_raw_disk_is_not_copied(tmp_path: Path) -> None:
    one = work(tmp_path / "work")
    source = one.source(lambda path: path.write_bytes(DISK))
    inode = source.stat().st_ino
    assert one.raw(nothing).stat().st_ino == inode


def test_who_is_killed_while_unpacking_leaves_nothing_half_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = work(tmp_path / "work")
    one.source(lambda path: path.write_bytes(gzip.compress(DISK)))

    def dies(self: SparseWriter) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(SparseWriter, "finish", dies)
        with pytest.raises(Killed):
            one.raw(nothing)
    names = sorted(path.name.partition(".")[0] for path in one.folder.iterdir())
    assert names == ["source", "unpacked"]
    assert not (one.folder / "unpacked").exists()
    assert work(tmp_path / "work").raw(nothing).read_bytes() == DISK
    assert [path.name for path in one.folder.iterdir()] == ["raw"]


def test_who_was_taken_for_dead_cannot_let_anothers_half_appear(tmp_path: Path) -> None:
    final = tmp_path / "raw"
    slow = part_of(final)
    slow.write_bytes(b"the slow one's")
    quick = part_of(final)
    quick.write_bytes(b"half of")
    with pytest.raises(FileNotFoundError):
        slow.replace(final)
    assert not final.exists()
    assert quick.exists()


def test_all_compressions_are_known() -> None:
    assert {*compression._MAGIC} == {*compression._DECODER} == {*compression.Compression}
