"""What every inventory driver must do. A further driver is one more `Bench` and one more word in `BENCHES`."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from bmi.drivers import Site, load
from bmi.drivers.inventory import Inventory, ListedNic
from bmi.errors import InventoryUnavailable, SettingsInvalid
from tests.hil.bench import HilBench as Hil
from tests.hil.bench import double_bench


class Bench(ABC):
    """An inventory in which project red has the nodes n1 and n2, and blue has n3."""

    name: str
    options: dict[str, Any]

    def __init__(self, folder: Path) -> None:
        self.site = Site(folder / "state", "0badcafe")

    def driver(self) -> Inventory:
        """Return a new driver object for the same inventory."""
        made: Inventory = load("inventory", self.name, self.options, self.site)
        return made

    @abstractmethod
    def give(self, node: str, project: str | None) -> None: ...

    @abstractmethod
    def be_away(self) -> None: ...


class HilBench(Bench):
    name = "hil"

    def __init__(self, folder: Path, bench: Hil) -> None:
        super().__init__(folder)
        self._world = bench.world
        self._world.nodes.clear()
        for name, project in (("n1", "red"), ("n2", "red"), ("n3", "blue")):
            self._world.add_node(name, project, nic1=f"52:54:00:00:00:0{name[-1]}")
        self.options = bench.options

    def give(self, node: str, project: str | None) -> None:
        self._world.take_away(node, project)

    def be_away(self) -> None:
        self._world.broken = True


class MemoryBench(Bench):
    name = "memory"
    options: dict[str, Any] = {}

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._memory: Any = self.driver()
        for name, project in (("n1", "red"), ("n2", "red"), ("n3", "blue")):
            self._memory.give(name, project, {"nic1": f"52:54:00:00:00:0{name[-1]}"})

    def give(self, node: str, project: str | None) -> None:
        self._memory.give(node, project)

    def be_away(self) -> None:
        self._memory.be_away()


@contextmanager
def hil_bench(folder: Path) -> Iterator[Bench]:
    with double_bench(folder) as made:
        yield HilBench(folder, made)


@contextmanager
def memory_bench(folder: Path) -> Iterator[Bench]:
    yield MemoryBench(folder)


BENCHES = {"hil": hil_bench, "memory": memory_bench}


@pytest.fixture(params=BENCHES)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    with BENCHES[request.param](tmp_path) as made:
        yield made


@pytest.fixture
def inventory(bench: Bench) -> Iterator[Inventory]:
    with closing(bench.driver()) as driver:
        yield driver


def test_a_project_has_its_nodes_and_no_others(inventory: Inventory) -> None:
    assert set(inventory.nodes("red")) == {"n1", "n2"}
    assert set(inventory.nodes("nosuch")) == set()


def test_a_node_is_told_with_its_project_and_cards(inventory: Inventory) -> None:
    node = inventory.node("n1")
    assert node is not None
    assert (node.name, node.project, node.nics) == ("n1", "red", (ListedNic("nic1", "52:54:00:00:00:01"),))
    assert inventory.node("nosuch") is None


def test_a_change_is_seen_at_once_by_every_driver_object(bench: Bench, inventory: Inventory) -> None:
    assert "n1" in inventory.nodes("red")
    bench.give("n1", None)
    with closing(bench.driver()) as other:
        for each in (inventory, other):
            assert set(each.nodes("red")) == {"n2"}
            node = each.node("n1")
            assert node is not None
            assert node.project is None


def test_an_inventory_that_is_away_is_no_empty_one(bench: Bench, inventory: Inventory) -> None:
    bench.be_away()
    with pytest.raises(InventoryUnavailable) as failed:
        inventory.nodes("red")
    assert failed.value.transient
    with pytest.raises(InventoryUnavailable):
        inventory.node("n1")


def test_a_closed_driver_can_be_used_again(inventory: Inventory) -> None:
    inventory.close()
    inventory.close()
    assert set(inventory.nodes("red")) == {"n1", "n2"}


def test_an_unknown_option_is_refused(bench: Bench) -> None:
    with pytest.raises(SettingsInvalid, match="colour"):
        load("inventory", bench.name, {**bench.options, "colour": "red"}, bench.site)
