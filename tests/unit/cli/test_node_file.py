"""Files of nodes: what stands in them is asked of the service, and every fault is told with its line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer import BadParameter

from bmi.api.inventory import NODES_AT_MOST
from bmi.api.nodes import Node
from bmi.cli import node_file
from tests.unit.client.fake_service import ID, WHEN, Answer, Asked, Service, node, page

Bmi = Callable[..., tuple[int, str, str]]

YAML = """\
defaults:
  bmc: {driver: ipmi, username: admin}
nodes:
  - name: n1
    bmc: {address: 10.0.0.11, password: "0123"}
    nics:
      - 52:54:00:00:00:01=tor1:7
      - 52-54-00-00-00-AA=tor1:Gi1/0/8
  - name: n2
    bmc:
      address: https://10.0.0.12
      driver: redfish
      options: {system: /redfish/v1/Systems/1}
    nics: [52:54:00:00:00:02=tor2:on]
"""
CSV = """\
name,bmc_driver,bmc_address,bmc_username,bmc_password,bmc_options,nics
n1,ipmi,10.0.0.11,admin,0123,,52:54:00:00:00:01=tor1:7 52-54-00-00-00-AA=tor1:Gi1/0/8
n2,redfish,https://10.0.0.12,admin,,system=/redfish/v1/Systems/1,52:54:00:00:00:02=tor2:on
"""


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., str]:
    def write(text: str, name: str = "rack.yaml", mode: int = 0o600) -> str:
        path = tmp_path / name
        path.write_text(text)
        path.chmod(mode)
        return str(path)

    return write


def answering(service: Service, *verdicts: dict[str, Any], applied: bool = True) -> None:
    def answer(asked: Asked) -> Answer:
        told = [
            {"name": one["name"], "outcome": "new", "changes": [], "faults": []} | extra
            for one, extra in zip(
                asked.body["nodes"], verdicts or [{}] * len(asked.body["nodes"]), strict=True
            )
        ]
        return Answer({"applied": applied and not asked.body["dry_run"], "verdicts": told})

    service.on("POST", "/nodes/batch", answer)


@pytest.mark.parametrize(("text", "name", "lines"), [(YAML, "r.yaml", [4, 9]), (CSV, "r.csv", [2, 3])])
def test_both_forms_say_the_same(file: Callable[..., str], text: str, name: str, lines: list[int]) -> None:
    found = node_file.read(file(text, name))
    assert found.faults == []
    assert found.lines == lines
    first, second = found.entries
    assert (first.bmc.driver, first.bmc.username, first.bmc.address) == ("ipmi", "admin", "10.0.0.11")
    assert first.bmc.password is not None
    assert first.bmc.password.get_secret_value() == "0123"  # a text, whatever YAML would make of it
    assert [(nic.mac, nic.port) for nic in first.nics] == [
        ("52:54:00:00:00:01", "7"),
        ("52:54:00:00:00:aa", "Gi1/0/8"),
    ]
    assert (second.bmc.driver, second.bmc.password, second.nics[0].port) == ("redfish", None, "on")
    assert second.bmc.options == {"system": "/redfish/v1/Systems/1"}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("nodes:\n  - name: n1\n   bmc: {\n", 3, "this is no YAML"),
        ("nodes: &a\n  - *a\n", 2, "aliases are not taken"),
        ("[" * 5000, 1, "this is no YAML"),
        ("hosts: []\n", 1, "'hosts' does not belong there"),
        ("nodes: n1\n", 1, "has to begin with `nodes:`"),
        ("nodes: []\n", 1, "there are no nodes in it"),
        ("defaults: {nics: x}\nnodes: []\n", 1, "defaults can have `bmc` only"),
        ("nodes:\n  - n1\n", 2, "a node has `name`, `bmc` and `nics`"),
        (YAML.replace("tor2:on", "tor2"), 14, "is not MAC=SWITCH:PORT"),
        (YAML.replace("52:54:00:00:00:02", "52:54"), 14, "'52:54' is no MAC address"),
        (YAML.replace("name: n2", "name: N 2"), 9, "name: "),
        (YAML.replace("      address: https://10.0.0.12\n", ""), 10, "bmc.address: Field required"),
        (YAML.replace("options:", "optoins:"), 13, "bmc.optoins: Extra inputs"),
        (YAML + "    name: n3\n", 15, "'name' stands there twice"),
    ],
)
def test_a_fault_of_a_yaml_file_has_its_line(
    file: Callable[..., str], text: str, line: int, words: str
) -> None:
    faults = node_file.read(file(text)).faults
    assert [(fault.number, words in fault.text) for fault in faults[:1]] == [(line, True)], faults


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("nome\nn1\n", 1, "there is no column 'nome'"),
        (CSV + "n3,ipmi\n", 4, "it has not 7 fields"),
        (CSV + "n3,ipmi,a,b,c,d,e,f,g\n", 4, "it has not 7 fields"),
        (CSV + 'n3,"ipmi\n', 4, "this is no CSV"),
        (CSV + "n3,ipmi,10.0.0.3,,,x,52:54:00:00:00:03=tor1:1\n", 4, "'x' is not KEY=VALUE"),
        (CSV + "n3,ipmi,10.0.0.3,,,,52:54:00:00:00:03\n", 4, "is not MAC=SWITCH:PORT"),
        (CSV + "n3,ipmi,,,,,52:54:00:00:00:03=tor1:1\n", 4, "bmc.address: Field required"),
        (CSV + "n3,ipmi,10.0.0.3,,,,\n", 4, "nics: "),
    ],
)
def test_a_fault_of_a_csv_file_has_its_line(
    file: Callable[..., str], text: str, line: int, words: str
) -> None:
    faults = node_file.read(file(text, "rack.csv")).faults
    assert [(fault.number, words in fault.text) for fault in faults[:1]] == [(line, True)], faults


def test_all_is_asked_at_once_and_told(service: Service, bmi: Bmi, file: Callable[..., str]) -> None:
    answering(service, {}, {"outcome": "changed", "changes": ["bmc address"]})
    path = file(YAML)
    status, out, err = bmi("node", "register", "--from", path, "--update", "--check-bmc")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        f"{path}:4: node n1 new",
        f"{path}:9: node n2 changed: bmc address",
        "1 new, 1 changed",
    ]
    (asked,) = service.requests("POST", "/nodes/batch")
    assert (asked.body["update"], asked.body["check_bmc"], asked.body["dry_run"]) == (True, True, False)
    assert asked.body["nodes"][0]["bmc"]["password"] == "0123"
    assert "password" not in asked.body["nodes"][1]["bmc"]


def test_faults_of_the_file_and_of_the_service_come_together(
    service: Service, bmi: Bmi, file: Callable[..., str]
) -> None:
    fault = {"code": "already-exists", "message": "taken", "next_step": "correct it", "other": None}
    answering(service, {"outcome": "refused", "faults": [fault]}, applied=False)
    path = file(YAML.replace("tor2:on", "tor2"))
    status, out, err = bmi("node", "register", "--from", path)
    assert status == 1
    assert out.splitlines() == [
        f"{path}:4: node n1: taken; correct it",
        f"{path}:14: '52:54:00:00:00:02=tor2' is not MAC=SWITCH:PORT",
        "1 refused; nothing was written",
    ]
    assert "2 faults" in err
    assert "nothing was registered" in err
    (asked,) = service.requests("POST", "/nodes/batch")
    assert asked.body["dry_run"] is True  # the file has a fault: the service is only asked what it would say


def test_those_that_are_right_are_taken_if_asked(
    service: Service, bmi: Bmi, file: Callable[..., str]
) -> None:
    answering(service)
    status, out, err = bmi(
        "node", "register", "--from", file(YAML.replace("tor2:on", "tor2")), "--keep-going"
    )
    assert status == 1
    assert "node n1 new" in out
    assert "the other nodes were taken" in err
    (asked,) = service.requests("POST", "/nodes/batch")
    assert (asked.body["dry_run"], asked.body["keep_going"], len(asked.body["nodes"])) == (False, True, 1)


def test_entries_in_conflict_name_each_others_lines(
    service: Service, bmi: Bmi, file: Callable[..., str]
) -> None:
    fault = {"code": "already-exists", "message": "taken", "next_step": "correct it", "other": 0}
    answering(service, {}, {"outcome": "refused", "faults": [fault]}, applied=False)
    path = file(YAML)
    status, out, _ = bmi("node", "register", "--from", path, "--json")
    assert status == 1
    told = json.loads(out)
    assert told["faults"] == [{"line": 9, "fault": "node n2: taken (line 4); correct it"}]
    assert [one["line"] for one in told["nodes"]] == [4, 9]


def test_a_password_comes_from_elsewhere_where_the_file_has_none(
    service: Service, bmi: Bmi, file: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(service)
    monkeypatch.setenv("BMI_BMC_PASSWORD", "from-the-environment")
    secret = tmp_path / "password"
    secret.write_text("from-a-file\n")
    bmi("node", "register", "--from", file(YAML))
    bmi("node", "register", "--from", file(YAML), "--bmc-password-file", str(secret))
    sent = [
        [one["bmc"]["password"] for one in asked.body["nodes"]]
        for asked in service.requests("POST", "/nodes/batch")
    ]
    assert sent == [["0123", "from-the-environment"], ["0123", "from-a-file"]]


def test_passwords_are_not_printed_and_a_readable_file_is_warned_of(
    service: Service, bmi: Bmi, file: Callable[..., str]
) -> None:
    answering(service)
    path = file(YAML.replace('"0123"', "sesame-sesame"), mode=0o644)
    status, out, err = bmi("node", "register", "--from", path, "--json")
    assert status == 0
    assert f"chmod 600 {path}" in err
    assert "sesame" not in out + err
    broken = file(YAML.replace('"0123"', "[sesame-sesame]"), mode=0o600)
    status, out, err = bmi("node", "register", "--from", broken)
    assert status == 1
    assert "bmc.password" in out
    assert "sesame" not in out + err
    assert "chmod" not in err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--from", "x.yaml", "--nic", "a=b:c"], "stands in the file"),
        (["n1", "--dry-run"], "with a file only"),
        (["n1"], "give NAME"),
        (["--from", "/nowhere/x.yaml"], "cannot be read"),
    ],
)
def test_what_does_not_go_together(bmi: Bmi, words: list[str], complaint: str) -> None:
    status, _, err = bmi("node", "register", *words)
    assert status == 2
    assert complaint in err


def test_a_file_has_a_bounded_number_of_nodes(file: Callable[..., str]) -> None:
    rows = [
        f"n{number},ipmi,b{number},,,,52:54:00:00:00:01=t:{number}" for number in range(NODES_AT_MOST + 1)
    ]
    with pytest.raises(BadParameter, match="take 1000 at a time"):
        node_file.read(file("\n".join((CSV.splitlines()[0], *rows)), "rack.csv"))


@pytest.mark.parametrize("form", ["yaml", "csv"])
def test_what_is_exported_can_be_registered_again(
    service: Service, bmi: Bmi, file: Callable[..., str], form: str
) -> None:
    bmc = {"driver": "ipmi", "address": "10.0.0.11", "username": "admin", "options": {"a": "b"}}
    nics = [{"mac": "52:54:00:00:00:01", "switch": "tor1", "port": "7"}] * 2
    service.on("GET", "/nodes", page(node(bmc=bmc, nics=nics)))
    status, out, _ = bmi("node", "export", "--format", form)
    assert status == 0
    assert "password" not in out.split("\n", 1)[1]
    found = node_file.read(file(out, f"nodes.{form}"))
    assert found.faults == []
    (entry,) = found.entries
    assert entry.name == Node.model_validate(node()).name
    assert entry.bmc.model_dump() == bmc | {"password": None}
    assert [nic.model_dump() for nic in entry.nics] == nics


def test_tenants_cannot_export(service: Service, bmi: Bmi) -> None:
    service.on("GET", "/nodes", page(node(bmc=None)))
    status, _, err = bmi("node", "export")
    assert status == 2
    assert "only admins" in err


def test_a_node_is_changed(service: Service, bmi: Bmi) -> None:
    service.on("PATCH", "/nodes/n1", Answer(node(name="n7")))
    status, out, _ = bmi(
        *("node", "update", "n1", "--name", "n7", "--bmc-user", "root"), "--nic", "52:54:00:00:00:01=tor1:9"
    )
    assert (status, out) == (0, "changed node n7\n")
    (asked,) = service.requests("PATCH", "/nodes/n1")
    assert asked.body == {
        "name": "n7",
        "bmc": {"username": "root"},
        "nics": [{"mac": "52:54:00:00:00:01", "switch": "tor1", "port": "9"}],
    }
    status, _, err = bmi("node", "update", "n1")
    assert (status, "say what is to change" in err) == (2, True)


# --- machines that were discovered -------------------------------------------------------------------------

MACHINE = {
    "id": ID,
    "mac": "52:54:00:00:00:05",
    "address": "10.7.0.130",
    "node": None,
    "reports": 2,
    "seen_at": WHEN,
    "created_at": WHEN,
    "hardware": {
        "firmware": "uefi",
        "vendor": "QEMU",
        "product": "PC\x1b[2J",
        "serial": "S-1",
        "uuid": None,
        "cpu": "some CPU",
        "cpus": 4,
        "memory": 8 << 30,
        "disks": [{"name": "sda", "size": 1 << 40, "kind": "ssd", "model": "M", "serial": "S"}],
        "cards": [
            {
                "name": "eth0",
                "mac": "52:54:00:00:00:05",
                "driver": "e1000",
                "link": True,
                "speed": 1000,
                "neighbours": [{"switch": "tor1", "chassis": "c", "port": "7", "description": ""}],
            }
        ],
    },
}
PLACES = [{"mac": "52:54:00:00:00:05", "switch": "tor1", "port": "7"}]


def test_machines_are_listed_shown_and_forgotten(service: Service, bmi: Bmi) -> None:
    service.on("GET", "/discovered", page(MACHINE))
    service.on("GET", f"/discovered/{ID}", Answer(MACHINE | {"places": PLACES}))
    service.on("DELETE", f"/discovered/{ID}", Answer(None, status=204))
    status, out, _ = bmi("node", "discovered")
    assert status == 0
    assert all(word in out for word in (ID, "52:54:00:00:00:05", "QEMU", "8 GiB", "tor1 7"))
    assert "\x1b" not in out
    status, out, _ = bmi("node", "discovered", "show", ID)
    assert "52:54:00:00:00:05 at tor1:7" in out
    assert "sda 1 TiB ssd, M serial S" in out
    assert "eth0 52:54:00:00:00:05 (e1000), 1000 Mbit/s, hears tor1 7" in out
    assert bmi("node", "discovered", "forget", ID) == (0, f"forgot machine {ID}\n", "")


def test_no_machine_says_what_to_do(service: Service, bmi: Bmi) -> None:
    service.on("GET", "/discovered", page())
    status, out, err = bmi("node", "discovered")
    assert (status, out) == (0, "")
    assert "boot on the discovery network" in err


def test_a_machine_is_enrolled(service: Service, bmi: Bmi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BMI_BMC_PASSWORD", "sesame")
    service.on("POST", f"/discovered/{ID}/enrol", Answer(node(name="n5", nics=PLACES), status=201))
    status, out, _ = bmi("node", "enrol", ID, "--name", "n5", "--bmc-address", "https://b", "--bmc-user", "u")
    assert status == 0
    assert "enrolled node n5" in out
    assert "52:54:00:00:00:05 at tor1:7" in out
    (asked,) = service.requests("POST", f"/discovered/{ID}/enrol")
    assert asked.body["bmc"] == {
        "driver": "redfish",
        "address": "https://b",
        "username": "u",
        "password": "sesame",
        "options": {},
    }
    assert "nics" not in asked.body
