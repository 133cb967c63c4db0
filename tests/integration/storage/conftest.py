from collections.abc import Iterator
from pathlib import Path

import pytest

from bmi.drivers.storage.pool import LoopPool
from bmi.run import run

POOL_SIZE = 400 << 20  # bytes


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[LoopPool]:
    """Give a pool that is not made yet, and leave nothing of it on the host."""
    pool = LoopPool(tmp_path)
    try:
        yield pool
    finally:
        pool.down()


@pytest.fixture
def xfs(pool: LoopPool) -> Path:
    """Give a folder on a file system with reflinks."""
    pool.up(POOL_SIZE)
    return pool.mountpoint


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Give a folder on a file system of 200 MiB without reflinks."""
    folder = tmp_path / "small"
    folder.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", folder])
    try:
        yield folder
    finally:
        run(["umount", folder])
