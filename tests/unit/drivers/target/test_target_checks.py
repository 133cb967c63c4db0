from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from bmi.drivers.storage import Backing
from bmi.drivers.target import Export, Lun, Portal
from bmi.drivers.target.checks import check_exports, check_portal, fingerprint
from bmi.errors import BadRequest
from bmi.ids import new_id

IMAGE = Backing("rbd", "pool/image", conf="/etc/ceph/ceph.conf", user="bmi")
EXPORT = Export(
    iqn="iqn.2026-01.org.example:disk-1",
    initiator="iqn.2026-01.org.example:node-1",
    username="user-1",
    password="a-secret-of-16.!",
    luns=(Lun(1, Backing("file", "/data/disk")), Lun(2, Backing("file", "/data/seed"), readonly=True)),
)
CHANGED = [
    replace(EXPORT, iqn="iqn.2026-01.org.example:disk-2"),
    replace(EXPORT, initiator="iqn.2026-01.org.example:node-2"),
    replace(EXPORT, username="user-2"),
    replace(EXPORT, password="another-secret"),
    replace(EXPORT, luns=EXPORT.luns[:1]),
    replace(EXPORT, luns=(replace(EXPORT.luns[0], readonly=True), EXPORT.luns[1])),
    replace(EXPORT, luns=(replace(EXPORT.luns[0], number=3), EXPORT.luns[1])),
    replace(EXPORT, luns=(Lun(1, Backing("file", "/data/other")), EXPORT.luns[1])),
    replace(EXPORT, luns=(Lun(1, IMAGE), EXPORT.luns[1])),
    replace(EXPORT, luns=(Lun(1, replace(IMAGE, path="pool/image@other")), EXPORT.luns[1])),
    replace(EXPORT, luns=(Lun(1, replace(IMAGE, conf="/etc/other.conf")), EXPORT.luns[1])),
    replace(EXPORT, luns=(Lun(1, replace(IMAGE, user="other")), EXPORT.luns[1])),
]


def test_a_proper_export_passes() -> None:
    check_exports([EXPORT])
    check_exports([replace(EXPORT, luns=(Lun(1, IMAGE), Lun(2, replace(IMAGE, path="p/i@s"))))])
    check_exports([])


@pytest.mark.parametrize(
    "backing",
    [
        Backing("nbd", "pool/image"),
        replace(IMAGE, path="image"),
        replace(IMAGE, path="/pool/image"),
        replace(IMAGE, path="pool/namespace/image"),
        replace(IMAGE, path="pool/image,bstype=rdwr"),
        replace(IMAGE, path="pool/image@"),
        replace(IMAGE, path="pool/image\n"),
        replace(IMAGE, conf=""),
        replace(IMAGE, conf="ceph.conf"),
        replace(IMAGE, conf="/a;id=admin"),
        replace(IMAGE, conf="/a,b"),
        replace(IMAGE, user=""),
        replace(IMAGE, user="bmi;conf=/b"),
        replace(IMAGE, user="bmi,x"),
    ],
)
def test_backings_that_are_none(backing: Backing) -> None:
    with pytest.raises(BadRequest, match="LUN 1"):
        check_exports([replace(EXPORT, luns=(Lun(1, backing),))])


def test_the_fingerprint_shows_every_change() -> None:
    marks = {fingerprint(export) for export in [EXPORT, *CHANGED]}
    assert len(marks) == len(CHANGED) + 1
    assert all(len(mark) == 32 and int(mark, 16) for mark in marks)


def test_the_fingerprint_does_not_depend_on_the_order_of_luns() -> None:
    assert fingerprint(replace(EXPORT, luns=EXPORT.luns[::-1])) == fingerprint(EXPORT)


@pytest.mark.parametrize(
    "secret", ["eleven-char", "seventeen-letters", "with space in", "tab\tin-it-12", "ä" * 12]
)
def test_secrets_that_firmware_does_not_take_are_refused_unseen(secret: str) -> None:
    with pytest.raises(BadRequest) as refused:
        check_exports([replace(EXPORT, password=secret)])
    assert secret not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["", "node", "iqn.", "iqn.a b", "iqn.a,b", "iqn.a_b", "iqn.a\n", "iqn." + "a" * 220]
)
def test_names_that_are_none(name: str) -> None:
    for export in (replace(EXPORT, iqn=name), replace(EXPORT, initiator=name)):
        with pytest.raises(BadRequest, match="iSCSI name"):
            check_exports([export])


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_ports_that_are_none(port: int) -> None:
    with pytest.raises(BadRequest, match="TCP port"):
        check_portal(Portal(new_id(), IPv4Address("192.0.2.1"), port))


@pytest.mark.parametrize("namespace", ["", "-a", "a/b", "..", "a b", "a" * 65])
def test_namespaces_that_are_none(namespace: str) -> None:
    with pytest.raises(BadRequest, match="namespace"):
        check_portal(Portal(new_id(), IPv4Address("192.0.2.1"), 3260, namespace))
