r"""Headers of VMDK images that are one file: monolithicSparse and streamOptimized.

Source: Virtual Disk Format 5.0, VMware. All numbers are little-endian, places are in sectors of 512 bytes.

QEMU opens whatever other file the descriptor inside names. So everything that it could take for one is refused.
"""

import re
import struct
from typing import NamedTuple

from bmi.images.intake.reader import SECTOR, Reader, refuse

MAGIC = b"KDMV"
DESCRIPTOR = b"# Disk DescriptorFile"

_HEADER = struct.Struct("<4sIIQQQQIQQQB4sH")
_MARKER = struct.Struct("<QII")  # sectors that follow, size, type; the footer's marker is one
_FOOTER = 3
_LINE_ENDS = b"\n \r\n"
_AT_END = (1 << 64) - 1
_COMPRESSED = 1 << 16
_DEFLATE = 1
_DESCRIPTOR_READ = 20 * SECTOR  # what QEMU searches, whatever the header says
_MAX_DESCRIPTOR = 1 << 20
_MAX_DIRECTORY = 64 << 20
_GRAINS = {1 << bits for bits in range(13)}  # sectors, to 2 MiB
_TYPES = ("monolithicsparse", "streamoptimized")

_WHOLE = "convert it to one file: qemu-img convert -O vmdk -o subformat=streamOptimized OLD NEW"
_EXTENT = re.compile(
    rb'^\s*(?:RW|RDONLY|NOACCESS)\s+(\d+)\s+(\w+)(?:\s+"?([^"\r\n]*)"?)?', re.MULTILINE | re.IGNORECASE
)


class _Header(NamedTuple):
    """The fields of a header, in their order."""

    magic: bytes
    version: int
    flags: int
    capacity: int
    grain: int
    descriptor: int
    descriptor_size: int
    entries: int
    """Of each grain table."""
    redundant: int
    directory: int
    overhead: int
    unclean: int
    ends: bytes
    compression: int


def look(file: Reader) -> int:
    """Return the size of the disk in a VMDK image, in bytes.

    Raises:
        ImageInvalid: It is broken, or needs something else than itself.
    """
    if not file.head(len(MAGIC)).startswith(MAGIC):
        _refuse_description(file)
    head = file.read(0, SECTOR, "VMDK header")
    header = _Header(*_HEADER.unpack_from(head))
    if header.capacity == 0:
        # QEMU then takes what lies at the descriptor's place for a list of files to open.
        refuse("is a VMDK image of no size, which would name other files", _WHOLE)
    size = file.disk_size(header.capacity * SECTOR)
    _check(header)
    if header.directory == _AT_END:
        footer = _footer(file)
        _check(footer)
        if footer[3:8] != header[3:8]:
            refuse("is a VMDK image whose footer contradicts its header", _WHOLE)
        header = footer
    _directory(file, header)
    _descriptor(file, header)
    return size


def _refuse_description(file: Reader) -> None:
    text = file.head(_DESCRIPTOR_READ)
    kind = re.search(rb'createType\s*=\s*"?(\w+)', text, re.IGNORECASE)
    named = kind[1].decode() if kind else "unknown type"
    refuse(f"is only the description of a VMDK image ({named}), which names other files", _WHOLE)


def _check(header: _Header) -> None:
    if header.version not in (1, 2, 3):
        refuse(f"is a VMDK image of version {header.version}; 1 to 3 are known", _WHOLE)
    if header.ends != _LINE_ENDS:
        refuse("is a VMDK image that was damaged by a transfer as text", "copy it again, as binary")
    if header.grain not in _GRAINS or header.entries != SECTOR:
        refuse(
            f"has VMDK grains of {header.grain} sectors, {header.entries} in a table, which cannot be", _WHOLE
        )
    compressed = bool(header.flags & _COMPRESSED)
    if header.compression not in (0, _DEFLATE) or compressed != bool(header.compression):
        refuse(f"is a VMDK image with the unknown compression {header.compression}", _WHOLE)


def _footer(file: Reader) -> _Header:
    """Return the header at the end, which one that was written as a stream has."""
    tail = file.tail(3 * SECTOR)
    if len(tail) == 3 * SECTOR:
        sectors, length, kind = _MARKER.unpack_from(tail)
        if (sectors, length, kind) == (1, 0, _FOOTER) and tail[SECTOR:].startswith(MAGIC):
            return _Header(*_HEADER.unpack_from(tail, SECTOR))
    return refuse("is a VMDK image without its footer: it is truncated", "copy it again, whole")


def _directory(file: Reader, header: _Header) -> None:
    length = -(-header.capacity // (header.grain * header.entries)) * 4
    if length > _MAX_DIRECTORY:
        refuse(f"has a VMDK grain directory of {length} bytes; {_MAX_DIRECTORY} are possible", _WHOLE)
    if header.directory == _AT_END:
        refuse("is a VMDK image without a grain directory", "copy it again, whole")
    directory = file.read(header.directory * SECTOR, length, "VMDK grain directory")
    for (table,) in struct.iter_unpack("<I", directory):
        if table > 1:  # 0 and 1: nothing there
            file.require(table * SECTOR, header.entries * 4, "VMDK grain table")


def _descriptor(file: Reader, header: _Header) -> None:
    offset, length = header.descriptor * SECTOR, header.descriptor_size * SECTOR
    if not offset or not length:
        refuse("is one part of a VMDK image that has several", _WHOLE)
    if length > _MAX_DESCRIPTOR:
        refuse(f"has a VMDK descriptor of {length} bytes; {_MAX_DESCRIPTOR} are possible", _WHOLE)
    file.require(offset, length, "VMDK descriptor")
    searched = min(max(length, _DESCRIPTOR_READ), file.size - offset)
    text = file.read(offset, searched, "VMDK descriptor")
    described = text[:length].split(b"\0", 1)[0]
    if b"parentfilenamehint" in text.lower():
        refuse("is a VMDK image with a parent, so it is not whole", _WHOLE)
    parent = re.search(rb"^\s*parentCID\s*=\s*(\w+)", described, re.MULTILINE | re.IGNORECASE)
    if parent and parent[1].lower() != b"ffffffff":
        refuse("is a VMDK image with a parent, so it is not whole", _WHOLE)
    kind = re.search(rb'^\s*createType\s*=\s*"?(\w+)', described, re.MULTILINE | re.IGNORECASE)
    if kind is None or kind[1].decode().lower() not in _TYPES:
        refuse(f"is a VMDK image of the type {kind[1].decode() if kind else 'unknown'}", _WHOLE)
    extents = _EXTENT.findall(described)
    if len(extents) != 1 or extents[0][1].upper() != b"SPARSE" or int(extents[0][0]) != header.capacity:
        refuse("is a VMDK image that names other files", _WHOLE)
    if re.search(rb"[/\\:]", extents[0][2]):
        refuse("is a VMDK image that names a file in a folder", _WHOLE)
