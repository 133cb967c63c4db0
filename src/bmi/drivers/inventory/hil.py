"""Inventory driver `hil`: HIL's projects own nodes."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bmi.drivers import Site, parse_options
from bmi.drivers.hil.client import Hil, HilSaysNo
from bmi.drivers.hil.options import HilOptions
from bmi.drivers.hil.words import in_our_words
from bmi.drivers.inventory import ListedNic, ListedNode
from bmi.errors import InventoryRefused, InventoryUnavailable


class HilInventory:
    """Reads who has which node."""

    def __init__(self, options: Mapping[str, Any], site: Site) -> None:
        self._hil = Hil(parse_options(HilOptions, options, driver="hil"))

    def nodes(self, project: str) -> Collection[str]:
        """Return the names of the nodes that a project has now, see `Inventory`."""
        with self._in_our_words():
            try:
                return frozenset(self._hil.nodes_of(project))
            except HilSaysNo as error:
                if error.status == 404 and error.kind and not error.wrong_user:
                    return frozenset()
                raise

    def node(self, name: str) -> ListedNode | None:
        """Return a node, see `Inventory`."""
        with self._in_our_words():
            try:
                found = self._hil.node(name)
            except HilSaysNo as error:
                if error.no_access or (error.status == 404 and error.kind and not error.wrong_user):
                    return None
                raise
        nics = tuple(ListedNic(nic.label, nic.macaddr) for nic in found.nics)
        return ListedNode(found.name, found.project, nics)

    def close(self) -> None:
        """Do nothing: each call has a connection of its own."""

    @contextmanager
    def _in_our_words(self) -> Iterator[None]:
        with in_our_words(
            self._hil.name,
            away=InventoryUnavailable,
            failed=InventoryUnavailable,
            refused=InventoryRefused,
        ):
            yield
