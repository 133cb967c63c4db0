"""Raw images: they have no header, so what they begin with says at least what they are not."""

from bmi.images.intake.reader import SECTOR, Reader

_MBR = (SECTOR - 2, b"\x55\xaa")
_GPT = b"EFI PART"
_GPT_PLACES = (512, 4096)  # its second sector, whatever the sector's size


def look(file: Reader) -> int:
    """Return the size of the disk in a raw image, in bytes.

    Raises:
        ImageInvalid: It has not the size of a disk.
    """
    return file.disk_size(file.size)


def bootable(head: bytes) -> bool:
    """Say whether a content begins as a partitioned or bootable disk does."""
    place, signature = _MBR
    if head[place : place + 2] == signature:
        return True
    return any(head[place : place + len(_GPT)] == _GPT for place in _GPT_PLACES)
