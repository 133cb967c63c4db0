"""What an installation's things are called among those of the kernel's target.

The kernel's target keeps its state in configfs, as folders, and in nothing else. So what belongs to which portal
has to be seen from the folders' names: every backstore is named after its installation, portal, LUN and export, is
made before the export's target and removed after it. A portal itself is a target that nobody can log in at: its
anchor.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

CONFIGFS = Path("/sys/kernel/config")
TARGET = CONFIGFS / "target"
ISCSI = TARGET / "iscsi"
_CORE = TARGET / "core"

LONGEST_IQN = 200
"""Characters of an export's name that leave room for the rest in a backstore's (255, NAME_MAX)."""

_ANCHOR = "iqn.2026-01.internal.bmi:portal"
_BACKSTORE = re.compile(r"bmi-([0-9a-f]{8})-([0-9a-f]{32})-([0-9]{1,3})-(.+)")


@dataclass(frozen=True)
class Backstore:
    """What stands behind one LUN of an export."""

    folder: Path
    portal: UUID
    lun: int
    iqn: str

    @property
    def index(self) -> int:
        """The number of its adapter, a folder of configfs that is made for this backstore alone."""
        return int(self.folder.parent.name.rpartition("_")[2])


def anchor(mark: str, portal: UUID) -> str:
    """Return the name of the target that holds a portal's address."""
    return f"{_ANCHOR}.{mark}.{portal}"


def anchors(mark: str) -> Iterator[UUID]:
    """List the portals of an installation that have an anchor."""
    for folder in ISCSI.glob(f"{_ANCHOR}.{mark}.*"):
        yield UUID(folder.name.rpartition(".")[2])


def backstore(mark: str, portal: UUID, iqn: str, lun: int) -> str:
    """Return the name of a LUN's backstore."""
    return f"bmi-{mark}-{portal.hex}-{lun}-{iqn}"


def backstores(mark: str) -> Iterator[Backstore]:
    """List an installation's backstores."""
    for folder in _CORE.glob(f"fileio_*/bmi-{mark}-*"):
        if found := _BACKSTORE.fullmatch(folder.name):
            yield Backstore(folder, UUID(found[2]), int(found[3]), found[4])


def free_index(name: str) -> int:
    """Return a number for a new backstore's adapter, one that two processes at once do not both take."""
    index = int(hashlib.blake2b(name.encode(), digest_size=4).hexdigest(), 16) >> 1
    while (_CORE / f"fileio_{index}").exists():
        index += 1
    return index


def tpg(iqn: str) -> Path:
    """Return the folder of a target's one portal group."""
    return ISCSI / iqn / "tpgt_1"
