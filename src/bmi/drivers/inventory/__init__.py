"""The site's inventory: which nodes it has given to which project, where something beside BMI decides that."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class ListedNic:
    """A network card as the inventory has it."""

    label: str
    mac: str
    """As it is written there; it may be anything."""


@dataclass(frozen=True)
class ListedNode:
    """A node as the inventory has it."""

    name: str
    project: str | None
    """The inventory's own name of the project that has it; None if it is free."""
    nics: tuple[ListedNic, ...]


class Inventory(Protocol):
    """What every inventory driver can do. It only reads.

    All verbs raise `InventoryUnavailable` when nothing answers, `InventoryRefused` when BMI may not look.
    """

    def nodes(self, project: str) -> Collection[str]:
        """Return the names of the nodes that a project has now; none if there is no such project."""

    def node(self, name: str) -> ListedNode | None:
        """Return a node; None if there is none of that name, or none that BMI may see."""

    def close(self) -> None:
        """Let go of connections."""
