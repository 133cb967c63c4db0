"""Switches that fail: what happens to the ports, and what the operator reads."""

import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import paramiko
import pytest

from bmi.drivers import Outcome, Site, load
from bmi.drivers.switch import ISOLATED, PortVlans, Switch
from bmi.errors import SwitchError, SwitchPortUnknown, SwitchRefused
from tests.switches import BOXES
from tests.switches.cisco import CiscoBox, NxosBox
from tests.switches.juniper import JunosBox
from tests.switches.server import PASSWORD, Fault, Rack, listening

MANY = tuple(f"Ethernet1/{number}" for number in range(1, 41))


class LargeBox(NxosBox):
    ports = MANY


class Bench:
    """A switch, and a driver for it with options of the test's."""

    def __init__(self, folder: Path, rack: Rack, dialect: str) -> None:
        self.rack, self.folder = rack, folder
        self.options = rack.options(folder / "switch", dialect) | {
            "connect_timeout": 20,
            "command_timeout": 20,
        }

    def driver(self, **options: Any) -> Any:
        made: Switch = load("switch", "netmiko", self.options | options, Site(self.folder, "0badcafe"))
        return closing(made)

    @property
    def name(self) -> str:
        return f"switch 127.0.0.1:{self.rack.port}"


@pytest.fixture
def nexus(tmp_path: Path) -> Iterator[Bench]:
    with listening(NxosBox()) as rack:
        yield Bench(tmp_path, rack, "cisco_nxos")


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Bench]:
    with listening(LargeBox()) as rack:
        yield Bench(tmp_path, rack, "cisco_nxos")


def together(switch: Switch, ports: tuple[str, ...], vlans: PortVlans) -> dict[str, Any]:
    """Configure ports at once, a thread each; return outcomes and errors."""

    def one(port: str) -> Any:
        try:
            return switch.configure(port, vlans)
        except SwitchError as error:
            return error

    with ThreadPoolExecutor(len(ports)) as pool:
        return dict(zip(ports, pool.map(one, ports), strict=True))


def text(error: Any) -> str:
    return str(error.value if hasattr(error, "value") else error)


# --- batches ---------------------------------------------------------------------------------------------------


def test_calls_that_wait_are_served_together_in_one_session(large: Bench) -> None:
    large.rack.latency = 0.005
    with large.driver() as switch:
        assert set(together(switch, MANY, PortVlans(101)).values()) == {Outcome.DONE}

    rack = large.rack
    assert all(rack.box.carried(port) == PortVlans(101) for port in MANY)
    assert rack.sessions == 1
    assert rack.box.saves <= 4
    assert rack.heard.count("show running-config interface") <= 8
    assert rack.heard.count("vlan 101") == 1


def test_a_batch_has_so_many_changes_at_the_most(large: Bench) -> None:
    large.rack.latency = 0.005
    with large.driver(batch=5) as switch:
        together(switch, MANY, PortVlans(101))
    assert large.rack.box.saves >= len(MANY) / 5


@pytest.mark.parametrize("dialect", BOXES)
@pytest.mark.parametrize("kind", ["drop", "cut"])
def test_a_session_that_ends_in_the_middle_is_begun_again(dialect: str, kind: str, tmp_path: Path) -> None:
    with listening(BOXES[dialect]()) as rack:
        bench = Bench(tmp_path, rack, dialect)
        ports = rack.box.ports
        with bench.driver() as switch:
            switch.configure(ports[0], PortVlans(101))
            heard = [line for line in rack.heard if "101" in line]
            for number in range(len(heard)):
                switch.configure(ports[0], ISOLATED)
                rack.faults[:] = [_at(heard[number], kind)]
                assert switch.configure(ports[0], PortVlans(101)) is Outcome.DONE, heard[number]
                assert rack.box.carried(ports[0]) == PortVlans(101)
        assert rack.sessions > 1


def _at(line: str, kind: str) -> Fault:
    return Fault(f"^{re.escape(line)}$", kind, times=1)


def test_one_session_that_is_dropped_fails_none_of_a_batch(large: Bench) -> None:
    large.rack.faults.append(Fault("^interface Ethernet1/20$", "drop", times=1))
    with large.driver() as switch:
        assert set(together(switch, MANY, PortVlans(101)).values()) == {Outcome.DONE}
    assert large.rack.sessions == 2


def test_a_switch_that_always_ends_the_session_is_an_error(nexus: Bench) -> None:
    nexus.rack.faults.append(Fault("^interface", "drop"))
    with nexus.driver() as switch, pytest.raises(SwitchError) as caught:
        switch.configure("Ethernet1/1", PortVlans(101))
    assert text(caught) == (
        f"{nexus.name} ended the session twice while its ports were configured; look at the switch's log; it may "
        "be restarting, or limit sessions"
    )
    assert nexus.rack.sessions == 2


def test_a_command_that_is_refused_for_one_port_fails_that_one_only(large: Bench) -> None:
    refusal = "                           ^\n% Invalid interface format at '^' marker.\n"
    large.rack.faults.append(Fault("^interface Ethernet1/7$", "refuse", says=refusal))
    with large.driver() as switch:
        results = together(switch, MANY, PortVlans(101))
        assert {port for port, result in results.items() if result is not Outcome.DONE} == {"Ethernet1/7"}
    assert text(results["Ethernet1/7"]) == (
        f"{large.name} refuses 'interface Ethernet1/7', which is to set port Ethernet1/7 to VLAN 101: % Invalid "
        "interface format at '^' marker.; the port has none; check that user bmi may run it, and whether the "
        "switch has such a command (docs/switches.md)"
    )
    assert all(large.rack.box.carried(port) == PortVlans(101) for port in MANY if port != "Ethernet1/7")


def test_a_port_whose_commands_are_refused_halfway_is_isolated(nexus: Bench) -> None:
    with nexus.driver() as switch:
        switch.configure("Ethernet1/1", PortVlans(101))
        says = "ERROR: VLAN 102 is reserved\n"
        nexus.rack.faults.append(Fault("native vlan 102", "refuse", says=says))
        with pytest.raises(SwitchError, match="ERROR: VLAN 102 is reserved; the port has none"):
            switch.configure("Ethernet1/1", PortVlans(102))
        assert switch.configure("Ethernet1/2", PortVlans(101)) is Outcome.DONE
    assert nexus.rack.box.carried("Ethernet1/1") == ISOLATED


@pytest.mark.parametrize("dialect", ["juniper_junos", "cumulus_nvue"])
def test_a_commit_that_fails_for_one_port_fails_that_one_only(dialect: str, tmp_path: Path) -> None:
    with listening(BOXES[dialect]()) as rack:
        bench, ports = Bench(tmp_path, rack, dialect), rack.box.ports
        rack.latency = 0.002
        # The switch loses the making of the VLAN, so that only the commit finds it missing.
        rack.faults.append(
            Fault(
                r"^nv set bridge domain br_default vlan 202|^set vlans \S+ vlan-id 202",
                "garble",
                says="bmi-status=0\n",
            )
        )

        def one(port: str) -> Any:
            try:
                return switch.configure(port, PortVlans(202 if port == ports[3] else 101))
            except SwitchError as error:
                return error

        with bench.driver() as switch, ThreadPoolExecutor(6) as pool:
            results = dict(zip(ports, pool.map(one, ports), strict=True))

        assert {port for port, result in results.items() if result is not Outcome.DONE} == {ports[3]}
        assert "202" in text(results[ports[3]])
        assert "commit" in text(results[ports[3]]) or "apply" in text(results[ports[3]])
        assert all(rack.box.carried(port) == PortVlans(101) for port in ports if port != ports[3])
        assert rack.box.carried(ports[3]) == ISOLATED


def test_others_uncommitted_changes_are_not_committed(tmp_path: Path) -> None:
    with listening(JunosBox()) as rack:
        says = "error: configuration database modified\n"
        rack.faults.append(Fault("^configure private$", "refuse", says=says))
        with (
            Bench(tmp_path, rack, "juniper_junos").driver() as switch,
            pytest.raises(SwitchError) as caught,
        ):
            switch.configure("ge-0/0/0", PortVlans(101))
        assert "refuses 'configure private' of user bmi: error: configuration database modified" in text(
            caught
        )


# --- switches that lie, hang and talk too much -------------------------------------------------------------------


@pytest.mark.parametrize("dialect", BOXES)
def test_one_that_accepts_and_does_not_do_it_is_found_out(dialect: str, tmp_path: Path) -> None:
    with listening(BOXES[dialect]()) as rack:
        bench, port = Bench(tmp_path, rack, dialect), rack.box.ports[0]
        with bench.driver() as switch:
            switch.configure(port, PortVlans(101))
            says = "bmi-status=0\n" if dialect in ("sonic", "cumulus_nvue") else ""
            rack.faults.append(
                Fault("switchport|untagged|shutdown|vlan trunk|member|interfaces", "garble", says=says)
            )
            rack.faults.insert(0, Fault("^show|^ls|cfggen|nv config show", "none"))
            with pytest.raises(SwitchError) as caught:
                switch.configure(port, PortVlans(102))
            assert f"port {port} of {bench.name} was set to VLAN 102, but the port has " in text(caught)
            assert "find out who else configures it" in text(caught)
            assert caught.value.transient


def test_a_vlan_that_the_switch_does_not_make_is_found_out(nexus: Bench) -> None:
    nexus.rack.faults.append(Fault("^vlan 101$", "ignore"))
    nexus.rack.faults.append(Fault("^exit$", "ignore", times=1))
    with nexus.driver() as switch, pytest.raises(SwitchError, match="does not know VLAN 101"):
        switch.configure("Ethernet1/1", PortVlans(101))


def test_one_that_does_not_answer_a_command_is_given_up(nexus: Bench) -> None:
    nexus.rack.faults.append(Fault("^interface", "hang", times=1))
    with nexus.driver(command_timeout=0.5) as switch:
        with pytest.raises(SwitchError) as caught:
            switch.configure("Ethernet1/1", PortVlans(101))
        assert text(caught) == (
            f"{nexus.name} did not come to its prompt within 0.5 s to 'interface Ethernet1/1'; look at the "
            "switch's load and console; raise the driver's timeouts if it is only slow"
        )
        assert switch.configure("Ethernet1/1", PortVlans(101)) is Outcome.DONE  # in another session
    assert nexus.rack.sessions == 2


def test_a_caller_does_not_wait_for_ever_for_those_before_him(nexus: Bench) -> None:
    nexus.rack.faults.append(Fault("^interface", "hang", times=1))
    with nexus.driver(command_timeout=5, call_timeout=0.5) as switch, pytest.raises(SwitchError) as caught:
        switch.configure("Ethernet1/1", PortVlans(101))
    assert "did not do what was asked of it within 0.5 s" in text(caught)
    assert "call_timeout" in text(caught)


@pytest.mark.parametrize("state", ["mute", "deaf"])
def test_one_that_takes_the_connection_and_says_nothing_is_given_up(nexus: Bench, state: str) -> None:
    setattr(nexus.rack, state, True)
    with nexus.driver(connect_timeout=1) as switch, pytest.raises(SwitchError) as caught:
        switch.port("Ethernet1/1")
    assert nexus.name in text(caught)
    assert f"ssh -p {nexus.rack.port} bmi@127.0.0.1" in text(caught)


def test_one_that_is_not_there_is_asked_once_for_many_ports(nexus: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with nexus.driver(port=port, check_host_key=False) as switch:
        with pytest.raises(SwitchError) as caught:
            switch.port("Ethernet1/1")
        assert text(caught) == (
            f"switch 127.0.0.1:{port} cannot be reached: Connection refused; check its address and power, the "
            f"network between, and that SSH answers there, with a free session: ssh -p {port} bmi@127.0.0.1"
        )
        assert caught.value.transient
        # One who asks a moment later is told the same, although the switch would take him by now.
        with socket.create_server(("127.0.0.1", port)) as listener:
            listener.settimeout(0.2)
            with pytest.raises(SwitchError, match="Connection refused"):
                switch.port("Ethernet1/2")
            with pytest.raises(TimeoutError):
                listener.accept()


def test_one_that_talks_without_end_is_given_up(nexus: Bench) -> None:
    nexus.rack.faults.append(Fault("^show vlan", "flood", times=1))
    with nexus.driver() as switch:
        with pytest.raises(SwitchError, match=r"answers more than 4 MiB to 'show vlan brief \| json'"):
            switch.port("Ethernet1/1")
        assert switch.port("Ethernet1/1").vlans == ISOLATED


@pytest.mark.parametrize(
    "says",
    [
        "",
        "x",
        "{",
        "[1]",
        '{"TABLE_vlanbriefxbrief": 7}',
        "[" * 100_000,
        "% Invalid command\n",
        "\x1b[31m\0\x07",
    ],
)
def test_an_answer_that_is_none_is_an_error(nexus: Bench, says: str) -> None:
    nexus.rack.faults.append(Fault("^show vlan", "garble", says=f"{says}\n"))
    with nexus.driver() as switch, pytest.raises(SwitchError) as caught:
        switch.configure("Ethernet1/1", PortVlans(101))
    assert f"{nexus.name} was asked for its ports, and answered without " in text(caught)
    assert "the option dialect" in text(caught)
    assert text(caught).isprintable()


def test_what_a_switch_says_is_shown_harmless_and_short(nexus: Bench) -> None:
    nexus.rack.faults.append(Fault("native", "refuse", says=f"ERROR: \x07\x9b31m{'x' * 5000}\n"))
    with nexus.driver() as switch, pytest.raises(SwitchError) as caught:
        switch.configure("Ethernet1/1", PortVlans(101))
    assert text(caught).isprintable()
    assert len(text(caught)) < 700


# --- who is at the other end -------------------------------------------------------------------------------------


def test_another_host_key_is_not_spoken_to(nexus: Bench) -> None:
    known = Path(nexus.options["known_hosts"])
    other = paramiko.ECDSAKey.generate()
    known.write_text(f"[127.0.0.1]:{nexus.rack.port} {other.get_name()} {other.get_base64()}\n")
    with nexus.driver() as switch, pytest.raises(SwitchRefused) as caught:
        switch.port("Ethernet1/1")
    assert text(caught) == (
        f"{nexus.name} shows another host key ({nexus.rack.key.fingerprint}) than the one in {known}: it was "
        "replaced or reset, or somebody else answers at its address; compare it with the switch's own, at its "
        f"console; only if they are the same, remove the old line (ssh-keygen -R '[127.0.0.1]:{nexus.rack.port}' "
        f"-f {known}) and add the new one"
    )
    assert nexus.rack.logins == []  # it has not seen the password
    assert not caught.value.transient


def test_an_unknown_host_key_is_not_spoken_to(nexus: Bench) -> None:
    known = Path(nexus.options["known_hosts"])
    known.write_text("")
    with nexus.driver() as switch, pytest.raises(SwitchRefused) as caught:
        switch.port("Ethernet1/1")
    assert text(caught) == (
        f"the host key of {nexus.name} (ecdsa-sha2-nistp256 {nexus.rack.key.fingerprint}) is not in {known}; "
        f"compare it with the switch's own, at its console, then: ssh-keyscan -p {nexus.rack.port} 127.0.0.1 "
        f">> {known}"
    )
    assert nexus.rack.logins == []


def test_without_a_file_of_host_keys_nobody_is_spoken_to(nexus: Bench, tmp_path: Path) -> None:
    with (
        nexus.driver(known_hosts=str(tmp_path / "none")) as switch,
        pytest.raises(SwitchRefused, match="ssh-keyscan"),
    ):
        switch.port("Ethernet1/1")


def test_host_keys_are_not_checked_where_that_was_asked_for(nexus: Bench, tmp_path: Path) -> None:
    with nexus.driver(known_hosts=str(tmp_path / "none"), check_host_key=False) as switch:
        assert switch.port("Ethernet1/1").vlans == ISOLATED


def test_a_wrong_password_is_tried_once(nexus: Bench) -> None:
    Path(nexus.options["password_file"]).write_text("wrong\n")
    with nexus.driver() as switch:
        results = together(switch, NxosBox.ports, PortVlans(101))
        with pytest.raises(SwitchRefused) as caught:
            switch.port("Ethernet1/1")
    assert text(caught) == (
        f"{nexus.name} refuses the log-in of user bmi; check the option username, the content of password_file or "
        "key_file, and the account on the switch; BMI tries again in a minute at the earliest, lest the account be "
        "locked"
    )
    assert {text(result) for result in results.values()} == {text(caught)}
    assert nexus.rack.logins == [("bmi", False)]


@pytest.mark.parametrize(
    ("content", "says"), [(None, "cannot be read"), ("", "holds no password"), ("a\nb\n", "holds no")]
)
def test_a_password_file_that_is_none_is_named(nexus: Bench, content: str | None, says: str) -> None:
    path = Path(nexus.options["password_file"])
    path.unlink() if content is None else path.write_text(content)
    with nexus.driver() as switch, pytest.raises(SwitchRefused, match=says) as caught:
        switch.port("Ethernet1/1")
    assert str(path) in text(caught)
    assert nexus.rack.logins == []


def test_a_key_lets_in_too(nexus: Bench, tmp_path: Path) -> None:
    nexus.rack.user_key = paramiko.ECDSAKey.generate()
    nexus.rack.user_key.write_private_key_file(str(tmp_path / "key"))
    del nexus.options["password_file"]
    with nexus.driver(key_file=str(tmp_path / "key")) as switch:
        assert switch.configure("Ethernet1/1", PortVlans(101)) is Outcome.DONE
    with (
        nexus.driver(key_file=str(tmp_path / "none")) as switch,
        pytest.raises(SwitchRefused, match="none is not there"),
    ):
        switch.port("Ethernet1/1")


def test_an_account_without_rights_enables(tmp_path: Path) -> None:
    box = BOXES["cisco_ios"]()
    assert isinstance(box, CiscoBox)
    box.enable_secret = "enable-s3cret"
    (tmp_path / "enable").write_text("enable-s3cret\n")
    (tmp_path / "wrong").write_text("wrong\n")
    with listening(box) as rack:
        bench, port = Bench(tmp_path, rack, "cisco_ios"), box.ports[0]
        with bench.driver(enable_secret_file=str(tmp_path / "enable")) as switch:
            assert switch.configure(port, PortVlans(101)) is Outcome.DONE
        for options in ({}, {"enable_secret_file": str(tmp_path / "wrong")}):
            with bench.driver(**options) as switch, pytest.raises(SwitchRefused) as caught:
                switch.configure(port, PortVlans(102))
            assert text(caught) == (
                f"user bmi does not get to the prompt of one who may configure {bench.name}; give the account the "
                "rights (docs/switches.md), or name enable_secret_file"
            )


def test_no_secret_gets_into_a_log(nexus: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        with nexus.driver() as switch:
            switch.configure("Ethernet1/1", PortVlans(101))
        Path(nexus.options["password_file"]).write_text("another-s3cret")
        with nexus.driver() as switch, pytest.raises(SwitchRefused) as caught:
            switch.configure("Ethernet1/1", PortVlans(101))
    told = caplog.text + repr(caught.value) + text(caught)
    assert PASSWORD not in told
    assert "another-s3cret" not in told


# --- which ports -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["configure", "port"])
def test_a_port_that_the_options_do_not_name_is_not_touched(nexus: Bench, verb: str) -> None:
    with nexus.driver() as switch, pytest.raises(SwitchPortUnknown) as caught:
        switch.configure("Ethernet1/49", PortVlans(101)) if verb == "configure" else switch.port(
            "Ethernet1/49"
        )
    assert text(caught) == (
        f"BMI may not touch port Ethernet1/49 of {nexus.name}: the option ports does not name it; use one of its "
        "ports: Ethernet1/1, Ethernet1/2, Ethernet1/3, Ethernet1/4, Ethernet1/5, ...; add it to the option ports "
        "if a node is behind it, and never an uplink"
    )
    assert nexus.rack.sessions == 0


def test_a_port_that_the_switch_does_not_have_is_unknown(nexus: Bench) -> None:
    with nexus.driver(ports=["Ethernet1/1", "Ethernet7/1"]) as switch:
        with pytest.raises(
            SwitchPortUnknown, match="has no port Ethernet7/1; use one of its ports: Ethernet1/1"
        ):
            switch.configure("Ethernet7/1", PortVlans(101))
        assert [state.port for state in switch.ports()] == ["Ethernet1/1"]


def test_a_port_that_is_no_node_s_is_refused_and_does_not_count_as_isolated(nexus: Bench) -> None:
    nexus.rack.faults.append(
        Fault(
            "^show running",
            "garble",
            says="interface Ethernet1/3\n  no switchport\n  ip address 10.0.0.1/24\n",
        )
    )
    with nexus.driver() as switch:
        assert switch.port("Ethernet1/3").vlans != ISOLATED
        with pytest.raises(SwitchRefused) as caught:
            switch.configure("Ethernet1/3", ISOLATED)
    assert text(caught) == (
        f"port Ethernet1/3 of {nexus.name} cannot be set to VLAN none: it is a routed port; prepare it as a port "
        "for a node (docs/switches.md), or take it off the option ports"
    )


# --- saving, and the session's life ------------------------------------------------------------------------------


def test_what_cannot_be_saved_is_an_error_until_it_is(nexus: Bench) -> None:
    nexus.rack.faults.append(Fault("^copy", "refuse", says="% Error: No space left on device\n"))
    with nexus.driver() as switch:
        with pytest.raises(SwitchError) as caught:
            switch.configure("Ethernet1/1", PortVlans(101))
        assert text(caught) == (
            f"port Ethernet1/1 of {nexus.name} has VLAN 101, but the switch does not save that: % Error: No space "
            "left on device; check the space on its flash, and that user bmi may run 'copy running-config "
            "startup-config'; after a restart the port would have its former VLANs"
        )
        nexus.rack.faults.clear()
        assert switch.configure("Ethernet1/1", PortVlans(101)) is Outcome.ALREADY
    assert nexus.rack.box.saves == 1


def test_one_that_died_before_it_saved_leaves_that_to_the_next(nexus: Bench) -> None:
    with nexus.driver(save=False) as switch:
        switch.configure("Ethernet1/1", PortVlans(101))
    assert nexus.rack.box.saves == 0
    with nexus.driver() as switch:
        assert switch.configure("Ethernet1/1", PortVlans(101)) is Outcome.ALREADY
        assert switch.configure("Ethernet1/1", PortVlans(101)) is Outcome.ALREADY
    assert nexus.rack.box.saves == 1


def test_a_session_that_nobody_uses_is_ended(nexus: Bench) -> None:
    before = threading.active_count()
    with nexus.driver(idle_timeout=0.1) as switch:
        assert switch.port("Ethernet1/1").vlans == ISOLATED
        until(lambda: nexus.rack.open_sessions == 0)
        assert switch.port("Ethernet1/1").vlans == ISOLATED
    until(lambda: nexus.rack.open_sessions == 0)
    assert nexus.rack.sessions == 2
    until(lambda: threading.active_count() <= before)


def test_a_session_that_the_switch_ended_meanwhile_is_begun_again(nexus: Bench) -> None:
    with nexus.driver() as switch:
        switch.port("Ethernet1/1")
        nexus.rack.faults.append(Fault("^show", "drop", times=2))
        assert switch.port("Ethernet1/1").vlans == ISOLATED
    assert nexus.rack.sessions == 3


def until(reached: Any) -> None:
    end = time.monotonic() + 20
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.02)
