from pathlib import Path

import pytest

from bmi.api.nodes import NodeState
from bmi.errors import WrongState
from bmi.nodes.models import Node
from bmi.nodes.states import MEANING, WAYS, drawing, move

DOCUMENT = Path(__file__).parents[3] / "docs" / "states.md"


def test_every_state_is_described_and_the_document_is_current() -> None:
    assert set(MEANING) == set(NodeState)
    assert DOCUMENT.read_text() == drawing()


def test_only_the_ways_of_the_table_can_be_taken() -> None:
    for origin in NodeState:
        for goal in NodeState:
            node = Node(name="n1", state=origin)
            if any((way.origin, way.goal) == (origin, goal) for way in WAYS):
                move(node, goal)
                assert node.state is goal
            else:
                with pytest.raises(WrongState, match="node n1 is"):
                    move(node, goal)


def test_there_is_a_way_back_to_available_from_every_state() -> None:
    home = {NodeState.AVAILABLE}
    while True:
        more = {way.origin for way in WAYS if way.goal in home} - home
        if not more:
            break
        home |= more
    assert home == set(NodeState)
