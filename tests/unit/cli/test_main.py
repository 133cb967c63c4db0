"""How commands end: exit status, the one line on stderr, and nothing on the wrong stream."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest
import typer

from bmi import __version__
from bmi.cli import nouns
from tests.unit.client.fake_service import Answer, Service, node, page, problem

Bmi = Callable[..., tuple[int, str, str]]


def process(*arguments: str, module: str = "bmi.cli.main") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_without_arguments_shows_what_there_is(bmi: Bmi) -> None:
    status, out, err = bmi()
    assert (status, err) == (0, "")
    assert "First steps:" in out
    assert all(f"\n  {noun.name} " in out for noun in nouns.NOUNS)
    assert "\n  serve      Run the whole service" in out


def test_noun_without_verb_is_a_usage_error_that_shows_the_verbs(bmi: Bmi) -> None:
    status, out, err = bmi("node")
    assert (status, out) == (2, "")
    assert "provision" in err


@pytest.mark.parametrize("noun", [noun.name for noun in nouns.NOUNS])
def test_every_command_explains_itself(bmi: Bmi, noun: str) -> None:
    status, out, err = bmi(noun, "--help")
    assert (status, err) == (0, "")
    assert f"Usage: bmi {noun}" in out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nod"], "no such command 'nod'. Did you mean 'node'?; see `bmi --help`"),
        (["node", "lst"], "no such command 'lst'. Did you mean 'list'?; see `bmi node --help`"),
        (["node", "list", "--nope"], "no such option: --nope; see `bmi node list --help`"),
        (["node", "show"], "missing argument 'NODE'; see `bmi node show --help`"),
        (["op", "list", "--state", "odd"], "invalid value for '--state': 'odd' is not one of"),
        (
            ["disk", "create", "w", "--image", "d", "--size", "2GB"],
            "invalid value: '2GB' is no size: write it",
        ),
        (["network", "create", "A_b"], "'A_b' cannot be a name; use lower-case letters"),
        (
            ["image", "build", "debian", "--name", "d", "--size", "1M"],
            "size 1048576 cannot be used: input should",
        ),
        (["node", "provision", "n1", "--network", "l"], "invalid value for --image: give either --image or"),
        (
            ["node", "provision", "n1", "--network", "l", "--image", "d", "--ssh-key", "/nonexistent"],
            "invalid value: /nonexistent cannot be read: No such file",
        ),
        (
            ["node", "register", "n1", "--bmc-address", "x", "--nic", "52:54:00:00:00:01"],
            "invalid value for --nic: '52:54:00:00:00:01' is not MAC=SWITCH:PORT",
        ),
        (
            ["node", "register", "n1", "--bmc-address", "x", "--nic", "quux=a:b"],
            "invalid value for --nic: 'quux' is no MAC address",
        ),
        (
            ["token", "create", "t", "--role", "viewer", "--expires", "soon"],
            "invalid value: 'soon' is no length",
        ),
    ],
)
def test_usage_errors_are_one_line_and_ask_nothing(
    service: Service, bmi: Bmi, arguments: list[str], line: str
) -> None:
    status, out, err = bmi(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith(f"bmi: {line}")
    assert err.count("\n") == 1
    assert service.asked == []


def test_private_key_is_never_sent(service: Service, bmi: Bmi, tmp_path: Path) -> None:
    key = tmp_path / "id_ed25519"
    key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nxyz\n")
    arguments = ["node", "provision", "n1", "--network", "l", "--image", "d", "--ssh-key", str(key)]
    status, _, err = bmi(*arguments)
    assert status == 2
    assert "is a private key; give the .pub file" in err
    assert service.asked == []


def test_errors_of_the_service_are_one_line(service: Service) -> None:
    service.on(
        "GET", "/nodes/n9", problem(404, "not-found", "there is no node\n\x1b[31mn9", "see `bmi node list`")
    )
    done = process("node", "show", "n9")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "bmi: there is no node [31mn9; see `bmi node list`\n"


def test_service_that_is_not_there_is_one_line(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BMI_URL", "http://127.0.0.1:1")
    done = process("node", "list", module="bmi.cli")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "bmi: http://127.0.0.1:1 does not answer: connection refused; "
        "start the service with `bmi serve`, or check BMI_URL\n"
    )


@pytest.mark.parametrize(
    ("unset", "says"),
    [("BMI_URL", "no service is known; run `bmi login URL`"), ("BMI_TOKEN", "there is no token for http")],
)
def test_missing_profile_says_how_to_make_one(
    service: Service, bmi: Bmi, monkeypatch: pytest.MonkeyPatch, unset: str, says: str
) -> None:
    monkeypatch.delenv(unset)
    status, out, err = bmi("node", "list")
    assert (status, out) == (1, "")
    assert err.startswith(f"bmi: {says}")


def test_success_writes_nothing_on_stderr(service: Service) -> None:
    service.on("GET", "/nodes", page(node()))
    done = process("node", "list", module="bmi.cli")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("NAME")


def test_reader_that_goes_away_ends_the_command_quietly(service: Service) -> None:
    service.on("GET", "/nodes", page(*(node(f"n{number}") for number in range(3000))))
    with subprocess.Popen(
        [sys.executable, "-m", "bmi.cli", "node", "list"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline().startswith("NAME")
        child.stdout.close()
        assert child.stderr.read() == ""
    assert child.returncode == 1


def test_full_disk_is_one_line(service: Service) -> None:
    service.on("GET", "/nodes", page(node()))
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "bmi.cli", "node", "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "bmi: No space left on device; look at where the output goes\n"


def test_defects_of_bmi_keep_their_traceback(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    from bmi.cli.main import run
    from bmi.client import profile

    def defect(environ: object = None) -> profile.Profile:
        raise ZeroDivisionError

    monkeypatch.setattr(profile, "load", defect)
    with pytest.raises(ZeroDivisionError):
        run(["node", "list"])


def test_own_version_needs_no_service(bmi: Bmi) -> None:
    assert bmi("--version") == (0, f"{__version__}\n", "")


def test_help_imports_neither_client_nor_api_nor_tables() -> None:
    heavy = "{'bmi.client', 'bmi.api', 'httpx2', 'pydantic', 'rich', 'sqlalchemy', 'fastapi'}"
    code = f"import sys; from bmi.cli.main import run; run(['--help']); print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


# --- commands from elsewhere ------------------------------------------------------------------------------


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, object], None]:
    """Give a way to offer an object as a command."""

    def offer(name: str, found: object) -> None:
        module = ModuleType("somebody_elses")
        module.found = found  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "somebody_elses", module)
        point = EntryPoint(name, "somebody_elses:found", "bmi.commands")
        monkeypatch.setattr(nouns, "entry_points", lambda group: [point])

    return offer


def test_function_is_a_command(bmi: Bmi, plugin: Callable[[str, object], None]) -> None:
    def greet(name: str = "you") -> None:
        """Greet somebody."""
        typer.echo(f"hello {name}")

    plugin("greet", greet)
    assert bmi("greet", "--name", "Ada") == (0, "hello Ada\n", "")
    assert "Usage: bmi greet" in bmi("greet", "--help")[1]


def test_typer_app_is_a_command_with_verbs(bmi: Bmi, plugin: Callable[[str, object], None]) -> None:
    app = typer.Typer()

    @app.command()
    def up() -> None:
        typer.echo("up")

    @app.command()
    def down() -> None:
        raise typer.Exit(3)

    plugin("lab", app)
    assert bmi("lab", "up") == (0, "up\n", "")
    assert bmi("lab", "down")[0] == 3
    assert "Run a virtual data centre" in bmi("--help")[1]


def test_servers_own_errors_are_one_line_too(bmi: Bmi, plugin: Callable[[str, object], None]) -> None:
    from bmi.errors import PortTaken

    def serve() -> None:
        raise PortTaken("the API cannot listen on 127.0.0.1:6230", next_step="end the other program")

    plugin("serve", serve)
    assert bmi("serve") == (
        1,
        "",
        "bmi: the API cannot listen on 127.0.0.1:6230; end the other program\n",
    )


@pytest.mark.parametrize(
    ("name", "code", "line"),
    [
        (
            "serve",
            "import dbos_that_is_not_there",
            "serve needs the server parts (dbos_that_is_not_there is missing); "
            "install bare-metal-imaging[server]",
        ),
        (
            "lab",
            "import sushy_that_is_not_there.x",
            "lab needs the lab parts (sushy_that_is_not_there is missing); install bare-metal-imaging[lab]",
        ),
        (
            "mine",
            "import not_there",
            "the command mine cannot be loaded: No module named 'not_there'; install its package again",
        ),
        (
            "serve",
            "import bmi.not_there",
            "the command serve cannot be loaded: No module named 'bmi.not_there'; install its package again",
        ),
    ],
)
def test_missing_parts_are_named(
    bmi: Bmi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: str, line: str
) -> None:
    (tmp_path / "incomplete_part.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    point = EntryPoint(name, "incomplete_part:x", "bmi.commands")
    monkeypatch.setattr(nouns, "entry_points", lambda group: [point])
    assert bmi("--help")[0] == 0
    assert bmi(name) == (1, "", f"bmi: {line}\n")


# --- login ------------------------------------------------------------------------------------------------


@pytest.fixture
def at_login(service: Service, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.delenv("BMI_URL")
    monkeypatch.delenv("BMI_TOKEN")
    service.on("GET", "/whoami", Answer({"name": "ada", "roles": {"blue": "manager"}}))
    return service


def test_login_tries_the_token_and_saves_the_profile(at_login: Service, bmi: Bmi, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("sesame\n")
    status, out, err = bmi("login", f"{at_login.url}/", "--token-file", str(tmp_path / "token"))
    file = tmp_path / "client.toml"
    assert (status, err) == (0, "")
    assert out == f"logged in to {at_login.url} as ada, manager of project blue; saved in {file}\n"
    assert at_login.asked[0].token == "sesame"
    assert file.stat().st_mode & 0o777 == 0o600
    assert bmi("whoami")[0] == 0
    assert at_login.asked[-1].token == "sesame"


def test_login_with_a_wrong_token_saves_nothing(at_login: Service, bmi: Bmi, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("wrong")
    at_login.on("GET", "/whoami", problem(401, "not-authenticated", "the token is unknown", "log in again"))
    status, out, err = bmi("login", at_login.url, "--token-file", str(tmp_path / "token"))
    assert (status, out, err) == (1, "", "bmi: the token is unknown; log in again\n")
    assert not (tmp_path / "client.toml").exists()


def test_login_checks_the_project(at_login: Service, bmi: Bmi, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("sesame")
    arguments = ["login", at_login.url, "--token-file", str(tmp_path / "token"), "--project", "red"]
    assert bmi(*arguments)[0] == 1
    assert not (tmp_path / "client.toml").exists()
    found = {
        "id": "0199c5d2-0000-7000-8000-0000000000aa",
        "name": "red",
        "created_at": "2026-01-02T10:00:00Z",
    }
    at_login.on("GET", "/projects/red", Answer(found))
    assert bmi(*arguments)[0] == 0
    assert 'project = "red"' in (tmp_path / "client.toml").read_text()


def test_login_takes_the_token_from_the_environment_and_says_that_it_wins(
    at_login: Service, bmi: Bmi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BMI_TOKEN", "sesame")
    status, _, err = bmi("login", at_login.url)
    assert status == 0
    assert err == "mind that BMI_TOKEN in your environment still wins over the file\n"


def test_login_asks_nobody_where_there_is_no_terminal(at_login: Service) -> None:
    done = process("login", at_login.url)
    assert done.returncode == 2
    assert done.stderr.startswith("bmi: there is no terminal to ask for the token on; use --token-file")


def test_login_without_any_url_is_a_usage_error(at_login: Service, bmi: Bmi) -> None:
    assert bmi("login") == (
        2,
        "",
        "bmi: invalid value for URL: name the service's URL; see `bmi login --help`\n",
    )


def test_token_file_on_standard_input(at_login: Service) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bmi.cli", "login", at_login.url, "--token-file", "-"],
        input="sesame\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=dict(os.environ),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert at_login.asked[0].token == "sesame"
