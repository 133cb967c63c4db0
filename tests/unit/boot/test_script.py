from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from bmi.boot.script import BootTarget, render, render_exit, render_wait
from bmi.errors import BadRequest

TARGET = BootTarget(
    address=IPv4Address("10.66.0.254"),
    port=3260,
    iqn="iqn.2026-01.internal.bmi:01a20484-2c4b-7065-bb52-1c1c701d8cc9",
    initiator="iqn.2026-01.internal.bmi:node-7",
    username="01a204842c4b7065bb521c1c701d8cc9",
    password="0123456789abcdef",
    script_url="http://10.66.0.254:8080/boot/7/t0ken/script.ipxe",
)


def test_a_script_proves_who_the_node_is_and_boots_its_disk() -> None:
    lines = render(TARGET).split("\n")
    assert lines[0] == "#!ipxe"
    boot = lines.index(f"sanboot --keep iscsi:10.66.0.254::3260:1:{TARGET.iqn} ||")
    for setting in (
        "set keep-san 1",
        f"set initiator-iqn {TARGET.initiator}",
        f"set username {TARGET.username}",
        f"set password {TARGET.password}",
    ):
        assert lines.index(setting) < boot


def test_a_failure_leads_back_to_the_script_and_never_to_an_end() -> None:
    lines = render(TARGET).rstrip("\n").split("\n")
    assert f"chain --replace --autofree {TARGET.script_url} ||" in lines
    assert lines[-1] == "goto fetch"
    assert ":fetch" in lines
    # iPXE ends a script at a command that fails, unless something follows with "||".
    may_fail = [
        line for line in lines if line.split()[0] in {"sanboot", "sanunhook", "chain", "isset", "iseq"}
    ]
    assert all("||" in line for line in may_fail)


def test_the_lun_is_hexadecimal() -> None:
    assert "iscsi:10.66.0.254::3260:1f:iqn" in render(replace(TARGET, lun=31))


@pytest.mark.parametrize("field", ["iqn", "initiator", "username", "password", "script_url"])
@pytest.mark.parametrize(
    "bad", ["", "a b", "a\nexit", "a${net0/mac}", "a || exit", "a && exit", "a\tb", "ä", "a;b", "a#b"]
)
def test_no_value_becomes_a_command(field: str, bad: str) -> None:
    value = f"http://10.0.0.1/{bad}" if field == "script_url" and bad else bad
    with pytest.raises(BadRequest):
        render(replace(TARGET, **{field: value}))  # type: ignore[arg-type]


def test_a_password_that_cannot_be_used_is_not_repeated() -> None:
    with pytest.raises(BadRequest) as error:
        render(replace(TARGET, password="s3cret with blanks"))
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize("bad", [{"port": 0}, {"port": 65536}, {"lun": -1}, {"lun": 0x4000}])
def test_numbers_out_of_range_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(BadRequest, match="out of range"):
        render(replace(TARGET, **bad))  # type: ignore[arg-type]


def test_secrets_are_not_in_what_a_log_would_show() -> None:
    assert "0123456789abcdef" not in repr(TARGET)
    assert "t0ken" not in repr(TARGET)


def test_a_node_without_a_disk_asks_again_and_again() -> None:
    lines = render_wait("node n1 has no disk yet", TARGET.script_url).rstrip("\n").split("\n")
    assert lines[:2] == ["#!ipxe", "echo BMI: node n1 has no disk yet"]
    assert f"chain --replace --autofree {TARGET.script_url} ||" in lines
    assert lines[-1] == "goto fetch"


def test_a_node_that_is_let_go_leaves_ipxe() -> None:
    assert (
        render_exit("node n1 boots from its own disk")
        == "#!ipxe\necho BMI: node n1 boots from its own disk\nexit\n"
    )


def test_a_reason_stays_one_line_of_plain_text() -> None:
    (line,) = [
        line for line in render_exit("a\nexit\n${x} || b && --foo -n `c`").split("\n") if "echo" in line
    ]
    assert line == "echo BMI: a?exit???x? ?? b ?? foo n ?c?"
