"""How the doctor looks at many things in a bounded time."""

import threading
import time

import pytest

from bmi.api.doctor import Family, Severity
from bmi.doctor.codes import Code
from bmi.doctor.sheet import Check, Sheet, carry_out
from bmi.errors import SwitchError


def test_what_fails_is_a_finding_and_the_rest_is_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(_: Sheet) -> None:
        raise SwitchError("switch sw1 is silent", next_step="look at its cable")

    def break_down(_: Sheet) -> None:
        raise KeyError("x")

    sheet = Sheet()
    checks = [
        Check(Family.SWITCH, "sw1", refuse),
        Check(Family.LEG, "legs", break_down),
        Check(Family.STORAGE, "room", lambda sheet: sheet.note(Code.STORAGE_NEARLY_FULL, "storage", "...")),
    ]
    carry_out(sheet, checks, deadline=10)
    legs, switch, room = sheet.findings
    assert (switch.code, switch.family, switch.thing) == ("unreadable", Family.SWITCH, "sw1")
    assert (switch.message, switch.next_step) == (
        "cannot be looked at: switch sw1 is silent",
        "look at its cable",
    )
    assert (legs.code, legs.family) == ("unreadable", Family.LEG)
    assert "KeyError" in caplog.text
    assert room.severity is Severity.WARNING


def test_what_hangs_is_a_finding_when_the_time_is_over() -> None:
    hanging = threading.Event()
    sheet = Sheet()
    checks = [
        Check(Family.POWER, f"node n{number}", lambda _: hanging.wait(30) and None, late=Code.BMC_UNREACHABLE)
        for number in (1, 2)
    ]
    checks.append(Check(Family.STORAGE, "volumes", lambda sheet: sheet.count("disks", 3)))
    begun = time.monotonic()
    carry_out(sheet, checks, deadline=0.3)
    assert time.monotonic() - begun < 5
    hanging.set()
    assert [(one.code, one.thing) for one in sheet.findings] == [
        ("bmc-unreachable", "node n1"),
        ("bmc-unreachable", "node n2"),
    ]
    assert sheet.inventory.disks == 3


def test_few_at_a_time_come_to_all_of_them() -> None:
    sheet = Sheet()
    checks = [
        Check(Family.STORAGE, str(number), lambda sheet: sheet.count("disks", 1)) for number in range(50)
    ]
    carry_out(sheet, checks, deadline=30, width=3)
    assert sheet.inventory.disks == 50


def test_the_same_thing_counts_once_and_errors_come_first() -> None:
    sheet = Sheet()
    sheet.note(Code.CLOCK_OFF, "clock", "is off")
    sheet.note(Code.LEG_MISSING, "network a", "once")
    sheet.note(Code.LEG_MISSING, "network a", "again")
    assert [one.code for one in sheet.findings] == ["leg-missing", "clock-off"]
