"""Conversion by qemu-img, in the sandbox. It is told every format, and never follows a name inside an image."""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from bmi.api.intake import Format
from bmi.errors import CommandFailed, CommandTimedOut, ImageInvalid
from bmi.images.intake.digest import Progress
from bmi.images.intake.space import Room
from bmi.sandbox import FOLDER, Limits, confined

_PERCENT = re.compile(r"\s*\((\d+(?:\.\d+)?)/100%\)\s*")
_OVERHEAD = 64 << 20  # bytes that a qcow2 image may have on top of a two-hundredth of its disk
_UNCHECKED = {Format.RAW}  # nothing in it can be wrong


@dataclass(frozen=True)
class Bounds:
    """What a conversion may take."""

    room: Room
    """Looked at meanwhile."""
    seconds: float
    """How long it may take."""
    pulse: Callable[[], None]
    """Called several times a second. What it raises ends it."""


def check(source: Path, format: Format, bounds: Bounds) -> None:
    """Look whether the tables inside an image are whole: each part in the file, and none used twice.

    Args:
        source: The image.
        format: Its format.
        bounds: What it may take.

    Raises:
        ImageInvalid: They are not.
    """
    if format in _UNCHECKED:
        return
    printed: list[str] = []
    argv = ["qemu-img", "check", "--output=json", _opened(format, "source")]
    try:
        confined(
            argv,
            limits=Limits(seconds=bounds.seconds, written=0),
            line=printed.append,
            pulse=bounds.pulse,
            read={"source": source},
        )
    except CommandTimedOut as error:
        raise _too_slow(bounds.seconds) from error
    except CommandFailed as error:
        report = _report(printed)
        if report is None or report.get("corruptions") or report.get("check-errors"):
            _refuse_broken(printed, error)
        # Only clusters that nobody uses: they take room in the file, and do no harm.


def to_raw(
    source: Path,
    format: Format,
    size: int,
    destination: Path,
    bounds: Bounds,
    progress: Progress,
) -> None:
    """Write the disk in an image into a raw file; what is zero becomes holes.

    Args:
        source: The image, whose header was looked at.
        format: Its format.
        size: Bytes of the disk in it.
        destination: The file; one that is there is replaced.
        bounds: What it may take.
        progress: Told of the bytes of the disk that are done.

    Raises:
        ImageInvalid: It cannot be read.
        StorageFull: There is no room for it.
    """
    _make(destination, size)
    argv = ["-n", "--target-is-zero", _opened(format, "source"), _opened(Format.RAW, "disk")]
    _convert(argv, source, destination, size, bounds, progress, most=size)
    if destination.stat().st_size != size:
        raise ImageInvalid(f"the file holds no disk of {size} bytes", next_step="convert it anew")


def to_qcow2(
    source: Path,
    destination: Path,
    bounds: Bounds,
    progress: Progress,
    *,
    compress: bool,
) -> None:
    """Write a raw disk into a qcow2 image.

    Args:
        source: The raw file.
        destination: The file; one that is there is replaced.
        bounds: What it may take.
        progress: Told of the bytes of the disk that are done.
        compress: Whether to compress it, with zlib, which every reader knows.

    Raises:
        StorageFull: There is no room for it.
    """
    _make(destination, 0)
    size = source.stat().st_size
    argv = ["-O", "qcow2", *(["-c"] if compress else []), _opened(Format.RAW, "source"), f"{FOLDER}/disk"]
    most = size + size // 200 + _OVERHEAD
    _convert(argv, source, destination, size, bounds, progress, most=most)


def _convert(
    argv: Sequence[str],
    source: Path,
    destination: Path,
    size: int,
    bounds: Bounds,
    progress: Progress,
    *,
    most: int,
) -> None:
    printed: list[str] = []

    def line(text: str) -> None:
        if found := _PERCENT.fullmatch(text):
            progress(int(size * float(found[1]) / 100), size)
        elif text.strip():
            printed.append(text)

    def look() -> None:
        bounds.pulse()
        bounds.room.require()

    try:
        confined(
            ["qemu-img", "convert", "-p", *argv],
            limits=Limits(seconds=bounds.seconds, written=most),
            line=line,
            pulse=look,
            read={"source": source},
            write={"disk": destination},
        )
    except CommandTimedOut as error:
        raise _too_slow(bounds.seconds) from error
    except CommandFailed as error:
        bounds.room.require()
        _refuse_broken(printed, error)
    with destination.open("rb") as file:
        os.fsync(file.fileno())


def _make(path: Path, size: int) -> None:
    """Make an empty file of a size, in the place of one that may be there."""
    path.unlink(missing_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.ftruncate(file, size)
    finally:
        os.close(file)


def _opened(format: Format, name: str) -> str:
    """Return how QEMU is told to open a file: which driver, and nothing behind it."""
    below = {"driver": "file", "filename": f"{FOLDER}/{name}", "locking": "off"}
    options: dict[str, Any] = {"driver": str(format), "file": below}
    if format is Format.QCOW2:
        options["backing"] = None
    return f"json:{json.dumps(options)}"


def _report(printed: Sequence[str]) -> Mapping[str, Any] | None:
    """Return what `qemu-img check` found; None if it could not even look."""
    if "{" not in printed or "}" not in printed:
        return None
    text = "\n".join(printed[printed.index("{") : printed.index("}") + 1])
    found: Mapping[str, Any] = json.loads(text)
    return found


def _refuse_broken(printed: Sequence[str], error: CommandFailed) -> NoReturn:
    said = [text for text in printed if text.strip() and text[0] not in "{} "]
    if not said or said[0].startswith(("bwrap:", "setpriv:", "prlimit:")):
        raise error  # it did not even start: the sandbox's trouble, not the file's
    reason = said[0].rpartition("}': ")[2].removeprefix("qemu-img: ")
    raise ImageInvalid(
        f"the file cannot be read as the image that it seems to be: {reason}",
        next_step="mend it (qemu-img check -r all FILE), copy it again, or convert it anew",
    ) from error


def _too_slow(seconds: float) -> ImageInvalid:
    return ImageInvalid(
        f"the file took longer than {seconds:g} s to be read",
        next_step="convert it to raw, or ask the admin to raise intake.deadline",
    )
