"""A little of what `python -m tests.stress` does."""

from tests.stress.provisions import stress_provisions
from tests.stress.targets import stress_targets

NOTHING: list[str] = []


def test_exports_come_and_go_while_their_servers_are_killed() -> None:
    told = stress_targets(count=12, rounds=2)
    assert (told["left"], told["problems"]) == (NOTHING, NOTHING), told
    assert told["operations"] >= 12 * 3 * 2
    assert told["failures_injected"] > 0


def test_nodes_come_and_go_at_once_while_one_call_of_ten_fails() -> None:
    told = stress_provisions(count=20, database=None)
    assert (told["left"], told["problems"]) == (NOTHING, NOTHING), told
    assert told["provisioned"] > 0
    assert told["failures_injected"] > 0.05 * told["calls"]
