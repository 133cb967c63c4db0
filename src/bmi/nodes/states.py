"""The states of a node, and every way from one to another. docs/states.md is drawn from this table."""

from dataclasses import dataclass

from bmi.api.nodes import NodeState
from bmi.errors import WrongState
from bmi.nodes.models import Node

MEANING = {
    NodeState.AVAILABLE: "Belongs to nobody, is off, on no network; anybody with the role may take it.",
    NodeState.ALLOCATED: "Belongs to a project and boots nothing: off, on no network; nobody else may boot it.",
    NodeState.PROVISIONING: "An operation is making it boot a disk for a project.",
    NodeState.ACTIVE: "Boots its project's disk.",
    NodeState.DEPROVISIONING: "An operation is taking it back; it only goes forward.",
    NodeState.CLEANING: "Waits for its local disks to be wiped, or boots what wipes them; belongs to nobody.",
    NodeState.FAILED: "An operation could not go on and left it for a person to look at; `problem` says why.",
    NodeState.MAINTENANCE: "Taken out of use by an admin.",
}


@dataclass(frozen=True)
class Way:
    """One way from a state to another."""

    origin: NodeState
    goal: NodeState
    when: str


WAYS = (
    Way(NodeState.AVAILABLE, NodeState.PROVISIONING, "provision is asked for"),
    Way(NodeState.AVAILABLE, NodeState.ALLOCATED, "it is allocated to a project"),
    Way(NodeState.ALLOCATED, NodeState.PROVISIONING, "provision is asked for"),
    Way(NodeState.ALLOCATED, NodeState.DEPROVISIONING, "release or reset is asked for"),
    Way(NodeState.DEPROVISIONING, NodeState.ALLOCATED, "deprovision succeeded, and it is allocated"),
    Way(NodeState.PROVISIONING, NodeState.ALLOCATED, "provision was undone, and it is allocated"),
    Way(NodeState.ACTIVE, NodeState.ALLOCATED, "its disk was moved or committed, and it is allocated"),
    Way(NodeState.FAILED, NodeState.ALLOCATED, "the same"),
    Way(NodeState.PROVISIONING, NodeState.ACTIVE, "provision succeeded"),
    Way(NodeState.PROVISIONING, NodeState.AVAILABLE, "provision failed or was cancelled, all undone"),
    Way(NodeState.PROVISIONING, NodeState.FAILED, "the node did not boot, or undoing failed"),
    Way(NodeState.FAILED, NodeState.ACTIVE, "the node reported late that it is up"),
    Way(NodeState.ACTIVE, NodeState.FAILED, "a change of its disk failed, and left it standing"),
    Way(NodeState.FAILED, NodeState.PROVISIONING, "the provision that left it standing is tried again"),
    Way(NodeState.FAILED, NodeState.DEPROVISIONING, "deprovision or reset is asked for"),
    Way(NodeState.ACTIVE, NodeState.DEPROVISIONING, "deprovision or reset is asked for"),
    Way(
        NodeState.ACTIVE, NodeState.AVAILABLE, "its disk was moved to another node, or committed as an image"
    ),
    Way(NodeState.FAILED, NodeState.AVAILABLE, "the same"),
    Way(NodeState.AVAILABLE, NodeState.DEPROVISIONING, "reset is asked for"),
    Way(NodeState.MAINTENANCE, NodeState.DEPROVISIONING, "reset is asked for"),
    Way(NodeState.PROVISIONING, NodeState.DEPROVISIONING, "reset is asked for, and no operation runs on it"),
    Way(
        NodeState.DEPROVISIONING, NodeState.DEPROVISIONING, "reset is asked for, and no operation runs on it"
    ),
    Way(NodeState.DEPROVISIONING, NodeState.AVAILABLE, "deprovision succeeded"),
    Way(NodeState.DEPROVISIONING, NodeState.FAILED, "a step of deprovision failed for good"),
    Way(NodeState.DEPROVISIONING, NodeState.CLEANING, "deprovision succeeded, and its disks are to be wiped"),
    Way(NodeState.PROVISIONING, NodeState.CLEANING, "provision was undone after the node had run"),
    Way(NodeState.ACTIVE, NodeState.CLEANING, "its disk was moved or committed, and its own are to be wiped"),
    Way(NodeState.FAILED, NodeState.CLEANING, "the same, or cleaning is tried again"),
    Way(NodeState.AVAILABLE, NodeState.CLEANING, "cleaning is asked for"),
    Way(NodeState.CLEANING, NodeState.AVAILABLE, "its disks are wiped, or the site wipes none any more"),
    Way(NodeState.CLEANING, NodeState.FAILED, "its disks could not be wiped"),
    Way(NodeState.CLEANING, NodeState.DEPROVISIONING, "reset is asked for, and no operation runs on it"),
)


def move(node: Node, goal: NodeState) -> None:
    """Bring a node to another state.

    Raises:
        WrongState: No way leads there.
    """
    if not any(way.origin is node.state and way.goal is goal for way in WAYS):
        raise WrongState(
            f"node {node.name} is {node.state}, from where no way leads to {goal}",
            next_step="wait until its operation has ended: bmi op list",
        )
    node.state = goal


def release(node: Node) -> None:
    """Let a node boot nothing any more.

    It belongs to nobody then: the next one may take it, once its local disks are clean. One that is allocated stays
    with its project, and its disks are nobody else's business yet.

    Raises:
        WrongState: No way leads there.
    """
    if node.allocated:
        move(node, NodeState.ALLOCATED)
        return
    move(node, NodeState.CLEANING if node.dirty else NodeState.AVAILABLE)
    node.project_id = None


def drawing() -> str:
    """Return docs/states.md."""
    lines = [
        "# States of a node",
        "",
        "Made from the table in `src/bmi/nodes/states.py` by `python -m bmi.nodes.states`; a test compares.",
        "",
        "| state | meaning |",
        "|---|---|",
        *(f"| `{state}` | {meaning} |" for state, meaning in MEANING.items()),
        "",
        "```mermaid",
        "stateDiagram-v2",
        *(f"    {way.origin} --> {way.goal}: {way.when}" for way in WAYS),
        "```",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(drawing(), end="")  # noqa: T201
