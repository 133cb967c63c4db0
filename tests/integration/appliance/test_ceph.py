"""The sandbox reaches volumes in Ceph, without knowing the way there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bmi.drivers import Site
from bmi.drivers.storage import Kind, Volume
from bmi.drivers.storage.rbd import RbdStorage
from bmi.ids import new_id
from bmi.images.appliance.session import Appliance
from bmi.images.readiness.check import look
from bmi.images.readiness.keys import Identity, personalise
from tests.ceph_pools import TestPool, small_ceph
from tests.integration.appliance.conftest import Guest, quiet

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[RbdStorage]:
    with small_ceph(tmp_path / "c") as ceph:
        pool = TestPool(ceph)
        storage = RbdStorage(pool.options, Site(tmp_path / "state", "0badcafe"))
        storage.prepare()
        yield storage
        storage.close()
        pool.remove()


def test_a_clone_in_ceph_gets_its_name_and_the_image_does_not(
    storage: RbdStorage, appliance: Appliance, guest: Guest, folder_of_appliance: Path, tmp_path: Path
) -> None:
    raw, image, disk = tmp_path / "ext4.raw", new_id(), new_id()
    with raw.open("wb") as file:
        file.truncate(64 << 20)
    guest("minimal.py", "make", folder_of_appliance, raw)
    storage.import_image(image, raw, lambda done, total: None)
    storage.clone(image, disk)
    clone = storage.backing(Volume(Kind.DISK, disk))
    assert clone.type == "rbd"
    who = Identity("boot-1", "web-1", ["ssh-ed25519 AAAA one"], "http://10.0.0.1:8080/boot/1/t/ph")
    assert personalise(appliance, clone, who, quiet) == ["root", "ann"]
    names = []
    for backing in (clone, storage.backing(Volume(Kind.IMAGE, image))):
        system = look(appliance, backing, quiet).system
        assert system is not None
        names.append(system.text("/etc/hostname"))
    assert names == ["web-1\n", ""]
