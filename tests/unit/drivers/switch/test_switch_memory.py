from pathlib import Path

import pytest

from bmi.drivers import Site
from bmi.drivers.switch import ISOLATED, PortVlans
from bmi.drivers.switch.memory import MemorySwitch
from bmi.errors import SettingsInvalid, SwitchPortUnknown


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path, "0badcafe")


def test_a_switch_has_48_ports_unless_told_otherwise(site: Site) -> None:
    ports = [state.port for state in MemorySwitch({}, site).ports()]
    assert (ports[0], ports[-1], len(ports)) == ("port1", "port48", 48)
    assert [state.port for state in MemorySwitch({"ports": ["a", "b"]}, site).ports()] == ["a", "b"]


def test_switches_of_different_names_are_different(site: Site) -> None:
    one, other = MemorySwitch({"name": "one"}, site), MemorySwitch({"name": "other"}, site)
    one.configure("port1", PortVlans(5))
    assert other.port("port1").vlans == ISOLATED


def test_a_port_that_was_taken_out_of_the_options_is_gone(site: Site) -> None:
    MemorySwitch({"ports": ["a", "b"]}, site).configure("a", PortVlans(5))
    switch = MemorySwitch({"ports": ["b"]}, site)
    assert [state.port for state in switch.ports()] == ["b"]
    with pytest.raises(SwitchPortUnknown):
        switch.port("a")


@pytest.mark.parametrize("name", ["../x", "", "a/b"])
def test_a_name_that_is_no_file_s_is_refused(site: Site, name: str) -> None:
    with pytest.raises(SettingsInvalid, match="name"):
        MemorySwitch({"name": name}, site)
