"""The verbs of the helper: methods of drivers and of what is like one, with the types that they declare there.

A call's arguments are checked against those types on both sides, so that nothing gets through but what the methods
are made for.
"""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, create_model

from bmi.boot.dnsmasq import Dnsmasq
from bmi.drivers.leg import Legs
from bmi.drivers.switch import Switch
from bmi.helper.id_maps import IdMaps
from bmi.rights import Rights

LEGS, SWITCH, DNSMASQ, RIGHTS, IDS = "legs", "switch", "dnsmasq", "rights", "ids"
WATCH = "dnsmasq.watch"
"""Not a method: whoever asks is told from then on of each network whose dnsmasq ended."""

_METHODS: dict[str, tuple[type, tuple[str, ...]]] = {
    LEGS: (Legs, ("up", "renew", "down", "legs", "mtus")),
    SWITCH: (Switch, ("configure", "port", "ports", "heard_at")),
    DNSMASQ: (Dnsmasq, ("serve", "stop", "end_if_hung", "answers", "running", "leases", "events")),
    IDS: (IdMaps, ("write",)),
    RIGHTS: (Rights, ("socket_inside", "dhcp_sockets", "let_in", "tcp_table", "listening")),
}
_SOCKETS = ("rights.socket_inside", "rights.dhcp_sockets")
_LISTS = (Iterable, Collection, Sequence)


@dataclass(frozen=True)
class Verb:
    """What one verb takes and returns."""

    name: str
    arguments: type[BaseModel]
    returns: TypeAdapter[Any] | None
    """None where it returns sockets."""

    def pack(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return arguments as JSON's types.

        Raises:
            ValidationError: They are not of the declared types.
        """
        packed: dict[str, Any] = self.arguments(**values).model_dump(mode="json")
        return packed

    def unpack(self, values: Any) -> dict[str, Any]:
        """Return arguments as the method takes them.

        Raises:
            ValidationError: They are not of the declared types.
        """
        checked = self.arguments.model_validate(values)
        return {name: getattr(checked, name) for name in type(checked).model_fields}


def _verb(family: str, owner: type, method: str) -> Verb:
    function: Callable[..., Any] = getattr(owner, method)
    hints = {name: _plain(hint) for name, hint in get_type_hints(function).items()}
    returns = hints.pop("return")
    name = f"{family}.{method}"
    parameters = [each for each in inspect.signature(function).parameters.values() if each.name != "self"]
    fields: dict[str, Any] = {
        each.name: (hints[each.name], ... if each.default is each.empty else each.default)
        for each in parameters
    }
    model = create_model(name, __config__=ConfigDict(extra="forbid", validate_default=True), **fields)
    return Verb(name, model, None if name in _SOCKETS else TypeAdapter(returns))


def _plain(hint: Any) -> Any:
    """Return a list's type for what is any collection: pydantic reads iterables late, if at all."""
    if get_origin(hint) in _LISTS:
        return list[get_args(hint)]  # type: ignore[misc]
    return hint


VERBS: dict[str, Verb] = {
    f"{family}.{method}": _verb(family, owner, method)
    for family, (owner, methods) in _METHODS.items()
    for method in methods
}
