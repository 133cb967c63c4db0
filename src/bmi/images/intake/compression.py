"""Compressed files: gz, xz and zst, recognised by their headers, unpacked as a stream within bounds."""

import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from backports import zstd

from bmi.images.intake.digest import Progress
from bmi.images.intake.reader import refuse
from bmi.images.intake.space import Room, SparseWriter

_READ = 64 << 10  # bytes; of zeros, that can be gigabytes, and only between two reads is it cancelled
_WRITE = 1 << 20  # bytes that a decoder gives at once
_MEMORY = 256 << 20  # bytes that xz may use; `xz -9` needs 65 MiB
_WINDOW = 27  # zstd: 128 MiB, what its own program takes without being asked
_ALWAYS = 1 << 30  # bytes that any file may unpack to
_RATIO = 2000  # beyond that: bytes for each byte of the file; gzip's most is 1032


class Compression(StrEnum):
    """How a file is compressed."""

    GZ = "gz"
    XZ = "xz"
    ZST = "zst"


_MAGIC = {
    Compression.GZ: b"\x1f\x8b\x08",
    Compression.XZ: b"\xfd7zXZ\0",
    Compression.ZST: b"\x28\xb5\x2f\xfd",
}


class _Decoder(Protocol):
    """Unpacks one stream of a file, as Python's own decoders do."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gzip:
    """zlib's decoder, with the manners of the others."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


_DECODER: dict[Compression, Callable[[], _Decoder]] = {
    Compression.GZ: _Gzip,
    Compression.XZ: lambda: lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_MEMORY),
    Compression.ZST: lambda: zstd.ZstdDecompressor(
        options={zstd.DecompressionParameter.window_log_max: _WINDOW}
    ),
}


def recognised(head: bytes) -> Compression | None:
    """Return how a file is compressed that begins with these bytes; None if it is not."""
    return next((how for how, magic in _MAGIC.items() if head.startswith(magic)), None)


def unpack(
    source: Path, destination: int, how: Compression, *, limit: int, room: Room, progress: Progress
) -> int:
    """Unpack a file, and return how many bytes it became.

    Args:
        source: The compressed file.
        destination: Descriptor of an empty file.
        how: How it is compressed.
        limit: Bytes that it may become.
        room: What is looked at meanwhile.
        progress: Told of the bytes that are read.

    Raises:
        ImageInvalid: It is damaged, a bomb, or needs too much memory.
        StorageFull: There is no room for it.
    """
    writer = SparseWriter(destination, room)
    with source.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size

        def read() -> bytes:
            progress(file.tell(), size)
            return file.read(_READ)

        for data in _streams(read, how):
            _refuse_bomb(writer.size + len(data), file.tell(), limit)
            writer.write(data)
    writer.finish()
    return writer.size


def _streams(read: Callable[[], bytes], how: Compression) -> Iterator[bytes]:
    """Go through what the streams of a file unpack to; there may be several, one behind the other."""
    rest = read()
    while rest:
        decoder = _DECODER[how]()
        yield from _stream(decoder, rest, read, how)
        rest = _following(decoder.unused_data, read, how)


def _stream(decoder: _Decoder, data: bytes, read: Callable[[], bytes], how: Compression) -> Iterator[bytes]:
    while not decoder.eof:
        if decoder.needs_input and not data:
            data = read()
            if not data:
                refuse(f"ends in the middle of its {how} stream: it is truncated", "copy it again, whole")
        try:
            unpacked = decoder.decompress(data, _WRITE)
        except (zlib.error, lzma.LZMAError, zstd.ZstdError) as error:
            _refuse_damaged(how, str(error))
        data = b""
        yield unpacked


def _following(rest: bytes, read: Callable[[], bytes], how: Compression) -> bytes:
    """Return what follows on a stream: another one, or nothing."""
    if how is Compression.XZ:  # streams may be padded with zeros, in fours
        padding = 0
        while True:
            stripped = rest.lstrip(b"\0")
            padding += len(rest) - len(stripped)
            rest = stripped or read()
            if stripped or not rest:
                break
        if padding % 4:
            _refuse_damaged(how, "its padding is no multiple of 4 bytes")
    while len(rest) < len(_MAGIC[how]) and (more := read()):
        rest += more
    if rest and recognised(rest) is not how:
        refuse(
            f"has something else behind its {how} stream", "compress the image alone, and hand it in again"
        )
    return rest


def _refuse_damaged(how: Compression, error: str) -> None:
    if "emory" in error:
        refuse(f"needs more memory to be unpacked than {how} may use", "compress it with a smaller window")
    refuse(f"is damaged: its {how} stream cannot be read ({error})", "copy it again, whole")


def _refuse_bomb(unpacked: int, read: int, limit: int) -> None:
    if unpacked > limit:
        refuse(
            f"unpacks to more than {limit} bytes",
            "make the disk smaller, or ask the admin to raise intake.max_size",
        )
    if unpacked > max(_ALWAYS, _RATIO * read):
        refuse(
            f"unpacks to {unpacked} bytes from {read}, more than {_RATIO} for each",
            "hand it in uncompressed, or as qcow2",
        )
