"""Reads what an initramfs holds: cpio archives in a row, the last one compressed (Linux, buffer-format.rst)."""

import bz2
import gzip
import io
import lzma
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

_HEADER = 110  # bytes of a "newc" header
_LONGEST_NAME = 4096
_MOST_ENTRIES = 50_000
_MOST_BYTES = 2 << 30  # of the archives as they come out of the packer
_TEXT = 64 << 10  # bytes of one text that is kept
_TEXTS = (
    "conf/",
    "etc/iscsi",
    "etc/initiatorname",
    "etc/cmdline.d/",
    "etc/cmdline",
    "scripts/local-top/iscsi",
)


class Unreadable(Exception):
    """It is packed in a way that is not known here, or broken."""


@dataclass
class Content:
    """What an initramfs holds."""

    names: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)


def read(file: Path) -> Content:
    """Read an initramfs.

    Raises:
        Unreadable: It cannot be read.
    """
    content = Content()
    try:
        with file.open("rb") as raw:
            while _skip_zeros(raw):
                if _peek(raw, 5) == b"07070":
                    _archive(raw, content)
                    continue
                with _unpacked(raw) as packed:
                    while _skip_zeros_in(packed, content):
                        pass
                break
    except (OSError, EOFError, lzma.LZMAError, ValueError) as error:
        raise Unreadable(str(error)) from error
    if not content.names:
        raise Unreadable("nothing can be unpacked from it")
    return content


def _peek(raw: IO[bytes], count: int) -> bytes:
    found = raw.read(count)
    raw.seek(-len(found), io.SEEK_CUR)
    return found


def _skip_zeros(raw: IO[bytes]) -> bool:
    """Go on to the next byte that is not zero, and say whether there is one."""
    while block := raw.read(4096):
        if kept := len(block.lstrip(b"\0")):
            raw.seek(-kept, io.SEEK_CUR)
            return True
    return False


class _Stream:
    """What comes out of a packer; it can only be read on."""

    def __init__(self, source: IO[bytes], process: "subprocess.Popen[bytes] | None" = None) -> None:
        self._source, self._process, self._left, self.pending = source, process, _MOST_BYTES, b""

    def read(self, count: int) -> bytes:
        """Read exactly so many bytes, fewer only at the end."""
        parts, self.pending = [self.pending[:count]], self.pending[count:]
        missing = count - len(parts[0])
        while missing and (part := self._source.read(min(missing, 1 << 20))):
            missing -= len(part)
            self._left -= len(part)
            if self._left < 0:
                raise Unreadable(f"it has more than {_MOST_BYTES >> 20} MiB")
            parts.append(part)
        return b"".join(parts)

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self._source.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _unpacked(raw: IO[bytes]) -> _Stream:
    magic = _peek(raw, 6)
    if magic.startswith(b"\x1f\x8b"):
        return _Stream(cast("IO[bytes]", gzip.GzipFile(fileobj=raw)))
    if magic.startswith((b"\xfd7zXZ", b"\x5d\0\0")):
        return _Stream(lzma.LZMAFile(raw))
    if magic.startswith(b"BZh"):
        return _Stream(bz2.BZ2File(raw))
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        return _by_program(raw, ["zstd", "-dc"])
    if magic.startswith((b"\x02\x21\x4c\x18", b"\x04\x22\x4d\x18")):
        return _by_program(raw, ["lz4", "-dc"])
    raise Unreadable(f"it is packed in an unknown way, it begins with {magic.hex()}")


def _by_program(raw: IO[bytes], words: list[str]) -> _Stream:
    os.lseek(raw.fileno(), raw.tell(), os.SEEK_SET)  # the program reads from there, whatever is buffered here
    process = subprocess.Popen(words, stdin=raw, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None  # noqa: S101 - it was asked for
    return _Stream(process.stdout, process)


def _skip_zeros_in(stream: _Stream, content: Content) -> bool:
    """Read the next archive of a stream, if there is one."""
    while block := stream.read(4):
        if block.strip(b"\0"):
            stream.pending = block + stream.pending
            _archive(stream, content)
            return True
    return False


def _archive(source: "IO[bytes] | _Stream", content: Content) -> None:
    """Read one archive up to its end mark."""
    while True:
        header = source.read(_HEADER)
        if len(header) < _HEADER or header[:5] != b"07070":
            raise Unreadable("an archive in it is broken")
        size, name_size = int(header[54:62], 16), int(header[94:102], 16)
        if not 0 < name_size <= _LONGEST_NAME or len(content.names) > _MOST_ENTRIES:
            raise Unreadable("an archive in it is broken")
        name = _padded(source, name_size, _HEADER).rstrip(b"\0").decode(errors="replace")
        if name == "TRAILER!!!":
            return
        _take(source, name.removeprefix("./"), size, content)


def _take(source: "IO[bytes] | _Stream", name: str, size: int, content: Content) -> None:
    content.names.append(name)
    wanted = name.startswith(_TEXTS) and size <= _TEXT
    data = _padded(source, size, 0, keep=wanted)
    if wanted:
        content.texts[name] = data.decode(errors="replace")


def _padded(source: "IO[bytes] | _Stream", size: int, before: int, *, keep: bool = True) -> bytes:
    """Read a field and what fills it up to four bytes."""
    whole = size + -(size + before) % 4
    data = b""
    while whole:
        part = source.read(min(whole, 1 << 20))
        if not part:
            raise Unreadable("it ends in the middle")
        whole -= len(part)
        if keep:
            data += part
    return data[:size]
