import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from bmi.drivers.storage import pool as pool_module
from bmi.drivers.storage.pool import MIN_SIZE, LoopPool
from bmi.drivers.storage.reflink import supports_reflink
from bmi.errors import DeadlineExceeded, InUse, StorageError
from bmi.run import run
from bmi.wait import wait_until

SIZE = 400 << 20  # bytes

_MAKE_POOL = """
import sys
from pathlib import Path
from bmi.drivers.storage.pool import LoopPool
"""
_STAY = """
print("done", flush=True)
sys.stdin.read()
"""


def loops(pool: LoopPool) -> list[str]:
    """List the loop devices over a pool's file."""
    return run(["losetup", "-j", pool.file, "-n", "-O", "NAME"]).split()


def mounts(pool: LoopPool) -> int:
    return Path("/proc/self/mountinfo").read_text().count(f" {pool.mountpoint} ")


def assert_up(pool: LoopPool) -> None:
    assert mounts(pool) == 1
    assert len(loops(pool)) == 1
    assert supports_reflink(pool.mountpoint)


def assert_down(pool: LoopPool) -> None:
    assert mounts(pool) == 0
    assert loops(pool) == []


def test_up_and_down_and_up_again(pool: LoopPool) -> None:
    pool.up(SIZE)
    assert_up(pool)
    (pool.mountpoint / "kept").write_text("content")

    pool.down()
    assert_down(pool)
    pool.down()
    pool.up(SIZE)

    assert_up(pool)
    assert (pool.mountpoint / "kept").read_text() == "content"


def test_up_twice_changes_nothing(pool: LoopPool) -> None:
    pool.up(SIZE)
    before = loops(pool)

    pool.up(SIZE)

    assert_up(pool)
    assert loops(pool) == before


def test_the_file_is_sparse_and_only_roots(pool: LoopPool) -> None:
    pool.up(SIZE)

    status = pool.file.stat()
    assert status.st_size == SIZE
    assert status.st_blocks * 512 < SIZE / 2
    assert status.st_mode & 0o077 == 0


def test_the_loop_device_bypasses_the_page_cache_of_the_file(pool: LoopPool) -> None:
    pool.up(SIZE)

    (device,) = loops(pool)
    assert run(["losetup", "-n", "-O", "DIO", device]).split() == ["1"]


def test_the_smallest_pool(pool: LoopPool) -> None:
    pool.up(MIN_SIZE)

    assert_up(pool)


def test_a_size_in_the_middle_of_a_block(pool: LoopPool) -> None:
    pool.up(SIZE + 513)

    assert pool.file.stat().st_size == SIZE


def test_room_of_removed_files_goes_back_to_the_file_system_beneath(pool: LoopPool) -> None:
    pool.up(SIZE)
    before = pool.file.stat().st_blocks
    filler = pool.mountpoint / "filler"
    with filler.open("wb") as file:
        file.write(os.urandom(64 << 20))
        os.fsync(file.fileno())
    filled = pool.file.stat().st_blocks
    assert filled - before > (60 << 20) / 512

    filler.unlink()

    def discarded() -> bool:
        # XFS discards what its log has on the disk as free; that takes half a minute when nobody asks.
        run(["sync", "--file-system", pool.mountpoint])
        return pool.file.stat().st_blocks < filled - (60 << 20) / 512

    wait_until(discarded, deadline=10, what="the blocks to be discarded", next_step="see why not")


# --- crashes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("program", ["mkfs.xfs", "losetup --associated", "losetup --find", "mount"])
def test_killed_while_it_goes_up(pool: LoopPool, program: str, after: bool) -> None:
    assert die_at(program, lambda: pool.up(SIZE), after=after) == -signal.SIGKILL

    pool.up(SIZE)

    assert_up(pool)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("program", ["umount", "losetup --detach"])
def test_killed_while_it_goes_down(pool: LoopPool, program: str, after: bool) -> None:
    pool.up(SIZE)
    (pool.mountpoint / "kept").write_text("content")
    assert die_at(program, pool.down, after=after) == -signal.SIGKILL

    pool.down()
    assert_down(pool)
    pool.up(SIZE)

    assert_up(pool)
    assert (pool.mountpoint / "kept").read_text() == "content"


def die_at(program: str, call: Any, *, after: bool) -> int | None:
    """Call something in a child that dies just before or after a program runs; return how it ended."""

    def run_or_die(argv: Sequence[str | Path], **options: Any) -> str:
        there = " ".join(map(str, argv)).startswith(program)
        if there and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        output = run(argv, **options)
        if there:
            os.kill(os.getpid(), signal.SIGKILL)
        return output

    def child() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pool_module, "run", run_or_die)
            call()

    process = get_context("fork").Process(target=child)
    process.start()
    process.join()
    return process.exitcode


def test_a_file_that_was_not_finished_is_made_anew(pool: LoopPool) -> None:
    pool.file.with_suffix(".part").write_bytes(b"half a file system")

    pool.up(SIZE)

    assert_up(pool)
    assert not pool.file.with_suffix(".part").exists()


def test_a_file_that_is_no_file_system_is_left_alone(pool: LoopPool) -> None:
    content = os.urandom(1 << 20) + bytes(SIZE - (1 << 20))
    pool.file.write_bytes(content)

    with pytest.raises(StorageError, match=str(pool.file)):
        pool.up(SIZE)

    assert pool.file.read_bytes() == content


def test_many_at_once_make_one_pool(pool: LoopPool) -> None:
    processes = [get_context("fork").Process(target=pool.up, args=(SIZE,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0] * 4
    assert_up(pool)


# --- only what is ours -----------------------------------------------------------------------------------


@pytest.fixture
def foreign(pool: LoopPool) -> Iterator[None]:
    """Mount something else where the pool belongs."""
    pool.mountpoint.mkdir()
    run(["mount", "-t", "tmpfs", "tmpfs", pool.mountpoint])
    try:
        yield
    finally:
        run(["umount", pool.mountpoint])


@pytest.mark.usefixtures("foreign")
def test_a_foreign_mount_is_neither_used_nor_unmounted(pool: LoopPool) -> None:
    with pytest.raises(StorageError, match="something else"):
        pool.up(SIZE)

    pool.down()

    assert mounts(pool) == 1
    assert loops(pool) == []


def test_a_pool_in_use_stays(pool: LoopPool) -> None:
    pool.up(SIZE)
    with (pool.mountpoint / "disk").open("wb") as file:
        with pytest.raises(InUse, match=str(pool.mountpoint)):
            pool.down()
        assert_up(pool)
        file.write(b"still writable")
    assert (pool.mountpoint / "disk").read_bytes() == b"still writable"


def test_going_down_where_nothing_is_touches_nothing(pool: LoopPool, tmp_path: Path) -> None:
    pool.down()

    assert list(tmp_path.iterdir()) == []


# --- mount namespaces ------------------------------------------------------------------------------------


@contextmanager
def other_namespace(pool: LoopPool, script: str) -> Iterator[subprocess.Popen[str]]:
    """Run Python code on a pool in a mount namespace of its own, and keep that until the block ends."""
    around = ["unshare", "--mount", "--propagation", "private"]
    made = f"{_MAKE_POOL}pool = LoopPool(Path({str(pool.file.parent)!r}))"
    process = subprocess.Popen(
        [*around, sys.executable, "-c", f"{made}\n{script}\n{_STAY}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "done\n"
            yield process
        finally:
            process.kill()


def test_two_namespaces_share_the_pool(pool: LoopPool) -> None:
    with other_namespace(pool, f"pool.up({SIZE}); (pool.mountpoint / 'there').write_text('seen')"):
        assert mounts(pool) == 0

        pool.up(SIZE)

        assert_up(pool)
        assert (pool.mountpoint / "there").read_text() == "seen"
    assert_up(pool)


def test_going_down_waits_for_the_other_namespace(pool: LoopPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "_DETACH_DEADLINE", 0.2)
    with other_namespace(pool, f"pool.up({SIZE})"):
        pool.up(SIZE)
        with pytest.raises(DeadlineExceeded, match=str(pool.file)):
            pool.down()
        assert mounts(pool) == 0

    wait_until(lambda: not loops(pool), deadline=10, what="the device to be let go", next_step="see why not")
