"""What firmware makes of the kernel's own target. Runs in the machine of `make lio`, with a node beside it."""

from pathlib import Path

from bmi.drivers import Site
from bmi.drivers.target.lio import LioTarget
from bmi.run import run
from bmi.wait import wait_until
from tests.lio.firmware import PORTAL, boot_sector, export


def test_firmware_boots_from_its_disk_and_writes_to_it(tmp_path: Path) -> None:
    """iPXE takes what is offered at log-in, proves itself with CHAP, runs what it reads, and that writes."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(boot_sector().ljust(1 << 20, b"\0"))
    served = export(disk)
    run(["ip", "address", "add", f"{PORTAL.address}/24", "dev", "eth0"])
    run(["ip", "link", "set", "eth0", "up"])
    target = LioTarget({}, Site(tmp_path, "0a1b2c3d"))
    target.serve(PORTAL, [served])
    wait_until(
        lambda: disk.read_bytes()[512:1024] == boot_sector(),
        deadline=150,
        what="the node's write",
        next_step="look at the node's screen",
    )
    (session,) = target.sessions(PORTAL.id)
    assert (session.iqn, session.initiator, session.address) == (served.iqn, served.initiator, "10.66.0.2")
    assert target.remove(PORTAL.id, served.iqn).initiators == (served.initiator,)
    target.stop(PORTAL.id)
    target.close()
