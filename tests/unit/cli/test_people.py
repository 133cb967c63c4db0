"""`bmi login`, `bmi logout`, `bmi user`, and `bmi project grant`: what they ask for, save and print."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.client.fake_service import NAMED, Answer, Service, page, problem

Bmi = Callable[..., tuple[int, str, str]]

PASSWORD = "a long and secret word"
ANN = {**NAMED, "name": "ann", "admin": False, "disabled": False, "provider": None}
MEMBER = {"user": "ann", "role": "member", "provided": False, "created_at": NAMED["created_at"]}
SESSION = {"user": "ann", "secret": "bmis_sesame", "expires_at": "2026-12-01T10:00:00Z"}


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Give a file with a password."""
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n")
    return str(path)


@pytest.fixture
def logged_out(service: Service, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.delenv("BMI_URL")
    monkeypatch.delenv("BMI_TOKEN")
    service.on("GET", "/whoami", Answer({"name": "ann", "user": "ann", "roles": {"red": "member"}}))
    return service


def test_who_logs_in_with_a_password_goes_on_with_a_session(
    logged_out: Service, bmi: Bmi, file: str, tmp_path: Path
) -> None:
    logged_out.on("POST", "/login", Answer(SESSION, status=201))
    saved = tmp_path / "client.toml"
    status, out, err = bmi("login", logged_out.url, "--user", "ann", "--password-file", file)
    assert (status, err) == (0, "")
    assert out == f"logged in to {logged_out.url} as ann, member of project red; saved in {saved}\n"
    [asked] = logged_out.requests("POST", "/login")
    assert (asked.body, asked.token) == ({"name": "ann", "password": PASSWORD}, None)
    assert 'token = "bmis_sesame"' in saved.read_text()
    assert PASSWORD not in saved.read_text()
    assert saved.stat().st_mode & 0o777 == 0o600


def test_a_wrong_password_saves_nothing(logged_out: Service, bmi: Bmi, file: str, tmp_path: Path) -> None:
    wrong = problem(401, "not-authenticated", "the name or the password is wrong", "try again")
    logged_out.on("POST", "/login", wrong)
    status, out, err = bmi("login", logged_out.url, "--user", "ann", "--password-file", file)
    assert (status, out, err) == (1, "", "bmi: the name or the password is wrong; try again\n")
    assert not (tmp_path / "client.toml").exists()


def test_one_way_to_log_in_at_a_time(logged_out: Service, bmi: Bmi, file: str) -> None:
    status, _, err = bmi("login", logged_out.url, "--user", "ann", "--token-file", file)
    assert (status, "give one of --user, --sso and --token-file" in err) == (2, True)


def test_logging_out_forgets_the_secret(logged_out: Service, bmi: Bmi, file: str, tmp_path: Path) -> None:
    logged_out.on("POST", "/login", Answer(SESSION, status=201))
    logged_out.on("POST", "/logout", Answer(status=204))
    bmi("login", logged_out.url, "--user", "ann", "--password-file", file)
    saved = tmp_path / "client.toml"
    assert bmi("logout") == (0, f"logged out; the secret is forgotten in {saved}\n", "")
    assert logged_out.requests("POST", "/logout")[0].token == "bmis_sesame"
    assert saved.read_text() == f'url = "{logged_out.url}"\n'
    assert bmi("whoami")[0] == 1


def test_the_secret_of_the_environment_is_not_the_saved_one(
    logged_out: Service, bmi: Bmi, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged_out.on("POST", "/login", Answer(SESSION, status=201))
    logged_out.on("POST", "/logout", Answer(status=204))
    bmi("login", logged_out.url, "--user", "ann", "--password-file", file)
    monkeypatch.setenv("BMI_TOKEN", "another")
    assert bmi("logout") == (0, "logged out\n", "")
    assert 'token = "bmis_sesame"' in (tmp_path / "client.toml").read_text()


@pytest.mark.parametrize("code", ["bad-request", "not-authenticated"])
def test_what_is_no_session_any_more_is_forgotten_too(
    logged_out: Service, bmi: Bmi, file: str, tmp_path: Path, code: str
) -> None:
    logged_out.on("POST", "/login", Answer(SESSION, status=201))
    logged_out.on("POST", "/logout", problem(400, code, "there is none", ""))
    bmi("login", logged_out.url, "--user", "ann", "--password-file", file)
    status, out, _ = bmi("logout")
    assert (status, out.partition(";")[0]) == (0, "nothing to end at the service (there is none)")
    assert "token" not in (tmp_path / "client.toml").read_text()


CASES: list[tuple[list[str], tuple[str, str], Any, Any, str]] = [
    (
        ["user", "create", "ann", "--password-file", "FILE"],
        ("POST", "/users"),
        {"name": "ann", "password": PASSWORD, "admin": False},
        ANN,
        f"made user ann ({ANN['id']})\n",
    ),
    (
        ["user", "create", "ann", "--admin", "--password-file", "FILE"],
        ("POST", "/users"),
        {"name": "ann", "password": PASSWORD, "admin": True},
        {**ANN, "admin": True},
        f"made user ann, an admin ({ANN['id']})\n",
    ),
    (["user", "change", "ann", "--no-admin"], ("PATCH", "/users/ann"), {"admin": False}, ANN, "admin    no"),
    (
        ["user", "change", "ann", "--disable"],
        ("PATCH", "/users/ann"),
        {"disabled": True},
        {**ANN, "disabled": True},
        "disabled",
    ),
    (
        ["user", "password", "ann", "--password-file", "FILE"],
        ("PUT", "/users/ann/password"),
        {"password": PASSWORD},
        None,
        "user ann has a new password; the sessions have ended\n",
    ),
    (["user", "delete", "ann"], ("DELETE", "/users/ann"), None, None, "removed user ann\n"),
    (
        ["project", "grant", "red", "ann", "member"],
        ("PUT", "/projects/red/members/ann"),
        {"role": "member"},
        MEMBER,
        "user ann is member of project red\n",
    ),
    (
        ["project", "revoke", "red", "ann"],
        ("DELETE", "/projects/red/members/ann"),
        None,
        None,
        "user ann may do nothing in project red any more\n",
    ),
]


@pytest.mark.parametrize(("command", "route", "body", "answer", "printed"), CASES)
def test_each_verb_asks_once_and_says_what_was_done(
    service: Service,
    bmi: Bmi,
    file: str,
    command: list[str],
    route: tuple[str, str],
    body: Any,
    answer: Any,
    printed: str,
) -> None:
    service.on(*route, Answer(answer) if answer else Answer(status=204))
    status, out, err = bmi(*(file if word == "FILE" else word for word in command))
    assert (status, err) == (0, "")
    assert printed in out
    assert [asked.body for asked in service.requests(*route)] == [body]
    assert PASSWORD not in out


@pytest.mark.parametrize(
    ("command", "path", "item", "cells"),
    [
        (["user", "list"], "/users", ANN, ["ann", "enabled"]),
        (["project", "members", "red"], "/projects/red/members", MEMBER, ["ann", "member", "a manager"]),
    ],
)
def test_lists_have_a_row_for_each(
    service: Service, bmi: Bmi, command: list[str], path: str, item: Any, cells: list[str]
) -> None:
    service.on("GET", path, page(item))
    status, out, _ = bmi(*command)
    assert status == 0
    assert all(cell in out.splitlines()[-1] for cell in cells)


def test_a_short_password_is_not_even_sent(service: Service, bmi: Bmi, tmp_path: Path) -> None:
    (tmp_path / "short").write_text("short\n")
    status, _, err = bmi("user", "create", "ann", "--password-file", str(tmp_path / "short"))
    assert (status, err) == (2, "bmi: the password has 5 characters; choose one of 12 at least\n")
    assert service.asked == []


def test_a_change_of_nothing_is_a_usage_error(service: Service, bmi: Bmi) -> None:
    status, _, err = bmi("user", "change", "ann")
    assert (status, "say what is to change" in err) == (2, True)


def test_without_a_terminal_a_password_comes_from_a_file(service: Service, bmi: Bmi) -> None:
    status, _, err = bmi("user", "create", "ann")
    assert (status, "use --password-file" in err) == (2, True)
