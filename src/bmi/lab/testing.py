"""Real BMCs with real machines for tests of power, without a network."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bmi.ids import new_id
from bmi.lab.bmc import Config, Controllers, Endpoint
from bmi.lab.node import NodeSpec

MEMORY = 64  # MiB; enough for firmware that finds nothing to boot

USERNAME = "operator"
PASSWORD = "correct horse"  # noqa: S105  # of BMCs that live as long as a test


def power_only(count: int) -> list[NodeSpec]:
    """Describe nodes that have power and nothing else."""
    return [NodeSpec(name=f"n{number}", id=new_id(), memory=MEMORY) for number in range(1, count + 1)]


@contextmanager
def controllers(folder: Path, specs: Sequence[NodeSpec]) -> Iterator[Controllers]:
    """Serve the BMCs of nodes on free ports; at the end no process is left.

    Args:
        folder: Folder for all files; its path must be short, for the Unix sockets in it.
        specs: The nodes.
    """
    endpoints = tuple(Endpoint(spec, 0, USERNAME, PASSWORD) for spec in specs)
    served = Controllers(Config(folder, endpoints), folder)
    try:
        served.start()
        yield served
    finally:
        served.stop()
        for node in served.config.nodes():
            node.power_off()
