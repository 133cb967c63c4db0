"""What ipmitool says, and what is made of it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bmi.drivers import Site
from bmi.drivers.power import Bmc, BootDevice, PowerState, ipmi
from bmi.drivers.power.ipmi import IpmiPower
from bmi.errors import BmcRefused, BmcUnreachable, CommandFailed, CommandTimedOut

SECRET = "hunter2"
BMC = Bmc("bmc7.example", "operator", SECRET)

Answer = Callable[[Sequence[str]], str]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], list[list[str]]]:
    """Let ipmitool answer; gives the commands that it got."""

    def say(answer: Answer) -> list[list[str]]:
        asked: list[list[str]] = []

        def run(argv: Sequence[str], **more: Any) -> str:
            assert more["input"] == SECRET.encode()
            asked.append(list(argv))
            words = list(argv)[list(argv).index("-R") + 2 :]
            return answer(words)

        monkeypatch.setattr(ipmi, "run", run)
        return asked

    return say


def power(**options: Any) -> IpmiPower:
    return IpmiPower({"timeout": 0.2, **options}, Site(Path("/nowhere"), "0badcafe"))


def failing(stderr: str) -> Answer:
    def answer(words: Sequence[str]) -> str:
        raise CommandFailed(f"ipmitool ... ended with status 1: {stderr}", next_step="-")

    return answer


def test_the_password_is_in_no_argument(said: Any) -> None:
    asked = said(lambda words: "Chassis Power is on\n")
    assert power().state(BMC) is PowerState.ON
    assert power(cipher_suite=3).state(Bmc("10.0.0.1:6230", "o", SECRET)) is PowerState.ON
    assert SECRET not in str(asked)
    first, second = asked
    assert first[first.index("-p") + 1] == "623"
    assert first[first.index("-C") + 1] == "17"
    assert (second[second.index("-H") + 1], second[second.index("-p") + 1]) == ("10.0.0.1", "6230")
    assert second[second.index("-C") + 1] == "3"


@pytest.mark.parametrize(
    ("data", "believing", "otherwise"),
    [
        ("c004000000", BootDevice.NETWORK, BootDevice.NETWORK),
        ("e008000000", BootDevice.DISK, BootDevice.DISK),
        ("8014000000", None, None),  # a CD
        ("8000000000", None, None),
        ("0004000000", None, BootDevice.NETWORK),
        ("0000000000", None, None),
    ],
)
def test_what_it_boots_from_is_read_from_the_flags(
    said: Any, data: str, believing: BootDevice | None, otherwise: BootDevice | None
) -> None:
    said(lambda words: f"Boot parameter version: 1\nBoot parameter data: {data}\n Boot Flags :\n")
    assert power().boots_from(BMC) is believing
    assert power(believe_flags=False).boots_from(BMC) is otherwise


def test_a_controller_that_confirms_and_does_nothing_is_found_out(said: Any) -> None:
    asked = said(
        lambda words: (
            "Boot parameter data: 0000000000"
            if "bootparam" in words
            else "Chassis Power is off\nSet Boot Device"
        )
    )
    with pytest.raises(BmcRefused, match="was asked to boot from pxe"):
        power(uefi=True).boot_from(BMC, BootDevice.NETWORK)
    assert "options=persistent,efiboot" in asked[0]
    with pytest.raises(BmcRefused, match="was asked to switch on, and does not report that"):
        power().on(BMC)


@pytest.mark.parametrize(
    "stderr",
    [
        "Loading...\n> RAKP 2 HMAC is invalid\nError: Unable to establish IPMI v2 / RMCP+ session",
        "> RAKP 2 message indicates an error : unauthorized name\nError: Unable to establish IPMI v2",
        "Set Chassis Power Control to Up/On failed: Insufficient privilege level",
    ],
)
def test_who_is_refused_is_told_apart_from_nobody(said: Any, stderr: str) -> None:
    said(failing(stderr))
    with pytest.raises(BmcRefused, match=r"bmc7.example refuses user 'operator'"):
        power().state(BMC)


def test_one_that_does_not_answer_is_told(said: Any) -> None:
    said(failing("Get Auth Capabilities error\nError: Unable to establish IPMI v2 / RMCP+ session"))
    with pytest.raises(BmcUnreachable, match=r"bmc7.example does not answer"):
        power().off(BMC)

    def hang(words: Sequence[str]) -> str:
        raise CommandTimedOut("ipmitool did not end", next_step="-")

    said(hang)
    with pytest.raises(BmcUnreachable):
        power().state(BMC)


def test_other_refusals_are_told_as_they_are(said: Any) -> None:
    said(failing("Get Chassis Power Status failed: Unspecified error"))
    with pytest.raises(BmcRefused, match=r"refuses chassis power status: .*Unspecified error"):
        power().state(BMC)
    said(lambda words: "something else")
    with pytest.raises(BmcRefused, match="no answer to chassis power status that can be read"):
        power().media(BMC)


def test_a_missing_program_is_no_fault_of_the_controller(said: Any) -> None:
    def missing(words: Sequence[str]) -> str:
        raise CommandFailed("ipmitool is not installed", next_step="install it")

    said(missing)
    with pytest.raises(CommandFailed, match="not installed"):
        power().state(BMC)


def test_a_password_that_ipmi_cannot_carry_is_refused_before_it_is_sent(said: Any) -> None:
    asked = said(lambda words: "")
    with pytest.raises(BmcRefused, match="more than the 20 bytes"):
        power().state(Bmc("bmc7.example", "operator", "x" * 21))
    assert asked == []
