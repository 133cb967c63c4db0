"""Which action each route asks for. A route without a rule stops the service before it answers anybody.

A route declares its rule as a dependency, beside its path:

    @router.post("/nodes/{node}/power", dependencies=[asks(Action.NODE_USE)])

While it answers, `authorize` refuses every action that was not declared: so the declaration is the truth about the
route, and the table in docs/access-rules.md can be made from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Depends
from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute

from bmi.access.policy import Action, declare


@dataclass(frozen=True)
class Rule:
    """What a route asks for."""

    always: tuple[Action, ...] = ()
    """Asked at every request; none where a token is enough, or not even that is needed."""
    sometimes: tuple[Action, ...] = ()
    """Asked too where the request's body or the thing's owner calls for it."""
    public: bool = False
    """Whether it answers without a token."""

    async def __call__(self) -> None:
        """Hold the request to what was declared; it ends with the request's own context."""
        declare({*self.always, *self.sometimes})


def asks(*always: Action, sometimes: tuple[Action, ...] = ()) -> Any:
    """Declare what a route asks for.

    Args:
        always: What every request to it needs.
        sometimes: What some requests need too.
    """
    if not always:
        raise ValueError("name an action, or use KNOWN or PUBLIC")
    return Depends(Rule(always, sometimes))


PUBLIC = Depends(Rule(public=True))
"""Declares that a route answers everybody."""

KNOWN = Depends(Rule())
"""Declares that a route answers whoever has a token, with what is his anyway."""


def rules(routes: Sequence[BaseRoute]) -> dict[tuple[str, str], Rule]:
    """Return the rule of every route, by method and path.

    Raises:
        RuntimeError: A route declares none, or several, or is of a kind that cannot.
    """
    found: dict[tuple[str, str], Rule] = {}
    for route in iter_route_contexts(routes):
        declared = [
            needed.dependency
            for needed in getattr(route, "dependencies", None) or ()
            if isinstance(needed.dependency, Rule)
        ]
        if len(declared) != 1:
            raise RuntimeError(
                f"route {route.path} declares {len(declared)} rules; "
                "declare one: dependencies=[asks(Action...)], KNOWN or PUBLIC"
            )
        for method in route.methods or ():
            found[method, str(route.path)] = declared[0]
    return found
