"""What the verbs ask of the service, and what they print."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bmi.api.doctor import Inventory
from tests.unit.client.fake_service import (
    DISK,
    ID,
    IMAGE,
    NAMED,
    NETWORK,
    PROJECT,
    TOKEN,
    WHEN,
    Answer,
    Service,
    event,
    node,
    operation,
    page,
    problem,
    step,
)

Bmi = Callable[..., tuple[int, str, str]]

ME = {"name": "ci", "admin": False, "roles": {"blue": "member"}, "user": None, "expires_at": None}
BUILD = ["image", "build", "debian", "--name", "d", "--size", "4GiB"]
QUEUED = Answer(operation("queued"), status=202)
EVENT = {"id": ID, "at": WHEN, "kind": "dhcp.ack", "message": "10.7.0.5", "node": "n1", "operation": None}


@pytest.mark.parametrize(
    ("command", "path", "item", "cells"),
    [
        (["node", "list"], "/nodes", node(image="debian"), ["n1", "available", "debian"]),
        (["image", "list"], "/images", IMAGE, ["debian", "ready", "build", "2 GiB"]),
        (["disk", "list"], "/disks", DISK, ["web", "ready", "debian", "n1", "20 GiB", "blue"]),
        (["network", "list"], "/networks", NETWORK, ["lan", "ready", "101", "10.7.0.0/24", "blue"]),
        (["project", "list"], "/projects", NAMED, ["blue", NAMED["id"]]),
        (["token", "list"], "/tokens", TOKEN, ["ci", "member", "blue"]),
        (["op", "list"], "/operations", operation("running", step("boot", "running")), [ID, "boot"]),
    ],
)
def test_list_in_a_pipe_is_a_plain_table_with_nothing_cut(
    service: Service, bmi: Bmi, command: list[str], path: str, item: Any, cells: list[str]
) -> None:
    service.on("GET", path, page(item))
    status, out, err = bmi(*command)
    assert (status, err) == (0, "")
    heading, row = out.splitlines()
    assert heading.isupper()
    assert all(cell in row for cell in cells)
    # Columns stand under their headings, two blanks apart.
    assert all(row[heading.index(word) - 1] == " " for word in heading.split()[1:])
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("command", "path", "item"),
    [
        ("node", "/nodes", node()),
        ("image", "/images", IMAGE),
        ("disk", "/disks", DISK),
        ("network", "/networks", NETWORK),
        ("project", "/projects", {**PROJECT, "use": None}),
        ("token", "/tokens", TOKEN),
        ("op", "/operations", operation("running")),
    ],
)
def test_list_as_json_is_an_array_of_all_pages(
    service: Service, bmi: Bmi, command: str, path: str, item: Any
) -> None:
    service.on("GET", path, lambda asked: page(item, next=None if "cursor" in asked.query else "c1"))
    status, out, _ = bmi(command, "list", "--json")
    assert status == 0
    assert json.loads(out) == [item, item]


def test_empty_list_tells_the_person_what_to_do_and_the_program_nothing(service: Service, bmi: Bmi) -> None:
    service.on("GET", "/images", page())
    assert bmi("image", "list") == (
        0,
        "",
        "there are no images; build one with `bmi image build debian --name debian`\n",
    )
    assert bmi("image", "list", "--json")[1] == "[]\n"


@pytest.mark.parametrize(
    ("command", "path", "item", "lines"),
    [
        (["node", "show", "n1"], "/nodes/n1", node(), ["nics 52:54:00:00:00:01 at tor1:7, 10.7.0.5 on lan"]),
        (["image", "show", "debian"], "/images/debian", IMAGE, ["size 2 GiB"]),
        (["disk", "show", "web"], "/disks/web", DISK, ["node n1"]),
        (
            ["network", "show", "lan"],
            "/networks/lan",
            NETWORK,
            [
                "gateway 10.7.0.1",
                "dhcp range 10.7.0.100-10.7.0.199",
                "dns on",
                "dns servers 10.7.0.2, 10.7.0.3",
                "mtu 9000",
                "lease 3600 s",
            ],
        ),
        (
            ["project", "show", "blue"],
            "/projects/blue",
            PROJECT,
            [
                "name blue",
                "images 3 of 20, 1 in the trash",
                "disk sizes 20 GiB of 2 TiB",
                "disks 1 of any number",
            ],
        ),
        (["whoami"], "/whoami", ME, ["name ci", "project blue member"]),
    ],
)
def test_show_has_a_line_for_each_field(
    service: Service, bmi: Bmi, command: list[str], path: str, item: Any, lines: list[str]
) -> None:
    service.on("GET", path, Answer(item))
    status, out, _ = bmi(*command)
    assert status == 0
    shown = [" ".join(line.split()) for line in out.splitlines()]
    assert all(line in shown for line in lines)
    assert json.loads(bmi(*command, "--json")[1]) == item


def test_show_of_a_failed_operation_has_error_next_step_and_steps(service: Service, bmi: Bmi) -> None:
    error = problem(502, "bmc-unreachable", "the BMC is silent", "check its cable").json
    failed = operation("failed", step("disk", "undone"), step("power", "failed", "no answer"), error=error)
    service.on("GET", f"/operations/{ID}", Answer(failed))
    status, out, _ = bmi("op", "show", ID)
    assert status == 0
    words = [line.split() for line in out.splitlines()]
    assert ["next", "step", "check", "its", "cable"] in words
    assert ["power", "failed", "1.5", "s", "no", "answer"] in words


def test_text_from_the_service_cannot_play_with_the_terminal(service: Service, bmi: Bmi) -> None:
    service.on("GET", "/nodes/n1", Answer(node(problem="\x1b[2J[red]gone")))
    assert "\x1b" not in bmi("node", "show", "n1")[1]


@pytest.mark.parametrize(
    ("arguments", "method", "path", "query", "body"),
    [
        (["network", "create", "lan"], "POST", "/networks", {}, {"name": "lan"}),
        (
            ["network", "create", "lan", "--vlan", "7", "--subnet", "10.7.0.0/24", "-p", "blue"],
            "POST",
            "/networks",
            {},
            {"name": "lan", "vlan": 7, "subnet": "10.7.0.0/24", "project": "blue"},
        ),
        (
            [
                *("network", "create", "lan", "--dhcp", "full", "--dhcp-range", "10.7.0.100-10.7.0.199"),
                *(
                    "--router",
                    "10.7.0.1",
                    "--dns",
                    "off",
                    "--dns-server",
                    "10.7.0.2",
                    "--dns-server",
                    "10.7.0.3",
                ),
                *("--domain", "rack7.example.org", "--mtu", "9000", "--lease", "1h"),
            ],
            "POST",
            "/networks",
            {},
            {
                "name": "lan",
                "dhcp": "full",
                "dhcp_range": {"first": "10.7.0.100", "last": "10.7.0.199"},
                "router": "10.7.0.1",
                "dns": False,
                "dns_servers": ["10.7.0.2", "10.7.0.3"],
                "domain": "rack7.example.org",
                "mtu": 9000,
                "lease_seconds": 3600,
            },
        ),
        (
            [
                "network",
                "update",
                "lan",
                "--mtu",
                "1400",
                "--unset",
                "router",
                "--unset",
                "dns-servers",
                "-p",
                "blue",
            ],
            "PATCH",
            "/networks/lan",
            {"project": "blue"},
            {"mtu": 1400, "router": None, "dns_servers": []},
        ),
        (["network", "delete", "lan", "-p", "blue"], "DELETE", "/networks/lan", {"project": "blue"}, None),
        (
            [
                *BUILD,
                "--cloud-init",
                "--kernel",
                "generic",
                "--package",
                "htop",
                "--package",
                "vim",
                "-p",
                "blue",
            ],
            "POST",
            "/images/build",
            {},
            {
                "name": "d",
                "distribution": "debian",
                "size": 4 << 30,
                "cloud_init": True,
                "cleaner": False,
                "kernel": "generic",
                "packages": ["htop", "vim"],
                "project": "blue",
            },
        ),
        (["image", "delete", "d", "--now"], "POST", "/images/d/purge", {}, None),
        (
            ["image", "edit", "d", "--node", "n1", "--network", "lan", "--until", "login", "-p", "blue"],
            "POST",
            "/images/d/edit",
            {"project": "blue"},
            {
                "node": "n1",
                "network": "lan",
                "ssh_keys": [],
                "until": "login",
                "deadline": 1800,
                "project": "blue",
            },
        ),
        (
            ["image", "commit", "--node", "n1", "--name", "d-2"],
            "POST",
            "/images/commit",
            {},
            {"node": "n1", "name": "d-2"},
        ),
        (["image", "discard", "--node", "n1"], "POST", "/images/discard", {}, {"node": "n1"}),
        (["image", "flatten", "d", "-p", "blue"], "POST", "/images/d/flatten", {"project": "blue"}, None),
        (["disk", "flatten", "web"], "POST", "/disks/web/flatten", {}, None),
        (
            ["image", "adopt", "vm-100", "--name", "d"],
            "POST",
            "/images/adopt",
            {},
            {"name": "d", "source": "vm-100"},
        ),
        (
            ["disk", "create", "web", "--image", "d", "--size", "512M"],
            "POST",
            "/disks",
            {},
            {"name": "web", "image": "d", "size": 512 << 20},
        ),
        (["disk", "snapshot", "web", "--name", "s"], "POST", "/disks/web/snapshot", {}, {"name": "s"}),
        (
            ["disk", "adopt", "vm-100", "--name", "web", "-p", "blue"],
            "POST",
            "/disks/adopt",
            {},
            {"name": "web", "source": "vm-100", "project": "blue"},
        ),
        (
            ["disk", "rollback", "web", "--image", "s", "--keep", "k", "--other-image", "--until", "login"],
            "POST",
            "/disks/web/rollback",
            {},
            {"image": "s", "keep": "k", "other_image": True, "until": "login", "deadline": 1800},
        ),
        (
            ["disk", "grow", "web", "--size", "4G", "--restart"],
            "POST",
            "/disks/web/grow",
            {},
            {"size": 4 << 30, "restart": True, "until": "up", "deadline": 1800},
        ),
        (
            ["disk", "move", "web", "--to", "n2", "--network", "lan", "--deadline", "5m"],
            "POST",
            "/disks/web/move",
            {},
            {"to": "n2", "network": "lan", "until": "up", "deadline": 300},
        ),
        (["disk", "delete", "web"], "DELETE", "/disks/web", {}, None),
        (
            ["node", "deprovision", "n1", "--keep-disk"],
            "POST",
            "/nodes/n1/deprovision",
            {},
            {"keep_disk": True},
        ),
        (["node", "power", "n1", "cycle"], "POST", "/nodes/n1/power", {}, {"action": "cycle"}),
    ],
)
def test_long_work_without_waiting_prints_the_operations_id(
    service: Service, bmi: Bmi, arguments: list[str], method: str, path: str, query: Any, body: Any
) -> None:
    service.on(method, path, QUEUED)
    assert bmi(*arguments, "--no-wait") == (0, f"{ID}\n", "")
    assert [(one.query, one.body) for one in service.asked] == [(query, body)]


def test_provision_sends_keys_and_user_data_from_files(service: Service, bmi: Bmi, tmp_path: Path) -> None:
    service.on("POST", "/nodes/n1/provision", QUEUED)
    keys, data = tmp_path / "keys.pub", tmp_path / "user-data"
    keys.write_text("# mine\nssh-ed25519 AAAA a\n\nssh-ed25519 BBBB b\n")
    data.write_text("#cloud-config\n")
    arguments = ["node", "provision", "n1", "--image", "d", "--network", "lan", "--until", "login"]
    more = ["--ssh-key", str(keys), "--user-data", str(data), "--hostname", "web", "--deadline", "5m"]
    assert bmi(*arguments, *more, "--no-wait")[0] == 0
    assert service.asked[0].body == {
        "image": "d",
        "network": "lan",
        "hostname": "web",
        "ssh_keys": ["ssh-ed25519 AAAA a", "ssh-ed25519 BBBB b"],
        "user_data": "#cloud-config\n",
        "until": "login",
        "deadline": 300,
    }


@pytest.mark.parametrize("given", ["file", "environment"])
def test_register_takes_the_password_from_file_or_environment(
    service: Service, bmi: Bmi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    service.on("POST", "/nodes", Answer(node(), status=201))
    arguments = ["node", "register", "n1", "--bmc-address", "https://10.0.0.11", "--bmc-user", "admin"]
    arguments += ["--nic", "52-54-00-00-00-0A=tor1:Ethernet1/7:2", "--nic", "52:54:00:00:00:0b=tor2:8"]
    arguments += ["--bmc-option", "verify=no"]
    if given == "file":
        (tmp_path / "password").write_text("geheim\n")
        arguments += ["--bmc-password-file", str(tmp_path / "password")]
        monkeypatch.setenv("BMI_BMC_PASSWORD", "another")
    else:
        monkeypatch.setenv("BMI_BMC_PASSWORD", "geheim")
    assert bmi(*arguments) == (0, "registered node n1 (0199c5d2-0000-7000-8000-000000000001)\n", "")
    assert service.asked[0].body == {
        "name": "n1",
        "bmc": {
            "driver": "redfish",
            "address": "https://10.0.0.11",
            "username": "admin",
            "password": "geheim",
            "options": {"verify": "no"},
        },
        "nics": [
            {"mac": "52:54:00:00:00:0a", "switch": "tor1", "port": "Ethernet1/7:2"},
            {"mac": "52:54:00:00:00:0b", "switch": "tor2", "port": "8"},
        ],
    }


def test_token_create_prints_the_secret_alone_on_stdout(service: Service, bmi: Bmi) -> None:
    service.on("POST", "/tokens", Answer({**TOKEN, "secret": "bmi_s3cret"}, status=201))
    status, out, err = bmi(
        "token", "create", "ci", "--role", "member", "-p", "blue", "--expires", "2030-01-31"
    )
    assert (status, out) == (0, "bmi_s3cret\n")
    assert "not shown again" in err
    body = {"name": "ci", "role": "member", "project": "blue", "expires_at": "2030-01-31T00:00:00+00:00"}
    assert service.asked[0].body == body


def test_admins_token_is_not_bound_to_the_profiles_project(
    service: Service, bmi: Bmi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BMI_PROJECT", "blue")
    service.on("POST", "/tokens", Answer({**TOKEN, "secret": "x"}, status=201))
    bmi("token", "create", "boss", "--role", "admin")
    bmi("token", "create", "ci", "--role", "member")
    assert [one.body.get("project") for one in service.asked] == [None, "blue"]


def test_things_without_an_answer_say_what_was_done(service: Service, bmi: Bmi) -> None:
    for path in ("/nodes/n1", "/projects/blue", "/tokens/ci"):
        service.on("DELETE", path, Answer(raw=b"", status=204))
    service.on("POST", "/projects", Answer(NAMED, status=201))
    assert bmi("node", "delete", "n1")[1] == "removed node n1\n"
    assert bmi("project", "delete", "blue")[1] == "removed project blue\n"
    assert bmi("token", "revoke", "ci")[1] == "revoked token ci\n"
    assert bmi("project", "create", "blue")[1] == f"made project blue ({NAMED['id']})\n"


def test_power_without_an_action_shows_the_state(service: Service, bmi: Bmi) -> None:
    service.on("GET", "/nodes/n1/power", Answer({"state": "on"}))
    assert bmi("node", "power", "n1") == (0, "on\n", "")


def test_profiles_project_counts_unless_another_is_named(
    service: Service, bmi: Bmi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BMI_PROJECT", "blue")
    service.on("GET", "/disks", page())
    bmi("disk", "list")
    bmi("disk", "list", "--project", "red")
    assert [one.query["project"] for one in service.asked] == ["blue", "red"]


@pytest.mark.parametrize(
    ("command", "path"),
    [(["node", "events", "n1"], "/nodes/n1/events"), (["op", "events", ID], f"/operations/{ID}/history")],
)
def test_events_are_a_timeline(service: Service, bmi: Bmi, command: list[str], path: str) -> None:
    service.on("GET", path, page({**EVENT, "message": "first"}, EVENT))
    status, out, _ = bmi(*command, "--last", "1")
    assert status == 0
    assert [line.split()[2:] for line in out.splitlines()] == [["dhcp.ack", "10.7.0.5"]]
    assert len(json.loads(bmi(*command, "--json")[1])) == 2


def test_following_an_operations_events_ends_with_it(service: Service, bmi: Bmi) -> None:
    service.on("GET", f"/operations/{ID}", Answer(operation("succeeded")))
    service.on("GET", f"/operations/{ID}/history", page(EVENT))
    status, out, _ = bmi("op", "events", ID, "--follow", "--json")
    assert status == 0
    assert [json.loads(line) for line in out.splitlines()] == [EVENT]


INVENTORY = dict.fromkeys(Inventory.model_fields, 3)
ERROR = {
    "code": "export-missing",
    "severity": "error",
    "family": "target",
    "thing": "export iqn.x",
    "message": "is not exported",
    "next_step": "mend it: bmi doctor --repair",
    "repairable": True,
}
WARNING = ERROR | {
    "code": "clock-off",
    "severity": "warning",
    "family": "environment",
    "thing": "clock of host h",
    "message": "is 5.0 s behind",
    "repairable": False,
}


def test_doctor_counts_and_fails_where_there_are_errors(service: Service, bmi: Bmi) -> None:
    service.on("GET", "/doctor", Answer({"findings": [], "inventory": INVENTORY}))
    status, out, err = bmi("doctor")
    assert (status, err) == (0, "")
    assert "all is as it should be" in out
    service.on("GET", "/doctor", Answer({"findings": [ERROR, WARNING], "inventory": INVENTORY}))
    status, out, err = bmi("doctor", "--quick")
    assert status == 1
    assert service.requests("GET", "/doctor")[-1].query == {"quick": "true"}
    errors, warnings = out.partition("Errors")[2].split("Warnings")
    assert "export-missing" in errors
    assert "is not exported" in errors
    assert "clock-off" in warnings
    assert err == "bmi: 1 error is found; bmi doctor --repair mends 1 of them\n"
    assert json.loads(bmi("doctor", "--json")[1])["findings"] == [ERROR, WARNING]


def test_doctor_does_not_fail_for_warnings(service: Service, bmi: Bmi) -> None:
    service.on("GET", "/doctor", Answer({"findings": [WARNING], "inventory": INVENTORY}))
    status, out, err = bmi("doctor")
    assert (status, err) == (0, "")
    assert "is 5.0 s behind" in out
    assert "as it should be" not in out


@pytest.mark.parametrize(("left", "status"), [([], 0), ([WARNING], 0), ([ERROR], 1)])
def test_doctor_repairs_and_says_what_is_mended_and_left(
    service: Service, bmi: Bmi, left: list[Any], status: int
) -> None:
    mended = ERROR | {"thing": "export iqn.mended"}
    answer = {"findings": left, "inventory": INVENTORY, "mended": [mended], "done": ["gateway g: is well"]}
    service.on("POST", "/doctor/repair", Answer(answer))
    ended, out, err = bmi("doctor", "--repair", "--remove-orphans")
    assert service.requests("POST", "/doctor/repair")[-1].body == {"remove_orphans": True}
    assert ended == status
    assert "gateway g: is well" in out
    assert "iqn.mended" in out.partition("Mended")[2]
    assert ("1 error is left" in err) == bool(status)


def test_orphans_are_removed_by_repair_only(service: Service, bmi: Bmi) -> None:
    status, _, err = bmi("doctor", "--remove-orphans")
    assert status == 2
    assert "goes with --repair" in err


def test_version_tells_both_sides(service: Service, bmi: Bmi, monkeypatch: pytest.MonkeyPatch) -> None:
    service.on("GET", "/version", Answer({"version": "9.9"}))
    assert bmi("version")[1].splitlines()[1] == f"service  9.9 at {service.url}"
    assert json.loads(bmi("version", "--json")[1])["service"] == "9.9"
    monkeypatch.delenv("BMI_URL")
    status, out, _ = bmi("version")
    assert status == 0
    assert out.startswith("client ")
    assert "service" not in out


def test_cancel_waits_for_the_end_and_calls_it_success(service: Service, bmi: Bmi) -> None:
    path = f"/operations/{ID}"
    service.on("POST", f"{path}/cancel", Answer(operation("cancelling"), status=202))
    service.on("GET", path, Answer(operation("cancelling")))
    ended = operation("cancelled", step("disk", "undone"))
    service.on("GET", f"{path}/events", Answer(stream=(event(ended),)))
    status, out, err = bmi("op", "cancel", ID)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "cancelled: provision of node n1"


def test_cancel_that_came_too_late_fails(service: Service, bmi: Bmi) -> None:
    path = f"/operations/{ID}"
    service.on("POST", f"{path}/cancel", Answer(operation("cancelling"), status=202))
    service.on("GET", path, Answer(operation("succeeded")))
    status, _, err = bmi("op", "cancel", ID)
    assert status == 1
    assert err.startswith("bmi: provision of node n1 had succeeded before it could be cancelled; ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing is to be changed"),
        (["--dhcp-range", "10.7.0.1"], "is no range"),
        (["--dhcp-range", "10.7.0.1-x"], "is no IPv4 address"),
        (["--router", "fe80::1"], "is no IPv4 address"),
        (["--mtu", "100"], "576"),
        (["--dhcp", "maybe"], "reservations"),
        (["--lease", "soon"], "is no length of time"),
    ],
)
def test_what_a_network_cannot_be_is_said_before_anything_is_asked(
    service: Service, bmi: Bmi, words: list[str], said: str
) -> None:
    status, _, err = bmi("network", "update", "lan", *words)
    assert status == 2
    assert said in " ".join(err.split())
