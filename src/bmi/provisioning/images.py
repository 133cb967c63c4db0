"""Images are built and removed."""

from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from bmi.access.models import Project
from bmi.access.policy import Action, Caller, authorize
from bmi.access.service import flush_new, owner
from bmi.api.images import ImageAdopt, ImageBuild
from bmi.api.operations import Ending
from bmi.drivers import Outcome
from bmi.drivers.storage import Kind, Volume
from bmi.errors import NotAllowed, NotFound
from bmi.ids import new_id
from bmi.images.debian import Recipe, build
from bmi.images.life import own_image, trashed_image
from bmi.images.lineage import forget
from bmi.images.models import Image
from bmi.images.quota import require_room
from bmi.images.service import require_ready
from bmi.parts import Parts
from bmi.provisioning.copying import telling
from bmi.provisioning.engine import Run, workflow
from bmi.provisioning.holding import refuse_source
from bmi.provisioning.models import Operation
from bmi.provisioning.service import ask as ask_operation


def ask_build(session: Session, caller: Caller, request: ImageBuild) -> Operation:
    """Write down a golden image to be built; without a project it is everybody's.

    Raises:
        NotAllowed: The caller is no admin: building runs programs as root on the server.
        AlreadyExists: There is an image of that name.
        QuotaExceeded: The project may not own as much.
    """
    authorize(caller, Action.IMAGE_BUILD, None, thing="the system")
    project = owner(session, caller, Action.IMAGE_WRITE, request.project) if request.project else None
    require_room(session, project.id if project else None, images=1, image_bytes=request.size)
    image = Image(
        id=new_id(),
        name=request.name,
        project_id=project.id if project else None,
        visibility="private" if project else "public",
        state="creating",
        origin="build",
        size=request.size,
    )
    session.add(image)
    flush_new(session, f"image {image.name}")
    return _ask_make(session, caller, "image.build", image, _as_asked(request, project))


def ask_adopt(session: Session, caller: Caller, request: ImageAdopt) -> Operation:
    """Write down an image to be made of what lies in the store; without a project it is everybody's.

    Raises:
        NotAllowed: The caller is no admin: whoever may adopt may read everything that lies there.
        AlreadyExists: There is an image of that name.
        QuotaExceeded: The project may not own as much.
    """
    authorize(caller, Action.IMAGE_BUILD, None, thing="the system")
    project = owner(session, caller, Action.IMAGE_WRITE, request.project) if request.project else None
    require_room(session, project.id if project else None, images=1)  # its size is known when it is adopted
    image = Image(
        id=new_id(),
        name=request.name,
        project_id=project.id if project else None,
        visibility="private" if project else "public",
        state="creating",
        origin="import",
        size=0,
    )
    session.add(image)
    flush_new(session, f"image {image.name}")
    return _ask_make(session, caller, "image.adopt", image, _as_asked(request, project))


def _as_asked(request: ImageBuild | ImageAdopt, project: Project | None) -> dict[str, Any]:
    return request.model_dump(mode="json") | {"project": str(project.id) if project else None}


def _ask_make(
    session: Session, caller: Caller, verb: str, image: Image, request: dict[str, Any]
) -> Operation:
    return ask_operation(
        session,
        caller,
        verb,
        f"image {image.name}",
        project=image.project_id,
        image=image.id,
        request=request,
        result={"image": image.name, "image_id": str(image.id)},
        asked=request,
    )


def make_again(session: Session, parts: Parts, caller: Caller, operation: Operation) -> Operation:
    """Ask again for an image: for the one that was half-made, if there is one, else for a new one."""
    asked = operation.asked or {}
    image = session.get(Image, operation.image_id)
    if image is not None:
        authorize(caller, Action.IMAGE_BUILD, None, thing="the system")
        return _ask_make(session, caller, operation.verb, image, asked)
    if operation.verb == "image.build":
        return ask_build(session, caller, ImageBuild.model_validate(asked))
    return ask_adopt(session, caller, ImageAdopt.model_validate(asked))


def flatten_again(session: Session, parts: Parts, caller: Caller, operation: Operation) -> Operation:
    """Ask again for an image to be made independent."""
    return ask_flatten(session, caller, str(operation.image_id), None)


def delete_again(session: Session, parts: Parts, caller: Caller, operation: Operation) -> Operation:
    """Ask again for an image to be removed."""
    return ask_delete(session, caller, str(operation.image_id), None)


def ask_flatten(session: Session, caller: Caller, ref: str, project: str | None) -> Operation:
    """Claim an image to be made independent of what it was made from.

    Raises:
        NotFound: There is no such image for this caller.
        WrongState: It is not ready.
    """
    image = own_image(session, caller, ref, project)
    require_ready(image)
    return ask_operation(
        session, caller, "image.flatten", f"image {image.name}", project=image.project_id, image=image.id
    )


def ask_delete(session: Session, caller: Caller, ref: str, project: str | None) -> Operation:
    """Claim an image to be removed, in the trash or not; disks and images made of it stay whole.

    Raises:
        InUse: Another operation makes it, works on it, or makes something of it.
        NotFound: There is no such image for this caller.
        NotAllowed: The caller may not change it.
    """
    image = _own_or_trashed(session, caller, ref, project)
    refuse_source(session, image)
    operation = ask_operation(
        session, caller, "image.delete", f"image {image.name}", project=image.project_id, image=image.id
    )
    image.state = "removing"
    return operation


def _own_or_trashed(session: Session, caller: Caller, ref: str, project: str | None) -> Image:
    """Find an image to be removed; one in the trash comes before one that is only everybody's."""
    try:
        return own_image(session, caller, ref, project)
    except (NotFound, NotAllowed) as refused:
        try:
            return trashed_image(session, caller, ref, project)
        except NotFound:
            raise refused from None


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
        forget(session, session.get_one(Image, operation.image_id))


def settle_flatten(session: Session, operation: Operation, ending: Ending) -> None:
    """Leave everything as it is: what was copied is where it was."""


@workflow("image.build", settle=settle_build, again=make_again)
def build_image(run: Run) -> None:
    """Build a disk content from packages and take it into the store."""
    parts, image = run.parts, claimed(run)
    request = ImageBuild.model_validate(run.request)
    recipe = Recipe(
        size=request.size,
        kernel=request.kernel,
        cloud_init=request.cloud_init,
        cleaner=request.cleaner,
        packages=tuple(request.packages),
    )

    def built() -> Path:
        def tell(doing: str, fraction: float) -> None:
            run.stop_if_cancelled()
            run.progress("build", doing, fraction)

        cache, helper = parts.settings.cache_dir / "images", parts.settings.helper.socket
        return build(recipe, cache=cache, progress=tell, helper=helper)

    def take_in() -> str:
        info = parts.storage.import_image(image, built(), telling(run, "import"))
        used = parts.storage.usage(info.volume).allocated
        return f"{info.size >> 20} MiB, {used >> 20} MiB of them in use"

    def remove() -> str:
        parts.storage.remove(Volume(Kind.IMAGE, image))
        return "gone"

    with run.all_or_nothing():
        run.step("build", lambda: f"{built().name}")
        run.step("import", take_in, undo=remove)


@workflow("image.adopt", settle=settle_build, again=make_again)
def adopt(run: Run) -> None:
    """Make an image of what lies in the store."""
    parts, image = run.parts, claimed(run)

    def take() -> str:
        info = parts.storage.adopt(image, run.request["source"])
        with parts.db.write() as session:
            row = session.get_one(Image, image)
            require_room(session, row.project_id, image_bytes=info.size - row.size)
            row.size = info.size
        return f"{info.size >> 20} MiB, nothing copied"

    def remove() -> str:
        parts.storage.remove(Volume(Kind.IMAGE, image))
        return "gone"

    with run.all_or_nothing():
        run.step("adopt", take, undo=remove)


@workflow("image.flatten", settle=settle_flatten, again=flatten_again)
def flatten(run: Run) -> None:
    """Make an image independent of what it was made from."""

    def copy() -> str:
        outcome = run.parts.storage.flatten(Volume(Kind.IMAGE, claimed(run)), telling(run, "flatten"))
        return "it was already" if outcome is Outcome.ALREADY else "independent"

    with run.all_or_nothing():
        run.step("flatten", copy)


@workflow("image.delete", settle=settle_delete, again=delete_again)
def delete(run: Run) -> None:
    """Remove an image."""

    def remove() -> str:
        run.parts.storage.remove(Volume(Kind.IMAGE, claimed(run)))
        return "gone"

    run.step("remove", remove)


def claimed(run: Run) -> UUID:
    """Return the image that an operation is about."""
    assert run.operation.image_id is not None  # noqa: S101 - the claim of these verbs
    return run.operation.image_id
