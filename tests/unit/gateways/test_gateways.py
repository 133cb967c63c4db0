"""Who acts for whom, which gateway carries a new export, and what one orders of another."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from ipaddress import IPv4Interface
from typing import Any, cast
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from bmi import schema
from bmi.api.doctor import Inventory
from bmi.api.members import Member
from bmi.boot.models import Boot
from bmi.boot.service import apply_export
from bmi.cli.main import run as run_command
from bmi.db import Db, now
from bmi.drivers.leg.memory import MemoryLeg
from bmi.errors import AddressTaken, BadRequest, GatewayUnavailable, HelperUnavailable, SettingsInvalid
from bmi.gateways import orders, service
from bmi.gateways.models import Gateway, Order
from bmi.gateways.orders import VERBS, OrderTaker, at_gateway
from bmi.gateways.place import Place
from bmi.ids import new_id
from bmi.parts import GatewayParts, Parts
from bmi.provisioning.converge import converge
from bmi.provisioning.models import Worker
from bmi.settings import Settings
from bmi.wait import wait_until


class Clock:
    """The database's clock, as the tests set it."""

    def __init__(self) -> None:
        self.time = now()

    def __call__(self, *_: object) -> datetime:
        return self.time

    def pass_by(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(Db, "clock", clock)
    monkeypatch.setattr(Db, "shared", True)
    return clock


class Hosts:
    """Three gateways, and the database between them."""

    def __init__(self, db: Db, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self.ids: list[UUID] = []
        with db.write() as session:
            for number in (1, 2, 3):
                row = Gateway(id=new_id(), name=f"g{number}", number=number, seen_at=clock.time)
                session.add(row)
                self.ids.append(row.id)

    def here(self, number: int) -> GatewayParts:
        nothing: Any = None
        return GatewayParts(self.ids[number - 1], f"g{number}", number, nothing, nothing, nothing, nothing)

    def beat(self, *numbers: int) -> None:
        with self._db.write() as session:
            for number in numbers:
                session.get_one(Gateway, self.ids[number - 1]).seen_at = self._clock.time

    def fill_in(self, number: int) -> list[str]:
        with self._db.write() as session:
            return [row.name for row in service.fill_in(self._db, session, self.ids[number - 1])]

    def returned(self, number: int) -> list[str]:
        with self._db.read() as session:
            return [row.name for row in service.returned(self._db, session, self.ids[number - 1])]

    def give_back(self, of: int, by: int) -> None:
        with self._db.write() as session:
            service.give_back(session, self.ids[of - 1], self.ids[by - 1])

    def acting(self, number: int, *, leaving: int | None = None) -> set[str]:
        here = self.here(number)
        if leaving:
            here.leaving.add(self.ids[leaving - 1])
        with self._db.read() as session:
            return {session.get_one(Gateway, id).name for id in service.acting(session, here)}

    def choose(self) -> str:
        with self._db.read() as session:
            return service.choose(self._db, session).name


@pytest.fixture
def hosts(tmp_path: Any, clock: Clock) -> Iterator[Hosts]:
    db = Db(f"sqlite:///{tmp_path / 'bmi.db'}")
    schema.upgrade(db)
    yield Hosts(db, clock)
    db.close()


def test_a_gateway_acts_for_itself(hosts: Hosts) -> None:
    assert [hosts.acting(number) for number in (1, 2, 3)] == [{"g1"}, {"g2"}, {"g3"}]


def test_a_place_is_left_alone_until_its_addresses_are_gone(hosts: Hosts, clock: Clock) -> None:
    clock.pass_by(service.LEASE)
    hosts.beat(2, 3)
    assert hosts.fill_in(2) == []


def test_of_several_one_takes_a_dead_ones_place(hosts: Hosts, clock: Clock) -> None:
    clock.pass_by(service.EMPTY_AFTER + 1)
    hosts.beat(2, 3)
    assert hosts.fill_in(3) == ["g1"]
    assert hosts.fill_in(2) == []
    assert [hosts.acting(number) for number in (1, 2, 3)] == [set(), {"g2"}, {"g1", "g3"}]


def test_who_came_back_is_given_its_place_and_waits_for_it(hosts: Hosts, clock: Clock) -> None:
    clock.pass_by(service.EMPTY_AFTER + 1)
    hosts.beat(2, 3)
    hosts.fill_in(2)
    assert hosts.returned(2) == []
    hosts.beat(1)
    assert hosts.fill_in(1) == []
    assert hosts.acting(1) == set()
    assert hosts.returned(2) == ["g1"]
    assert hosts.acting(2, leaving=1) == {"g2"}  # first it ends what it has of it
    hosts.give_back(of=1, by=2)
    assert (hosts.acting(1), hosts.acting(2)) == ({"g1"}, {"g2"})


def test_who_comes_back_when_the_other_has_died_takes_its_own_place(hosts: Hosts, clock: Clock) -> None:
    clock.pass_by(service.EMPTY_AFTER + 1)
    hosts.beat(2, 3)
    hosts.fill_in(2)
    clock.pass_by(service.EMPTY_AFTER + 1)
    hosts.beat(1, 3)
    assert hosts.fill_in(1) == ["g1"]
    assert hosts.acting(1) == {"g1"}


def test_places_of_two_that_died_one_after_the_other_end_with_the_third(hosts: Hosts, clock: Clock) -> None:
    clock.pass_by(service.EMPTY_AFTER + 1)
    hosts.beat(2, 3)
    hosts.fill_in(2)
    clock.pass_by(service.EMPTY_AFTER + 1)
    hosts.beat(3)
    assert hosts.fill_in(3) == ["g1", "g2"]
    assert hosts.acting(3) == {"g1", "g2", "g3"}


def test_a_place_given_back_by_who_does_not_have_it_stays(hosts: Hosts, clock: Clock) -> None:
    clock.pass_by(service.EMPTY_AFTER + 1)
    hosts.beat(2, 3)
    hosts.fill_in(2)
    hosts.give_back(of=1, by=3)
    assert hosts.acting(2) == {"g1", "g2"}


def test_new_exports_go_to_one_that_lives_and_acts_for_itself(hosts: Hosts, clock: Clock) -> None:
    clock.pass_by(service.EMPTY_AFTER + 1)
    hosts.beat(2)
    assert hosts.choose() == "g2"
    hosts.fill_in(2)
    hosts.beat(1)  # it is back, but does not have its place yet
    assert hosts.choose() == "g2"
    clock.pass_by(service.DEAD_AFTER + 1)
    with pytest.raises(GatewayUnavailable, match="no gateway is alive"):
        hosts.choose()


# --- registering -------------------------------------------------------------------------------------------


def test_a_gateway_is_the_same_after_a_restart_whatever_it_is_called(
    settings: Settings, tmp_path: Any, clock: Clock
) -> None:
    db = Db(f"sqlite:///{tmp_path / 'bmi.db'}")
    schema.upgrade(db)

    def register(name: str, folder: str) -> Gateway:
        state = tmp_path / folder
        state.mkdir(exist_ok=True)
        section = settings.gateway.model_copy(update={"name": name})
        return service.register(db, settings.model_copy(update={"gateway": section, "state_dir": state}))

    first, second = register("one", "a"), register("two", "b")
    assert (first.number, second.number) == (1, 2)
    again = register("renamed", "a")
    assert (again.id, again.name) == (first.id, "renamed")
    assert register("two", "lost-its-folder").id == second.id
    with pytest.raises(SettingsInvalid, match="another gateway is named two"):
        register("two", "a")
    for number in (3, 4):
        register(f"more{number}", f"more{number}")
    with pytest.raises(SettingsInvalid, match="addresses for 4 gateways"):
        register("too-many", "too-many")
    db.close()


# --- orders ------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(parts: Parts, api: TestClient) -> Parts:
    """The parts of a process that is no gateway, while the service of `api` is one."""
    return replace(parts, here=None)


@pytest.fixture
def answer() -> Iterator[list[UUID]]:
    """A verb that answers, one that fails; what they were asked about."""
    asked: list[UUID] = []

    def note(_: Parts, subject: UUID) -> dict[str, Any]:
        asked.append(subject)
        return {"subject": str(subject)}

    def fail(_: Parts, subject: UUID) -> dict[str, Any]:
        raise BadRequest(f"{subject} cannot be", next_step="ask for something else")

    VERBS["test note"], VERBS["test fail"] = note, fail
    yield asked
    del VERBS["test note"], VERBS["test fail"]


def test_an_order_is_carried_out_by_the_gateway_and_leaves_no_trace(
    parts: Parts, elsewhere: Parts, answer: list[UUID]
) -> None:
    subject = new_id()
    assert at_gateway(elsewhere, parts.gateway.id, "test note", subject) == {"subject": str(subject)}
    assert answer == [subject]
    with parts.db.read() as session:
        assert session.scalars(select(Order)).all() == []


def test_in_the_gateway_itself_it_is_a_call(parts: Parts, answer: list[UUID]) -> None:
    subject = new_id()
    assert at_gateway(parts, parts.gateway.id, "test note", subject) == {"subject": str(subject)}


@pytest.mark.parametrize("here", [True, False])
def test_a_failure_is_the_same_wherever_it_happens(
    parts: Parts, elsewhere: Parts, answer: list[UUID], here: bool
) -> None:
    subject = new_id()
    with pytest.raises(BadRequest) as caught:
        at_gateway(parts if here else elsewhere, parts.gateway.id, "test fail", subject)
    assert caught.value.message == f"{subject} cannot be"
    assert caught.value.next_step == "ask for something else"


def test_a_gateway_that_does_not_answer_is_named(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, answer: list[UUID]
) -> None:
    monkeypatch.setattr(orders, "DEADLINE", 0.1)
    with pytest.raises(GatewayUnavailable, match=parts.gateway.name):
        at_gateway(replace(parts, here=None), parts.gateway.id, "test note", new_id())
    with parts.db.read() as session:
        assert session.scalars(select(Order)).all() == []
    assert answer == []


def test_orders_that_a_dead_process_left_are_carried_out_by_the_next(
    parts: Parts, answer: list[UUID]
) -> None:
    subjects = [new_id() for _ in range(3)]
    with parts.db.write() as session:
        for subject in subjects:
            session.add(Order(id=new_id(), gateway_id=parts.gateway.id, verb="test note", subject=subject))
    taker = OrderTaker(parts)
    taker.start()
    wait_until(lambda: len(answer) == 3, deadline=10, what="the orders", next_step="-")
    taker.close()
    assert set(answer) == set(subjects)


def test_forgotten_orders_are_swept(parts: Parts) -> None:
    with parts.db.write() as session:
        old = now() - timedelta(hours=2)
        session.add(Order(gateway_id=parts.gateway.id, verb="x", subject=new_id(), created_at=old))
        session.add(Order(gateway_id=parts.gateway.id, verb="y", subject=new_id()))
    orders.sweep(parts)
    with parts.db.read() as session:
        assert [order.verb for order in session.scalars(select(Order))] == ["y"]


def test_the_doctor_asks_every_gateway(api: TestClient, parts: Parts, site: Any) -> None:
    site.project("red")
    site.network("net", "red")
    inventory = Inventory.model_validate(api.get("/v1/doctor").json()["inventory"])
    assert (inventory.legs, inventory.dhcp_servers) == (1, 1)


# --- two gateways on memory drivers ------------------------------------------------------------------------


class OtherPlace:
    """A node that is provisioned, made another gateway's; this one acts for that or does not."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        with parts.db.write() as session:
            other = Gateway(id=new_id(), name="other", number=2, seen_at=now() + timedelta(days=1))
            session.add(other)
            session.flush()
            self.boot = session.scalars(select(Boot)).one()
            self.boot.gateway_id = other.id
        self._id = other.id

    def held(self, yes: bool) -> None:
        with self._parts.db.write() as session:
            row = session.get_one(Gateway, self._id)
            row.held_by_id = self._parts.gateway.id if yes else None
            # Dead or alive for good, so that the service itself, where it looks after places, leaves it so.
            row.seen_at = now() + (timedelta(days=-1) if yes else timedelta(days=1))
        converge(self._parts)

    def portals(self) -> list[UUID]:
        return list(self._parts.gateway.target.portals())

    def addresses(self) -> set[str]:
        (leg,) = self._parts.gateway.legs.legs()
        return {str(address.ip) for address in leg.also}

    def hosts(self) -> int:
        return sum(len(hosts) for hosts in cast("Any", self._parts.gateway.dnsmasq).hosts.values())


@pytest.fixture
def other_place(api: TestClient, parts: Parts, site: Any) -> OtherPlace:
    site.project("red")
    site.network("net", "red")
    site.image("golden")
    site.node("n1", 1)
    body = {"image": "golden", "network": "net", "project": "red", "until": "power"}
    site.ended(api.post("/v1/nodes/n1/provision", json=body))
    return OtherPlace(parts)


def test_a_place_that_is_taken_brings_its_address_and_exports_along(other_place: OtherPlace) -> None:
    for _ in range(2):
        other_place.held(False)
        assert (other_place.portals(), other_place.addresses(), other_place.hosts()) == ([], set(), 0)
        other_place.held(True)
        assert other_place.portals() == [other_place.boot.id]
        assert (other_place.addresses(), other_place.hosts()) == ({"10.64.0.253"}, 1)


def test_nodes_of_a_gateway_that_still_answers_are_left_to_it(
    other_place: OtherPlace, parts: Parts, api: TestClient, site: Any
) -> None:
    legs = cast("MemoryLeg", parts.gateway.legs)
    legs.answer_for(IPv4Interface("10.64.0.253/24"))
    other_place.held(False)
    other_place.held(True)
    assert (other_place.portals(), other_place.addresses(), other_place.hosts()) == ([], set(), 0)
    with pytest.raises(
        AddressTaken, match=r"node n1.*gateway other is not heard of, but answers at 10.64.0.253"
    ):
        apply_export(parts, other_place.boot.id)

    # This gateway's own nodes are served all the same.
    site.node("n2", 2)
    body = {"image": "golden", "network": "net", "project": "red", "until": "power"}
    assert site.ended(api.post("/v1/nodes/n2/provision", json=body))["state"] == "succeeded"
    assert (len(other_place.portals()), other_place.hosts()) == (1, 1)

    legs.answer_for()
    converge(parts)
    assert (len(other_place.portals()), other_place.hosts()) == (2, 2)


# --- members -----------------------------------------------------------------------------------------------


def test_members_are_listed_for_admins_with_what_they_carry(
    api: TestClient, parts: Parts, other_place: OtherPlace
) -> None:
    other_place.held(True)
    with parts.db.write() as session:
        session.add(Worker(name="gone-for-days", seen_at=now() - timedelta(days=2)))
    found = {member["name"]: member for member in api.get("/v1/members").json()["items"]}
    me = parts.gateway.name
    assert found["other"]["acted_for_by"] == me
    assert (found["other"]["load"], found["other"]["role"]) == (1, "gateway")
    assert "gone-for-days" not in found
    assert sum(member["role"] == "worker" for member in found.values()) == 1
    tenant = api.post("/v1/tokens", json={"name": "t", "role": "manager", "project": "red"}).json()["secret"]
    assert api.get("/v1/members", headers={"Authorization": f"Bearer {tenant}"}).status_code == 403


def test_the_command_shows_who_acts_for_whom(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    member = Member(role="gateway", name="g1", alive=False, seen_at=now(), acted_for_by="g2", load=3)

    class Bmi:
        members = type("Members", (), {"list": lambda self: [member]})()

        def __enter__(self) -> "Bmi":
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr("bmi.cli.members.connect", Bmi)
    assert run_command(["members"]) == 0
    assert "dead, g2 acts for it" in capsys.readouterr().out


def test_who_cannot_keep_his_addresses_lets_others_take_his_place(
    api: TestClient, parts: Parts, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, away = Place(parts), HelperUnavailable("the helper is away", next_step="start it")
    with parts.db.write() as session:
        session.add(Gateway(id=new_id(), name="other", number=2, seen_at=clock.time + timedelta(hours=1)))
    parts.gateway.lease = service.LEASE

    def seen_at() -> datetime:
        with parts.db.read() as session:
            return session.get_one(Gateway, parts.gateway.id).seen_at

    time_passes = [0.0]
    monkeypatch.setattr("bmi.gateways.place.time.monotonic", lambda: time_passes[0])
    # Addresses that were to stay for ever are not gone because they could not be given a lease.
    parts.gateway.lease = None
    time_passes[0] += 1000
    with monkeypatch.context() as patch:
        patch.setattr(MemoryLeg, "renew", lambda *_: (_ for _ in ()).throw(away))
        for _ in range(2):
            clock.pass_by(1)
            with pytest.raises(HelperUnavailable):
                place._beat()
            assert (parts.gateway.lease, seen_at()) == (None, clock.time)
    parts.gateway.lease = service.LEASE
    place._keep(service.LEASE)
    with monkeypatch.context() as patch:
        patch.setattr(MemoryLeg, "renew", lambda *_: (_ for _ in ()).throw(away))
        clock.pass_by(service.LEASE)
        time_passes[0] += service.LEASE
        with pytest.raises(HelperUnavailable):
            place._keep(service.LEASE)
        place._beat()  # the addresses are still there
        assert seen_at() == clock.time
        clock.pass_by(1)
        time_passes[0] += 1
        with pytest.raises(GatewayUnavailable, match="could not keep its addresses for 15 s"):
            place._beat()
        assert seen_at() < clock.time
    place._keep(service.LEASE)
    place._beat()
    assert seen_at() == clock.time
    place.close()
