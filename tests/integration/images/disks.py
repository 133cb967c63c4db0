"""Disk images that the tests make: good ones with QEMU's tools, broken ones by hand."""

import gzip
import lzma
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

from backports import zstd

from bmi.images.intake.vhdx import crc32c
from bmi.run import run

MIB = 1 << 20
SIZE = 24 * MIB

FORMATS = ("raw", "qcow2", "vmdk", "vhdx", "vdi")
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    "gz": lambda data: gzip.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
    "zst": lambda data: zstd.compress(data),
}


def raw_disk(path: Path, size: int = SIZE, seed: int = 7) -> Path:
    """Make a raw disk with a boot signature, some data and many holes."""
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(510)
        file.write(b"\x55\xaa")
        for part in (1, 5, 17):
            place = part * size // 24 // 512 * 512
            file.seek(place + 512 * seed)
            file.write(bytes((n * seed + part) % 251 for n in range(3000)) * 40)
    return path


def converted(raw: Path, format: str, path: Path, *options: str) -> Path:
    """Make an image of a raw disk."""
    run(["qemu-img", "convert", "-f", "raw", "-O", format, *options, raw, path])
    return path


def packed(source: Path, how: str, path: Path) -> Path:
    """Compress a file."""
    path.write_bytes(COMPRESSIONS[how](source.read_bytes()))
    return path


def patched(source: Path, path: Path, *patches: tuple[int, bytes]) -> Path:
    """Copy an image, with some of its bytes replaced."""
    data = bytearray(source.read_bytes())
    for place, new in patches:
        data[place : place + len(new)] = new
    path.write_bytes(data)
    return path


def cut(source: Path, path: Path, size: int) -> Path:
    """Copy the beginning of an image."""
    path.write_bytes(source.read_bytes()[:size])
    return path


def zeros(path: Path, how: str, size: int) -> Path:
    """Compress very many zeros, without having them."""
    tool = {"gz": ["gzip", "-1"], "xz": ["xz", "-0"], "zst": ["zstd", "-q"]}[how]
    with (
        path.open("wb") as file,
        subprocess.Popen(["head", "-c", str(size), "/dev/zero"], stdout=subprocess.PIPE) as head,
    ):
        subprocess.run([*tool, "-c"], stdin=head.stdout, stdout=file, check=True)
    return path


def with_metadata(source: Path, path: Path, change: Callable[[bytearray], None]) -> Path:
    """Copy a VHDX image with its metadata table changed."""
    data = bytearray(source.read_bytes())
    place = data.index(b"metadata")
    table = data[place : place + 65536 * 2]
    change(table)
    data[place : place + len(table)] = table
    path.write_bytes(data)
    return path


def resealed(structure: bytes) -> bytes:
    """Return a VHDX structure with its checksum made right again."""
    return structure[:4] + struct.pack("<I", crc32c(structure[:4] + bytes(4) + structure[8:])) + structure[8:]


def sparse(path: Path, size: int) -> Path:
    """Make a file of holes."""
    with path.open("wb") as file:
        os.truncate(file.fileno(), size)
        file.seek(510)
        file.write(b"\x55\xaa")
    return path
