"""In which order cards leave HIL's networks and join others, whatever they are on and are to be on."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from bmi.drivers.hil.moves import NATIVE, Move, next_move

NETWORKS = {"a": "vlan/1", "b": "vlan/2", "c": "vlan/3", "d": "vlan/4"}


@st.composite
def settings(draw: st.DrawFn) -> dict[str, str]:
    """The networks of a card: at most one of them native, the others tagged with their own channel."""
    names = draw(st.lists(st.sampled_from(sorted(NETWORKS)), unique=True))
    native = draw(st.sampled_from([None, *names])) if names else None
    return {NATIVE if name == native else NETWORKS[name]: name for name in names}


def walked(now: Mapping[str, str], wanted: Mapping[str, str], *, native_last: bool) -> list[dict[str, str]]:
    """Carry the moves out, as a strict switch would, and return what the card was on after each."""
    state, seen = dict(now), [dict(now)]
    while move := next_move(state, wanted, native_last=native_last):
        assert not move.seen_in(state)
        if move.attach:
            assert move.network not in state.values()
            assert move.channel not in state
            state[move.channel] = move.network
        else:
            assert state.pop(move.channel) == move.network
        assert move.seen_in(state)
        seen.append(dict(state))
        assert len(seen) < 20
    return seen


@given(settings(), settings())
def test_it_ends_where_it_should_and_never_mixes(now: dict[str, str], wanted: dict[str, str]) -> None:
    seen = walked(now, wanted, native_last=False)
    assert seen[-1] == wanted
    for step in seen:
        old = set(step.items()) - set(wanted.items())
        new = set(step.items()) - set(now.items())
        assert not (old and new)


@given(settings(), settings())
def test_a_strict_switch_never_has_tagged_networks_alone(now: dict[str, str], wanted: dict[str, str]) -> None:
    for setting in (now, wanted):  # what it cannot have is not asked for
        if setting and NATIVE not in setting:
            return
    for step in walked(now, wanted, native_last=True):
        assert not step or NATIVE in step


@given(settings(), settings())
def test_what_stays_is_left_alone_where_the_switch_lets_it(
    now: dict[str, str], wanted: dict[str, str]
) -> None:
    kept = set(now.items()) & set(wanted.items())
    assert all(kept <= set(step.items()) for step in walked(now, wanted, native_last=False))


def test_a_move_says_what_it_is() -> None:
    assert str(Move(True, NATIVE, "lan")) == "attach network lan (vlan/native)"
    assert str(Move(False, "vlan/7", "san")) == "detach network san (vlan/7)"
