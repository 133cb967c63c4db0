"""Devices are found by each name that an fstab can give them."""

import pytest

from bmi.images.appliance.child.system import Part, resolved

KNOWN = [
    Part("/dev/sda1", "ext4", label="boot", uuid="AB-12", id="f00d", name="first"),
    Part("/dev/debian-vg/root", "ext4"),
    Part("/dev/rl/my-home", "xfs"),
    Part("/dev/vg/var", "ext4"),
]


@pytest.mark.parametrize(
    ("spec", "device"),
    [
        ("LABEL=boot", "/dev/sda1"),
        ('UUID="ab-12"', "/dev/sda1"),
        ("PARTUUID=F00D", "/dev/sda1"),
        ("PARTLABEL=first", "/dev/sda1"),
        ("/dev/vda1", "/dev/sda1"),
        ("/dev/nvme0n1p1", "/dev/sda1"),
        ("/dev/mapper/vg-var", "/dev/vg/var"),
        ("/dev/mapper/debian--vg-root", "/dev/debian-vg/root"),
        ("/dev/mapper/rl-my--home", "/dev/rl/my-home"),
        ("/dev/vg/var", "/dev/vg/var"),
        ("/dev/mapper/vg-gone", None),
        ("/dev/sda2", None),
        ("LABEL=", None),
    ],
)
def test_each_name_leads_to_its_device(spec: str, device: str | None) -> None:
    assert resolved(spec, KNOWN) == device
