"""`bmi audit` against a service that answers over HTTP, as `bmi serve` has it."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn

from bmi.access.service import ADMIN_TOKEN_FILE
from bmi.cli.main import run
from bmi.settings import Settings
from bmi.wait import wait_until
from tests.databases import free_port
from tests.unit.conftest import Site

Bmi = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bmi(
    site: Site,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Bmi]:
    """Give a way to run a command as the first admin, or with another token."""
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(
            site.api.app, port=port, lifespan="off", log_config=None, access_log=False, proxy_headers=False
        )
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, deadline=30, what="the service", next_step="see the log")
    monkeypatch.setenv("BMI_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("BMI_CLIENT_CONFIG", str(tmp_path / "client.toml"))
    monkeypatch.delenv("BMI_PROJECT", raising=False)
    admin = (settings.state_dir / ADMIN_TOKEN_FILE).read_text().strip()

    def call(*arguments: str, token: str = admin) -> tuple[int, str, str]:
        monkeypatch.setenv("BMI_TOKEN", token)
        status = run(arguments)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    yield call
    server.should_exit = True
    thread.join()


def made_token(bmi: Bmi, name: str, role: str) -> str:
    status, out, err = bmi("token", "create", name, "--role", role, "--project", "red", "--json")
    assert (status, err) == (0, "")
    secret: str = json.loads(out)["secret"]
    return secret


def test_what_was_done_and_refused_is_listed_with_who_and_whence(bmi: Bmi) -> None:
    assert bmi("project", "create", "red")[0] == 0
    viewer = made_token(bmi, "victor", "viewer")
    manager = made_token(bmi, "mona", "manager")
    assert bmi("token", "create", "more", "--role", "admin", token=viewer)[0] == 1
    assert bmi("audit", "list", token=viewer)[0] == 1
    assert bmi("project", "create", "blue", token="bmi_wrong")[0] == 1

    status, out, err = bmi("audit", "list")

    assert (status, err) == (0, "")
    rows = out.splitlines()[1:]
    assert len(rows) == 6
    assert all("127.0.0.1" in row for row in rows)
    assert "project red" in rows[0]
    assert "token victor, role viewer, project red" in rows[1]
    assert "victor" in rows[3]
    assert "refused (403 not-allowed)" in rows[3]
    assert "audit.read" in rows[4]
    assert "refused (401 not-authenticated)" in rows[5]
    assert viewer not in out
    status, out, _ = bmi("audit", "list", "--outcome", "refused", "--json", token=manager)
    assert status == 0
    assert [line["caller"] for line in json.loads(out)] == ["victor", "victor"]
    assert bmi("audit", "list", "--until", "7d")[1:] == ("", "nothing was changed or refused\n")


def test_an_export_is_the_whole_trail_in_as_many_pages_as_it_takes(bmi: Bmi, site: Site) -> None:
    names = [f"p{number}" for number in range(230)]  # the client asks for 100 lines at once
    for name in names:
        site.project(name)

    status, out, err = bmi("audit", "export")

    assert (status, err) == (0, "")
    lines = [json.loads(text) for text in out.splitlines()]
    assert [line["thing"] for line in lines] == [f"project {name}, the system" for name in names]
    assert len({line["request_id"] for line in lines}) == len(names)
