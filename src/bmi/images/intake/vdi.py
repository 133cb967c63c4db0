"""Headers of VDI images.

Source: Main/src-all/VD/VDICore.h of VirtualBox. All numbers are little-endian.
"""

import struct

from bmi.images.intake.reader import SECTOR, Reader, refuse

PLACE = 64
MAGIC = struct.pack("<I", 0xBEDA107F)

# signature, version, header size, type, flags, description, block map and data offsets, geometry and sector
# size, unused, disk size, block size, extra bytes of a block, blocks, blocks allocated, four UUIDs
_HEADER = struct.Struct("<4sIIII256sIIIIIIIQIIII16s16s16s16s")
_VERSION = 0x00010001
_DYNAMIC, _FIXED, _DIFFERENCING = 1, 2, 4
_BLOCK = 1 << 20  # bytes; no program makes others
_NOWHERE = 0xFFFFFFFE  # this and the one above: a block without data
_NONE = bytes(16)

_CONVERT = "convert it to a plain one: VBoxManage clonemedium OLD NEW --format VDI"


def look(file: Reader) -> int:
    """Return the size of the disk in a VDI image, in bytes.

    Raises:
        ImageInvalid: It is broken, or needs something else than itself.
    """
    fields = _HEADER.unpack(file.read(PLACE, _HEADER.size, "VDI header"))
    (_, version, _, kind, _, _, block_map, data, _, _, _, sector, _, size, block, extra, blocks, used) = (
        fields[:18]
    )
    if version != _VERSION:
        refuse(f"is a VDI image of version 0x{version:x}; 1.1 is known", _CONVERT)
    link, parent = fields[20], fields[21]
    if kind == _DIFFERENCING or (link, parent) != (_NONE, _NONE):
        refuse("is a differencing VDI image, so it is not whole", _CONVERT)
    if kind not in (_DYNAMIC, _FIXED):
        refuse(f"is a VDI image of the unknown type {kind}", _CONVERT)
    if sector != SECTOR or block != _BLOCK or extra:
        refuse(
            f"has VDI sectors of {sector} and blocks of {block} and {extra} bytes, which cannot be", _CONVERT
        )
    disk = file.disk_size(size)
    if blocks != -(-size // _BLOCK) or used > blocks:
        refuse(f"has {blocks} VDI blocks, {used} in use, and its disk has {size} bytes", _CONVERT)
    if block_map % SECTOR or data % SECTOR or data < block_map + blocks * 4:
        refuse("has a VDI block map that lies where it cannot", _CONVERT)
    _blocks(file, block_map, blocks, data)
    return disk


def _blocks(file: Reader, block_map: int, blocks: int, data: int) -> None:
    """Check that every block lies in the file, and no two at the same place."""
    entries = file.read(block_map, blocks * 4, "VDI block map")
    seen = [place for (place,) in struct.iter_unpack("<I", entries) if place < _NOWHERE]
    if not seen:
        return
    if len(set(seen)) != len(seen):
        refuse("has VDI blocks that lie at the same place", _CONVERT)
    file.require(data + max(seen) * _BLOCK, _BLOCK, "last VDI block")
