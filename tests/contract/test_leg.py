"""What every leg driver must do. A further driver is one more `Bench` and one more word in `BENCHES`."""

import json
import random
import select
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from bmi import netns
from bmi.drivers import Outcome, Site, load
from bmi.drivers.leg import Leg, Legs
from bmi.errors import LegError, SettingsInvalid
from bmi.helper.client import HelpedLegs
from bmi.ids import new_id
from tests.helped import helping
from tests.wires import running_switch

ADDRESS = IPv4Interface("10.70.0.1/24")
OTHER_ADDRESS = IPv4Interface("10.71.5.1/22")


class Bench(ABC):
    """A place for legs."""

    name: str
    options: dict[str, Any]

    def __init__(self, tmp_path: Path) -> None:
        self.site = Site(tmp_path / "state", uuid4().hex[:8])
        self.other_site = Site(tmp_path / "other", uuid4().hex[:8])

    @abstractmethod
    def running(self) -> AbstractContextManager[object]: ...

    def driver(self, site: Site | None = None) -> Legs:
        """Return a new driver object for the same place."""
        made: Legs = load("leg", self.name, self.options, site or self.site)
        return made

    def spec(self) -> str:
        return json.dumps([self.name, self.options, str(self.site.state_dir), self.site.installation])


class OvsBench(Bench):
    name = "ovs"

    def __init__(self, tmp_path: Path) -> None:
        super().__init__(tmp_path)
        self._folder = tmp_path

    def running(self) -> AbstractContextManager[object]:
        with ExitStack() as stack:
            switch = stack.enter_context(running_switch(self._folder))
            self.options = {"database": switch.db, "namespace": switch.namespace}
            stack.callback(self._remove_namespaces)
            return stack.pop_all()

    def _remove_namespaces(self) -> None:
        for site in (self.site, self.other_site):
            for name in netns.names():
                if name.startswith(f"bmi-{site.installation}-"):
                    netns.delete(name)


class HelpedBench(OvsBench):
    """The same legs, made by a helper."""

    def running(self) -> AbstractContextManager[object]:
        with ExitStack() as stack:
            stack.enter_context(super().running())
            self._helper = stack.enter_context(helping(self._folder / "h", leg=self.options))
            return stack.pop_all()

    def driver(self, site: Site | None = None) -> Legs:
        return HelpedLegs(self._helper.client((site or self.site).installation))

    def spec(self) -> str:
        own = self._helper.site(self.site.installation)  # who dies is the helper
        return json.dumps([self.name, self.options, str(own.state_dir), own.installation])


class MemoryBench(Bench):
    name = "memory"
    options = {}

    def running(self) -> AbstractContextManager[object]:
        return ExitStack()


BENCHES = {"ovs": OvsBench, "helper": HelpedBench, "memory": MemoryBench}

_WORKER = """
import json, sys
from ipaddress import IPv4Interface
from pathlib import Path
from uuid import UUID
from bmi.drivers import Site, load
name, options, state, installation = json.loads(sys.argv[1])
driver = load("leg", name, options, Site(Path(state), installation))
network = UUID(sys.argv[2])
driver.legs()
print("working", flush=True)
while True:
    driver.up(network, 300, IPv4Interface("10.70.0.1/24"))
    driver.up(network, 301, IPv4Interface("10.70.0.2/24"))
    driver.down(network)
    print("round", flush=True)
"""


@pytest.fixture(params=BENCHES)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    made: Bench = BENCHES[request.param](tmp_path)
    with made.running():
        yield made


@pytest.fixture
def legs(bench: Bench) -> Iterator[Legs]:
    with closing(bench.driver()) as driver:
        yield driver


def by_network(legs: Legs) -> dict[UUID, Leg]:
    return {leg.network: leg for leg in legs.legs()}


def test_there_are_no_legs_at_first(legs: Legs) -> None:
    assert list(legs.legs()) == []


def test_up_makes_a_leg_that_is_listed_as_it_is(legs: Legs) -> None:
    first, second = new_id(), new_id()

    one = legs.up(first, 300, ADDRESS)
    two = legs.up(second, 301, ADDRESS)  # overlapping addresses are what namespaces are for

    assert (one.network, one.vlan, one.address, one.complete) == (first, 300, ADDRESS, True)
    assert (two.network, two.vlan, two.address, two.complete) == (second, 301, ADDRESS, True)
    assert one.namespace != two.namespace
    assert by_network(legs) == {first: one, second: two}


def test_a_leg_says_how_long_frames_may_be(legs: Legs) -> None:
    network = new_id()
    assert legs.mtus(network) == {}
    legs.up(network, 100, ADDRESS)
    found = legs.mtus(network)
    assert found
    assert set(found.values()) == {1500}


def test_up_again_finds_the_same_leg(legs: Legs) -> None:
    network = new_id()
    leg = legs.up(network, 300, ADDRESS)
    assert legs.up(network, 300, ADDRESS) == leg
    assert list(legs.legs()) == [leg]


def test_up_makes_a_leg_equal_to_what_is_asked_now(legs: Legs) -> None:
    network = new_id()
    legs.up(network, 300, ADDRESS)

    for vlan, address in ((301, ADDRESS), (301, OTHER_ADDRESS), (1, ADDRESS), (4094, OTHER_ADDRESS)):
        leg = legs.up(network, vlan, address)
        assert (leg.vlan, leg.address) == (vlan, address)
        assert list(legs.legs()) == [leg]


def test_a_leg_has_the_addresses_of_gateways_that_it_acts_for(legs: Legs) -> None:
    network, more = new_id(), IPv4Interface("10.70.0.9/24")
    legs.up(network, 300, ADDRESS)

    leg = legs.up(network, 300, ADDRESS, also=[more], lease=60)
    assert (leg.address, leg.also) == (ADDRESS, {more})
    assert list(legs.legs()) == [leg]
    legs.renew(60)
    assert list(legs.legs()) == [leg]

    leg = legs.up(network, 300, ADDRESS, lease=60)
    assert leg.also == set()
    assert list(legs.legs()) == [leg]


def test_down_removes_one_leg_and_says_so(legs: Legs) -> None:
    gone, kept = new_id(), new_id()
    legs.up(gone, 300, ADDRESS)
    leg = legs.up(kept, 301, ADDRESS)

    assert legs.down(gone) is Outcome.DONE
    assert legs.down(gone) is Outcome.ALREADY
    assert list(legs.legs()) == [leg]


def test_a_leg_that_never_was_is_gone_already(legs: Legs) -> None:
    assert legs.down(new_id()) is Outcome.ALREADY


@pytest.mark.parametrize("vlan", [-1, 0, 4095, 5000])
def test_what_is_no_vlan_is_refused(legs: Legs, vlan: int) -> None:
    with pytest.raises(LegError, match=str(vlan)):
        legs.up(new_id(), vlan, ADDRESS)
    assert list(legs.legs()) == []


def test_legs_outlive_the_driver(bench: Bench) -> None:
    network = new_id()
    with closing(bench.driver()) as first:
        leg = first.up(network, 300, ADDRESS)
    with closing(bench.driver()) as second:
        assert list(second.legs()) == [leg]
        assert second.down(network) is Outcome.DONE


def test_an_installation_sees_its_own_legs_only(bench: Bench) -> None:
    network, other_network = new_id(), new_id()
    with closing(bench.driver()) as ours, closing(bench.driver(bench.other_site)) as theirs:
        leg = ours.up(network, 300, ADDRESS)
        other_leg = theirs.up(other_network, 301, ADDRESS)

        assert list(ours.legs()) == [leg]
        assert list(theirs.legs()) == [other_leg]
        assert ours.down(network) is Outcome.DONE
        assert list(theirs.legs()) == [other_leg]
        theirs.down(other_network)


def test_a_closed_driver_can_be_used_again(legs: Legs) -> None:
    network = new_id()
    legs.up(network, 300, ADDRESS)
    legs.close()
    legs.close()
    assert legs.down(network) is Outcome.DONE


def test_many_threads_use_one_driver(legs: Legs) -> None:
    networks = [new_id() for _ in range(6)]

    def work(number: int) -> None:
        network = networks[number % len(networks)]
        if number % 3:
            legs.up(network, 300 + number % len(networks), ADDRESS)
        else:
            legs.down(network)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(30)))

    for network in networks:
        legs.down(network)
    assert list(legs.legs()) == []


@pytest.mark.parametrize("then", ["up", "down"])
def test_what_one_that_was_killed_left_behind_is_seen_and_mended(bench: Bench, then: str) -> None:
    chance = random.Random(then)
    for _ in range(6):
        network = new_id()
        with subprocess.Popen(
            [sys.executable, "-c", _WORKER, bench.spec(), str(network)], stdout=subprocess.PIPE, text=True
        ) as worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "working\n"
            # One round takes about 80 ms.
            select.select([], [], [], chance.uniform(0, 0.08))
            worker.kill()
        with closing(bench.driver()) as driver:
            assert set(by_network(driver)) <= {network}
            if then == "up":
                leg = driver.up(network, 302, ADDRESS)
                assert list(driver.legs()) == [leg]
            driver.down(network)
            assert list(driver.legs()) == []
            assert driver.down(network) is Outcome.ALREADY


def test_an_unknown_option_is_refused(bench: Bench) -> None:
    with pytest.raises(SettingsInvalid, match="colour"):
        load("leg", bench.name, {**bench.options, "colour": "red"}, bench.site)
