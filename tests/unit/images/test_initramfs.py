"""Initramfs files of all packings are read; broken and hostile ones end in an error, and soon."""

import bz2
import gzip
import lzma
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bmi.images.appliance.child import initramfs
from bmi.images.appliance.child.initramfs import Unreadable, read


def newc(files: dict[str, bytes]) -> bytes:
    """An archive as `cpio -H newc` writes it."""
    out = b""
    for name, data in {**files, "TRAILER!!!": b""}.items():
        fields = [0] * 13
        fields[6], fields[11] = len(data), len(name) + 1
        out += b"070701" + b"".join(f"{field:08x}".encode() for field in fields) + name.encode() + b"\0"
        out += b"\0" * (-len(out) % 4)
        out += data
        out += b"\0" * (-len(out) % 4)
    return out


EARLY = newc({"kernel/x86/microcode/GenuineIntel.bin": b"x" * 1000})
MAIN = newc({"./etc/iscsi.initramfs": b"ISCSI_AUTO=true\n", "usr/sbin/iscsistart": b"y" * 5001})


def _zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True).stdout


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress, _zstd, bytes])
@pytest.mark.parametrize("before", [b"", EARLY, EARLY + b"\0" * 512])
def test_what_it_holds_is_read(tmp_path: Path, pack: Callable[[bytes], bytes], before: bytes) -> None:
    file = tmp_path / "initrd"
    file.write_bytes(before + pack(MAIN))
    content = read(file)
    assert {"etc/iscsi.initramfs", "usr/sbin/iscsistart"} <= set(content.names)
    assert content.texts == {"etc/iscsi.initramfs": "ISCSI_AUTO=true\n"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 4096,
        b"no archive at all",
        MAIN[:200],
        gzip.compress(MAIN)[:-30],
        b"070701" + b"zzzzzzzz" * 13,
        b"\x28\xb5\x2f\xfd" + b"broken",
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "initrd"
    file.write_bytes(data)
    with pytest.raises(Unreadable):
        read(file)


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initramfs, "_MOST_BYTES", 1 << 20)
    file = tmp_path / "initrd"
    file.write_bytes(gzip.compress(newc({"large": bytes(8 << 20)})))
    with pytest.raises(Unreadable, match="more than 1 MiB"):
        read(file)
