"""What initiators get from tgt: real log-ins, real data."""

import random
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import psutil
import pytest

from bmi.drivers import Outcome, Site
from bmi.drivers.target import Export, Portal
from bmi.drivers.target.tgt import TgtTarget
from bmi.errors import CommandFailed
from bmi.run import run
from bmi.wait import wait_until
from tests.iscsi import MIB, WRONG, Initiator, free_portal, make_export
from tests.libiscsi import Connection, Refused


@pytest.fixture
def target(tmp_path: Path) -> Iterator[TgtTarget]:
    target = TgtTarget({}, Site(tmp_path / "state", "0a1b2c3d"))
    yield target
    for portal in target.portals():
        target.stop(portal)
    target.close()


@pytest.fixture
def portal() -> Portal:
    return free_portal()


@pytest.fixture
def export(tmp_path: Path) -> Export:
    return make_export(tmp_path, "a", size=64 * MIB)


@pytest.fixture
def node(target: TgtTarget, portal: Portal, export: Export) -> Initiator:
    target.serve(portal, [export])
    return Initiator(portal, export)


def disk(export: Export) -> Path:
    return Path(export.luns[0].backing.path)


def seed(export: Export) -> Path:
    return Path(export.luns[1].backing.path)


def pid(target: TgtTarget, portal: Portal) -> int:
    process = target._server(portal.id).process()
    assert process is not None
    return process.pid


# --- who gets in -------------------------------------------------------------------------------------------


def test_the_right_node_sees_its_disk_and_its_seed(node: Initiator) -> None:
    assert "Vendor:BMI" in node.inquire(1)
    assert node.size(1) == 64 * MIB
    assert node.size(2) == MIB


@pytest.mark.parametrize("what", WRONG)
def test_nobody_else_gets_in(portal: Portal, export: Export, node: Initiator, what: str) -> None:
    stranger = Initiator(portal, WRONG[what](export))
    with pytest.raises(CommandFailed, match=r"Authentication failure|Target not found"):
        stranger.inquire(1)


@pytest.mark.parametrize("what", WRONG)
def test_discovery_tells_nobody_anything(portal: Portal, export: Export, node: Initiator, what: str) -> None:
    for initiator in (Initiator(portal, WRONG[what](export)), node):
        with pytest.raises(CommandFailed, match="Authentication failure") as refused:
            initiator.luns()
        assert "Target:" not in str(refused.value)


def test_a_node_gets_its_own_disk_only(
    target: TgtTarget, portal: Portal, export: Export, node: Initiator, tmp_path: Path
) -> None:
    neighbour = make_export(tmp_path, "b")
    target.serve(portal, [neighbour])
    with pytest.raises(CommandFailed, match="Target not found"):
        Initiator(portal, replace(export, iqn=neighbour.iqn)).inquire(1)
    with pytest.raises(CommandFailed, match="Authentication failure"):
        Initiator(portal, replace(export, iqn=neighbour.iqn, initiator=neighbour.initiator)).inquire(1)


def test_portals_do_not_see_each_other(
    target: TgtTarget, portal: Portal, export: Export, node: Initiator, tmp_path: Path
) -> None:
    elsewhere, other = free_portal(), make_export(tmp_path, "b")
    target.serve(elsewhere, [other])
    assert Initiator(elsewhere, other).size(1) == MIB
    with pytest.raises(CommandFailed, match="Target not found"):
        Initiator(elsewhere, export).inquire(1)
    with pytest.raises(CommandFailed, match="Target not found"):
        Initiator(portal, other).inquire(1)
    target.stop(elsewhere.id)
    assert node.size(1) == 64 * MIB


def test_a_removed_export_lets_nobody_in(
    target: TgtTarget, portal: Portal, export: Export, node: Initiator
) -> None:
    target.remove(portal.id, export.iqn)
    with pytest.raises(CommandFailed):
        node.inquire(1)


def test_a_changed_secret_counts_at_once(
    target: TgtTarget, portal: Portal, export: Export, node: Initiator
) -> None:
    changed = replace(export, password="another-secret")
    assert target.serve(portal, [changed]) is Outcome.DONE
    assert Initiator(portal, changed).size(1) == 64 * MIB
    with pytest.raises(CommandFailed, match="Authentication failure"):
        node.inquire(1)


def test_secrets_are_in_no_command_line_environment_or_log(
    target: TgtTarget, portal: Portal, export: Export, node: Initiator
) -> None:
    with pytest.raises(CommandFailed):
        Initiator(portal, WRONG["secret"](export)).inquire(1)
    server = psutil.Process(pid(target, portal))
    seen = " ".join([*server.cmdline(), *server.environ().values()])
    for file in (disk(export).parent / "state").rglob("*"):
        if file.is_file():
            seen += file.read_text()
    assert "tgtd" in seen
    assert export.password not in seen


# --- data --------------------------------------------------------------------------------------------------


def test_what_is_written_is_in_the_file(export: Export, node: Initiator) -> None:
    node.io(1, "write -P 0x5a 4096 8192", "flush")
    with disk(export).open("rb") as file:
        assert file.read(4096) == bytes(4096)
        assert file.read(8192) == b"\x5a" * 8192
        assert file.read(4096) == bytes(4096)


def test_a_node_reads_exactly_the_file(export: Export, node: Initiator) -> None:
    content = random.Random(7).randbytes(64 * MIB)
    disk(export).write_bytes(content)
    assert "identical" in node.compare(1, disk(export))
    copy = disk(export).with_name("copy")
    node.copy(1, copy)
    assert copy.read_bytes() == content


def test_a_readonly_lun_refuses_writes(portal: Portal, export: Export, node: Initiator) -> None:
    seed(export).write_bytes(b"\x11" * MIB)
    with pytest.raises(CommandFailed, match="write protected"):  # what MODE SENSE tells
        node.io(2, "write -P 0x5a 0 4096")
    with (
        Connection(portal, export, lun=2) as connection,
        pytest.raises(Refused, match="WRITE_PROTECTED"),  # what WRITE is told
    ):
        connection.write(0, b"\x5a" * 512)
    with Connection(portal, export, lun=1) as connection:
        connection.write(0, b"\x5a" * 512)
    assert seed(export).read_bytes() == b"\x11" * MIB
    assert disk(export).read_bytes()[:512] == b"\x5a" * 512


def test_flushed_data_survives_the_death_of_the_server(
    target: TgtTarget, portal: Portal, export: Export, node: Initiator
) -> None:
    with Initiator(portal, export).session(busy=True):
        node.io(1, "write -P 0x77 1M 8M", "flush")
        psutil.Process(pid(target, portal)).kill()
    wait_until(lambda: not target.portals(), deadline=10, what="the end", next_step="-")
    assert target.serve(portal, [export]) is Outcome.DONE
    node.io(1, "read -P 0x77 1M 8M", "read -P 0 9M 1M")


@pytest.fixture
def strace(target: TgtTarget, portal: Portal, tmp_path: Path) -> Iterator[Callable[[], list[str]]]:
    """Watch what tgtd does to a disk; the call ends that and returns the names of the system calls."""
    trace = tmp_path / "trace"
    words = ["strace", "-f", "-y", "-e", "trace=fdatasync,pwrite64", "-o", str(trace), "-p"]
    with subprocess.Popen([*words, str(pid(target, portal))], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "attached" in process.stderr.readline()

        def calls() -> list[str]:
            process.terminate()
            process.wait(10)
            return re.findall(r"(\w+)\(\d+<[^>]*\.img>", trace.read_text())

        try:
            yield calls
        finally:
            process.terminate()


def test_a_flush_reaches_the_disk(
    portal: Portal, export: Export, node: Initiator, strace: Callable[[], list[str]]
) -> None:
    """SYNCHRONIZE CACHE is an fdatasync of the file, and so is a WRITE with the FUA bit."""
    with Connection(portal, export) as connection:
        connection.write(0, bytes(4096))
        connection.flush()
        connection.write(8, bytes(4096))
        connection.write(16, bytes(4096), fua=True)
    assert strace() == ["pwrite64", "fdatasync", "pwrite64", "pwrite64", "fdatasync"]


def test_writes_are_cached_only_while_the_initiator_knows(
    portal: Portal, export: Export, node: Initiator, strace: Callable[[], list[str]]
) -> None:
    """The write cache is announced; with it switched off every write is followed by an fdatasync."""
    with Connection(portal, export) as connection:
        assert connection.write_cache() is True
        connection.write(0, bytes(512))
        assert connection.write_cache(switch_to=False) is False
        connection.write(1, bytes(512))
    assert strace() == ["pwrite64", "pwrite64", "fdatasync"]


def test_bytes_read_counts_what_initiators_read(
    target: TgtTarget, portal: Portal, export: Export, node: Initiator, tmp_path: Path
) -> None:
    other = make_export(tmp_path, "b", size=8 * MIB)
    target.serve(portal, [other])
    before = target.bytes_read(portal.id)
    node.io(1, "read 0 64M", readonly=True)
    node.io(1, "write 0 32M")
    Initiator(portal, other).io(1, "read 0 8M", readonly=True)
    looked = 64 * 1024  # bytes qemu may look at when it opens a disk
    read = target.bytes_read(portal.id) - before
    assert 72 * MIB <= read <= 72 * MIB + looked
    target.remove(portal.id, export.iqn)  # the count of its threads stays
    assert target.bytes_read(portal.id) - before >= read
    target.stop(portal.id)
    assert target.bytes_read(portal.id) == 0


# --- identity ----------------------------------------------------------------------------------------------


def identity(node: Initiator, lun: int) -> tuple[str, str]:
    serial = node.inquire(lun, "-e", "1", "-c", "128")
    return serial, re.findall(
        r"T10_VENDORT_ID\s+Designator:\[(\w+)\]", node.inquire(lun, "-e", "1", "-c", "131")
    )[0]


def test_every_lun_has_an_identity_that_stays(
    target: TgtTarget, portal: Portal, export: Export, node: Initiator, tmp_path: Path
) -> None:
    """Operating systems name disks by it: it must outlive the server, and the secret."""
    other = make_export(tmp_path, "b")
    target.serve(portal, [other])
    luns = [(node, 1), (node, 2), (Initiator(portal, other), 1), (Initiator(portal, other), 2)]
    before = [identity(*lun) for lun in luns]
    assert len(set(before)) == 4
    target.stop(portal.id)
    changed = replace(export, password="another-secret")
    target.serve(portal, [changed, other])
    assert identity(Initiator(portal, changed), 1) == before[0]


def test_what_is_offered_at_log_in(
    target: TgtTarget, portal: Portal, export: Export, node: Initiator
) -> None:
    """Asked with tgt's own tool. The defaults make sequential writes three times slower."""
    tid = target._server(portal.id).tgtd.target_ids()[export.iqn]
    words = ["tgtadm", "--lld", "iscsi", "--op", "show", "--mode", "target", "--tid", str(tid)]
    shown = run(words, env={"TGT_IPC_SOCKET": f"/proc/{pid(target, portal)}/cwd/m"}).splitlines()
    expected = {"MaxRecvDataSegmentLength=1048576", "FirstBurstLength=1048576", "MaxBurstLength=4194304"}
    expected |= {"InitialR2T=No", "ImmediateData=Yes", "MaxOutstandingR2T=8"}
    assert expected <= set(shown)


# --- firmware ----------------------------------------------------------------------------------------------

_SERIAL_PORT = 0x3F8
_MESSAGE = b"booted over iSCSI\r\n\0"


def boot_sector() -> bytes:
    """Return a boot sector that writes a message to the serial port and halts (16 bit x86)."""
    message = 0x7C00 + 0x20
    code = (
        b"\xfa\xfc\x31\xc0\x8e\xd8"  # cli; cld; xor ax, ax; mov ds, ax
        + b"\xba"
        + _SERIAL_PORT.to_bytes(2, "little")  # mov dx, port
        + b"\xbe"
        + message.to_bytes(2, "little")  # mov si, message
        + b"\xac\x08\xc0\x74\x03\xee\xeb\xf8"  # next: lodsb; or al, al; jz end; out dx, al; jmp next
        + b"\xf4\xeb\xfd"  # end: hlt; jmp end
    )
    return (code.ljust(0x20, b"\0") + _MESSAGE).ljust(510, b"\0") + b"\x55\xaa"


def test_firmware_boots_from_an_export(target: TgtTarget, export: Export, tmp_path: Path) -> None:
    """iPXE takes what is offered in the log-in, and proves itself with CHAP."""
    portal = replace(free_portal(), address=IPv4Address("127.0.0.1"))  # where QEMU's own network leads to
    with disk(export).open("r+b") as file:
        file.write(boot_sector())
    target.serve(portal, [export])
    tftp, console = tmp_path / "tftp", tmp_path / "console"
    tftp.mkdir()
    (tftp / "boot.ipxe").write_text(
        "#!ipxe\n"
        f"set username {export.username}\nset password {export.password}\n"
        f"set initiator-iqn {export.initiator}\n"
        f"sanboot --keep iscsi:10.0.2.2::{portal.port}:1:{export.iqn}\n"
    )
    words = ["qemu-system-x86_64", "-accel", "tcg", "-m", "128", "-display", "none", "-no-reboot"]
    words += ["-serial", f"file:{console}", "-device", "virtio-net-pci,netdev=lan,bootindex=0"]
    words += ["-netdev", f"user,id=lan,tftp={tftp},bootfile=boot.ipxe"]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL) as machine:
        try:
            wait_until(
                lambda: console.exists() and _MESSAGE.strip(b"\0\r\n") in console.read_bytes(),
                deadline=120,
                what="the boot sector's message",
                next_step=f"look into {console}",
            )
            (session,) = target.sessions(portal.id)
            assert session.initiator == export.initiator
        finally:
            machine.kill()
