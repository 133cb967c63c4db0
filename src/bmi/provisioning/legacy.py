"""What an import from the original BMI left in Ceph becomes images and disks, without a copy."""

from functools import partial
from uuid import UUID, uuid5

from sqlalchemy.orm import Session

from bmi.access.policy import Action, Caller, authorize
from bmi.api.operations import Ending
from bmi.drivers.storage import Kind, Volume
from bmi.errors import WrongState
from bmi.legacy import service as legacy
from bmi.legacy.models import LegacyVolume
from bmi.parts import Parts
from bmi.provisioning.engine import Run, workflow
from bmi.provisioning.models import Operation
from bmi.provisioning.service import ask as ask_operation

_BETWEEN = UUID(
    "5f0c6f9e-6f5b-4a53-9a0a-3f5d3f1f7c11"
)  # names the images that disks are cloned from for a moment


def ask(session: Session, caller: Caller) -> Operation:
    """Write down that everything that was imported is to be adopted.

    Raises:
        WrongState: There is nothing to adopt.
    """
    authorize(caller, Action.IMAGE_BUILD, None, thing="the system")
    found = legacy.pending(session)
    if not found:
        raise WrongState("nothing waits to be adopted", next_step="import it first: bmi db import-legacy")
    return ask_operation(
        session,
        caller,
        "legacy.adopt",
        f"{len(found)} volumes of the original BMI",
        project=None,
        request={"volumes": [str(volume.id) for volume in found]},
    )


def settle(session: Session, operation: Operation, ending: Ending) -> None:
    """Leave everything as it is: what was adopted can be used, the rest can be asked for again."""


def again(session: Session, parts: Parts, caller: Caller, operation: Operation) -> Operation:
    """Ask again for what still waits to be adopted."""
    return ask(session, caller)


@workflow("legacy.adopt", settle=settle, again=again)
def adopt(run: Run) -> None:
    """Adopt one volume after another, parents first. Where one cannot be, the rest waits for the next time."""
    run.next_step_of_cancelled = "what was adopted stays; adopt the rest with bmi op retry"
    volumes = [UUID(text) for text in run.request["volumes"]]
    for number, volume in enumerate(volumes, start=1):
        run.step(f"volume {number} of {len(volumes)}", partial(_adopt, run, volume))


def _adopt(run: Run, id: UUID) -> str:
    parts = run.parts
    with parts.db.read() as session:
        volume = session.get(LegacyVolume, id)
    if volume is None:
        return "removed meanwhile"
    name = f"{volume.old_project}/{volume.old_name}"
    if volume.adopted_at is None:
        if volume.image_id is not None:
            size = parts.storage.adopt(volume.image_id, volume.backend_name).size
        else:
            size = _adopt_disk(run, volume)
        with parts.db.write() as session:
            legacy.adopted(session, session.get_one(LegacyVolume, id), size)
    return f"{name}, which is {volume.backend_name} in the storage"


def _adopt_disk(run: Run, volume: LegacyVolume) -> int:
    """Make a disk of what an old one holds: the storage adopts images, and clones of them are disks."""
    storage, disk = run.parts.storage, volume.disk_id
    assert disk is not None  # noqa: S101 - the table's check wants one of the two
    image = between(disk)
    info = storage.adopt(image, volume.backend_name)
    storage.clone(image, disk)
    storage.remove(Volume(Kind.IMAGE, image))
    return info.size


def between(disk: UUID) -> UUID:
    """Return the id of the image that a disk is cloned from while it is adopted; no row has it."""
    return uuid5(_BETWEEN, str(disk))
