import pytest

from bmi.api.hardware import Neighbour
from bmi.discovery import lldp
from tests.unit.discovery.reports import element, frame

HEAD = bytes.fromhex("0180c200000e02000000000188cc")


def test_a_switch_names_itself_and_its_port() -> None:
    found = lldp.parse(frame("tor1.example.org", "Gi1/0/7", description="node 7"))
    assert found == Neighbour(
        switch="tor1.example.org", chassis="02:00:00:00:00:01", port="Gi1/0/7", description="node 7"
    )


def test_a_tagged_frame_is_read_too() -> None:
    plain = frame()
    tagged = plain[:12] + bytes.fromhex("81000064") + plain[12:]
    assert lldp.parse(tagged) == lldp.parse(plain)


def test_a_frame_cut_after_what_names_the_port_is_enough() -> None:
    whole = frame(description="x" * 400)
    found = lldp.parse(whole[:60])
    assert found is not None
    assert (found.port, found.switch) == ("port7", "")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        HEAD,
        HEAD[:-2] + b"\x08\x00" + b"\0" * 40,
        HEAD + element(1, b"\x04\2\0\0\0\0\1"),  # no port
        HEAD + element(2, b"\x05port7"),  # no chassis
        HEAD + element(1, b"") + element(2, b""),
        HEAD + b"\x03\xff" + b"\0" * 10,  # longer than the frame
        HEAD + element(0, b"") + element(1, b"\x07x") + element(2, b"\x07y"),  # after the end
    ],
)
def test_what_is_no_frame_of_a_switch_is_none(data: bytes) -> None:
    assert lldp.parse(data) is None


def test_control_characters_do_not_get_through_and_names_are_bounded() -> None:
    found = lldp.parse(frame("\x1b[2Jtor\n1", "p" * 300))
    assert found is not None
    assert (found.switch, found.port) == ("[2Jtor1", "p" * 100)


def test_ids_that_are_addresses_are_written_as_such() -> None:
    chassis = element(1, b"\x05\x01\x0a\0\0\1")
    found = lldp.parse(HEAD + chassis + element(2, b"\x03\2\0\0\0\0\2"))
    assert found is not None
    assert (found.chassis, found.port) == ("10.0.0.1", "02:00:00:00:00:02")


@pytest.mark.parametrize("content", [b"\x05\x01\x0a", b"\x05\x02\x0a\0\0\1", b"\x04\2\0", b"\x05"])
def test_odd_ids_break_nothing(content: bytes) -> None:
    found = lldp.parse(HEAD + element(1, content) + element(2, b"\x05p1"))
    assert found is None or found.port == "p1"


def test_any_bytes_break_nothing() -> None:
    data = frame()
    for place in range(len(data)):
        for value in (0, 1, 0x7F, 0xFF):
            lldp.parse(data[:place] + bytes([value]) + data[place + 1 :])
