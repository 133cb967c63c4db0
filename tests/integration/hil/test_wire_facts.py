"""What is known of how HIL answers, fact by fact: docs/hil.md names the test of each.

Tests with the fixture `anywhere` run against a real HIL too, where the environment names one (tests/hil/bench.py);
those with `bench` need a look, or a hand, inside of it.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest

from bmi.drivers import Outcome, Site, load
from bmi.drivers.hil.client import Hil, HilAway, HilSaysNo, Login
from bmi.drivers.hil.options import HilOptions
from bmi.drivers.power import Bmc, BootDevice, Power, PowerState
from bmi.drivers.switch import ISOLATED, PortVlans, Switch
from bmi.errors import (
    BmcRefused,
    BmcUnreachable,
    InventoryRefused,
    InventoryUnavailable,
    SettingsInvalid,
    SwitchError,
    SwitchPortUnknown,
    SwitchRefused,
    SwitchUnreachable,
)
from bmi.wait import wait_until
from tests.hil.bench import HilBench, double_bench, real, real_bench
from tests.integration.test_api_tls import Files

LAN, SAN = PortVlans(101), PortVlans(102)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[HilBench]:
    with double_bench(tmp_path) as made:
        yield made


@pytest.fixture(params=["double", "real"] if real() else ["double"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HilBench]:
    with real_bench(tmp_path) if request.param == "real" else double_bench(tmp_path) as made:
        isolate(made)
        yield made
        isolate(made)


def isolate(bench: HilBench) -> None:
    with closing(switch_of(bench)) as switch:
        switch.configure(f"{bench.node}/{bench.nic}", ISOLATED)


def switch_of(bench: HilBench, **more: Any) -> Switch:
    site = Site(bench.folder / "state", "0badcafe")
    return cast("Switch", load("switch", "hil", {**bench.changing, **more}, site))


def power_of(bench: HilBench, **more: Any) -> Power:
    site = Site(bench.folder / "state", "0badcafe")
    return cast("Power", load("power", "hil", {**bench.changing, **more}, site))


def inventory_of(bench: HilBench, **more: Any) -> Any:
    return load("inventory", "hil", {**bench.options, **more}, Site(bench.folder / "state", "0badcafe"))


def attached(hil: Hil, bench: HilBench) -> dict[str, str]:
    return {nic.label: nic.networks for nic in hil.node(bench.node).nics}[bench.nic]


def finished(hil: Hil, id: str | None) -> str:
    assert id is not None
    found = wait_until(
        lambda: (status := hil.action(id)) != "PENDING" and (status or "forgotten"),
        deadline=60,
        what="HIL",
        next_step="",
    )
    assert isinstance(found, str)
    return found


# --- the wire ----------------------------------------------------------------------------------------------


def test_all_paths_begin_with_v0(anywhere: HilBench) -> None:
    assert anywhere.node in anywhere.hil.nodes_of(anywhere.project)
    elsewhere = Hil(HilOptions.model_validate({**anywhere.options, "prefix": ""}))
    with pytest.raises(HilSaysNo) as refused:
        elsewhere.nodes_of(anywhere.project)
    assert (refused.value.status, refused.value.kind) == (404, "")


def test_a_form_content_type_loses_the_body_and_ours_is_json(bench: HilBench) -> None:
    call = f"{bench.url}/v0/node/n1/nic/nic1/connect_network"
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    lost = httpx2.post(call, content=b'{"network": "lan"}', headers=form, auth=("bmi", "a word"))
    assert lost.status_code == 400
    assert bench.hil.connect("n1", "nic1", "lan", None)
    seen = bench.double.seen[-1] if bench.double else None
    assert seen is not None
    assert (seen.content_type, json.loads(seen.body)) == ("application/json", {"network": "lan"})


def test_a_get_has_no_body(bench: HilBench) -> None:
    assert bench.double is not None
    bench.hil.node("n1")
    seen = bench.double.seen[-1]
    assert (seen.method, seen.body, seen.content_type) == ("GET", b"", None)


def test_success_is_json_that_calls_itself_html(anywhere: HilBench) -> None:
    raw = httpx2.get(
        f"{anywhere.url}/v0/node/{anywhere.node}", auth=(anywhere.username, anywhere.password), timeout=60
    )
    assert raw.headers["Content-Type"].startswith("text/html")
    assert anywhere.hil.node(anywhere.node).project == anywhere.project


def test_a_page_of_html_is_a_failure_that_may_pass(bench: HilBench) -> None:
    bench.world.broken = True
    bmc = Bmc("n1", "", "")
    for ask, error in (
        (lambda: switch_of(bench).port("n1/nic1"), SwitchError),
        (lambda: power_of(bench).state(bmc), BmcUnreachable),
        (lambda: inventory_of(bench).nodes("red"), InventoryUnavailable),
    ):
        with pytest.raises(error) as failed:
            cast("Any", ask)()
        assert failed.value.transient
        assert "<h1>" not in failed.value.message


def test_a_certificate_must_be_one_that_can_be_trusted(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.make()
    with double_bench(tmp_path, (files.certificate, files.key)) as bench:
        with pytest.raises(InventoryRefused, match="cannot be trusted") as refused:
            inventory_of(bench).nodes("red")
        assert "ca_file" in refused.value.next_step
        assert inventory_of(bench, ca_file=str(files.certificate)).nodes("red") == {"n1"}
        assert inventory_of(bench, verify_tls=False).nodes("red") == {"n1"}
    with pytest.raises(SettingsInvalid, match="ca_file"):
        inventory_of(bench, ca_file=str(tmp_path / "none.pem"))


def test_an_answer_of_another_form_is_refused(bench: HilBench) -> None:
    bench.world.nodes["n1"].nics["nic1"].networks = cast("Any", {"vlan/native": 7})
    with pytest.raises(SwitchRefused, match="cannot be read"):
        switch_of(bench).port("n1/nic1")


def test_control_characters_are_refused(bench: HilBench) -> None:
    bench.world.add_node("n\x1b[2J", "red", nic1="52:54:00:00:00:09")
    with pytest.raises(InventoryRefused) as refused:
        inventory_of(bench).nodes("red")
    assert "\x1b" not in str(refused.value)


def test_labels_may_have_slashes_and_odd_macs(bench: HilBench) -> None:
    bench.world.add_node("n2", "red", **{"gi1/0/5": "52-54-00-AB-CD-EF, maybe"})
    node = inventory_of(bench).node("n2")
    assert [(nic.label, nic.mac) for nic in node.nics] == [("gi1/0/5", "52-54-00-AB-CD-EF, maybe")]
    switch = switch_of(bench)
    assert switch.configure("n2/gi1/0/5", LAN) is Outcome.DONE
    assert switch.port("n2/gi1/0/5").vlans == LAN


# --- who asks ----------------------------------------------------------------------------------------------


def test_a_wrong_password_is_401(anywhere: HilBench) -> None:
    mistyped = replace(anywhere, password="wrong")
    with pytest.raises(InventoryRefused, match=anywhere.username) as refused:
        inventory_of(mistyped).nodes(anywhere.project)
    assert "password_file" in refused.value.next_step
    assert "wrong" not in refused.value.message
    assert not refused.value.transient


def test_an_unknown_user_is_404_and_not_taken_for_a_missing_thing(anywhere: HilBench) -> None:
    nobody = replace(anywhere, username="bmi-nobody")
    with pytest.raises(InventoryRefused):
        inventory_of(nobody).nodes(anywhere.project)
    with pytest.raises(InventoryRefused):
        inventory_of(nobody).node(anywhere.node)
    with pytest.raises(SwitchRefused) as refused:
        switch_of(nobody).port(f"{anywhere.node}/{anywhere.nic}")
    assert not isinstance(refused.value, SwitchPortUnknown)


def test_no_permission_is_401_too_and_told_apart(bench: HilBench) -> None:
    with pytest.raises(HilSaysNo) as refused:
        bench.hil.node("theirs")
    assert (refused.value.status, refused.value.no_access, refused.value.wrong_user) == (401, True, False)
    bench.username, bench.password = "stranger", "a third"
    with pytest.raises(InventoryRefused) as no_member:
        inventory_of(bench).nodes("red")
    assert "hil user project add" in no_member.value.next_step


def test_a_project_that_is_not_there_has_no_nodes(anywhere: HilBench) -> None:
    assert list(inventory_of(anywhere).nodes("bmi-no-such-project")) == []


def test_a_free_node_is_seen_by_everybody(bench: HilBench) -> None:
    assert inventory_of(bench).node("free").project is None
    assert inventory_of(bench).node("theirs") is None
    assert inventory_of(bench).node("nosuch") is None


# --- networks ----------------------------------------------------------------------------------------------


def test_an_action_is_accepted_and_done_later(anywhere: HilBench) -> None:
    hil, (lan, _) = anywhere.hil, anywhere.networks
    assert finished(hil, hil.connect(anywhere.node, anywhere.nic, lan, None)) == "DONE"
    assert list(attached(hil, anywhere).values()) == [lan]


def test_the_driver_returns_when_the_network_is_there(bench: HilBench) -> None:
    bench.world.delay = 0.2
    assert switch_of(bench).configure("n1/nic1", LAN) is Outcome.DONE
    assert bench.world.nodes["n1"].nics["nic1"].networks == {"vlan/native": "lan"}


def test_an_action_that_ends_in_error_fails_and_may_pass(bench: HilBench) -> None:
    bench.world.failing.add("lan")
    with pytest.raises(SwitchError, match="attach network lan") as failed:
        switch_of(bench).configure("n1/nic1", LAN)
    assert failed.value.transient
    bench.world.failing.clear()
    assert switch_of(bench).configure("n1/nic1", LAN) is Outcome.DONE


def test_a_network_daemon_that_stands_still_is_named(bench: HilBench) -> None:
    bench.world.frozen = True
    with pytest.raises(SwitchError) as failed:
        switch_of(bench, timeout=0.3).configure("n1/nic1", LAN)
    assert "hil-admin serve-networks" in failed.value.next_step


def test_a_rejected_second_connect_deletes_the_record_of_the_first(anywhere: HilBench) -> None:
    hil, (lan, _) = anywhere.hil, anywhere.networks
    id = hil.connect(anywhere.node, anywhere.nic, lan, None)
    assert finished(hil, id) == "DONE"
    with pytest.raises(HilSaysNo, match="already attached") as refused:
        hil.connect(anywhere.node, anywhere.nic, lan, None)
    assert refused.value.status == 409
    assert hil.action(str(id)) is None


def test_an_action_that_hil_forgot_is_looked_for_at_the_node(
    bench: HilBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hil, "action", lambda self, action: None)
    bench.world.delay = 0.1
    assert switch_of(bench).configure("n1/nic1", LAN) is Outcome.DONE
    assert bench.world.nodes["n1"].nics["nic1"].history == [{"vlan/native": "lan"}]


def test_pending_is_tested_before_attached(bench: HilBench) -> None:
    bench.world.delay = 60
    bench.hil.connect("n1", "nic1", "lan", None)
    with pytest.raises(HilSaysNo, match="already active"):
        bench.hil.detach("n1", "nic1", "san")
    bench.world.daemon(at_once=True)
    with pytest.raises(HilSaysNo, match="not attached"):
        bench.hil.detach("n1", "nic1", "san")


def test_an_action_of_somebody_else_is_waited_for(bench: HilBench) -> None:
    bench.world.delay = 0.3
    bench.hil.connect("n1", "nic1", "san", None)
    assert switch_of(bench).configure("n1/nic1", LAN) is Outcome.DONE
    assert bench.world.nodes["n1"].nics["nic1"].history == [
        {"vlan/native": "san"},
        {},
        {"vlan/native": "lan"},
    ]


@pytest.mark.parametrize("wanted", [ISOLATED, LAN], ids=str)
def test_an_action_that_a_killed_process_left_is_not_overlooked(bench: HilBench, wanted: PortVlans) -> None:
    """The port looks as it should be, and would change a moment later."""
    switch = switch_of(bench)
    switch.configure("n1/nic1", wanted)
    bench.world.delay = 0.3
    if wanted == LAN:
        bench.hil.detach("n1", "nic1", "lan")
    else:
        bench.hil.connect("n1", "nic1", "lan", None)
    assert switch.port("n1/nic1").vlans == wanted  # not carried out yet
    switch.configure("n1/nic1", wanted)
    bench.world.daemon(at_once=True)
    assert switch.port("n1/nic1").vlans == wanted
    assert switch.configure("n1/nic1", wanted) is Outcome.ALREADY


def test_detaching_what_is_not_attached_is_400_and_success(anywhere: HilBench) -> None:
    hil, (lan, _) = anywhere.hil, anywhere.networks
    with pytest.raises(HilSaysNo, match="not attached") as refused:
        hil.detach(anywhere.node, anywhere.nic, lan)
    assert refused.value.status == 400
    assert switch_of(anywhere).configure(f"{anywhere.node}/{anywhere.nic}", ISOLATED) is Outcome.ALREADY


def test_attaching_what_is_attached_is_success(bench: HilBench) -> None:
    switch = switch_of(bench)
    assert switch.configure("n1/nic1", LAN) is Outcome.DONE
    assert switch.configure("n1/nic1", LAN) is Outcome.ALREADY


def test_the_channel_is_named_where_hil_knows_it(bench: HilBench) -> None:
    assert bench.double is not None
    switch_of(bench).configure("n1/nic1", PortVlans(101, frozenset({102})))
    sent = [json.loads(seen.body) for seen in bench.double.seen if seen.path.endswith("/connect_network")]
    assert sent == [
        {"network": "lan", "channel": "vlan/native"},
        {"network": "san", "channel": "vlan/102"},
    ]


def test_the_channel_is_left_out_with_the_null_allocator(tmp_path: Path) -> None:
    with double_bench(tmp_path, allocator="null") as bench:
        assert bench.double is not None
        switch = switch_of(bench, networks={"101": "lan"})
        assert switch.configure("n1/nic1", LAN) is Outcome.DONE
        assert switch.port("n1/nic1").vlans == LAN
        sent = [json.loads(seen.body) for seen in bench.double.seen if seen.path.endswith("/connect_network")]
        assert sent == [{"network": "lan"}]
        with pytest.raises(SwitchRefused, match="tagged"):
            switch.configure("n1/nic1", PortVlans(tagged=frozenset({101})))


def test_an_empty_or_illegal_channel_is_refused_by_hil(anywhere: HilBench) -> None:
    lan = anywhere.networks[0]
    with pytest.raises(HilSaysNo) as refused:
        anywhere.hil.connect(anywhere.node, anywhere.nic, lan, "vlan/4000")
    assert refused.value.status == 400
    raw = httpx2.post(
        f"{anywhere.url}/v0/node/{anywhere.node}/nic/{anywhere.nic}/connect_network",
        json={"network": lan, "channel": ""},
        auth=(anywhere.username, anywhere.password),
        timeout=60,
    )
    assert raw.status_code == 400


def test_on_some_switches_native_comes_first_and_goes_last(bench: HilBench) -> None:
    nic = bench.world.nodes["n1"].nics["nic1"]
    nic.native_first = True
    switch = switch_of(bench)
    switch.configure("n1/nic1", PortVlans(101, frozenset({102, 104})))
    switch.configure("n1/nic1", ISOLATED)
    assert nic.networks == {}
    with pytest.raises(SwitchRefused, match="without a native one"):
        switch.configure("n1/nic1", PortVlans(tagged=frozenset({102})))


def test_native_is_exchanged_though_tagged_ones_stay(bench: HilBench) -> None:
    nic = bench.world.nodes["n1"].nics["nic1"]
    nic.native_first = True
    switch = switch_of(bench)
    switch.configure("n1/nic1", PortVlans(101, frozenset({104})))
    switch.configure("n1/nic1", PortVlans(102, frozenset({104})))
    assert switch.port("n1/nic1").vlans == PortVlans(102, frozenset({104}))
    assert all(not {"lan", "san"} <= set(step.values()) for step in nic.history)


def test_old_and_new_are_never_on_a_port_together(bench: HilBench) -> None:
    nic = bench.world.nodes["n1"].nics["nic1"]
    switch = switch_of(bench)
    switch.configure("n1/nic1", PortVlans(101, frozenset({102})))
    switch.configure("n1/nic1", PortVlans(tagged=frozenset({101, 104})))
    for step in nic.history:
        assert not ("san" in step.values() and "public" in step.values())
    assert switch.port("n1/nic1").vlans == PortVlans(tagged=frozenset({101, 104}))


def test_a_vlan_without_a_network_is_named_with_what_to_do(bench: HilBench) -> None:
    with pytest.raises(SwitchRefused, match="VLAN 777") as refused:
        switch_of(bench).configure("n1/nic1", PortVlans(777))
    assert "--net-id 777" in refused.value.next_step
    assert not refused.value.transient


def test_a_network_that_changed_its_vlan_is_not_taken_for_the_old_one(bench: HilBench) -> None:
    switch = switch_of(bench)
    switch.configure("n1/nic1", LAN)
    switch.configure("n1/nic1", ISOLATED)
    bench.world.networks["lan"].vlan, bench.world.networks["san"].vlan = 102, 101
    switch.configure("n1/nic1", LAN)
    assert bench.world.nodes["n1"].nics["nic1"].networks == {"vlan/native": "san"}


def test_a_public_network_is_found(bench: HilBench) -> None:
    assert switch_of(bench).configure("n1/nic1", PortVlans(104)) is Outcome.DONE


def test_another_project_s_network_is_not(bench: HilBench) -> None:
    with pytest.raises(SwitchRefused, match="VLAN 103"):
        switch_of(bench).configure("n1/nic1", PortVlans(103))


def test_a_card_without_a_port_is_named(bench: HilBench) -> None:
    bench.world.nodes["n1"].nics["nic1"].cabled = False
    with pytest.raises(SwitchPortUnknown) as refused:
        switch_of(bench).configure("n1/nic1", LAN)
    assert "hil port nic add" in refused.value.next_step
    assert switch_of(bench).configure("n1/nic1", ISOLATED) is Outcome.ALREADY


def test_a_network_that_went_away_does_not_keep_a_port_from_being_looked_at(bench: HilBench) -> None:
    switch = switch_of(bench)
    assert switch.configure("n1/nic1", ISOLATED) is Outcome.ALREADY
    del bench.world.networks["lan"]
    switch.configure("n1/nic1", ISOLATED)
    assert switch.port("n1/nic1").vlans == ISOLATED


@pytest.mark.parametrize(("vlans", "calls"), [(ISOLATED, 3), (LAN, 4)], ids=str)
def test_each_call_costs_hil_time_so_there_are_few(bench: HilBench, vlans: PortVlans, calls: int) -> None:
    assert bench.double is not None
    switch = switch_of(bench)
    for _ in range(2):
        switch.configure("n1/nic1", vlans)
    bench.double.seen.clear()
    assert switch.configure("n1/nic1", vlans) is Outcome.ALREADY
    assert len(bench.double.seen) == calls


def test_ports_are_the_cards_of_the_projects_nodes(bench: HilBench) -> None:
    switch = switch_of(bench)
    switch.configure("n1/nic2", LAN)
    assert {state.port: state.vlans for state in switch.ports()} == {"n1/nic1": ISOLATED, "n1/nic2": LAN}


@pytest.mark.parametrize("user", ["bmi", "root"])
def test_a_node_of_somebody_else_is_not_touched(bench: HilBench, user: str) -> None:
    bench.username, bench.password = user, {"bmi": "a word", "root": "another"}[user]
    theirs = bench.world.nodes["theirs"]
    theirs.nics["nic1"].networks = {"vlan/native": "blue-lan"}
    theirs.on = True
    switch, power = switch_of(bench), power_of(bench)
    assert switch.configure("theirs/nic1", ISOLATED) is Outcome.ALREADY
    assert switch.port("theirs/nic1").vlans == ISOLATED
    with pytest.raises(SwitchRefused, match="none of HIL's projects"):
        switch.configure("theirs/nic1", LAN)
    with pytest.raises(BmcRefused):
        power.off(Bmc("theirs", "", ""))
    assert theirs.nics["nic1"].networks == {"vlan/native": "blue-lan"}
    assert theirs.on
    assert not theirs.obm


def test_a_wrong_project_in_the_settings_is_not_taken_for_a_node_of_somebody_else(bench: HilBench) -> None:
    with pytest.raises(SwitchRefused):
        switch_of(bench, projects=["blue"]).configure("theirs/nic1", ISOLATED)


def test_hil_0_2_says_nothing_of_actions(tmp_path: Path) -> None:
    with double_bench(tmp_path, version="0.2", delay=0.1) as bench:
        assert bench.hil.connect("n1", "nic1", "lan", None) is None
        switch = switch_of(bench)
        assert switch.configure("n1/nic1", SAN) is Outcome.DONE
        assert switch.port("n1/nic1").vlans == SAN
        assert switch.configure("n1/nic1", ISOLATED) is Outcome.DONE
        bench.world.failing.add("lan")
        with pytest.raises(SwitchError, match="waited"):
            switch_of(bench, timeout=0.5).configure("n1/nic1", LAN)


# --- power -------------------------------------------------------------------------------------------------


def test_power_leads_to_obmd_by_a_redirect(bench: HilBench) -> None:
    assert bench.double is not None
    power, bmc = power_of(bench), Bmc("n1", "", "")
    power.boot_from(bmc, BootDevice.NETWORK)
    power.on(bmc)
    assert power.state(bmc) is PowerState.ON
    power.off(bmc)
    power.reset_boot(bmc)
    verbs = [(seen.method, seen.path.split("?")[0]) for seen in bench.double.obmd_seen]
    for verb in (
        ("PUT", "/node/n1/boot_device"),
        ("POST", "/node/n1/power_on"),
        ("GET", "/node/n1/power_status"),
        ("POST", "/node/n1/power_off"),
    ):
        assert verb in verbs
    assert bench.world.nodes["n1"].bootdev == "none"


def test_hil_s_credentials_stay_with_hil(bench: HilBench) -> None:
    assert bench.double is not None
    power_of(bench).on(Bmc("n1", "", ""))
    assert bench.double.obmd_seen
    assert {seen.authorization for seen in bench.double.obmd_seen} == {None}
    assert None not in {seen.authorization for seen in bench.double.seen}


def test_an_obm_that_is_not_enabled_is_enabled(bench: HilBench) -> None:
    with pytest.raises(HilSaysNo, match="OBM is not enabled") as refused:
        bench.hil.power_status("n1")
    assert refused.value.status == 409
    assert power_of(bench).state(Bmc("n1", "", "")) is PowerState.OFF
    assert bench.world.nodes["n1"].obm


def test_power_through_hil_anywhere(anywhere: HilBench) -> None:
    power, bmc = power_of(anywhere), Bmc(anywhere.node, "", "")
    power.off(bmc)
    assert power.state(bmc) is PowerState.OFF
    power.boot_from(bmc, BootDevice.DISK)
    power.reset_boot(bmc)


def test_a_token_is_never_shown(bench: HilBench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    power, bmc = power_of(bench), Bmc("n1", "", "")
    power.on(bmc)
    token = bench.world.nodes["n1"].token
    bench.world.nodes["n1"].obmd = "http://127.0.0.1:1"
    with pytest.raises(BmcUnreachable) as failed:
        power.state(bmc)
    cause: BaseException | None = failed.value
    while cause is not None:
        assert token not in str(cause)
        cause = cause.__cause__
    assert "a word" not in caplog.text
    assert token not in "".join(line for line in caplog.text.splitlines() if "bmi" in line)


@pytest.mark.parametrize(
    "where",
    ["ftp://127.0.0.1", "http://user:secret@127.0.0.1", "http://127.0.0.1/admin/reset?token=x#", "http://["],
)
def test_a_redirect_to_something_else_is_not_followed(bench: HilBench, where: str) -> None:
    bench.world.nodes["n1"].obm, bench.world.nodes["n1"].obmd = True, where
    with pytest.raises(BmcRefused, match="leads to"):
        power_of(bench).state(Bmc("n1", "", ""))


def test_a_token_that_became_another_one_may_pass(bench: HilBench) -> None:
    node, power, bmc = bench.world.nodes["n1"], power_of(bench), Bmc("n1", "", "")
    node.obm, node.token = True, "old&token=other"  # OBMd knows another one
    with pytest.raises(BmcUnreachable, match="does not know the token") as failed:
        power.state(bmc)
    assert failed.value.transient


def test_a_controller_that_does_nothing_is_found_out(bench: HilBench) -> None:
    bench.world.deaf = True
    with pytest.raises(BmcRefused, match="does not report"):
        power_of(bench, timeout=0.3).on(Bmc("n1", "", ""))


def test_power_cycle_takes_a_body(bench: HilBench) -> None:
    bench.hil.enable_obm("n1")
    bench.hil.obm("POST", "n1", "power_cycle", {"force": True}, login=None)
    assert bench.world.nodes["n1"].on


def test_hil_0_3_answers_for_the_controller_itself_and_not_for_its_power(tmp_path: Path) -> None:
    with double_bench(tmp_path, version="0.3") as bench:
        power, bmc = power_of(bench), Bmc("n1", "", "")
        power.boot_from(bmc, BootDevice.NETWORK)
        assert bench.world.nodes["n1"].bootdev == "pxe"
        with pytest.raises(BmcRefused, match=r"before 0\.4") as refused:
            power.on(bmc)
        assert "ipmi or redfish" in refused.value.next_step
        assert switch_of(bench).configure("n1/nic1", LAN) is Outcome.DONE


def test_what_a_node_boots_from_cannot_be_read_back(bench: HilBench) -> None:
    bmc = Bmc("n1", "", "")
    first, second = power_of(bench), power_of(bench)
    first.boot_from(bmc, BootDevice.NETWORK)
    assert first.boots_from(bmc) is BootDevice.NETWORK
    assert second.boots_from(bmc) is None


def test_hil_takes_a_node_back_only_from_no_network_and_with_its_obm_off(bench: HilBench) -> None:
    """So a lease cannot end under a node that BMI attached; and BMI, which turns OBMs on, leaves them on."""
    power_of(bench).on(Bmc("n1", "", ""))
    switch_of(bench).configure("n1/nic1", LAN)

    def detach() -> tuple[int, str]:
        answer = httpx2.post(
            f"{bench.url}/v0/project/red/detach_node", json={"node": "n1"}, auth=("bmi", "a word")
        )
        return answer.status_code, answer.json()["msg"] if answer.content else ""

    assert detach() == (409, "Node attached to a network")
    isolate(bench)
    assert detach() == (409, "Node's obm is enabled.")
    bench.hil.enable_obm("n1", enabled=False)
    assert detach() == (200, "")
    assert switch_of(bench).configure("n1/nic1", ISOLATED) is Outcome.ALREADY


# --- HIL that is away --------------------------------------------------------------------------------------


def test_a_hil_that_is_away_is_waited_for(tmp_path: Path) -> None:
    with double_bench(tmp_path) as bench:
        switch, power, inventory = switch_of(bench), power_of(bench), inventory_of(bench)
    with pytest.raises(SwitchUnreachable) as failed:
        switch.port("n1/nic1")
    assert failed.value.patience > 0
    with pytest.raises(InventoryUnavailable) as unknown:
        inventory.nodes("red")
    assert unknown.value.patience > 0
    with pytest.raises(BmcUnreachable):
        power.state(Bmc("n1", "", ""))


def test_an_answer_has_a_deadline(bench: HilBench) -> None:
    hil = Hil(HilOptions.model_validate({**bench.options, "answer": 0.3}))
    with bench.world.lock, ThreadPoolExecutor() as pool, pytest.raises(HilAway):
        pool.submit(hil.node, "n1").result(timeout=10)


def test_a_login_of_the_bmc_s_own_is_used(bench: HilBench) -> None:
    assert bench.hil.node("theirs", login=Login("root", "another")).project == "blue"
