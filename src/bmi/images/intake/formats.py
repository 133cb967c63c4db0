"""Which format a file has: declared or recognised by its header, and what its header says."""

from typing import NoReturn

from bmi.api.intake import Format
from bmi.images.intake import qcow2, raw, vdi, vhdx, vmdk
from bmi.images.intake.reader import Reader, refuse

_HEAD = 8192  # bytes; every signature lies in them

_KNOWN: tuple[tuple[int, bytes, Format], ...] = (
    (0, qcow2.MAGIC, Format.QCOW2),
    (0, vmdk.MAGIC, Format.VMDK),
    (0, vmdk.DESCRIPTOR, Format.VMDK),
    (0, vhdx.MAGIC, Format.VHDX),
    (vdi.PLACE, vdi.MAGIC, Format.VDI),
)

_FOREIGN: tuple[tuple[int, bytes, str], ...] = (
    (0, b"COWD", "an ESX sparse disk"),
    (0, b"\xbe\xba\xfe\xca\x00\x00\x00\x00", "an ESX SE sparse disk"),
    (0, b"conectix", "a VHD image"),
    (0, b"QED\0", "a QED image"),
    (0, b"LUKS\xba\xbe", "an encrypted disk (LUKS)"),
    (0, b"WithoutFreeSpace", "a Parallels image"),
    (0, b"WithouFreSpacExt", "a Parallels image"),
    (0, b"Bochs Virtual HD Image", "a Bochs image"),
    (0, b"OOOM", "a User Mode Linux image"),
    (0, b"BZh", "compressed with bzip2"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (0, b"\x04\x22\x4d\x18", "compressed with lz4"),
    (0, b"\x7fELF", "a program"),
    (257, b"ustar", "a tar archive; an OVA is one"),
    (0, b"\x1f\x8b", "compressed with gzip twice"),
    (0, b"\xfd7zXZ\0", "compressed with xz twice"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd twice"),
)
_FOREIGN_TAIL: tuple[tuple[int, bytes, str], ...] = (
    (512, b"conectix", "a VHD image"),
    (511, b"conectix", "a VHD image"),
    (512, b"koly", "an Apple disk image"),
)

_LOOK = {
    Format.RAW: raw.look,
    Format.QCOW2: qcow2.look,
    Format.VMDK: vmdk.look,
    Format.VHDX: vhdx.look,
    Format.VDI: vdi.look,
}


def look(file: Reader, declared: Format | None) -> tuple[Format, int]:
    """Return the format of a file, and the size in bytes of the disk in it.

    Args:
        file: The file, not compressed.
        declared: What its owner says that it is; it is recognised if None.

    Raises:
        ImageInvalid: It is no image, not the declared one, broken, or needs something else than itself.
    """
    if file.size == 0:
        refuse("is empty", "give the file again; was it whole where it came from?")
    found = _recognised(file)
    if declared is not None and found is not None and declared is not found:
        _refuse_mismatch(declared, found)
    if declared not in (None, Format.RAW) and found is None:
        refuse(f"does not begin as a {declared} image does", "say what it is, or leave --format out")
    format = found or declared or _raw(file)
    if format is Format.RAW:
        _refuse_foreign(file)
    return format, _LOOK[format](file)


def _recognised(file: Reader) -> Format | None:
    head = file.head(_HEAD)
    for place, magic, format in _KNOWN:
        if head[place : place + len(magic)] == magic:
            return format
    return None


def _raw(file: Reader) -> Format:
    """Take a file for a raw disk, if it begins as one does."""
    _refuse_foreign(file)
    if not raw.bootable(file.head(_HEAD)):
        refuse(
            "has no header of a known image and no partition table",
            "if it is a raw disk all the same, say so: --format raw",
        )
    return Format.RAW


def _refuse_mismatch(declared: Format, found: Format) -> NoReturn:
    if declared is Format.RAW:
        refuse(
            f"was declared raw and begins as a {found} image does; some program would take it for one later",
            f"import it as what it is: --format {found}",
        )
    refuse(f"was declared {declared} and is {found}", f"import it as what it is: --format {found}")


def _refuse_foreign(file: Reader) -> None:
    head = file.head(_HEAD)
    found = [what for place, magic, what in _FOREIGN if head[place:].startswith(magic)]
    found += [what for back, magic, what in _FOREIGN_TAIL if file.tail(back).startswith(magic)]
    if found:
        refuse(f"is {found[0]}, not an image that BMI knows", "unpack it, or convert it to qcow2 or raw")
