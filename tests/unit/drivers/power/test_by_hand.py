"""Nodes that people switch, and units that switch outlets."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bmi.drivers import Site, load
from bmi.drivers.confirmed import confirmed
from bmi.drivers.power import SAID, Bmc, BootDevice, Power, PowerState, pdu
from bmi.drivers.power.manual import ManualPower
from bmi.drivers.power.pdu import PduPower
from bmi.errors import (
    BmcRefused,
    BmcUnreachable,
    CommandFailed,
    ConsoleUnavailable,
    HandNeeded,
    SettingsInvalid,
)
from bmi.lab.node import VirtualNode
from bmi.lab.pdu import CONTROL, STATE, _get, _set
from bmi.lab.testing import power_only

SITE = Site(Path("/nowhere"), "0badcafe")
SECRET = "a secret word"
UNIT = Bmc("pdu7.example", "operator", SECRET, {"outlets": "3, 4"})


def said(state: str | None) -> Bmc:
    return Bmc("rack 3, shelf 2", "", "", {SAID: state} if state else {})


def test_a_node_of_which_nothing_was_said_may_be_on() -> None:
    power = ManualPower({}, SITE)
    assert power.state(said(None)) is PowerState.ON
    assert power.state(said("on")) is PowerState.ON
    assert power.state(said("off")) is PowerState.OFF
    with pytest.raises(HandNeeded):
        power.off(said(None))


def test_an_order_tells_where_to_go_and_waits_for_hours() -> None:
    power: Power = confirmed("power", ManualPower({}, SITE))
    with pytest.raises(HandNeeded, match=r"rack 3, shelf 2 .* switched on by hand.*is-on") as needed:
        power.on(said("off"))
    assert needed.value.transient
    assert needed.value.patience >= 3600
    power.on(said("on"))
    power.off(said("off"))
    power.boot_from(said("on"), BootDevice.NETWORK)  # the firmware's own order
    power.reset_boot(said("on"))
    with pytest.raises(ConsoleUnavailable):
        power.console(said("on"))


def test_a_driver_that_is_older_than_consoles_is_told_of() -> None:
    class Old:
        """Knows no `console`."""

    with pytest.raises(ConsoleUnavailable, match="knows no consoles"):
        confirmed("power", Old()).console(UNIT)


# --- outlets ---------------------------------------------------------------------------------------------

Answer = Callable[[Sequence[str]], str]


@pytest.fixture
def unit(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], list[list[str]]]:
    """Let snmpget and snmpset answer; gives the commands that they got."""

    def answering(answer: Answer) -> list[list[str]]:
        asked: list[list[str]] = []

        def run(argv: Sequence[str], *, env: dict[str, str], **more: Any) -> str:
            conf = Path(env["SNMPCONFPATH"]) / "snmp.conf"
            assert SECRET in conf.read_text()
            assert conf.parent.stat().st_mode & 0o777 == 0o700
            asked.append(list(argv))
            return answer(argv)

        monkeypatch.setattr(pdu, "run", run)
        return asked

    return answering


def driver(**options: Any) -> PduPower:
    return PduPower({"timeout": 0.3, "discharge": 0, **options}, SITE)


def test_the_password_is_in_a_file_and_in_no_argument(unit: Any) -> None:
    asked = unit(lambda argv: "2\n2\n")
    assert driver().state(UNIT) is PowerState.OFF
    assert driver(version="2c").state(UNIT) is PowerState.OFF
    assert SECRET not in str(asked)
    assert asked[0][asked[0].index("-l") + 1] == "authPriv"
    assert "-u" not in asked[1]
    assert asked[0][-2:] == [f"1.3.6.1.4.1.318.1.1.12.3.5.1.1.4.{outlet}" for outlet in (3, 4)]


def test_a_node_is_off_only_when_all_its_outlets_are(unit: Any) -> None:
    states = {"3": "1", "4": "2"}

    def answer(argv: Sequence[str]) -> str:
        if argv[0] == "snmpget":
            return "\n".join(states.values())
        states[argv[-3].rpartition(".")[2]] = argv[-1]
        return argv[-1]

    asked = unit(answer)
    assert driver().state(UNIT) is PowerState.ON
    driver().off(UNIT)
    assert states == {"3": "2", "4": "2"}
    driver().on(UNIT)
    assert states == {"3": "1", "4": "1"}
    sets = [argv[-3].rpartition(".")[2] for argv in asked if argv[0] == "snmpset"]
    assert sets == ["3", "3", "4"]  # what was so already is left alone


def test_a_unit_that_takes_an_order_and_does_nothing_is_found_out(unit: Any) -> None:
    unit(lambda argv: "2\n2\n" if argv[0] == "snmpget" else "1")
    with pytest.raises(BmcRefused, match=r"asked to switch on outlets 3, 4, and does not report that"):
        driver().on(UNIT)


def test_an_order_without_an_answer_may_have_been_carried_out(unit: Any) -> None:
    states = ["2", "2"]

    def answer(argv: Sequence[str]) -> str:
        if argv[0] == "snmpget":
            return " ".join(states)
        states[int(argv[-3].rpartition(".")[2]) - 3] = "1"
        raise CommandFailed("Timeout: No Response from pdu7.example", next_step="-")

    unit(answer)
    driver().on(UNIT)
    assert states == ["1", "1"]


@pytest.mark.parametrize(
    ("stderr", "kind"),
    [
        ("snmpget: Timeout", BmcUnreachable),
        ("snmpget: Unknown host (pdu7.example)", BmcUnreachable),
        ("snmpget: Unknown user name", BmcRefused),
        ("snmpget: Authentication failure (incorrect password, community or key)", BmcRefused),
        ("Error in packet.\nReason: notWritable", BmcRefused),
    ],
)
def test_what_a_unit_complains_of_is_told(unit: Any, stderr: str, kind: type[Exception]) -> None:
    def answer(argv: Sequence[str]) -> str:
        raise CommandFailed(f"snmpget ended with status 1: {stderr}", next_step="-")

    unit(answer)
    with pytest.raises(kind, match=r"pdu7\.example") as failure:
        driver().state(UNIT)
    assert SECRET not in str(failure.value)


@pytest.mark.parametrize("outlets", ["", "three", "1,,2", "1;2", "-1", "1,2,3,4,5,6,7,8,9"])
def test_outlets_that_are_none_are_refused(unit: Any, outlets: str) -> None:
    unit(lambda argv: "1")
    with pytest.raises(BmcRefused, match="outlets"):
        driver().state(Bmc("pdu7.example", "operator", SECRET, {"outlets": outlets}))


@pytest.mark.parametrize("said", ["No Such Instance currently exists at this OID", "1", "1 7"])
def test_an_answer_that_makes_no_sense_is_refused(unit: Any, said: str) -> None:
    unit(lambda argv: said)
    with pytest.raises(BmcRefused, match="of its outlets 3, 4"):
        driver().state(UNIT)


@pytest.mark.parametrize("password", ['a"b', "back\\slash", "line\nrwcommunity x", "", "ü" * 8])
def test_a_password_that_would_be_more_than_one_is_refused(unit: Any, password: str) -> None:
    asked = unit(lambda argv: "1 1")
    with pytest.raises(BmcRefused, match="cannot be used"):
        driver().state(Bmc("pdu7.example", "operator", password, {"outlets": "3,4"}))
    assert asked == []


@pytest.mark.parametrize("options", [{"version": "1"}, {"state_oid": "1.2; reboot"}, {"oid": "1.2"}])
def test_options_that_cannot_be_used_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SettingsInvalid):
        load("power", "pdu", options, SITE)


def test_the_labs_unit_knows_its_outlets_only(tmp_path: Path) -> None:
    nodes = [VirtualNode(spec, tmp_path / spec.name) for spec in power_only(1)]
    assert _get(nodes, f"{STATE}.1") == f"{STATE}.1\ninteger\n2"
    for oid in (f"{STATE}.2", f"{STATE}.0", f"{STATE}.x", ".1.3.6.1.2.1.1"):
        assert _get(nodes, oid) == "NONE"
        assert _set(nodes, oid, "integer 1") == "not-writable"
    assert _set(nodes, f"{STATE}.1", "integer 1") == "not-writable"
    assert _set(nodes, f"{CONTROL}.1", "integer 3") == "wrong-value"
    assert _set(nodes, f"{CONTROL}.1", "integer 2") == "DONE"
