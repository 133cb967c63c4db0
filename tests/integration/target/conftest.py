from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bmi.drivers import Site
from bmi.drivers.target import Export, Portal
from bmi.drivers.target.tgt import TgtTarget
from tests.iscsi import MIB, make_export
from tests.legs import Wire, wired
from tests.rbd_images import Images, images


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    with images(tmp_path_factory.mktemp("ceph")) as found:
        yield found


@pytest.fixture
def wire() -> Iterator[Wire]:
    with wired() as wire:
        yield wire


@pytest.fixture
def make_target(tmp_path: Path) -> Iterator[Callable[..., TgtTarget]]:
    made: list[TgtTarget] = []

    def make(**options: Any) -> TgtTarget:
        made.append(TgtTarget(options, Site(tmp_path / "state", "0a1b2c3d")))
        return made[-1]

    yield make
    for target in made:
        for portal in target._known():
            target.stop(portal)
        target.close()


@pytest.fixture
def target(make_target: Callable[..., TgtTarget]) -> TgtTarget:
    return make_target()


@pytest.fixture
def portal(wire: Wire) -> Portal:
    return wire.portal()


@pytest.fixture
def export(tmp_path: Path, ceph: Images) -> Export:
    return make_export(tmp_path, "a", size=64 * MIB, images=ceph)
