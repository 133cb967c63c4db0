"""The whole service, asked for anything in any order, while calls go wrong and the service is restarted.

Whatever the story was, after each of its chapters every operation has ended, nothing is there that the database
does not want, nothing is missing that it wants; and at the end everything can be given back.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from sqlalchemy import select

from bmi.provisioning.models import Operation
from tests.faults.faulty import Fault, Faults, Point, possible
from tests.faults.house import IMAGE, NETWORK, NODES, PROJECT, House
from tests.faults.laboratory import give_back, settled
from tests.faults.reality import broken_promises

CHAPTERS = 6  # of a story
CALLS = 25  # the most calls that one operation makes, about

_IN = f"?project={PROJECT}"


@dataclass(frozen=True)
class Wish:
    """Something that somebody asks for, which the service may refuse."""

    method: str
    path: str
    body: dict[str, Any] | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.body or ''}"


def _boot(node: str, source: dict[str, str], until: str) -> Wish:
    body = {"network": NETWORK, "project": PROJECT, "until": until, "deadline": 0.2, **source}
    return Wish("POST", f"/nodes/{node}/provision", body)


nodes = strategies.sampled_from(NODES)
disks = strategies.sampled_from(["d1", "d2"])
images = strategies.sampled_from(["s1", "s2"])
networks = strategies.sampled_from(["net2", "net3"])
sources = strategies.one_of(
    strategies.just({"image": IMAGE}),
    images.map(lambda name: {"image": name}),
    disks.map(lambda name: {"disk": name}),
)
wishes = strategies.one_of(
    strategies.builds(_boot, nodes, sources, strategies.sampled_from(["power", "power", "up"])),
    strategies.builds(
        lambda node, keep: Wish("POST", f"/nodes/{node}/deprovision", {"keep_disk": keep}),
        nodes,
        strategies.booleans(),
    ),
    nodes.map(lambda node: Wish("POST", f"/nodes/{node}/reset", {})),
    strategies.builds(
        lambda node, action: Wish("POST", f"/nodes/{node}/power", {"action": action}),
        nodes,
        strategies.sampled_from(["on", "off", "cycle"]),
    ),
    disks.map(lambda name: Wish("POST", "/disks", {"name": name, "image": IMAGE, "project": PROJECT})),
    disks.map(lambda name: Wish("DELETE", f"/disks/{name}{_IN}")),
    disks.map(lambda name: Wish("POST", f"/disks/{name}/flatten{_IN}")),
    strategies.builds(
        lambda disk, keep: Wish("POST", f"/disks/{disk}/rollback{_IN}", {"until": "power", **keep}),
        disks,
        strategies.sampled_from([{}, {"keep": "s1"}, {"image": "s1"}, {"image": "s2", "other_image": True}]),
    ),
    strategies.builds(
        lambda disk, blocks: Wish(
            "POST", f"/disks/{disk}/grow{_IN}", {"size": blocks << 16, "restart": True, "until": "power"}
        ),
        disks,
        strategies.integers(1, 4),
    ),
    strategies.builds(
        lambda disk, node: Wish("POST", f"/disks/{disk}/move{_IN}", {"to": node, "until": "power"}),
        disks,
        nodes,
    ),
    strategies.builds(
        lambda disk, name: Wish("POST", f"/disks/{disk}/snapshot{_IN}", {"name": name}), disks, images
    ),
    strategies.builds(
        lambda source, name: Wish("POST", f"/images/{source}/copy{_IN}", {"name": name}),
        strategies.sampled_from([IMAGE, "s1"]),
        images,
    ),
    images.map(lambda name: Wish("POST", f"/images/{name}/promote{_IN}", {})),
    images.map(lambda name: Wish("DELETE", f"/images/{name}{_IN}")),
    images.map(lambda name: Wish("POST", f"/images/{name}/undelete{_IN}", {})),
    images.map(lambda name: Wish("POST", f"/images/{name}/purge{_IN}")),
    networks.map(lambda name: Wish("POST", "/networks", {"name": name, "project": PROJECT})),
    networks.map(lambda name: Wish("DELETE", f"/networks/{name}{_IN}")),
)
troubles = strategies.dictionaries(
    strategies.integers(1, CALLS),
    strategies.sampled_from([fault for fault in Fault if not fault.deadly and fault is not Fault.CANCELLED]),
    max_size=2,
)


class Story(RuleBasedStateMachine):
    """One story: a service that begins furnished, and what happens to it."""

    folder: ClassVar[Path]
    ready: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.ready, self.folder)
        self.house = House(self.folder).open()

    @rule(
        asked=strategies.lists(wishes, min_size=1, max_size=3),
        troubles=troubles,
        cancels=strategies.booleans(),
        retries=strategies.booleans(),
        restarts=strategies.sampled_from([False, False, True]),
    )
    def chapter(
        self, asked: list[Wish], troubles: dict[int, Fault], cancels: bool, retries: bool, restarts: bool
    ) -> None:
        """Somebody asks for some things at once; calls go wrong; somebody cancels, the service is restarted."""
        self._let_go_wrong(troubles)
        for wish in asked:
            answer = self.house.api.request(wish.method, f"/v1{wish.path}", json=wish.body)
            assert answer.status_code < 500, f"{wish}: {answer.text}"
            if answer.status_code >= 400:
                assert answer.json()["next_step"], f"{wish}: {answer.text}"
        if cancels:
            self._to_last("cancel")
        if restarts:
            self._restart()
        self._settle()
        if retries:
            self._to_last("retry")
            self._settle()

    def teardown(self) -> None:
        try:
            self._settle()
            assert give_back(self.house) == []
            assert [*broken_promises(self.house.parts), *map(str, settled(self.house))] == []
        finally:
            self.house.close()

    # --- how ---------------------------------------------------------------------------------------------

    def _let_go_wrong(self, troubles: dict[int, Fault]) -> None:
        calls = 0

        def choose(point: Point) -> Fault | None:
            nonlocal calls
            calls += 1
            fault = troubles.get(calls)
            return fault if fault in possible(point.family, point.verb) else None

        self.house.faults.choose = choose
        self.house.faults.armed = True

    def _settle(self) -> None:
        """Wait for the end of everything, and compare."""
        assert self.house.quiet(), broken_promises(self.house.parts)
        self.house.faults.armed = False
        self.house.faults.land()
        assert [*broken_promises(self.house.parts), *map(str, settled(self.house))] == []

    def _restart(self) -> None:
        """End the service in the middle of what it does, and start it again with the same troubles."""
        faults = self.house.faults
        self.house.close()
        self.house = House(self.folder, faults).open()

    def _to_last(self, what: str) -> None:
        with self.house.parts.db.read() as session:
            last = session.scalar(select(Operation.id).order_by(Operation.id.desc()).limit(1))
        if last is not None:
            answer = self.house.api.post(f"/v1/operations/{last}/{what}")
            assert answer.status_code < 500, answer.text


def furnished(folder: Path, make: Callable[[House], None]) -> None:
    """Make the state in which all stories begin."""
    house = House(folder, Faults()).open()
    make(house)
    house.close()


def test_whatever_happens_the_service_stays_sound(tmp_path: Path, examples: int) -> None:
    Story.folder, Story.ready = tmp_path / "house", tmp_path / "ready"
    furnished(Story.folder, House.furnish)
    shutil.copytree(Story.folder, Story.ready)
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Story,
        settings=settings(
            max_examples=examples,
            stateful_step_count=CHAPTERS,
            deadline=None,
            database=None,
            phases=(Phase.generate,),  # a story takes seconds: telling it again shorter would take an hour
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_story_that_leaves_something_is_not_believed(tmp_path: Path) -> None:
    """The model's own check: a seed that nobody made makes a chapter fail."""
    Story.folder, Story.ready = tmp_path / "house", tmp_path / "ready"
    furnished(Story.folder, House.furnish)
    shutil.copytree(Story.folder, Story.ready)
    story = Story()
    story.house.parts.storage.write_seed(story.house.parts.gateway.id, b"forgotten")
    with pytest.raises(AssertionError, match="leaked: volume seed"):
        story.teardown()
