from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from bmi.boot.leases import Lease, drop_stale, leases, stale

TIME = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
MAC = "52:54:00:aa:bb:01"
OWN = IPv4Address("10.66.0.1")
RANGE = (IPv4Address("10.66.0.100"), IPv4Address("10.66.0.199"))
END = "duid 00:04" + ":00" * 16
STAMP = str(int(TIME.timestamp()))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "leases"


@pytest.mark.parametrize(
    "line",
    [
        f"{STAMP} {MAC} {OWN} node-1 01:52:54:00:aa:bb:01",
        f"{STAMP} {MAC} {OWN} * *",
        f"{STAMP} {MAC.upper()} {OWN} * *",
        f"{STAMP} 01-{MAC} {OWN} * *",
        f"{STAMP}  {MAC}  {OWN}  a name that has blanks  *",
        f"{STAMP} {MAC} {OWN}",
    ],
)
def test_a_lease_is_read_whatever_stands_for_name_and_client(file: Path, line: str) -> None:
    file.write_text(f"{line}\n{END}\n")
    assert leases(file) == [Lease(MAC, OWN, TIME)]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "soon",
        f"x {MAC} {OWN} * *",
        f"{STAMP} 52:54:00 {OWN} * *",
        f"{STAMP} {MAC} 10.66.0.256 * *",
        f"{'9' * 40} {MAC} {OWN} * *",
    ],
)
def test_what_is_no_lease_is_passed_over(file: Path, line: str) -> None:
    file.write_text(f"{line}\n{STAMP} {MAC} {OWN} * *\n{END}\n")
    assert leases(file) == [Lease(MAC, OWN, TIME)]


def test_a_lease_stands_by_a_reservation_or_by_the_range_for_strangers(file: Path) -> None:
    stranger, inside, outside = "52:54:00:bb:bb:bb", RANGE[0], IPv4Address("10.66.0.9")
    lines = [(MAC, OWN), (stranger, inside), (MAC, RANGE[1]), (stranger, outside)]
    file.write_text("".join(f"{STAMP} {mac} {address} * *\n" for mac, address in lines) + f"{END}\n")
    reserved = {(MAC, OWN)}
    assert [(lease.mac, lease.address) for lease in stale(file, reserved, RANGE)] == [
        (MAC, RANGE[1]),
        (stranger, outside),
    ]
    assert len(stale(file, reserved)) == 3
    drop_stale(file, reserved, RANGE)
    assert [(lease.mac, lease.address) for lease in leases(file)] == lines[:2]
