from collections.abc import Iterator

import pytest

from bmi.lab.ceph import Ceph
from tests.ceph_pools import small_ceph


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """Give a cluster to all tests that need one; with a manager, for quotas."""
    with small_ceph(tmp_path_factory.mktemp("ceph") / "c", mgr=True) as cluster:
        yield cluster
