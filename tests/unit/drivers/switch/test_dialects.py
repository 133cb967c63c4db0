"""What switches answer, and what the driver `netmiko` makes of it: settings that BMI never makes itself, too."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from bmi.drivers import parse_options
from bmi.drivers.switch import ISOLATED, PortVlans
from bmi.drivers.switch.netmiko.dialects import (
    EVERY,
    NAMES,
    Found,
    Unreadable,
    dialect,
    listed,
    numbers,
    pieces,
    spare,
)
from bmi.drivers.switch.netmiko.options import NetmikoOptions
from bmi.errors import SettingsInvalid

OPEN = PortVlans(1, EVERY - {1})
"""A trunk as it is by default."""


def read(name: str, *answers: str) -> dict[str, Found]:
    return dict(dialect(name).read(answers).ports)


def refused(name: str, answer: str) -> str:
    return dialect(name).refused(answer)


# --- lists of VLANs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "vlans"),
    [
        ("1,5-7", {1, 5, 6, 7}),
        ("none", set()),
        ("NONE", set()),
        ("", set()),
        ("1-3,\n   9", {1, 2, 3, 9}),
        ("ALL", EVERY),
    ],
)
def test_a_list_of_vlans_is_read(text: str, vlans: set[int]) -> None:
    assert numbers(text) == vlans


@pytest.mark.parametrize(
    "text", ["x", "1,,2", "0", "4095", "1-99999", "5-4095", "1;2", "none,1", "-1", "1-", "٣"]
)
def test_what_is_no_list_of_vlans_is_not_guessed(text: str) -> None:
    with pytest.raises(Unreadable):
        numbers(text)


def test_lists_are_written_with_ranges_and_no_longer_than_a_line() -> None:
    assert listed(frozenset({1, 2, 3, 7, 9, 10})) == "1-3,7,9-10"
    vlans = frozenset(range(2, 4094, 2))
    assert all(len(piece) <= 200 for piece in pieces(vlans))
    assert frozenset().union(*map(numbers, pieces(vlans))) == vlans


def test_a_trunk_without_a_native_vlan_gets_one_that_it_does_not_carry() -> None:
    assert spare(PortVlans(7, frozenset({1}))) == 7
    assert spare(PortVlans(None, frozenset({1, 2, 4}))) == 3


# --- Cisco NX-OS -------------------------------------------------------------------------------------------------

NXOS_VLANS = json.dumps({"TABLE_vlanbriefxbrief": {"ROW_vlanbriefxbrief": [{"vlanshowbr-vlanid-utf": "1"}]}})


@pytest.mark.parametrize(
    ("lines", "vlans"),
    [
        ([], PortVlans(1)),
        (["switchport access vlan 30"], PortVlans(30)),
        (["switchport mode trunk"], OPEN),
        (["switchport mode trunk", "switchport trunk allowed vlan none"], ISOLATED),
        (["switchport mode trunk", "switchport trunk native vlan 5"], PortVlans(5, EVERY - {5})),
        (
            ["switchport mode trunk", "switchport trunk native vlan 5", "switchport trunk allowed vlan 6-7"],
            PortVlans(None, frozenset({6, 7})),
        ),
        (
            [
                "switchport mode trunk",
                "switchport trunk allowed vlan 1,6",
                "switchport trunk allowed vlan add 9-10",
            ],
            PortVlans(1, frozenset({6, 9, 10})),
        ),
        (
            ["switchport trunk allowed vlan none"],
            PortVlans(1),
        ),  # an access port has its VLAN, whatever the list
    ],
)
def test_nxos_shows_what_differs_from_the_default(lines: list[str], vlans: PortVlans) -> None:
    text = "interface Ethernet1/1\n" + "".join(f"  {line}\n" for line in lines) + "\ninterface Ethernet1/2\n"
    found = read("cisco_nxos", text, NXOS_VLANS)
    assert found["Ethernet1/1"].vlans == vlans
    assert not found["Ethernet1/1"].unusable
    assert set(found) == {"Ethernet1/1", "Ethernet1/2"}


@pytest.mark.parametrize(
    "line",
    [
        "no switchport",
        "channel-group 7 mode active",
        "switchport mode fex-fabric",
        "switchport mode dot1q-tunnel",
    ],
)
def test_a_port_of_another_kind_cannot_be_used_and_counts_as_open(line: str) -> None:
    found = read("cisco_nxos", f"interface Ethernet1/1\n  {line}\n", NXOS_VLANS)["Ethernet1/1"]
    assert found.unusable
    assert found.vlans.tagged == EVERY


def test_a_single_row_is_a_table_too() -> None:
    answer = {"TABLE_vlanbriefxbrief": {"ROW_vlanbriefxbrief": {"vlanshowbr-vlanid-utf": "7"}}}
    assert dialect("cisco_nxos").read(["", json.dumps(answer)]).vlans == {7}


# --- Cisco IOS ---------------------------------------------------------------------------------------------------

IOS_VLANS = """
VLAN Name                             Status    Ports
---- -------------------------------- --------- -------------------------------
1    default                          active    Gi1/0/1, Gi1/0/2
101  blue                             active
                                                Gi1/0/9
1002 fddi-default                     act/unsup
"""


def ios(**values: str) -> Found:
    lines = {
        "Switchport": "Enabled",
        "Administrative Mode": "trunk",
        "Operational Mode": "down",
        "Access Mode VLAN": "1 (default)",
        "Trunking Native Mode VLAN": "1 (default)",
        "Trunking VLANs Enabled": "ALL",
        "Pruning VLANs Enabled": "2-1001",
    } | {name.replace("_", " "): value for name, value in values.items()}
    text = "Name: Gi1/0/1\n" + "".join(f"{name}: {value}\n" for name, value in lines.items())
    return read("cisco_ios", text, IOS_VLANS)["GigabitEthernet1/0/1"]


@pytest.mark.parametrize(
    ("values", "vlans"),
    [
        ({}, OPEN),
        ({"Trunking_VLANs_Enabled": "NONE"}, ISOLATED),
        (
            {"Trunking_VLANs_Enabled": "101,201-203,\n     300-301"},
            PortVlans(None, frozenset({101, 201, 202, 203, 300, 301})),
        ),
        ({"Trunking_VLANs_Enabled": "101,\n102"}, PortVlans(None, frozenset({101, 102}))),
        ({"Trunking_Native_Mode_VLAN": "5 (Inactive)"}, PortVlans(5, EVERY - {5})),
        ({"Administrative_Mode": "static access", "Access_Mode_VLAN": "30 (VLAN0030)"}, PortVlans(30)),
        ({"Administrative_Mode": "dynamic auto"}, OPEN),  # the node can make it a trunk
    ],
)
def test_ios_shows_each_port_s_mode(values: dict[str, str], vlans: PortVlans) -> None:
    assert ios(**values).vlans == vlans


def test_ios_tells_the_link_and_leaves_old_vlans_out() -> None:
    assert ios().link is False
    assert ios(Operational_Mode="trunk").link is True
    assert dialect("cisco_ios").read(["", IOS_VLANS]).vlans == {1, 101}


@pytest.mark.parametrize(
    "values",
    [
        {"Switchport": "Disabled"},
        {"Administrative_Mode": "private-vlan host"},
        {"Trunking_VLANs_Enabled": "some"},
        {"Trunking_Native_Mode_VLAN": "unknown"},
    ],
)
def test_ios_ports_that_cannot_be_used(values: dict[str, str]) -> None:
    found = ios(**values)
    assert found.unusable
    assert found.vlans.tagged == EVERY


def test_ios_shortens_names() -> None:
    blocks = "".join(f"Name: {name}\nSwitchport: Disabled\n" for name in ("Te1/1/1", "Twe1/0/1", "Po7"))
    assert set(read("cisco_ios", blocks, IOS_VLANS)) == {
        "TenGigabitEthernet1/1/1",
        "TwentyFiveGigE1/0/1",
        "Po7",
    }


# --- Arista EOS --------------------------------------------------------------------------------------------------


def eos(**info: Any) -> Found:
    known = {"mode": "trunk", "accessVlanId": 1, "trunkingNativeVlanId": 1, "trunkAllowedVlans": "ALL"}
    ports = {"switchports": {"Ethernet1": {"enabled": True, "switchportInfo": known | info}}}
    return read("arista_eos", json.dumps(ports), json.dumps({"vlans": {"1": {}}}))["Ethernet1"]


@pytest.mark.parametrize(
    ("info", "vlans"),
    [
        ({}, OPEN),
        ({"trunkAllowedVlans": "NONE"}, ISOLATED),
        ({"trunkAllowedVlans": "5-6", "trunkingNativeVlanId": 5}, PortVlans(5, frozenset({6}))),
        ({"mode": "access", "accessVlanId": 30}, PortVlans(30)),
    ],
)
def test_eos_ports(info: dict[str, Any], vlans: PortVlans) -> None:
    assert eos(**info).vlans == vlans


@pytest.mark.parametrize(
    "info",
    [
        {"mode": "tap"},
        {"mode": "routed"},
        {"trunkingNativeVlanId": None},
        {"trunkingNativeVlanId": "9" * 5000},
        {"mode": 7},
    ],
)
def test_eos_ports_that_cannot_be_used(info: dict[str, Any]) -> None:
    assert eos(**info).unusable


# --- Dell --------------------------------------------------------------------------------------------------------

OS9_VLANS = """
Codes: * - Default VLAN, G - GVRP VLANs, P - Primary, C - Community, I - Isolated
Q: U - Untagged, T - Tagged

    NUM    Status    Description                     Q Ports
*   1      Inactive                                  U Te 0/42-43
                                                     U Fo 0/48,56,60
    12     Inactive                                  U Te 0/0-9,45-47
    330    Active    tagged example                  T Te 0/30,35-37
"""

OS9_PORTS = """
Codes:  U - Untagged, T - Tagged

Name: TenGigabitEthernet 0/1
Description: U 77
802.1QTagged: Hybrid
Vlan membership:
Q       Vlans
U       3790
T       165,201-202,
        300

Native VlanId:    3790.

Name: TenGigabitEthernet 0/2
802.1QTagged: False
Vlan membership:
Q       Vlans
U       1

Name: TenGigabitEthernet 0/3
802.1QTagged: Hybrid
Vlan membership:
Q       Vlans
"""


def test_os9_lists_the_vlans_of_each_port() -> None:
    reading = dialect("dell_os9").read([OS9_PORTS, OS9_VLANS])
    found = reading.ports
    assert found["TenGigabitEthernet 0/1"].vlans == PortVlans(3790, frozenset({165, 201, 202, 300}))
    assert found["TenGigabitEthernet 0/2"].unusable == "it is not a hybrid port"
    assert found["TenGigabitEthernet 0/3"].vlans == ISOLATED
    assert reading.vlans == {1, 12, 330}


OS10 = """
interface vlan1
 no shutdown
!
interface vlan101
 no shutdown
!
interface ethernet1/1/1
 no shutdown
 switchport mode trunk
 switchport access vlan 101
 switchport trunk allowed vlan 201-202
!
interface ethernet1/1/2
 shutdown
 switchport mode trunk
 switchport access vlan 1
 switchport trunk allowed vlan 300
!
interface ethernet1/1/3
 no shutdown
 switchport access vlan 30
!
interface ethernet1/1/4
 no shutdown
 channel-group 1 mode active
 no switchport
"""


def test_os10_ports_are_isolated_where_they_are_shut_and_tell_what_they_would_carry() -> None:
    found = read("dell_os10", OS10)
    assert found["ethernet1/1/1"].vlans == PortVlans(101, frozenset({201, 202}))
    assert found["ethernet1/1/2"] == Found(ISOLATED, set_to=PortVlans(1, frozenset({300})))
    assert found["ethernet1/1/3"].vlans == PortVlans(30)
    assert found["ethernet1/1/4"].unusable
    assert "no switchport trunk allowed vlan 300" in dialect("dell_os10").strip(
        "ethernet1/1/2", found["ethernet1/1/2"]
    )


# --- Aruba AOS-CX ------------------------------------------------------------------------------------------------

AOSCX = """
vlan 1,101-102
vlan 300
    name storage
interface 1/1/1
    no shutdown
    vlan trunk native 101
    vlan trunk allowed 101,201
interface 1/1/2
    vlan trunk native 888
    vlan trunk allowed 999
interface 1/1/3
    no shutdown
    vlan access 30
interface 1/1/4
    no shutdown
    vlan trunk native 1
    vlan trunk allowed all
interface 1/1/5
    no shutdown
    vlan trunk native 7 tag
    vlan trunk allowed 7-8
interface 1/1/6
    no shutdown
    lag 1
"""

AOSCX_BRIEF = """
----------------------------------------------------------------------------------------------------
Port           Native  Mode   Type           Enabled Status  Reason                  Speed   Description
               VLAN                                                                  (Mb/s)
----------------------------------------------------------------------------------------------------
1/1/1          101     trunk  1GbT           yes     up                              1000    no down
1/1/2          888     trunk  1GbT           no      down    Administratively down   --      yes up
1/1/3          30      access 1GbT           yes     down    Waiting for link        --      --
1/1/4          1       trunk  --             yes     down    No XCVR installed       --      --
1/1/5          7       trunk  1GbT           yes     up                              100     --
1/1/6          --      --     10G-LR         yes     up                              10000   --
1/1/7          --      routed 10G-LR         yes     up                              10000   uplink
vlan44         --      --     --             yes     up                              --      --
"""


def test_aoscx_ports() -> None:
    found = read("aruba_aoscx", AOSCX_BRIEF, AOSCX, AOSCX_BRIEF)
    assert found["1/1/1"] == Found(*[PortVlans(101, frozenset({201}))] * 2, link=True)
    assert found["1/1/2"] == Found(ISOLATED, PortVlans(None, frozenset({999})), link=False)
    assert found["1/1/3"].vlans == PortVlans(30)
    assert found["1/1/4"].vlans == OPEN
    assert found["1/1/5"].vlans == PortVlans(None, frozenset({7, 8}))
    assert found["1/1/6"].unusable
    assert found["1/1/7"].unusable == "it is a routed port"
    assert set(found) == {f"1/1/{number}" for number in range(1, 8)}
    assert dialect("aruba_aoscx").read([AOSCX_BRIEF, AOSCX, AOSCX_BRIEF]).vlans == {1, 101, 102, 300}


# --- Juniper Junos -----------------------------------------------------------------------------------------------

TERSE = """
Interface               Admin Link Proto    Local                 Remote
ge-0/0/0                up    down
ge-0/0/0.0              up    down eth-switch
xe-0/1/0                up    up
vme                     up    down
"""
JUNOS_VLANS = "set vlans blue vlan-id 30\nset vlans default vlan-id 1\n"
SWITCHING = "set interfaces ge-0/0/0 unit 0 family ethernet-switching"


@pytest.mark.parametrize(
    ("lines", "vlans"),
    [
        ([], ISOLATED),
        ([SWITCHING], PortVlans(1)),
        ([f"{SWITCHING} vlan members blue"], PortVlans(30)),
        ([f"{SWITCHING} interface-mode trunk"], ISOLATED),
        ([f"{SWITCHING} interface-mode trunk", f"{SWITCHING} vlan members all"], PortVlans(None, EVERY)),
        (
            [
                f"{SWITCHING} interface-mode trunk",
                f"{SWITCHING} vlan members blue",
                f"{SWITCHING} vlan members 40-41",
                "set interfaces ge-0/0/0 native-vlan-id 40",
            ],
            PortVlans(40, frozenset({30, 41})),
        ),
    ],
)
def test_junos_ports(lines: list[str], vlans: PortVlans) -> None:
    found = read("juniper_junos", TERSE, "".join(f"{line}\n" for line in lines), JUNOS_VLANS)
    assert found["ge-0/0/0"] == Found(vlans, link=False)
    assert set(found) == {"ge-0/0/0", "xe-0/1/0"}
    assert found["xe-0/1/0"].link is True


@pytest.mark.parametrize(
    "line",
    [
        "set interfaces ge-0/0/0 unit 0 family inet address 10.0.0.1/24",
        "set interfaces ge-0/0/0 apply-groups nodes",
        "deactivate interfaces ge-0/0/0 native-vlan-id",
        "set interfaces interface-range nodes member ge-0/0/0",
        f"{SWITCHING} vlan members red",
    ],
)
def test_junos_ports_that_cannot_be_used(line: str) -> None:
    assert read("juniper_junos", TERSE, f"{line}\n", JUNOS_VLANS)["ge-0/0/0"].unusable


# --- Linux -------------------------------------------------------------------------------------------------------


def nvue(interfaces: dict[str, Any], bridge: dict[str, Any] | None = None) -> dict[str, Found]:
    domain = {"vlan": {"10": {}, "20-21": {}}} if bridge is None else bridge
    settings = {"bridge": {"domain": {"br_default": domain}}, "interface": interfaces}
    answer = json.dumps([{"header": {"version": "5.11"}}, {"set": settings}])
    return read("cumulus_nvue", "eth0\nlo\nswp1\nswp2\nswp3s0\n", answer)


def member(**settings: Any) -> dict[str, Any]:
    return {"bridge": {"domain": {"br_default": settings}}}


@pytest.mark.parametrize(
    ("settings", "vlans"),
    [
        ({}, ISOLATED),
        ({"type": "swp"}, ISOLATED),
        (
            member(),
            PortVlans(None, frozenset({10, 20, 21})),
        ),  # VLAN 1, the untagged one, is none of the bridge's
        (member(access=10), PortVlans(10)),
        (member(untagged=10), PortVlans(10, frozenset({20, 21}))),
        (member(untagged="none", vlan={"10": {}}), PortVlans(None, frozenset({10}))),
        (member(untagged=10, vlan={"10": {}, "20-21": {}}), PortVlans(10, frozenset({20, 21}))),
    ],
)
def test_nvue_ports(settings: dict[str, Any], vlans: PortVlans) -> None:
    assert nvue({"swp1-2": settings})["swp2"].vlans == vlans
    assert nvue({"swp1-2": settings})["swp3s0"].vlans == ISOLATED


@pytest.mark.parametrize(
    "settings",
    [
        {"bridge": {"domain": {"br_other": {}}}},
        member(access="auto"),
        member(access=[]),
        member(vlan={"x": {}}),
    ],
)
def test_nvue_ports_that_cannot_be_used(settings: dict[str, Any]) -> None:
    assert nvue({"swp1": settings})["swp1"].unusable


@pytest.mark.parametrize("key", ["swp9-1", "swp1-999999999999"])
def test_nvue_ranges_that_are_none(key: str) -> None:
    with pytest.raises(Unreadable):
        nvue({key: member()})


def test_sonic_ports() -> None:
    members = {
        "Vlan101|Ethernet0": {"tagging_mode": "untagged"},
        "Vlan201|Ethernet0": {"tagging_mode": "tagged"},
        "Vlan201|PortChannel1": {"tagging_mode": "tagged"},
    }
    answers = [
        json.dumps({"Ethernet0": {}, "Ethernet4": {}, "Ethernet8": {}}),
        json.dumps({"Vlan101": {"vlanid": "101"}, "Vlan201": {"vlanid": "201"}}),
        json.dumps(members),
        json.dumps({"Ethernet8": {}, "Ethernet8|10.0.0.1/31": {}}),
    ]
    reading = dialect("sonic").read(answers)
    assert reading.ports["Ethernet0"].vlans == PortVlans(101, frozenset({201}))
    assert reading.ports["Ethernet4"].vlans == ISOLATED
    assert reading.ports["Ethernet8"].unusable
    assert reading.vlans == {101, 201}


def test_sonic_prints_no_empty_table() -> None:
    assert read("sonic", '{"Ethernet0": {}}', "", "\n", "")["Ethernet0"].vlans == ISOLATED


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "answer", "said"),
    [
        (
            "cisco_ios",
            "         ^\n% Invalid input detected at '^' marker.\n",
            "% Invalid input detected at '^' marker.",
        ),
        (
            "cisco_ios",
            'Command rejected: An interface whose trunk encapsulation is "Auto"',
            "Command rejected: An",
        ),
        ("cisco_ios", "% Incomplete command.\n", "% Incomplete command."),
        ("cisco_ios", "% Access VLAN does not exist. Creating vlan 101\n", ""),
        (
            "cisco_ios",
            "% Warning: portfast should only be enabled on ports connected to a single host.\n",
            "",
        ),
        ("cisco_nxos", "% Invalid command at '^' marker.\n", "% Invalid command at '^' marker."),
        ("cisco_nxos", "ERROR: Cannot create VLAN: VLAN 3968 is reserved\n", "ERROR: Cannot create VLAN"),
        ("cisco_nxos", "% Permission denied for the role\n", "% Permission denied"),
        ("arista_eos", "% Invalid input\n", "% Invalid input"),
        ("arista_eos", "% Authorization denied for command\n", "% Authorization denied"),
        ("dell_os9", "% Error: Port is in Layer-3 mode Te 0/1.\n", "% Error: Port is in"),
        ("dell_os10", "% Error: Unrecognized command.\n", "% Error: Unrecognized command."),
        ("aruba_aoscx", "Invalid input: 4095\n", "Invalid input: 4095"),
        (
            "juniper_junos",
            "error: configuration database locked by:\n  root terminal p0\n",
            "error: configuration database",
        ),
        ("juniper_junos", "warning: statement not found\n", ""),
        (
            "juniper_junos",
            "  'vlan'\n    x\nerror: configuration check-out failed\n",
            "error: configuration check-out failed",
        ),
        (
            "sonic",
            "Usage: config vlan\n\nError: Vlan101 already exists!\nbmi-status=2\n",
            "Error: Vlan101 already exists!",
        ),
        ("sonic", "error: this is only a word\nbmi-status=0\n", ""),
        ("sonic", "bmi-status=127\n", "status 127"),
        ("sonic", "", "the shell did not tell the status"),
    ],
)
def test_a_refusal_is_told_from_a_warning(name: str, answer: str, said: str) -> None:
    assert refused(name, answer).startswith(said)
    assert bool(refused(name, answer)) == bool(said)


# --- names of ports ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "port",
    ["", "x\nreload", "Ethernet1/1;reboot", "swp1 | sh", "Ethernet1/1 ", "$(id)", "1/1/1?", "ge-0/0/0\n"],
)
def test_nothing_but_a_name_gets_into_a_command(name: str, port: str) -> None:
    assert not dialect(name).port_name.fullmatch(port)


@pytest.mark.parametrize(
    ("ports", "says"),
    [
        (["Ethernet1/*"], "'Ethernet1/*' is not the name of a port in the dialect cisco_nxos"),
        (["Ethernet1/9-1"], "is not a range of ports"),
        (["Ethernet1/1-99999"], "is not a range of ports"),
        ([], "at least 1 item"),
        (["port1"], "'port1' is not the name"),
    ],
)
def test_ports_are_a_closed_list(ports: list[str], says: str) -> None:
    with pytest.raises(SettingsInvalid, match=re.escape(says)):
        options(ports=ports)


def test_a_range_stands_for_its_ports() -> None:
    assert options(ports=["Ethernet1/1-3", "Ethernet1/2", "Ethernet1/9"]).names == (
        "Ethernet1/1",
        "Ethernet1/2",
        "Ethernet1/3",
        "Ethernet1/9",
    )


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"key_file": "/k"}, "either password_file or key_file"),
        ({"password_file": None}, "either password_file or key_file"),
        ({"dialect": "hp_procurve"}, "'dialect'"),
        ({"host": "-oProxyCommand=x"}, "'host'"),
        ({"username": "a b"}, "'username'"),
        ({"password": "secret"}, "'password'"),
        ({"command_timeout": 0}, "'command_timeout'"),
    ],
)
def test_options_that_cannot_be_used_are_named(more: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsInvalid, match=says):
        options(**more)


def test_the_documents_show_every_option_with_its_default() -> None:
    document = (Path(__file__).parents[4] / "docs" / "switches.md").read_text()
    example = re.sub(r"^# (?=\w+ = )", "", document.split("```toml\n")[1].split("```")[0], flags=re.MULTILINE)
    shown = tomllib.loads(example)["switches"]["tor1"]["options"]
    defaults = {
        name: field.default for name, field in NetmikoOptions.model_fields.items() if not field.is_required()
    }

    assert {*shown, "key_file"} == set(NetmikoOptions.model_fields)
    for name, default in defaults.items():
        if not name.endswith("_file"):
            assert str(shown[name]) == str(default).replace(".0", ""), name


def options(**more: Any) -> Any:
    known = {
        "host": "10.0.0.2",
        "username": "bmi",
        "password_file": "/p",
        "dialect": "cisco_nxos",
        "ports": ["Ethernet1/1"],
    }
    return parse_options(NetmikoOptions, known | more, driver="netmiko")
