"""The log as events. The lines were written by dnsmasq 2.90; only their times are set here."""

from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from bmi.boot.dhcp_log import BootEvent, Kind, LogReader

NOW = datetime.now(UTC).replace(microsecond=0)
MAC = "52:54:00:66:00:01"

IPXE_DISCOVERS = f"""\
175439055 available DHCP subnet: 10.66.0.0/255.255.255.0
175439055 vendor class: PXEClient:Arch:00000:UNDI:002001
175439055 user class: iPXE
175439055 DHCPDISCOVER(eth0) {MAC}\x20
175439055 tags: n01, known, ipxe, bios, eth0
175439055 DHCPOFFER(eth0) 10.66.0.11 {MAC}\x20
175439055 sent size: 51 option: 67 bootfile-name  http://10.66.0.254:8080/boot/x/y/script.ipxe
"""
FIRMWARE_GETS = f"""\
1687437170 available DHCP subnet: 10.66.0.0/255.255.255.0
1687437170 vendor class: PXEClient:Arch:00007:UNDI:003016
1687437170 DHCPREQUEST(eth0) 10.66.0.11 {MAC}\x20
1687437170 tags: n01, known, efi64, eth0
1687437170 DHCPACK(eth0) 10.66.0.11 {MAC}\x20
"""
SYSTEM_GETS = f"""\
3270936747 available DHCP subnet: 10.66.0.0/255.255.255.0
3270936747 DHCPREQUEST(eth0) 10.66.0.11 {MAC}\x20
3270936747 DHCPACK(eth0) 10.66.0.11 {MAC}\x20
"""
UNKNOWN_ASKS = """\
3322589719 available DHCP subnet: 10.66.0.0/255.255.255.0
3322589719 DHCPDISCOVER(eth0) 52:54:00:66:00:99 ignored
"""


class Log:
    """A log as dnsmasq writes it, and how BMI reads it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "dnsmasq.log"
        self.position = folder / "log.position"

    def write(self, text: str, *, at: datetime = NOW, part: str = "dhcp") -> None:
        stamp = f"{at:%b} {at.day:2} {at:%H:%M:%S}"
        self.append("".join(f"{stamp} dnsmasq-{part}[1642]: {line}\n" for line in text.splitlines()))

    def append(self, text: str) -> None:
        with self.path.open("a") as file:
            file.write(text)

    def reader(self, limit: int = 1 << 20) -> LogReader:
        return LogReader(self.path, self.position, limit=limit)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def test_no_log_has_no_events(log: Log) -> None:
    reader = log.reader()
    assert reader.read() == []
    reader.commit()
    assert not log.position.exists()


def test_events_say_who_asked_and_when(log: Log) -> None:
    log.write(IPXE_DISCOVERS)
    log.write(FIRMWARE_GETS)
    log.write(SYSTEM_GETS)
    assert log.reader().read() == [
        BootEvent(Kind.DISCOVER, MAC, None, "iPXE", NOW),
        BootEvent(Kind.ACK, MAC, IPv4Address("10.66.0.11"), "UEFI firmware", NOW),
        BootEvent(Kind.ACK, MAC, IPv4Address("10.66.0.11"), "operating system", NOW),
    ]


def test_a_refused_card_is_an_event(log: Log) -> None:
    log.write(UNKNOWN_ASKS)
    log.write(f"7 DHCPNAK(eth0) 10.99.0.5 {MAC} wrong network")
    unknown, wrong = log.reader().read()
    assert (unknown.kind, unknown.mac) == (Kind.REFUSED, "52:54:00:66:00:99")
    assert (wrong.kind, wrong.mac, wrong.detail) == (Kind.REFUSED, MAC, "wrong network")


def test_a_sent_file_is_an_event_with_the_address_only(log: Log) -> None:
    log.write("sent /usr/lib/ipxe/undionly.kpxe to 10.66.0.11", part="tftp")
    log.write("file /usr/lib/ipxe/nothere not found for 10.66.0.11", part="tftp")
    assert log.reader().read() == [
        BootEvent(Kind.SENT, None, IPv4Address("10.66.0.11"), "undionly.kpxe", NOW)
    ]


@pytest.mark.parametrize(
    "line",
    [
        f"1 vendor class: 2 DHCPACK(eth0) 10.66.0.11 {MAC} ",
        f"1 client provides name: x DHCPDISCOVER(eth0) {MAC} ",
        f"1 DHCPACK(eth0) 10.66.0.999 {MAC} ",
        f"1 DHCPRELEASE(eth0) 10.66.0.11 {MAC} ",
        "sent /etc/passwd to 10.66.0.11",
    ],
)
def test_what_a_node_says_of_itself_makes_no_event(log: Log, line: str) -> None:
    log.write(line)
    log.append(f"dnsmasq-dhcp[1]: 1 DHCPACK(eth0) 10.66.0.11 {MAC} \n\0\xff\n")
    assert log.reader().read() == []


def test_repeats_are_one_event_until_some_time_has_passed(log: Log) -> None:
    for seconds in (0, 1, 3, 7, 15):
        log.write(IPXE_DISCOVERS, at=NOW + timedelta(seconds=seconds))
    assert [event.time - NOW for event in log.reader().read()] == [timedelta(0), timedelta(seconds=15)]


def test_repeats_are_told_across_readings(log: Log) -> None:
    reader = log.reader()
    log.write(UNKNOWN_ASKS)
    assert len(reader.read()) == 1
    reader.commit()
    log.write(UNKNOWN_ASKS, at=NOW + timedelta(seconds=20))
    assert reader.read() == []


def test_made_up_cards_cannot_flood_a_timeline(log: Log) -> None:
    start = NOW.replace(second=0)
    for number in range(500):
        log.write(
            UNKNOWN_ASKS.replace(":99", f":{number % 256:02x}").replace("66", f"{number // 256:02x}"),
            at=start,
        )
    log.write(IPXE_DISCOVERS, at=start)
    events = log.reader().read()
    assert 0 < len([event for event in events if event.kind is Kind.REFUSED]) < 50
    assert events[-1].kind is Kind.DISCOVER


def test_what_was_not_committed_comes_again(log: Log) -> None:
    log.write(IPXE_DISCOVERS)
    reader = log.reader()
    first = reader.read()
    assert reader.read() == first != []
    reader.commit()
    assert reader.read() == []


def test_a_reader_goes_on_where_the_one_before_it_stopped(log: Log) -> None:
    log.write(IPXE_DISCOVERS)
    before = log.reader()
    before.read()
    before.commit()
    log.write(SYSTEM_GETS)
    assert [event.kind for event in log.reader().read()] == [Kind.ACK]


def test_a_line_that_is_not_complete_waits(log: Log) -> None:
    reader = log.reader()
    log.write(SYSTEM_GETS)
    whole = log.path.read_text()
    log.path.write_text(whole[:-10])
    assert reader.read() == []
    reader.commit()
    log.append(whole[-10:])
    assert [event.kind for event in reader.read()] == [Kind.ACK]


def test_a_long_log_is_emptied_once_it_is_dealt_with(log: Log) -> None:
    reader = log.reader(limit=1000)
    log.write(IPXE_DISCOVERS * 10)
    inode = log.path.stat().st_ino
    assert len(reader.read()) == 1
    assert log.path.stat().st_size > 1000
    reader.commit()
    assert log.path.stat().st_size == 0
    assert log.path.stat().st_ino == inode  # dnsmasq has it open
    log.write(SYSTEM_GETS)
    assert [event.kind for event in log.reader(limit=1000).read()] == [Kind.ACK]


def test_a_log_that_somebody_else_emptied_is_read_from_its_start(log: Log) -> None:
    log.write(IPXE_DISCOVERS)
    reader = log.reader()
    reader.read()
    reader.commit()
    log.path.write_text("")
    log.write(SYSTEM_GETS * 9, at=NOW + timedelta(seconds=60))  # longer than before
    assert [event.kind for event in reader.read()] == [Kind.ACK]


def test_a_position_that_cannot_be_read_means_the_start(log: Log) -> None:
    log.write(SYSTEM_GETS)
    log.position.write_text('{"offset": 12')
    assert len(log.reader().read()) == 1


def test_times_of_last_december_are_last_years(log: Log) -> None:
    tomorrow = NOW + timedelta(days=2)
    log.write(SYSTEM_GETS, at=tomorrow)
    (event,) = log.reader().read()
    assert event.time < NOW
    assert (event.time.month, event.time.day) == (tomorrow.month, tomorrow.day)
