"""What each kind of switch is sent, word for word, and what its ports carry meanwhile."""

import itertools
from contextlib import closing
from pathlib import Path

import pytest

from bmi.drivers import Outcome, Site, load
from bmi.drivers.switch import ISOLATED, PortVlans
from tests.switches import BOXES
from tests.switches.server import listening
from tests.switches.transcript import FOLDER, transcript

SETTINGS = (
    ISOLATED,
    PortVlans(101),
    PortVlans(102),
    PortVlans(101, frozenset({201, 202})),
    PortVlans(102, frozenset({101, 202})),
    PortVlans(4000, frozenset({7, *range(1100, 1400, 2)})),
)


@pytest.mark.parametrize("dialect", BOXES)
def test_what_is_sent_is_what_is_written_down(dialect: str, tmp_path: Path) -> None:
    """After a change on purpose: `.venv/bin/python -m tests.switches.transcript`."""
    assert transcript(dialect, tmp_path) == (FOLDER / f"{dialect}.txt").read_text()


def test_there_is_a_transcript_of_each_dialect_and_no_other() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(BOXES)


@pytest.mark.parametrize("dialect", BOXES)
def test_no_port_ever_carries_vlans_of_its_old_and_its_new_setting_together(
    dialect: str, tmp_path: Path
) -> None:
    with listening(BOXES[dialect]()) as rack:
        options = rack.options(tmp_path / "switch", dialect)
        port, neighbour = rack.box.ports[:2]
        with closing(load("switch", "netmiko", options, Site(tmp_path, "0badcafe"))) as driver:
            driver.configure(neighbour, PortVlans(300))
            for before, after in itertools.permutations(SETTINGS, 2):
                driver.configure(port, before)
                rack.box.history[port].clear()
                assert driver.configure(port, after) is Outcome.DONE
                seen = rack.box.history[port]
                assert seen[-1] == after
                for carried in seen:
                    assert carried.ids <= before.ids or carried.ids <= after.ids, (before, after, carried)
                    assert carried.native in (None, before.native, after.native)
        assert rack.box.history[neighbour] == [ISOLATED, PortVlans(300)]


@pytest.mark.parametrize("dialect", BOXES)
def test_a_session_says_nothing_about_ports_that_it_may_not_touch(dialect: str, tmp_path: Path) -> None:
    with listening(BOXES[dialect]()) as rack:
        options = rack.options(tmp_path / "switch", dialect) | {"ports": rack.box.ports[:2]}
        with closing(load("switch", "netmiko", options, Site(tmp_path, "0badcafe"))) as driver:
            for port in rack.box.ports[:2]:
                driver.configure(port, PortVlans(101, frozenset({201})))
                driver.configure(port, ISOLATED)
            assert [state.port for state in driver.ports()] == list(rack.box.ports[:2])
        for line in rack.heard:
            assert rack.box.uplink not in line
            assert not any(line.partition(";")[0].endswith(port) for port in rack.box.ports[2:])
