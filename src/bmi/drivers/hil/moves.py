"""The order in which a card leaves networks and joins others."""

from collections.abc import Mapping
from dataclasses import dataclass

NATIVE = "vlan/native"
NULL = "null"
"""The only channel where HIL has its null allocator, which knows no VLANs."""


@dataclass(frozen=True)
class Move:
    """One thing to ask HIL for."""

    attach: bool
    channel: str
    network: str

    def __str__(self) -> str:
        verb = "attach" if self.attach else "detach"
        return f"{verb} network {self.network} ({self.channel})"

    def seen_in(self, now: Mapping[str, str]) -> bool:
        """Say whether it has been done, by the networks that a card is on now."""
        return (now.get(self.channel) == self.network) is self.attach


def tagged(vlan: int) -> str:
    """Return the channel of tagged frames of a VLAN."""
    return f"vlan/{vlan}"


def next_move(now: Mapping[str, str], wanted: Mapping[str, str], *, native_last: bool) -> Move | None:
    """Return what to ask for next; None if all is as it should be.

    What is not wanted goes before anything new comes, so that old and new are never on one port together. Among
    what goes the native network is last, among what comes it is first: some switches want one with tagged ones.

    Args:
        now: The networks that the card is on, by channel.
        wanted: Those that it should be on.
        native_last: Whether the switch refuses to take the native network off while tagged ones are there; then
            those that are to stay go too, and come back.
    """
    gone = [channel for channel, network in sorted(now.items()) if wanted.get(channel) != network]
    for channel in gone:
        if not _is_native(channel):
            return Move(False, channel, now[channel])
    for channel in gone:
        kept = [other for other in sorted(now) if not _is_native(other)]
        first = kept[0] if native_last and kept else channel
        return Move(False, first, now[first])
    new = [channel for channel, network in wanted.items() if now.get(channel) != network]
    for channel in sorted(new, key=lambda name: (not _is_native(name), name)):
        return Move(True, channel, wanted[channel])
    return None


def _is_native(channel: str) -> bool:
    return channel in (NATIVE, NULL)
