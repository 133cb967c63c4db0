"""Makes an ISO 9660 file system the same at every building: pycdlib puts the time of building in.

Sources: ECMA-119 (fields are named as there), and Rock Ridge: IEEE P1281 (SUSP) and P1282 (RRIP).
"""

from collections.abc import Iterator

_SECTOR = 2048
_FIRST_DESCRIPTOR = 16  # sector; ECMA-119, 6.2.1
_PRIMARY, _SUPPLEMENTARY, _TERMINATOR = 1, 2, 255
_VOLUME_DATES = range(813, 813 + 4 * 17, 17)  # creation, modification, expiration, effective; 8.4.26
_ROOT = 156  # offset of the root directory's record in a descriptor; 8.4.18
_FIXED_PART = 33  # bytes of a directory record before the name; 9.1
_RECORD_DATE = 18
_DIRECTORY = 0x02  # flag; 9.1.6
_SELF_OR_PARENT = (b"\x00", b"\x01")
_LONG_FORM = 0x80  # flag of Rock Ridge's TF; P1282, 4.1.6

_DATE = b"2026010100000000\x00"
_SHORT_DATE = bytes([126, 1, 1, 0, 0, 0, 0])


def fix_dates(iso: bytes) -> bytes:
    """Return a file system with all its dates set to the first day of 2026, UTC."""
    data = bytearray(iso)
    for start in range(_FIRST_DESCRIPTOR * _SECTOR, len(data), _SECTOR):
        if data[start] == _TERMINATOR:
            break
        if data[start] in (_PRIMARY, _SUPPLEMENTARY):
            for offset in _VOLUME_DATES:
                data[start + offset : start + offset + len(_DATE)] = _DATE
            _fix_record(data, start + _ROOT)
            _fix_directory(data, start + _ROOT)
    return bytes(data)


def _fix_directory(data: bytearray, record: int) -> None:
    for child in _records(data, record):
        _fix_record(data, child)
        name = data[child + _FIXED_PART : child + _FIXED_PART + data[child + 32]]
        if data[child + 25] & _DIRECTORY and bytes(name) not in _SELF_OR_PARENT:
            _fix_directory(data, child)


def _records(data: bytearray, directory: int) -> Iterator[int]:
    """Yield where the records of a directory begin."""
    position = _number(data, directory + 2) * _SECTOR
    end = position + _number(data, directory + 10)
    while position < end:
        if data[position] == 0:  # no record crosses the end of a sector
            position += _SECTOR - position % _SECTOR
            continue
        yield position
        position += data[position]


def _fix_record(data: bytearray, record: int) -> None:
    data[record + _RECORD_DATE : record + _RECORD_DATE + len(_SHORT_DATE)] = _SHORT_DATE
    name = data[record + 32]
    _fix_system_use(data, record + _FIXED_PART + name + (name + 1) % 2, record + data[record])


def _fix_system_use(data: bytearray, position: int, end: int) -> None:
    """Set the dates in Rock Ridge's fields; each begins with two letters and its length."""
    while position + 4 <= end and (length := data[position + 2]) >= 4:
        kind = bytes(data[position : position + 2])
        if kind == b"TF" and not data[position + 4] & _LONG_FORM:
            stamps = (length - 5) // len(_SHORT_DATE)
            data[position + 5 : position + length] = _SHORT_DATE * stamps
        elif kind == b"CE":
            start = _number(data, position + 4) * _SECTOR + _number(data, position + 12)
            _fix_system_use(data, start, start + _number(data, position + 20))
        position += length


def _number(data: bytearray, offset: int) -> int:
    """Return a number that is recorded in both byte orders (7.3.3)."""
    return int.from_bytes(data[offset : offset + 4], "little")
