"""What stands behind the header checks: where they are bypassed, the host's files cannot be read all the same."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bmi.api.intake import Format
from bmi.errors import CommandFailed, CommandTimedOut, ImageInvalid
from bmi.images.intake import convert
from bmi.images.intake.convert import Bounds
from bmi.images.intake.space import Room
from bmi.run import run
from bmi.sandbox import FOLDER, NOBODY, Limits, confined
from bmi.wait import wait_until
from tests.integration.images.disks import MIB, converted, raw_disk

SIZE = 8 * MIB


class Enough(Exception):
    """Nobody wants it any more."""


def nothing() -> None:
    pass


def bounds(folder: Path, seconds: float = 60) -> Bounds:
    return Bounds(Room(folder, 0), seconds, nothing)


def printed(*argv: str, read: dict[str, Path] | None = None, seconds: float = 30) -> list[str]:
    lines: list[str] = []
    limits = Limits(seconds=seconds, written=SIZE)
    confined(argv, limits=limits, line=lines.append, pulse=nothing, read=read or {})
    return lines


def guessed(source: Path, destination: Path) -> None:
    """Convert as nobody should: QEMU opens whatever the image names."""
    destination.touch()
    confined(
        ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", f"{FOLDER}/source", f"{FOLDER}/disk"],
        limits=Limits(seconds=60, written=SIZE),
        line=lambda line: None,
        pulse=nothing,
        read={"source": source},
        write={"disk": destination},
    )


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Give a file of the host that everybody may read."""
    path = tmp_path / "secret"
    path.write_bytes(b"the-secret-of-this-host".ljust(SIZE, b"!"))
    path.chmod(0o644)
    return path


@pytest.mark.parametrize("named", ["secret", "passwd", "json"])
def test_a_backing_file_of_the_host_is_not_read(tmp_path: Path, secret: Path, named: str) -> None:
    name = {
        "secret": str(secret),
        "passwd": "/etc/passwd",
        "json": f'json:{{"driver":"file","filename":"{secret}"}}',
    }[named]
    image, out = tmp_path / "overlay.qcow2", tmp_path / "out"
    run(["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", name, image, str(SIZE)])
    # Outside of the sandbox that very image gives the file away.
    if named == "secret":
        run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, tmp_path / "leak"])
        assert b"the-secret-of-this-host" in (tmp_path / "leak").read_bytes()

    with pytest.raises(CommandFailed, match=r"Could not open|No such file"):
        guessed(image, out)
    assert out.read_bytes().strip(b"\0") == b""
    # As BMI does it, QEMU does not even try.
    convert.to_raw(image, Format.QCOW2, SIZE, out, bounds(tmp_path), lambda done, total: None)
    assert out.read_bytes() == bytes(SIZE)


def test_a_data_file_of_the_host_is_not_read(tmp_path: Path, secret: Path) -> None:
    image, out = tmp_path / "external.qcow2", tmp_path / "out"
    run(
        [
            "qemu-img",
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            f"data_file={secret},data_file_raw=on",
            image,
            str(SIZE),
        ]
    )
    secret.write_bytes(b"the-secret-of-this-host".ljust(SIZE, b"!"))  # QEMU emptied it
    with pytest.raises(CommandFailed, match="No such file"):
        guessed(image, out)
    with pytest.raises(ImageInvalid, match="cannot be read as the image"):
        convert.to_raw(image, Format.QCOW2, SIZE, out, bounds(tmp_path), lambda done, total: None)
    assert out.read_bytes().strip(b"\0") == b""
    assert secret.read_bytes().startswith(b"the-secret-of-this-host")


def test_a_vmdk_extent_of_the_host_is_not_read(tmp_path: Path, secret: Path) -> None:
    image, out = tmp_path / "flat.vmdk", tmp_path / "out"
    image.write_text(
        '# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
        f'RW {SIZE // 512} FLAT "{secret}" 0\n'
    )
    with pytest.raises(ImageInvalid, match="cannot be read as the image"):
        convert.to_raw(image, Format.VMDK, SIZE, out, bounds(tmp_path), lambda done, total: None)
    assert out.read_bytes().strip(b"\0") == b""


def test_a_program_inside_sees_nothing_of_the_host(tmp_path: Path, secret: Path) -> None:
    os.environ["BMI_TEST_SECRET"] = "x"
    try:
        found = printed("env")
    finally:
        del os.environ["BMI_TEST_SECRET"]
    assert not [line for line in found if "BMI" in line]
    assert set(printed("ls", "/")) == {"bin", "dev", "image", "lib", "lib64", "proc", "usr"}
    assert printed("ls", FOLDER, read={"source": secret}) == ["source"]
    assert [line.split(":")[0].strip() for line in printed("cat", "/proc/net/dev")[2:]] == ["lo"]
    assert not printed("cat", "/proc/net/tcp")[1:]
    assert len([line for line in printed("ls", "/proc") if line.isdigit()]) <= 3


def test_a_program_inside_is_nobody_and_can_do_nothing(tmp_path: Path, secret: Path) -> None:
    status = dict(line.split(":\t") for line in printed("cat", "/proc/self/status") if ":\t" in line)
    assert status["Uid"].split() == [str(NOBODY)] * 4
    assert status["Gid"].split() == [str(NOBODY)] * 4
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    for writing in (
        ["touch", "/usr/x"],
        ["touch", f"{FOLDER}/x"],
        ["dd", f"of={FOLDER}/source", "if=/dev/zero"],
    ):
        with pytest.raises(CommandFailed):
            printed(*writing, read={"source": secret})
    assert secret.read_bytes().startswith(b"the-secret-of-this-host")


def test_time_memory_and_space_are_limited(tmp_path: Path) -> None:
    with pytest.raises(CommandTimedOut):
        printed("sleep", "60", seconds=0.5)
    with pytest.raises(CommandFailed, match=r"memory exhausted|Cannot allocate|failed to allocate"):
        printed("dd", "if=/dev/zero", "of=/dev/null", "bs=3G", "count=1")
    out = tmp_path / "out"
    out.touch()
    with pytest.raises(CommandFailed):
        confined(
            ["dd", "if=/dev/zero", f"of={FOLDER}/disk", "bs=1M", "count=64"],
            limits=Limits(seconds=30, written=SIZE),
            line=lambda line: None,
            pulse=nothing,
            read={},
            write={"disk": out},
        )
    assert out.stat().st_size <= SIZE


def test_it_ends_when_nobody_wants_it_any_more(tmp_path: Path) -> None:
    begun = time.monotonic()

    def pulse() -> None:
        if time.monotonic() - begun > 0.5:
            raise Enough

    with pytest.raises(Enough):
        confined(
            ["sleep", "4711"],
            limits=Limits(seconds=60, written=0),
            line=lambda line: None,
            pulse=pulse,
            read={},
        )
    assert time.monotonic() - begun < 20
    assert "sleep 4711" not in run(["ps", "-eo", "args"])


def test_it_ends_with_the_service_however_that_ends() -> None:
    script = (
        "from bmi.sandbox import Limits, confined\n"
        "confined(['sh', '-c', 'echo ready; exec sleep 4712'], limits=Limits(60, 0), read={},\n"
        "         line=lambda line: print(line, flush=True), pulse=lambda: None)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as service:
        assert service.stdout is not None
        assert service.stdout.readline() == b"ready\n"
        assert "sleep 4712" in run(["ps", "-eo", "args"])
        service.kill()
    wait_until(
        lambda: "sleep 4712" not in run(["ps", "-eo", "args"]),
        deadline=10,
        what="the program to end",
        next_step="-",
    )


def test_a_disk_grows_no_larger_than_there_is_room(tmp_path: Path) -> None:
    """Space is looked at all the time: a disk that others fill up ends the conversion too."""
    from bmi.errors import StorageFull

    raw = raw_disk(tmp_path / "disk.raw", SIZE)
    image = converted(raw, "qcow2", tmp_path / "disk.qcow2")
    full = Bounds(Room(tmp_path, 1 << 60), 60, nothing)
    with pytest.raises(StorageFull, match="bytes free"):
        convert.to_raw(image, Format.QCOW2, SIZE, tmp_path / "out", full, lambda done, total: None)


def test_progress_is_told(tmp_path: Path) -> None:
    raw = raw_disk(tmp_path / "disk.raw", SIZE)
    told: list[tuple[int, int]] = []
    convert.to_raw(
        converted(raw, "vhdx", tmp_path / "disk.vhdx"),
        Format.VHDX,
        SIZE,
        tmp_path / "out",
        bounds(tmp_path),
        lambda done, total: told.append((done, total)),
    )
    assert told[-1] == (SIZE, SIZE)
    assert (tmp_path / "out").read_bytes() == raw.read_bytes()
