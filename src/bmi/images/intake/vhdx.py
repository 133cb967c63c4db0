"""Headers of VHDX images.

Source: [MS-VHDX] 2.2 and 2.3. All numbers are little-endian.
"""

import struct
from uuid import UUID

from bmi.images.intake.reader import SECTOR, Reader, refuse

MAGIC = b"vhdxfile"

_KIB, _MIB = 1 << 10, 1 << 20
_HEADERS = (64 * _KIB, 128 * _KIB)
_HEADER_SIZE = 4 * _KIB
# signature, checksum, sequence number, two UUIDs, log's UUID, log version, version, log length and place
_HEADER = struct.Struct("<4sIQ16s16s16sHHIQ")
_REGIONS = 192 * _KIB
_REGIONS_SIZE = 64 * _KIB
_TABLE = struct.Struct("<4sIII")  # signature, checksum, entries, reserved
_REGION = struct.Struct("<16sQII")  # UUID, place, length, required
_METADATA = struct.Struct("<8sHH20x")  # signature, reserved, entries
_ITEM = struct.Struct("<16sIIII")  # UUID, place, length, flags, reserved
_ITEMS_SIZE = 64 * _KIB
_MOST_ITEMS = 2047

_BAT = UUID("2dc27766-f623-4200-9d64-115e9bfd4a08")
_METADATA_REGION = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")
_PARAMETERS = UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
_DISK_SIZE = UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
_SECTOR_SIZE = UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f")
_PARENT = UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")
_HARMLESS = {UUID("beca12ab-b2e6-4523-93ef-c309e000c746"), UUID("cda348c7-445d-4471-9cc9-e9885251c556")}
_REQUIRED = 4  # flag of an item
_HAS_PARENT = 2  # flag of the file's parameters
_BLOCKS = {_MIB << bits for bits in range(9)}  # bytes, to 256 MiB

_CONVERT = "convert it to a plain one: Convert-VHD OLD NEW, or qemu-img convert -O vhdx OLD NEW"


def look(file: Reader) -> int:
    """Return the size of the disk in a VHDX image, in bytes.

    Raises:
        ImageInvalid: It is broken, or needs something else than itself.
    """
    _header(file)
    regions = _region_table(file)
    items = _metadata(file, *regions[_METADATA_REGION])
    block, flags = struct.unpack("<II", _item(file, items, _PARAMETERS, 8, "parameters"))
    if flags & _HAS_PARENT or _PARENT in items:
        refuse("is a VHDX image with a parent, so it is not whole", _CONVERT)
    if block not in _BLOCKS:
        refuse(f"has VHDX blocks of {block} bytes, which cannot be", _CONVERT)
    (sector,) = struct.unpack("<I", _item(file, items, _SECTOR_SIZE, 4, "sector size"))
    if sector != SECTOR:
        refuse(
            f"holds a disk with sectors of {sector} bytes; nodes address theirs in {SECTOR}",
            f"install it on a disk with sectors of {SECTOR} bytes",
        )
    size = file.disk_size(int.from_bytes(_item(file, items, _DISK_SIZE, 8, "disk size"), "little"))
    _, length = regions[_BAT]
    blocks = -(-size // block)
    entries = blocks + (blocks - 1) // ((1 << 23) * SECTOR // block)
    if length < entries * 8:
        refuse(f"has a VHDX block table of {length} bytes, and its disk needs {entries * 8}", _CONVERT)
    return size


def _header(file: Reader) -> None:
    """Check the header in force: of the two the valid one that was written last."""
    found = []
    for place in _HEADERS:
        raw = file.read(place, _HEADER_SIZE, "VHDX header")
        if raw.startswith(b"head") and _sound(raw):
            found.append(_HEADER.unpack_from(raw))
    if not found:
        refuse("has no valid VHDX header", "copy it again, whole, or convert it anew")
    _, _, _, _, _, log, log_version, version, length, place = max(found, key=lambda fields: fields[2])
    if version != 1 or log_version != 0:
        refuse(f"is a VHDX image of version {version}.{log_version}; 1.0 is known", _CONVERT)
    if log != bytes(16):
        refuse("is a VHDX image that was not closed", "attach it once where it was made, and detach it")
    if place % _MIB or length % _MIB:
        refuse("has a VHDX log that lies where it cannot", _CONVERT)
    file.require(place, length, "VHDX log")


def _region_table(file: Reader) -> dict[UUID, tuple[int, int]]:
    raw = file.read(_REGIONS, _REGIONS_SIZE, "VHDX region table")
    signature, _, count, _ = _TABLE.unpack_from(raw)
    if signature != b"regi" or not _sound(raw) or count > _MOST_ITEMS:
        refuse("has no valid VHDX region table", "copy it again, whole, or convert it anew")
    found: dict[UUID, tuple[int, int]] = {}
    for index in range(count):
        guid, place, length, required = _REGION.unpack_from(raw, _TABLE.size + index * _REGION.size)
        id = UUID(bytes_le=guid)
        if id not in (_BAT, _METADATA_REGION):
            if required & 1:
                refuse(f"is a VHDX image that needs a region nobody knows ({id})", _CONVERT)
            continue
        if place % _MIB or place < _MIB or length % _MIB or id in found:
            refuse("has a VHDX region that lies where it cannot", _CONVERT)
        file.require(place, length, "VHDX region")
        found[id] = place, length
    if found.keys() != {_BAT, _METADATA_REGION}:
        refuse("is a VHDX image without block table or metadata", "copy it again, whole")
    return found


def _metadata(file: Reader, place: int, length: int) -> dict[UUID, tuple[int, int]]:
    raw = file.read(place, min(length, _ITEMS_SIZE), "VHDX metadata")
    signature, _, count = _METADATA.unpack_from(raw)
    if signature != b"metadata" or count > _MOST_ITEMS:
        refuse("has no valid VHDX metadata", "copy it again, whole, or convert it anew")
    found: dict[UUID, tuple[int, int]] = {}
    for index in range(count):
        guid, offset, size, flags, _ = _ITEM.unpack_from(raw, _METADATA.size + index * _ITEM.size)
        id = UUID(bytes_le=guid)
        if id not in {_PARAMETERS, _DISK_SIZE, _SECTOR_SIZE, _PARENT, *_HARMLESS} and flags & _REQUIRED:
            refuse(f"is a VHDX image that needs metadata nobody knows ({id})", _CONVERT)
        if id in found or offset + size > length:
            refuse("has VHDX metadata that lie where they cannot", _CONVERT)
        found[id] = place + offset, size
    return found


def _item(file: Reader, items: dict[UUID, tuple[int, int]], id: UUID, size: int, what: str) -> bytes:
    if id not in items or items[id][1] != size:
        refuse(f"is a VHDX image that does not tell its {what}", _CONVERT)
    return file.read(items[id][0], size, f"VHDX {what}")


def _sound(raw: bytes) -> bool:
    """Say whether a structure's checksum, in its second four bytes, is right."""
    return int.from_bytes(raw[4:8], "little") == crc32c(raw[:4] + bytes(4) + raw[8:])


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC = _crc_table()


def crc32c(data: bytes) -> int:
    """Return the checksum that VHDX uses (Castagnoli's, RFC 3720 B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _CRC[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
