"""Streams that end too early, go on too long, or lie."""

import gzip
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd

from bmi.errors import ImageInvalid, StorageFull
from bmi.images.intake import compression
from bmi.images.intake.compression import Compression, recognised, unpack
from bmi.images.intake.space import Room

PACK: dict[Compression, Callable[[bytes], bytes]] = {
    Compression.GZ: gzip.compress,
    Compression.XZ: lzma.compress,
    Compression.ZST: zstd.compress,
}
DATA = b"begin" + os.urandom(3000) + bytes(300_000) + b"middle" + bytes(200_000) + b"end"


def unpacked(folder: Path, packed: bytes, *, limit: int = 1 << 30, reserve: int = 0) -> bytes:
    source, destination = folder / "packed", folder / "unpacked"
    source.write_bytes(packed)
    how = recognised(packed)
    assert how is not None
    with destination.open("wb") as file:
        size = unpack(
            source,
            file.fileno(),
            how,
            limit=limit,
            room=Room(folder, reserve),
            progress=lambda done, total: None,
        )
    assert destination.stat().st_size == size
    return destination.read_bytes()


@pytest.mark.parametrize("how", Compression)
def test_what_was_packed_comes_out_with_holes(tmp_path: Path, how: Compression) -> None:
    assert unpacked(tmp_path, PACK[how](DATA)) == DATA
    assert (tmp_path / "unpacked").stat().st_blocks * 512 < 300_000


@pytest.mark.parametrize("how", Compression)
def test_several_streams_are_one_file(tmp_path: Path, how: Compression) -> None:
    assert unpacked(tmp_path, PACK[how](DATA) + PACK[how](b"") + PACK[how](DATA)) == DATA + DATA


def test_xz_may_be_padded_in_fours(tmp_path: Path) -> None:
    packed = lzma.compress(DATA)
    assert unpacked(tmp_path, packed + bytes(8) + packed + bytes(4)) == DATA + DATA
    with pytest.raises(ImageInvalid, match="no multiple of 4"):
        unpacked(tmp_path, packed + bytes(3))


@pytest.mark.parametrize("how", Compression)
def test_every_cut_is_noticed(tmp_path: Path, how: Compression) -> None:
    packed = PACK[how](DATA)
    for size in range(8, len(packed), 211):
        with pytest.raises(ImageInvalid, match=f"in the middle of its {how} stream"):
            unpacked(tmp_path, packed[:size])
    with pytest.raises(ImageInvalid, match=f"in the middle of its {how} stream"):
        unpacked(tmp_path, packed + packed[:-1])


@pytest.mark.parametrize("how", Compression)
def test_what_follows_is_refused(tmp_path: Path, how: Compression) -> None:
    other = next(one for one in Compression if one is not how)
    for rest in (b"x", b"garbage" * 100, PACK[other](b"x")):
        with pytest.raises(ImageInvalid, match=f"something else behind its {how} stream"):
            unpacked(tmp_path, PACK[how](DATA) + rest)


@pytest.mark.parametrize("how", Compression)
def test_bombs_go_off_outside(tmp_path: Path, how: Compression, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageInvalid, match="unpacks to more than 500000 bytes"):
        unpacked(tmp_path, PACK[how](bytes(1 << 24)), limit=500_000)
    monkeypatch.setattr(compression, "_ALWAYS", 1 << 20)
    monkeypatch.setattr(compression, "_RATIO", 50)
    with pytest.raises(ImageInvalid, match="more than 50 for each"):
        unpacked(tmp_path, PACK[how](bytes(1 << 24)))
    assert (tmp_path / "unpacked").stat().st_blocks == 0


def test_a_full_disk_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bmi.images.intake.space._LOOK", 1 << 20)
    with pytest.raises(StorageFull):
        unpacked(tmp_path, gzip.compress(os.urandom(2 << 20)), reserve=1 << 60)


def test_other_files_are_not_compressed() -> None:
    for head in (b"", b"\x1f\x8b", b"QFI\xfb", bytes(16)):
        assert recognised(head) is None
