"""Headers that were written by hand, so that every field of them can be wrong."""

import os
import struct
from pathlib import Path

import pytest

from bmi.api.intake import Format
from bmi.errors import ImageInvalid
from bmi.images.intake.formats import look
from bmi.images.intake.reader import opened
from bmi.images.intake.vhdx import crc32c

LIMIT = 1 << 40
MIB = 1 << 20


def found(path: Path, declared: Format | None = None, limit: int = LIMIT) -> tuple[Format, int]:
    with opened(path, limit) as file:
        return look(file, declared)


def written(path: Path, data: bytes, size: int = 0) -> Path:
    path.write_bytes(data)
    if size:
        os.truncate(path, size)
    return path


def qcow2(
    *, version: int = 3, size: int = MIB, l1: int = 1, features: int = 0, extensions: bytes = b""
) -> bytes:
    head = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", version, 0, 0, 16, size, 0, l1, 0x30000, 0x10000, 1, 0, 0
    )
    if version == 3:
        head += struct.pack(">QQQII", features, 0, 0, 4, 104)
    return head + extensions


def vmdk(capacity: int, directory: int, *, version: int = 3, descriptor: bytes = b"") -> bytes:
    flags = 0x30001 if version == 3 else 3
    head = struct.pack(
        "<4sIIQQQQIQQQB4sH", b"KDMV", version, flags, capacity, 128, 1, 20, 512, 0, directory, 128, 0,
        b"\n \r\n", 1 if version == 3 else 0,
    )  # fmt: skip
    return head.ljust(512, b"\0") + descriptor


DESCRIPTOR = b'parentCID=ffffffff\ncreateType="streamOptimized"\nRW 2048 SPARSE "x.vmdk"\n'


def test_qcow2_of_both_versions(tmp_path: Path) -> None:
    for version in (2, 3):
        path = written(tmp_path / "x", qcow2(version=version), 0x40000)
        assert found(path) == (Format.QCOW2, MIB)
        assert found(path, Format.QCOW2) == (Format.QCOW2, MIB)


@pytest.mark.parametrize(
    ("extensions", "said"),
    [
        (struct.pack(">II", 0x44415441, 11) + b"/etc/shadow", "names another file for its data"),
        (struct.pack(">II", 0x0537BE77, 16) + bytes(16), "encrypted"),
        (struct.pack(">II", 0x12345678, 0xFFFFFFFF), "larger than its header"),
    ],
)
@pytest.mark.parametrize("version", [2, 3])
def test_qcow2_extensions(tmp_path: Path, version: int, extensions: bytes, said: str) -> None:
    path = written(tmp_path / "x", qcow2(version=version, extensions=extensions), 0x40000)
    with pytest.raises(ImageInvalid, match=said):
        found(path)


def test_qcow2_tells_of_every_unknown_feature(tmp_path: Path) -> None:
    for bit in range(5, 64):
        path = written(tmp_path / "x", qcow2(features=1 << bit), 0x40000)
        with pytest.raises(ImageInvalid, match=f"0x{1 << bit:x}"):
            found(path)


def test_vmdk_written_as_a_stream(tmp_path: Path) -> None:
    at_end = (1 << 64) - 1
    head = vmdk(2048, at_end, descriptor=DESCRIPTOR).ljust(64 * 512, b"\0")
    marker = struct.pack("<QII", 1, 0, 3).ljust(512, b"\0")
    whole = head + marker + vmdk(2048, 30) + bytes(512)
    assert found(written(tmp_path / "x", whole)) == (Format.VMDK, MIB)
    with pytest.raises(ImageInvalid, match="without its footer"):
        found(written(tmp_path / "x", whole[:-512]))
    with pytest.raises(ImageInvalid, match="contradicts its header"):
        found(written(tmp_path / "x", head + marker + vmdk(4096, 30) + bytes(512)))
    with pytest.raises(ImageInvalid, match="without a grain directory"):
        found(written(tmp_path / "x", head + marker + vmdk(2048, at_end) + bytes(512)))
    # The footer counts, so what it says is checked too.
    evil = bytearray(vmdk(2048, 30))
    evil[28:36] = struct.pack("<Q", 40)
    with pytest.raises(ImageInvalid, match="contradicts its header"):
        found(written(tmp_path / "x", head + marker + bytes(evil) + bytes(512)))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"ffffffff", b"00000001", "a parent"),
        (b"x.vmdk", b"/etc/p", "in a folder"),
        (b"SPARSE", b"FLAT", "names other files"),
        (b"RW 2048", b"RW 9999", "names other files"),
        (b'"x.vmdk"\n', b'"x.vmdk"\nRW 2048 SPARSE "y"\n', "names other files"),
        (b"streamOptimized", b"vmfsSparse", "of the type vmfsSparse"),
        (b"createType", b"madeType", "of the type unknown"),
        (b"RW 2048", b"parentFileNameHint=x\nRW 2048", "a parent"),
    ],
)
def test_vmdk_descriptors(tmp_path: Path, old: bytes, new: bytes, said: str) -> None:
    data = vmdk(2048, 30, descriptor=DESCRIPTOR.replace(old, new)).ljust(64 * 512, b"\0")
    with pytest.raises(ImageInvalid, match=said):
        found(written(tmp_path / "x", data))


def test_a_hint_behind_the_descriptor_counts_too(tmp_path: Path) -> None:
    """QEMU searches more than the header says, and further than the text's end."""
    data = bytearray(vmdk(2048, 30, descriptor=DESCRIPTOR).ljust(64 * 512, b"\0"))
    data[28 + 8 : 28 + 16] = struct.pack("<Q", 1)
    data[5000:5030] = b'parentFileNameHint="/etc/x"\n\0\0'
    with pytest.raises(ImageInvalid, match="a parent"):
        found(written(tmp_path / "x", bytes(data)))


def test_a_raw_disk_is_recognised_by_its_first_sectors(tmp_path: Path) -> None:
    mbr = bytes(510) + b"\x55\xaa" + bytes(512)
    assert found(written(tmp_path / "x", mbr)) == (Format.RAW, 1024)
    assert found(written(tmp_path / "x", bytes(512) + b"EFI PART" + bytes(504))) == (Format.RAW, 1024)
    blank = written(tmp_path / "x", bytes(1024))
    with pytest.raises(ImageInvalid, match="--format raw"):
        found(blank)
    assert found(blank, Format.RAW) == (Format.RAW, 1024)


def test_no_file_is_too_short_or_too_long(tmp_path: Path) -> None:
    for declared in (None, *Format):
        with pytest.raises(ImageInvalid, match="is empty"):
            found(written(tmp_path / "x", b""), declared)
    huge = written(tmp_path / "x", bytes(510) + b"\x55\xaa", 8 << 40)  # 100 TB would be more than ext4 takes
    with pytest.raises(ImageInvalid, match=f"holds a disk of {8 << 40} bytes, and {LIMIT} are allowed"):
        found(huge)
    with pytest.raises(ImageInvalid, match="and 1024 are allowed"):
        found(written(tmp_path / "x", qcow2(), 0x40000), limit=1024)


@pytest.mark.parametrize("format", [one for one in Format if one is not Format.RAW])
def test_every_beginning_of_a_header_is_refused(tmp_path: Path, format: Format) -> None:
    """Whatever follows the signature, and wherever the file ends: an answer, and never a crash."""
    magic = {
        Format.QCOW2: qcow2(),
        Format.VMDK: vmdk(2048, 30),
        Format.VHDX: b"vhdxfile".ljust(65536, b"\0") + b"head",
        Format.VDI: bytes(64) + struct.pack("<IIII", 0xBEDA107F, 0x10001, 400, 1),
    }[format]
    for size in (*range(1, len(magic), 37 if len(magic) < 2000 else 4099), len(magic)):
        for filling in (b"\0", b"\xff"):
            path = written(tmp_path / "x", magic[:size].ljust(size + 300, filling))
            with pytest.raises(ImageInvalid):
                found(path)


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic links"):
        found(tmp_path / "x")


def test_checksum_of_vhdx() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720 B.4's check value
