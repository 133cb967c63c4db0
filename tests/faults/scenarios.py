"""Every workflow, in the ways in which it is asked for, cancelled, undone and repeated."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from sqlalchemy import select

from bmi.access.models import Project
from bmi.boot.models import Boot
from bmi.boot.service import came_up
from bmi.ids import new_id
from bmi.images.models import Disk, Image, Upload
from bmi.legacy.models import LegacyVolume
from bmi.provisioning.models import Operation
from tests.faults.faulty import VERBS, Fault, Point
from tests.faults.house import IMAGE, NETWORK, PROJECT, House

Ask = Callable[[House], UUID]


def _nothing(house: House) -> None:
    pass


def _wait(house: House, id: UUID) -> None:
    pass


@dataclass(frozen=True)
class Scenario:
    """One operation, from a state of its own."""

    verb: str
    how: str
    """What distinguishes it from others of the same verb."""
    ask: Ask
    before: Callable[[House], None] = _nothing
    """Makes the state, without faults."""
    during: Callable[[House, UUID], None] = _wait
    """What somebody else does while it runs."""
    planted: Mapping[tuple[str, str, int], Fault] = field(default_factory=dict)
    """What goes wrong in any case, so that the way back is gone."""
    good: str = "succeeded"
    """In which state it ends when nothing else goes wrong, not even what is planted."""
    points: Callable[[Point], bool] = lambda point: True
    """Which of its points are no other scenario's."""

    @property
    def name(self) -> str:
        """What it is called in lists."""
        return f"{self.verb} {self.how}".strip()


def _provision(**more: Any) -> Ask:
    body = {"image": IMAGE, "network": NETWORK, "project": PROJECT, "until": "power", **more}
    return lambda house: house.ask("POST", "/nodes/n1/provision", body)


def _asking(method: str, path: str, body: dict[str, Any] | None = None) -> Ask:
    return lambda house: house.ask(method, path, body)


def _active(house: House) -> None:
    house.ended(_provision()(house))


def _broken(house: House) -> None:
    """A node whose boot was given up on."""
    house.ended(_provision(until="up", deadline=0.05)(house))


def _with_disk(house: House) -> None:
    house.done("POST", "/disks", {"name": "d1", "image": IMAGE, "project": PROJECT})


def _active_on_disk(house: House) -> None:
    """A node that boots from a disk that was there before."""
    _with_disk(house)
    house.ended(_provision(image=None, disk="d1")(house))


def _edited(house: House) -> None:
    """A node that edits the golden image."""
    house.done("POST", f"/images/{IMAGE}/edit", _EDIT)


def _change(verb: str, **body: Any) -> Ask:
    """Ask for a change of the disk."""
    more = {"until": "power", **body}
    return lambda house: house.ask("POST", f"/disks/d1/{verb}?project={PROJECT}", more)


def _with_network(house: House) -> None:
    house.done("POST", "/networks", {"name": "net2", "project": PROJECT})


def _with_image(house: House) -> None:
    _with_disk(house)
    house.done("POST", f"/disks/d1/snapshot?project={PROJECT}", {"name": "shot"})


def _with_trash(house: House) -> None:
    _with_image(house)
    answer = house.api.delete(f"/v1/images/shot?project={PROJECT}")
    assert answer.status_code == 200, answer.text


def _uploaded(house: House) -> None:
    """A file that has arrived, and waits to become an image."""
    answer = house.api.post("/v1/uploads", json={"project": PROJECT})
    data = (b"in".ljust(510, b"\0") + b"\x55\xaa").ljust(1 << 16, b"\0")
    sent = house.api.patch(f"/v1/uploads/{answer.json()['id']}?offset=0", content=data)
    assert sent.status_code == 200, sent.text


def _import(house: House) -> UUID:
    """Ask for an image of the upload."""
    with house.parts.db.read() as session:
        upload = session.scalars(select(Upload.id)).one()
    return house.ask("POST", "/images/import", {"name": "in", "project": PROJECT, "upload": str(upload)})


def _imported(house: House) -> None:
    """The rows that an import makes: a golden image and a disk that was cloned from it."""
    house.to_adopt("7img1")
    house.to_adopt("7img5")
    with house.parts.db.write() as session:
        project = Project(id=new_id(), name="old")
        image = Image(
            id=new_id(), name="old", project_id=project.id, state="creating", origin="import", size=0
        )
        disk = Disk(
            id=new_id(), name="web", project_id=project.id, image_id=image.id, state="creating", size=0
        )
        for row in (project, image, disk):
            session.add(row)
            session.flush()
        for number, of in ((1, {"image_id": image.id}), (5, {"disk_id": disk.id})):
            session.add(
                LegacyVolume(id=new_id(), backend_name=f"7img{number}", old_name="x", old_project="old", **of)
            )


def _failed(ask: Ask, family: str, verb: str, before: Callable[[House], None] = _nothing) -> Any:
    """Return what makes a state in which an operation has failed at some call, and stands as it is."""

    def make(house: House) -> None:
        before(house)
        house.faults.choose = lambda point: (
            Fault.FAILS_FOR_GOOD if (point.family, point.verb) == (family, verb) else None
        )
        house.faults.armed = True
        operation = house.ended(ask(house))
        house.faults.armed = False
        assert operation["state"] == "failed", operation

    return make


def _retry(house: House) -> UUID:
    """Ask for the last operation again."""
    with house.parts.db.read() as session:
        last = session.scalars(select(Operation.id).order_by(Operation.id.desc()).limit(1)).one()
    return house.ask("POST", f"/operations/{last}/retry")


def _retried(
    verb: str, ask: Ask, at: tuple[str, str], before: Callable[[House], None] = _nothing
) -> Scenario:
    return Scenario(
        verb,
        "retried",
        _retry,
        _failed(ask, *at, before),
        points=lambda point: (point.family, point.verb) == at or point.step in ("begin", "end"),
    )


def _cancel_at(step: str) -> Callable[[House, UUID], None]:
    def cancel(house: House, id: UUID) -> None:
        if house.at_step(id, step):
            house.api.post(f"/v1/operations/{id}/cancel")

    return cancel


def _come_up(house: House, id: UUID) -> None:
    """Be the node that is cleaned: it reports its disks, as soon as somebody waits for that."""
    if house.at_step(id, "watch"):
        with house.parts.db.write() as session:
            record = session.scalar(select(Boot).where(Boot.cleaning))
            if record is not None:
                came_up(session, record, "n1", [], ["vda 1G: overwritten with zeros"])


def _steps(*names: str) -> Callable[[Point], bool]:
    """Say which steps are different here; the others make the calls that they make elsewhere."""
    return lambda point: point.step in (*names, "end")


def _undoing_calls(point: Point) -> bool:
    return _way_back(point) and point.family in VERBS


def _way_back(point: Point) -> bool:
    return point.step.startswith("undo") or point.step in ("watch", "end")


def _checked(house: House) -> None:
    """An image whose clones get their keys from outside."""
    house.done("POST", f"/images/{IMAGE}/check")


_BUILD = {"name": "built", "size": 1 << 30}
_COPY = {"name": "twin", "project": PROJECT}
_ADOPT = {"name": "d2", "source": "old", "project": PROJECT}
_EDIT = {"node": "n1", "network": NETWORK, "project": PROJECT, "until": "power"}
_COMMIT = {"node": "n1", "name": "edited"}
_UPDATE = _asking("PATCH", f"/networks/net2?project={PROJECT}", {"mtu": 9000, "router": None})
_GONE = Fault.FAILS_FOR_GOOD

SCENARIOS = (
    Scenario("node.provision", "from an image", _provision()),
    Scenario(
        "node.provision", "from a disk", _provision(image=None, disk="d1"), _with_disk, points=_steps("disk")
    ),
    Scenario(
        "node.provision",
        "cancelled",
        _provision(until="up"),
        during=_cancel_at("watch"),
        good="cancelled",
        points=_way_back,
    ),
    Scenario(
        "node.provision", "undone", _provision(), planted={("power", "on", 1): _GONE}, points=_undoing_calls
    ),
    Scenario(
        "node.provision",
        "given up on",
        _provision(until="up", deadline=0.05),
        good="failed",
        points=_way_back,
    ),
    Scenario("node.deprovision", "", _asking("POST", "/nodes/n1/deprovision", {}), _active),
    Scenario(
        "node.deprovision",
        "keeping the disk",
        _asking("POST", "/nodes/n1/deprovision", {"keep_disk": True}),
        _active,
        points=_steps("disk"),
    ),
    Scenario(
        "node.deprovision",
        "after a failure",
        _asking("POST", "/nodes/n1/deprovision", {}),
        _broken,
        points=_steps("power off"),
    ),
    Scenario(
        "node.clean",
        "",
        _asking("POST", "/nodes/n1/clean"),
        during=_come_up,
        points=lambda point: point.step not in ("power off", "disk", "seed", "export", "boot service"),
    ),
    Scenario(
        "node.clean",
        "undone",
        _asking("POST", "/nodes/n1/clean"),
        during=_come_up,
        planted={("power", "on", 1): _GONE},
        points=_undoing_calls,
    ),
    replace(_retried("node.clean", _asking("POST", "/nodes/n1/clean"), ("power", "on")), during=_come_up),
    *(
        Scenario("node.power", action, _asking("POST", "/nodes/n1/power", {"action": action}), _active)
        for action in ("on", "off", "cycle")
    ),
    Scenario(
        "disk.create", "", _asking("POST", "/disks", {"name": "d2", "image": IMAGE, "project": PROJECT})
    ),
    Scenario(
        "disk.create",
        "undone",
        _asking("POST", "/disks", {"name": "d2", "image": IMAGE, "project": PROJECT}),
        planted={("storage", "clone", 1): Fault.LIES_FAILED},
        points=_way_back,
    ),
    Scenario("disk.delete", "", _asking("DELETE", f"/disks/d1?project={PROJECT}"), _with_disk),
    Scenario(
        "disk.snapshot",
        "",
        _asking("POST", f"/disks/d1/snapshot?project={PROJECT}", {"name": "s1"}),
        _with_disk,
    ),
    Scenario(
        "disk.snapshot",
        "undone",
        _asking("POST", f"/disks/d1/snapshot?project={PROJECT}", {"name": "s1"}),
        _with_disk,
        planted={("storage", "snapshot", 1): Fault.LIES_FAILED},
        points=_way_back,
    ),
    Scenario("disk.flatten", "", _asking("POST", f"/disks/d1/flatten?project={PROJECT}"), _with_disk),
    Scenario(
        "image.edit", "", _asking("POST", f"/images/{IMAGE}/edit", _EDIT), points=_steps("begin", "disk")
    ),
    Scenario("image.commit", "", _asking("POST", "/images/commit", _COMMIT), _edited),
    Scenario(
        "image.commit",
        "undone",
        _asking("POST", "/images/commit", _COMMIT),
        _edited,
        planted={("storage", "snapshot", 1): Fault.LIES_FAILED},
        points=_undoing_calls,
    ),
    Scenario("disk.adopt", "", _asking("POST", "/disks/adopt", _ADOPT), lambda house: house.to_adopt("old")),
    Scenario(
        "disk.adopt",
        "undone",
        _asking("POST", "/disks/adopt", _ADOPT),
        lambda house: house.to_adopt("old"),
        planted={("storage", "clone", 1): Fault.LIES_FAILED},
        points=_way_back,
    ),
    Scenario("disk.rollback", "of a node", _change("rollback", keep="kept"), _active_on_disk),
    Scenario(
        "disk.rollback",
        "of a free disk",
        _change("rollback"),
        _with_disk,
        points=_steps("image", "roll back"),
    ),
    Scenario(
        "disk.rollback",
        "undone",
        _change("rollback", keep="kept"),
        _active_on_disk,
        planted={("storage", "snapshot", 1): Fault.LIES_FAILED},
        points=_undoing_calls,
    ),
    Scenario("disk.grow", "of a node", _change("grow", size=1 << 17, restart=True), _active_on_disk),
    Scenario("disk.grow", "of a free disk", _change("grow", size=1 << 17), _with_disk, points=_steps("grow")),
    Scenario(
        "disk.grow",
        "undone",
        _change("grow", size=1 << 17, restart=True),
        _active_on_disk,
        planted={("power", "on", 1): _GONE},
        points=_undoing_calls,
    ),
    Scenario("disk.move", "", _change("move", to="n2"), _active_on_disk),
    Scenario(
        "disk.move",
        "undone",
        _change("move", to="n2"),
        _active_on_disk,
        planted={("power", "on", 1): _GONE},
        points=_way_back,
    ),
    Scenario(
        "disk.move",
        "given up on",
        _change("move", to="n2", until="up", deadline=0.05),
        _active_on_disk,
        good="failed",
        points=lambda point: point.step in ("watch", "end"),
    ),
    Scenario("image.build", "", _asking("POST", "/images/build", _BUILD)),
    Scenario(
        "image.build",
        "undone",
        _asking("POST", "/images/build", _BUILD),
        planted={("storage", "import_image", 1): Fault.LIES_FAILED},
        points=_way_back,
    ),
    Scenario(
        "image.adopt",
        "",
        _asking("POST", "/images/adopt", {"name": "taken", "source": "old"}),
        lambda house: house.to_adopt("old"),
    ),
    Scenario(
        "image.adopt",
        "undone",
        _asking("POST", "/images/adopt", {"name": "taken", "source": "old"}),
        lambda house: house.to_adopt("old"),
        planted={("storage", "adopt", 1): Fault.LIES_FAILED},
        points=_way_back,
    ),
    Scenario("image.import", "", _import, _uploaded),
    Scenario(
        "image.import",
        "undone",
        _import,
        _uploaded,
        planted={("storage", "import_image", 1): Fault.LIES_FAILED},
        points=_way_back,
    ),
    Scenario("image.export", "", _asking("POST", f"/images/{IMAGE}/export", {})),
    Scenario("image.check", "", _asking("POST", f"/images/{IMAGE}/check")),
    Scenario("image.prepare", "", _asking("POST", f"/images/{IMAGE}/prepare", {"name": "ready"})),
    Scenario(
        "image.prepare",
        "undone",
        _asking("POST", f"/images/{IMAGE}/prepare", {"name": "ready"}),
        planted={("storage", "snapshot", 1): Fault.LIES_FAILED},
        points=_way_back,
    ),
    Scenario("node.provision", "with keys from outside", _provision(), _checked, points=_steps("keys")),
    Scenario("image.flatten", "", _asking("POST", f"/images/shot/flatten?project={PROJECT}"), _with_image),
    Scenario("image.delete", "", _asking("POST", f"/images/shot/purge?project={PROJECT}"), _with_image),
    Scenario(
        "image.delete",
        "from the trash",
        _asking("POST", f"/images/shot/purge?project={PROJECT}"),
        _with_trash,
        points=_steps("remove"),
    ),
    Scenario("image.copy", "", _asking("POST", f"/images/{IMAGE}/copy", _COPY)),
    Scenario(
        "image.copy",
        "undone",
        _asking("POST", f"/images/{IMAGE}/copy", _COPY),
        planted={("storage", "copy", 1): Fault.LIES_FAILED},
        points=_way_back,
    ),
    Scenario("network.create", "", _asking("POST", "/networks", {"name": "net3", "project": PROJECT})),
    Scenario(
        "network.create",
        "undone",
        _asking("POST", "/networks", {"name": "net3", "project": PROJECT}),
        planted={("dnsmasq", "serve", 1): _GONE},
        points=_way_back,
    ),
    Scenario("network.update", "", _UPDATE, _with_network),
    Scenario(
        "network.update",
        "undone",
        _UPDATE,
        _with_network,
        planted={("dnsmasq", "serve", 1): _GONE},
        points=_way_back,
    ),
    Scenario("network.delete", "", _asking("DELETE", f"/networks/net2?project={PROJECT}"), _with_network),
    Scenario("legacy.adopt", "", _asking("POST", "/images/adopt-legacy"), _imported),
    *(
        Scenario("node.reset", how, _asking("POST", "/nodes/n1/reset", {}), before)
        for how, before in (
            ("of an active node", _active),
            ("of a free node", _nothing),
        )
    ),
    Scenario(
        "node.reset",
        "of a failed node",
        _asking("POST", "/nodes/n1/reset", {}),
        _broken,
        points=_steps("power off", "disk"),
    ),
    _retried("node.provision", _provision(), ("power", "on")),
    _retried(
        "node.deprovision", _asking("POST", "/nodes/n1/deprovision", {}), ("switch", "configure"), _active
    ),
    _retried("node.reset", _asking("POST", "/nodes/n1/reset", {}), ("storage", "remove"), _broken),
    _retried("node.power", _asking("POST", "/nodes/n1/power", {"action": "cycle"}), ("power", "on"), _active),
    _retried(
        "disk.delete", _asking("DELETE", f"/disks/d1?project={PROJECT}"), ("storage", "remove"), _with_disk
    ),
    _retried("disk.rollback", _change("rollback", keep="kept"), ("power", "on"), _active_on_disk),
    _retried(
        "disk.grow",
        _change("grow", size=1 << 17, restart=True),
        ("storage", "grow"),
        _active_on_disk,
    ),
    _retried("image.commit", _asking("POST", "/images/commit", _COMMIT), ("storage", "remove"), _edited),
    _retried("disk.move", _change("move", to="n2"), ("target", "remove"), _active_on_disk),
    _retried("image.import", _import, ("storage", "import_image"), _uploaded),
    _retried("image.build", _asking("POST", "/images/build", _BUILD), ("storage", "import_image")),
    _retried("image.copy", _asking("POST", f"/images/{IMAGE}/copy", _COPY), ("storage", "copy")),
    _retried(
        "image.prepare",
        _asking("POST", f"/images/{IMAGE}/prepare", {"name": "ready"}),
        ("storage", "snapshot"),
    ),
    _retried("image.check", _asking("POST", f"/images/{IMAGE}/check"), ("storage", "backing")),
    _retried(
        "network.create", _asking("POST", "/networks", {"name": "net3", "project": PROJECT}), ("leg", "up")
    ),
    _retried("network.update", _UPDATE, ("dnsmasq", "serve"), _with_network),
    _retried(
        "network.delete",
        _asking("DELETE", f"/networks/net2?project={PROJECT}"),
        ("leg", "down"),
        _with_network,
    ),
    _retried("legacy.adopt", _asking("POST", "/images/adopt-legacy"), ("storage", "clone"), _imported),
)
