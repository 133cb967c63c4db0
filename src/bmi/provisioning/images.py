"""Images are built and removed."""

from pathlib import Path
from uuid import UUID

from sqlalchemy.orm import Session

from bmi.access.policy import Action, Caller, authorize
from bmi.access.service import find_owned, flush_new, owner
from bmi.api.images import ImageBuild
from bmi.drivers.storage import Kind, Volume
from bmi.errors import InUse
from bmi.ids import new_id
from bmi.images.debian import Recipe, build
from bmi.images.models import Image
from bmi.provisioning.engine import Run, workflow
from bmi.provisioning.journal import Ending
from bmi.provisioning.models import Operation
from bmi.provisioning.service import ask as ask_operation


def ask_build(session: Session, caller: Caller, request: ImageBuild) -> Operation:
    """Write down a golden image to be built; without a project it is everybody's.

    Raises:
        NotAllowed: The caller is no admin: building runs programs as root on the server.
        AlreadyExists: There is an image of that name.
    """
    authorize(caller, Action.IMAGE_BUILD, caller.project, thing="the system")
    project = owner(session, caller, Action.IMAGE_WRITE, request.project) if request.project else None
    image = Image(
        id=new_id(),
        name=request.name,
        project_id=project.id if project else None,
        state="creating",
        origin="build",
        size=request.size,
    )
    session.add(image)
    flush_new(session, f"image {image.name}")
    return ask_operation(
        session,
        caller,
        "image.build",
        f"image {image.name}",
        project=image.project_id,
        image=image.id,
        request=request.model_dump(mode="json"),
        result={"image": image.name, "image_id": str(image.id)},
    )


def ask_delete(session: Session, caller: Caller, ref: str, project: str | None) -> Operation:
    """Claim an image to be removed; disks cloned from it stay whole.

    Raises:
        InUse: It is being made.
        NotFound: There is no such image for this caller.
    """
    image = find_owned(session, caller, Image, ref, Action.IMAGE_WRITE, project=project)
    authorize(caller, Action.IMAGE_WRITE, image.project_id, thing=f"image {image.name}")
    operation = ask_operation(
        session, caller, "image.delete", f"image {image.name}", project=image.project_id, image=image.id
    )
    if image.state == "creating":
        raise InUse(f"image {image.name} is being made", next_step="cancel that first: bmi op list")
    image.state = "removing"
    return operation


def settle_build(session: Session, operation: Operation, ending: Ending) -> None:
    """Write how building left the image."""
    image = session.get_one(Image, operation.image_id)
    if ending is Ending.SUCCEEDED:
        image.state = "ready"
    elif ending is Ending.UNDONE:
        session.delete(image)


def settle_delete(session: Session, operation: Operation, ending: Ending) -> None:
    """Forget an image that is gone; one that could not go stays `removing`, to be removed again."""
    if ending is Ending.SUCCEEDED:
        session.delete(session.get_one(Image, operation.image_id))


@workflow("image.build", settle=settle_build)
def build_image(run: Run) -> None:
    """Build a disk content from packages and take it into the store."""
    parts, image = run.parts, _claimed(run)
    request = ImageBuild.model_validate(run.request)
    recipe = Recipe(
        size=request.size,
        kernel=request.kernel,
        cloud_init=request.cloud_init,
        packages=tuple(request.packages),
    )

    def built() -> Path:
        def tell(doing: str, fraction: float) -> None:
            run.stop_if_cancelled()
            run.progress("build", doing, fraction)

        return build(recipe, cache=parts.settings.cache_dir / "images", progress=tell)

    def take_in() -> str:
        def tell(done: int, total: int) -> None:
            run.stop_if_cancelled()
            run.progress("import", f"{done >> 20} of {total >> 20} MiB", done / total)

        info = parts.storage.import_image(image, built(), tell)
        return f"{info.size >> 20} MiB, {info.allocated >> 20} MiB of them in use"

    def remove() -> str:
        parts.storage.remove(Volume(Kind.IMAGE, image))
        return "gone"

    with run.all_or_nothing():
        run.step("build", lambda: f"{built().name}")
        run.step("import", take_in, undo=remove)


@workflow("image.delete", settle=settle_delete, cancellable=False)
def delete(run: Run) -> None:
    """Remove an image."""

    def remove() -> str:
        run.parts.storage.remove(Volume(Kind.IMAGE, _claimed(run)))
        return "gone"

    run.step("remove", remove)


def _claimed(run: Run) -> UUID:
    assert run.operation.image_id is not None  # noqa: S101 - the claim of these verbs
    return run.operation.image_id
