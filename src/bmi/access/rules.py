"""Which action each route asks for. A route without a rule stops the service before it answers anybody.

A route declares its rule as a dependency, beside its path:

    @router.post("/nodes/{node}/power", dependencies=[asks(Action.NODE_USE)])

While it answers, `authorize` refuses every action that was not declared: so the declaration is the truth about the
route, and the table in docs/access-rules.md can be made from it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fastapi import Depends
from fastapi.routing import APIRoute
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


def rule_of(route: APIRoute) -> Rule:
    """Return the rule that a route declares.

    Raises:
        AssertionError: It declares none, or several.
    """
    found = [needed.dependency for needed in route.dependencies if isinstance(needed.dependency, Rule)]
    if len(found) != 1:
        raise AssertionError(
            f"route {sorted(route.methods)} {route.path} declares {len(found)} rules; "
            "declare one: dependencies=[asks(Action...)], KNOWN or PUBLIC"
        )
    return found[0]


def rules(routes: Iterable[BaseRoute]) -> dict[tuple[str, str], Rule]:
    """Return the rule of every route, by method and path.

    Raises:
        AssertionError: A route declares none, or is of a kind that cannot.
    """
    found: dict[tuple[str, str], Rule] = {}
    for route in routes:
        if not isinstance(route, APIRoute):
            raise AssertionError(f"{route} cannot declare a rule; mount it as a route of the API")
        for method in route.methods:
            found[method, route.path] = rule_of(route)
    return found
