"""Images are looked into: can they boot over iSCSI?"""

from collections.abc import Callable
from uuid import UUID

from sqlalchemy.orm import Session

from bmi.access.policy import Action, Caller, authorize
from bmi.access.service import find_owned
from bmi.api.operations import Ending
from bmi.api.readiness import Report, Severity
from bmi.drivers.storage import Kind, Volume
from bmi.images.appliance.session import Appliance
from bmi.images.models import Image
from bmi.images.readiness import check as readiness
from bmi.images.service import require_ready
from bmi.parts import Parts
from bmi.provisioning.engine import Run, workflow
from bmi.provisioning.models import Operation
from bmi.provisioning.service import ask as ask_operation
from bmi.settings import Settings


def appliance_of(settings: Settings) -> Appliance:
    """Return what looks into disks, as the settings have it."""
    own = settings.appliance
    return Appliance(
        cache=settings.cache_dir, enabled=own.enabled, memory=own.memory, deadline=own.seconds, kvm=own.kvm
    )


def telling(run: Run, step: str) -> Callable[[str, float], None]:
    """Return what the appliance tells its progress to; it ends the work when the operation is to be cancelled."""
    last = ("", 0.0)

    def tell(doing: str, fraction: float) -> None:
        nonlocal last
        run.stop_if_cancelled()
        if (doing, fraction) != last:
            last = (doing, fraction)
            run.progress(step, doing, min(1.0, fraction))

    return tell


def ask(session: Session, caller: Caller, ref: str, project: str | None) -> Operation:
    """Claim an image to be looked into.

    Raises:
        NotFound: There is no such image for this caller.
        NotAllowed: The caller may not write down what is found.
        WrongState: It is not ready.
    """
    image = find_owned(session, caller, Image, ref, Action.IMAGE_WRITE, project=project)
    authorize(caller, Action.IMAGE_WRITE, image.project_id, thing=f"image {image.name}")
    require_ready(image)
    return ask_operation(
        session,
        caller,
        "image.check",
        f"image {image.name}",
        project=image.project_id,
        image=image.id,
        result={"image": image.name},
    )


def again(session: Session, parts: Parts, caller: Caller, operation: Operation) -> Operation:
    """Ask again for an image to be looked into."""
    return ask(session, caller, str(operation.image_id), None)


def settle(session: Session, operation: Operation, ending: Ending) -> None:
    """Leave everything as it is: what was found was written down with the step that found it."""


@workflow("image.check", settle=settle, again=again)
def check(run: Run) -> None:
    """Look into an image, and write down what is found."""
    parts, image = run.parts, _claimed(run)

    def look() -> str:
        backing = parts.storage.backing(Volume(Kind.IMAGE, image))
        report = readiness.check(appliance_of(parts.settings), backing, telling(run, "check"))
        with parts.db.write() as session:
            session.get_one(Image, image).report = report.model_dump(mode="json")
        return summary(report)

    with run.all_or_nothing():
        run.step("check", look)


def summary(report: Report) -> str:
    """Return a report in one line."""
    counts = dict.fromkeys(Severity, 0)
    for finding in report.findings:
        counts[finding.severity] += 1
    words = ", ".join(f"{number} {severity}" for severity, number in counts.items() if number)
    return f"{report.system or 'no operating system'}: {words or 'nothing is wrong'}"


def needs_keys(image: Image | None) -> bool:
    """Say whether clones of an image get their keys from outside, from what the last check of it said.

    An image that was never checked is what the one is that it was made from. What BMI built sets itself up.
    """
    while image is not None and image.origin != "build":
        if image.report is not None:
            return Report.model_validate(image.report).needs_keys
        image = image.parent
    return False


def _claimed(run: Run) -> UUID:
    assert run.operation.image_id is not None  # noqa: S101 - the claim of this verb
    return run.operation.image_id
