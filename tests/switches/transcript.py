"""What is sent to each kind of switch, written down.

`.venv/bin/python -m tests.switches.transcript` writes the files anew; read the difference before you commit it.
"""

import tempfile
from contextlib import closing
from pathlib import Path

from bmi.drivers import Site, load
from bmi.drivers.switch import ISOLATED, PortVlans
from tests.switches import BOXES
from tests.switches.server import listening

FOLDER = Path(__file__).parents[1] / "integration" / "switches" / "transcripts"

STEPS = (
    ("native: VLAN 101", PortVlans(101)),
    ("change: VLAN 102", PortVlans(102)),
    (
        "native and tagged: VLAN 101, VLANs 201 to 203 and 300 tagged",
        PortVlans(101, frozenset({201, 202, 203, 300})),
    ),
    ("tagged: VLANs 201 and 300", PortVlans(None, frozenset({201, 300}))),
    ("isolate", ISOLATED),
)


def transcript(dialect: str, folder: Path) -> str:
    """Return every line that a switch is sent: log-in, each step, reading all ports."""
    with listening(BOXES[dialect]()) as rack:
        made = load("switch", "netmiko", rack.options(folder, dialect), Site(folder, "0badcafe"))
        with closing(made) as driver:
            driver.ports()
            parts = [("log in, and read all ports", list(rack.heard))]
            for title, vlans in STEPS:
                if dialect == "dell_os10" and vlans.tagged and vlans.native is None:
                    continue  # refused before anything is sent
                rack.heard.clear()
                driver.configure(rack.box.ports[0], vlans)
                parts.append((title, list(rack.heard)))
    return "\n".join(f"# {title}\n" + "".join(f"{line}\n" for line in lines) for title, lines in parts)


if __name__ == "__main__":
    for name in BOXES:
        with tempfile.TemporaryDirectory() as temporary:
            (FOLDER / f"{name}.txt").write_text(transcript(name, Path(temporary)))
