"""Drivers that say "done" and did nothing, one verb at a time."""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

import pytest

from bmi.drivers import Outcome, Site, load
from bmi.drivers.confirmed import confirmed
from bmi.drivers.power import Bmc, BootDevice
from bmi.drivers.storage import Backing, Kind, Volume
from bmi.drivers.switch import PortVlans
from bmi.drivers.target import Export, Lun, Portal, Removal
from bmi.errors import Unconfirmed
from bmi.ids import new_id

IMAGE, DISK, SEED, NETWORK, PORTAL = (new_id() for _ in range(5))
BMC = Bmc("bmc", "u", "secret")
EXPORT = Export("iqn.x:a", "iqn.x:n", "u", "123456789012", (Lun(1, Backing("file", "/x")),))


def nothing(*_: object) -> None:
    """Say nothing about what was done."""


def import_image(storage: Any, raw: Path) -> None:
    storage.import_image(IMAGE, raw, nothing)


def with_disk(storage: Any, raw: Path) -> None:
    import_image(storage, raw)
    storage.clone(IMAGE, DISK)


def serving(target: Any, raw: Path) -> None:
    target.serve(Portal(PORTAL, IPv4Address("10.0.0.1"), 3260), [EXPORT])


LIES: list[tuple[str, str, Callable[[Any, Path], None], Callable[[Any, Path], object]]] = [
    # family, verb, what is there before, what is asked for
    ("storage", "import_image", nothing, import_image),
    ("storage", "clone", import_image, lambda s, raw: s.clone(IMAGE, DISK)),
    ("storage", "snapshot", with_disk, lambda s, raw: s.snapshot(DISK, SEED)),
    ("storage", "copy", import_image, lambda s, raw: s.copy(IMAGE, SEED)),
    ("storage", "adopt", nothing, lambda s, raw: s.adopt(IMAGE, "x")),
    ("storage", "grow", with_disk, lambda s, raw: s.grow(DISK, 2 << 20)),
    ("storage", "write_seed", nothing, lambda s, raw: s.write_seed(SEED, b"x")),
    ("storage", "remove", with_disk, lambda s, raw: s.remove(Volume(Kind.DISK, DISK))),
    ("target", "serve", nothing, serving),
    ("target", "remove", serving, lambda t, raw: t.remove(PORTAL, EXPORT.iqn)),
    ("target", "stop", serving, lambda t, raw: t.stop(PORTAL)),
    ("switch", "configure", nothing, lambda s, raw: s.configure("port1", PortVlans(native=7))),
    ("power", "on", nothing, lambda p, raw: p.on(BMC)),
    ("power", "off", lambda p, raw: p.on(BMC), lambda p, raw: p.off(BMC)),
    ("power", "boot_from", nothing, lambda p, raw: p.boot_from(BMC, BootDevice.NETWORK)),
    (
        "power",
        "reset_boot",
        lambda p, raw: p.boot_from(BMC, BootDevice.NETWORK),
        lambda p, raw: p.reset_boot(BMC),
    ),
    ("power", "reset_boot", lambda p, raw: p.insert(BMC, "x.iso"), lambda p, raw: p.reset_boot(BMC)),
    ("leg", "up", nothing, lambda g, raw: g.up(NETWORK, 7, IPv4Interface("10.0.0.1/24"))),
    (
        "leg",
        "down",
        lambda g, raw: g.up(NETWORK, 7, IPv4Interface("10.0.0.1/24")),
        lambda g, raw: g.down(NETWORK),
    ),
]


@pytest.mark.parametrize(("family", "verb", "before", "ask"), LIES, ids=[f"{f}-{v}" for f, v, _, _ in LIES])
def test_a_lie_is_noticed_and_the_truth_is_believed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    verb: str,
    before: Callable[[Any, Path], None],
    ask: Callable[[Any, Path], object],
) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(1 << 20))
    real = load(family, "memory", {}, Site(tmp_path, "0badcafe"))
    if family == "storage":
        real.prepare()
    driver = confirmed(family, real)
    before(driver, raw)
    answer = Removal(Outcome.DONE) if (family, verb) == ("target", "remove") else Outcome.DONE
    with monkeypatch.context() as lying:
        lying.setattr(real, verb, lambda *_, **__: answer)
        with pytest.raises(Unconfirmed) as failure:
            ask(driver, raw)
    assert failure.value.transient
    if verb != "adopt":
        ask(driver, raw)


def test_what_only_reads_is_passed_on(tmp_path: Path) -> None:
    power = confirmed("power", load("power", "memory", {}, Site(tmp_path, "0badcafe")))
    power.boot_from(BMC, BootDevice.DISK)
    assert power.boots_from(BMC) is BootDevice.DISK
