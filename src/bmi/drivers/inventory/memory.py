"""Inventory driver `memory`: an inventory that exists in a file only, for tests."""

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel

from bmi.drivers import Options, Site, parse_options
from bmi.drivers.inventory import ListedNic, ListedNode
from bmi.drivers.statefile import StateFile
from bmi.errors import InventoryUnavailable


class MemoryInventoryOptions(Options):
    """Options of the driver `memory`: none."""


class _Node(BaseModel):
    project: str | None
    nics: dict[str, str]


class _Inventory(BaseModel):
    away: bool = False
    nodes: dict[str, _Node] = {}


class MemoryInventory:
    """Remembers who has which node, and can be told to be away."""

    def __init__(self, options: Mapping[str, Any], site: Site) -> None:
        parse_options(MemoryInventoryOptions, options, driver="memory")
        self._file = StateFile(
            site.state_dir / "inventory-memory" / "nodes.json", _Inventory, InventoryUnavailable
        )

    def nodes(self, project: str) -> Collection[str]:
        """Return the names of the nodes that a project has now, see `Inventory`."""
        return frozenset(name for name, node in self._read().nodes.items() if node.project == project)

    def node(self, name: str) -> ListedNode | None:
        """Return a node, see `Inventory`."""
        found = self._read().nodes.get(name)
        if found is None:
            return None
        return ListedNode(
            name, found.project, tuple(ListedNic(label, mac) for label, mac in found.nics.items())
        )

    def close(self) -> None:
        """Do nothing: no connection is held."""

    def give(self, name: str, project: str | None, nics: Mapping[str, str] | None = None) -> None:
        """Let a project have a node, or nobody; it is made if it is not there.

        Args:
            name: The node.
            project: The project; None for nobody.
            nics: MAC of each of its cards, by label; as they were if None.
        """
        with self._file.edit() as state:
            before = state.nodes.get(name, _Node(project=None, nics={}))
            state.nodes[name] = _Node(project=project, nics=dict(before.nics if nics is None else nics))

    def forget(self, name: str) -> None:
        """Remove a node."""
        with self._file.edit() as state:
            state.nodes.pop(name, None)

    def be_away(self, away: bool = True) -> None:
        """Stop answering, or begin again."""
        with self._file.edit() as state:
            state.away = away

    def _read(self) -> _Inventory:
        state = self._file.read()
        if state.away:
            raise InventoryUnavailable("the inventory does not answer", next_step="tell it to")
        return state
