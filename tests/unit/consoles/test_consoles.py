"""Consoles over the whole service: what is recorded, who reads it, who types."""

import base64
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from bmi.access.models import Project
from bmi.access.policy import Caller
from bmi.audit.models import Audit
from bmi.consoles import line, recorder, routes, service
from bmi.consoles.line import Line
from bmi.consoles.models import ConsoleSession, Piece, Recording, Typed
from bmi.consoles.typing_lines import TypingLines
from bmi.db import now
from bmi.drivers.power import Bmc
from bmi.drivers.power.memory import MemoryPower
from bmi.errors import ConsoleLost
from bmi.ids import new_id
from bmi.nodes.models import Node
from bmi.parts import Parts
from bmi.provisioning.models import Worker
from bmi.wait import wait_until
from tests.unit.conftest import Site

BMC = Bmc("bmc-n1", "u", "secret")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in here waits for a second to pass."""
    monkeypatch.setattr(line, "REPLAY", 0.01)
    monkeypatch.setattr(line, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(recorder, "ROUND", 0.05)
    monkeypatch.setattr(routes, "_lines", TypingLines())


class House:
    """Two projects and a node, whose serial line the test has in its hand."""

    def __init__(self, site: Site, parts: Parts) -> None:
        self.site, self.api, self.parts = site, site.api, parts
        self.node = MemoryPower({}, parts.site)
        site.image("golden")
        for project in ("red", "blue"):
            site.project(project)
            site.network("net", project)
        self.id = UUID(site.node("n1", 1)["id"])

    def provision(self, project: str, **more: Any) -> dict[str, Any]:
        body = {"image": "golden", "network": "net", "project": project, "until": "power", **more}
        return self.site.ended(self.api.post("/v1/nodes/n1/provision", json=body))

    def give_back(self) -> None:
        assert self.site.ended(self.api.post("/v1/nodes/n1/deprovision", json={}))["state"] == "succeeded"

    def power(self, action: str) -> None:
        answer = self.api.post("/v1/nodes/n1/power", json={"action": action})
        assert self.site.ended(answer)["state"] == "succeeded"

    def open(self) -> None:
        until(lambda: self.api.get("/v1/nodes/n1/console").json()["open"])

    def say(self, text: bytes) -> None:
        self.node.say(BMC, text)

    def caller(self, role: str, project: str) -> TestClient:
        body = {"name": f"{role}-{project}", "role": role, "project": project}
        secret = self.api.post("/v1/tokens", json=body).json()["secret"]
        return TestClient(self.api.app, headers={"Authorization": f"Bearer {secret}"})


@pytest.fixture
def house(site: Site, parts: Parts) -> House:
    return House(site, parts)


def until(condition: Callable[[], Any]) -> Any:
    return wait_until(condition, deadline=60, what="a console", next_step="-")


def read(api: TestClient, recording: int = 0, **params: int) -> bytes:
    answer = api.get(f"/v1/nodes/n1/console/recordings/{recording}", params=params)
    return base64.b64decode(answer.json()["data"]) if answer.status_code == 200 else b""


def stored(api: TestClient, text: bytes, recording: int = 0) -> None:
    until(lambda: text in read(api, recording))


def type_in(api: TestClient, data: bytes) -> Any:
    return api.post("/v1/nodes/n1/console/input", json={"data": base64.b64encode(data).decode()})


# --- recording -------------------------------------------------------------------------------------------


def test_what_a_node_says_is_read_byte_for_byte(house: House) -> None:
    house.provision("red")
    house.open()
    said = b"BIOS\r\n\x1b[2J\xff\xfe login: "
    house.say(said)
    stored(house.api, said)
    assert read(house.api) == said
    assert read(house.api, offset=4, limit=3) == said[4:7]
    assert read(house.api, offset=-7) == said[-7:]
    shown = house.api.get("/v1/nodes/n1/console").json()
    assert [(each["number"], each["project"], each["size"]) for each in shown["recordings"]] == [
        (1, "red", len(said))
    ]
    assert house.api.get("/v1/nodes/n1").json()["console"] is True


def test_each_start_is_a_recording_of_its_own_and_the_oldest_go(house: House) -> None:
    house.provision("red")
    house.open()
    for number in range(1, 13):
        house.say(b"start %d" % number)
        stored(house.api, b"start %d" % number, number)
        house.power("cycle")
    assert read(house.api, 12) == b"start 12"
    numbers = [each["number"] for each in house.api.get("/v1/nodes/n1/console").json()["recordings"]]
    assert numbers == list(range(4, 14))  # ten of them; the latest has nothing yet
    assert house.api.get("/v1/nodes/n1/console/recordings/3").status_code == 404
    house.power("on")  # of a node that is on: no start
    assert len(house.api.get("/v1/nodes/n1/console").json()["recordings"]) == 10


def test_of_a_long_start_the_end_is_kept_and_offsets_stay(parts: Parts) -> None:
    node = Node(
        name="n", bmc_driver="memory", bmc_address="x", bmc_username="", bmc_password="", bmc_options={}
    )
    most, said = 1 << 16, os.urandom(300_000)
    with parts.db.write() as session:
        session.add(node)
        session.flush()
        service.begin(session, parts, node)
        recording = session.scalars(select(Recording)).one()
        for begin in range(0, len(said), 7001):
            service.append(session, recording, said[begin : begin + 7001], most)
        rows = session.scalar(select(func.count()).select_from(Piece))
    with parts.db.read() as session:
        recording = session.scalars(select(Recording)).one()
        begin, content = service.read(session, recording, 0, len(said))
        assert recording.size == len(said)
        assert begin == recording.first
        assert content == said[begin:]
        assert most <= len(content) <= most + service.PIECE
        assert rows is not None
        assert rows <= most // service.PIECE + 2
        middle = begin + 20_001
        assert service.read(session, recording, middle, 40_000) == (middle, said[middle : middle + 40_000])
        assert service.read(session, recording, len(said), 10) == (len(said), b"")


def test_a_console_that_breaks_off_is_opened_again(house: House) -> None:
    house.provision("red")
    house.open()
    house.say(b"before ")
    stored(house.api, b"before ")
    house.node.hang_up(BMC)
    until(lambda: not house.api.get("/v1/nodes/n1/console").json()["open"] or _claims(house.parts))

    def goes_on() -> bool:
        house.say(b"after.")
        return b"after." in read(house.api)

    until(goes_on)


def _claims(parts: Parts) -> int:
    with parts.db.read() as session:
        return session.scalars(select(ConsoleSession)).one().claim


def test_a_controller_without_console_disturbs_nothing_and_says_why(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(power: MemoryPower, bmc: Bmc) -> Any:
        from bmi.errors import ConsoleUnavailable

        raise ConsoleUnavailable(f"BMC {bmc.address} has no console", next_step="do without")

    monkeypatch.setattr(MemoryPower, "console", none)
    assert house.provision("red")["state"] == "succeeded"
    shown = until(lambda: _with_problem(house.api))
    assert shown["open"] is False
    assert shown["problem"] == "BMC bmc-n1 has no console; do without"
    refused = type_in(house.api, b"x")
    assert refused.status_code == 409
    assert "has no console" in refused.json()["detail"]
    tenant = house.caller("member", "red")
    for said in (tenant.get("/v1/nodes/n1/console").text, type_in(tenant, b"x").text):
        assert "an admin sees why" in said
        assert "bmc-n1" not in said
    assert house.api.get("/v1/nodes/n1").json()["console"] is False


def _with_problem(api: TestClient) -> dict[str, Any] | None:
    shown = api.get("/v1/nodes/n1/console").json()
    return cast("dict[str, Any]", shown) if shown["problem"] else None


def test_a_failed_boot_says_its_last_words_and_where_the_rest_is(house: House) -> None:
    def speaks() -> bool:
        house.say(b"\x1b[31mNo bootable\r\n device\x07.")
        return b"device" in read(house.api)

    body = {"image": "golden", "network": "net", "project": "red", "until": "up", "deadline": 3}
    answer = house.api.post("/v1/nodes/n1/provision", json=body)
    until(speaks)
    ended = house.site.ended(answer)
    assert ended["state"] == "failed"
    assert "No bootable device" in ended["error"]["detail"]
    assert "\x1b" not in ended["error"]["detail"]
    assert "bmi node console n1 --log" in ended["error"]["next_step"]
    assert "bmi node console n1 --log" in house.api.get("/v1/nodes/n1").json()["problem"]


# --- tenants ---------------------------------------------------------------------------------------------


def test_the_next_tenant_reads_nothing_of_the_one_before_and_he_nothing_more(house: House) -> None:
    house.provision("red")
    house.open()
    house.say(b"red's secret")
    stored(house.api, b"red's secret")
    red, blue = house.caller("member", "red"), house.caller("member", "blue")
    assert read(red) == b"red's secret"
    assert blue.get("/v1/nodes/n1/console").status_code == 404
    house.give_back()
    for tenant in (red, blue):  # the node is nobody's, and everybody sees it
        assert tenant.get("/v1/nodes/n1").status_code == 200
        assert tenant.get("/v1/nodes/n1").json()["console"] is False
        for path in ("console", "console/recordings/1", "console/stream"):
            assert tenant.get(f"/v1/nodes/n1/{path}").status_code == 404
        assert type_in(tenant, b"x").status_code == 404
    house.provision("blue")
    house.open()
    assert blue.get("/v1/nodes/n1").json()["console"] is False
    assert [each["number"] for each in blue.get("/v1/nodes/n1/console").json()["recordings"]] == [2]
    assert read(blue) == b""
    assert blue.get("/v1/nodes/n1/console/recordings/1").status_code == 404
    house.say(b"blue's own")
    stored(blue, b"blue's own")
    assert read(blue) == b"blue's own"
    assert red.get("/v1/nodes/n1/console/recordings/1").status_code == 404
    # The admin sees all.
    assert (read(house.api, 1), read(house.api, 2)) == (b"red's secret", b"blue's own")


def test_what_comes_late_is_not_the_next_tenants(house: House) -> None:
    house.provision("red")
    house.open()
    with house.parts.db.read() as session:
        old = session.scalars(select(Recording)).one().id
    house.give_back()
    house.provision("blue")
    house.open()
    mine = recorder.Recorder(house.parts, "w")  # stores what it is told; it is never started
    with house.parts.db.write() as session:
        mine._append(session, house.id, [(old, b"of red, read before and stored after")])
        mine._append(session, house.id, [(_current(session), b"of blue")])
    assert read(house.api, 1) == b""
    assert read(house.api, 2) == b"of blue"
    with house.parts.db.write() as session:  # and nothing once the node is somebody else's
        current = _current(session)
        session.get_one(Node, house.id).project_id = None
        session.flush()
        mine._append(session, house.id, [(current, b"nobody's")])
    assert read(house.api, 2) == b"of blue"


def _current(session: Any) -> UUID:
    return cast("UUID", session.scalars(select(Recording.id).where(Recording.ended_at.is_(None))).one())


def test_a_viewer_reads_and_a_member_types(house: House) -> None:
    house.provision("red")
    house.open()
    viewer, member = house.caller("viewer", "red"), house.caller("member", "red")
    house.say(b"login: ")
    stored(viewer, b"login: ")
    assert type_in(viewer, b"root\n").status_code == 403
    assert type_in(member, b"root\n").status_code == 204
    until(lambda: house.node.typed(BMC) == b"root\n")
    assert type_in(member, b"\x00\x1b~.\xff").status_code == 204
    until(lambda: house.node.typed(BMC) == b"root\n\x00\x1b~.\xff")
    with house.parts.db.read() as session:
        assert list(session.scalars(select(Typed))) == []


def test_what_is_typed_is_in_no_trail_and_one_line_tells_of_it(house: House) -> None:
    house.provision("red")
    house.open()
    for key in b"hunter2\n":
        assert type_in(house.api, bytes([key])).status_code == 204
    until(lambda: house.node.typed(BMC) == b"hunter2\n")
    with house.parts.db.read() as session:
        lines = list(session.scalars(select(Audit).where(Audit.action == "console.write")))
    assert [(row.thing, row.outcome) for row in lines] == [("node n1", "done")]
    assert "hunter2" not in str([vars(row) for row in lines])


def test_what_waits_to_be_typed_is_sealed_and_dies_soon(house: House, parts: Parts) -> None:
    house.provision("red")
    house.open()
    with parts.db.write() as session:
        node = session.get_one(Node, house.id)
        service.type_in(session, parts, Caller("x", admin=True), node, b"a password")
        row = session.scalars(select(Typed)).one()
        assert "a password" not in row.content
        assert base64.b64encode(b"a password").decode() not in row.content
        row.typed_at = now() - 2 * service.STALE
        old = Typed(node_id=node.id, project_id=None, content=parts.vault.seal("b3RoZXI="))  # another's
        session.add(old)
    until(lambda: not _waiting(parts))
    assert type_in(house.api, b"new").status_code == 204
    until(lambda: house.node.typed(BMC) == b"new")


def _waiting(parts: Parts) -> int:
    with parts.db.read() as session:
        return session.scalar(select(func.count()).select_from(Typed)) or 0


@pytest.mark.parametrize("data", ["", "not base64!", "QQ=", "A" * 6000])
def test_what_is_no_input_is_refused(house: House, data: str) -> None:
    assert house.api.post("/v1/nodes/n1/console/input", json={"data": data}).status_code in (400, 422)


# --- following -------------------------------------------------------------------------------------------


def followed(api: TestClient, **params: float) -> list[tuple[str, Any]]:
    text = api.get("/v1/nodes/n1/console/stream", params=params).text
    found = []
    for block in text.split("\n\n"):
        if block.startswith("event: "):
            kind, _, data = block.partition("\n")
            data = data.removeprefix("data: ")
            found.append((kind.removeprefix("event: "), json.loads(data) if "output" in kind else data))
    return found


def test_a_stream_gives_what_comes_and_goes_on_where_it_was_left(house: House) -> None:
    house.provision("red")
    house.open()
    house.say(b"one ")
    stored(house.api, b"one ")
    (event,) = followed(house.api, seconds=0.3)
    assert event[0] == "output"
    assert base64.b64decode(event[1]["data"]) == b"one "
    house.say(b"two")
    stored(house.api, b"two")
    (event,) = followed(house.api, seconds=0.3, recording=1, offset=event[1]["next"])
    assert base64.b64decode(event[1]["data"]) == b"two"
    house.power("cycle")
    house.say(b"anew")
    stored(house.api, b"anew", 2)
    (event,) = followed(house.api, seconds=0.3, recording=1, offset=7)
    assert (event[1]["recording"], base64.b64decode(event[1]["data"])) == (2, b"anew")


def test_a_stream_ends_when_the_node_is_not_the_callers_any_more(house: House) -> None:
    house.provision("red")
    house.open()
    house.say(b"red's")
    stored(house.api, b"red's")
    red = house.caller("viewer", "red")
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(followed, red, seconds=60)
        until(lambda: _is_watched(house.parts))
        house.give_back()
        (first, last) = stream.result(timeout=30)
    assert base64.b64decode(first[1]["data"]) == b"red's"
    assert last[0] == "end"
    assert last[1].startswith("there is no node")


def _is_watched(parts: Parts) -> bool:
    """Say whether the stream has begun: it has told so."""
    return bool(_watchers)


_watchers: list[UUID] = []


@pytest.fixture(autouse=True)
def _seen_watchers(monkeypatch: pytest.MonkeyPatch) -> None:
    _watchers.clear()
    watched = service.watched

    def noted(parts: Parts, node: UUID) -> None:
        watched(parts, node)
        _watchers.append(node)

    monkeypatch.setattr(service, "watched", noted)


# --- workers ---------------------------------------------------------------------------------------------


def test_a_dead_workers_consoles_go_to_another_and_it_stores_no_more(house: House, parts: Parts) -> None:
    """Two recorders of one database, of which the first has lost its claim without knowing."""
    with parts.db.write() as session:
        node = session.get_one(Node, house.id)
        node.project_id = session.scalars(select(Project.id).where(Project.name == "red")).one()
        session.flush()
        service.begin(session, parts, node)
        recording = _current(session)
    held = until(lambda: _session(parts))
    with parts.db.write() as session:  # as another worker does that takes it over
        row = session.get_one(ConsoleSession, held.id)
        row.worker, row.claim = "other", row.claim + 1
    other = Line(house.id, held.claim, lambda: MemoryPower({}, parts.site).console(BMC))
    try:
        late = recorder.Recorder(parts, held.worker or "")
        late._lines[house.id] = other
        other.put_back([(recording, b"a zombie's")])
        late._store()
        assert read(house.api, 1) == b""
    finally:
        other.stop()
        other.join()
    # That one dies too. Where there is one process, what another name had is its own: names outlive processes.
    with parts.db.write() as session:
        session.add(Worker(name="other", seen_at=now() - timedelta(hours=1)))
    until(lambda: _session(parts).worker == held.worker)


def _session(parts: Parts) -> ConsoleSession:
    with parts.db.read() as session:
        return session.scalars(select(ConsoleSession)).one_or_none()  # type: ignore[return-value]


def test_what_the_database_does_not_take_is_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "BACKLOG", 10)
    silent = Line(new_id(), 1, _no_console)
    try:
        recording = new_id()
        silent.record(recording)
        silent._heard(b"0123456789")
        silent._heard(b"abc")
        assert silent.take() == [(recording, b"3456789abc")]
        silent.put_back([(recording, b"3456789abc")])
        silent.record(None)
        silent._heard(b"nobody's")
        assert silent.take() == [(recording, b"3456789abc")]
    finally:
        silent.stop()
        silent.join()


def _no_console() -> Any:
    raise ConsoleLost("it is gone", next_step="-")
