import pytest

from bmi.api.hardware import Neighbour
from bmi.api.nodes import Nic
from bmi.discovery.cabling import contradiction, place_of
from bmi.settings import Settings

PORTS = {"tor1": ["GigabitEthernet1/0/7", "GigabitEthernet1/0/8", "Gi1/0/70"], "tor2": ["port7", "port8"]}


@pytest.fixture
def settings() -> Settings:
    return Settings.model_validate(
        {
            "switches": {
                "tor1": {"driver": "memory", "lldp_name": "rack1-switch"},
                "tor2": {"driver": "memory"},
                "tor3": {"driver": "memory", "lldp_name": "02:00:00:00:00:03"},
            }
        }
    )


def heard(switch: str, port: str, *, chassis: str = "02:00:00:00:00:01", description: str = "") -> Neighbour:
    return Neighbour(switch=switch, chassis=chassis, port=port, description=description)


@pytest.mark.parametrize(
    ("neighbour", "place"),
    [
        (heard("rack1-switch", "Gi1/0/7"), ("tor1", "GigabitEthernet1/0/7")),
        (heard("RACK1-switch.example.org", "gigabitethernet1/0/8"), ("tor1", "GigabitEthernet1/0/8")),
        (heard("rack1-switch", "12", description="Gi1/0/8"), ("tor1", "GigabitEthernet1/0/8")),
        (heard("tor2", "port7"), ("tor2", "port7")),
        (heard("tor1", "Gi1/0/7"), None),  # it calls itself otherwise
        (heard("tor2", "port9"), None),
        (heard("tor2", ""), None),
        (heard("phone", "port7"), None),
        (heard("", "port7", chassis="02:00:00:00:00:03"), None),  # its ports are not known
    ],
)
def test_a_neighbour_is_a_port_of_a_switch_of_the_settings(
    settings: Settings, neighbour: Neighbour, place: tuple[str, str] | None
) -> None:
    assert place_of(settings, PORTS, neighbour) == place


def test_a_switch_may_be_known_by_its_chassis(settings: Settings) -> None:
    neighbour = heard("", "port1", chassis="02:00:00:00:00:03")
    assert place_of(settings, {"tor3": ["port1"]}, neighbour) == ("tor3", "port1")


def test_a_name_that_may_be_two_ports_is_none(settings: Settings) -> None:
    ports = {"tor2": ["Te1/1", "TenGigE1/1"]}
    assert place_of(settings, ports, heard("tor2", "TenGigabitEthernet1/1")) == ("tor2", "Te1/1")
    assert place_of(settings, ports, heard("tor2", "T1/1")) is None


@pytest.mark.parametrize(
    ("neighbours", "port", "words"),
    [
        ([heard("tor2", "port8")], "port7", "hears port port8 of switch tor2"),
        ([heard("rack1-switch", "Gi1/0/7")], "port7", "hears port GigabitEthernet1/0/7 of switch tor1"),
        ([heard("tor2", "port7")], "port7", None),
        ([heard("tor2", "port8"), heard("tor2", "port7")], "port7", None),  # a hub in between
        ([heard("phone", "1")], "port7", None),
        ([], "port7", None),
    ],
)
def test_wrong_cabling(settings: Settings, neighbours: list[Neighbour], port: str, words: str | None) -> None:
    nic = Nic(mac="52:54:00:11:22:33", switch="tor2", port=port)
    found = contradiction(settings, PORTS, nic, neighbours)
    if words is None:
        assert found is None
    else:
        assert found is not None
        assert words in found.message
        assert f"port {port} of switch tor2" in found.next_step
