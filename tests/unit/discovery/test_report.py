from contextlib import suppress
from uuid import UUID

import pytest

from bmi.discovery import report
from bmi.errors import BadRequest
from tests.unit.discovery.reports import MAC, OTHER, REPORT, frame, reported


def test_a_machine_tells_what_it_consists_of() -> None:
    told = report.parse(REPORT.encode())
    found = told.hardware
    assert told.mac == MAC
    assert (found.firmware, found.vendor, found.serial) == ("bios", "QEMU", "S-1")
    assert found.uuid == UUID("6ab2f0a6-5f6c-4c4e-9a57-4f3a5ed3b4a1")
    assert (found.cpus, found.memory) == (2, 481284 * 1024)
    assert [(disk.name, disk.kind, disk.size, disk.model, disk.serial) for disk in found.disks] == [
        ("vda", "hdd", 64 << 20, "", "scratch"),
        ("sda", "ssd", 1000204886016, "SAMSUNG MZ7LH960", "S45N"),
        ("nvme0n1", "nvme", 960197124096, "INTEL SSDPE2KX010T8", "PHLJ"),
    ]
    assert [(card.mac, card.driver, card.link, card.speed) for card in found.cards] == [
        (MAC, "virtio_net", True, None),
        (OTHER, "e1000", False, None),
    ]
    assert found.bmc_address is None


def test_what_cards_heard_is_theirs_and_each_neighbour_stands_there_once() -> None:
    heard = [("eth0", frame()), ("eth0", frame()), ("eth1", frame(port="port8")), ("eth9", frame())]
    cards = report.parse(reported(heard=heard)).hardware.cards
    assert [[one.port for one in card.neighbours] for card in cards] == [["port7"], ["port8"]]


def test_a_flood_of_neighbours_is_cut() -> None:
    heard = [("eth0", frame(port=f"p{number}")) for number in range(300)]
    assert len(report.parse(reported(heard=heard)).hardware.cards[0].neighbours) == 4


@pytest.mark.parametrize(
    ("said", "known"), [("10.1.2.3", "10.1.2.3"), ("0.0.0.0", None), ("127.0.0.1", None), ("x", None)]
)
def test_address_of_the_management_controller(said: str, known: str | None) -> None:
    assert report.parse(REPORT.encode() + f"bmc\t{said}\n".encode()).hardware.bmc_address == known


@pytest.mark.parametrize("uuid", ["00000000-0000-0000-0000-000000000000", "f" * 32, "none", ""])
def test_a_uuid_that_says_nothing_is_none(uuid: str) -> None:
    text = REPORT.replace("6ab2f0a6-5f6c-4c4e-9a57-4f3a5ed3b4a1", uuid)
    assert report.parse(text.encode()).hardware.uuid is None


def test_control_characters_and_long_words_do_not_get_through() -> None:
    text = REPORT.replace("QEMU\n", "\x1b[31mEvil\x07\u202e" + "x" * 500 + "\n").replace("481284", "9" * 40)
    found = report.parse(text.encode()).hardware
    assert found.vendor == "[31mEvil" + "x" * 92
    assert found.memory == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"bmi-inspection\t2\n",
        b"bmi-inspection\t1\n",
        b"\xff\xfe" * 100,
        REPORT.replace(f"boot\t{MAC}", "boot\t52:54:00:99:99:99").encode(),
        REPORT.replace(f"eth1\t{OTHER}", "eth1\tno-mac").encode(),
        REPORT.encode() + b"card\teth2\n",
        REPORT.encode() + b"x\ty\n" * 700,
        REPORT.encode() + b"vendor\t" + b"y" * 5000,
    ],
)
def test_what_has_not_the_form_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        report.parse(body)


def test_cards_and_disks_are_bounded() -> None:
    cards = "".join(f"card\ten{n}\t02:00:00:00:00:{n:02x}\tx\t1\t1000\n" for n in range(100))
    disks = "".join(f"disk\tsd{n}\t1\t0\tm\ts\n" for n in range(400))
    found = report.parse((REPORT + cards + disks).encode()).hardware
    assert (len(found.cards), len(found.disks)) == (32, 256)


def test_a_cut_report_is_refused_or_read() -> None:
    whole = reported(heard=[("eth0", frame())])
    for length in range(0, len(whole), 7):
        with suppress(BadRequest):
            assert report.parse(whole[:length]).mac == MAC
