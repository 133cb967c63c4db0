"""The lab's management controllers, as a stranger's HTTP client and the process table see them."""

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from bmi.drivers import Outcome, Site
from bmi.drivers.power import Bmc, PowerState
from bmi.drivers.power.redfish import RedfishPower
from bmi.errors import BmcRefused, CommandFailed
from bmi.lab.bmc import Controllers
from bmi.lab.node import Firmware, VirtualNic, VirtualNode
from bmi.lab.testing import PASSWORD, controllers, power_only
from bmi.run import run
from bmi.wait import wait_until

SESSIONS = "/redfish/v1/SessionService/Sessions"
MAC = "52:54:00:78:00:01"


@dataclass(frozen=True)
class Lab:
    served: Controllers

    @property
    def bmcs(self) -> list[Bmc]:
        return list(self.served.bmcs().values())

    @property
    def nodes(self) -> list[VirtualNode]:
        return self.served.config.nodes()


@contextmanager
def short_folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="bmi-bmc-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


@pytest.fixture(scope="module")
def shared() -> Iterator[Lab]:
    first, second = power_only(2)
    with (
        short_folder() as path,
        controllers(path, [first, replace(second, firmware=Firmware.UEFI)]) as served,
    ):
        yield Lab(served)


@pytest.fixture
def lab(shared: Lab) -> Iterator[Lab]:
    yield shared
    for node in shared.nodes:
        node.power_off()


def client(bmc: Bmc, **more: Any) -> httpx2.Client:
    return httpx2.Client(base_url=bmc.address, **{"auth": (bmc.username, bmc.password), **more})


def path_of(bmc: Bmc) -> str:
    return bmc.options["system"]


def reset(web: httpx2.Client, system: str, kind: str) -> int:
    place = f"{system}/Actions/ComputerSystem.Reset"
    return web.post(place, json={"ResetType": kind}).status_code


# --- one controller, one node, one user ------------------------------------------------------------------


def test_a_controller_lists_its_own_system_only(lab: Lab) -> None:
    for bmc in lab.bmcs:
        with client(bmc) as web:
            members = web.get("/redfish/v1/Systems").json()["Members"]
            assert members == [{"@odata.id": path_of(bmc)}]


@pytest.mark.parametrize(
    "path", ["{}", "{}/EthernetInterfaces", "{}/VirtualMedia", "/redfish/v1/Managers/{id}"]
)
def test_another_nodes_resources_are_not_there(lab: Lab, path: str) -> None:
    mine, other = lab.bmcs
    with client(mine) as web:
        place = path.format(path_of(other), id=lab.nodes[1].spec.id)
        assert web.get(place).status_code == 404
        assert web.get(path.format(path_of(mine), id=lab.nodes[0].spec.id)).status_code == 200


def test_another_node_cannot_be_switched(lab: Lab, tmp_path: Path) -> None:
    mine, other = lab.bmcs
    with client(mine) as web:
        assert reset(web, path_of(other), "On") == 404
        boot = {"Boot": {"BootSourceOverrideTarget": "Pxe"}}
        assert web.patch(path_of(other), json=boot).status_code == 404
    power = RedfishPower({}, Site(tmp_path, "0badcafe"))
    with pytest.raises(BmcRefused, match=f"{path_of(other)} not found"):
        power.on(replace(mine, options=other.options))
    power.close()
    assert not any(node.is_on() for node in lab.nodes)


def test_the_only_system_need_not_be_named(lab: Lab, tmp_path: Path) -> None:
    power = RedfishPower({}, Site(tmp_path, "0badcafe"))
    assert power.state(replace(lab.bmcs[0], options={})) is PowerState.OFF
    power.close()


@pytest.mark.parametrize(
    "auth",
    [None, ("operator", "wrong"), ("Operator", PASSWORD), ("", ""), ("operator", "")],
    ids=["none", "password", "user", "empty", "no-password"],
)
def test_nothing_but_the_root_is_told_to_strangers(lab: Lab, auth: tuple[str, str] | None) -> None:
    bmc = lab.bmcs[0]
    with client(bmc, auth=auth) as web:
        assert web.get("/redfish/v1/").status_code == 200
        for path in ["/redfish/v1/Systems", path_of(bmc), "/redfish/v1/Managers", "/redfish/v1/nothing"]:
            assert web.get(path).status_code == 401
        assert reset(web, path_of(bmc), "On") == 401
        assert web.post("/redfish/v1/", json={}).status_code == 401
    assert not lab.nodes[0].is_on()


@pytest.mark.parametrize("header", ["Basic", "Basic ???", "Basic b3BlcmF0b3I=", "Bearer x", "basic /w=="])
def test_a_header_that_makes_no_sense_is_a_strangers(lab: Lab, header: str) -> None:
    with client(lab.bmcs[0], auth=None, headers={"Authorization": header}) as web:
        assert web.get("/redfish/v1/Systems").status_code == 401


def test_a_session_lasts_from_log_in_to_log_out(lab: Lab) -> None:
    bmc, other = lab.bmcs
    with client(bmc, auth=None) as web:
        answer = web.post(SESSIONS, json={"UserName": bmc.username, "Password": bmc.password})
        assert answer.status_code == 201
        token = {"X-Auth-Token": answer.headers["X-Auth-Token"]}
        assert web.get(path_of(bmc), headers=token).status_code == 200
        with client(other, auth=None) as elsewhere:
            assert elsewhere.get(path_of(other), headers=token).status_code == 401
        assert web.delete(answer.headers["Location"]).status_code == 401
        assert web.delete(answer.headers["Location"], headers=token).status_code == 204
        assert web.get(path_of(bmc), headers=token).status_code == 401


@pytest.mark.parametrize("body", [b"", b"[]", b'{"UserName": "operator"}', b'{"UserName": 1, "Password": 2}'])
def test_a_log_in_without_the_password_fails(lab: Lab, body: bytes) -> None:
    with client(lab.bmcs[0], auth=None) as web:
        assert web.post(SESSIONS, content=body).status_code == 401


def test_the_oldest_session_goes_when_there_are_too_many(lab: Lab) -> None:
    bmc = lab.bmcs[0]
    with client(bmc, auth=None) as web:
        tokens = [
            web.post(SESSIONS, json={"UserName": bmc.username, "Password": bmc.password}).headers[
                "X-Auth-Token"
            ]
            for _ in range(17)
        ]
        status = [
            web.get(path_of(bmc), headers={"X-Auth-Token": token}).status_code
            for token in (tokens[0], tokens[-1])
        ]
    assert status == [401, 200]


# --- what it says and does -------------------------------------------------------------------------------


def test_a_system_tells_what_the_machine_is_like(lab: Lab) -> None:
    for bmc, node, mode in zip(lab.bmcs, lab.nodes, ["Legacy", "UEFI"], strict=True):
        with client(bmc) as web:
            system = web.get(path_of(bmc)).json()
        assert system["Name"] == node.spec.name
        assert system["UUID"] == str(node.spec.id)
        assert system["PowerState"] == "Off"
        assert system["Boot"]["BootSourceOverrideMode"] == mode


def test_the_network_cards_are_listed(folder: Path) -> None:
    spec = replace(power_only(1)[0], nics=(VirtualNic(MAC, "none"),))
    with controllers(folder, [spec]) as served:
        bmc = served.bmcs()["n1"]
        with client(bmc) as web:
            card = f"{path_of(bmc)}/EthernetInterfaces/{MAC}"
            assert web.get(card).json()["MACAddress"] == MAC
            assert reset(web, path_of(bmc), "On") == 500  # there is no such tap
            assert web.get(path_of(bmc)).json()["PowerState"] == "Off"


def test_resets_press_the_buttons(lab: Lab) -> None:
    bmc, node = lab.bmcs[0], lab.nodes[0]
    with client(bmc) as web:
        assert reset(web, path_of(bmc), "ForceRestart") == 409
        assert reset(web, path_of(bmc), "On") == 204
        first = node.process
        assert reset(web, path_of(bmc), "ForceRestart") == 204
        assert node.process == first
        assert reset(web, path_of(bmc), "GracefulShutdown") == 204
        assert reset(web, path_of(bmc), "Nmi") == 501
        assert reset(web, path_of(bmc), "ForceOff") == 204
    assert not node.is_on()


@pytest.mark.parametrize("boot", [{"BootSourceOverrideTarget": "Cd"}, {"BootSourceOverrideMode": "UEFI"}])
def test_what_the_machine_does_not_have_is_refused(lab: Lab, boot: dict[str, str]) -> None:
    with client(lab.bmcs[0]) as web:
        assert web.patch(path_of(lab.bmcs[0]), json={"Boot": boot}).status_code == 400


# --- the process -----------------------------------------------------------------------------------------


def test_secrets_stay_in_a_file_of_the_owner(lab: Lab) -> None:
    process = lab.served.process
    assert process
    seen = psutil.Process(process.pid)
    config = Path(seen.cmdline()[-1])
    assert PASSWORD in config.read_text()
    assert config.stat().st_mode & 0o777 == 0o600
    assert PASSWORD not in " ".join([*seen.cmdline(), *seen.environ().values()])
    with client(lab.bmcs[0], auth=("operator", "a wrong guess")) as web:
        web.get("/redfish/v1/Systems")
        web.post(SESSIONS, json={"UserName": "operator", "Password": PASSWORD})
    log = lab.served.log.read_text()
    assert "n1: GET /redfish/v1/Systems: 401" in log
    assert f"n1: POST {SESSIONS}: 201" in log
    assert PASSWORD not in log
    assert "a wrong guess" not in log
    assert PASSWORD not in repr(lab.served.config)


def test_starting_again_changes_nothing(lab: Lab) -> None:
    before, addresses = lab.served.process, lab.bmcs
    assert lab.served.start() is Outcome.ALREADY
    assert Controllers(lab.served.config, lab.served.log.parent).start() is Outcome.ALREADY
    assert (lab.served.process, lab.bmcs) == (before, addresses)


def test_a_changed_configuration_replaces_the_process_and_no_node(folder: Path) -> None:
    with controllers(folder, power_only(1)) as served:
        node = served.config.nodes()[0]
        node.power_on()
        first, machine = served.process, node.process
        endpoint = replace(served.config.endpoints[0], password="another")
        served.config = replace(served.config, endpoints=(endpoint,))
        assert served.start() is Outcome.DONE
        assert first
        assert not first.alive()
        with client(served.bmcs()["n1"]) as web:
            assert web.get(path_of(served.bmcs()["n1"])).json()["PowerState"] == "On"
        assert node.process == machine


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nodes_outlive_their_controllers(folder: Path, number: signal.Signals) -> None:
    with controllers(folder, power_only(1)) as served:
        node = served.config.nodes()[0]
        bmc = served.bmcs()["n1"]
        with client(bmc) as web:
            assert reset(web, path_of(bmc), "On") == 204
        ended = served.process
        assert ended
        ended.signal(number)
        wait_until(lambda: not ended.alive(), deadline=10, what="the controllers to end", next_step="-")
        assert served.stop() is Outcome.ALREADY
        assert node.is_on()
        assert served.start() is Outcome.DONE
        bmc = served.bmcs()["n1"]
        with client(bmc) as web:
            assert web.get(path_of(bmc)).json()["PowerState"] == "On"
            assert reset(web, path_of(bmc), "ForceOff") == 204
        assert not node.is_on()


def test_ending_is_quick_and_clean(folder: Path) -> None:
    with controllers(folder, power_only(8)) as served:
        config = next(folder.glob("bmc.json"))
        served.stop()
        with subprocess.Popen([sys.executable, "-m", "bmi.lab.bmc_process", str(config)]) as process:
            ready = config.with_suffix(".ready")
            ready.unlink()
            while not ready.exists():
                assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            assert process.wait(5) == 0


def test_a_taken_port_is_named(folder: Path) -> None:
    with socket.socket() as taken, controllers(folder, power_only(1)) as served:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        endpoint = replace(served.config.endpoints[0], port=port)
        served.config = replace(served.config, endpoints=(endpoint,))
        with pytest.raises(CommandFailed, match=f"n1 cannot listen on 127.0.0.1:{port}"):
            served.start()
        assert served.process is None


def test_the_outside_needs_no_emulator() -> None:
    """The command line offers the lab where only the client is installed quickly."""
    loaded = run(
        [sys.executable, "-c", "import bmi.lab.bmc, sys; print([m for m in sys.modules if 'sushy' in m])"]
    )
    assert loaded.strip() == "[]"
