"""Secrets that can be recognised are put wherever one can be given or is made; then all that is written is read.

A service in a process of its own, with Open vSwitch, tgtd, dnsmasq and the storage `local`, works with them, also
in ways that go wrong. What is found where it may not be is a leak. `pytest -s` prints the places searched.
"""

import base64
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from sqlalchemy import MetaData, create_engine, select

from bmi import connect
from bmi.boot import service as boot
from bmi.boot.models import Boot
from bmi.db import Db
from bmi.events import Event
from bmi.sealed import PLACES
from bmi.settings import load_settings
from bmi.vault import Vault
from bmi.wait import wait_until
from tests.databases import Cluster, cluster, free_port
from tests.served import Served, new_folder, served
from tests.wires import rack, running_switch

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: run as root"),
    pytest.mark.timeout(900),
]

BIGGEST = 64 << 20  # bytes of a file that are searched; sparse pools are bigger

MAY_HOLD: dict[tuple[str, str], str] = {
    ("oidc-secret", "*/oidc.secret"): "the file that the settings name",
    (
        "admin-token",
        "*/state/admin.token",
    ): "the first admin's token, for whoever may read the service's files",
    ("vault-key", "*/state/secret.key"): "the key file itself",
    ("database-password", "*/bmi.toml"): "the settings that name it",
    ("database-password", "*/pg/pgpass"): "the lab's own note of it",
    ("user-data", "*/state/bmi.db*"): "what a node is to run is data that the service has to keep",
    ("user-data", "*/pg/data/*"): "the same, on PostgreSQL",
    ("user-data", "*/state/storage/*"): "seeds, which the nodes read",
    ("boot-token", "*/state/storage/*"): "seeds: whereby the node reports",
    ("boot-token", "/run/bmi/*"): "DHCP tells it to the node",
}
"""Which secret may stand in which files in the clear, none of which others can read."""

ROWS_MAY_HOLD = {
    ("user-data", "boots"): "rendered into the seed",
    ("user-data", "operations"): "asked for again by a retry",
}

SEALED = b"gAAAAA"
"""What begins a sealed secret: Fernet's version and the upper bytes of its time (the specification of Fernet)."""


@dataclass
class Searched:
    """What was looked through, and what was found."""

    secrets: dict[str, str]
    places: dict[str, int] = field(default_factory=dict)
    leaks: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)
    """Secrets found where they have to be."""
    sealed: set[str] = field(default_factory=set)
    """Columns with sealed secrets."""

    def report(self) -> str:
        """Return what was looked through, how often, and what was found."""
        return "\n".join(
            [
                f"secrets: {', '.join(sorted(self.secrets))}",
                *(f"searched {count:5} x {place}" for place, count in sorted(self.places.items())),
                *(f"sealed, as it has to be: {column}" for column in sorted(self.sealed)),
                *(f"held, as it has to be: {line}" for line in sorted(self.held)),
                *(f"LEAK: {line}" for line in sorted(self.leaks)),
            ]
        )

    def text(self, place: str, content: bytes, *, allowed: frozenset[str] = frozenset()) -> set[str]:
        self.places[place] = self.places.get(place, 0) + 1
        found = {
            name for name, secret in self.secrets.items() if any(form in content for form in _forms(secret))
        }
        self.leaks |= {f"{name} in {place}" for name in found - allowed}
        return found

    def file(self, group: str, path: Path) -> None:
        try:
            with path.open("rb") as file:
                content = file.read(BIGGEST)
        except FileNotFoundError:
            return  # it went meanwhile
        self.places[group] = self.places.get(group, 0) + 1
        for name, secret in self.secrets.items():
            if any(form in content for form in _forms(secret)):
                allowed = any(name == kind and fnmatch(str(path), glob) for kind, glob in MAY_HOLD)
                if not allowed:
                    self.leaks.add(f"{name} in {path}")
                elif _others_can_read(path):
                    self.leaks.add(f"{name} in {path}, which others can read")
                else:
                    self.held.add(f"{name} in {path}")


def _forms(secret: str) -> list[bytes]:
    """Return a secret as it may be written: as it is, quoted, in base64 wherever it begins in it."""
    raw = secret.encode()
    forms = {raw, quote(secret, safe="").encode()}
    for shift in range(3):
        coded = base64.b64encode(b"\0" * shift + raw)
        forms.add(coded[4 if shift else 0 : len(coded) // 4 * 4 - 4])
    return [form for form in forms if len(form) >= 12]


def _others_can_read(path: Path) -> bool:
    try:
        if not path.stat().st_mode & 0o004:
            return False
        return all(folder.stat().st_mode & 0o001 for folder in path.parents)
    except FileNotFoundError:
        return False  # it went meanwhile, as PostgreSQL's do


class ProcessWatch(threading.Thread):
    """Reads the command line and the environment of every process on the host, over and over."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: dict[str, set[bytes]] = {"cmdline": set(), "environ": set()}
        self.processes: set[str] = set()
        self._over = threading.Event()

    def run(self) -> None:
        own = str(os.getpid())
        while not self._over.is_set():
            for process in Path("/proc").glob("[0-9]*"):
                if process.name == own:
                    continue
                for what, contents in self.seen.items():
                    try:
                        contents.add((process / what).read_bytes())
                    except OSError:
                        continue
                self.processes.add(process.name)
            self._over.wait(0.02)

    def stop(self) -> None:
        self._over.set()
        self.join()


@dataclass
class Service:
    """A service that runs, and what it was given."""

    served: Served
    secrets: dict[str, str]
    nodes: list[Any]

    @property
    def answers(self) -> list[tuple[str, bytes]]:
        return self.served.answers

    @property
    def folder(self) -> Path:
        return self.served.folder

    @property
    def config(self) -> Path:
        return self.served.config

    def ask(self, method: str, path: str, *, token: str | None = None, **body: Any) -> httpx2.Response:
        return self.served.ask(method, path, token=token, **body)

    def ended(self, answer: httpx2.Response) -> dict[str, Any]:
        return self.served.ended(answer)


@pytest.fixture(params=["sqlite", "postgresql"])
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    folder = new_folder()
    secrets = {
        name: f"canary-{name}-{os.urandom(9).hex()}"
        for name in (
            "bmc-password",
            "other-bmc-password",
            "user-data",
            "wrong-token",
            "url-key",
            "misplaced",
            "forged-address",
            "user-password",
            "new-password",
            "wrong-password",
            "oidc-secret",
        )
    }
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        (folder / "oidc.secret").touch(0o600)
        (folder / "oidc.secret").write_text(secrets["oidc-secret"])
        more = (
            f'[oidc]\nissuer = "http://127.0.0.1:1"\nclient_id = "bmi"\n'
            f'client_secret_file = "{folder}/oidc.secret"\n'
        )
        if request.param == "postgresql":
            pg: Cluster = stack.enter_context(cluster())
            secrets["database-password"] = pg.server.password_file.read_text().strip().rpartition(":")[2]
            url = stack.enter_context(pg.database()).partition("?")[0]
            with_password = url.replace("@", f":{secrets['database-password']}@")
            more += f'[database]\nurl = "{with_password}"\n'
        switch = stack.enter_context(running_switch(folder))
        bench = stack.enter_context(rack(switch))
        nodes = [bench.node() for _ in range(3)]
        found = Service(stack.enter_context(served(switch, more=more, folder=folder)), secrets, nodes)
        secrets["admin-token"] = found.served.token
        secrets["vault-key"] = (folder / "state/secret.key").read_text().strip()
        yield found


def _made_secrets(service: Service) -> None:
    """Read from the vault what the service made for the boots that there are."""
    settings = load_settings(service.config)
    db, vault = Db(settings.database_url), Vault(settings.vault_file)
    try:
        with db.read() as session:
            for row in session.scalars(select(Boot)):
                service.secrets["chap"] = vault.open(row.chap_secret)
                service.secrets["boot-token"] = vault.derive(boot._TOKEN, str(row.id))
    finally:
        db.close()


def _work(service: Service, look: Callable[[], None]) -> None:
    """Do what a day brings, and what goes wrong on it; look at what is written while a node is active."""
    ask, secrets = service.ask, service.secrets
    ask("POST", "projects", json={"name": "red"})
    made = ask("POST", "tokens", json={"name": "m", "role": "manager", "project": "red"}).json()
    service.answers.pop()  # the one answer that shows it
    member = secrets["api-token"] = made["secret"]
    _people(service)
    for number, (driver, address) in enumerate(
        (("memory", "bmc-1"), ("memory", "bmc-dead"), ("redfish", "")), 1
    ):
        node = service.nodes[number - 1]
        name = "bmc-password" if driver == "memory" else "other-bmc-password"
        bmc = {
            "driver": driver,
            "address": address or f"https://127.0.0.1:{free_port()}",
            "username": "u",
            "password": secrets[name],
        }
        nics = [{"mac": node.mac.hex(":"), "switch": "lab", "port": node.port}]
        body = {"name": f"n{number}", "bmc": bmc, "nics": nics}
        assert ask("POST", "nodes", json=body).status_code == 201
        ask("POST", "nodes", json=body)  # it exists
    service.ended(ask("POST", "networks", json={"name": "net"}, token=member))
    body = {"image": "golden", "network": "net", "user_data": f"#!/bin/sh\n# {secrets['user-data']}\n"}
    failed = service.ended(ask("POST", "nodes/n2/provision", json={**body, "until": "power"}, token=member))
    assert failed["state"] == "failed", failed
    service.ended(ask("POST", f"operations/{failed['id']}/retry", token=member))
    well = service.ended(ask("POST", "nodes/n1/provision", json={**body, "until": "power"}, token=member))
    assert well["state"] == "succeeded", well
    _made_secrets(service)
    look()
    ask("GET", "nodes/n3/power")
    ask("POST", "nodes/n3/power", json={"action": "on"})
    ask("GET", "doctor")
    ask("POST", "doctor/repair", json={})
    url = f"http://127.0.0.1:1/image.raw?key={secrets['url-key']}"
    service.ended(ask("POST", "images/import", json={"name": "fetched", "url": url}, token=member))
    # Wrong inputs.
    lost = secrets["misplaced"]
    ask("POST", "nodes", json={"name": "x", "bmc": {"password": {"oops": lost}}, "nics": []})
    ask("POST", "nodes", json={"name": "x", "bmc": {"address": "a", "passwort": lost}, "nics": []})
    ask("POST", "nodes", content=f'{{"name": "x", "password": "{lost}"'.encode())
    ask("POST", "nodes/n1/provision", json={**body, "password": lost}, token=member)
    ask("GET", f"nodes?token={lost}")
    ask("GET", "nodes", token=secrets["wrong-token"])
    # Nobody is trusted to say who asks: were this believed, it would be in the audit trail.
    forged = {"X-Forwarded-For": secrets["forged-address"]}
    ask("GET", "nodes", token=secrets["wrong-token"], headers=forged)
    ask("POST", "projects", json={"name": "blue"}, token=member)
    ended = service.ended(ask("POST", "nodes/n1/deprovision", json={}, token=member))
    assert ended["state"] == "succeeded", ended


def _people(service: Service) -> None:
    """Let somebody log in, mistype, change the password, and use a session of which the service keeps a digest."""
    ask, secrets = service.ask, service.secrets
    user = {"name": "ann", "password": secrets["user-password"]}
    assert ask("POST", "users", json=user).status_code == 201
    ask("POST", "users", json=user)  # there is one
    ask("PUT", "projects/red/members/ann", json={"role": "viewer"})
    begun = ask("POST", "login", json=user)
    service.answers.pop()  # the one answer that shows it
    session = secrets["session"] = begun.json()["secret"]
    ask("POST", "login", json={**user, "password": secrets["wrong-password"]})
    ask("POST", "login", json={**user, "name": secrets["wrong-password"]})  # at the wrong place
    ask("POST", "login", json={**user, "passwort": secrets["misplaced"]})
    ask(
        "PUT",
        "password",
        json={"old": secrets["wrong-password"], "new": secrets["new-password"]},
        token=session,
    )
    new = {"old": secrets["user-password"], "new": secrets["new-password"]}
    assert ask("PUT", "password", json=new, token=session).status_code == 204
    ask("GET", "whoami", token=session)
    ask("POST", "networks", json={"name": "not-hers"}, token=session)
    ask("POST", "login/provider", json={"redirect_uri": "http://127.0.0.1:1/"})  # nobody answers there
    finish = {"handle": secrets["misplaced"], "code": secrets["misplaced"], "state": "s"}
    ask("POST", "login/provider/finish", json=finish)


def _search(service: Service, watch: ProcessWatch, found: Searched) -> None:
    for where, content in service.answers:
        found.text(f"answer of {where.partition(' ')[0]}", content)
    for path in (
        "nodes",
        "operations",
        "audit",
        "tokens",
        "users",
        "projects",
        "images",
        "networks",
        "disks",
        "doctor",
    ):
        found.text(f"API: /v1/{path}", service.ask("GET", path).content)
    for node in ("n1", "n2", "n3"):
        found.text("API: events of nodes", service.ask("GET", f"nodes/{node}/events").content)
    for operation in service.ask("GET", "operations").json()["items"]:
        path = f"operations/{operation['id']}/history"
        found.text("API: history of operations", service.ask("GET", path).content)
    for what, contents in watch.seen.items():
        for content in contents:
            found.text(f"/proc/*/{what}", content)
    found.text("the service's log", service.served.log.read_bytes())
    _search_rows(service, found)


def _search_files(service: Service, since: float, found: Searched) -> None:
    for path in _files_below(service.folder):
        found.file(f"{service.folder.name}/{path.relative_to(service.folder).parts[0]}", path)
    for folder in (Path("/run/bmi"), Path("/tmp"), Path("/var/tmp"), Path("/var/log")):
        for path in _files_below(folder):
            if service.folder in path.parents:
                continue
            try:
                if path.stat().st_mtime >= since:
                    found.file(f"{folder}, changed since", path)
            except FileNotFoundError:
                continue


def _files_below(folder: Path) -> Iterator[Path]:
    """Go through files; others on this host may remove theirs meanwhile, but nothing else is passed over."""

    def must_be_gone(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for parent, _, names in os.walk(folder, onerror=must_be_gone):
        for name in names:
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                yield path


def _search_rows(service: Service, found: Searched) -> None:
    engine = create_engine(connect.parse(load_settings(service.config).database_url))
    try:
        for schema in (None, "dbos"):
            tables = MetaData()
            if schema is None or engine.dialect.name != "sqlite":
                tables.reflect(engine, schema=schema)
            for table in tables.sorted_tables:
                allowed = frozenset(kind for kind, name in ROWS_MAY_HOLD if name == table.name)
                with engine.connect() as connection:
                    for row in connection.execute(table.select()):
                        found.text(f"rows of {table.fullname}", repr(tuple(row)).encode(), allowed=allowed)
                        found.sealed |= {
                            f"{table.fullname}.{name}"
                            for name, value in row._mapping.items()
                            if SEALED in repr(value).encode()
                        }
    finally:
        engine.dispose()


def test_no_secret_is_anywhere_but_where_it_has_to_be(service: Service) -> None:
    since = time.time()
    found, watch = Searched(service.secrets), ProcessWatch()

    def look_while_a_node_is_active() -> None:
        _search_files(service, since, found)
        _search_rows(service, found)

    watch.start()
    try:
        _work(service, look_while_a_node_is_active)
    finally:
        watch.stop()
    _search(service, watch, found)
    _search_files(service, since, found)
    print(f"\nprocesses seen: {len(watch.processes)}\n{found.report()}")
    assert {"chap", "boot-token", "api-token", "admin-token", "vault-key"} <= set(service.secrets)
    assert {"rows of boots", "rows of audit", "rows of nodes", "the service's log"} <= set(found.places)
    assert found.leaks == set()
    # What is sealed stands only where a change of keys looks for it.
    assert found.sealed == {f"{table.__tablename__}.{column.key}" for table, column, _ in PLACES}
    _plant_and_find(service)


def _plant_and_find(service: Service) -> None:
    """Put a secret where it may not be, in what this service has written, and search again."""
    found = Searched(service.secrets)
    with service.served.log.open("a") as log:
        log.write(f"connecting with {service.secrets['bmc-password']}\n")
    db = Db(load_settings(service.config).database_url)
    try:
        with db.write() as session:
            session.add(Event(kind="x", message=f"CHAP {service.secrets['chap']} refused"))
        _search_rows(service, found)
    finally:
        db.close()
    _search_files(service, time.time() - 1, found)
    assert f"bmc-password in {service.served.log}" in found.leaks
    assert "chap in rows of events" in found.leaks


def test_what_is_planted_is_found(tmp_path: Path) -> None:
    """A search that finds nothing may be blind: here it is not."""
    secret = f"canary-planted-{os.urandom(9).hex()}"
    (tmp_path / "log").write_text(f"password={secret}\n")
    (tmp_path / "coded").write_bytes(base64.b64encode(f"user:{secret}".encode()))
    (tmp_path / "state").mkdir()
    key_file = tmp_path / "state" / "secret.key"
    key_file.write_text(secret)
    key_file.chmod(0o600)
    watch = ProcessWatch()
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()", secret],
        stdin=subprocess.PIPE,
        env={**os.environ, "PLANTED": secret},
    ) as process:
        watch.start()
        wait_until(lambda: str(process.pid) in watch.processes, deadline=30, what="a look", next_step="")
        wait_until(
            lambda: any(secret.encode() in content for content in list(watch.seen["environ"])),
            deadline=30,
            what="a look",
            next_step="",
        )
        watch.stop()
        process.communicate()
    found = Searched({"vault-key": secret})
    for path in (tmp_path / "log", tmp_path / "coded", key_file):
        found.file("planted", path)
    for what, contents in watch.seen.items():
        for content in contents:
            found.text(f"/proc/*/{what}", content)
    found.text("answer", b"..." + quote(secret).encode())
    assert found.leaks == {
        f"vault-key in {tmp_path}/log",
        f"vault-key in {tmp_path}/coded",
        "vault-key in /proc/*/cmdline",
        "vault-key in /proc/*/environ",
        "vault-key in answer",
    }
    assert not any("secret.key" in leak for leak in found.leaks)
