"""Where consoles are, and what lies between a keyboard and a node. What all drivers do is in the contract suite."""

import os
from pathlib import Path
from typing import Any

import paramiko
import pytest

from bmi.drivers.power import redfish_console, sol, ssh_console
from bmi.drivers.power.redfish_console import Offer
from bmi.drivers.power.sol import Escaped, Login, _refusal
from bmi.drivers.power.ssh_console import Place, fingerprint
from bmi.errors import BmcRefused, BmcUnreachable, ConsoleUnavailable

LOGIN = Login(["-H", "bmc7"], "bmc7", "operator", "hunter2", 1)
KEY = paramiko.ECDSAKey.generate()


# --- Serial over LAN ---------------------------------------------------------------------------------------


def ipmitool(typed: bytes) -> bytes:
    """Return what ipmitool 1.8.19 sends on of what it is given (lib/ipmi_sol.c); fails where it takes an order."""
    sent, begins_line, pending = bytearray(), True, False
    for byte in typed:
        if pending:
            pending = False
            assert byte == 0x1F, "that was an order"
            sent.append(byte)
        elif begins_line and byte == 0x1F:
            pending = True
            continue
        else:
            sent.append(byte)
        begins_line = byte in b"\r\n"
    assert not pending
    return bytes(sent)


@pytest.mark.parametrize("size", [1, 2, 7, 4096])
def test_ipmitool_finds_no_order_in_what_is_typed(size: int) -> None:
    chosen = [b"\x1f", b".", b"\r", b"\n", b"B", b"~", b"x"]
    typed = b"\x1f." + b"".join(chosen[byte % len(chosen)] for byte in os.urandom(4000)) + b"\r"
    escaped = Escaped()
    given = b"".join(escaped(typed[begin : begin + size]) for begin in range(0, len(typed), size))
    assert ipmitool(given) == typed


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Info: SOL payload already active on another session", sol._Taken),
        ("Info: SOL payload activation limit reached", sol._Taken),
        ("> RAKP 2 HMAC is invalid", BmcRefused),
        ("RAKP 2 message indicates an error : unauthorized name", BmcRefused),
        ("Error: Unable to establish IPMI v2 / RMCP+ session", BmcUnreachable),
        ("Info: SOL payload disabled", ConsoleUnavailable),
        ("", ConsoleUnavailable),
    ],
)
def test_why_there_is_no_session_is_told(said: str, kind: type[Exception]) -> None:
    error = _refusal(LOGIN, said)
    assert type(error) is kind
    assert "hunter2" not in f"{error} {LOGIN!r}"


def test_the_password_is_in_a_pipe_and_in_no_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ipmitool of the test's own writes down what it was given, and says that nothing answers."""
    fake = tmp_path / "ipmitool"
    fake.write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\n'
        f'while [ "$1" != -f ]; do shift; done\ncat "$2" > {tmp_path}/password\n'
        'echo "Error: Unable to establish IPMI v2 / RMCP+ session" >&2\nexit 1\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(BmcUnreachable, match="bmc7"):
        sol.activate(Login(["-H", "bmc7"], "bmc7", "operator", "hunter2", 20))
    assert (tmp_path / "password").read_text() == "hunter2\n"
    assert "hunter2" not in (tmp_path / "arguments").read_text()


# --- Redfish ---------------------------------------------------------------------------------------------


class System:
    """What sushy makes of a system, as far as consoles go."""

    def __init__(self, said: Any, *managers: dict[str, Any]) -> None:
        self.json = {"SerialConsole": said} if said is not None else {}
        self.managers = [type("Manager", (), {"json": each}) for each in managers]


@pytest.mark.parametrize(
    ("said", "offer"),
    [
        ({"SSH": {"ServiceEnabled": True, "Port": 2200}}, Offer("SSH", 2200)),
        ({"SSH": {"ServiceEnabled": True}}, Offer("SSH", 22)),
        (
            {
                "SSH": {
                    "ServiceEnabled": True,
                    "SharedWithManagerCLI": True,
                    "ConsoleEntryCommand": "console com2",
                }
            },
            Offer("SSH", 22, "console com2"),
        ),
        ({"SSH": {"ServiceEnabled": True, "ConsoleEntryCommand": "ignored"}}, Offer("SSH", 22)),
        (
            {"SSH": {"ServiceEnabled": False}, "IPMI": {"ServiceEnabled": True, "Port": 6230}},
            Offer("IPMI", 6230),
        ),
        ({"IPMI": {"ServiceEnabled": True, "Port": "623; reboot"}}, Offer("IPMI", 623)),
        ({"SSH": {"ServiceEnabled": True, "Port": True}}, Offer("SSH", 22)),
        ({"SSH": {"ServiceEnabled": True, "Port": 700000}}, Offer("SSH", 22)),
        (
            {"SSH": {"ServiceEnabled": True, "SharedWithManagerCLI": True, "ConsoleEntryCommand": "a\nb"}},
            Offer("SSH", 22),
        ),
        ({"Telnet": {"ServiceEnabled": True}}, None),
        ({"SSH": "yes"}, None),
        ({}, None),
        ("nonsense", None),
        (None, None),
    ],
)
def test_a_systems_console_is_where_it_says(said: Any, offer: Offer | None) -> None:
    assert redfish_console.offered(System(said)) == offer


def test_an_older_controller_names_protocols_only() -> None:
    enabled = {"ServiceEnabled": True, "ConnectTypesSupported": ["SSH", "IPMI"]}
    one = {"SerialConsole": enabled, "Links": {"ManagerForServers": [{"@odata.id": "/1"}]}}
    two = {
        "SerialConsole": enabled,
        "Links": {"ManagerForServers": [{"@odata.id": "/1"}, {"@odata.id": "/2"}]},
    }
    ssh_only = {"SerialConsole": {**enabled, "ConnectTypesSupported": ["SSH"]}}
    assert redfish_console.offered(System(None, one)) == Offer("IPMI", 623)
    assert redfish_console.offered(System(None, two)) is None  # whose line would that be?
    assert redfish_console.offered(System(None, ssh_only)) is None
    assert (
        redfish_console.offered(System(None, {"SerialConsole": {**enabled, "ServiceEnabled": False}})) is None
    )


# --- host keys -------------------------------------------------------------------------------------------


def place(host_key: str, *, verify: bool = True) -> Place:
    return Place("bmc7", "bmc7", 22, "operator", "hunter2", host_key, verify, 1)


def line_of(key: paramiko.PKey) -> str:
    return f"{key.get_name()} {key.get_base64()}"


def test_a_host_key_is_pinned_as_a_fingerprint_or_whole() -> None:
    other = paramiko.ECDSAKey.generate()
    for pinned in (fingerprint(KEY), line_of(KEY), f"{line_of(KEY)} a comment\n"):
        ssh_console._check(place(pinned), KEY)
        with pytest.raises(BmcRefused, match="another host key") as refused:
            ssh_console._check(place(pinned, verify=False), other)
        assert fingerprint(other) in refused.value.message
    with pytest.raises(BmcRefused):
        ssh_console._check(place("ssh-rsa nonsense"), KEY)


def test_an_unknown_host_hears_no_password_unless_the_site_says_so() -> None:
    with pytest.raises(ConsoleUnavailable, match="is not known") as refused:
        ssh_console._check(place(""), KEY)
    assert f"ssh_host_key={fingerprint(KEY)}" in refused.value.next_step
    ssh_console._check(place("", verify=False), KEY)
    assert "hunter2" not in repr(place(""))
