"""A HIL to test against: the double, or a real one that the environment names.

BMI_TEST_HIL_URL, BMI_TEST_HIL_USERNAME and BMI_TEST_HIL_PASSWORD name a real one; BMI_TEST_HIL_PROJECT a project
whose member that user is, BMI_TEST_HIL_NODE a node of it that nobody needs, BMI_TEST_HIL_NIC one of its cards,
BMI_TEST_HIL_NETWORKS two networks of the project with a comma between, and BMI_TEST_HIL_OTHER a node that belongs
to somebody else. The node is switched, and taken off its networks.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bmi.drivers.hil.client import Hil
from bmi.drivers.hil.options import HilOptions
from tests.hil.double import Double, serving
from tests.hil.world import Network, User, World

_WORDS = ("URL", "USERNAME", "PASSWORD", "PROJECT", "NODE", "NIC", "NETWORKS", "OTHER")


@dataclass
class HilBench:
    """A HIL and what there is in it."""

    url: str
    username: str
    password: str
    project: str
    node: str
    nic: str
    networks: tuple[str, str]
    other: str
    folder: Path
    double: Double | None = None
    more: dict[str, Any] = field(default_factory=dict)
    """Options beside."""

    @property
    def world(self) -> World:
        """The inside of the double."""
        assert self.double is not None
        return self.double.world

    @property
    def options(self) -> dict[str, Any]:
        """Options of any driver."""
        file = self.folder / "password"
        file.write_text(f"{self.password}\n")
        return {"url": self.url, "username": self.username, "password_file": str(file), **self.more}

    @property
    def changing(self) -> dict[str, Any]:
        """Options of a driver that changes something."""
        quick = {} if self.double is None else {"timeout": 5, "poll": 0.01}
        return {**self.options, "projects": [self.project], **quick}

    @property
    def hil(self) -> Hil:
        return Hil(HilOptions.model_validate(self.options))


def real() -> dict[str, str] | None:
    """Return what the environment says of a real HIL; None if it names none."""
    if "BMI_TEST_HIL_URL" not in os.environ:
        return None
    return {word.lower(): os.environ[f"BMI_TEST_HIL_{word}"] for word in _WORDS}


@contextmanager
def real_bench(folder: Path) -> Iterator[HilBench]:
    """Give the real HIL that the environment names."""
    named = real()
    assert named is not None
    first, second = named.pop("networks").split(",")
    yield HilBench(**named, networks=(first, second), folder=folder)


@contextmanager
def double_bench(folder: Path, tls: tuple[Path, Path] | None = None, **how: Any) -> Iterator[HilBench]:
    """Give a double: node n1 of project red with two cards, node theirs of project blue, networks lan and san.

    Args:
        folder: For the password.
        tls: Files of a certificate and of its key, with which HIL speaks TLS.
        how: What the `World` takes.
    """
    world = World(**how)
    world.projects |= {"red", "blue"}
    world.users |= {
        "bmi": User("a word", {"red"}),
        "root": User("another", admin=True),
        "stranger": User("a third", set()),
    }
    world.add_node("n1", "red", nic1="52:54:00:AB:CD:01", nic2="52:54:00:AB:CD:02")
    world.add_node("theirs", "blue", nic1="52:54:00:00:00:02")
    world.add_node("free", None, nic1="52:54:00:00:00:03")
    world.networks |= {
        "lan": Network(101, {"red"}),
        "san": Network(102, {"red"}),
        "blue-lan": Network(103, {"blue"}),
        "public": Network(104, None),
    }
    more = {"prefix": ""} if world.version == "0.2" else {}
    with serving(world, tls) as double:
        yield HilBench(
            double.url, "bmi", "a word", "red", "n1", "nic1", ("lan", "san"), "theirs", folder, double, more
        )
