"""Headers of qcow2 images.

Source: docs/interop/qcow2.txt of QEMU. All numbers are big-endian.
"""

import struct

from bmi.images.intake.reader import SECTOR, Reader, refuse

MAGIC = b"QFI\xfb"

# magic, version, backing offset and size, cluster bits, size, crypt method, L1 size and offset,
# refcount table offset and clusters, snapshots and their offset
_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
# incompatible, compatible and autoclear features, refcount order, header length
_MORE = struct.Struct(">QQQII")
_EXTENSION = struct.Struct(">II")
_ENTRY = struct.Struct(">Q")

_CLUSTER_BITS = range(9, 22)
_MAX_L1 = 32 << 20  # bytes; QEMU's own limit
_MAX_REFCOUNT_TABLE = 8 << 20  # the same
_MAX_REFCOUNT_ORDER = 6

_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_ZSTD = 1

_END = 0
_DATA_FILE_NAME = 0x44415441
_ENCRYPTION = 0x0537BE77

_CONVERT = "convert it to a plain qcow2 first: qemu-img convert -O qcow2 OLD NEW"


def look(file: Reader) -> int:
    """Return the size of the disk in a qcow2 image, in bytes.

    Raises:
        ImageInvalid: It is broken, or needs something else than itself.
    """
    fields = _HEADER.unpack(file.read(0, _HEADER.size, "qcow2 header"))
    (_, version, backing, _, bits, size, crypt, l1_size, l1, table, table_clusters, snapshots, _) = fields
    if version not in (2, 3):
        refuse(f"is a qcow2 image of version {version}; 2 and 3 are known", _CONVERT)
    if bits not in _CLUSTER_BITS:
        refuse(f"has qcow2 clusters of 2^{bits} bytes; 2^9 to 2^21 are possible", "convert it anew")
    if backing:
        refuse("is a qcow2 image with a backing file, so it is not whole", _CONVERT)
    if crypt:
        refuse("is an encrypted qcow2 image", "convert it to one that is not encrypted")
    if snapshots:
        refuse(f"has {snapshots} internal snapshots, which an image cannot keep", _CONVERT)
    cluster = 1 << bits
    extended = version == 3 and _features(file, cluster)
    if version == 2:
        _extensions(file, 72, cluster)
    disk = file.disk_size(size)
    covered = cluster * (cluster // (16 if extended else 8))  # bytes that one L2 table tells of
    _tables(file, cluster, l1, l1_size, -(-size // covered))
    _aligned(file, table, table_clusters * cluster, cluster, _MAX_REFCOUNT_TABLE, "refcount table")
    return disk


def _features(file: Reader, cluster: int) -> bool:
    """Check what version 3 adds, and say whether its L2 entries have 16 bytes."""
    more = file.read(_HEADER.size, _MORE.size, "qcow2 header")
    incompatible, _, _, order, length = _MORE.unpack(more)
    if incompatible & _DATA_FILE:
        refuse("is a qcow2 image whose data lies in another file", _CONVERT)
    if incompatible & _CORRUPT:
        refuse("is a qcow2 image that is marked corrupt", "mend it: qemu-img check -r all FILE")
    if incompatible & _DIRTY:
        refuse("is a qcow2 image that was not closed", "mend it: qemu-img check -r all FILE")
    if unknown := incompatible & ~(_COMPRESSION | _EXTENDED_L2):
        refuse(f"is a qcow2 image with features that nobody knows (0x{unknown:x})", _CONVERT)
    if order > _MAX_REFCOUNT_ORDER:
        refuse(f"has qcow2 reference counts of 2^{order} bits; 2^6 is the most", "convert it anew")
    if length < _HEADER.size + _MORE.size or length % 8 or length > cluster:
        refuse(f"has a qcow2 header of {length} bytes, which none has", "convert it anew")
    compression = file.read(104, 1, "qcow2 header")[0] if length > 104 else 0
    if compression > _ZSTD or bool(compression) != bool(incompatible & _COMPRESSION):
        refuse(f"is a qcow2 image with the unknown compression {compression}", _CONVERT)
    _extensions(file, length, cluster)
    return bool(incompatible & _EXTENDED_L2)


def _extensions(file: Reader, offset: int, cluster: int) -> None:
    end = min(cluster, file.size)
    while offset + _EXTENSION.size <= end:
        kind, length = _EXTENSION.unpack(file.read(offset, _EXTENSION.size, "qcow2 header extension"))
        if kind == _END:
            return
        offset += _EXTENSION.size
        if length > cluster - offset:
            refuse("has a qcow2 header extension that is larger than its header", "convert it anew")
        if kind == _DATA_FILE_NAME:
            refuse("is a qcow2 image that names another file for its data", _CONVERT)
        if kind == _ENCRYPTION:
            refuse("is an encrypted qcow2 image", "convert it to one that is not encrypted")
        offset += -(-length // 8) * 8


def _tables(file: Reader, cluster: int, offset: int, entries: int, needed: int) -> None:
    """Check the L1 table: where it lies, and where what it points to lies."""
    if entries < needed:
        refuse(
            f"has a qcow2 L1 table of {entries} entries, and its disk needs {needed}",
            "copy it again, whole, or convert it anew",
        )
    _aligned(file, offset, entries * 8, cluster, _MAX_L1, "L1 table")
    for (entry,) in _ENTRY.iter_unpack(file.read(offset, entries * 8, "qcow2 L1 table")):
        place = entry & 0x00FF_FFFF_FFFF_FE00
        if place % SECTOR or place % cluster:
            refuse("has a qcow2 L2 table that does not begin at a cluster", "convert it anew")
        if place:
            file.require(place, cluster, "qcow2 L2 table")


def _aligned(file: Reader, offset: int, length: int, cluster: int, most: int, what: str) -> None:
    if length > most:
        refuse(f"has a qcow2 {what} of {length} bytes; {most} are possible", "convert it anew")
    if offset % cluster:
        refuse(f"has a qcow2 {what} that does not begin at a cluster", "convert it anew")
    file.require(offset, length, f"qcow2 {what}")
