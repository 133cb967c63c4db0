"""What firmware makes of the kernel's own target. Runs in the machine of `make lio`, with a node beside it."""

import os
from pathlib import Path

from bmi.drivers import Site
from bmi.drivers.target.lio import LioTarget
from bmi.run import run
from bmi.wait import wait_until
from tests.lio.firmware import PORTAL, boot_sector, export


def test_firmware_boots_from_its_disk_and_writes_to_it(tmp_path: Path) -> None:
    """iPXE takes what is offered at log-in, proves itself with CHAP, runs what it reads, and that writes."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(boot_sector())
    os.truncate(
        disk, 64 << 20
    )  # firmware counts cylinders, of 8 MB each: it reads nothing of a disk without one
    served = export(disk)
    run(["ip", "address", "add", f"{PORTAL.address}/24", "dev", "eth0"])
    run(["ip", "link", "set", "eth0", "up"])
    target = LioTarget({}, Site(tmp_path, "0a1b2c3d"))
    target.serve(PORTAL, [served])
    wait_until(
        lambda: written_behind(disk) == boot_sector(),
        deadline=200,
        what="the node's write",
        next_step="look at the node's screen",
    )
    (session,) = target.sessions(PORTAL.id)
    assert (session.iqn, session.initiator, session.address) == (served.iqn, served.initiator, "10.66.0.2")
    assert target.remove(PORTAL.id, served.iqn).initiators == (served.initiator,)
    target.stop(PORTAL.id)
    target.close()


def written_behind(disk: Path) -> bytes:
    """Return the second sector."""
    with disk.open("rb") as file:
        file.seek(512)
        return file.read(512)
