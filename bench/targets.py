"""How fast a disk is behind the kernel's own target, beside tgt. One JSON object a line.

make lio ARGS=--bench

It runs in the virtual machine of `tests.lio`, whose processor is emulated: compare the ratios, not the figures.
Rounds of both targets take turns, so that other work on the machine hits both alike.
"""

import re
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

from bench.output import emit
from bmi.drivers import Site
from bmi.drivers.storage import Backing
from bmi.drivers.target import Export, Lun, Portal, Target
from bmi.drivers.target.lio import LioTarget
from bmi.drivers.target.tgt import TgtTarget
from bmi.ids import new_id
from bmi.run import run

MIB = 1 << 20
SIZE = 128 * MIB
ROUNDS = 3
SECONDS = 8  # of each read
WRITES = 300

_USER, _SECRET = "bench", "bench-secret-1"
_INITIATOR = "iqn.2008-11.org.linux-kvm"  # as qemu-img calls itself, whatever it is told

_ENVIRONMENT = {"LIBISCSI_CHAP_USERNAME": _USER, "LIBISCSI_CHAP_PASSWORD": _SECRET}


def main() -> int:
    """Run all measurements."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        targets: dict[str, Target] = {
            "tgt": TgtTarget({}, Site(folder / "tgt", "0a1b2c3d")),
            "lio": LioTarget({}, Site(folder / "lio", "0a1b2c3e")),
            "lio write_back": LioTarget({"write_back": True}, Site(folder / "cached", "0a1b2c3f")),
        }
        served = {
            name: _serve(target, folder, number) for number, (name, target) in enumerate(targets.items())
        }
        try:
            for what, unit, call, names in _KINDS:
                found: dict[str, list[float]] = defaultdict(list)
                for _ in range(ROUNDS):
                    for each in names:
                        found[each].append(call(*served[each]))
                base = statistics.median(found["tgt"])
                for each in names:
                    value = statistics.median(found[each])
                    emit(f"{what}, {each}", value, unit, times_tgt=round(value / base, 2))
        finally:
            for each, target in targets.items():
                target.stop(served[each][0].id)
                target.close()
    return 0


def _serve(target: Target, folder: Path, number: int) -> tuple[Portal, Export]:
    disk = folder / f"{number}.img"
    with disk.open("wb") as file:
        for _ in range(SIZE // MIB):
            file.write(b"\x5a" * MIB)
    export = Export(
        f"iqn.2026-01.org.example:disk-{number}",
        _INITIATOR,
        _USER,
        _SECRET,
        (Lun(1, Backing("file", str(disk))),),
    )
    portal = Portal(new_id(), IPv4Address("127.0.0.1"), 3260 + number)
    target.serve(portal, [export])
    return portal, export


def _reads(blocks: int, depth: int, *options: str) -> Callable[[Portal, Export], float]:
    """Return what measures reads of so many blocks of 512 bytes, so many at a time, in reads a second."""

    def measure(portal: Portal, export: Export) -> float:
        words = ["iscsi-perf", "-i", _INITIATOR, "-b", str(blocks), "-m", str(depth), "-t", str(SECONDS)]
        shown = run([*words, *options, f"iscsi://{portal}/{export.iqn}/1"], env=_ENVIRONMENT, timeout=60)
        return float(re.findall(r"iops average (\d+)", shown)[-1])

    return measure


def _writes(portal: Portal, export: Export) -> float:
    """Return writes of 4 KiB a second, one at a time, each answered before the next."""
    words = ["qemu-img", "bench", "-f", "raw", "-w", "-t", "none", "-c", str(WRITES), "-d", "1", "-s", "4096"]
    words.append(f"iscsi://{portal}/{export.iqn}/1")
    began = time.monotonic()
    run(words, env=_ENVIRONMENT, timeout=120)
    return WRITES / (time.monotonic() - began)


_KINDS = (
    ("4 KiB random reads, one at a time", "1/s", _reads(8, 1, "-r"), ("tgt", "lio")),
    ("4 KiB random reads, 32 at a time", "1/s", _reads(8, 32, "-r"), ("tgt", "lio")),
    ("1 MiB reads in order, 8 at a time", "MiB/s", _reads(2048, 8), ("tgt", "lio")),
    ("4 KiB writes, one at a time", "1/s", _writes, ("tgt", "lio", "lio write_back")),
)


if __name__ == "__main__":
    sys.exit(main())
